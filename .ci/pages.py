"""Execute pages: `python .ci/pages.py write [PAGE ...]` writes what they print and draw.

`compare` is `nbdev_test` as people type it, several pages in one process, which also holds what each cell
prints against what is committed. `bare` runs every cell as a fresh clone without data would, and writes
nothing: Run All must reach the end. `write` and `bare` give each page a process of its own, forked from one
that has loaded the libraries.
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
    for cell, skip in zip(live.cells, skipped):
        if cell.cell_type == 'code' and not skip:
            cell.outputs = []  # the shell leaves those of a cell that prints nothing
    shell.run_all(live, exc_stop=True, preproc=lambda cell: next(order))
    done = nbformat.reads(nb2str(live), 4)
    for cell in done.cells:
        if cell.cell_type == 'code':
            cell.outputs = [o for o in cell.outputs if not is_warning(o)]
            for out in cell.outputs:
                out.get('data', {}).pop('application/vnd.jupyter.widget-view+json', None)
            describe(cell)
    for cell, skip, outputs in zip(done.cells, skipped, kept):
        if cell.cell_type == 'code' and skip:
            cell.outputs = outputs
    return done


def describe(cell):
    "Give the pictures of a cell the descriptions of its `#| fig-alt:` lines, in their order."
    texts = iter(re.findall(r'^#\|\s*fig-alt:\s*(.+)$', cell.source, re.M))
    for out in cell.outputs:
        known = out.get('metadata', {}).get('image/png', {})
        if 'image/png' in out.get('data', {}) and 'alt' not in known:
            out.metadata['image/png'] = known | {'alt': next(texts, '')}


def is_warning(out):
    "Whether an output is another library's warning, which names a path of this machine."
    return out.output_type == 'stream' and out.name == 'stderr' and 'Warning' in out.text


# ---- what a page prints, compared with what is committed

NUMBER = re.compile(r'-?\d+(?:[.,]\d+)*(?:e[+-]?\d+)?%?', re.I)
BAR = re.compile(r'[^\r\n]*?\d+%\|[^\r\n]*?\]')  # tqdm's: how often it is drawn depends on the time
VARIES = re.compile(
    r'\b[\d.,]+\s*(s|ms|µs|min|seconds?|minutes?|[kMG]i?B|it/s)\b|0x[0-9a-f]+|(/[\w.+-]+){2,}|\btmp\w+'
)


def printed(cell):
    "Text that a cell prints or shows, without what varies from run to run."
    parts = []
    for out in cell.get('outputs', []):
        data = out.get('data', {})
        if out['output_type'] == 'stream' and out['name'] == 'stdout':
            parts.append(''.join(out['text']))
        elif 'text/plain' in data and not any(k.startswith('image/') for k in data):
            parts.append(''.join(data['text/plain']))
    return VARIES.sub('…', BAR.sub('', '\n'.join(parts)))


def same(a, b):
    "Whether two texts have the same words, and numbers that agree to two parts in a thousand."
    if ' '.join(NUMBER.sub('#', a).split()) != ' '.join(NUMBER.sub('#', b).split()):
        return False
    numbers = ([float(n.strip('%').replace(',', '')) for n in plain(t)] for t in (a, b))
    return all(math.isclose(x, y, rel_tol=2e-3, abs_tol=1e-3) for x, y in zip(*numbers))


def plain(text):
    return [n for n in NUMBER.findall(text) if n.count('.') < 2]


class CommittedTextDiffers(AssertionError):
    "A cell prints something else than what is committed."


def difference(cell, committed):
    "What is wrong with what a cell printed, or ''."
    now = printed(cell)
    if same(committed, now):
        return ''
    return f'{cell.source[:60]!r}\n- {committed[:300]}\n+ {now[:300]}'


class State:
    "What a page finds in a process of its own, and an earlier page in the same process may have changed."

    def __init__(self):
        import matplotlib
        import pandas as pd

        self.names = [f'display.{n}' for n in ('width', 'max_columns', 'max_colwidth', 'float_format')]
        self.tables = [pd.get_option(name) for name in self.names]
        self.figures = matplotlib.rcParams.copy()

    def restore(self):
        import matplotlib
        import pandas as pd
        import torch

        torch.manual_seed(0)
        matplotlib.rcParams.update(self.figures)
        for name, value in zip(self.names, self.tables):
            pd.set_option(name, value)


def comparing(shell, state):
    "nbdev's shell, which after the last cell compares what each cell printed with what was there before."

    class ComparingShell(shell):
        def run_all(self, nb, **kwargs):
            state.restore()
            cells = [c for c in nb.cells if c.cell_type == 'code' and 'varies' not in c.directives_]
            committed = [printed(c) for c in cells]
            super().run_all(nb, **kwargs)
            found = [difference(c, old) for c, old in zip(cells, committed)]
            if any(found):
                self.exc = CommittedTextDiffers('\n'.join(f for f in found if f))
                raise self.exc

    return ComparingShell


def compare(names):
    "Plain `nbdev_test` of all pages, or of those named; it leaves with exit code 1 if one fails or differs."
    import nbdev.test

    prepare_environment('compare')
    nbdev.test.CaptureShell = comparing(nbdev.test.CaptureShell, State())
    wanted = 'data' if DATA.is_dir() else ''
    workers = os.cpu_count() or 2
    for name in names or [None]:
        nbdev.test.nbdev_test(path=name, flags=wanted, n_workers=workers, do_print=True, timing=True)


# ---- one process a page


def failed_cell(done):
    "The traceback of the cell that failed, or ''."
    errors = [o for c in done.cells for o in c.get('outputs', []) if o.output_type == 'error']
    return '\n'.join(errors[0].traceback[-12:]) if errors else ''


def work_on(page, verb):
    "Execute a page and write it if asked; what is wrong goes to stdout and gives exit code 1."
    done = execute(page, everything=verb == 'bare')
    wrong = failed_cell(done)
    if wrong:
        print(wrong)
        return 1
    if verb == 'write':
        from nbdev.clean import clean_nb

        clean_nb(done, allowed_cell_metadata_keys=['jupyter', 'slideshow'])
        nbformat.write(done, page)
    return 0


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


def prepare_environment(verb):
    "One thread, no windows, nothing slow, the real data where it is wanted and there, libraries loaded."
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


def run_pages(verb, pages):
    "Work on the pages, as many at once as there are processors; the names of those that failed."
    prepare_environment(verb)
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


def main(names):
    verb = names.pop(0) if names[:1] and names[0] in ('write', 'compare', 'bare') else 'write'
    if verb == 'compare':
        return compare(names)
    pages = [Path(n).resolve() for n in names] or all_pages()
    if verb == 'bare' and not names:  # the other pages run the same cells with data and without
        pages = [p for p in pages if guarded(nbformat.read(p, 4))]
    failed = run_pages(verb, pages)
    if failed:
        sys.exit(f'{len(failed)} pages failed: {", ".join(failed)}')


if __name__ == '__main__':
    main(sys.argv[1:])
