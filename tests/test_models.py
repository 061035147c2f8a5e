"What the pages of SNet cannot show: every keyword counts, full sizes, memory of the process, the ledger."

import csv
import inspect
import json
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import snetlib.train.losses
import snetlib.train.recipes
from snetlib.core import SnetError
from snetlib.models import SNet, SoSegFormer
from snetlib.models.layers import (
    ConvNormAct,
    PeakMemory,
    attention,
    fast_settings,
    fuse_for_inference,
    naive_attention,
)
from snetlib.models.registry import (
    MODELS,
    count_parameters,
    create_model,
    list_models,
    register_model,
)
from snetlib.models.snet import SIZES

ROOT = Path(__file__).resolve().parent.parent
ROWS = [*list_models(tag='table5'), *list_models(tag='table6')]
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


@pytest.mark.parametrize('name', list_models(tag='snet'))
def test_every_name_builds_at_its_own_size(name):
    with torch.device('meta'):
        m = create_model(name, c_in=1, n_out=4)
        x = torch.empty(1, 1, 224, 224)
    assert (
        m.eval()(x).shape == (1, 4, 224, 224)
        and [o.shape for o in m.train()(torch.empty(2, 1, 224, 224, device='meta'))] == [(2, 4, 224, 224)] * 2
    )


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


@pytest.mark.parametrize('size', SIZES)
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


def test_fused_networks_give_the_same_numbers_and_leave_the_original_alone():
    for name in ('snet_tiny', 'sosegformer_tiny'):
        torch.manual_seed(0)
        net = create_model(name, c_in=1, n_out=3).train()
        with torch.no_grad():
            net(torch.rand(2, 1, 64, 96))
        net.eval()
        x, before = torch.rand(2, 1, 64, 96), {k: v.clone() for k, v in net.state_dict().items()}
        fused = fuse_for_inference(net)
        with torch.no_grad():
            torch.testing.assert_close(fused(x), net(x), atol=1e-4, rtol=1e-4)
        assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
        bricks = [m for m in fused.modules() if isinstance(m, ConvNormAct)]
        assert bricks and all(isinstance(m.norm, nn.Identity) for m in bricks)


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


def test_a_page_does_not_replace_the_package():
    "A notebook's own network counts only while that notebook runs."
    code = "@register_model\ndef snet_tiny(c_in=1, n_out=2):\n    'mine'\n    return n_out"
    page = types.ModuleType('__main__')
    page.register_model = register_model
    mine, sys.modules['__main__'] = sys.modules['__main__'], page
    try:
        exec(code, vars(page))
        assert create_model('snet_tiny') == 2
    finally:
        sys.modules['__main__'] = mine
    assert isinstance(create_model('snet_tiny'), SNet)


def test_defaults_of_the_experiment_keywords_change_nothing():
    plain = seeded().state_dict()
    for kw in (dict(vit_input='as_is'), dict(fuse_grid=None), dict(supervise='pair')):
        other = seeded(**kw).state_dict()
        assert list(other) == list(plain) and all(torch.equal(other[k], plain[k]) for k in plain)


@pytest.mark.parametrize(
    'kw', [dict(fusion='high'), dict(fusion='all'), dict(fuse_width=4), dict(fuse_grid=8)]
)
def test_other_fusions_train(kw):
    net = seeded(**kw)
    out = net.train()(torch.rand(2, 1, 64, 64))
    sum(o.square().mean() for o in out).backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize('how', ['matched', 'flipped', 'other_image', 'zero'])
def test_what_enters_the_fusion_counts(how):
    a, same, b = seeded().train(), seeded().train(), seeded(vit_input=how).train()
    x = torch.rand(4, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(a(x)[0], same(x)[0])
        assert not torch.allclose(a(x)[0], b(x)[0], atol=1e-5)


def test_layout_is_channels_last_and_survives_loading():
    a, b = seeded(), seeded()
    b.load_state_dict(a.state_dict())
    assert all(
        p.is_contiguous(memory_format=torch.channels_last)
        for m in (a, b)
        for p in m.parameters()
        if p.dim() == 4
    )
    assert set(fast_settings('cpu')) == {'memory_format', 'amp', 'compile'}


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


def test_sdpa_takes_the_path_without_a_map_whatever_the_strides():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Names(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.names = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.names.append(str(func))
            return func(*args, **(kwargs or {}))

    t = torch.rand(2, 8, 30).transpose(1, 2)
    with Names() as n:
        y = attention(t, t, t, 2)
    assert any('flash' in s for s in n.names) and not any('softmax' in s for s in n.names)
    torch.testing.assert_close(y, naive_attention(t, t, t, 2))
    for m in (
        seeded(),
        seeded().to(memory_format=torch.contiguous_format),
    ):  # every attention of the network, in both memory orders
        with Names() as n, torch.no_grad():
            m.eval()(torch.rand(1, 1, 64, 64))
        assert sum('flash' in s for s in n.names) == 4 + 1 + 5 and not any('softmax' in s for s in n.names)


def test_feb_at_448_in_the_memory_of_the_whole_process():
    """What a kernel uses inside itself is not seen by the dispatcher: measure the process.

    One map of 18 816² floats would be 1416 MB.
    """
    code = """
import resource
import torch
from snetlib.models.feb import FEB

torch.set_num_threads(1)


def step(feb, side):
    out = feb(torch.rand(1, 64, side, side), torch.rand(1, 128, side // 2, side // 2))
    sum(o.sum() for o in out).backward()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


feb = FEB((64, 128))
small = step(feb, 8)
print(step(feb, 112) - small)
"""
    pytest.importorskip('resource')
    grown = int(
        subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    ) * (1024 if sys.platform == 'linux' else 1)
    assert grown < 4 * 18816**2 / 5, f'{grown / 1e6:.0f} MB'


def known(reference):
    "Whether a keyword of the ledger exists: Owner:keyword."
    owner, key = reference.split(':')
    if owner in ('SNet', 'SoSegFormer'):
        return key in inspect.signature({'SNet': SNet, 'SoSegFormer': SoSegFormer}[owner]).parameters
    if owner == 'recipe':
        return key in snetlib.train.recipes.get_recipe()
    if owner == 'create_model':
        return key in list_models()
    if owner in MODELS:
        return key in inspect.signature(SNet if owner.startswith('snet') else SoSegFormer).parameters
    return key in inspect.signature(getattr(snetlib.train.losses, owner)).parameters


def test_ledger():
    with open(ROOT / 'data' / 'ledger.csv', newline='', encoding='utf-8') as f:
        rows = list(csv.DictReader(f))
    assert list(rows[0]) == 'network part mark what section keyword reason'.split()
    for r in rows:
        assert (
            r['network'] in ('SNet', 'SoSegFormer') and r['mark'] in 'PIC' and r['what'] and None not in r
        ), r
        assert r['mark'] == 'P' or r['reason'], f'a choice without a reason: {r["what"]}'
        assert not r['keyword'] or known(r['keyword']), f'{r["keyword"]} does not exist'
        if r['network'] == 'SNet' and r['mark'] in 'IC':
            assert r['keyword'], f'a choice without a keyword: {r["what"]}'
    named = {r['keyword'].split(':')[1] for r in rows if r['keyword'].startswith('SNet:')}
    assert named == set(inspect.signature(SNet).parameters)
    with pytest.raises((AttributeError, AssertionError)):
        assert known('SNet:no_such_keyword') or known('NoSuchLoss:x')
