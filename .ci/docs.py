"""The pages and the API reference as a searchable site: `python .ci/docs.py [FOLDER]` writes `site/`.

A copy of the pages goes to Sphinx (myst-nb, pydata theme) without export flags. The reference is made from
the comments beside the parameters. Nothing is executed, and the site needs no other server: MathJax is in it.
"""

import importlib
import inspect
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
CHAPTERS = {
    '1_start': 'Start',
    '2_theory': 'Theory',
    '3_data': 'Data',
    '4_models': 'Models',
    '5_measure': 'Measure',
    '6_train': 'Train',
    '7_use': 'Use',
    '8_results': 'Results',
    '9_command': 'Command',
    'tutorials': 'Lessons',
    'instructor': 'For teachers',
}
CONF = """project, author, copyright = 'snetlib', 'the snetlib authors', '2026, the snetlib authors'
extensions = ['myst_nb', 'sphinx-mathjax-offline']
nb_execution_mode = 'off'
myst_enable_extensions = ['dollarmath', 'amsmath', 'html_image']
myst_heading_anchors = 3
html_theme = 'pydata_sphinx_theme'
html_title = 'snetlib'
html_theme_options = dict(navbar_align='left', show_prev_next=False, secondary_sidebar_items=['page-toc'])
html_static_path = ['_static']
html_copy_source = False
suppress_warnings = ['myst.header', 'mystnb.unknown_mime_type', 'myst.xref_missing', 'toc.not_included']
"""


def page_for_readers(nb):
    "A page without flags and cells that only steer the export."
    cells = []
    for cell in nb.cells:
        if cell.cell_type == 'code':
            cell.source = re.sub(r'^#\|.*\n?', '', cell.source, flags=re.M).strip()
            if not cell.source and not cell.outputs:
                continue
            if cell.metadata.get('jupyter', {}).get('source_hidden'):
                cell.metadata['tags'] = ['hide-input']
        cells.append(cell)
    nb.cells = cells
    return nb


def site_link(text):
    "Links to files beside the pages lead to nowhere on the site: keep their words."
    return re.sub(r'\[([^]]*)\]\((?!https?:|#)(?![^)]*\.ipynb)[^)]*\)', r'\1', text)


def copy_pages(out):
    "Filtered copies of all pages; their paths below `out`."
    done = []
    for page in sorted((ROOT / 'nbs').rglob('*.ipynb')):
        if '.ipynb_checkpoints' in page.parts:
            continue
        nb = page_for_readers(nbformat.read(page, 4))
        for cell in nb.cells:
            if cell.cell_type == 'markdown':
                cell.source = site_link(cell.source)
        name = page.relative_to(ROOT / 'nbs')
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(nb, out / name)
        done.append(name)
    return done


# ---- the reference


def modules():
    "(module, page that exports it) of the package."
    for page in sorted((ROOT / 'nbs').rglob('*.ipynb')):
        for cell in json.loads(page.read_text(encoding='utf-8'))['cells'][:2]:
            found = re.search(r'#\|\s*default_exp\s+(\S+)', ''.join(cell['source']))
            if found and '__main__' not in found[1]:
                yield 'snetlib.' + found[1].removesuffix('.__init__'), page.relative_to(ROOT / 'nbs')


def cell_text(text):
    "Text that fits into a cell of a Markdown table."
    return ' '.join(str(text).split()).replace('|', '\\|')


def parameters(thing):
    "Rows (name, default, meaning) of a function, or of the constructor of a class."
    from fastcore.docments import docments, empty

    try:
        found = docments(thing, full=True, returns=False)
    except Exception:  # a name without a source, such as a re-exported built-in
        return []
    rows = []
    for name, p in found.items():
        default = '' if p.default is empty else f'`{cell_text(repr(p.default))}`'
        rows.append(f'| `{name}` | {default} | {cell_text(p.docment or "")} |')
    return rows


def entry(name, thing):
    "The reference of one name."
    kind = 'class' if inspect.isclass(thing) else 'function'
    text = [f'## `{name}`', '', f'*{kind}* · {cell_text(inspect.getdoc(thing) or "")}', '']
    rows = parameters(thing)
    if rows:
        text += ['| parameter | default | meaning |', '|---|---|---|', *rows, '']
    return text


def public(module):
    "(name, thing) of the functions and classes that a module defines."
    for name in getattr(module, '__all__', ()):
        thing = getattr(module, name)
        made_here = getattr(thing, '__module__', None) == module.__name__
        if made_here and (inspect.isclass(thing) or inspect.isfunction(thing)):
            yield name, thing


def write_reference(out):
    "A page for each module; their names."
    names = []
    for name, page in modules():
        module = importlib.import_module(name)
        entries = [line for n, thing in public(module) for line in entry(n, thing)]
        if not entries:
            continue
        text = [f'# {name}', '', cell_text(module.__doc__ or ''), '']
        text += [f'The code with its lesson: [{page.stem}](../{page.as_posix()}).', '', *entries]
        (out / 'reference').mkdir(exist_ok=True)
        (out / f'reference/{name}.md').write_text('\n'.join(text), encoding='utf-8')
        names.append(name)
    return names


# ---- the site


def tree(caption, names):
    "A table of contents in MyST."
    return f'```{{toctree}}\n:caption: {caption}\n:maxdepth: 1\n\n' + '\n'.join(names) + '\n```\n'


def write_index(out, pages, names):
    "The first page, with one tree a chapter."
    text = '# snetlib\n\nMedical image segmentation with SNet and SoSegFormer, taught and measured. '
    text += 'Begin with [the course](course.ipynb).\n\n'
    text += tree('The course', ['course'])
    for folder in ('tutorials', *CHAPTERS):
        chosen = [p.with_suffix('').as_posix() for p in pages if p.parts[0] == folder]
        if chosen and tree(CHAPTERS[folder], chosen) not in text:
            text += tree(CHAPTERS[folder], chosen)
    text += tree('Reference', [f'reference/{n}' for n in names])
    (out / 'index.md').write_text(text, encoding='utf-8')


def build(site):
    "Write the site; the number of pages and of modules."
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / 'pages'
        out.mkdir()
        pages = [p for p in copy_pages(out) if p.name != 'index.ipynb']
        (out / 'index.ipynb').unlink()
        for name in ('images', '_static'):
            (out / name).mkdir(exist_ok=True)
        shutil.copytree(ROOT / 'nbs/images', out / 'images', dirs_exist_ok=True)
        names = write_reference(out)
        write_index(out, pages, names)
        (out / 'conf.py').write_text(CONF)
        shutil.rmtree(site, ignore_errors=True)
        command = [sys.executable, '-m', 'sphinx', '-q', '-b', 'html', str(out), str(site)]
        subprocess.run(command, check=True)
    return len(pages), len(names)


if __name__ == '__main__':
    count, reference = build(Path(sys.argv[1]) if sys.argv[1:] else ROOT / 'site')
    print(f'{count} pages and {reference} modules of the reference')
