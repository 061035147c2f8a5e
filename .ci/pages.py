"""Execute pages: `python .ci/pages.py write [PAGE ...]` writes what they print and draw, `compare` checks it.

`bare` runs every cell as a fresh clone without data would, and writes nothing: Run All must reach the end.
Each page runs in a process of its own, forked from one that has loaded the libraries.
"""

import gc
import importlib
import math
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get('SNET_TEST_DATA', ROOT / '../shared/data')).resolve()
LIBRARIES = """torch fastai.vision.all timm kornia.augmentation monai.networks.nets pandas scipy.stats
nibabel matplotlib.pyplot execnb.shell nbdev.clean""".split()


def all_pages():
    "Every notebook, in the order of reading."
    return sorted(p for p in (ROOT / 'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)


def flags(cell):
    "Flags of a cell: `#| slow` gives 'slow'."
    return set(re.findall(r'^#\|\s*(\w+)', cell.source, re.M))


def left_out(cell):
    "Whether a cell is not run: slow ones, ones for a GPU, and `data` cells where there is no real data."
    wanted = flags(cell) & {'slow', 'cuda', 'data'}
    return bool(wanted - {'data'}) or ('data' in wanted and not DATA.is_dir())


def guarded(nb):
    "Whether a page has cells that ask for data or for minutes."
    return any(flags(c) & {'slow', 'data'} for c in nb.cells if c.cell_type == 'code')


def execute(page, everything=False):
    "The page as it is after Run All, in its own folder; a cell that is left out keeps the outputs it has."
    from execnb.nbio import dict2nb, nb2str
    from execnb.shell import CaptureShell

    shell = CaptureShell(page, mpl_format='png')
    os.chdir(page.parent)
    nb = nbformat.read(page, 4)
    live = dict2nb(nb)
    skipped = [c.cell_type != 'code' or (left_out(c) and not everything) for c in nb.cells]
    kept = [c.get('outputs') for c in nb.cells]
    order = iter(skipped)
    shell.run_all(live, exc_stop=True, preproc=lambda cell: next(order))
    done = nbformat.reads(nb2str(live), 4)
    for cell in done.cells:
        if cell.cell_type == 'code':
            cell.outputs = [o for o in cell.outputs if not is_warning(o)]
            for out in cell.outputs:
                out.get('data', {}).pop('application/vnd.jupyter.widget-view+json', None)
    for cell, skip, outputs in zip(done.cells, skipped, kept):
        if cell.cell_type == 'code' and skip:
            cell.outputs = outputs
    return done


def is_warning(out):
    "Whether an output is another library's warning, which names a path of this machine."
    return out.output_type == 'stream' and out.name == 'stderr' and 'Warning' in out.text


# ---- what a page prints, compared with what is committed

NUMBER = re.compile(r'-?\d+(?:[.,]\d+)*(?:e[+-]?\d+)?%?', re.I)
VARIES = re.compile(
    r'\b[\d.,]+\s*(s|ms|µs|min|seconds?|minutes?|[kMG]i?B|it/s)\b|0x[0-9a-f]+|(/[\w.+-]+){2,}|\btmp\w+'
)


def printed(cell):
    "Text that a cell prints or shows, without what varies from run to run."
    parts = []
    for out in cell.get('outputs', []):
        if out.output_type == 'stream' and out.name == 'stdout':
            parts.append(out.text)
        elif 'text/plain' in out.get('data', {}) and not any(k.startswith('image/') for k in out.data):
            parts.append(out.data['text/plain'])
    return VARIES.sub('…', '\n'.join(parts))


def same(a, b):
    "Whether two texts have the same words, and numbers that agree to two parts in a thousand."
    if ' '.join(NUMBER.sub('#', a).split()) != ' '.join(NUMBER.sub('#', b).split()):
        return False
    numbers = ([float(n.strip('%').replace(',', '')) for n in plain(t)] for t in (a, b))
    return all(math.isclose(x, y, rel_tol=2e-3, abs_tol=1e-3) for x, y in zip(*numbers))


def plain(text):
    return [n for n in NUMBER.findall(text) if n.count('.') < 2]


def differences(page, done):
    "Cells whose committed text is not what they print now. A cell flagged `#| varies` is not compared."
    found = []
    for old, new in zip(nbformat.read(page, 4).cells, done.cells):
        if old.cell_type != 'code' or 'varies' in flags(old) or left_out(old):
            continue
        if not same(printed(old), printed(new)):
            found.append(f'{page.name}: {old.source[:60]!r}\n- {printed(old)[:300]}\n+ {printed(new)[:300]}')
    return found


# ---- one process a page


def failed_cell(done):
    "The traceback of the cell that failed, or ''."
    errors = [o for c in done.cells for o in c.get('outputs', []) if o.output_type == 'error']
    return '\n'.join(errors[0].traceback[-12:]) if errors else ''


def work_on(page, verb):
    "Execute a page, then write or compare; what is wrong goes to stdout and gives exit code 1."
    done = execute(page, everything=verb == 'bare')
    wrong = failed_cell(done)
    if wrong:
        print(wrong)
        return 1
    if verb == 'bare':
        return 0
    if verb == 'write':
        from nbdev.clean import clean_nb

        clean_nb(done, allowed_cell_metadata_keys=['jupyter', 'slideshow'])
        nbformat.write(done, page)
        return 0
    found = differences(page, done)
    print('\n'.join(found))
    return 1 if found else 0


def start(page, verb, log):
    "A new process that works on a page and says what is wrong into the open file `log`: its number."
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    code = 70
    try:
        code = work_on(page, verb)
    except BaseException:
        import traceback

        traceback.print_exc()
    sys.stdout.flush()
    os._exit(code)


def run_pages(verb, pages):
    "Work on the pages, as many at once as there are processors; the names of those that failed."
    os.environ.update(OMP_NUM_THREADS='1', MPLBACKEND='Agg', IN_TEST='1')
    os.environ.pop('SNET_SLOW', None)
    if verb == 'bare':
        os.environ['SNET_TEST_DATA'] = str(ROOT / 'no such folder')
    elif DATA.is_dir():
        os.environ['SNET_TEST_DATA'] = str(DATA)
    else:
        print('no real data at', DATA, '- cells flagged `data` are left out')
    sys.path.insert(0, str(ROOT))
    for library in LIBRARIES:
        importlib.import_module(library)
    gc.collect()
    gc.freeze()
    waiting, running, failed = list(pages), {}, []
    while waiting or running:
        while waiting and len(running) < (os.cpu_count() or 2):
            page = waiting.pop(0)
            log = tempfile.TemporaryFile('w+', errors='replace')
            running[start(page, verb, log)] = page, time.time(), log
        pid, status = os.wait()
        page, began, log = running.pop(pid)
        word = 'FAILED' if status else 'ok'
        print(f'{word} {page.relative_to(ROOT)} {time.time() - began:.0f} s', flush=True)
        if status:
            failed.append(page.name)
            log.seek(0)
            print(log.read()[-6000:], flush=True)
    return failed


if __name__ == '__main__':
    verb, *names = sys.argv[1:]
    if verb not in ('write', 'compare', 'bare'):
        verb, names = 'write', [verb, *names]
    pages = all_pages()
    if verb == 'bare':  # the other pages run the same cells with data and without
        pages = [p for p in pages if guarded(nbformat.read(p, 4))]
    failed = run_pages(verb, [Path(n).resolve() for n in names] or pages)
    sys.exit(f'{len(failed)} pages failed: {", ".join(failed)}' if failed else 0)
