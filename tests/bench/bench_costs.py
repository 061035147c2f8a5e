"""What every network of the papers' tables costs: parameters, multiply-adds, seconds, memory.

One run on one thread. Each round builds every network once and times one forward pass and one
training step of one image (CFANet trains on two, halved); the networks take turns, and a row gives
the median over rounds. CPU seconds are those to compare where others use the machine as well.
Usage: python tests/bench/bench_costs.py [--rounds 1] [--write data/results/costs.csv]
"""

import argparse
import os
import platform
import sys
import time

import pandas as pd
import torch
from torch import nn

from snetlib.core import git_commit
from snetlib.models.layers import PeakMemory
from snetlib.models.registry import count_parameters, create_model, gflops
from snetlib.reproduce.our_experiments import EXPERIMENTS

SIDES = dict(table1=224, table2=224, table3=224, table4=224, tableII=352, tableIII=352)
VARIANTS = ('swin_unet_deep', 'ctcnet_t34', 'hiformer_s', 'hiformer_b', 'uctransnet_unet')
LOAD_BEFORE = os.getloadavg()[0] if hasattr(os, 'getloadavg') else float('nan')
COMMIT = git_commit()  # as it is before the file is written, which may itself be committed
TIMES = ('forward_s', 'forward_cpu_s', 'step_s', 'step_cpu_s')


def entries():
    "(network, side, classes) of every row, each once; then other sizes of the same networks."
    found = {}
    for table, side in SIDES.items():
        for row in EXPERIMENTS[table].rows:
            if row.model:
                found[row.model, side] = 9 if side == 224 else 2
    found.update({(name, 224): 9 for name in VARIANTS})
    return [(*key, n) for key, n in found.items()]


def images(name, side):
    "One image; two for CFANet, whose norm behind a global pool cannot train on one."
    return torch.rand(2 if name == 'cfanet' else 1, 3, side, side)


def outputs(net, x):
    found = net(x)
    return found if isinstance(found, (tuple, list)) else (found,)


def step(net, x):
    "Cross-entropy of all outputs against class 0, gradients, one SGD step."
    targ = torch.zeros(len(x), *x.shape[2:], dtype=torch.long)
    sum(nn.functional.cross_entropy(y, targ) for y in outputs(net.train(), x)).backward()
    torch.optim.SGD(net.parameters(), lr=1e-3).step()


def predict(net, x):
    with torch.inference_mode():
        net.eval()(x[:1])


def peak(fn, net, x):
    "MiB of tensors made and alive at once, without weights; gradients are made."
    with PeakMemory() as memory:
        fn(net, x)
    return memory.peak / 2**20


def counts(name, side, n_out):
    "What does not depend on the machine's speed; memory as torch's kernels on a CPU take it."
    net, x = create_model(name, c_in=3, n_out=n_out), images(name, side)
    total, gmac = count_parameters(net), gflops(net, (1, 3, side, side))
    forward, train = peak(predict, net, x), peak(step, net, x) / len(x)
    live = sum(p.numel() for p in net.parameters() if p.grad is not None)
    return dict(
        network=name,
        side=side,
        n_out=n_out,
        parameters=total,
        live_parameters=live,
        gmac=round(gmac, 3),
        forward_mib=round(forward, 1),
        step_mib=round(train, 1),
    )


def clock(fn, net, x, images_each):
    wall, cpu = time.perf_counter(), time.process_time()
    fn(net, x)
    return (time.perf_counter() - wall) / images_each, (time.process_time() - cpu) / images_each


def seconds(name, side, n_out):
    "Times of one forward pass and one training step; a small image first, to warm up."
    net, x = create_model(name, c_in=3, n_out=n_out), images(name, side)
    predict(net, images(name, 64))
    return dict(zip(TIMES, clock(predict, net, x, 1) + clock(step, net, x, len(x))))


def machine():
    "What was measured where; the load before the start says whether others used the machine."
    return dict(
        commit=COMMIT,
        torch=torch.__version__,
        machine=f'{platform.machine()}, {os.cpu_count()} CPU cores; 1 thread',
        load_before=round(LOAD_BEFORE, 2),
    )


def table(fixed, rounds):
    "Fixed columns, medians over rounds, and what they were measured on."
    times = pd.concat(rounds).groupby(level=0, sort=False).median().round(3)
    facts = pd.DataFrame(fixed).join(times)
    return facts.assign(rounds=len(rounds), **machine())


def main(argv=()):
    p = argparse.ArgumentParser()
    p.add_argument('--rounds', type=int, default=1)
    p.add_argument('--write', default='', help='a CSV file; written after every round')
    a = p.parse_args(argv)
    torch.set_num_threads(1)
    fixed, rounds = [counts(*entry) for entry in entries()], []
    for _ in range(a.rounds):
        rounds.append(pd.DataFrame([seconds(*entry) for entry in entries()]))
        found = table(fixed, rounds)
        if a.write:
            found.to_csv(a.write, index=False)
    print(found.drop(columns=list(machine())).to_string(index=False))


if __name__ == '__main__':
    main(sys.argv[1:])
