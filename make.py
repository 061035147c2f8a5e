"""Every recipe of this checkout: `python make.py test` is `make test` where there is no make.

Needs Python ≥ 3.10 and a package index; .venv is made when it is missing.
"""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
HOME = ROOT / '.venv'
BIN = HOME / ('Scripts' if os.name == 'nt' else 'bin')
READY = HOME / '.ready'
FILES = ('settings.ini', 'setup.py', 'constraints.txt')  # of which the environment is made
STYLED = ('nbs', 'tests', '.ci', 'setup.py', 'make.py')
RECIPES = {}


def recipe(function):
    "Decorator: what `make NAME` and `python make.py NAME` do; the docstring is the help."
    RECIPES[function.__name__.replace('_', '-')] = function
    return function


def run(name, *words):
    "Run a program of the environment; leave with its exit code if it fails."
    install()
    call(BIN / name, *words)


def call(*command):
    "Run a command in the checkout; leave with its exit code if it fails."
    code = subprocess.run([str(word) for word in command], cwd=ROOT).returncode
    if code:
        sys.exit(code)


@recipe
def help():
    "this list"
    for name, function in RECIPES.items():
        print(f'{name:14}{function.__doc__}')


@recipe
def demo():
    "train SNet and a U-Net on a real MRI, predict an unseen slab, write demo/report.html"
    run('snet', 'demo', '--out', 'demo')


@recipe
def test():
    "what CI runs: style, export in sync, every page, every test, the wheel"
    run('python', '.ci/check.py')


@recipe
def lab():
    "JupyterLab on the course, on this machine only"
    run('jupyter', 'lab', '--ip', '127.0.0.1', '--notebook-dir', 'nbs', 'nbs/course.ipynb')


@recipe
def student():
    "clean copies of the lessons in work/, without solutions, with nbgrader's tags"
    run('python', '.ci/student.py')


@recipe
def slides():
    "a slide deck of every lesson in site/slides/"
    run('python', '.ci/slides.py')


@recipe
def docs():
    "pages and API reference as a searchable site in site/"
    run('python', '.ci/docs.py')


@recipe
def export():
    "notebooks -> snetlib/"
    run('nbdev_export')
    run('nbdev_clean')


@recipe
def path():
    "headers, links to the neighbours, and the page of the course"
    run('python', '.ci/path.py')


@recipe
def runall():
    "Run All of every page in a bare clone, counted and timed"
    run('python', '.ci/runall.py')


@recipe
def pages():
    "execute every page and write what it prints and draws"
    run('python', '.ci/pages.py', 'write')
    run('python', '.ci/readme.py')


@recipe
def format():
    "one style for pages, tests and scripts"
    run('ruff', 'check', '--fix', *STYLED)
    run('ruff', 'format', *STYLED)


@recipe
def clean_wheel():
    "wheel, a new environment with what pip resolves today, and the commands users give there"
    run('python', '.ci/clean.py')


@recipe
def fuzz():
    "5,000 damaged files: the right result or one sentence; N=… and SEED=… change it"
    inputs, seed = (os.environ.get(key) or default for key, default in (('N', 5000), ('SEED', 0)))
    run('python', 'tests/fuzz.py', '--inputs', inputs, '--seed', seed)


@recipe
def bench():
    "speed and memory as ratios within one run"
    run('python', 'tests/bench/run.py')


@recipe
def bench_load():
    "100, 1,000 and 10,000 cases through the commands; N=… gives other numbers"
    run('python', 'tests/bench/load.py', *os.environ.get('N', '').split())


@recipe
def bench_models():
    "what every network of the papers costs -> data/results/costs.csv"
    run('python', 'tests/bench/bench_costs.py', '--rounds', '3', '--write', 'data/results/costs.csv')


@recipe
def gpu():
    "ten minutes on an NVIDIA GPU: speed, memory, precision, a run that continues"
    run('python', 'tests/bench/gpu.py')


@recipe
def record():
    "the last demonstration's picture, scores and curves -> README and its page"
    for source, target in (
        ('demo/picture.png', 'nbs/images/demo.png'),
        ('demo/scores.csv', 'data/results/demo.csv'),
        ('demo/curves.csv', 'data/results/demo_curves.csv'),
    ):
        (ROOT / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / source, ROOT / target)


@recipe
def readme():
    "nbs/index.ipynb -> README.md"
    run('python', '.ci/readme.py')


@recipe
def hooks():
    "git hooks that keep notebooks clean and merges readable"
    run('nbdev_install_hooks')


@recipe
def install():
    "the environment in .venv, once; CPU=1: without CUDA"
    if is_ready():
        return
    print('Installing into .venv: about 3 GB to download and 7 GB on disk, most of it PyTorch; once.')
    if not (BIN / 'python').exists() and not (BIN / 'python.exe').exists():
        venv.create(HOME, with_pip=True)
    pip = (BIN / 'python', '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check')
    if os.environ.get('CPU'):
        install_small_torch(pip)
    call(*pip, '-c', 'constraints.txt', '-e', '.[dev,docs,baselines]')
    READY.touch()


def is_ready():
    "Whether the environment is younger than the files it is made of."
    made = READY.stat().st_mtime if READY.exists() else 0
    return all((ROOT / name).stat().st_mtime <= made for name in FILES)


def install_small_torch(pip):
    "PyTorch without CUDA, where the package index has it."
    print('CPU=1: PyTorch without CUDA, about 1 GB on disk in place of 5, where the index offers it.')
    lines = (ROOT / 'constraints.txt').read_text(encoding='utf-8').splitlines()
    pinned = next(line for line in lines if line.startswith('torch=='))
    if subprocess.run([*map(str, pip), f'{pinned}+cpu'], cwd=ROOT).returncode:
        print('The package index has no PyTorch for the processor alone; the usual one is installed.')


@recipe
def clean():
    "remove the environment and everything that can be made again"
    for folder in (HOME, ROOT / 'build', ROOT / 'dist', ROOT / 'demo', *ROOT.glob('*.egg-info')):
        shutil.rmtree(folder, ignore_errors=True)


def main(names):
    if sys.version_info < (3, 10):  # noqa: UP036
        sys.exit('snetlib needs Python 3.10 or newer; try: make PYTHON=python3.11, or python3.11 make.py')
    unknown = [name for name in names if name not in RECIPES]
    if unknown:
        sys.exit(f'There is no recipe {unknown[0]}; see all with: python make.py help')
    for name in names or ['help']:
        RECIPES[name]()


if __name__ == '__main__':
    main(sys.argv[1:])
