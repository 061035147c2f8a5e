"FEB, FFB and GAB: odd sizes, gradients, and what they refuse."

import pytest
import torch

from snetlib.core import SnetError
from snetlib.models.feb import FEB
from snetlib.models.ffb import FFB
from snetlib.models.gab import GAB


def test_feb_takes_odd_grids_and_other_widths():
    "Widths whose divisor is 16: the second map gives five tokens a pixel."
    feb = FEB((32, 80), heads=2)
    a = torch.rand(1, 32, 17, 25, requires_grad=True)
    b = torch.rand(1, 80, 9, 13, requires_grad=True)
    out = feb(a, b)
    assert out[0].shape == a.shape
    assert out[1].shape == b.shape
    out[1].square().mean().backward()
    assert a.grad.abs().sum() > 0, 'the second output has looked at the first input'
    used = {n: p for n, p in feb.named_parameters() if not n.startswith('dw.0')}
    assert all(p.grad.abs().sum() > 0 for p in used.values())


def test_feb_refuses_heads_that_do_not_divide_its_width():
    with pytest.raises(SnetError, match='do not divide'):
        FEB((64, 128), heads=3)


def test_ffb_refuses_swapped_maps():
    with pytest.raises(SnetError, match='1×1 convolution'):
        FFB(4)(torch.rand(1, 4, 3, 3), torch.rand(1, 16, 3, 3))


def test_gab_refuses_other_grids():
    with pytest.raises(SnetError, match='gab_grid'):
        GAB(20, 32, grid=2)
