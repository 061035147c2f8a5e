"What `make student` writes: no solutions, nbgrader's tags, and an automatic grade."

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from scripts import script
from test_exercises import exercises

ROOT = Path(__file__).resolve().parent.parent
student = script('student')
LESSON = ROOT / 'nbs/tutorials/03_build_snet.ipynb'


@pytest.mark.parametrize('page', student.lessons(), ids=lambda p: p.stem)
def test_no_solution_is_left_and_every_exercise_is_tagged(page, tmp_path):
    nb = nbformat.read(student.write(page, tmp_path), 4)
    text = '\n'.join(c.source for c in nb.cells)
    for _, _, stub, solution in exercises(page):
        assert solution.strip() not in text
        assert stub in text
    kinds = [c.metadata.nbgrader for c in nb.cells if 'nbgrader' in c.metadata]
    stubs = sum(student.is_stub(c) for c in nb.cells)
    assert stubs >= len(exercises(page)) > 0
    assert sum(k.solution for k in kinds) == sum(k.grade for k in kinds) == stubs
    assert len({k.grade_id for k in kinds}) == len(kinds)
    assert not any(c.get('outputs') for c in nb.cells)


def test_links_of_a_copy_lead_somewhere(tmp_path):
    nb = nbformat.read(student.write(LESSON, tmp_path), 4)
    text = '\n'.join(c.source for c in nb.cells if c.cell_type == 'markdown')
    links = student.re.findall(r'\]\((?!https?:|#)([^)]+)\)', text)
    assert links
    assert all((ROOT / 'work' / link).resolve().exists() for link in links)


def test_work_of_a_student_is_not_overwritten(tmp_path):
    place = student.write(LESSON, tmp_path)
    place.write_text('my answers')
    student.write(LESSON, tmp_path)
    assert place.read_text() == 'my answers'


def run(command, folder):
    "nbgrader starts alembic and jupyter by their names."
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']])
    done = subprocess.run(
        [sys.executable, '-m', 'nbgrader', *command],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | dict(PATH=path),
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_nbgrader_gives_a_point_for_each_solved_exercise(tmp_path):
    pytest.importorskip('nbgrader', reason='pip install nbgrader')
    from nbgrader.api import Gradebook

    student.write(LESSON, tmp_path)
    (tmp_path / 'nbgrader_config.py').write_text(student.CONFIG)
    name = LESSON.stem
    run(['generate_assignment', name, '--create', '--force'], tmp_path)
    handed_in = tmp_path / 'submitted/ada' / name
    shutil.copytree(tmp_path / 'release' / name, handed_in)
    nb = nbformat.read(handed_in / LESSON.name, 4)
    solutions = {stub: solution for _, _, stub, solution in exercises(LESSON)[:2]}
    for cell in nb.cells:
        cell.source = solutions.get(cell.source, cell.source)
    nbformat.write(nb, handed_in / LESSON.name)
    run(['autograde', name, '--force'], tmp_path)
    with Gradebook(f'sqlite:///{tmp_path / "gradebook.db"}') as book:
        got = book.find_submission(name, 'ada')
        assert (got.score, got.max_score) == (2, len(exercises(LESSON)))
