"The path through the pages: headers, links to the neighbours, and the page of the course."

import importlib.util
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location('course_path', ROOT / '.ci/path.py')
path = importlib.util.module_from_spec(spec)
spec.loader.exec_module(path)


@pytest.fixture(scope='module')
def pages():
    return {p: (old, new) for p, old, new in path.new_pages()}


def test_nothing_is_stale(pages):
    stale = [p.name for p, (old, new) in pages.items() if path.shown(old) != path.shown(new)]
    assert not stale, f'run: python .ci/path.py ({stale})'


def test_every_page_says_what_it_takes_and_what_it_gives(pages):
    for page in path.page_paths():
        rows = path.rows_of(path.opening(pages[page][0]).source)
        empty = [k for k in path.ROWS if not rows.get(k)]
        assert not empty, f'{page.name} says nothing of: {empty}'


def test_no_page_speaks_of_a_page_by_number_without_a_link(pages):
    for page, (nb, _) in pages.items():
        text = '\n'.join(c.source for c in nb.cells if c.cell_type == 'markdown')
        found = path.re.findall(r'(?<!\[)\bpages? \d\d\b.{0,20}', text)
        assert not found, f'{page.name}: {found}'


def test_the_course_names_every_page(pages):
    course = '\n'.join(c.source for c in pages[ROOT / 'nbs/course.ipynb'][0].cells)
    for page in path.page_paths():
        assert f'({page.relative_to(path.NBS).as_posix()})' in course, page.name


def test_a_walk_along_the_links_visits_every_page_once(pages):
    order, at, seen = path.page_paths(), path.page_paths()[0], []
    while at:
        seen.append(at)
        onward = path.re.search(r'\]\(([^)]*)\) →$', pages[at][0].cells[-1].source)
        at = (at.parent / onward[1]).resolve() if onward else None
    assert seen == order


def test_what_is_missing_is_found():
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell('# A page\n\n> One sentence.')])
    nb.cells.append(nbformat.v4.new_code_cell('1'))
    assert path.rows_of(path.opening(nb).source) == {}
    path.header(nb, ROOT / 'nbs/1_start/no_page.ipynb', {})
    rows = path.rows_of(path.opening(nb).source)
    assert rows['running time'] == 'not measured' and not rows['goals']
    once = nb.cells[0].source
    path.header(nb, ROOT / 'nbs/1_start/no_page.ipynb', {})
    assert nb.cells[0].source == once, 'writing twice changes nothing'


@pytest.mark.parametrize('page', sorted((path.NBS / 'instructor').glob('0[1-8]_*')), ids=lambda p: p.stem)
def test_a_plan_has_time_for_every_exercise_of_its_lesson(page, pages):
    lesson = pages[path.NBS / 'tutorials' / page.name][0]
    text = '\n'.join(c.source for c in pages[page][0].cells)
    plan = path.re.search(r'## Minutes\n(.*?)(?:\n## |$)', text, path.re.S)[1]
    slots = [tuple(map(int, s)) for s in path.re.findall(r'^\| (\d+)–(\d+) \|', plan, path.re.M)]
    assert slots[0][0] == 0 and all(a[1] == b[0] for a, b in zip(slots, slots[1:])), 'no gap'
    n = path.exercises(lesson)
    assert path.minutes_to_read(lesson) + path.EXERCISE * n <= slots[-1][1] <= 90
    words = ' '.join(path.re.findall(r'exercises? [\d, and]+', plan))
    assert set(path.re.findall(r'\d+', words)) == {str(k + 1) for k in range(n)}


def test_every_exercise_is_counted(pages):
    for page, (nb, _) in pages.items():
        hidden = [c for c in nb.cells if c.cell_type == 'markdown' and '\n### Exercise' in c.source]
        assert not hidden, f'{page.name}: an exercise begins a cell of its own'
