"The least SNet, seeded."

import torch

from snetlib.models import SNet

NUMBERS = dict(
    cnn_widths=(8, 16, 32, 64),
    vit_widths=(8, 16, 32, 32),
    vit_depths=(1, 1, 1, 1),
    vit_heads=(1, 2, 2, 2),
    gab_width=32,
    decoder_width=32,
)  # least SNet


def seeded(**kw):
    torch.manual_seed(0)
    return SNet(**{'c_in': 1, 'n_out': 3, **NUMBERS, **kw})


def both(m, side=64):
    "Outputs in train() and eval() for one fixed image."
    x = torch.rand(2, m.c_in, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        outs = m.train()(x)
        return [*(outs if isinstance(outs, tuple) else (outs,)), m.eval()(x)]
