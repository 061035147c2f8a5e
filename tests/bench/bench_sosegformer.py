"""SoSegFormer: both forms of attention, the head, DeepLabV3+ on the same encoder; memory at 512².

Ratios measured in one run.
"""

import subprocess
import sys
import time

import torch

from snetlib.models.layers import PeakMemory, resize_to
from snetlib.models.registry import count_parameters, create_model, gflops
from snetlib.models.sosegformer import ScaleHead, sosegformer
from snetlib.models.stageformer import StageFormer

# VmHWM and not ru_maxrss: a child inherits its parent's
MEMORY = """
import sys, torch
from snetlib.models.registry import create_model
from snetlib.models import baselines, sosegformer
net = create_model(sys.argv[1]).eval(); x = torch.rand(1, 3, 512, 512)
with torch.inference_mode(): net(x)
print(next(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith('VmHWM'))/2**20)
"""


def race(forms, rounds=5):
    """Fastest of `rounds` calls of each form {name: function}.

    The forms take turns so that a busy moment meets all of them.
    """
    best = dict.fromkeys(forms, float('inf'))
    with torch.inference_mode():
        for f in forms.values():
            f()
        for _ in range(rounds):
            for n, f in forms.items():
                t = time.perf_counter()
                f()
                best[n] = min(best[n], time.perf_counter() - t)
    return best


def peak_rss(name):
    "GiB a fresh process holds at most while it builds the network and looks at one 512² image."
    done = subprocess.run([sys.executable, '-c', MEMORY, name], capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1])


def networks(size=512):
    rows = {
        'sosegformer_base, mhsa': sosegformer(),
        'sosegformer_base, separable': sosegformer(attention='separable'),
        'r50_deeplabv3plus': create_model('r50_deeplabv3plus', n_out=2),
    }
    x = torch.rand(1, 3, size, size).to(memory_format=torch.channels_last)
    print(f'| network at {size}², batch 1 | parameters (M) | GFLOPs | time / DeepLabV3+ |\n|---|---|---|---|')
    for m in rows.values():
        m.eval().to(memory_format=torch.channels_last)
    took = race({n: lambda m=m: m(x) for n, m in rows.items()})
    for n, m in rows.items():
        params, work = count_parameters(m) / 1e6, gflops(m, tuple(x.shape))
        print(f'| {n} | {params:.1f} | {work:.1f} | {took[n] / took["r50_deeplabv3plus"]:.2f} |')


def attention_forms():
    print(
        '\n| StageFormer of 64 channels on a map of | mhsa, all keys / separable: FLOPs | time '
        '| mhsa, at most 1024 keys / separable: FLOPs | time |\n|---|---|---|---|---|'
    )
    for side in (64, 128, 256):
        forms = [
            StageFormer(64, **kw).eval() for kw in (dict(max_tokens=None), {}, dict(attention='separable'))
        ]
        x = torch.rand(1, 64, side, side)
        work, took = (
            [gflops(f, tuple(x.shape)) for f in forms],
            race({i: lambda f=f: f(x) for i, f in enumerate(forms)}, 10 if side < 256 else 2),
        )
        ratios = [cost[i] / cost[2] for i in (0, 1) for cost in (work, took)]
        print(f'| {side}² | ' + ' | '.join(f'{r:.1f}' for r in ratios) + ' |')


def head_forms():
    widths = (64, 256, 512, 1024, 256)
    head = ScaleHead(widths, 2).eval()
    maps = [torch.rand(1, c, 256 // k, 256 // k) for c, k in zip(widths, (1, 2, 4, 8, 16))]

    def naive(maps):
        return head.conv(torch.cat([resize_to(m, maps[0]) for m in maps], 1))

    took, peak = race({'naive': lambda: naive(maps), 'ours': lambda: head(maps)}), {}
    for n, f in (('naive', naive), ('ours', head)):
        with torch.no_grad(), PeakMemory() as p:
            f(maps)
        peak[n] = p.peak
    slower, larger = (cost['naive'] / cost['ours'] for cost in (took, peak))
    print(f'\nHead at 512², resize first / classes first: time {slower:.1f}, memory {larger:.1f}')


def main():
    networks()
    attention_forms()
    head_forms()
    base, plain = peak_rss('sosegformer_base'), peak_rss('r50_deeplabv3plus')
    print(
        f'\nMemory of a whole process at 512², batch 1: sosegformer_base {base:.2f} GiB, '
        f'DeepLabV3+ {plain:.2f} GiB (ratio {base / plain:.2f}); the limit set is 6 GB'
    )
    if base * 2**30 > 6e9:
        sys.exit('sosegformer_base needs more than 6 GB at 512²')


if __name__ == '__main__':
    main()
