"SNet: every keyword counts, every row learns, any size, what is refused."

import inspect
import json

import pytest
import torch
import torch.nn.functional as F
from networks import NUMBERS, both, seeded
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from snetlib.core import BadSetting, SnetError
from snetlib.models import SNet
from snetlib.models.gab import GAB
from snetlib.models.layers import (
    ConvNormAct,
    PeakMemory,
)
from snetlib.models.registry import (
    count_parameters,
    create_model,
    list_models,
)
from snetlib.models.snet import SNET_SIZES

ROWS = [*list_models(tag='table5'), *list_models(tag='table6')]


# a value other than the default for every keyword; the last column: does the number of parameters change?
OTHER = dict(
    c_in=(2, True),
    n_out=(4, True),
    fusion=('unstagger', True),
    pairs=(((4, 1),), True),
    feb=(False, True),
    ffb=(False, True),
    gab=(False, True),
    deep_supervision=(False, True),
    supervise=(1, True),
    cnn_widths=((16, 16, 32, 64), True),
    cnn_down=('stride', False),
    vit_widths=((8, 16, 32, 64), True),
    vit_depths=((1, 1, 1, 2), True),
    vit_heads=((1, 1, 1, 1), False),
    vit_reductions=((4, 4, 2, 1), True),
    vit_ratio=(2, True),
    feb_heads=(2, False),
    feb_residual=(False, False),
    ffb_kernel=(3, True),
    gab_width=(16, True),
    gab_grid=(4, False),
    decoder_width=(64, True),
    up=('transposed', True),
    pad=('constant', False),
    attention=('naive', False),
    fuse_width=(4, True),
    fuse_grid=(8, False),
    vit_input=('flipped', False),
)


def test_every_keyword_is_tried():
    assert set(OTHER) == set(inspect.signature(SNet).parameters)


@pytest.mark.parametrize('key', OTHER)
def test_a_keyword_changes_what_it_names_and_trains(key):
    value, counts = OTHER[key]
    a, b = seeded(), seeded(**{key: value})
    assert (count_parameters(a) != count_parameters(b)) == counts
    if not counts and key != 'attention':
        a, b = a.double(), b.double()
        b.load_state_dict(a.state_dict())
        outs = [
            m.train()(torch.rand(2, 1, 70, 70, generator=torch.Generator().manual_seed(1)).double())[0]
            for m in (a, a, b)
        ]  # 70: not a multiple of 32, so that padding acts
        torch.testing.assert_close(outs[0], outs[1], atol=1e-12, rtol=0)
        assert (outs[0] - outs[2]).abs().max() > 1e-8, f'{key} changes nothing'
        b.float()
    outs = b.train()(torch.rand(2, b.c_in, 64, 64))
    sum(o.square().mean() for o in (outs if isinstance(outs, tuple) else (outs,))).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in b.parameters()), [
        n for n, p in b.named_parameters() if p.grad is None
    ]


def test_naive_attention_gives_the_same_gradients_and_stores_maps():
    grads, largest = [], []
    for kind in ('sdpa', 'naive'):
        m = seeded(attention=kind)
        x = torch.rand(1, 1, 128, 128, generator=torch.Generator().manual_seed(0))
        with PeakMemory() as mem:
            sum(o.square().mean() for o in m.train()(x)).backward()
        grads.append({n: p.grad for n, p in m.named_parameters()})
        largest.append(mem.peak)
    for n in grads[0]:
        torch.testing.assert_close(grads[0][n], grads[1][n], atol=2e-5, rtol=2e-3)
    assert largest[1] > 2 * largest[0]


def test_the_papers_count():
    with torch.device('meta'):
        assert count_parameters(create_model('snet_base', c_in=3, n_out=9)) == pytest.approx(38.7e6, rel=0.01)
        assert (
            8e6 < count_parameters(create_model('snet_small')) < 10e6
            and count_parameters(create_model('snet_tiny')) <= 2e6
        )
        assert count_parameters(create_model('snet_star')) != count_parameters(create_model('snet_base'))
        assert count_parameters(create_model('snet_base', ffb_kernel=3)) > 38.7e6 * 1.02, (
            'why the second convolution is 1×1'
        )


@pytest.mark.parametrize('size', SNET_SIZES)
@pytest.mark.parametrize(
    'a,b,parts',
    [
        ('table6_stagger', 'table6_feb', {'feb'}),
        ('table6_feb', 'table6_feb_ffb', {'stagger'}),
        ('table6_feb_ffb', 'table6_feb_ffb_gab', {'gab'}),
        ('table5_unstagger', 'table5_stagger', {'stagger', 'decoder', 'aux_head'}),
        ('table5_stagger', 'table6_feb_ffb_gab', set()),
    ],
)
def test_neighbouring_rows_differ_by_the_part_they_name(a, b, parts, size):
    with torch.device('meta'):
        a, b = (create_model(n, size=size) for n in (a, b))
    shapes = [{n: p.shape for n, p in m.state_dict().items()} for m in (a, b)]
    assert {
        k.split('.')[0] for k in shapes[0].keys() | shapes[1].keys() if shapes[0].get(k) != shapes[1].get(k)
    } == parts
    configs = [
        {k: v for k, v in m.config.items() if k not in ('feb', 'ffb', 'gab', 'fusion')} for m in (a, b)
    ]
    assert configs[0] == configs[1]


@pytest.mark.parametrize('name', ROWS)
def test_every_row_learns(name):
    torch.manual_seed(0)
    m = create_model(name, c_in=1, n_out=2, size='tiny', **NUMBERS)
    x = torch.rand(4, 1, 64, 64)
    y = (F.avg_pool2d(x, 9, 1, 4) > 0.5)[:, 0].long()
    opt = torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(20):
        cost = sum(F.cross_entropy(o, y) for o in m.train()(x))
        opt.zero_grad()
        cost.backward()
        opt.step()
        losses.append(cost.item())
    assert losses[-1] < 0.85 * losses[0], losses


