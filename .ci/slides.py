"""A slide deck of each lesson: `python .ci/slides.py [PAGE ...]` writes reveal.js pages to `site/slides/`.

A heading begins a slide. A picture, a table or an exercise gets a slide of its own below it. Imports, checks
and solutions are left out, and code is shown without flags. `REVEAL` names another copy of reveal.js.
"""

import html
import os
import re
import sys
from pathlib import Path

import nbformat
from nbconvert import SlidesExporter
from traitlets.config import Config

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / 'site/slides'


def picture(cell):
    return any('image/png' in o.get('data', {}) for o in cell.get('outputs', []))


def slide_type(cell):
    "nbconvert's tag of a cell: slide, subslide, - (goes on) or skip."
    if cell.cell_type == 'markdown':
        if '<summary>Solution' in cell.source or cell.source.startswith('<!-- path -->'):
            return 'skip'
        if re.match(r'##? ', cell.source):
            return 'slide'
        return 'subslide'
    if cell.metadata.get('jupyter', {}).get('source_hidden'):
        return 'skip'
    if picture(cell):
        return 'subslide'
    return '-' if cell.outputs and len(cell.source.splitlines()) <= 14 else 'skip'


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


def deck(nb):
    "The page with slide tags; a picture is shown without the code that drew it."
    for cell in nb.cells:
        cell.metadata['slideshow'] = {'slide_type': slide_type(cell)}
        if cell.cell_type == 'code':
            cell.source = re.sub(r'^#\|.*\n?', '', cell.source, flags=re.M)
            if picture(cell):
                cell.metadata['tags'] = ['picture']
                for out in cell.outputs:
                    as_html(out)
    first = nb.cells[0]
    first.source = short_title(first.source)
    return nb


def write(page, out=OUT):
    "Write the deck of a page; its path."
    hide = dict(enabled=True, remove_input_tags={'picture'})
    exporter = SlidesExporter(
        config=Config(TagRemovePreprocessor=hide),
        reveal_scroll=True,
        reveal_theme='white',
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    if os.environ.get('REVEAL'):
        exporter.reveal_url_prefix = os.environ['REVEAL']
    body, _ = exporter.from_notebook_node(deck(nbformat.read(page, 4)))
    out.mkdir(parents=True, exist_ok=True)
    path = out / f'{page.stem}.slides.html'
    path.write_text(body, encoding='utf-8')
    return path


def main(names):
    for page in [Path(n).resolve() for n in names] or sorted((ROOT / 'nbs/tutorials').glob('*.ipynb')):
        print(write(page).relative_to(ROOT))


if __name__ == '__main__':
    main(sys.argv[1:])
