"""Run All of every page, as a reader does it: `python .ci/runall.py [missing | PAGE ...]`.

The pages run by nbconvert in a fresh clone without real data. Each page's seconds of processor time go to
`.ci/times.json`, from which the headers of the pages take their running times. `missing` runs the pages
that have no time yet: a stopped run goes on there.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TIMES = ROOT / '.ci/times.json'
COMMAND = '-m jupyter nbconvert --to notebook --execute --ExecutePreprocessor.timeout=600'.split()


def clone(folder):
    "A bare clone of what is committed, and of what is not committed yet."
    copy = Path(folder) / 'deep/er/snetlib'
    subprocess.run(['git', 'clone', '-q', '--no-hardlinks', ROOT, copy], check=True)
    for name in ('nbs', 'snetlib', 'data'):
        shutil.rmtree(copy / name)
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns('__pycache__'))
    return copy


def start(copy, page, out):
    "Start nbconvert on a page of the clone."
    env = os.environ | dict(PYTHONPATH=str(copy), OMP_NUM_THREADS='1', IPYTHONDIR=str(out / 'ipython'))
    for name in ('SNET_TEST_DATA', 'SNET_SLOW', 'IN_TEST'):
        env.pop(name, None)
    command = [sys.executable, *COMMAND, '--output-dir', str(out), str(copy / page)]
    log = open(out / (page.stem + '.log'), 'w')
    return subprocess.Popen(command, env=env, cwd=(copy / page).parent, stdout=log, stderr=log)


def run_page(copy, page, out):
    "(exit code, seconds of processor time, end of the log) of Run All on a page."
    process = start(copy, page, out)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    text = (out / (page.stem + '.log')).read_text(errors='replace')
    return process.returncode, used.ru_utime + used.ru_stime, text[-1500:]


def read_times():
    return json.loads(TIMES.read_text()) if TIMES.exists() else {}


def record(page, seconds):
    "Write one page's time at once, so that a stopped run loses nothing."
    times = read_times() | {page.relative_to('nbs').as_posix(): round(seconds, 1)}
    known = {k: v for k, v in sorted(times.items()) if (ROOT / 'nbs' / k).exists()}
    TIMES.write_text(json.dumps(known, indent=1) + '\n')


def chosen(names):
    "The pages named; those without a time for `missing`; all pages without a name."
    if names and names != ['missing']:
        return [Path(n).resolve().relative_to(ROOT) for n in names]
    found = (ROOT / 'nbs').rglob('*.ipynb')
    pages = sorted(p.relative_to(ROOT) for p in found if '.ipynb_checkpoints' not in p.parts)
    if names:
        times = read_times()
        pages = [p for p in pages if p.relative_to('nbs').as_posix() not in times]
    return pages


def main(names):
    pages, failed = chosen(names), []
    with tempfile.TemporaryDirectory() as folder:
        copy, out = clone(folder), Path(folder) / 'out'
        out.mkdir()
        for page in pages:
            code, seconds, log = run_page(copy, page, out)
            print('FAILED' if code else 'ok', page, f'{seconds:.1f} s', flush=True)
            if code:
                failed.append(page)
                print(log, flush=True)
            else:
                record(page, seconds)
    print(f'{len(pages) - len(failed)} of {len(pages)} pages reach the end')
    if failed:
        sys.exit(1)


if __name__ == '__main__':
    main(sys.argv[1:])
