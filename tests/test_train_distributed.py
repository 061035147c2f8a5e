"One run on two processes (gloo, CPU): the same steps as one process, and a killed process ends it cleanly."

import csv
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest
import torch

from snetlib.data.sets.folder import write_phantom
from snetlib.data.source import Source
from snetlib.train.distributed import ProcessLost
from snetlib.train.run import train_run

pytestmark = [
    pytest.mark.skipif(
        not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
        reason='torch was built without gloo',
    ),
    pytest.mark.skipif(importlib.util.find_spec('accelerate') is None, reason='needs the package accelerate'),
]
SAID = f'snet: {ProcessLost()} What is complete is kept; run again with --resume.'
LINES = dict(size=32, bs=5, epochs=80, precision='float32', augment='flips')  # shares of three and two
NET = '''
from torch import nn
from snetlib.models.registry import register_model

class Float64(nn.Module):
    "Without rounding errors; group norm looks at one image at a time."

    def __init__(self, c_in, n_out):
        super().__init__()
        first, last = nn.Conv2d(c_in, 8, 3, padding=1), nn.Conv2d(8, n_out, 3, padding=1)
        self.net = nn.Sequential(first, nn.GroupNorm(2, 8), nn.GELU(), last).double()

    def forward(self, x):
        return self.net(x.double())

@register_model
def float64_net(c_in, n_out):
    return Float64(c_in, n_out)
'''
WORKER = (
    NET
    + '''
import json, sys
from snetlib.data import Source
from snetlib.train.distributed import together
from snetlib.train import train_run
lines, data, *todo = json.loads(sys.argv[1])
settings = dict(device='cpu', progress=False)
with together('cpu'):
    for out, resume in todo:
        train_run(out, Source('folder', data), 'float64_net', 'smoke', resume=resume, **settings, **lines)
'''
)


def environment(**more):
    return {
        **os.environ,
        'OMP_NUM_THREADS': '1',
        'PYTHONWARNINGS': 'ignore',
        **{k: str(v) for k, v in more.items()},
    }


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def read(run):
    return torch.load(run / 'last.pth', weights_only=True), torch.load(run / 'best.pth', weights_only=True)


def log(run):
    return [
        {k: float(v) for k, v in row.items() if k != 'seconds'}
        for row in csv.DictReader(open(run / 'log.csv'))
    ]


def leftovers(run):
    return [
        p.name
        for p in run.iterdir()
        if p.name not in ('config.json', 'last.pth', 'best.pth', 'log.csv', 'log.txt', 'cache', '.train.lock')
    ]


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp('data')
    write_phantom(out, n=20)
    return out


@pytest.fixture(scope='module')
def killed(data, tmp_path_factory):
    "A run by torchrun, one of whose processes is killed after its first epoch: (folder, exit code, stderr)."
    out = tmp_path_factory.mktemp('runs') / 'killed'
    settings = [w for k, v in LINES.items() for w in ('--set', f'{k}={v}')]
    command = [
        sys.executable,
        '-m',
        'torch.distributed.run',
        '--standalone',
        '--nproc_per_node',
        '2',
        '--no-python',
        sys.executable,
        '-c',
        NET + 'from snetlib.cli import main; main()',
        'train',
        'folder',
        '--data',
        str(data),
        '--model',
        'float64_net',
        '--recipe',
        'smoke',
        '--device',
        'cpu',
        '--out',
        str(out),
        *settings,
    ]
    launcher = subprocess.Popen(
        command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    deadline = time.time() + 300
    while not (out / 'last.pth').exists() and launcher.poll() is None and time.time() < deadline:
        time.sleep(0.01)
    workers = (
        {
            p.environ().get('RANK'): p
            for p in psutil.Process(launcher.pid).children(recursive=True)
            if 'RANK' in p.environ()
        }
        if launcher.poll() is None
        else {}
    )
    assert set(workers) == {'0', '1'}, launcher.communicate()[1]
    workers['1'].send_signal(signal.SIGKILL)
    _, err = launcher.communicate(timeout=120)
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in workers.values()), (
        'no process is left behind'
    )
    assert read(out)[0]['epoch'] < LINES['epochs'], 'it was to be killed before its end'
    return out, launcher.returncode, err


@pytest.fixture(scope='module')
def runs(killed, data, tmp_path_factory):
    "Folders of one process, of two, of two killed and continued; exit codes and words of a refused pair."
    one, two, cut = (
        tmp_path_factory.mktemp('runs') / 'one',
        tmp_path_factory.mktemp('runs') / 'two',
        killed[0],
    )
    port, todo = (
        free_port(),
        json.dumps([LINES, str(data), [str(cut), True], [str(two), False], [str(two), False]]),
    )
    started = [
        subprocess.Popen(
            [sys.executable, '-c', WORKER, todo],
            stderr=subprocess.PIPE,
            text=True,
            env=environment(RANK=r, LOCAL_RANK=r, WORLD_SIZE=2, MASTER_ADDR='127.0.0.1', MASTER_PORT=port),
        )
        for r in range(2)
    ]
    exec(NET, {'__name__': 'float64_net'})
    train_run(one, Source('folder', data), 'float64_net', 'smoke', device='cpu', progress=False, **LINES)
    said = [p.communicate(timeout=300)[1] for p in started]
    assert (two / 'last.pth').exists(), said
    return one, two, cut, ([p.returncode for p in started], said)


def test_a_killed_process_ends_the_run_with_one_sentence(killed):
    out, code, err = killed
    assert code not in (0, None)
    assert [line for line in err.splitlines() if line.startswith('snet: ')] == [SAID], err
    assert 'signal 9' in err.lower() and not leftovers(out)


def test_two_processes_take_the_steps_of_one(runs):
    one, two, *_ = runs
    for a, b in zip(log(one), log(two), strict=True):
        assert a == pytest.approx(b, rel=1e-6, abs=1e-9)
    (a, _), (b, _) = read(one), read(two)
    assert (
        a['epoch'] == b['epoch'] == LINES['epochs']
        and max((a['model'][k] - b['model'][k]).abs().max() for k in a['model']) < 1e-9
    )
    assert json.loads((two / 'config.json').read_text())['origin']['processes'] == 2 and not leftovers(two)


def test_a_killed_run_continues_to_the_same_weights(runs):
    _, two, cut, _ = runs
    (a, best_a), (b, best_b) = read(two), read(cut)
    assert a['epoch'] == b['epoch'] and log(two) == log(cut) and not leftovers(cut)
    for x, y in ((a['model'], b['model']), (best_a, best_b)):
        assert all(torch.equal(x[k], y[k]) for k in x)


def test_a_mistake_of_all_is_told_once(runs):
    "The last thing asked of the two processes: a folder that holds a run already, without --resume."
    codes, said = runs[3]
    assert codes == [1, 1] and sum('already holds a run' in s for s in said) == 1, said
