"The house rules that no single page can show."

import ast
import base64
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from manner import (
    named_flags,
    packed,
    public_names,
    semicolons,
    shown_statement,
    started_by_name,
    steered_by_words,
)
from PIL import Image
from typer.main import get_command

from snetlib.cli import app

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(p for p in (ROOT / 'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
READ = {p: nbformat.read(p, 4) for p in PAGES}
SOURCES = [*(ROOT / 'snetlib').rglob('*.py')]
SCRIPTS = [*(ROOT / 'tests').rglob('*.py'), *(ROOT / '.ci').glob('*.py'), ROOT / 'setup.py']


def module_of(nb):
    "The module that a page exports, e.g. 'data.files' or 'models' for models/__init__.py; None without one."
    for cell in nb.cells[:2]:
        found = re.search(r'#\|\s*default_exp\s+(\S+)', cell.source)
        if found:
            return found[1].removesuffix('.__init__')


MODULES = {p: module_of(nb) for p, nb in READ.items() if module_of(nb)}


def place(page):
    "Where a page stands in the course: (chapter, number)."
    return page.parent.name, page.name.split('_')[0]


PLACE = {module: place(page) for page, module in MODULES.items()}


def exported(nb):
    "Indices of the exported cells."
    code = enumerate(nb.cells)
    return [i for i, c in code if c.cell_type == 'code' and re.match(r'#\|\s*export\b', c.source)]


def file_of(module):
    "The file of a module: snetlib/data/files.py, or the __init__.py of a package."
    path = ROOT / 'snetlib' / Path(*module.split('.'))
    package = path / '__init__.py'
    return package if package.is_file() else path.with_suffix('.py')


def imported(tree, package):
    "Modules of snetlib that a syntax tree imports, in any form, anywhere; `package` resolves relative ones."
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ''
            if node.level:
                above = package[: len(package) - node.level + 1]
                base = '.'.join(['snetlib', *above, *filter(None, [node.module])])
            names = [base, *(f'{base}.{a.name}' for a in node.names)]
        else:
            continue
        found |= {n.removeprefix('snetlib.') for n in names if n.startswith('snetlib.')}
    return found


def package_of(module):
    "The package a module lies in, as a list: ['data'] for data.files, ['models'] for models itself."
    parts = module.split('.')
    return parts if file_of(module).name == '__init__.py' else parts[:-1]


@pytest.mark.parametrize('page', list(MODULES), ids=lambda p: p.stem)
def test_imports_only_from_earlier_pages(page):
    module = MODULES[page]
    tree = ast.parse(file_of(module).read_text(encoding='utf-8'))
    for other in imported(tree, package_of(module)) & set(PLACE) - {module}:
        assert PLACE[other] < place(page), f'{page.name} imports snetlib.{other} of page {PLACE[other]}'


@pytest.mark.parametrize(
    'text',
    [
        'from snetlib import reproduce',
        'from snetlib.data import loaders',
        'import os; from snetlib.data.loaders import slice_dls',
        'def f():\n    from ..data import loaders',
    ],
)
def test_every_form_of_import_is_seen(text):
    seen = imported(ast.parse(text), ['models'])
    assert seen & {'reproduce', 'data.loaders'}, seen


@pytest.mark.parametrize('page', PAGES, ids=lambda p: p.stem)
def test_page_is_readable(page):
    nb = READ[page]
    assert page.stat().st_size <= 400_000, f'{page.name} is {page.stat().st_size} bytes; trim its outputs'
    if page in MODULES:
        opening = nb.cells[1].source
        assert opening.startswith('# ') and '\n> ' in opening, 'a page opens with a title and one sentence'
    for cell in nb.cells:
        if cell.cell_type == 'code':
            assert not re.search(r'^from \S+ import \*', cell.source, re.M), f'{page.name} imports a star'
            assert 'filterwarnings' not in cell.source, f'{page.name} hides warnings'
            assert not re.search(r'^#\s+\|', cell.source, re.M), f'{page.name}: a flag is written #|, not # |'
        for out in cell.get('outputs', []):
            shown = json.dumps(out)
            assert out.output_type != 'error', f'{page.name} holds an error: {cell.source[:80]}'
            assert '<progress' not in shown, f'{page.name} holds a progress bar'
            assert 'widget-view+json' not in shown, f'{page.name} holds the state of a widget'
            assert 'Warning' not in out.get('text', ''), f'{page.name} shows a warning: {out.text[:200]}'


def only_imports(source):
    "Whether a cell holds imports and nothing else."
    return all(isinstance(n, (ast.Import, ast.ImportFrom)) for n in ast.parse(source).body)


def test_most_exports_are_followed_by_a_lesson():
    followed = []
    for nb in (READ[p] for p in MODULES):
        for i in exported(nb):
            if only_imports(nb.cells[i].source):
                continue
            near = [c.source for c in nb.cells[i + 1 : i + 3] if c.cell_type == 'code']
            followed.append(any(not re.match(r'#\|\s*export', s) for s in near))
    assert sum(followed) >= 0.6 * len(followed), f'{sum(followed)} of {len(followed)}'


LONGEST = 80  # lines of an exported cell: one idea, as far as a class allows


def only_data(source):
    "Whether a cell holds tables and constants and nothing else."
    return all(isinstance(n, (ast.Assign, ast.AnnAssign)) for n in ast.parse(source).body)


def too_long(nb):
    "First lines and lengths of the exported cells that hold more than one idea."
    for i in exported(nb):
        source = nb.cells[i].source
        n = len(source.splitlines())
        if n > LONGEST and not only_data(source):
            yield n, source.splitlines()[1]


@pytest.mark.parametrize('page', list(MODULES), ids=lambda p: p.stem)
def test_an_exported_cell_holds_one_idea(page):
    found = list(too_long(READ[page]))
    assert not found, f'{page.name} has exported cells of more than {LONGEST} lines: {found}'


def test_long_tables_may_stay_long():
    table = '#| export\nA = {\n' + '    1: 2,\n' * 90 + '}'
    code = '#| export\ndef f():\n' + '    g()\n' * 90
    cells = [nbformat.v4.new_code_cell(source) for source in (table, code, code[:200])]
    assert [n for n, _ in too_long(nbformat.v4.new_notebook(cells=cells))] == [92]


LINKS = re.compile(r'\]\((?!https?:|#|mailto:)([^)\s#]+)')
FILES = re.compile(r'`((?:tests|snetlib|nbs|\.ci)/[\w./-]+)`')  # of ours, named in a page


@pytest.mark.parametrize('page', PAGES, ids=lambda p: p.stem)
def test_every_picture_is_described(page):
    "Whoever cannot see a picture reads what it shows."
    for cell in READ[page].cells:
        for out in cell.get('outputs', []):
            if any(kind.startswith('image/') for kind in out.get('data', {})):
                alt = out.metadata.get('image/png', {}).get('alt', '')
                assert len(alt) >= 20, f'add a line `#| fig-alt: …` to {cell.source[:80]!r}'
        if cell.cell_type == 'markdown':
            bare = re.findall(r'!\[\s*\]\([^)]*\)|<img(?![^>]*\balt=)[^>]*>', cell.source)
            assert not bare, f'a picture without a description: {bare}'


SHARP = 149  # dots an inch, rounded down once
# a picture in a cell that trains for most of an hour: it waits for the next such run
COARSE = {'small_objects': 1}
BESIDE = re.compile(r'<img src="([^"]+\.png)" width="(\d+)"')  # a picture that is a file


def dots(out):
    "Dots an inch of a picture: a page shows 100 pixels an inch, or as many as the PNG says itself."
    picture = Image.open(io.BytesIO(base64.b64decode(out['data']['image/png'])))
    shown = out.get('metadata', {}).get('image/png', {}).get('width')
    if shown:
        return 100 * picture.width / shown
    return picture.info.get('dpi', (100, 100))[0]


def coarse(cells):
    "Sources of the cells with a picture that is not sharp, once for each picture."
    pictures = [
        (c.source, o) for c in cells for o in c.get('outputs', []) if 'image/png' in o.get('data', {})
    ]
    return [source for source, out in pictures if dots(out) < SHARP]


@pytest.mark.parametrize('page', PAGES, ids=lambda p: p.stem)
def test_every_picture_is_sharp(page):
    "150 dots an inch at the size shown: PageFigure, new_figure and show_figure give that."
    found = coarse(READ[page].cells)
    known = COARSE.get(page.stem, 0)
    slow = [source for source in found if re.search(r'^#\|\s*slow', source, re.M)]
    assert len(slow) == known, f'{page.name}: {len(slow)} pictures of long cells are coarse, known: {known}'
    others = [source[:80] for source in found if source not in slow]
    text = '\n'.join(c.source for c in READ[page].cells if c.cell_type == 'markdown')
    for name, shown in BESIDE.findall(text):
        if 100 * Image.open(page.parent / name).width / int(shown) < SHARP:
            others.append(name)
    assert not others, f'{page.name}: under 150 dots an inch: {others}'


@pytest.mark.parametrize(
    ['pixels', 'shown', 'tag', 'sharp'],
    [
        (450, 300, None, True),
        (300, 300, None, False),
        (430, 300, 150, False),
        (450, None, 150, True),
        (450, None, 72, False),
        (2000, None, None, False),
    ],
)
def test_a_coarse_picture_is_found(pixels, shown, tag, sharp):
    Image.new('L', (pixels, 9)).save(png := io.BytesIO(), 'PNG', **({'dpi': (tag, tag)} if tag else {}))
    data = {'image/png': base64.b64encode(png.getvalue()).decode()}
    how = {'image/png': {'width': shown}} if shown else {}
    out = nbformat.v4.new_output('display_data', data, metadata=how)
    cell = nbformat.v4.new_code_cell('draw()', outputs=[out])
    assert bool(coarse([cell])) != sharp


def moved_panels(cells):
    "Names of panels that a page shows and moves itself, under the reader's hand."
    code = [c for c in cells if c.cell_type == 'code']
    words = 'run this cell in JupyterLab to move its controls'
    shown = [c for c in code if any(words in o.get('data', {}).get('text/plain', '') for o in c.outputs)]
    names = [c.source.strip().splitlines()[-1] for c in shown]
    return [n for n in names if any(re.search(rf'\b{n}\.set\(', c.source) for c in code)]


@pytest.mark.parametrize('page', PAGES, ids=lambda p: p.stem)
def test_no_cell_moves_a_panel_that_the_reader_holds(page):
    assert not moved_panels(READ[page].cells), 'let the cell make a panel of its own'


def test_a_panel_that_is_moved_is_found():
    words = {'text/plain': 'Regimes: run this cell in JupyterLab to move its controls'}
    shown = nbformat.v4.new_code_cell('p = Regimes()\np')
    shown.outputs = [nbformat.v4.new_output('execute_result', words, execution_count=1)]
    moves = [nbformat.v4.new_code_cell(f'assert {name}.set(n=7)') for name in ('p', 'other')]
    assert moved_panels([shown, *moves]) == ['p']
    assert moved_panels([shown, moves[1]]) == []


@pytest.mark.parametrize('page', PAGES, ids=lambda p: p.stem)
def test_links_lead_somewhere(page):
    text = '\n'.join(c.source for c in READ[page].cells if c.cell_type == 'markdown')
    gone = [link for link in LINKS.findall(text) if not (page.parent / link).exists()]
    gone += [name for name in FILES.findall(text) if not (ROOT / name).exists()]
    assert not gone, f'{page.name}: {gone}'


# ---- a line is a sentence


def sources(path):
    "(code, what it shows) of a file: one of a script, one for each cell of a page."
    if path.suffix == '.py':
        return [(path.read_text(encoding='utf-8'), [])]
    cells = [c for c in READ[path].cells if c.cell_type == 'code']
    return [(re.sub(r'^\s*[%!].*$', '', c.source, flags=re.M), c.outputs) for c in cells]


def faults(code, outputs=()):
    "What is packed in a script or in a cell."
    tree = ast.parse(code)
    lines = code.splitlines()
    found = [(line, '`;`') for line in semicolons(code)]
    found += packed(tree, shown_statement(tree, outputs))
    return [f'{lines[number - 1].strip()}: {what}' for number, what in found]


@pytest.mark.parametrize('path', [*PAGES, *SCRIPTS], ids=lambda p: p.stem)
def test_a_line_is_a_sentence(path):
    found = [f for code, outputs in sources(path) for f in faults(code, outputs)]
    assert not found, f'{path.name}: {found}'


@pytest.mark.parametrize(
    'code',
    [
        'check.start < epochs and learn.fit(epochs, start_epoch=check.start)',
        'path.exists() or path.mkdir()',
        'done or (yield)',
        'def f(log):\n    log and [line for line in log]',
        '[print(x) for x in xs]',
        '{write(x) for x in xs}',
        '_ = [write(x) for x in xs]',
        'list(map(write, xs))',
        'any(write(x) for x in xs)',
        'def f(xs):\n    [write(x) for x in xs]',
        'rate = 1 if step < 5 else 2 if step < 9 else 3',
        'rate = 1 if (a if b else c) else 2',
        'rate = 1 if step < 5 else f(2 if step < 9 else 3)',
        'write(x) if x else skip(x)',
        'import os; os.getcwd()',
        'fig.tight_layout();',
        "text = 'a;b'; print(text)",
    ],
)
def test_a_packed_line_is_found(code):
    assert faults(code)


@pytest.mark.parametrize(
    'code',
    [
        'if check.start < epochs:\n    learn.fit(epochs, start_epoch=check.start)',
        'ready = path.exists() and path.is_dir()',
        'names = [p.name for p in paths]',
        'rate = 1 if step < 5 else 2',
        'first = 1 if a else 2\nsecond = 3 if b else 4',
        'rate = f(1 if a else 2, 3 if b else 4)',
        "text = 'a; b'  # one; two",
        'assert all(p.exists() for p in paths)',
    ],
)
def test_a_plain_line_passes(code):
    assert not faults(code)


def test_a_cell_may_show_a_list_but_not_the_nones_of_calls():
    def out(text):
        return [dict(output_type='execute_result', data={'text/plain': text})]

    assert not faults('[p.name for p in paths]', out("['a', 'b']"))
    assert not faults('a.ready and b.ready', out('True'))
    assert faults('[print(p) for p in paths]', out('[None, None]'))
    assert faults('[p.name for p in paths]\nprint(1)', out('1'))


# ---- what happens next is decided by type and field

# torch's allocator on a CPU raises a bare RuntimeError: its words are all there is
FOREIGN = {'cli.py': ["return type(e) is RuntimeError and 'DefaultCPUAllocator' in str(e)"]}


@pytest.mark.parametrize('path', [*SOURCES, *(ROOT / '.ci').glob('*.py')], ids=lambda p: p.stem)
def test_no_decision_reads_a_sentence(path):
    code = path.read_text(encoding='utf-8')
    lines = code.splitlines()
    found = [(lines[n - 1].strip(), what) for n, what in steered_by_words(ast.parse(code))]
    found = [f'{line}: {what}' for line, what in found if line not in FOREIGN.get(path.name, [])]
    assert not found, f'{path.name}: {found}'


@pytest.mark.parametrize(
    'code',
    [
        'try:\n    f()\nexcept OSError as e:\n    if str(out) in str(e):\n        raise',
        'try:\n    f()\nexcept OSError as why:\n    full = "No space" in f"{why}"',
        'def cause(e: SnetError):\n    return "label" if "label" in str(e).lower() else "file"',
        'def cause(problem: SnetError):\n    return repr(problem).startswith("Unread")',
        'def cause(e):\n    text = str(e)\n    return re.search(r"disk is full", text)',
        'def cause(e):\n    return e.args[0] == "The disk is full."',
        'failed = [r for r in rows if r["why"].startswith("failed")]',
        'failed = verdict.reason == "not run"',
        'difference = float(re.search("by ([0-9.]+)", verdict.reason)[1])',
        'size = int(str(error).split()[2])',
        'def cause(e):\n    return "full" in str(e.__cause__)',
    ],
)
def test_a_decision_on_words_is_found(code):
    assert list(steered_by_words(ast.parse(code)))


@pytest.mark.parametrize(
    'code',
    [
        'try:\n    f()\nexcept OSError as e:\n    if e.errno == errno.ENOSPC:\n        raise',
        'def cause(e):\n    return isinstance(e, DiskFull) and e.path == out',
        'def told(e):\n    return f"{e.path}: {e}"',
        'def told(verdict):\n    return verdict.reason or "no reason"',
        'def told(verdict):\n    return verdict.reason == ""',
        'name.startswith("patient")',
    ],
)
def test_a_decision_on_types_passes(code):
    assert not list(steered_by_words(ast.parse(code)))


def above(module):
    "Modules of pages after the page of a module, its own package aside."
    own = module.split('.')[0]
    return {m for m in PLACE if PLACE[m] > PLACE[module] and m != own}


@pytest.mark.parametrize('page', list(MODULES), ids=lambda p: p.stem)
def test_nothing_above_is_started_by_name(page):
    module = MODULES[page]
    tree = ast.parse(file_of(module).read_text(encoding='utf-8'))
    assert not started_by_name(tree) & above(module)


@pytest.mark.parametrize(
    'code',
    [
        "run([sys.executable, '-m', 'snetlib.cli', 'train'])",
        "run([sys.executable, '-c', 'from snetlib.cli import main; main()'])",
        "run('python -m snetlib.cli', shell=True)",
        "importlib.import_module('snetlib.cli')",
        "code = 'import sys\\nimport snetlib.cli'",
    ],
)
def test_a_start_by_name_is_found(code):
    assert 'cli' in started_by_name(ast.parse(code)) & above('reproduce.queue')


# ---- one name, one thing

# what every module of a data set offers, by the same name
OFFERED = {'SOURCES', 'SPLITS', 'find', 'read', 'write_phantom', 'write_ready'}
# commands are called like what they do
COMMANDS = {'check', 'prepare', 'reproduce'}
# what lazy packages have
LAZY = {'__all__', '__dir__', '__getattr__'}


def rooms_of_names():
    "Public name -> modules that define it, once for each definition."
    rooms = {}
    for module in MODULES.values():
        tree = ast.parse(file_of(module).read_text(encoding='utf-8'))
        for name in public_names(tree):
            a_set = module.startswith('data.sets.') and name in OFFERED
            a_command = module == 'cli' and name in COMMANDS
            if not a_set and not a_command and name not in LAZY:
                rooms.setdefault(name, []).append(module)
    return rooms


def test_no_name_stands_for_two_things():
    twice = {name: rooms for name, rooms in rooms_of_names().items() if len(rooms) > 1}
    assert not twice, twice


def test_public_names_are_seen():
    code = 'A, (B, _C) = 1, (2, 3)\nD: int = 1\ndef e(): pass\nclass F: pass\ndef _g(): x = 1'
    assert list(public_names(ast.parse(code))) == ['A', 'B', 'D', 'e', 'F']
    assert list(public_names(ast.parse('A = 1\nA = [2]'))) == ['A', 'A']
    method = '@patch(as_prop=True)\ndef f(self: C): pass\n@patch\ndef g(self: C): pass'
    assert not list(public_names(ast.parse(method)))


# ---- Run All reaches the end of every page

GUARDS = {'data': 'data_at_hand', 'slow': 'long_cells_wanted'}


def guards_of(source):
    "Names of the guards that a cell asks before anything else, in one `if` that holds all of it."
    body = ast.parse(source).body
    while body and isinstance(body[0], (ast.Import, ast.ImportFrom)):
        body.pop(0)
    if len(body) != 1 or not isinstance(body[0], ast.If) or body[0].orelse:
        return set()
    calls = [n for n in ast.walk(body[0].test) if isinstance(n, ast.Call)]
    return {c.func.id for c in calls if isinstance(c.func, ast.Name)}


@pytest.mark.parametrize('page', PAGES, ids=lambda p: p.stem)
def test_cells_for_data_and_slow_cells_ask_first(page):
    for cell in READ[page].cells:
        flags = re.findall(r'^#\|\s*(\w+)', cell.source, re.M)
        if cell.cell_type != 'code' or 'export' in flags:
            continue
        missing = {GUARDS[f] for f in flags if f in GUARDS} - guards_of(cell.source)
        assert not missing, f'{page.name} asks nothing of {missing}: {cell.source[:80]!r}'


def test_a_guard_that_holds_half_a_cell_is_found():
    assert guards_of("import os\nif data_at_hand('acdc'):\n    1") == {'data_at_hand'}
    assert not guards_of("if data_at_hand('acdc'):\n    1\nload()")
    assert not guards_of("if data_at_hand('acdc'):\n    1\nelse:\n    load()")


# ---- what the package promises


def test_models_import_is_light():
    heavy = 'fastai matplotlib IPython ipywidgets jupyterlab timm monai nilearn pandas'.split()
    code = f'import sys, snetlib.models; print([h for h in {heavy} if h in sys.modules])'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.stdout.strip() == '[]', done.stdout + done.stderr


def test_every_public_function_is_documented():
    bare = []
    for f in SOURCES:
        for node in ast.parse(f.read_text(encoding='utf-8')).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith('_'):
                if not ast.get_docstring(node):
                    bare.append(f'{f.name}:{node.name}')
    assert not bare, bare


def flags_of_the_command_line():
    "Every flag of every command, as the command line declares it."
    group = get_command(app)
    commands = [group, *group.commands.values()]
    flags = {o for c in commands for p in c.params for o in (*p.opts, *p.secondary_opts)}
    return {f for f in flags if f.startswith('--')}


FLAGS = flags_of_the_command_line() | {'--root', '--split', '--val'}  # these it had once


def test_only_the_command_line_names_its_flags():
    found = []
    for f in SOURCES:
        if f.name not in ('cli.py', '_modidx.py'):
            tree = ast.parse(f.read_text(encoding='utf-8'))
            found += [f'{f.name}: {text[:80]}' for _, text in named_flags(tree, FLAGS)]
    assert not found, found


@pytest.mark.parametrize(
    'code',
    [
        "raise NotWritable(f'{path} exists; choose another with --out.')",
        "why = 'continue with --resume, or start anew'",
        "cure = f'give --data={root}'",
        "def f():\n    'Reads what `--root` names.'",
    ],
)
def test_a_flag_below_the_command_line_is_found(code):
    assert {'--out', '--resume', '--data', '--root'} <= FLAGS
    assert named_flags(ast.parse(code), FLAGS)


@pytest.mark.parametrize('code', ["css = '--page: #fff'", "git('status', '--porcelain')"])
def test_what_is_no_flag_of_ours_passes(code):
    assert not named_flags(ast.parse(code), FLAGS)


def tracked_files():
    "What is committed; in a copy without git, everything that is not made."
    listed = subprocess.run(['git', '-C', str(ROOT), 'ls-files'], capture_output=True, text=True)
    files = [ROOT / name for name in listed.stdout.split('\n') if name]
    made = {'.venv', '.git', 'demo', 'runs'}
    return files or [p for p in ROOT.rglob('*') if p.is_file() and not made & set(p.parts)]


def text_of(path):
    "The text of a file; of a notebook its cells and what they print, without its pictures."
    text = path.read_text(encoding='utf-8', errors='ignore')
    if path.suffix == '.ipynb':
        cells = nbformat.reads(text, 4).cells
        text = '\n'.join(c.source + json.dumps(c.get('outputs', [])) for c in cells)
    return re.sub(r'"image/png": "[^"]*"', '', text)


def test_the_project_speaks_of_itself_alone():
    names = 'claude anthropic chatgpt openai copilot pypi\\.org registry\\.npmjs deb\\.debian'.split()
    words = re.compile(rf'\b({"|".join(names)}|language model|AI[- ]generated)\b', re.I)
    machine = re.compile(r'(?<![\w.])/(work|home|root|Users)/\w')
    for path in tracked_files():
        if path == Path(__file__).resolve() or path.suffix in ('.png', '.jpg') or not path.is_file():
            continue
        text = text_of(path)
        hit = words.search(text) or machine.search(text)
        assert not hit, f'{path.relative_to(ROOT)}: {text[max(0, hit.start() - 40) : hit.end() + 40]!r}'


REASONS = [('recipes', 'PIC', 6), ('rival_recipes', 'PICR', 9)]
NO_RECIPES = 'RECIPES|RIVAL_RECIPES|PAPER_RECIPE|OPTIONAL|EXTRA_KEYS|NEEDS|RULES|EFFECTS|TRUE_ANYWAY|SHARES'


@pytest.mark.parametrize(['module', 'letters', 'at_least'], REASONS)
def test_recipes_have_a_reason_on_every_line(module, letters, at_least):
    source = file_of(f'train.{module}').read_text(encoding='utf-8')
    block = rf'^(?!{NO_RECIPES})[A-Z_]+ = (?:[A-Z_]+ \| )?dict\([^\n]*\n(.*?)^\)'
    blocks = re.findall(block, source, re.S | re.M)
    assert len(blocks) >= at_least
    for line in ''.join(blocks).splitlines():
        closing = line.strip() in ('),', ')')
        assert closing or re.search(rf'#\s*[{letters}]\b', line), line


def test_readme_is_short():
    words = (ROOT / 'README.md').read_text(encoding='utf-8').split()
    assert len(words) <= 700, f'{len(words)} words'


def test_every_requirement_has_a_lower_end_that_is_tested_and_safe():
    "`python .ci/lowest.py` gives the versions that CI installs; timm before 1.0.26 unpickles."
    command = [sys.executable, ROOT / '.ci/lowest.py']
    pins = dict(line.split('==') for line in subprocess.check_output(command, text=True).split())
    assert tuple(map(int, pins['timm'].split('.'))) >= (1, 0, 26)
    assert tuple(map(int, pins['torch'].split('.'))) >= (2, 6)
    assert len(pins) > 25
    tests = subprocess.check_output([*command, '--tests'], text=True).split()
    assert all((ROOT / name).is_file() for name in tests)
