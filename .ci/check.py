"Everything that must hold before a change lands: `make test`. Steps by name, e.g. `python .ci/check.py pages`, run alone."

import filecmp
import gc
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
DATA = Path(os.environ.get('SNET_TEST_DATA', ROOT / '../shared/data'))
sys.path.insert(0, str(Path(__file__).parent))


def run(*cmd, cwd=ROOT, **env):
    "Run a command; leave with its exit code if it fails."
    done = subprocess.run(list(map(str, cmd)), cwd=cwd, env={**os.environ, **env})
    if done.returncode:
        sys.exit(f'FAILED ({done.returncode}): {" ".join(map(str, cmd))}')


def differing(a, b, pattern):
    "Relative paths of the files that differ between two folders."
    names = {
        p.relative_to(d)
        for d in (a, b)
        for p in d.rglob(pattern)
        if not {'__pycache__', '.ipynb_checkpoints'} & set(p.parts)
    }
    return sorted(
        str(n)
        for n in names
        if not ((a / n).exists() and (b / n).exists() and filecmp.cmp(a / n, b / n, shallow=False))
    )


def sync():
    "A fresh export of the notebooks equals snetlib/, cleaning changes nothing, and README.md is the rendered index."
    import readme

    with tempfile.TemporaryDirectory() as d:
        copy = Path(d) / 'repo'
        shutil.copytree(
            ROOT,
            copy,
            ignore=shutil.ignore_patterns(
                '.venv',
                '.git',
                'demo',
                'runs',
                'build',
                'dist',
                '*.egg-info',
                '__pycache__',
                '.ipynb_checkpoints',
            ),
        )
        shutil.rmtree(copy / 'snetlib')
        (copy / 'snetlib').mkdir()
        shutil.copy(ROOT / 'snetlib/__init__.py', copy / 'snetlib')
        run(BIN / 'nbdev_export', cwd=copy)
        run(BIN / 'nbdev_clean', cwd=copy)
        stale, dirty = (
            differing(ROOT / 'snetlib', copy / 'snetlib', '*.py'),
            differing(ROOT / 'nbs', copy / 'nbs', '*.ipynb'),
        )
    if stale:
        sys.exit(f'snetlib/ is not what the notebooks export: {", ".join(stale)}; run: make export')
    if dirty:
        sys.exit(f'These notebooks are not clean: {", ".join(dirty)}; run: make export')
    if readme.render() != (ROOT / 'README.md').read_text(encoding='utf-8'):
        sys.exit('README.md is not what nbs/index.ipynb renders to; run: make readme')


# what most pages import: loaded once, by the process that every page's own process is forked from
LIBRARIES = [
    'torch',
    'fastai.vision.all',
    'timm',
    'kornia.augmentation',
    'monai.networks.nets',
    'pandas',
    'scipy.stats',
    'nibabel',
    'matplotlib.pyplot',
    'nbdev.test',
]


def start_page(page, flags, log):
    "A new process that runs `nbdev_test` on one page, from top to bottom as a reader does, and ends with its exit code; what it says goes into the open file `log`."
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    from nbdev.test import nbdev_test

    sys.exit(nbdev_test(path=str(page), flags=flags, n_workers=0))


def pages():
    "Every page runs from top to bottom; the cells flagged `data` too, where real data lies beside the checkout."
    if not DATA.is_dir():
        print('no real data at', DATA, '- cells flagged `data` are left out')
    os.environ.update(OMP_NUM_THREADS='1', MPLBACKEND='Agg')
    os.chdir(ROOT)
    for library in LIBRARIES:
        importlib.import_module(library)
    gc.collect()
    gc.freeze()  # a page's process need not clear up what it did not load
    every, running, failed = (
        sorted(p for p in (ROOT / 'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts),
        {},
        [],
    )

    def wait():
        pid, status = os.wait()
        page, start, log = running.pop(pid)
        print(
            f'{"FAILED" if status else "ok"} {page.relative_to(ROOT)} {time.time() - start:.0f} s', flush=True
        )
        if status:
            failed.append(page)
            log.seek(0)
            print(os.waitstatus_to_exitcode(status), log.read()[-6000:], flush=True)

    for page in every:
        if len(running) == (os.cpu_count() or 2):
            wait()
        log = tempfile.TemporaryFile('w+', errors='replace')
        running[start_page(page, 'data' if DATA.is_dir() else '', log)] = page, time.time(), log
    while running:
        wait()
    if failed:
        sys.exit(f'{len(failed)} of {len(every)} pages failed: {", ".join(p.name for p in failed)}')


def tests():
    "What a notebook cannot show."
    run(
        BIN / 'python',
        '-m',
        'pytest',
        '-q',
        '-n',
        os.cpu_count() or 2,
        '--dist',
        'loadfile',
        '--durations=8',
        'tests',
        OMP_NUM_THREADS='1',
    )


def wheel():
    "The wheel holds the whole package: install it alone into a new environment and import from there."
    with tempfile.TemporaryDirectory() as d:
        d = Path(d)
        copy = d / 'repo'
        shutil.copytree(
            ROOT,
            copy,
            ignore=shutil.ignore_patterns(
                '.venv', '.git', 'nbs', 'tests', 'demo', 'runs', 'build', 'dist', '*.egg-info', '__pycache__'
            ),
        )
        run(BIN / 'python', '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation', '-w', d, copy)
        run(sys.executable, '-m', 'venv', '--without-pip', d / 'env')
        site = next((d / 'env').glob('lib/python*/site-packages'))
        run(
            BIN / 'python',
            '-m',
            'pip',
            'install',
            '-q',
            '--no-deps',
            '--no-warn-script-location',
            '--target',
            site,
            next(d.glob('snetlib-*.whl')),
        )
        # the dependencies are borrowed from this environment; snetlib itself must come from the wheel
        (site / 'borrowed.pth').write_text(
            next(BIN.parent.glob('lib/python*/site-packages')).as_posix() + '\n'
        )
        code = (
            'import sys, snetlib; from snetlib.models import SNet, create_model, list_models; import snetlib.cli; '
            f'assert snetlib.__file__.startswith({str(site)!r}), snetlib.__file__; print("from the wheel:", len(list_models()), "models")'
        )
        run(d / 'env/bin/python', '-I', '-c', code, cwd=d)


STEPS = dict(sync=sync, pages=pages, wheel=wheel, tests=tests)
if __name__ == '__main__':
    os.environ.setdefault('SNET_TEST_DATA', str(DATA)) if DATA.is_dir() else None
    for name in sys.argv[1:] or STEPS:
        start = time.time()
        print(f'== {name}: {STEPS[name].__doc__}', flush=True)
        STEPS[name]()
        print(f'== {name}: {time.time() - start:.0f} s', flush=True)
