"""What a GPU does with the networks of the papers, in about ten minutes: `make gpu`.

Forward and backward, lower precision, torch.compile, channels_last, memory at batch 12 and 224²
against the 12 GB of the SNet paper, seconds per training step beside MONAI's AttentionUnet and
TransUNet, and a run that stops and continues. Every check is a line. A check that fails says why,
and the others go on.
Usage: python tests/bench/gpu.py [--batch 12] [--size 224] [--minutes 10] [--networks NAME ...]
"""

import argparse
import sys
import tempfile
import time
from contextlib import nullcontext

import torch

from snetlib.models.registry import count_parameters, create_model
from snetlib.reproduce.plan import Study
from snetlib.reproduce.queue import TimeIsUp, finished, run_queue
from snetlib.train.losses import SNetLoss

NETWORKS = ('snet_base', 'sosegformer_base', 'attention_unet', 'transunet')
PAPER_GB = 12  # of the GPU in section 5.1.2 of the SNet paper
FORMS = {  # label -> (lower precision, channels_last, compiled)
    'float32': (None, False, False),
    'float32, channels_last': (None, True, False),
    'bfloat16, channels_last': (torch.bfloat16, True, False),
    'float16, channels_last': (torch.float16, True, False),
    'bfloat16, channels_last, compiled': (torch.bfloat16, True, True),
}


def batch_of(args, channels_last):
    "Noise and labels on the device."
    form = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.randn(args.batch, 3, args.size, args.size, generator=torch.Generator().manual_seed(0))
    y = torch.randint(0, 9, (args.batch, args.size, args.size))
    return x.to(args.device, memory_format=form), y.to(args.device)


def train_step(net, opt, loss, x, y, lower, scaler):
    "One step of SGD; the loss as a number."
    device = x.device.type
    with torch.autocast(device, lower) if lower else nullcontext():
        out = net(x)
        value = loss(out, y)
    opt.zero_grad(set_to_none=True)
    scaler.scale(value).backward()
    scaler.step(opt)
    scaler.update()
    return value.item()


def wait(device):
    "Until the device has done all it was given."
    if torch.device(device).type == 'cuda':
        torch.cuda.synchronize(device)


def timed_steps(args, name, label):
    "Seconds per training step, peak memory, and whether the loss stays finite."
    lower, channels_last, compiled = FORMS[label]
    torch.manual_seed(0)
    net = create_model(name, c_in=3, n_out=9).to(args.device).train()
    net = net.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    run = torch.compile(net) if compiled else net
    on_cuda = torch.device(args.device).type == 'cuda'
    scaler = torch.amp.GradScaler(enabled=lower is torch.float16 and on_cuda)
    what = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9), SNetLoss()
    x, y = batch_of(args, channels_last)
    if on_cuda:
        torch.cuda.reset_peak_memory_stats(args.device)
    losses = [train_step(run, *what, x, y, lower, scaler) for _ in range(args.warmup)]
    wait(args.device)
    began = time.perf_counter()
    losses += [train_step(run, *what, x, y, lower, scaler) for _ in range(args.steps)]
    wait(args.device)
    seconds = (time.perf_counter() - began) / args.steps
    if not torch.tensor(losses).isfinite().all():
        raise ArithmeticError(f'the loss is not finite: {losses}')
    line = f'{seconds:8.4f} s a step, loss {losses[0]:.3f} to {losses[-1]:.3f}'
    if on_cuda:
        gb = torch.cuda.max_memory_allocated(args.device) / 2**30
        line += f', {gb:5.2f} GiB ({"within" if gb < PAPER_GB else "over"} {PAPER_GB})'
    return line


def agrees_with_cpu(args, name):
    "Largest difference of the logits from those of the CPU, float32, as a share of their spread."
    torch.manual_seed(0)
    net = create_model(name, c_in=3, n_out=9).eval()
    x = torch.randn(1, 3, args.size, args.size)
    with torch.no_grad():
        here = net(x)
        there = net.to(args.device)(x.to(args.device)).cpu()
    share = ((here - there).abs().max() / here.std()).item()
    if not share < 0.05:
        raise ArithmeticError(f'logits differ by {share:.3f} of their spread')
    return f'logits differ by {share:.1e} of their spread'


def stops_and_continues(args):
    "A run on the device that is stopped by the clock, and finishes at the second call."
    with tempfile.TemporaryDirectory() as cache:
        steps = Study('table5', 'smoke', 1).steps()
        try:
            run_queue(steps, cache, args.device, progress=False, hours=2 / 3600)
            stopped = 'finished before the clock'
        except TimeIsUp:
            stopped = 'stopped by the clock'
        failed = run_queue(steps, cache, args.device, progress=False)
        if failed or not all(finished(step.config, cache) for step in steps):
            raise RuntimeError(f'not finished: {failed}')
    return f'{stopped}, and all runs finished at the second call'


def checks(args):
    "(label, function) of every check, in their order: the short and important ones first."
    yield 'a run stops and continues', lambda: stops_and_continues(args)
    for name in args.networks:
        yield f'{name}, as on the CPU', lambda name=name: agrees_with_cpu(args, name)
    for label in FORMS:
        if FORMS[label][2] and args.no_compile:
            continue
        for name in args.networks:
            yield f'{name}, {label}', lambda name=name, label=label: timed_steps(args, name, label)


def main(argv=None):
    "Run all checks; 0 if none failed."
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--batch', type=int, default=12)
    p.add_argument('--size', type=int, default=224)
    p.add_argument('--minutes', type=float, default=10)
    p.add_argument('--steps', type=int, default=10, help='timed training steps')
    p.add_argument('--warmup', type=int, default=3, help='steps before the clock starts')
    p.add_argument('--networks', nargs='+', default=NETWORKS)
    p.add_argument('--no-compile', action='store_true')
    p.add_argument('--device', help='default: cuda')
    args = p.parse_args(argv)
    if args.device is None and not torch.cuda.is_available():
        print('There is no CUDA here: run this on a machine with an NVIDIA GPU.')
        return 1
    args.device = args.device or 'cuda'
    if args.device.startswith('cuda'):
        print(torch.cuda.get_device_name(args.device), '· torch', torch.__version__)
    for name in args.networks:
        print(f'{name}: {count_parameters(create_model(name, c_in=3, n_out=9)) / 1e6:.1f} M parameters')
    print(f'batch {args.batch}, {args.size}², {args.steps} steps timed after {args.warmup}')
    ends, failed = time.monotonic() + 60 * args.minutes, 0
    for label, check in checks(args):
        if time.monotonic() > ends:
            print(f'{label:45s} not run: the {args.minutes:g} minutes are over')
            continue
        try:
            print(f'{label:45s} {check()}', flush=True)
        except Exception as e:
            failed += 1
            print(f'{label:45s} FAILED: {type(e).__name__}: {str(e).splitlines()[0]}', flush=True)
    return int(failed > 0)


if __name__ == '__main__':
    sys.exit(main())
