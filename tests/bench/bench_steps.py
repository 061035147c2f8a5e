"""Seconds of one training step of every network at the scale tiny: four slices of 64².

One run on one thread. The networks take turns, and a row gives the median over rounds of the
processor's seconds, which other programs on the machine hardly change.
Usage: python tests/bench/bench_steps.py [--rounds 9] [--write snetlib/reproduce/measured/costs_tiny.csv]
"""

import argparse
import os
import platform
import time

import pandas as pd
import torch

from snetlib.core import git_commit
from snetlib.models.registry import count_parameters, create_model, gflops
from snetlib.reproduce.our_experiments import E8_FORMS, FAIR_RIVALS, LITE_ENCODER, RIVALS
from snetlib.reproduce.papers import Row
from snetlib.reproduce.scales import TINY_SCALE, scaled_model
from snetlib.train.losses import SNetLoss


def rows():
    "Name in the table of costs -> row of an experiment."
    found = {model: Row(name, model) for name, model in (RIVALS | FAIR_RIVALS).items()}
    for name, form in E8_FORMS.items():
        kwargs = LITE_ENCODER | form | dict(pretrained=False)  # weights change no cost
        found[f'e8, {name}'] = Row(name, 'sosegformer_base', tuple(kwargs.items()))
    return found


def networks():
    "Each network at its reduced width."
    for name, row in rows().items():
        model, kwargs = scaled_model(row, 'tiny')
        torch.manual_seed(0)
        yield name, create_model(model, c_in=1, n_out=4, **kwargs).train()


def step_seconds(net, x, labels, loss):
    "Forward, backward and one AdamW step; the processor's seconds."
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-4)
    began = time.process_time()
    loss(net(x), labels).backward()
    optimiser.step()
    return time.process_time() - began


def measure(rounds):
    changes = TINY_SCALE['changes']
    x = torch.rand(changes['bs'], 1, changes['size'], changes['size'])
    labels = torch.randint(0, 4, (changes['bs'], changes['size'], changes['size']))
    nets, loss, times = dict(networks()), SNetLoss(), []
    for _ in range(rounds + 1):
        times.append({name: step_seconds(net, x, labels, loss) for name, net in nets.items()})
    median = pd.DataFrame(times[1:]).median()  # the first round warms up
    facts = pd.DataFrame(
        dict(
            parameters={name: count_parameters(net) for name, net in nets.items()},
            gmac={name: round(gflops(net.eval(), x[:1].shape), 4) for name, net in nets.items()},
            step_cpu_s=median.round(4),
        )
    )
    return facts.rename_axis('network').loc[list(nets)]


def main():
    p = argparse.ArgumentParser()
    p.add_argument('--rounds', type=int, default=9)
    p.add_argument('--write', default='', help='a CSV file')
    args = p.parse_args()
    torch.set_num_threads(1)
    table = measure(args.rounds)
    print(table.to_string())
    if args.write:
        machine = f'{platform.machine()}, {os.cpu_count()} CPU cores, shared; 1 thread'
        facts = dict(commit=git_commit(), torch=torch.__version__, machine=machine)
        table.assign(rounds=args.rounds, **facts).to_csv(args.write)


if __name__ == '__main__':
    main()
