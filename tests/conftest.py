"What several test files share."

import subprocess

import pytest
from processes import ENV

from snetlib.core import test_data


class SmallDisk:
    "A file system of `size` in a mount namespace of its own, at `path`; it lives as long as one `run`."

    def __init__(self, path, size='1m'):
        self.path, self.size = path, size
        path.mkdir()

    def run(self, command, then=''):
        "Run a command (a list) on the small disk, then shell code in which \"$@\" is the command again."
        mount = f'mount -t tmpfs -o size={self.size} tmpfs {self.path}'
        code = f'{mount} && {{ "$@"; echo "code $?"; {then} }}'
        argv = ['unshare', '-m', 'sh', '-c', code, 'sh', *map(str, command)]
        done = subprocess.run(argv, capture_output=True, text=True, env=ENV)
        if 'mount' in done.stderr and 'snet:' not in done.stderr:
            pytest.skip('no tmpfs here: ' + done.stderr.strip())
        return done


@pytest.fixture
def small_disk(tmp_path):
    "A file system of one megabyte: what happens when the disk is full."
    if subprocess.run(['unshare', '-m', 'true'], capture_output=True).returncode:
        pytest.skip('no private mounts here (needs root)')
    return SmallDisk(tmp_path / 'disk')


@pytest.fixture
def real_data():
    "A function from a data set's name to its folder of real data; skips where there is none."

    def folder(name):
        found = test_data(name)
        if found is None:
            pytest.skip(f'no real data of {name} here; set SNET_TEST_DATA')
        return found

    return folder
