"The exercises of a page: their text, their stub, their folded solution."

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def cells(page):
    "The cells of a page, named like '2_theory/01_han'."
    return json.loads((ROOT / 'nbs' / f'{page}.ipynb').read_text(encoding='utf-8'))['cells']


def text_of_page(page):
    return '\n'.join(''.join(c['source']) for c in cells(page))


def exercises(page):
    "(title, code cell, solution code) of every exercise of a page."
    found, title = [], None
    for c in cells(page):
        src = ''.join(c['source'])
        if c['cell_type'] == 'markdown' and src.startswith('### Exercise'):
            title, code = src.splitlines()[0][4:], None
        elif title and c['cell_type'] == 'code' and code is None:
            code = src
        elif title and c['cell_type'] == 'markdown' and '<details>' in src:
            found.append((title, code, re.search(r'```python\n(.*?)```', src, re.S)[1]))
            title = None
    return found
