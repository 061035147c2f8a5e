"The path through the pages: headers, links to the neighbours, and the page of the course."

import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from scripts import script

ROOT = Path(__file__).resolve().parent.parent


path = script('path')


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


# ---- lessons in a browser


@pytest.mark.parametrize(
    ['url', 'expected'],
    [
        ('https://github.com/a-lab/snetlib', ('a-lab/snetlib', 'main')),
        ('https://github.com/a-lab/snetlib.git', ('a-lab/snetlib', 'main')),
        ('https://github.com/a-lab/snet.lib/', ('a-lab/snet.lib', 'main')),
        ('', None),
        ('https://gitlab.com/a-lab/snetlib', None),
        ('https://github.com/a-lab', None),
        ('https://github.com/a-lab/snetlib/tree/main', None),
    ],
)
def test_an_address_on_github_is_read_and_no_other(url, expected, tmp_path):
    settings = tmp_path / 'settings.ini'
    settings.write_text(f'[DEFAULT]\nuser = snetlib\nbranch = main\ngit_url = {url}\n')
    assert path.address(settings) == expected


def write_path(copy, url):
    "Set the address of a copy, and let its own script write the pages."
    settings = copy / 'settings.ini'
    text = path.re.sub(r'^git_url =.*$', f'git_url = {url}'.strip(), settings.read_text(), flags=path.re.M)
    settings.write_text(text)
    for command in ([], ['check']):
        subprocess.run([sys.executable, '.ci/path.py', *command], cwd=copy, check=True, capture_output=True)


@pytest.fixture(scope='module')
def copies(tmp_path_factory):
    "Sources of all pages of a copy: with an address, and without one again."
    copy, found = tmp_path_factory.mktemp('copy') / 'snetlib', []
    copy.mkdir()
    for name in ('.ci', 'nbs'):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns('.ipynb_checkpoints'))
    for name in ('settings.ini', 'setup.py'):
        shutil.copy(ROOT / name, copy / name)
    for url in ('https://github.com/a-lab/course-of-snet', ''):
        write_path(copy, url)
        pages = (copy / 'nbs').rglob('*.ipynb')
        found.append({p.relative_to(copy / 'nbs'): path.shown(nbformat.read(p, 4)) for p in pages})
    return found


def test_lessons_open_in_a_browser_once_there_is_an_address(copies):
    with_address, _ = copies
    for page, sources in with_address.items():
        cells = [k for k, s in enumerate(sources) if s.startswith((path.TRY, path.INSTALLER[:40]))]
        assert cells == ([1, 2] if page.parent.name == 'tutorials' else []), page
    links = with_address[Path('tutorials/03_build_snet.ipynb')][1]
    place = 'a-lab/course-of-snet'
    lesson = 'nbs/tutorials/03_build_snet.ipynb'
    assert f'(https://colab.research.google.com/github/{place}/blob/main/{lesson})' in links
    assert f'(https://mybinder.org/v2/gh/{place}/main?labpath={lesson.replace("/", "%2F")})' in links
    for image in path.re.findall(r'!\[[^]]+\]\(([^)]+)\)', links):
        assert (ROOT / 'nbs/tutorials' / image).is_file()


def test_without_an_address_every_page_is_as_before(copies):
    with_address, without = copies
    now = {p.relative_to(path.NBS): path.shown(new) for p, _, new in path.new_pages()}
    assert {p: without[p] for p in now} == now
    assert with_address.keys() == without.keys()


@pytest.mark.parametrize('installed', [True, False])
def test_the_first_cell_installs_only_where_nothing_is_installed(installed, copies, monkeypatch):
    source = copies[0][Path('tutorials/06_small_objects.ipynb')][2]
    started, folders = [], []
    monkeypatch.setattr('importlib.util.find_spec', lambda name: object() if installed else None)
    monkeypatch.setattr('subprocess.run', lambda command, check: started.append(command))
    monkeypatch.setattr('os.chdir', folders.append)
    exec(compile(source, 'first cell', 'exec'), {})
    if installed:
        assert started == folders == []
        return
    clone, pip = started
    assert clone[:2] == ['git', 'clone']
    assert clone[-2] == 'https://github.com/a-lab/course-of-snet.git'
    assert pip[:4] == [sys.executable, '-m', 'pip', 'install']
    assert 'https://download.pytorch.org/whl/cpu' in pip
    assert pip[-1] == f'./{clone[-1]}', 'what was fetched is installed'
    assert folders == [f'{clone[-1]}/nbs/tutorials'], 'where the lesson lies'


def test_copies_for_students_and_slides_have_no_links_of_the_page():
    lesson = path.NBS / 'tutorials/03_build_snet.ipynb'
    nb = nbformat.read(lesson, 4)
    plain = len(nb.cells)
    path.browser_cells(nb, lesson, ('a-lab/snetlib', 'main'))
    assert len(nb.cells) == plain + 2
    types = [script('slides').slide_type(c) for c in nb.cells[1:3]]
    assert types == ['skip', 'skip']
    copy = script('student').student_page(nb)
    assert not [c for c in copy.cells if c.source.startswith(path.TRY)]


def test_binder_finds_what_it_reads():
    lines = (ROOT / 'binder/requirements.txt').read_text().splitlines()
    lines = [line for line in lines if line and not line.startswith('#')]
    assert '.' in lines, 'the package itself'
    assert all((ROOT / 'binder' / line.split()[1]).is_file() for line in lines if line.startswith('-c'))
    version = (ROOT / 'binder/runtime.txt').read_text().strip().removeprefix('python-')
    pinned = (ROOT / 'constraints.txt').read_text()
    assert f'python_version == "{version}"' in pinned, 'constraints are of another Python'
