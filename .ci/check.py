"Everything that must hold before a change lands. `python .ci/check.py pages` runs one step alone."

import filecmp
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
DATA = Path(os.environ.get('SNET_TEST_DATA', ROOT / '../shared/data')).resolve()
SKIP = (
    '.venv .git demo runs build dist *.egg-info __pycache__ .ipynb_checkpoints _modidx.py work site'.split()
)
CORES = str(os.cpu_count() or 2)
sys.path[:0] = [str(Path(__file__).parent), str(ROOT)]


def run(*command, cwd=ROOT, **env):
    "Run a command; leave with its exit code if it fails."
    command = [str(c) for c in command]
    done = subprocess.run(command, cwd=cwd, env={**os.environ, **env})
    if done.returncode:
        sys.exit(f'FAILED ({done.returncode}): {" ".join(command)}')


def copy_of_the_tree(folder, *without):
    "A copy of the checkout without what can be made again."
    copy = Path(folder) / 'repo'
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*SKIP, *without))
    return copy


def differing(a, b, pattern):
    "Relative paths of the files that differ between two folders."
    hidden = {'__pycache__', '.ipynb_checkpoints', '_modidx.py'}
    found = [p.relative_to(d) for d in (a, b) for p in d.rglob(pattern)]
    names = sorted({n for n in found if not hidden & set(n.parts)})

    def equal(name):
        both = (a / name).exists() and (b / name).exists()
        return both and filecmp.cmp(a / name, b / name, shallow=False)

    return [str(n) for n in names if not equal(n)]


def style():
    "A line is a sentence: ruff over pages, tests and scripts."
    from make import STYLED

    run(BIN / 'ruff', 'check', *STYLED)
    run(BIN / 'ruff', 'format', '--check', '--quiet', *STYLED)


def sync():
    "A fresh export equals snetlib/, cleaning changes nothing, and README.md is the rendered index."
    import readme

    with tempfile.TemporaryDirectory() as folder:
        copy = copy_of_the_tree(folder)
        for module in (copy / 'snetlib').rglob('*.py'):
            if module != copy / 'snetlib/__init__.py':
                module.unlink()
        run(BIN / 'nbdev_export', cwd=copy)
        run(BIN / 'nbdev_clean', cwd=copy)
        stale = differing(ROOT / 'snetlib', copy / 'snetlib', '*.py')
        dirty = differing(ROOT / 'nbs', copy / 'nbs', '*.ipynb')
    if stale:
        sys.exit(f'snetlib/ is not what the notebooks export: {", ".join(stale)}; run: make export')
    if dirty:
        sys.exit(f'These notebooks are not clean: {", ".join(dirty)}; run: make export')
    if readme.render() != (ROOT / 'README.md').read_text(encoding='utf-8'):
        sys.exit('README.md is not what nbs/index.ipynb renders to; run: make readme')


def pages():
    "`nbdev_test` of every page, which prints what is committed; those with guards also without real data."
    run(BIN / 'python', '.ci/pages.py', 'compare')
    run(BIN / 'python', '.ci/pages.py', 'bare')


def tests():
    "What a notebook cannot show."
    asked = ['-n', CORES, '--maxfail', '10', '-o', 'faulthandler_timeout=300']  # says where a test hangs
    run(BIN / 'python', '-m', 'pytest', *asked, 'tests', OMP_NUM_THREADS='1')


def wheel():
    "sdist, then wheel, installed alone into a new environment: imports, models and the papers' tables."
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        copy = copy_of_the_tree(folder, 'nbs', 'tests')
        run(BIN / 'python', '-m', 'build', '--no-isolation', '--outdir', folder / 'dist', copy)
        run(sys.executable, '-m', 'venv', '--without-pip', folder / 'env')
        site = next((folder / 'env').glob('lib/python*/site-packages'))
        wheel = next((folder / 'dist').glob('snetlib-*.whl'))
        install = [BIN / 'python', '-m', 'pip', 'install', '-q', '--no-deps', '--no-warn-script-location']
        run(*install, '--target', site, wheel)
        # the dependencies are borrowed from this environment; snetlib itself must come from the wheel
        borrowed = next(BIN.parent.glob('lib/python*/site-packages'))
        (site / 'borrowed.pth').write_text(borrowed.as_posix() + '\n')
        run(folder / 'env/bin/python', '-I', '-c', IN_THE_WHEEL, site, cwd=folder)


IN_THE_WHEEL = """
import sys
import snetlib, snetlib.cli
from snetlib.models import list_models
from snetlib.reproduce.our_experiments import EXPERIMENTS
from snetlib.reproduce.papers import paper_table
assert snetlib.__file__.startswith(sys.argv[1]), snetlib.__file__
assert all(len(paper_table(name)) for name, e in EXPERIMENTS.items() if e.paper)
print('from the wheel:', len(list_models()), 'models')
"""

STEPS = dict(style=style, sync=sync, pages=pages, wheel=wheel, tests=tests)


def main(names):
    if DATA.is_dir():
        os.environ.setdefault('SNET_TEST_DATA', str(DATA))
    for name in names or STEPS:
        began = time.time()
        print(f'== {name}: {STEPS[name].__doc__}', flush=True)
        STEPS[name]()
        print(f'== {name}: {time.time() - began:.0f} s', flush=True)


if __name__ == '__main__':
    main(sys.argv[1:])
