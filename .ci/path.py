"""The path through the pages: `python .ci/path.py` writes it, `python .ci/path.py check` says what is stale.

Each page gets its reading time, running time, prerequisites and goals in one table, and links to its
neighbours in the last cell. `nbs/course.ipynb` gets the syllabi, the map and the words. Once settings.ini
says in `git_url` where on GitHub the repository lies, each lesson gets links that open it in a browser.
"""

import ast
import json
import math
import os
import re
import sys
from configparser import ConfigParser
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / 'nbs'
TIMES = json.loads((ROOT / '.ci/times.json').read_text(encoding='utf-8'))
COURSE = json.loads((ROOT / '.ci/course.json').read_text(encoding='utf-8'))
ROWS = 'reading time', 'running time', 'prerequisites', 'goals'
MARK = '<!-- path -->'
TRY = '<!-- in a browser -->'
INSTALLER = '''# Where snetlib is not installed, as on Colab: fetch it, and PyTorch for the processor alone
import importlib
import os
import subprocess
import sys
from importlib.util import find_spec

if find_spec('snetlib') is None:
    where = ['{url}', 'snetlib-course']
    subprocess.run(['git', 'clone', '-q', '--depth', '1', '-b', '{branch}', *where], check=True)
    small = ['--extra-index-url', 'https://download.pytorch.org/whl/cpu']
    pip = [sys.executable, '-m', 'pip', 'install', '-q', *small, './snetlib-course']
    subprocess.run(pip, check=True)
    importlib.invalidate_caches()
    os.chdir('snetlib-course/nbs/tutorials')'''
TABLE = re.compile(r'\| \| \|\n\|---\|---\|\n((?:\|.*\n?)+)')  # under the title
EXERCISE = 8  # minutes


def page_paths():
    "Every page of the course in the order of reading: chapters, then lessons, then pages for teachers."
    folders = [*sorted(NBS.glob('[0-9]_*')), NBS / 'tutorials', NBS / 'instructor']
    return [p for folder in folders for p in sorted(folder.glob('*.ipynb'))]


def opening(nb):
    "The cell with the title."
    return next(c for c in nb.cells if c.cell_type == 'markdown')


def title_of(nb):
    return re.match(r'# (.+)', opening(nb).source)[1].strip()


def counts(cell):
    "Whether the words of a text are read by everybody."
    return not any(mark in cell.source for mark in ('<details>', MARK, TRY))


def minutes_to_read(nb):
    "Words at 180 a minute, code at 25 lines a minute; without exercises."
    text = [TABLE.sub('', c.source + '\n') for c in nb.cells if c.cell_type == 'markdown' and counts(c)]
    words = sum(len(re.sub(r'```.*?```|<[^>]+>|\]\([^)]*\)', ' ', t, flags=re.S).split()) for t in text)
    hidden = [c for c in nb.cells if c.metadata.get('jupyter', {}).get('source_hidden')]
    code = [c for c in nb.cells if c.cell_type == 'code' and c not in hidden]
    lines = sum(len(c.source.splitlines()) for c in code)
    return max(1, round(words / 180 + lines / 25))


def exercises(nb):
    "How many exercises a page has."
    return sum(bool(re.match(r'### Exercise|### \d+ ', c.source)) for c in nb.cells)


def reading_time(nb):
    base, n = minutes_to_read(nb), exercises(nb)
    more = f', and {EXERCISE * n} more for the exercises' if n else ''
    return f'{base} minute{"s" if base > 1 else ""}{more}'


def running_time(page, nb):
    "Measured seconds of one processor, rounded up; see runall.py."
    if not any(c.cell_type == 'code' for c in nb.cells):
        return 'nothing runs'
    seconds = TIMES.get(page.relative_to(NBS).as_posix())
    if seconds is None:
        return 'not measured'
    step = next((s for s in (5, 10, 15, 20, 30, 45, 60) if seconds <= s), None)
    step = step or 60 * math.ceil(seconds / 60)
    if step < 60:
        return f'{step} seconds'
    return f'{step // 60} minute' + ('s' if step > 60 else '')


def exports():
    "Which page exports which module."
    found = {}
    for page in page_paths():
        for cell in nbformat.read(page, 4).cells[:2]:
            name = re.search(r'#\|\s*default_exp\s+(\S+)', cell.source)
            if name:
                found['snetlib.' + name[1].removesuffix('.__init__')] = page
    return found


def imported(nb):
    "Modules of snetlib that a page's cells import at their top."
    found = []
    for cell in nb.cells:
        if cell.cell_type != 'code' or re.search(r'^[%!]', cell.source, re.M):
            continue
        found += [n.module for n in ast.parse(cell.source).body if isinstance(n, ast.ImportFrom)]
    return {m for m in found if m and m.startswith('snetlib')}


