"The `snet` command in processes of its own, and what a refusal looks like."

import gc
import importlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from contextlib import contextmanager
from functools import lru_cache

ENV = {**os.environ, 'OMP_NUM_THREADS': '1'}
LONGEST = 540  # seconds; a forked process that hangs is killed, so that its test fails and is named
SNET = [sys.executable, '-c', 'from snetlib.cli import main; main()']


def fresh(*args):
    "`snet` as it is typed: a new interpreter, which first imports everything (seconds)."
    return subprocess.run([*SNET, *map(str, args)], capture_output=True, text=True, env=ENV, timeout=600)


LIBRARIES = """fastjsonschema torch._dynamo torch._inductor pydantic.type_adapter tabulate
pandas.io.formats.style matplotlib.backends.backend_agg snetlib.cli snetlib.evaluate snetlib.predict.predictor
snetlib.predict.export snetlib.predict.summary snetlib.train.run snetlib.reproduce.everything""".split()


@lru_cache(None)
def load():
    "Import once, here, what a forked command then need not: seconds for a command that trains."
    import torch

    for library in LIBRARIES:
        importlib.import_module(library)
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()  # the collector of a forked process need not look at all this again


def forked(fn, out, err):
    """The number of a forked process that runs fn and writes into two open files.

    It ends with 0, with the code of a SystemExit, or with 70 for any other error.
    """
    load()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    sys.stdout, sys.stderr = out, err
    forget_pool()
    forget_locks()
    signal.alarm(LONGEST)
    try:
        fn()
        code = 0
    except SystemExit as e:
        code = e.code or 0
    except BaseException:
        traceback.print_exc()
        code = 70
    out.flush()
    err.flush()
    os._exit(code)


def forget_pool():
    "A pool of joblib that an earlier test started answers to its own process only; here it would hang."
    from joblib.externals.loky import reusable_executor

    reusable_executor._executor = None


def forget_locks():
    "A figure that another thread was drawing holds matplotlib's lock; here nobody would open it."
    from matplotlib.figure import Figure

    Figure._render_lock = threading.RLock()


def ended(pid):
    "The exit code of a forked process, once it has ended; negative for a signal."
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Started:
    "A forked process that is at work: its number, and what it says on stderr."

    def __init__(self, fn):
        self.err = tempfile.TemporaryFile('w+')
        self.code = None
        with open(os.devnull, 'w') as nowhere:
            self.pid = forked(fn, nowhere, self.err)

    def poll(self):
        "The exit code, or None while it works."
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def send_signal(self, number):
        os.kill(self.pid, number)

    def wait(self, seconds=120):
        "The exit code, once it has ended."
        deadline = time.time() + seconds
        while self.poll() is None:
            assert time.time() < deadline, 'the process does not end'
            time.sleep(0.02)
        return self.code

    def said(self):
        "What it has said on stderr."
        self.err.seek(0)
        return self.err.read()


@contextmanager
def started(fn):
    "fn at work in a forked process; killed, if it still lives, when the block is left."
    process = Started(fn)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait()
        process.err.close()


def snet_command(args):
    "A function that runs `snet` with these words, to be run in a forked process."

    def command():
        from snetlib.cli import main

        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.alarm(600)  # a command that hangs is killed
        main(list(map(str, args)))

    return command


def completed(fn, args):
    "fn in a forked process, once it has ended: exit code, stdout and stderr; `args` say what it was."
    with tempfile.TemporaryFile('w+') as out, tempfile.TemporaryFile('w+') as err:
        code = ended(forked(fn, out, err))
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(args, code, out.read(), err.read())


def snet(*args):
    "`snet` in a forked process: its own memory, streams and exit code, and no importing."
    return completed(snet_command(args), args)


def refused(done, *words):
    "Exit code 1 and one sentence on stderr that holds these words: the sentence."
    assert done.returncode == 1, (done.returncode, done.stdout, done.stderr)
    assert 'Traceback' not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith('snet: ') and all(w in last for w in words), done.stderr
    return last
