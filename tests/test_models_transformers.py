"TransUNet, Swin-Unet, MISSFormer, HiFormer, CTC-Net, interpretations: the contract, parts, recorded numbers."

import copy
import json
from pathlib import Path

import pytest
import torch
from networks import check_round_trip, check_types_layouts_and_copies, fill
from torch import nn

from snetlib.core import NotAtHand, SnetError
from snetlib.models.ctcnet import CrossDomain, attend_with_guest
from snetlib.models.interpretations import bilinear_weights
from snetlib.models.registry import MODELS, count_parameters, create_model, list_models, parameter_table

pytest.importorskip('timm')
GOLDEN = json.loads((Path(__file__).parent / 'golden_transformers.json').read_text(encoding='utf-8'))
STEM = dict(units=(1, 1, 1), stem_width=8, width=16, depth=1, heads=2, neck=16, widths=(16, 8, 8, 8))
SWIN = dict(width=8, depths=(2, 2, 2, 2), heads=(1, 2, 2, 4), drop_path=0.0)
HIFORMER = dict(
    encoder_options=dict(layers=(1, 1, 1, 1), channels=(8, 8, 16, 16)),
    width=8,
    depths=(1, 1),
    heads=(2, 2),
    swin_depths=(1, 1, 2),
    swin_heads=(1, 2, 2),
    drop_path=0.0,
    up_width=32,
)
CATFORMER = dict(units=(1, 1, 1), stem_width=8, width=16, depth=1, heads=2, side=4, decoder_width=8, steps=2)
CTCNET = SWIN | dict(encoder='resnet34', encoder_options=dict(layers=(1, 1, 1, 1), channels=(8, 8, 16, 16)))
SMALL = dict(  # every network in its least form
    transunet=STEM | dict(drop=0.0),
    r50_vit=STEM | dict(drop=0.0),
    swin_unet=SWIN,
    swin_unet_deep=SWIN,
    missformer=dict(widths=(8, 16, 24, 32), depths=(1, 1, 1, 1), heads=(1, 1, 2, 2), bridges=1, blocks=1),
    hiformer_s=HIFORMER,
    hiformer_b=HIFORMER | dict(wiring='first'),
    hiformer_l=HIFORMER | dict(wiring='paper'),
    ctcnet=CTCNET,
    ctcnet_t34=CTCNET | dict(cross='paper'),
    transclaw_unet=dict(widths=(4, 8, 8, 16), width=16, depth=1, heads=2),
    attransunet=STEM | dict(drop=0.0, few=5),
    catformer=CATFORMER,
)


LIGHT = dict(ctcnet=CTCNET)  # recorded at little width: the whole has 118 million weights to fill


def small(name, **kw):
    torch.manual_seed(0)
    return create_model(name, **{'c_in': 3, 'n_out': 3, **SMALL[name], **kw})


def fingerprint(name, **kw):
    "16 numbers of the output for filled weights and a fixed image of the published size."
    net = fill(create_model(name, c_in=3, n_out=9, **kw)).eval()
    x = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        y = net(x).flatten()
    return y[torch.linspace(0, len(y) - 1, 16).long()]


def test_every_network_of_this_family_is_tested():
    assert set(SMALL) == set(list_models(tag='transformer'))


@pytest.mark.parametrize('name', GOLDEN)
def test_numbers_recorded_while_it_equalled_the_authors_code(name):
    want = torch.tensor(GOLDEN[name])
    y = fingerprint(name, **LIGHT.get(name, {}))
    torch.testing.assert_close(y, want, atol=2e-4 * float(want.abs().max()), rtol=0)


@pytest.mark.parametrize('name', SMALL)
@pytest.mark.parametrize('shape', [(2, 1, 32, 32), (2, 3, 65, 97), (1, 5, 40, 160)], ids=str)
def test_any_size_and_channels(name, shape):
    net = small(name, c_in=shape[1])
    x = torch.rand(shape)
    wanted = (shape[0], 3, *shape[2:])
    with torch.no_grad():
        assert net.train()(x).shape == wanted
        y = net.eval()(x)
    assert y.shape == wanted and y.isfinite().all()
    with pytest.raises(SnetError):
        net(torch.rand(1, shape[1] + 1, 64, 64))


