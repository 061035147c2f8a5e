"The house rules that no single page can show."

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

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


LINKS = re.compile(r'\]\((?!https?:|#|mailto:)([^)\s#]+)')


@pytest.mark.parametrize('page', PAGES, ids=lambda p: p.stem)
def test_links_lead_somewhere(page):
    text = '\n'.join(c.source for c in READ[page].cells if c.cell_type == 'markdown')
    gone = [link for link in LINKS.findall(text) if not (page.parent / link).exists()]
    assert not gone, f'{page.name}: {gone}'


# ---- a line is a sentence


def sentences(path):
    "Syntax trees of a file: one of a script, one for each cell of a page."
    if path.suffix == '.py':
        return [ast.parse(path.read_text(encoding='utf-8'))]
    cells = [c.source for c in READ[path].cells if c.cell_type == 'code']
    return [ast.parse(re.sub(r'^\s*[%!].*$', '', s, flags=re.M)) for s in cells]


def packed(tree):
    "Statements that pack a second thought into a line."
    for node in ast.walk(tree):
        if isinstance(node, ast.IfExp):
            inside = [n for part in (node.body, node.orelse) for n in ast.walk(part)]
            if any(isinstance(n, ast.IfExp) for n in inside):
                yield node.lineno, 'a conditional inside a conditional'
        if isinstance(node, ast.Expr):
            value = node.value
            if isinstance(value, ast.ListComp) and node is not tree.body[-1]:
                yield node.lineno, 'a comprehension run for its effect'
            calls = isinstance(value, ast.BoolOp) and isinstance(value.values[-1], ast.Call)
            if calls and isinstance(value.op, (ast.And, ast.Or)):
                yield node.lineno, '`x and f()` as a statement'


@pytest.mark.parametrize('path', [*PAGES, *SCRIPTS], ids=lambda p: p.stem)
def test_a_line_is_a_sentence(path):
    found = [f for tree in sentences(path) for f in packed(tree)]
    assert not found, f'{path.name}: {found}'


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


def texts(tree):
    "Every text of a module that is no docstring."
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node


def test_only_the_command_line_names_its_flags():
    flag = re.compile(r'(?<![\w-])--(out|resume|data|scale|seeds|device|tile|jobs|root|split|config|val)\b')
    found = []
    for f in SOURCES:
        if f.name in ('cli.py', '_modidx.py'):
            continue
        tree = ast.parse(f.read_text(encoding='utf-8'))
        found += [f'{f.name}: {n.value[:80]}' for n in texts(tree) if flag.search(n.value)]
    assert not found, found


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
NO_RECIPES = 'RECIPES|RIVAL_RECIPES|PAPER_RECIPE|OPTIONAL|EXTRA_KEYS|NEEDS|RULES'


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
