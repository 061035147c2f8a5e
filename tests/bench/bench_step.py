"""A training step of snet_base, now and at an earlier commit of this repository.

Both run on one thread and take turns; CPU seconds are compared, which a busy machine disturbs least.
The gradients of the first step, from equal weights, are compared as well.
Usage: python tests/bench/bench_step.py [--before 4d261f8] [--rounds 5] [--model snet_base]
"""

import argparse
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from statistics import median

import torch

ROOT = Path(__file__).resolve().parents[2]
CHILD = """
import sys, time, torch
torch.set_num_threads(1)
torch.manual_seed(0)
from snetlib.models import create_model
try:
    from snetlib.train.losses import SNetLoss
except ImportError:
    from snetlib.losses import SNetLoss
net, loss = create_model(sys.argv[1], c_in=3, n_out=9).train(), SNetLoss()
x = torch.rand(1, 3, 224, 224).to(memory_format=torch.channels_last)
y = torch.randint(9, (1, 224, 224))
def step():
    net.zero_grad()
    loss(net(x), y).backward()
state = {k: v.clone() for k, v in net.state_dict().items()}
step()
grads = {k: p.grad for k, p in net.named_parameters() if p.grad is not None}
torch.save(dict(state=state, grads=grads), sys.argv[2])
print('ready', flush=True)
for _ in sys.stdin:
    start = time.process_time()
    step()
    print(time.process_time() - start, flush=True)
"""


def earlier(commit, folder):
    "The files of a commit, without touching the working tree."
    data = subprocess.run(['git', 'archive', commit, 'snetlib'], cwd=ROOT, capture_output=True, check=True)
    with tarfile.open(fileobj=io.BytesIO(data.stdout)) as tar:
        tar.extractall(folder, filter='data')
    return folder


def start(code, model, state):
    "A process that makes a step for every line it reads."
    command = [sys.executable, '-c', CHILD, model, str(state)]
    env = dict(os.environ, PYTHONPATH=str(code), OMP_NUM_THREADS='1')
    pipes = dict(text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child = subprocess.Popen(command, cwd=code, env=env, **pipes)
    if child.stdout.readline().strip() != 'ready':
        raise SystemExit(f'The code in {code} could not make a step.')
    return child


def seconds(child):
    child.stdin.write('\n')
    child.stdin.flush()
    return float(child.stdout.readline())


def apart(files):
    "Largest difference of weights and of gradients, each by its own tensor's largest number."
    a, b = (torch.load(f, weights_only=True) for f in files)
    for part in ('state', 'grads'):
        assert a[part].keys() == b[part].keys()
        scale = {k: v.abs().max().clamp_min(1e-8) for k, v in a[part].items()}
        yield max(float(((v - b[part][k]).abs() / scale[k]).max()) for k, v in a[part].items())


def main(argv=()):
    p = argparse.ArgumentParser()
    p.add_argument('--before', default='4d261f8', help='a commit')
    p.add_argument('--rounds', type=int, default=5)
    p.add_argument('--model', default='snet_base')
    a = p.parse_args(argv)
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        try:
            codes = [earlier(a.before, tmp), ROOT]
        except (OSError, subprocess.CalledProcessError):
            print(f'There is no commit {a.before} here to compare with.')
            return
        files = [tmp / 'before.pt', tmp / 'now.pt']
        children = [start(code, a.model, f) for code, f in zip(codes, files)]
        times = [[seconds(child) for child in children] for _ in range(a.rounds)]
        for child in children:
            child.stdin.close()
            child.wait()
        weights, grads = apart(files)
    before, now = (median(column) for column in zip(*times))
    ratios = sorted(n / b for b, n in times)
    print(f'{a.model}, a training step of one image of 224², one thread, {a.rounds} rounds in turns')
    print(f'CPU seconds: {before:.2f} at {a.before}, {now:.2f} now')
    print(f'now / before: {median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})')
    print(f'largest difference: weights {weights:.0e}, gradients {grads:.0e} of each largest number')


if __name__ == '__main__':
    main(sys.argv[1:])
