"""Clean copies of the lessons for students: `python .ci/student.py [PAGE ...]` writes them into `work/`.

Solutions and outputs are gone. Cells carry nbgrader's tags: stubs are answers, checks are read-only, and
a cell after each stub shows its point, 1.0 or 0.0, and does not stop Run All. `work/source` and
`work/nbgrader_config.py` are what nbgrader needs.
"""

import ast
import re
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / 'work'
STAGED = re.compile(r'^from snetlib\.course import blank, .*\bself_check\b', re.M)
CONFIG = """c = get_config()
c.CourseDirectory.course_id = 'snetlib'
# stubs hold a blank where an answer goes, so nothing has to be cut out of them
c.GenerateAssignment.preprocessors = [
    'nbgrader.preprocessors.' + name
    for name in ('LockCells', 'ClearOutput', 'CheckCellMetadata', 'ComputeChecksums', 'SaveCells')
]
"""


def lessons():
    "Every page with exercises that check themselves, lessons first."
    found = [*sorted((ROOT / 'nbs/tutorials').glob('*.ipynb')), *sorted((ROOT / 'nbs').glob('[0-9]_*/*'))]
    return [p for p in found if p.suffix == '.ipynb' and STAGED.search(sources(nbformat.read(p, 4)))]


def sources(nb):
    return '\n'.join(c.source for c in nb.cells if c.cell_type == 'code')


def tag(cell, name, **what):
    "Give a cell nbgrader's metadata."
    flags = dict(grade=False, solution=False, locked=True, task=False) | what
    cell.metadata['nbgrader'] = dict(grade_id=name, schema_version=3, **flags)
    return cell


def asked(source):
    "(check, answer) of the self-check that ends a stub."
    call = ast.parse(source).body[-1].value
    return ast.unparse(call.args[0]), ast.unparse(call.args[1])


def point(source, name):
    "The cell that gives a point for an exercise."
    check, answer = asked(source)
    code = f"from snetlib.course import assess\n\nfloat(assess({check}, {answer}) == 'solved')"
    cell = nbformat.v4.new_code_cell(f'# 1.0 is the point for the exercise above, 0.0 none\n{code}')
    cell.metadata['jupyter'] = {'source_hidden': True}
    return tag(cell, f'points-{name}', grade=True, points=1)


def is_stub(cell):
    "Whether a cell ends with a self-check."
    return cell.cell_type == 'code' and re.search(r'^self_check\(', cell.source, re.M) is not None


def student_page(nb):
    "The page without solutions and outputs, with nbgrader's tags."
    cells, exercise, checks = [], 0, 0
    for cell in nb.cells:
        if cell.cell_type == 'markdown' and '<summary>Solution' in cell.source:
            continue
        if cell.source.startswith('<!-- in a browser -->'):  # links to the page, not to the copy
            continue
        if cell.cell_type == 'code':
            cell.outputs, cell.execution_count = [], None
        cells.append(cell)
        if is_stub(cell):
            exercise += 1
            tag(cell, f'answer-{exercise}', solution=True, locked=False)
            cells.append(point(cell.source, exercise))
        elif cell.cell_type == 'code' and re.search(r'^def check_', cell.source, re.M):
            checks += 1
            tag(cell, f'check-{checks}')
    nb.cells = cells
    nb.nbformat_minor = max(5, nb.nbformat_minor)
    return nbformat.validator.normalize(nb)[1]


def with_links(nb, page):
    "The same page, whose links to other pages lead out of work/."
    place = f'../nbs/{page.parent.name}/'
    for cell in nb.cells:
        if cell.cell_type == 'markdown':
            cell.source = re.sub(r'\]\((?!https?:|#)([^)]+)\)', lambda m: f']({place}{m[1]})', cell.source)
    return nb


def write(page, work=WORK):
    "Write the student's copy of a page, and nbgrader's; never over a student's work."
    nb = with_links(student_page(nbformat.read(page, 4)), page)
    places = [work / 'source' / page.stem / page.name, work / page.name]
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        if place != places[1] or not place.exists():
            nbformat.write(nb, place)
    return places[1]


def main(names):
    WORK.mkdir(exist_ok=True)
    (WORK / 'nbgrader_config.py').write_text(CONFIG)
    for page in [Path(n).resolve() for n in names] or lessons():
        kept = (WORK / page.name).exists()
        print(write(page).relative_to(ROOT), '(kept as it was)' if kept else '')


if __name__ == '__main__':
    main(sys.argv[1:])
