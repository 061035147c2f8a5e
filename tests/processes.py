"The `snet` command in processes of its own, and what a refusal looks like."
import os, signal, subprocess, sys, tempfile, traceback
from functools import lru_cache

ENV = {**os.environ, 'OMP_NUM_THREADS': '1'}
SNET = [sys.executable, '-c', 'from snetlib.cli import main; main()']


def fresh(*args):
    "`snet` as it is typed: a new interpreter, which first imports everything (seconds)."
    return subprocess.run([*SNET, *map(str, args)], capture_output=True, text=True, env=ENV, timeout=600)


@lru_cache(None)
def load():
    "Import once, here, what a forked command then need not."
    import kornia.augmentation, nilearn.datasets, torch                 # noqa: F401
    import snetlib.cli, snetlib.evaluate, snetlib.infer, snetlib.train  # noqa: F401
    torch.set_num_threads(1)


def snet(*args):
    "`snet` in a forked process: its own memory, streams and exit code, and no importing."
    load()
    with tempfile.TemporaryFile('w+') as out, tempfile.TemporaryFile('w+') as err:
        sys.stdout.flush(); sys.stderr.flush(); pid = os.fork()
        if not pid: command(list(map(str, args)), out, err)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        out.seek(0); err.seek(0)
        return subprocess.CompletedProcess(args, code, out.read(), err.read())


def command(argv, out, err):
    "Be `snet` with these arguments, and end."
    from snetlib.cli import main
    signal.alarm(600)                   # a command that hangs is killed
    os.dup2(out.fileno(), 1); os.dup2(err.fileno(), 2); sys.stdout, sys.stderr = out, err
    try: main(argv); code = 0
    except SystemExit as e: code = e.code or 0
    except BaseException: traceback.print_exc(); code = 70
    out.flush(); err.flush(); os._exit(code)


def refused(done, *words):
    "Exit code 1 and one sentence on stderr that holds these words: the sentence."
    assert done.returncode == 1, (done.returncode, done.stdout, done.stderr)
    assert 'Traceback' not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith('snet: ') and all(w in last for w in words), done.stderr
    return last
