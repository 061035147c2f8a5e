"The panels of the blocks: what a slider moves, and whether what is shown is the block's own."

import base64
import io
import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from snetlib import block_panels as B
from snetlib.core import BadSetting
from snetlib.explain.attention import feb_attention
from snetlib.explain.hooks import collect
from snetlib.models import create_model
from snetlib.models.feb import flatten_to
from snetlib.models.fusion import StaggerModule


@pytest.fixture(scope='module')
def snet():
    torch.manual_seed(0)
    return create_model('snet_tiny', c_in=1, n_out=3).eval()


@pytest.fixture(scope='module')
def image():
    return torch.rand(1, 1, 128, 128, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope='module')
def finder():
    torch.manual_seed(0)
    return create_model('sosegformer_tiny', c_in=3, n_out=2).eval()


@pytest.fixture(scope='module')
def picture():
    return torch.rand(1, 3, 160, 128, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def make(snet, image, finder, picture):
    "Build a panel by its name, with what stands for its network and its picture."
    with torch.no_grad():
        maps = snet.cnn(image), snet.vit(image)
    builders = dict(
        wiring=lambda: B.Wiring(*maps),
        tokens=lambda: B.TokenRow(snet, image),
        small=lambda: B.SmallObject(finder, picture),
    )
    return lambda name: builders[name]()


MOVES = [
    ('wiring', dict(vit1=3)),
    ('wiring', dict(vit2=4)),
    ('wiring', dict(fuse_width=8)),
    ('tokens', dict(side=64)),
    ('tokens', dict(reduction=2)),
    ('tokens', dict(row=80)),
    ('tokens', dict(column=80)),
    ('small', dict(size=9)),
    ('small', dict(row=20)),
    ('small', dict(column=50)),
    ('small', dict(arrows=False)),
]


@pytest.mark.parametrize(['name', 'move'], MOVES, ids=lambda v: str(v))
def test_every_control_changes_the_picture_and_back(make, name, move):
    panel = make(name)
    before, was = panel.picture(), panel.settings
    panel.set(**move)
    assert panel.picture() != before
    panel.set(**was)
    assert panel.picture() == before, 'the picture depends on the controls alone'
    assert plt.get_fignums() == [], 'no figure is left'


@pytest.mark.parametrize('name', ['wiring', 'tokens', 'small'])
def test_without_a_kernel_a_sharp_picture_stands_for_the_panel(make, name):
    data, how = make(name)._repr_mimebundle_()
    png = Image.open(io.BytesIO(base64.b64decode(data['image/png'])))
    assert png.width >= 1.5 * how['image/png']['width']


@pytest.mark.parametrize('width', [0, 8])
def test_a_wiring_counts_what_the_module_has(make, snet, image, width):
    panel = make('wiring')
    c_cnn, c_vit = [m.shape[1] for m in panel.cnn], [m.shape[1] for m in panel.vit]
    for a, b in itertools.permutations(range(1, 5), 2):
        v = panel.set(vit1=a, vit2=b, fuse_width=width)
        block = StaggerModule(((a, 1), (b, 2)), c_cnn, c_vit, fuse_width=width or None)
        skips = block(panel.cnn, panel.vit)
        assert v['widths'] == tuple(s.shape[1] for s in skips)
        assert v['parameters'] == sum(p.numel() for p in block.parameters())
        adapters = [p for n, p in block.named_parameters() if '.adapt' in n]
        assert v['adapters'] == sum(p.numel() for p in adapters)
    if width == 0:
        assert panel.set(vit1=3, vit2=4)['fits'] == (True, True)
        assert panel.set(vit1=1, vit2=4)['fits'] == (False, True)


def test_two_vit_layers_do_not_share_a_cnn_layer(make):
    panel = make('wiring')
    before = panel.picture()
    assert panel.set(vit1=2) == {}, 'ViT2 is there already'
    assert 'CNN layer twice' in panel.text.value
    assert panel.picture() == before, 'the last picture stays'
    assert panel.set(vit1=1)['pairs'] == ((1, 1), (2, 2)), 'and the panel works again'


@pytest.mark.parametrize('at', [(0, 0), (58, 30), (99, 99)])
def test_without_reduction_the_row_is_that_of_the_block(make, snet, image, at):
    v = make('tokens').set(row=at[0], column=at[1])
    place = tuple(a * 32 // 100 for a in at)
    for ours, theirs in zip(v['maps'], feb_attention(snet, image, place)):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)
    assert (v['queries'], v['keys']) == (32**2 + 2 * 16**2,) * 2


def test_a_reduced_row_is_attention_over_averaged_pixels(make, snet):
    panel = make('tokens')
    v, feb = panel.set(reduction=2, row=50, column=25), snet.feb
    _, maps = panel.layers(128)
    few = [m.unfold(2, 2, 2).unfold(3, 2, 2).mean((-2, -1)) for m in maps]
    with torch.no_grad():
        q = feb.qkv(feb.norm(flatten_to(maps[0], feb.width)))[0, 16 * 32 + 8, : feb.width]
        tokens = torch.cat([flatten_to(m, feb.width) for m in few], 1)
        k = feb.qkv(feb.norm(tokens))[0, :, feb.width : 2 * feb.width]
        weights = (k @ q / feb.width**0.5).softmax(0)
    assert len(k) == v['keys'] == (32**2 + 2 * 16**2) / 4
    torch.testing.assert_close(v['maps'][0].flatten(), weights[: 16 * 16], atol=1e-6, rtol=1e-4)
    assert np.isclose(sum(v['shares']), 1)
    assert 1 <= v['places'] <= 16 * 16 + 8 * 8
    assert np.isclose(v['megabytes'], 4 * v['queries'] * v['keys'] / 1e6)


@pytest.mark.parametrize('size, row, column', [(5, 32, 32), (1, 0, 0), (6, 63, 10), (32, 40, 63)])
def test_shares_and_traces_are_those_of_the_network(make, finder, size, row, column):
    panel = make('small')
    v = panel.set(size=size, row=row, column=column)
    changed, mask = B.with_disc(panel.given, size, row + panel.corner[0], column + panel.corner[1])
    assert v['pixels'] == int(mask.sum())
    assert torch.equal(changed[0, :, mask[0, 0] == 0], panel.given[0, :, mask[0, 0] == 0])
    for s in B.CELLS:
        cells = mask[0, 0].numpy().reshape(160 // s, s, 128 // s, s).mean((1, 3))
        assert np.isclose(v['fill'][s], cells.max()) and v['cells'][s] == (cells > 0).sum()
    maps = [collect(finder, x, ['cross']) for x in (panel.given, changed)]
    for k, s in enumerate(B.CELLS):
        before, after = (m[f'cross[{k}]'] for m in maps)
        spread = before - before.mean((2, 3), keepdim=True)
        typical = np.sqrt(np.mean(np.sum(spread[0].numpy() ** 2, axis=0)))
        trace = np.linalg.norm((after - before)[0].numpy(), axis=0) / typical
        assert np.isclose(v['trace'][s], trace.max(), rtol=1e-3, atol=1e-5)


def test_arrows_change_every_stage_but_the_first(make):
    panel = make('small')
    on, off = panel.set(arrows=True), panel.set(arrows=False)
    assert on['trace'][2] == off['trace'][2]
    assert all(on['trace'][s] != off['trace'][s] for s in (4, 8, 16))
    assert on['fill'] == off['fill'], 'the share asks no network'


def test_what_a_panel_cannot_show_is_refused(snet, image, finder):
    with pytest.raises(BadSetting) as e:
        B.TokenRow(create_model('snet_tiny', c_in=1, n_out=3, feb=False), image)
    assert e.value.key == 'feb'
    with pytest.raises(BadSetting) as e:
        B.SmallObject(finder, torch.rand(1, 3, 64, 48))
    assert e.value.key == 'image'
