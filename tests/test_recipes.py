"The recipes of make.py, with and without make; every program of the environment only repeats its words."

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIST = dict(
    re.split(r'\s+', line, maxsplit=1)
    for line in subprocess.check_output([sys.executable, ROOT / 'make.py'], text=True).splitlines()
)


@pytest.fixture
def checkout(tmp_path):
    "A copy with an environment in which every program prints its name and words."
    for name in ('make.py', 'Makefile', 'settings.ini', 'setup.py', 'constraints.txt'):
        shutil.copy(ROOT / name, tmp_path)
    scripts = tmp_path / '.venv/bin'
    scripts.mkdir(parents=True)
    for name in 'python snet jupyter nbdev_export nbdev_clean nbdev_install_hooks ruff'.split():
        program = scripts / name
        program.write_text(f'#!/bin/sh\necho "{name} $@"\n[ "$1" != fail.py ]\n')
        program.chmod(0o755)
    (tmp_path / '.venv/.ready').touch()
    return tmp_path


def said(checkout, *words, code=0, **env):
    "What a command prints; a make around these tests lends it neither flags nor level."
    plain = {name: value for name, value in os.environ.items() if not name.startswith(('MAKE', 'MFLAGS'))}
    done = subprocess.run(words, cwd=checkout, capture_output=True, text=True, env={**plain, **env})
    assert done.returncode == code, done.stderr
    return done.stdout


def test_make_and_python_know_the_same_recipes():
    named = re.search(r'^RECIPES := ((?:.*\\\n)*.*)', (ROOT / 'Makefile').read_text(), re.M)[1]
    assert named.replace('\\\n', ' ').split() == list(LIST)
    assert all(LIST.values())


@pytest.mark.skipif(os.name == 'nt', reason='the programs of this test are shell scripts')
@pytest.mark.parametrize(
    'name, expected',
    [
        ('demo', 'snet demo --out demo'),
        ('test', 'python .ci/check.py'),
        ('export', 'nbdev_export \nnbdev_clean '),
        ('fuzz', 'python tests/fuzz.py --inputs 5000 --seed 0'),
        ('hooks', 'nbdev_install_hooks '),
    ],
)
def test_a_recipe_is_one_with_and_without_make(checkout, name, expected):
    assert said(checkout, sys.executable, 'make.py', name).strip() == expected.strip()
    if shutil.which('make'):
        (checkout / name).mkdir()  # a folder of that name is no reason to do nothing
        python = f'PYTHON={sys.executable}'
        assert said(checkout, 'make', python, name).strip() == expected.strip()


@pytest.mark.skipif(os.name == 'nt', reason='the programs of this test are shell scripts')
def test_words_after_make_reach_the_recipe_and_failures_reach_the_caller(checkout):
    out = said(checkout, sys.executable, 'make.py', 'fuzz', N='7', SEED='3')
    assert out.strip() == 'python tests/fuzz.py --inputs 7 --seed 3'
    if shutil.which('make'):
        out = said(checkout, 'make', f'PYTHON={sys.executable}', 'fuzz', 'N=7')
        assert '--inputs 7' in out
    (checkout / '.venv/bin/snet').write_text('#!/bin/sh\nexit 3\n')
    said(checkout, sys.executable, 'make.py', 'demo', code=3)
    said(checkout, sys.executable, 'make.py', 'nonsense', code=1)


@pytest.mark.skipif(os.name == 'nt', reason='the programs of this test are shell scripts')
def test_the_environment_is_made_anew_when_its_files_change(checkout):
    assert said(checkout, sys.executable, 'make.py', 'install') == ''
    (checkout / '.venv/.ready').unlink()
    out = said(checkout, sys.executable, 'make.py', 'install', CPU='')
    assert 'pip install' in out and '-c constraints.txt -e .[dev,docs,baselines]' in out
    assert '+cpu' not in out and (checkout / '.venv/.ready').exists()
    (checkout / '.venv/.ready').unlink()
    assert re.search(r'torch==[\d.]+\+cpu', said(checkout, sys.executable, 'make.py', 'test', CPU='1'))
    assert said(checkout, sys.executable, 'make.py', 'test').strip() == 'python .ci/check.py'
