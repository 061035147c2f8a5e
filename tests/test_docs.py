"What `make slides` and `make docs` write, as far as it can be told without building the whole site."

import re
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from scripts import script
from typer.main import get_command

from snetlib.cli import app

ROOT = Path(__file__).resolve().parent.parent


LESSONS = sorted((ROOT / 'nbs/tutorials').glob('*.ipynb'))


@pytest.mark.parametrize('page', LESSONS, ids=lambda p: p.stem)
def test_a_deck_has_a_slide_for_each_idea_and_no_solution(page, tmp_path):
    pytest.importorskip('nbconvert')
    slides = script('slides')
    nb = slides.deck(nbformat.read(page, 4))
    tags = [c.metadata.slideshow.slide_type for c in nb.cells]
    headings = [c for c in nb.cells if c.cell_type == 'markdown' and c.source.startswith('## ')]
    assert tags.count('slide') >= len(headings) >= 1
    text = slides.write(page, tmp_path).read_text(encoding='utf-8')
    assert 'Solution</summary>' not in text
    assert text.count('<section') > len(headings)


class Loads(HTMLParser):
    "Addresses that a browser fetches by itself when it opens a page; a link waits for a click."

    def __init__(self, text):
        super().__init__()
        self.found = re.findall(r'(?:url\(|@import|import .*from)\s*["\']?([^"\')\s]+)', text)
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found += [value for key, value in attrs if key in ('src', 'href') and tag != 'a']


def from_elsewhere(text):
    "Addresses that a page loads from another machine."
    return [address for address in Loads(text).found if re.match(r'(https?:)?//', address)]


@pytest.mark.parametrize(
    'text',
    [
        '<script src="https://example.org/a.js"></script>',
        '<link rel="stylesheet" href="//example.org/a.css">',
        '<img src="http://example.org/a.png">',
        '<style>@font-face { src: url(https://example.org/a.woff) }</style>',
        "<script type='module'>import a from 'https://example.org/a.js';</script>",
    ],
)
def test_what_a_page_loads_from_elsewhere_is_found(text):
    assert from_elsewhere(text)
    assert not from_elsewhere(text.replace('https:', '').replace('http:', '').replace('//', ''))


def test_a_link_is_not_loaded():
    assert not from_elsewhere('<a href="https://example.org">there</a><img src="data:image/png;base64,aa">')


@pytest.mark.parametrize('page', LESSONS, ids=lambda p: p.stem)
def test_a_deck_loads_nothing_from_elsewhere(page, tmp_path):
    pytest.importorskip('nbconvert')
    text = script('slides').write(page, tmp_path).read_text(encoding='utf-8')
    assert 'reveal.js/dist/reveal.js' in Loads(text).found
    assert not from_elsewhere(text)


def test_what_the_decks_load_lies_beside_them(tmp_path):
    pytest.importorskip('nbconvert')
    pytest.importorskip('sphinx_revealjs')
    slides = script('slides')
    slides.copy_libraries(tmp_path)
    slides.copy_libraries(tmp_path)  # a second time over the first
    text = slides.write(LESSONS[0], tmp_path).read_text(encoding='utf-8')
    wanted = [address for address in Loads(text).found if not address.startswith('data:')]
    assert len(wanted) >= 5
    assert not [address for address in wanted if not (tmp_path / address).is_file()]
    assert (tmp_path / 'reveal.js/LICENSE').is_file()


@pytest.mark.parametrize('page', LESSONS, ids=lambda p: p.stem)
def test_a_slide_is_not_higher_than_the_screen_and_no_word_is_lost(page):
    slides = script('slides')
    nb = slides.deck(nbformat.read(page, 4))
    heights = []
    for cell in nb.cells:
        kind = cell.metadata.slideshow.slide_type
        if kind in ('slide', 'subslide'):
            heights.append([])
        if kind != 'skip':
            heights[-1].append(slides.height(cell))
    assert all(len(h) == 1 or sum(h) <= slides.HIGHEST for h in heights)
    before = nbformat.read(page, 4).cells
    before[0].source = slides.short_title(before[0].source)
    said, shown = (
        ' '.join(c.source for c in cells if c.cell_type == 'markdown').split() for cells in (before, nb.cells)
    )
    assert [slides.site_link(word) for word in said] == shown


def test_links_of_a_deck_lead_to_the_site_and_to_decks():
    slides = script('slides')
    text = '[a](../2_theory/01_han.ipynb#x) [b](05_measuring_honestly.ipynb) [c](https://x.org/d.ipynb)'
    links = '[a](../2_theory/01_han.html#x) [b](05_measuring_honestly.slides.html) [c](https://x.org/d.ipynb)'
    assert slides.site_link(text) == links


def test_a_new_site_leaves_the_decks(tmp_path):
    for name in ('slides', 'data'):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'a.html').write_text('')
    (tmp_path / 'index.html').write_text('')
    script('docs').remove_pages(tmp_path)
    assert [p.name for p in tmp_path.rglob('*') if p.is_file()] == ['a.html']
    assert (tmp_path / 'slides/a.html').is_file()
    script('docs').remove_pages(tmp_path / 'not there')


