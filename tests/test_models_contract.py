"Published networks keep the contract, have the authors' parts, and give the numbers recorded beside them."

import json
from pathlib import Path

import pytest
import torch
from networks import check_round_trip, check_types_layouts_and_copies, fill
from torch import nn

from snetlib.core import SnetError
from snetlib.models.registry import MODELS, count_parameters, create_model, parameter_table

pytest.importorskip('timm')
GOLDEN = json.loads((Path(__file__).parent / 'golden_contract.json').read_text(encoding='utf-8'))
TINY = dict(layers=(1, 1, 1, 1), channels=(16, 32, 48, 64))
SMALL = dict(  # every network in its least form
    pranet=dict(width=8, reverse_widths=(16, 8, 8), encoder_options=TINY),
    caranet=dict(width=16, encoder_options=TINY),
    cfanet=dict(width=16, encoder_options=TINY),
    uctransnet=dict(width=8, grid=4, layers=1, heads=2),
    uctransnet_unet=dict(width=8),
    att_unet=dict(widths=(8, 16, 24)),
    r50_att_unet=dict(widths=(16, 16, 8, 8, 8), encoder_options=TINY),
)
OUTPUTS = dict(pranet=4, caranet=4, cfanet=3)  # in train(); the others have one
PAIRS_ONLY = {'cfanet'}  # batch norm behind a global pool cannot train on one image


def small(name, **kw):
    torch.manual_seed(0)
    return create_model(name, **{'c_in': 3, 'n_out': 3, **SMALL[name], **kw})


def fingerprint(name):
    "16 numbers of the output for filled weights and a fixed image."
    net = fill(create_model(name, c_in=3, n_out=2, **GOLDEN[name]['kwargs']), GOLDEN[name]['gain'])
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 3, *GOLDEN[name]['size'], generator=generator)
    with torch.no_grad():
        y = net.eval()(x)
    y = (y[:, 1:] - y[:, :1]).flatten()  # what softmax sees
    return y[torch.linspace(0, len(y) - 1, 16).long()]


@pytest.mark.parametrize('name', GOLDEN)
def test_numbers_recorded_while_it_equalled_the_authors_code(name):
    want = torch.tensor(GOLDEN[name]['numbers'])
    torch.testing.assert_close(fingerprint(name), want, atol=2e-4 * float(want.abs().max()), rtol=0)


@pytest.mark.parametrize('name', SMALL)
@pytest.mark.parametrize('shape', [(2, 1, 32, 32), (2, 3, 65, 97), (2, 5, 40, 160)], ids=str)
def test_any_size_and_channels(name, shape):
    net = small(name, c_in=shape[1])
    x = torch.rand(shape)
    with torch.no_grad():
        outs = net.train()(x)
        outs = outs if isinstance(outs, tuple) else (outs,)
        one = net.eval()(x[:1])
    wanted = (2, 3, *shape[2:])
    assert [o.shape for o in outs] == [wanted] * OUTPUTS.get(name, 1)
    assert one.shape == (1, *wanted[1:]) and one.isfinite().all()
    with pytest.raises(SnetError):
        net(torch.rand(1, shape[1] + 1, 64, 64))


@pytest.mark.parametrize('name', SMALL)
def test_trains_on_one_image_or_says_why_not(name):
    net = small(name).train()
    if name in PAIRS_ONLY:
        with pytest.raises(SnetError, match='two or more images'):
            net(torch.rand(1, 3, 32, 32))
    else:
        net(torch.rand(1, 3, 32, 32))


def outputs(net, x):
    y = net(x)
    return y if isinstance(y, tuple) else (y,)


