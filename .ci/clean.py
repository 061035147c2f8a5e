"sdist, wheel, a new environment with what pip resolves today, and the commands a user gives there."

import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from pathlib import Path

from check import copy_of_the_tree

SAID = """
import importlib.metadata as m, warnings
warnings.simplefilter('error')
import snetlib, snetlib.models
print(snetlib.__file__)
names = 'torch torchvision fastai fastcore timm monai numpy scipy pandas typer nilearn'.split()
print(*(f'{n} {m.version(n)}' for n in names), sep=', ')
"""
SMALL = '--recipe smoke --set size=32 --set epochs=1 --set bs=8'.split()
COMMANDS = [  # words of `snet`, and what it must print
    (['--version'], 'snetlib 0.'),
    (['demo', '--seconds', '5', '--out', 'demo'], 'report.html'),
    (['train', 'mni', '--out', 'run', *SMALL], '1 epochs'),
    (['reproduce', 'table4', '--out', 'tables'], 'SNet'),
    (['reproduce', 'table5', '--scale', 'smoke', '--seeds', '1', '--cache', 'runs'], 'table5_smoke.html'),
]


def run(*command, cwd):
    "What a command prints; leaves with its words if it fails."
    command = [str(c) for c in command]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f'FAILED ({done.returncode}): {" ".join(command)}\n{done.stdout}{done.stderr}')
    return done.stdout


def built(folder):
    "The wheel, made from the source archive, which is made from a copy of the checkout."
    copy = copy_of_the_tree(folder, 'nbs', 'tests')
    run(sys.executable, '-m', 'build', '--outdir', folder / 'dist', copy, cwd=folder)
    return next((folder / 'dist').glob('snetlib-*.whl'))


def environment(folder):
    "(its Python, its snet) of a new environment."
    venv.create(folder, with_pip=True)
    scripts = Path(sysconfig.get_path('scripts', 'venv', {'base': str(folder)}))
    return scripts / Path(sys.executable).name, scripts / 'snet'


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        wheel = built(folder)
        python, snet = environment(folder / 'env')
        run(python, '-m', 'pip', 'install', '-q', f'{wheel}[baselines]', cwd=folder)
        print(run(python, '-I', '-c', SAID, cwd=folder), flush=True)
        for words, expected in COMMANDS:
            began = time.time()
            out = run(snet, *words, cwd=folder)
            print(f'snet {" ".join(words)}: {time.time() - began:.0f} s\n{out[-600:]}', flush=True)
            if expected not in out:
                sys.exit(f'FAILED: snet {words[0]} did not print {expected}')


if __name__ == '__main__':
    main()
