"The `snet` command in processes of its own, and what a refusal looks like."

import gc
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import traceback
from contextlib import contextmanager

import cloudpickle

ENV = {**os.environ, 'OMP_NUM_THREADS': '1'}
LONGEST = 240  # seconds; a process that hangs is killed, so that its test fails and is named
SNET = [sys.executable, '-c', 'from snetlib.cli import main; main()']


def fresh(*args):
    "`snet` as it is typed: a new interpreter, which first imports everything (seconds)."
    return subprocess.run([*SNET, *map(str, args)], capture_output=True, text=True, env=ENV, timeout=600)


# imported once by the server of processes, so that a command that trains need not: seconds for each
LIBRARIES = """torch._dynamo torch._inductor fastjsonschema pydantic.type_adapter tabulate
pandas.io.formats.style matplotlib.backends.backend_agg snetlib.cli snetlib.evaluate snetlib.predict.predictor
snetlib.predict.export snetlib.predict.summary snetlib.train.run snetlib.reproduce.everything""".split()
SERVER = multiprocessing.get_context('forkserver')
SERVER.set_forkserver_preload(LIBRARIES)


def child(work, environment, out, err):
    "A process of the server does the pickled work; its two streams go to the files of these names."
    import torch

    for number, name in ((1, out), (2, err)):
        os.dup2(os.open(name, os.O_WRONLY | os.O_APPEND), number)
    sys.stdout, sys.stderr = (os.fdopen(n, 'w', buffering=1, encoding='utf-8', closefd=False) for n in (1, 2))
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    gc.freeze()  # the collector need not look at all these libraries again
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # a job in the background may ignore it
    signal.alarm(LONGEST)
    finish(lambda: pickle.loads(work)())


def finish(fn):
    "Do it, and end this process with 0, the code of a SystemExit, or 70 for any other error."
    try:
        fn()
        code = 0
    except SystemExit as e:
        code = e.code or 0
    except BaseException:
        traceback.print_exc()
        code = 70
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def forked(fn, out=os.devnull, err=os.devnull):
    """A process that runs fn, forked from a server that has imported everything and done nothing else.

    A fork of the tests' own process would inherit what they left: locks held by threads that the fork
    has not, pools that answer to another process. `out` and `err` name the files of its streams.
    """
    work = cloudpickle.dumps(fn)
    process = SERVER.Process(target=child, args=(work, dict(os.environ), str(out), str(err)))
    process.start()
    return process


def ended(process):
    "The exit code of a process, once it has ended; negative for a signal."
    process.join()
    return process.exitcode


class Started:
    "A process that is at work: its number, and what it says on stderr."

    def __init__(self, fn):
        self.err = tempfile.NamedTemporaryFile('r')
        self.process = forked(fn, err=self.err.name)
        self.pid = self.process.pid

    def poll(self):
        "The exit code, or None while it works."
        return self.process.exitcode

    def send_signal(self, number):
        os.kill(self.pid, number)

    def wait(self, seconds=120):
        "The exit code, once it has ended."
        self.process.join(seconds)
        assert self.poll() is not None, 'the process does not end'
        return self.poll()

    def said(self):
        "What it has said on stderr."
        self.err.seek(0)
        return self.err.read()


@contextmanager
def started(fn):
    "fn at work in a process of its own; killed, if it still lives, when the block is left."
    process = Started(fn)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait()
        process.err.close()


def nothing():
    "What comes before most commands."


def hide(package):
    "As if a package were not installed."
    sys.modules[package] = None


def snet_command(args, first=nothing):
    "A function that runs `snet` with these words, after `first`, to be run in a process of its own."

    def command():
        from snetlib.cli import main

        signal.signal(signal.SIGINT, signal.default_int_handler)
        first()
        main(list(map(str, args)))

    return command


def completed(fn, args):
    "fn in a process of its own, once it has ended: exit code, stdout and stderr; `args` say what it was."
    with tempfile.NamedTemporaryFile('r') as out, tempfile.NamedTemporaryFile('r') as err:
        code = ended(forked(fn, out.name, err.name))
        return subprocess.CompletedProcess(args, code, out.read(), err.read())


def snet(*args, first=nothing):
    "`snet` in a process of its own: its own memory, streams and exit code, and no importing."
    return completed(snet_command(args, first), args)


def refused(done, *words):
    "Exit code 1 and one sentence on stderr that holds these words: the sentence."
    assert done.returncode == 1, (done.returncode, done.stdout, done.stderr)
    assert 'Traceback' not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith('snet: ') and all(w in last for w in words), done.stderr
    return last