@pytest.mark.parametrize('name', SMALL)
def test_gradients_reach_every_parameter(name):
    net = fill(small(name)).train()
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.eval()
    net(torch.rand(2, 3, 64, 96)).square().mean().backward()
    missing = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not missing, missing


@pytest.mark.parametrize('name', SMALL)
def test_types_layouts_and_copies(name):
    net = fill(small(name)).eval()
    check_types_layouts_and_copies(net)
    half = copy.deepcopy(net).bfloat16()
    with torch.no_grad():
        assert half(torch.rand(1, 3, 64, 64).bfloat16()).isfinite().all()


@pytest.mark.parametrize('name', SMALL)
def test_round_trip(name, tmp_path):
    check_round_trip(fill(small(name)).eval(), small(name).eval(), tmp_path)
    assert MODELS[name].__doc__


TOTALS = dict(  # nine classes
    transunet=105_277_081,
    r50_vit=103_765_657,
    swin_unet=27_168_900,
    swin_unet_deep=41_380_836,
    missformer=42_462_537 - 7_009_792,  # without the authors' dead parts
    ctcnet=123_669_680 - 5_592_687,
)


def on_meta(name, **kw):
    with torch.device('meta'):
        return create_model(name, c_in=3, n_out=9, **kw)


@pytest.mark.parametrize('name', TOTALS)
def test_the_authors_number_of_parameters(name):
    assert count_parameters(on_meta(name)) == TOTALS[name]


CLASS_ROWS = 96 + 384  # positions of the class tokens, which have no influence as released
HIFORMERS = dict(  # released, first, paper
    hiformer_s=(21_528_659, 22_474_451, 23_254_355),
    hiformer_b=(22_288_723, 24_732_211, 25_512_115),
    hiformer_l=(21_528_659, 28_739_315, 29_519_219),
)


@pytest.mark.parametrize('name', HIFORMERS)
def test_parameters_of_each_wiring_of_hiformer(name):
    released, first, paper = HIFORMERS[name]
    assert count_parameters(on_meta(name)) == released - CLASS_ROWS
    assert count_parameters(on_meta(name, wiring='first')) == first
    assert count_parameters(on_meta(name, wiring='paper')) == paper


def test_parts_of_transunet():
    parts = parameter_table(on_meta('transunet'))
    assert parts['stem'] + parts['embed'] + parts['positions'] == 12_832_576
    assert parts['blocks'] + parts['norm'] == 85_056_000
    assert (parts['neck'], parts['decoder'], parts['head']) == (3_539_968, 3_847_232, 1_305)


def test_parts_of_swin_unet():
    parts = parameter_table(on_meta('swin_unet'), 2)
    assert parts['patch.proj'] + parts['patch.norm'] == 4_896
    stages = [parts[f'stages.{i}'] + parts.get(f'merges.{i}', 0) for i in range(4)]
    assert stages == [299_190, 1_188_204, 4_735_704, 14_183_856]
    ups = [parts[f'ups.{i}'] + parts.get(f'expands.{i + 1}', 0) for i in range(3)]
    assert [parts['expands.0'], *ups] == [1_180_416, 3_848_280, 965_676, 224_694]
    assert [parts[f'joins.{i}'] for i in range(3)] == [295_296, 73_920, 18_528]
    assert parts['last.expand'] + parts['last.norm'] == 147_648 and parts['head.weight'] == 864


def test_parts_of_missformer():
    parts = parameter_table(on_meta('missformer'), 2)
    assert [parts[f'embeds.{i}'] for i in range(4)] == [9_600, 74_112, 369_600, 1_476_096]
    dead = [2 * 2 * 2 * 4 * c for c in (64, 128, 320, 512)]  # 2 blocks, 2 norms of 4c, weight and bias
    stages = [parts[f'stages.{i}'] + d for i, d in enumerate(dead)]
    assert stages == [632_832, 937_984, 3_328_000, 6_370_304]
    assert parts['bridge.0'] + sum(dead) // 2 == 4_102_272


