"""A slide deck of each lesson: `python .ci/slides.py [PAGE ...]` writes reveal.js pages to `site/slides/`.

A heading begins a slide. A picture, a table or an exercise gets a slide of its own below it. Imports, checks
and solutions are left out, and code is shown without flags. What is too high for a slide goes on on the next
one. A deck needs no network: reveal.js (MIT licence) and MathJax (Apache licence) are copied beside it out of
the packages sphinx-revealjs and sphinx-mathjax-offline, which the extra `docs` brings.
"""

import html
import importlib.util
import re
import shutil
import sys
import textwrap
from pathlib import Path

import nbformat
from nbconvert import SlidesExporter
from traitlets.config import Config

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / 'site/slides'
THEME = 'white'
LIBRARIES = {  # folder beside the decks: package, folder in it, what a deck uses of that
    'reveal.js': (
        'sphinx_revealjs',
        '_static/revealjs',
        [
            'LICENSE',
            'dist/reveal.js',
            'dist/reveal.css',
            f'dist/theme/{THEME}.css',
            'dist/theme/fonts/source-sans-pro',
            'plugin/notes',
        ],
    ),
    'mathjax': ('sphinx-mathjax-offline', 'static/mathjax', ['tex-svg-full.js']),
}
HIGHEST = 17  # lines of text that a slide holds
WIDTH = 64  # characters of a line of text
HEADING, TABLE_ROW, PRINTED = 2.5, 1.6, 0.8  # their heights in lines of text


def picture(cell):
    return any('image/png' in o.get('data', {}) for o in cell.get('outputs', []))


def slide_type(cell):
    "nbconvert's tag of a cell: slide, subslide, - (goes on) or skip."
    if cell.cell_type == 'markdown':
        links = cell.source.startswith(('<!-- path -->', '<!-- in a browser -->'))
        if links or '<summary>Solution' in cell.source:
            return 'skip'
        if re.match(r'##? ', cell.source):
            return 'slide'
        return 'subslide'
    if cell.metadata.get('jupyter', {}).get('source_hidden'):
        return 'skip'
    if picture(cell):
        return 'subslide'
    return '-' if cell.outputs and len(cell.source.splitlines()) <= 14 else 'skip'


def text_height(source):
    "Height of Markdown in lines of text; an empty line counts as half of one."
    total = 0
    for line in source.splitlines():
        if line.startswith('#'):
            total += HEADING
        else:
            total += max(len(textwrap.wrap(line, WIDTH)), 0.5)
    return total


def printed_height(out):
    "Height of what a cell prints, in lines of text; a table has higher rows."
    data = out.get('data', {})
    if 'text/html' in data:
        return TABLE_ROW * data['text/html'].count('<tr')
    text = out.get('text') or data.get('text/plain', '')
    return PRINTED * len(text.splitlines())


def height(cell):
    "Height of a cell on a slide, in lines of text; a picture has a slide of its own."
    if cell.cell_type == 'markdown':
        return text_height(cell.source)
    return PRINTED * len(cell.source.splitlines()) + sum(map(printed_height, cell.outputs)) + 1


def pieces(cell):
    "A cell of text, cut at its headings and, where it is too high, between its paragraphs."
    if cell.cell_type != 'markdown' or slide_type(cell) == 'skip' or '```' in cell.source:
        return [cell]
    parts = []
    for paragraph in re.split(r'\n\n(?!\s*-)', cell.source):
        begins = re.match(r'##? ', paragraph)
        fits = parts and text_height(f'{parts[-1]}\n\n{paragraph}') <= HIGHEST
        if fits and not begins:
            parts[-1] += f'\n\n{paragraph}'
        else:
            parts.append(paragraph)
    return [nbformat.v4.new_markdown_cell(part) for part in parts]


def tag_slides(cells):
    "Give each cell nbconvert's tag; a cell that no longer fits begins a slide of its own."
    used = 0
    for cell in cells:
        kind = slide_type(cell)
        if kind == 'skip':
            cell.metadata['slideshow'] = {'slide_type': kind}
            continue
        if kind == '-' and used + height(cell) > HIGHEST:
            kind = 'subslide'
        used = height(cell) if kind != '-' else used + height(cell)
        cell.metadata['slideshow'] = {'slide_type': kind}


def as_html(out):
    "A picture as HTML, which keeps its description; nbconvert's template leaves it out."
    data, known = out.get('data', {}), out.get('metadata', {}).get('image/png', {})
    if 'image/png' not in data:
        return
    width = f' width="{known["width"]}"' if known.get('width') else ''
    alt = html.escape(known.get('alt', ''))
    source = ''.join(data['image/png'].split())
    out.data = {'text/html': f'<img src="data:image/png;base64,{source}" alt="{alt}"{width}>'}


def short_title(source):
    "The first slide: title, sentence and question, without the table of times."
    return source.split('\n| | |')[0].strip()


def site_link(text):
    "Links to pages lead to those of the site, and links to lessons to their decks."
    text = re.sub(r'\]\((\.\./[^)#]+)\.ipynb', r'](\1.html', text)
    return re.sub(r'\]\(([\w-]+)\.ipynb', r'](\1.slides.html', text)


def deck(nb):
    "The page with slide tags; a picture is shown without the code that drew it."
    nb.cells[0].source = short_title(nb.cells[0].source)
    nb.cells = [piece for cell in nb.cells for piece in pieces(cell)]
    tag_slides(nb.cells)
    for cell in nb.cells:
        if cell.cell_type == 'markdown':
            cell.source = site_link(cell.source)
        if cell.cell_type == 'code':
            cell.source = re.sub(r'^#\|.*\n?', '', cell.source, flags=re.M)
            if picture(cell):
                cell.metadata['tags'] = ['picture']
                for out in cell.outputs:
                    as_html(out)
    return nb


def copy_libraries(out=OUT):
    "Copy what the decks load into folders beside them."
    for name, (package, folder, parts) in LIBRARIES.items():
        found = importlib.util.find_spec(package)
        if found is None:
            sys.exit(f'The decks need the package {package}; install the extra `docs`: make install')
        source = Path(found.origin).parent / folder
        for part in parts:
            target = out / name / part
            target.parent.mkdir(parents=True, exist_ok=True)
            if (source / part).is_dir():
                shutil.copytree(source / part, target, dirs_exist_ok=True)
            else:
                shutil.copy(source / part, target)


def write(page, out=OUT):
    "Write the deck of a page; its path. `copy_libraries` brings what it loads."
    exporter = SlidesExporter(
        config=Config(TagRemovePreprocessor=dict(enabled=True, remove_input_tags={'picture'})),
        template_file=str(ROOT / '.ci/slides.html.j2'),
        reveal_scroll=True,
        reveal_theme=THEME,
        reveal_url_prefix='reveal.js',
        mathjax_url='mathjax/tex-svg-full.js',
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    body, _ = exporter.from_notebook_node(deck(nbformat.read(page, 4)))
    out.mkdir(parents=True, exist_ok=True)
    path = out / f'{page.stem}.slides.html'
    path.write_text(body, encoding='utf-8')
    return path


def main(names):
    copy_libraries()
    for page in [Path(n).resolve() for n in names] or sorted((ROOT / 'nbs/tutorials').glob('*.ipynb')):
        print(write(page).relative_to(ROOT))


if __name__ == '__main__':
    main(sys.argv[1:])