@pytest.mark.parametrize('name', SMALL)
def test_gradients_reach_every_parameter(name):
    net = small(name).train()
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):  # else biases before a norm have no gradient
            m.eval()
    x, missing = torch.rand(2, 3, 64, 96), dict(net.named_parameters())
    for seed in 'abcd':  # one draw may switch a ReLU of a single channel off everywhere
        sum(o.square().mean() for o in outputs(fill(net, seed=seed), x)).backward()
        missing = {n: p for n, p in missing.items() if p.grad is None or not p.grad.abs().sum() > 0}
    assert not missing, list(missing)


@pytest.mark.parametrize('name', SMALL)
def test_types_layouts_and_copies(name):
    check_types_layouts_and_copies(fill(small(name)).eval())


@pytest.mark.parametrize('name', SMALL)
def test_round_trip(name, tmp_path):
    check_round_trip(fill(small(name)).eval(), small(name).eval(), tmp_path)
    assert MODELS[name].__doc__


PARTS = dict(
    pranet=dict(backbone=23_669_352, rfbs=862_016, decoder=277_473, reverse=5_689_478),
    caranet=dict(
        backbone=43_176_920, reduce=1_032_480, decoder=276_577, axial=3 * 16_946, reverse=3 * 18_915
    ),
)
TOTALS = dict(pranet=30_498_319, caranet=44_593_560)
NINE_CLASSES = dict(uctransnet=66_431_177, uctransnet_unet=14_752_393, att_unet=34_879_093)


@pytest.mark.parametrize('name', PARTS)
def test_parts_have_the_authors_parameters(name):
    with torch.device('meta'):
        net = create_model(name, c_in=3, n_out=2)
    assert parameter_table(net) == PARTS[name]
    assert count_parameters(net) == TOTALS[name] == sum(PARTS[name].values())


@pytest.mark.parametrize('name', NINE_CLASSES)
def test_networks_for_nine_classes_have_the_authors_parameters(name):
    with torch.device('meta'):
        net = create_model(name, c_in=3, n_out=9)
    assert count_parameters(net) == NINE_CLASSES[name]


def test_parts_of_uctransnet():
    with torch.device('meta'):
        net = create_model('uctransnet', c_in=3, n_out=9)
    parts = parameter_table(net, 2)
    assert parts['stem.conv'] + parts['stem.norm'] == 1_920
    assert [parts[f'down.{i}'] for i in range(4)] == [221_952, 886_272, 3_542_016, 4_721_664]
    assert parts['bridge.embed'] + parts['bridge.positions'] == 4_383_424
    assert parts['bridge.blocks'] + parts['bridge.norm'] == 47_639_680
    assert parts['bridge.back'] == 351_040


def test_pre_copies_the_plain_unet(tmp_path):
    unet = small('uctransnet_unet')
    torch.save(unet.state_dict(), tmp_path / 'unet.pt')
    net = small('uctransnet', pretrained=tmp_path / 'unet.pt')
    assert torch.equal(net.head.weight, unet.head.weight)
    with pytest.raises(SnetError, match='uctransnet_unet'):
        small('uctransnet', pretrained=True)
    with pytest.raises(SnetError, match='of this width'):
        small('uctransnet', width=16, pretrained=tmp_path / 'unet.pt')


def test_cfanet_has_the_authors_parameters_with_its_edge_head():
    with torch.device('meta'):
        edge, plain = create_model('cfanet', edge=True), create_model('cfanet')
    assert count_parameters(edge) == 25_830_318 - 591_360
    assert count_parameters(edge) - count_parameters(plain) == 65
    assert parameter_table(edge)['low'] + parameter_table(edge)['fuse'] == 37_056 + 147_648 + 258


def test_polyp_networks_ask_for_two_classes():
    with pytest.raises(SnetError, match='n_out'):
        small('pranet', n_out=1)


def test_axes_of_caranet_differ_only_in_wiring():
    nets = [fill(small('caranet', axis=axis)).eval() for axis in ('released', 'paper')]
    assert nets[0].state_dict().keys() == nets[1].state_dict().keys()
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        assert not torch.allclose(nets[0](x), nets[1](x), atol=1e-4)