def link(page, here, text=None):
    "A Markdown link to a page, seen from another."
    place = Path(os.path.relpath(page, here.parent)).as_posix()
    return f'[{text or title_of(nbformat.read(page, 4))}]({place})'


def needed(nb, page, modules):
    "The nearest pages whose modules this page imports."
    order = page_paths()
    pages = {modules[m] for m in imported(nb) if m in modules} - {page}
    before = [p for p in order if p in pages and order.index(p) < order.index(page)]
    return ', '.join(link(p, page) for p in before[-3:]) or 'none'


def rows_of(source):
    "The rows of the table under the title: name to text."
    found = TABLE.search(source + '\n')
    lines = found[1].strip().splitlines() if found else []
    return dict([c.strip() for c in line.strip().strip('|').split('|', 1)] for line in lines)


def with_rows(source, rows):
    "The title cell with this table in place of the one it has."
    table = '| | |\n|---|---|\n' + '\n'.join(f'| {k} | {v} |' for k, v in rows.items())
    if TABLE.search(source + '\n'):
        return TABLE.sub(lambda m: table + '\n', source + '\n').strip()
    return source.strip() + '\n\n' + table


def header(nb, page, modules):
    "Write the four rows of a page; the author's prerequisites and goals stay."
    cell = opening(nb)
    old = rows_of(cell.source)
    new = {'reading time': reading_time(nb), 'running time': running_time(page, nb)}
    new['prerequisites'] = old.get('prerequisites') or needed(nb, page, modules)
    new['goals'] = old.get('goals', '')
    cell.source = with_rows(cell.source, new | {k: v for k, v in old.items() if k not in ROWS})


def neighbours(page, order):
    "The last cell of a page."
    at = order.index(page)
    parts = [link(NBS / 'course.ipynb', page, 'the course')]
    if at:
        parts.insert(0, '← ' + link(order[at - 1], page))
    if at + 1 < len(order):
        parts.append(link(order[at + 1], page) + ' →')
    return MARK + '\n' + ' · '.join(parts)


def text_cell(nb, text, name):
    "A cell of text; notebooks of the newer format name their cells."
    cell = nbformat.v4.new_markdown_cell(text, id=name)
    if (nb.nbformat, nb.nbformat_minor) < (4, 5):
        del cell['id']
    return cell


def navigation(nb, page, order):
    "Write the last cell of a page."
    nb.cells = [c for c in nb.cells if not c.source.startswith(MARK)]
    nb.cells.append(text_cell(nb, neighbours(page, order), 'path'))


# ---- lessons in a browser


def address(settings=None):
    "(owner/name on GitHub, branch) as settings.ini says, or None where it names no place on GitHub."
    config = ConfigParser(interpolation=None, delimiters=['='])
    config.read(settings or ROOT / 'settings.ini', encoding='utf-8')
    values = config['DEFAULT']
    found = re.fullmatch(
        r'https://github\.com/([\w.-]+/[\w.-]+?)(?:\.git)?/?', values.get('git_url', '').strip()
    )
    return (found[1], values.get('branch', 'main')) if found else None


def badges(page, place, branch):
    "Links that open a page on Colab and on Binder."
    path = page.relative_to(ROOT).as_posix()
    images = Path(os.path.relpath(NBS / 'images', page.parent)).as_posix()
    colab = f'https://colab.research.google.com/github/{place}/blob/{branch}/{path}'
    binder = f'https://mybinder.org/v2/gh/{place}/{branch}?labpath={path.replace("/", "%2F")}'
    links = (('Colab', colab, 'colab'), ('Binder', binder, 'binder'))
    return TRY + '\n' + ' '.join(f'[![Open in {n}]({images}/{f}.svg)]({url})' for n, url, f in links)


def browser_cells(nb, page, where):
    "Write the links of a lesson and the cell that installs; without an address, take both away."
    opens = (TRY, INSTALLER.splitlines()[0])
    nb.cells = [c for c in nb.cells if not c.source.startswith(opens)]
    if where is None or page.parent != NBS / 'tutorials':
        return
    place, branch = where
    source = INSTALLER.format(url=f'https://github.com/{place}.git', branch=branch)
    install = nbformat.v4.new_code_cell(source, id='browser-install')
    install.metadata = nbformat.from_dict({'jupyter': {'source_hidden': True}})
    if (nb.nbformat, nb.nbformat_minor) < (4, 5):
        del install['id']
    at = nb.cells.index(opening(nb)) + 1
    nb.cells[at:at] = [text_cell(nb, badges(page, place, branch), 'browser'), install]


# ---- the page of the course


def part_of(page):
    "Which of the three maps a page is on: core, engineering or data."
    name = page.relative_to(NBS).with_suffix('').as_posix()
    if name.startswith('3_data'):
        return 'data'
    return 'engineering' if name in COURSE['engineering'] else 'core'