def test_a_long_text_is_cut_between_its_paragraphs():
    slides = script('slides')
    paragraph = ' '.join(['word'] * 130)  # 650 characters: eleven lines
    cell = nbformat.v4.new_markdown_cell(f'{paragraph}\n\n{paragraph}\n\n## Next\n\nShort.')
    assert [c.source[:4] for c in slides.pieces(cell)] == ['word', 'word', '## N']
    short = nbformat.v4.new_markdown_cell('One.\n\nTwo.')
    assert [c.source for c in slides.pieces(short)] == ['One.\n\nTwo.']


def test_readers_of_the_site_see_no_flags():
    docs = script('docs')
    nb = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell('#| default_exp data.files'),
            nbformat.v4.new_code_cell('#| export\ndef f():\n    return 1'),
            nbformat.v4.new_code_cell('check = 1', metadata={'jupyter': {'source_hidden': True}}),
        ]
    )
    cells = docs.page_for_readers(nb).cells
    assert [c.source for c in cells] == ['def f():\n    return 1', 'check = 1']
    assert cells[1].metadata.tags == ['hide-input']


def test_the_reference_holds_what_stands_beside_the_parameters():
    docs = script('docs')
    from snetlib.models.feb import FEB, flatten_to

    text = '\n'.join(docs.entry('flatten_to', flatten_to) + docs.entry('FEB', FEB))
    assert 'divides c' in text
    assert '| `heads` | `1` | attention heads; divides gcd(widths) |' in text


def test_every_module_is_in_the_reference():
    docs = script('docs')
    names = [name for name, _ in docs.modules()]
    assert 'snetlib.models.snet' in names
    assert len(names) == len(set(names)) > 80


def test_links_to_files_beside_the_pages_become_words():
    docs = script('docs')
    text = '[ledger](../data/ledger.csv), [FEB](4_models/02_feb.ipynb), [far](https://x.org)'
    assert docs.site_link(text) == 'ledger, [FEB](4_models/02_feb.ipynb), [far](https://x.org)'


PICTURE = {'image/png': 'aGVsbG8='}


def cell_with_pictures(source, *metadata):
    "A cell whose outputs are pictures."
    outputs = [nbformat.v4.new_output('display_data', data=PICTURE, metadata=m) for m in metadata]
    return nbformat.v4.new_code_cell(source, outputs=outputs)


def test_a_picture_gets_the_description_of_its_line():
    pages = script('pages')
    own = {'image/png': {'alt': 'from show_figure', 'width': 300}}
    cell = cell_with_pictures('#| fig-alt: one\n#| fig-alt: two\nf()', {}, own, {})
    pages.describe(cell)
    assert [o.metadata['image/png']['alt'] for o in cell.outputs] == ['one', 'from show_figure', 'two']


def test_a_description_reaches_the_site_and_the_slides():
    docs = script('docs')
    cell = cell_with_pictures('f()', {'image/png': {'alt': 'A curve.', 'width': 300}})
    docs.carry_descriptions(cell)
    assert cell.metadata.mystnb == {'image': {'alt': 'A curve.', 'width': '300px'}}
    pytest.importorskip('nbconvert')
    slides = script('slides')
    slides.as_html(cell.outputs[0])
    assert 'alt="A curve." width="300"' in cell.outputs[0].data['text/html']


def test_a_link_that_leads_nowhere_is_found(tmp_path):
    docs = script('docs')
    (tmp_path / 'a.html').write_text(
        '<h1 id="top"></h1><a href="b.html#there">1</a><a href="b.html#gone">2</a><img src="c.png">'
        '<a href="https://example.org/x">3</a><a href="#top">4</a><a href="#low">5</a>'
    )
    (tmp_path / 'b.html').write_text('<h1 id="there"></h1>')
    assert docs.broken_links(tmp_path) == ['a.html: b.html#gone', 'a.html: c.png', 'a.html: #low']


def command_lines():
    "Every `snet …` that a page or a guide tells its reader to type, as (file, line)."
    pages = [*ROOT.glob('nbs/**/*.ipynb')]
    guides = [*ROOT.glob('*.md'), *ROOT.glob('data/**/*.md')]
    texts = [(p, c.source) for p in pages for c in nbformat.read(p, 4).cells if c.cell_type == 'markdown']
    texts += [(p, p.read_text(encoding='utf-8')) for p in guides if p.name != 'CHANGELOG.md']
    for path, text in texts:
        for line in re.findall(r'(?:^|`)(snet [a-z]+[^`\n]*)', text, re.M):
            yield f'{path.parent.name}/{path.name}', line.split('  #')[0]


def test_every_command_that_is_told_exists_with_its_options():
    group = get_command(app)
    options = {
        name: {o for p in c.params for o in p.opts + p.secondary_opts} for name, c in group.commands.items()
    }
    wrong, seen = [], 0
    for where, line in command_lines():
        for part in re.split(r'[|;&]+\s*(?=snet )|,\s*(?=snet )', line):
            name = part.split()[1]
            if name not in options:
                wrong.append((where, line))
                continue
            seen += 1
            asked = set(re.findall(r'(?<!\S)--[a-z][a-z-]*', part))
            wrong += [(where, line, o) for o in asked - options[name] - {'--help'}]
    assert seen > 60, 'the search finds what pages tell'
    assert not wrong, wrong
