"""Prediction on one CPU thread: eager, norms folded, compiled, ONNX Runtime and OpenVINO, in turns.

Seconds of a 224² slice by snet_base (random weights) and of a volume by the trained snet_tiny: all
slices of the MNI template, cut to --slices. Ratios are to eager, medians over rounds; `apart` is the
largest difference of logits, `masks` the share of voxels that keep their class.
Usage: python tests/bench/bench_runtimes.py [--model snet_base] [--rounds 3] [--slices 24] [--compile]
"""

import argparse
import importlib.util
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import numpy as np
import torch

from snetlib.data.sets.mni import mni_case
from snetlib.models import create_model
from snetlib.models.layers import fuse_for_inference
from snetlib.predict.export import EXTRAS, RuntimeNetwork, export_run
from snetlib.predict.predictor import predict_volume
from snetlib.train.run import Run

SIDE = 224


def as_run(network, c_in, n_out):
    "What `export_run` asks of a run."
    names = ['background', *(f'class {i}' for i in range(1, n_out))]
    data = dict(c_in=c_in, n_out=n_out, class_names=names, intensity=dict(kind='none'))
    config = dict(data=data, recipe=dict(size=None))
    made = dict(weights='best', folder='run', digest='random', place='cpu')
    return SimpleNamespace(config=config, model=lambda: network, **made)


def forms(network, run, folder, compiled):
    "label → (what computes, seconds of making it); a runtime that is not installed is left out."
    table = {'eager': lambda: network, 'norms folded': lambda: fuse_for_inference(network)}
    if compiled:
        table['torch.compile'] = lambda: torch.compile(fuse_for_inference(network))
    for to, (package, _) in EXTRAS.items():
        if all(importlib.util.find_spec(p) for p in ('onnx', 'onnxscript', package)):
            table[to] = lambda to=to: RuntimeNetwork(export_run(run, folder / to, to), to, network.pad)
        else:
            print(f'{to}: left out, {package} is not installed here')
    found = {}
    for label, make in table.items():
        start = time.perf_counter()
        found[label] = make(), time.perf_counter() - start
    return found


def clock(fn):
    wall, cpu = time.perf_counter(), time.process_time()
    fn()
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(networks, use, rounds):
    "{label: [(wall, CPU) seconds, …]}; the first round warms up."
    times = {label: [] for label in networks}
    for r in range(rounds + 1):
        for label, net in networks.items():
            t = clock(lambda: use(net))
            if r:
                times[label].append(t)
    return times


def report(title, times, facts):
    print(f'\n{title}')
    print(f'{"":16s} {"seconds":>8s} {"CPU s":>8s} {"of eager":>9s}  ', *facts['eager'])
    for label, each in times.items():
        wall, cpu = (median(t[i] for t in each) for i in (0, 1))
        ratio = median(t[1] / e[1] for t, e in zip(each, times['eager']))
        print(f'{label:16s} {wall:8.3f} {cpu:8.3f} {ratio:9.2f}  ', *facts[label].values())


def slices(a, tmp):
    torch.manual_seed(0)
    network = create_model(a.model, c_in=3, n_out=9).eval()
    made = forms(network, as_run(network, 3, 9), tmp / 'base', a.compile)
    x = torch.rand(1, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)

    def use(net):
        with torch.no_grad():
            return net(x)

    expected, facts = use(network), {}
    for label, (net, seconds) in made.items():
        apart = float((use(net) - expected).abs().max())
        facts[label] = dict(apart=f'{apart:8.0e}', made=f'{seconds:6.0f} s to make')
    nets = {label: net for label, (net, _) in made.items()}
    report(f'{a.model}, one slice of {SIDE}², one thread', measure(nets, use, a.rounds), facts)


def volume(a, tmp):
    run, image = Run('snet_tiny-mni', device='cpu'), mni_case('train').image[: a.slices]
    made = forms(run.model(), run, tmp / 'tiny', a.compile)

    def use(net):
        return predict_volume(net, image, run.intensity, c_in=1, fuse=False, bs=4)

    expected, facts = use(run.model()), {}
    for label, (net, _) in made.items():
        facts[label] = dict(masks=f'{np.mean(use(net) == expected):9.4%}')
    nets = {label: net for label, (net, _) in made.items()}
    title = f'snet_tiny-mni, a volume of {image.shape}, one thread'
    report(title, measure(nets, use, a.rounds), facts)


def main(argv=()):
    p = argparse.ArgumentParser()
    p.add_argument('--model', default='snet_base')
    p.add_argument('--rounds', type=int, default=3)
    p.add_argument('--slices', type=int, default=24)
    p.add_argument('--compile', action='store_true', help='minutes before its first batch')
    a = p.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as tmp:
        slices(a, Path(tmp))
        volume(a, Path(tmp))


if __name__ == '__main__':
    main(sys.argv[1:])
