"What several test files share."

import ctypes
import os
import subprocess

import pytest
from processes import completed, finish, snet_command

from snetlib.core import test_data

CLONE_NEWNS = 0x20000  # of Linux: mounts of our own


class SmallDisk:
    "A file system of `size` in a mount namespace of its own, at `path`; it lives as long as one `run`."

    def __init__(self, path, size='1m'):
        self.path, self.size = path, size
        path.mkdir()

    def mount(self):
        "In a process of its own: a mount that nobody else sees. Raises `OSError`, `CalledProcessError`."
        if ctypes.CDLL(None).unshare(CLONE_NEWNS):
            raise OSError('no mounts of our own here')  # what follows would change everybody's
        subprocess.run(['mount', '--make-rprivate', '/'], check=True)
        command = ['mount', '-t', 'tmpfs', '-o', f'size={self.size}', 'tmpfs', self.path]
        subprocess.run(command, check=True)

    def run(self, *steps):
        "Shell code (a text), functions, and `snet` with these words (a list), in turn, on the small disk."

        def work():
            self.mount()
            for step in steps:
                if isinstance(step, str):
                    subprocess.run(['sh', '-c', step])
                    continue
                if callable(step):
                    step()
                    continue
                pid = os.fork()
                if not pid:
                    finish(snet_command(step))
                print('code', os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)

        done = completed(work, steps)
        if 'mount' in done.stderr and 'snet:' not in done.stderr:
            pytest.skip('no tmpfs here: ' + done.stderr.strip())
        assert done.returncode == 0, done.stderr
        return done


def pytest_runtest_logreport(report):
    "Say at once what failed: a run that is stopped says nothing at its end."
    if report.failed and 'PYTEST_XDIST_WORKER' not in os.environ:
        why = str(report.longrepr).splitlines()[-1:]
        print(f'\n{report.nodeid} failed after {report.duration:.0f} s:', *why, flush=True)


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
