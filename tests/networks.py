"Small networks with known weights, slices to learn from, and what every published network must keep."

import copy
import math
import pickle
import zlib

import numpy as np
import torch
from torch import nn

from snetlib.data.slices import Slices
from snetlib.models import SNet
from snetlib.models.layers import bfloat16_is_right

NUMBERS = dict(
    cnn_widths=(8, 16, 32, 64),
    vit_widths=(8, 16, 32, 32),
    vit_depths=(1, 1, 1, 1),
    vit_heads=(1, 2, 2, 2),
    gab_width=32,
    decoder_width=32,
)  # least SNet


class Threshold(nn.Module):
    "Class 1 where the image is brighter than the level."

    def __init__(self, level=0.5, n_out=2, slope=1):
        super().__init__()
        self.level = nn.Parameter(torch.tensor(level))
        self.n_out, self.slope = n_out, slope

    def forward(self, x):
        rest = [self.slope * (x[:, :1] - self.level) - k for k in range(self.n_out - 1)]
        return torch.cat([torch.zeros_like(x[:, :1]), *rest], 1)


def squares(n, seed=0, side=32, of_a_case=2):
    "n slices with a bright square each, so many of a case."
    rng, inside = np.random.default_rng(seed), slice(side // 4, 5 * side // 8)
    labels = np.zeros((n, side, side), np.uint8)
    labels[:, inside, inside] = 1
    images = (0.3 + 0.4 * labels + 0.1 * rng.random(labels.shape)).astype(np.float32)
    cases = [f'case{i // of_a_case}' for i in range(n)]
    return Slices(images, labels, cases, ('background', 'square'))


def seeded(**kw):
    torch.manual_seed(0)
    return SNet(**{'c_in': 1, 'n_out': 3, **NUMBERS, **kw})


def both(m, side=64):
    "Outputs in train() and eval() for one fixed image."
    x = torch.rand(2, m.c_in, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        outs = m.train()(x)
        return [*(outs if isinstance(outs, tuple) else (outs,)), m.eval()(x)]


def fill(net, gain=1.0, seed=''):
    "Weights that depend on nothing but their names and shapes; nothing is left at 0 or 1."
    for name, t in net.state_dict().items():
        if not t.is_floating_point():
            continue
        generator = torch.Generator().manual_seed(zlib.crc32((seed + name).encode()))
        r = torch.randn(t.shape, generator=generator)
        if name.endswith('running_var'):
            t.copy_(0.5 + r.abs())
        elif name.endswith('table'):
            t.copy_(0.3 * r)
        elif t.dim() > 1:
            t.copy_(gain * r / math.sqrt(t[0].numel()))
        elif name.endswith(('weight', 'gamma')):
            t.copy_(1 + 0.2 * r)
        else:
            t.copy_(0.2 * r)
    return net


def check_types_layouts_and_copies(net):
    "A filled network in eval() gives the same as a copy, and in other types and layouts."
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        y = net(x)
        scale = float(y.abs().max())
        last = copy.deepcopy(net).to(memory_format=torch.channels_last)
        channels_last = last(x.to(memory_format=torch.channels_last))
        torch.testing.assert_close(channels_last, y, atol=1e-4 * scale, rtol=0)
        assert torch.equal(pickle.loads(pickle.dumps(net))(x), y)
        assert copy.deepcopy(net).double()(x.double()).dtype == torch.float64
        with torch.autocast('cpu', torch.bfloat16):
            rough = net(x).float()
    assert rough.isfinite().all()
    if bfloat16_is_right('cpu'):
        assert (rough - y).abs().mean() < 0.2 * scale


def check_round_trip(net, other, folder):
    "The weights of one network, through a file, make the other one equal to it."
    torch.save(net.state_dict(), folder / 'w.pt')
    other.load_state_dict(torch.load(folder / 'w.pt', weights_only=True))
    x = torch.rand(1, 3, 48, 64)
    with torch.no_grad():
        assert torch.equal(net(x), other(x))
