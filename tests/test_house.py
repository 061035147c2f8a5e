"The house rules that no single page can show."

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
MODULES = {
    p: m.group(1)
    for p, nb in READ.items()
    for c in nb.cells[:2]
    if (m := re.search(r'#\|\s*default_exp\s+(\S+)', c.source))
}
NUMBER = {module.removesuffix('.__init__'): p.name.split('_')[0] for p, module in MODULES.items()}


def exported(nb):
    return [
        i for i, c in enumerate(nb.cells) if c.cell_type == 'code' and re.match(r'#\|\s*export\b', c.source)
    ]


def ids(p):
    return p.stem


@pytest.mark.parametrize('page', list(MODULES), ids=ids)
def test_imports_only_from_lower_numbers(page):
    own = page.name.split('_')[0]
    for i in exported(READ[page]):
        for m in re.findall(
            r'^\s*(?:from|import)\s+snetlib(?:\.([\w.]+))?', READ[page].cells[i].source, re.M
        ):
            if m in NUMBER and m != MODULES[page].removesuffix('.__init__'):
                assert NUMBER[m] < own, f'{page.name} imports snetlib.{m} of page {NUMBER[m]}'


@pytest.mark.parametrize('page', PAGES, ids=ids)
def test_page_is_readable(page):
    nb = READ[page]
    assert page.stat().st_size <= 400_000, (
        f'{page.name} has {page.stat().st_size / 1000:.0f} kB; trim its outputs'
    )
    if page in MODULES:
        assert nb.cells[1].source.startswith('# ') and '\n> ' in nb.cells[1].source, (
            'a page opens with a title and one sentence'
        )
    for c in nb.cells:
        for out in c.get('outputs', []):
            assert out.output_type != 'error', f'{page.name} holds an error: {c.source[:80]}'
            assert '<progress' not in json.dumps(
                out
            ) and 'application/vnd.jupyter.widget-view+json' not in out.get('data', {}), (
                f'{page.name} holds a progress bar'
            )
        assert not re.search(r'^from \S+ import \*', c.source, re.M) or c.cell_type != 'code', (
            f'{page.name} imports a star'
        )
        assert 'filterwarnings' not in c.source, f'{page.name} hides warnings'


def test_most_exports_are_followed_by_a_lesson():
    followed = [
        (
            i + 1 < len(nb.cells)
            and any(
                c.cell_type == 'code' and not re.match(r'#\|\s*export', c.source)
                for c in nb.cells[i + 1 : i + 3]
            )
        )
        for p, nb in READ.items()
        if p in MODULES
        for i in exported(nb)
        if not re.match(r'#\|\s*export\s*\n((from|import) .*\n?)+$', nb.cells[i].source)
    ]
    assert sum(followed) >= 0.6 * len(followed)


def test_models_import_is_light():
    code = (
        "import sys, snetlib.models; heavy = {'fastai', 'matplotlib', 'IPython', 'ipywidgets', 'jupyterlab', 'timm', 'monai', 'nilearn', 'pandas'} & {m.split('.')[0] for m in sys.modules}; "
        "sys.exit(f'imported: {sorted(heavy)}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_public_function_is_documented():
    import ast

    bare = []
    for f in (ROOT / 'snetlib').rglob('*.py'):
        for node in ast.parse(f.read_text()).body:
            if (
                isinstance(node, (ast.FunctionDef, ast.ClassDef))
                and not node.name.startswith('_')
                and not ast.get_docstring(node)
            ):
                bare.append(f'{f.name}:{node.name}')
    assert not bare, bare


def test_the_project_speaks_of_itself_alone():
    words = re.compile(
        r'\b(claude|anthropic|chatgpt|openai|copilot|language model|AI[- ]generated|/work/|pypi\.org|registry\.npmjs|deb\.debian)\b',
        re.I,
    )
    tracked = subprocess.run(
        ['git', '-C', str(ROOT), 'ls-files'], capture_output=True, text=True
    ).stdout.split('\n')
    files = [ROOT / f for f in tracked if f] or [
        p for p in ROOT.rglob('*') if p.is_file() and not {'.venv', '.git', 'demo', 'runs'} & set(p.parts)
    ]
    for f in files:
        if f == Path(__file__).resolve() or f.suffix in ('.png', '.jpg') or not f.is_file():
            continue
        text = f.read_text(encoding='utf-8', errors='ignore')
        if f.suffix == '.ipynb':
            text = '\n'.join(
                c.source + json.dumps([o for o in c.get('outputs', [])])
                for c in nbformat.reads(text, 4).cells
            )
        hit = words.search(re.sub(r'"image/png": "[^"]*"', '', text))
        assert not hit, f'{f.relative_to(ROOT)}: {hit.group(0)}'


def test_recipes_have_a_reason_on_every_line():
    source = '\n'.join(
        c.source
        for p, nb in READ.items()
        if MODULES.get(p) == 'recipes'
        for c in nb.cells
        if re.match(r'#\|\s*export', c.source)
    )
    blocks = re.findall(r'^[A-Z_]+ = (?:[A-Z_]+ \| )?dict\(\n(.*?)^\)', source, re.S | re.M)
    assert len(blocks) >= 6
    for block in blocks:
        for line in block.splitlines():
            assert re.search(r'#\s*[PIC]\b', line), line