def test_parts_of_hiformer():
    parts = parameter_table(on_meta('hiformer_b', wiring='paper'))
    assert parts['pyramid'] + parts['class_norms'] == 21_207_370
    assert (parts['positions'], parts['fusion'], parts['norms']) == (376_800, 3_222_432, 960)
    assert (parts['fine'], parts['coarse']) == (110_848, 590_336)
    assert (parts['squeeze'], parts['head']) == (2_064, 1_305)


def test_as_released_the_small_and_the_large_hiformer_are_one_network():
    s, large = (on_meta(f'hiformer_{size}').state_dict() for size in 'sl')
    assert {k: v.shape for k, v in s.items()} == {k: v.shape for k, v in large.items()}


def test_the_released_cross_of_ctcnet_is_a_plain_block_on_other_tokens():
    torch.manual_seed(0)
    cross = CrossDomain(8, 2, 14).eval()
    cnn, t = torch.rand(2, 2, 14, 21, 8)
    late = torch.cat([t.flatten(1, 2)[:, 1:], cnn.mean((1, 2))[:, None]], 1).unflatten(1, (14, 21))
    assert torch.equal(cross(cnn, t)[0], cross.block(late))
    assert torch.equal(cross(cnn, t)[1], cross.block(cnn))


def test_a_guest_that_nobody_heeds_leaves_a_swin_block_as_it_is():
    "Where all values are alike, one more of them changes nothing; sizes that need padding."
    torch.manual_seed(0)
    cross = CrossDomain(8, 2, 14, 'paper').eval()
    x, guest = torch.rand(2, 10, 17, 8), torch.rand(2, 8)
    heard = attend_with_guest(cross.block, x, guest)
    with torch.no_grad():
        cross.block.attn.qkv.weight[16:].zero_()  # every value is the bias
        alone = cross.block(x)
    torch.testing.assert_close(attend_with_guest(cross.block, x, guest), alone)
    assert not torch.allclose(heard, alone)


@pytest.mark.parametrize('name', ['transclaw_unet', 'attransunet', 'catformer'])
def test_an_interpretation_says_so(name):
    assert small(name).fidelity == 'abstract'
    assert MODELS[name].__doc__.startswith('Interpretation')


def test_tokens_that_move_read_the_map_at_their_places():
    picture, places = torch.rand(2, 3, 5, 7), 1.2 * torch.rand(2, 11, 2) - 0.1
    grid = 2 * places.flip(-1)[:, None] - 1
    want = nn.functional.grid_sample(picture, grid, padding_mode='border', align_corners=False)
    got = bilinear_weights(places, 5, 7) @ picture.flatten(2).transpose(1, 2)
    torch.testing.assert_close(got.transpose(1, 2), want[:, :, 0])


def test_pre_trained_weights_are_refused_in_one_sentence():
    with pytest.raises(NotAtHand, match='without a pre-trained encoder'):
        small('missformer', pretrained=True)
    for name in ('transunet', 'swin_unet', 'hiformer_s', 'ctcnet'):
        with pytest.raises(SnetError, match='nowhere.pth'):
            small(name, pretrained='nowhere.pth')


def test_swin_unet_starts_from_a_file_of_swin_t_on_both_sides(tmp_path):
    import timm

    source = timm.create_model('swin_tiny_patch4_window7_224')
    torch.save(source.state_dict(), tmp_path / 'swin.pth')
    net = create_model('swin_unet', pretrained=tmp_path / 'swin.pth')
    block = source.layers[1].blocks[1].mlp.fc1.weight
    assert torch.equal(net.stages[1][1].mlp.fc1.weight, block)
    assert torch.equal(net.ups[1][1].mlp.fc1.weight, block)
    assert torch.equal(net.merges[0].reduction.weight, source.layers[1].downsample.reduction.weight)
    assert torch.equal(net.patch.proj.weight, source.patch_embed.proj.weight)
