"Execute pages and write what they print and draw: `python .ci/pages.py [PAGE ...]`."

import os
import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbdev.clean import clean_nb

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get('SNET_TEST_DATA', ROOT / '../shared/data'))
PAGES = sorted(p for p in (ROOT / 'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)


def left_out(cell):
    "Whether a cell is not run here: slow ones, ones for a GPU, and `data` cells where there is no real data."
    flags = set(re.findall(r'^#\|\s*(slow|cuda|data)\b', cell.source, re.M))
    return bool(flags - {'data'}) or ('data' in flags and not DATA.is_dir())


def execute(page):
    "Run a page from top to bottom in its own folder; a cell that is left out keeps the outputs it has."
    nb = nbformat.read(page, 4)
    kept = {i: (c.source, c.outputs) for i, c in enumerate(nb.cells) if c.cell_type == 'code' and left_out(c)}
    for i in kept:
        nb.cells[i].source = ''
    NotebookClient(nb, timeout=900, resources={'metadata': {'path': str(page.parent)}}).execute()
    for i, (source, outputs) in kept.items():
        nb.cells[i].source = source
        nb.cells[i].outputs = outputs
    return nb


def main(names):
    pages = [Path(n).resolve() for n in names] or PAGES
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    os.environ.setdefault('SNET_TEST_DATA', str(DATA.resolve()))
    for page in pages:
        print(page.relative_to(ROOT), flush=True)
        nb = execute(page)
        clean_nb(nb)
        nbformat.write(nb, page)


if __name__ == '__main__':
    main(sys.argv[1:])