def total(nbs):
    "Hours and minutes to read some pages, and to solve their exercises."
    read = sum(minutes_to_read(nb) for nb in nbs)
    solve = sum(EXERCISE * exercises(nb) for nb in nbs)
    return f'{read // 60} h {read % 60:02d} min to read, {solve // 60} h {solve % 60:02d} min of exercises'


def sentence_of(nb):
    found = re.search(r'^> (.+?)(?:\n\n|\Z)', opening(nb).source, re.M | re.S)
    plain = re.sub(r'\[([^]]*)\]\([^)]*\)', r'\1', found[1]) if found else ''
    return ' '.join(plain.split())


def figures(nb):
    "How many pictures a page shows."
    outs = [o for c in nb.cells for o in c.get('outputs', [])]
    return sum(any(k.startswith('image/') for k in o.get('data', {})) for o in outs)


def map_of(part, pages):
    "A table of the pages of one part."
    chosen = {p: nb for p, nb in pages.items() if part_of(p) == part}
    lines = [f'### {part.capitalize()}: {len(chosen)} pages, {total(list(chosen.values()))}', '']
    lines += ['| page | what it does | read | run | figures | exercises |', '|---|---|---|---|---|---|']
    for page, nb in chosen.items():
        numbers = f'{minutes_to_read(nb)} min | {running_time(page, nb)} | {figures(nb)} | {exercises(nb)}'
        at = link(page, NBS / 'course.ipynb')
        lines.append(f'| {at} | {sentence_of(nb)} | {numbers} |')
    return '\n'.join(lines)


def page_named(name):
    "A page by its chapter and the start of its name: '4_models/02_feb'."
    return NBS / f'{name}.ipynb'


def syllabus(entry, pages):
    "One way through the course."
    here = NBS / 'course.ipynb'
    lines = [f'### {entry["title"]}', '', entry['for'], '', '| when | pages | to read |', '|---|---|---|']
    for when, names in entry['steps']:
        found = [page_named(n) for n in names]
        read = sum(minutes_to_read(pages[p]) for p in found)
        lines.append(f'| {when} | {", ".join(link(p, here) for p in found)} | {read} min |')
    every = {page_named(n) for _, names in entry['steps'] for n in names}
    lines += ['', f'Together: {total([pages[p] for p in every])}.']
    return '\n'.join(lines)


def words():
    "The glossary as a table."
    here, lines = NBS / 'course.ipynb', ['| word | meaning | where |', '|---|---|---|']
    for word, (meaning, name) in sorted(COURSE['words'].items(), key=lambda w: w[0].lower()):
        place = f'[`{name}`](../{name})' if '.' in name else link(page_named(name), here)
        lines.append(f'| {word} | {meaning} | {place} |')
    return '\n'.join(lines)


def course_cells(nb, pages):
    "The cells of nbs/course.ipynb."
    texts = [COURSE['opening'], '## Three ways through\n\n' + COURSE['how']]
    texts += [syllabus(e, pages) for e in COURSE['syllabi']]
    texts += ['## The map\n\n' + COURSE['map']] + [map_of(p, pages) for p in ('core', 'engineering', 'data')]
    texts += ['## Words\n\n' + words()]
    return [text_cell(nb, t, f'course-{i}') for i, t in enumerate(texts)]


# ---- all of it


def shown(nb):
    "What decides whether a page is stale."
    return [c.source for c in nb.cells]


def new_pages():
    "(path, the page as it is, the page as it should be) of every page and of the course."
    modules, order, done, where = exports(), page_paths(), {}, address()
    for page in order:
        old, new = nbformat.read(page, 4), nbformat.read(page, 4)
        browser_cells(new, page, where)
        header(new, page, modules)
        navigation(new, page, order)
        done[page] = new
        yield page, old, new
    course = NBS / 'course.ipynb'
    old, new = nbformat.read(course, 4), nbformat.read(course, 4)
    new.cells = course_cells(new, done)
    yield course, old, new


def stale():
    "Pages whose header, links or map are not what this script writes, and pages without goals."
    found = []
    for page, old, new in new_pages():
        rows = rows_of(opening(new).source)
        if shown(old) != shown(new) or (page.parent != NBS and not rows.get('goals')):
            found.append(page.relative_to(NBS).as_posix())
    return found


def write():
    "Write every stale page."
    for page, old, new in new_pages():
        if shown(old) != shown(new):
            nbformat.write(new, page)
            print('wrote', page.relative_to(ROOT))


def main(names):
    if names == ['check']:
        found = stale()
        if found:
            sys.exit(f'Stale, or without goals: {", ".join(found)}; run: python .ci/path.py')
        return
    from nbdev.clean import nbdev_clean

    write()
    nbdev_clean()


if __name__ == '__main__':
    main(sys.argv[1:])
