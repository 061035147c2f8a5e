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
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

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
ORDER = ['tutorials', *CHAPTERS]
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
            carry_descriptions(cell)
        cells.append(cell)
    nb.cells = cells
    return nb


def carry_descriptions(cell):
    "Put the description and the width of a picture where myst-nb reads them."
    found = [o.get('metadata', {}).get('image/png', {}) for o in cell.outputs]
    described = [m for m in found if m.get('alt')]
    if described:
        image = {'alt': ' '.join(m['alt'] for m in described)}
        if described[0].get('width'):
            image['width'] = f'{described[0]["width"]}px'
        cell.metadata['mystnb'] = {'image': image}


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


def write_chapter(out, folder, title, names):
    "The first page of a chapter, which lists its pages; its name."
    (out / folder).mkdir(exist_ok=True)
    inside = [Path(n).name for n in names]
    (out / folder / 'index.md').write_text(f'# {title}\n\n' + tree(title, inside), encoding='utf-8')
    return f'{folder}/index'


def write_index(out, pages, names):
    "The first page, which lists the chapters."
    chapters = ['course']
    for folder in sorted(CHAPTERS, key=ORDER.index):
        chosen = [p.with_suffix('').as_posix() for p in pages if p.parts[0] == folder]
        if chosen:
            chapters.append(write_chapter(out, folder, CHAPTERS[folder], chosen))
    chapters.append(write_chapter(out, 'reference', 'Reference', names))
    text = '# snetlib\n\nMedical image segmentation with SNet and SoSegFormer, taught and measured. '
    text += 'Begin with [the course](course.ipynb).\n\n'
    (out / 'index.md').write_text(text + tree('Contents', chapters), encoding='utf-8')


# ---- links


class Page(HTMLParser):
    "Names that a page of the site can be entered at, and addresses that it leads to."

    def __init__(self, text):
        super().__init__()
        self.names, self.links = set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.names |= {found[k] for k in ('id', 'name') if found.get(k)}
        self.links += [found[k] for k in ('href', 'src') if found.get(k)]


def leads_nowhere(link, path, pages):
    "Whether an address inside the site names a file or a place that is not there."
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return False
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not target.exists():
        return True
    known = pages[target].names if target in pages else None
    return bool(parts.fragment) and known is not None and unquote(parts.fragment) not in known


def broken_links(site):
    "'page: address' of every address inside the site that leads nowhere."
    apart = {'_static', 'slides'}
    found = [p.resolve() for p in Path(site).rglob('*.html') if not apart & set(p.parts)]
    pages = {p: Page(p.read_text(encoding='utf-8')) for p in found}
    return [
        f'{path.name}: {link}'
        for path, page in pages.items()
        for link in page.links
        if leads_nowhere(link, path, pages)
    ]


def remove_pages(site):
    "Remove what an earlier build wrote; the decks in `slides` stay."
    for path in site.iterdir() if site.is_dir() else ():
        if path.is_dir() and path.name != 'slides':
            shutil.rmtree(path)
        elif path.is_file():
            path.unlink()


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
        remove_pages(site)
        command = [sys.executable, '-m', 'sphinx', '-q', '-b', 'html', str(out), str(site)]
        subprocess.run(command, check=True)
    return len(pages), len(names)


if __name__ == '__main__':
    place = Path(sys.argv[1]) if sys.argv[1:] else ROOT / 'site'
    count, reference = build(place)
    print(f'{count} pages and {reference} modules of the reference')
    broken = broken_links(place)
    if broken:
        sys.exit('\n'.join(['These links lead nowhere:', *broken]))