@pytest.mark.parametrize('shape', [(1, 1, 32, 32), (1, 3, 65, 97), (2, 4, 33, 160), (1, 3, 448, 64)])
def test_any_size_and_channels(shape):
    m = seeded(c_in=shape[1])
    with torch.no_grad():
        outs = [*m.train()(torch.rand(shape)), m.eval()(torch.rand(shape))]
    assert all(o.shape == (shape[0], 3, *shape[2:]) and o.isfinite().all() for o in outs)


@pytest.mark.parametrize(
    'x,word',
    [
        (torch.rand(1, 1, 31, 64), '32×32'),
        (torch.rand(1, 1, 64, 8), 'resize or pad'),
        (torch.rand(1, 3, 64, 64), 'c_in=3'),
        (torch.rand(1, 64, 64), 'x[None]'),
        (torch.zeros(1, 1, 64, 64, dtype=torch.uint8), 'float'),
    ],
)
def test_bad_input_gets_its_cure(x, word):
    with pytest.raises(SnetError) as e:
        seeded()(x)
    assert word in str(e.value)


@pytest.mark.parametrize(
    'kw',
    [
        dict(pairs=()),
        dict(pairs=((0, 1),)),
        dict(pairs=((3, 1), (3, 2))),
        dict(pairs='31'),
        dict(fusion='both'),
        dict(n_out=0),
        dict(c_in=0),
        dict(gab_grid=2),
        dict(up='nearest'),
        dict(decoder_width=40),
        dict(vit_heads=(3, 2, 2, 2)),
        dict(cnn_widths=(8, 16, 30, 64)),
        dict(supervise=5),
        dict(pad='wrap'),
        dict(cnn_down='avg'),
        dict(attention='x'),
        dict(feb_heads=3),
    ],
)
def test_bad_settings_get_their_cure(kw):
    with pytest.raises(SnetError) as e:
        seeded(**kw)
    assert ';' in str(e.value) or 'Choose one of' in str(e.value), 'what is wrong; the cure'


def test_eval_runs_every_module():
    net = create_model('snet_tiny', c_in=1, n_out=3).eval()
    convs, seen = [m for m in net.modules() if isinstance(m, nn.Conv2d)], set()
    for m in convs:
        m.register_forward_hook(lambda m, i, o: seen.add(m))
    with torch.no_grad():
        net(torch.rand(1, 1, 64, 64))
    assert seen == set(convs)
    for m in net.modules():
        if isinstance(m, ConvNormAct):
            m.norm = nn.GroupNorm(1, m.norm.num_features)
    with torch.no_grad():
        outs = net.train()(torch.rand(2, 1, 64, 64))
        first = outs[0] if isinstance(outs, tuple) else outs
        assert first.shape == (2, 3, 64, 64)
        assert net.eval()(torch.rand(1, 1, 64, 64)).shape == (1, 3, 64, 64)


def test_round_trip_and_config(tmp_path):
    m = seeded(fusion='unstagger', feb=False)
    torch.save(dict(config=m.config, model=m.state_dict()), tmp_path / 'm.pt')
    state = torch.load(tmp_path / 'm.pt', weights_only=True)
    for config in (
        state['config'],
        json.loads(json.dumps(m.config)),
    ):  # also through JSON, where tuples become lists
        n = SNet(**config)
        n.load_state_dict(state['model'])
        for a, b in zip(both(m), both(n)):
            assert torch.equal(a, b)
        m.load_state_dict(state['model'])  # `both` moved the running means
    with pytest.raises(RuntimeError, match='Unexpected|Missing|mismatch'):
        seeded().load_state_dict(state['model'])


def test_no_tensor_is_left_behind():
    def move(m):
        for sub in m.modules():
            for store in (sub._parameters, sub._buffers):
                for k, v in store.items():
                    if v is not None:
                        store[k] = nn.Parameter(v.to('cuda')) if isinstance(v, nn.Parameter) else v.to('cuda')
        return m

    with FakeTensorMode(), torch.no_grad():
        for name in ROWS:
            m = move(create_model(name, size='tiny', **NUMBERS))
            outs = m.train()(torch.rand(1, 3, 65, 97, device='cuda'))
            assert all(o.device.type == 'cuda' for o in outs)


def test_blocks_that_are_off_keep_their_parameters():
    "'matched': the idea of a block is gone, its parameters stay within 1 %."
    whole = create_model('snet_tiny')
    for block in ('feb', 'ffb', 'gab'):
        off = create_model('snet_tiny', **{block: 'matched'})
        part = dict(feb='feb', ffb='stagger', gab='gab')[block]
        counts = [count_parameters(getattr(net, part)) for net in (whole, off)]
        assert counts[1] == pytest.approx(counts[0], rel=0.02), block
        assert abs(count_parameters(off) / count_parameters(whole) - 1) < 0.001
    with pytest.raises(BadSetting):
        create_model('snet_tiny', gab='no such form')


def test_a_gab_that_is_off_sees_one_place_only():
    torch.manual_seed(0)
    x3, x4 = torch.randn(1, 16, 6, 6), torch.randn(1, 32, 6, 6)
    changed = x3.clone()
    changed[..., 2, 3] += 1
    for off in (False, True):
        gab = GAB(16, 32, 32, off=off)
        moved = (gab(x3, x4) - gab(changed, x4)).abs().amax(1)[0] > 1e-7
        assert moved[2, 3]
        assert (moved.sum() == 1) == off
