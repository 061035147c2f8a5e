"""snet_base at 224², batch 4: the library's defaults, the same model in plain forms, MONAI's AttentionUnet.

All in one run. The defaults predict with norms folded into convolutions (`fuse_for_inference`).
Usage: python tests/bench/bench_models.py [--model snet_base] [--rounds 2] [--batch 4]
    [--threads 2] [--compile]
"""

import argparse
import os
import time

import torch

from snetlib.models.layers import fast_settings, fuse_for_inference
from snetlib.models.registry import count_parameters, create_model, gflops
from snetlib.train.losses import SNetLoss


def forms(name, compiled=False, c_in=3, n_out=9):
    "label -> (model that trains, model that predicts, memory format, amp)"
    fast = fast_settings('cpu')
    torch.manual_seed(0)
    lib = create_model(name, c_in=c_in, n_out=n_out)
    plain, sdpa = (create_model(name, c_in=c_in, n_out=n_out, attention=a) for a in ('naive', 'sdpa'))
    for m in (plain, sdpa):
        m.load_state_dict(lib.state_dict())
        m.to(memory_format=torch.contiguous_format)
    att = create_model('attention_unet', c_in=c_in, n_out=n_out).to(memory_format=torch.contiguous_format)
    flat = torch.contiguous_format
    fused = fuse_for_inference(lib)
    settings = fast['memory_format'], fast['amp']
    table = {"library's defaults": (lib, fused, *settings)}
    if compiled:
        table['defaults and torch.compile'] = (torch.compile(lib), torch.compile(fused), *settings)
    return table | {
        'plain eager, attention maps stored': (plain, plain, flat, None),
        'plain eager, SDPA': (sdpa, sdpa, flat, None),
        'MONAI AttentionUnet 64…1024': (att, att, flat, None),
    }


def clock(fn):
    "(wall, CPU) seconds of one call."
    w, c = time.perf_counter(), time.process_time()
    fn()
    return time.perf_counter() - w, time.process_time() - c


def matmul_peak(n=2048, tries=4):
    "Best float32 matrix product of this moment, in GFLOP/s (two operations a multiply-add)."
    a, b = torch.rand(2, n, n).unbind()
    return 2 * n**3 / min(clock(lambda: a @ b)[0] for _ in range(tries + 1)) / 1e9


def main(argv=()):
    p = argparse.ArgumentParser()
    p.add_argument('--model', default='snet_base')
    p.add_argument('--rounds', type=int, default=2)
    p.add_argument('--batch', type=int, default=4)
    p.add_argument('--threads', type=int, default=os.cpu_count())
    p.add_argument(
        '--compile', action='store_true', help='a row with torch.compile: minutes before its first batch'
    )
    a = p.parse_args(argv)
    shape = (a.batch, 3, 224, 224)
    torch.set_num_threads(a.threads)
    images, targ, loss = torch.rand(shape), torch.randint(9, (a.batch, 224, 224)), SNetLoss()
    table, work, size = forms(a.model, a.compile), {}, {}
    for k, (m, *_) in table.items():
        m = getattr(m, '_orig_mod', m)
        work[k], size[k] = gflops(m, (1, *shape[1:])), count_parameters(m)

    def precision(amp):
        return torch.autocast('cpu', amp or torch.bfloat16, enabled=amp is not None)

    def infer(_, m, fmt, amp):
        with torch.inference_mode(), precision(amp):
            m.eval()(images.contiguous(memory_format=fmt))

    def train(m, _, fmt, amp):
        with precision(amp):
            cost = loss(m.train()(images.contiguous(memory_format=fmt)), targ)
        cost.backward()
        torch.optim.SGD(m.parameters(), lr=1e-3).step()
        m.zero_grad()

    print(f'{a.model}, {shape[2]}², batch {a.batch}, {torch.get_num_threads()} threads')
    print(f'defaults here: {fast_settings("cpu")}')
    for kind, fn, per_forward in (('prediction', infer, 1), ('training step', train, 3)):
        times, peak = {k: [] for k in table}, []
        for r in range(a.rounds + 1):  # the forms take turns; the first round warms up
            peak.append(matmul_peak())
            for k, form in table.items():
                t = clock(lambda: fn(*form))
                if r:
                    times[k].append(t)
        wall, cpu = ({k: min(t[i] for t in ts) for k, ts in times.items()} for i in (0, 1))
        ours = "library's defaults"
        least, most = min(peak), max(peak)
        print(
            f'\n{kind}: matrix-multiply peak {most:.0f} GFLOP/s (while measuring: {least:.0f} to {most:.0f})'
        )
        print(
            f'{"":36s} {"M par":>6s} {"GMAC":>6s} {"s/image":>8s} '
            f'{"ours / this":>12s} {"in CPU time":>12s} {"share of peak":>14s}'
        )
        for k in table:
            rate = 2 * work[k] * per_forward * a.batch / wall[k]
            print(
                f'{k:36s} {size[k] / 1e6:6.1f} {work[k]:6.1f} {wall[k] / a.batch:8.3f} '
                f'{wall[ours] / wall[k]:12.2f} {cpu[ours] / cpu[k]:12.2f} {rate / most:14.0%}'
            )
    print('\nGMAC: 10⁹ multiply-adds of one image forward; a training step counts three times that.')


if __name__ == '__main__':
    import sys

    main(sys.argv[1:])
