"""Seconds of one training step of every network at the scale tiny: four slices of 64².

The networks of E8 see what E8 shows them: four colour images of its size, two classes.

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
from snetlib.reproduce.our_experiments import E8_FORMS, E8_LINES, FAIR_RIVALS, LITE_ENCODER, RIVALS
from snetlib.reproduce.papers import Row
from snetlib.reproduce.scales import TINY_SCALE, scaled_model
from snetlib.train.losses import SNetLoss


def rows():
    "Name in the table of costs -> row of an experiment, and its input: (size, channels, classes)."
    every = (RIVALS | FAIR_RIVALS).items()
    found = {model: (Row(name, model), (TINY_SCALE['changes']['size'], 1, 4)) for name, model in every}
    for name, form in E8_FORMS.items():
        kwargs = LITE_ENCODER | form | dict(pretrained=False)  # weights change no cost
        row = Row(name, 'sosegformer_base', tuple(kwargs.items()))
        found[f'e8, {name}'] = (row, (E8_LINES['tiny']['size'], 3, 2))
    return found


def networks():
    "Each network at its reduced width."
    for name, (row, (size, c_in, n_out)) in rows().items():
        model, kwargs = scaled_model(row, 'tiny')
        torch.manual_seed(0)
        net = create_model(model, c_in=c_in, n_out=n_out, **kwargs).train()
        bs = TINY_SCALE['changes']['bs']
        yield name, (net, torch.rand(bs, c_in, size, size), torch.randint(0, n_out, (bs, size, size)))


def step_seconds(net, x, labels, loss):
    "Forward, backward and one AdamW step; the processor's seconds."
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-4)
    began = time.process_time()
    loss(net(x), labels).backward()
    optimiser.step()
    return time.process_time() - began


def measure(rounds):
    nets, loss, times = dict(networks()), SNetLoss(), []
    for _ in range(rounds + 1):
        times.append({name: step_seconds(*given, loss) for name, given in nets.items()})
    median = pd.DataFrame(times[1:]).median()  # the first round warms up
    facts = pd.DataFrame(
        dict(
            parameters={name: count_parameters(net) for name, (net, _, _) in nets.items()},
            gmac={name: round(gflops(net.eval(), x[:1].shape), 4) for name, (net, x, _) in nets.items()},
            step_cpu_s=median.round(4),
            size={name: x.shape[-1] for name, (_, x, _) in nets.items()},
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
