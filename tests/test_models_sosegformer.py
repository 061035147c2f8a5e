"SoSegFormer: what every network here guarantees, over sizes and ablation rows."

import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from snetlib.core import BadSetting, SnetError, seed_everything
from snetlib.models import sosegformer as page
from snetlib.models.layers import bfloat16_is_right
from snetlib.models.registry import count_parameters, create_model, gflops, list_models
from snetlib.models.sosegformer import SoSegFormer
from snetlib.models.stageformer import MHSA, StageFormer

ROWS = [n for n in list_models('sosegformer_*', tag='ablation')]
ROW_KW = [('sosegformer_tiny', {})] + [(n, dict(size='tiny')) for n in ROWS]
row = pytest.mark.parametrize('name,kw', ROW_KW, ids=[n for n, _ in ROW_KW])


def tiny(seed=0, **kw):
    seed_everything(seed)
    return create_model('sosegformer_tiny', **kw)


def stirred(net):
    "Norms away from their start, so that folding or skipping one would show."
    g = torch.Generator().manual_seed(0)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            for t, lo, hi in (
                (m.weight, 0.5, 1.5),
                (m.bias, -0.3, 0.3),
                (m.running_mean, -0.3, 0.3),
                (m.running_var, 0.5, 1.5),
            ):
                t.data.copy_(torch.rand(t.shape, generator=g) * (hi - lo) + lo)
    return net


def test_every_row_is_there():
    assert {
        'sosegformer_no_cross_scale',
        'sosegformer_neighbour_arrows',
        'sosegformer_first_arrows',
        'sosegformer_no_stageformer',
        'sosegformer_no_aspp',
        'sosegformer_separable',
    } == set(ROWS)
    assert set(list_models('sosegformer_*', tag='size')) == {
        f'sosegformer_{s}' for s in page.SOSEGFORMER_SIZES
    }
    assert count_parameters(tiny()) <= 3_000_000


@row
def test_trains_one_step(name, kw):
    net = create_model(name, c_in=1, n_out=3, drop_path=0.0, **kw).train()
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.ones_(m.weight)  # timm starts the last norm of a block at 0
    seed_everything(0)
    x, y = torch.rand(2, 1, 64, 64), torch.randint(3, (2, 64, 64))
    opt = torch.optim.SGD(net.parameters(), 1e-3)
    loss = nn.functional.cross_entropy(net(x), y)
    loss.backward()
    dead = [n for n, p in net.named_parameters() if p.grad is None or p.grad.abs().sum() == 0]
    assert not dead, dead
    opt.step()
    with torch.no_grad():
        assert nn.functional.cross_entropy(net(x), y) < loss


@row
@pytest.mark.parametrize('shape', [(1, 3, 65, 97), (1, 1, 32, 32), (2, 4, 33, 40), (1, 3, 32, 96)], ids=str)
def test_any_size_channels_and_batch(name, kw, shape):
    net = create_model(name, c_in=shape[1], n_out=5, **kw)
    for mode in (True, False):
        y = net.train(mode)(torch.rand(shape))
        assert torch.is_tensor(y) and y.shape == (shape[0], 5, *shape[2:]) and y.isfinite().all()


def test_padding_does_not_reach_inside():
    net = stirred(tiny()).eval()
    x = torch.rand(1, 3, 70, 90)
    by_hand = nn.functional.pad(x, (0, 6, 0, 26), mode='replicate')
    with torch.no_grad():
        assert torch.equal(net(x), net(by_hand)[..., :70, :90])


def test_images_of_a_batch_do_not_meet_in_eval():
    net = stirred(tiny()).eval()
    x = torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(net(x)[1:2], net(x[1:2]), atol=1e-5)


@pytest.mark.parametrize('attention', ['mhsa', 'separable'])
def test_memory_formats_and_dtypes_agree(attention):
    net = stirred(tiny(attention=attention)).eval()
    x = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        ref = net(x)
        assert torch.allclose(net(x.to(memory_format=torch.channels_last)), ref, atol=1e-4 * ref.abs().max())
        assert torch.allclose(
            net.to(memory_format=torch.contiguous_format)(x), ref, atol=1e-4 * ref.abs().max()
        )
        with torch.autocast('cpu', torch.bfloat16):
            low = net(x).float()
        if bfloat16_is_right('cpu'):  # 8 bits: 0.4 % a rounding, some forty layers
            assert (low - ref).abs().mean() < 0.05 * ref.abs().mean()
        assert torch.allclose(net.double()(x.double()), ref.double(), atol=1e-3 * ref.abs().max())


def test_weights_only_round_trip(tmp_path):
    net = stirred(tiny(c_in=4, n_out=3)).eval()
    torch.save(dict(config=net.config, weights=net.state_dict()), tmp_path / 'w.pt')
    saved = torch.load(tmp_path / 'w.pt', weights_only=True)
    other = SoSegFormer(**saved['config'])
    other.load_state_dict(saved['weights'])
    x = torch.rand(1, 4, 64, 64)
    with torch.no_grad():
        assert torch.equal(net(x), other.eval()(x))


@row
def test_no_tensor_stays_behind_on_another_device(name, kw):
    net = create_model(name, c_in=3, **kw)
    held = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    with FakeTensorMode(
        allow_non_fake_inputs=False
    ):  # refuses every tensor that is neither parameter nor buffer, and every meeting of two devices
        there = {n: torch.empty(t.shape, dtype=t.dtype, device='cuda') for n, t in held.items()}
        x = torch.rand(1, 3, 65, 97, device='cuda')
        for mode in (True, False):
            assert torch.func.functional_call(net.train(mode), there, (x,)).device.type == 'cuda'


def test_bad_input_is_refused_in_one_sentence():
    net = tiny()
    for x, word in (
        (torch.rand(1, 1, 64, 64), 'c_in=1'),
        (torch.rand(1, 3, 31, 64), '32'),
        (torch.rand(3, 64, 64), 'x[None]'),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), 'float'),
    ):
        with pytest.raises(SnetError, match=word.replace('[', r'\[')):
            net(x)


@pytest.mark.parametrize(
    'kw,word',
    [
        (dict(attention='mhas'), 'mhsa'),
        (dict(arrows=((2, 1),)), 'x < r'),
        (dict(arrows=((1, 5),)), 'x < r'),
        (dict(encoder='resnet5o'), 'resnet50'),
        (dict(encoder='convnext_tiny'), 'resnet18'),
        (dict(encoder='vit_tiny_patch16_224'), 'resnet'),
        (dict(heads=0), 'heads'),
        (dict(aspp_rates=(0,)), 'Rates'),
        (dict(decode_from='stage4'), 'stage5'),
        (dict(pad='zeros'), 'replicate'),
        (dict(n_out=0), 'class'),
        (dict(size='huge'), 'tiny'),
        (dict(patch=0), 'patch'),
        (dict(drop_path=1.5), 'drop'),
        (dict(pool_norm='group'), 'layer'),
        (dict(pretrained='nowhere.pth', encoder_options=None, encoder='resnet10t'), 'pretrained=PATH'),
    ],
)
def test_bad_settings_are_refused_in_one_sentence(kw, word):
    with pytest.raises(SnetError, match=word):
        page.sosegformer(
            **dict(dict(size='tiny') | ({} if 'encoder' not in kw else dict(encoder_options=None))) | kw
        )


def test_pretrained_without_a_network_says_the_cure():
    code = (
        "from snetlib.models.sosegformer import Encoder; from snetlib.core import SnetError\n"
        "try: Encoder('resnet10t', pretrained=True)\nexcept SnetError as e: print(e)"
    )
    done = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        env=os.environ | dict(HF_HUB_OFFLINE='1', HF_HOME='/nonexistent'),
    )
    assert 'pretrained=PATH' in done.stdout and done.returncode == 0, done.stderr


def test_pretrained_file_is_taken_or_refused_whole(tmp_path):
    import timm

    full = timm.create_model('resnet10t')
    torch.save(full.state_dict(), tmp_path / 'w.pth')
    torch.save(timm.create_model('resnet18').state_dict(), tmp_path / 'other.pth')
    net = SoSegFormer(encoder='resnet10t', pretrained=str(tmp_path / 'w.pth'), aspp_width=32)
    assert torch.equal(net.encoder.net.state_dict()['conv1.0.weight'], full.state_dict()['conv1.0.weight'])
    with pytest.raises(SnetError):
        SoSegFormer(encoder='resnet10t', pretrained=str(tmp_path / 'other.pth'))


@pytest.mark.parametrize('encoder', ['resnet18', 'mobilenetv3_small_050', 'regnety_002', 'vgg11_bn'])
def test_other_encoders(encoder):
    net = SoSegFormer(1, 2, encoder=encoder, aspp_width=32).eval()
    with torch.no_grad():
        assert net(torch.rand(1, 1, 65, 40)).shape == (1, 2, 65, 40)


def test_linear_attention_grows_linearly_and_the_bound_holds():
    cost = {
        kw['attention'] if 'max_tokens' not in kw else 'all': [
            gflops(StageFormer(16, heads=2, **kw), (1, 16, s, s)) for s in (128, 256)
        ]
        for kw in (
            dict(attention='separable'),
            dict(attention='mhsa'),
            dict(attention='mhsa', max_tokens=None),
        )
    }
    ratio = {k: b / a for k, (a, b) in cost.items()}
    assert ratio['separable'] < 4.05 and ratio['mhsa'] < 4.5 and ratio['all'] > 12
    for n in (1, 2, 5, 16, 31, 32, 33, 64):
        seen = []
        net = MHSA(4, 2, max_tokens=64)
        net.kv.register_forward_pre_hook(lambda m, a: seen.append(a[0].shape[1]))
        net(torch.rand(1, n * 7, 4), (n, 7))
        assert seen[0] <= 64 + n + 7 and (n * 7 > 64 or seen[0] == n * 7)


def test_a_size_is_only_numbers():
    assert all(set(v) <= set(SoSegFormer.__init__.__kwdefaults__) for v in page.SOSEGFORMER_SIZES.values())


def test_import_asks_for_no_optional_package():
    optional = {'timm', 'monai', 'segmentation_models_pytorch', 'torchvision', 'matplotlib'}
    code = (
        'import sys, snetlib.models.sosegformer, snetlib.models.baselines\n'
        f'sys.exit(str({optional} & set(sys.modules) or ""))'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.stderr.strip() == '', done.stderr


def test_every_keyword_is_in_the_ledger():
    import csv
    import inspect
    from pathlib import Path

    with open(Path(__file__).parent.parent / 'data' / 'ledger.csv', encoding='utf-8', newline='') as f:
        rows = [r for r in csv.DictReader(f) if r['network'] == 'SoSegFormer']
    named = {r['keyword'].partition(':')[2] for r in rows if r['keyword'].startswith('SoSegFormer:')}
    assert named == set(inspect.signature(SoSegFormer.__init__).parameters) - {'self'}
    assert all(r['mark'] in 'PIC' and r['what'] and (r['mark'] == 'P' or r['reason']) for r in rows)


CHOICES = {
    'cross_at': dict(cross_at='encoder'),
    'arrow_act': dict(arrow_act='relu'),
    'squeeze': dict(squeeze=2),
    'up_squeeze': dict(up_squeeze=2),
    'head_from': dict(head_from='finest', decode_from='aspp'),
}


@pytest.mark.parametrize('key', CHOICES)
def test_a_choice_of_the_ledger_changes_the_output_and_can_be_learnt(key):
    def built(**kwargs):
        torch.manual_seed(0)
        return create_model('sosegformer_tiny', c_in=1, n_out=2, **kwargs)

    before = dict(decode_from='aspp') if key == 'head_from' else {}
    x = torch.rand(2, 1, 64, 96)
    plain, changed = built(**before), built(**CHOICES[key])
    with torch.no_grad():
        assert (plain.eval()(x) - changed.eval()(x)).abs().max() > 1e-6
    changed.train()(x).square().mean().backward()
    silent = [n for n, p in changed.named_parameters() if p.grad is None]
    assert not silent, silent


def test_a_head_of_the_finest_map_needs_aspp_in_the_decoder():
    with pytest.raises(BadSetting, match="decode_from='aspp'"):
        create_model('sosegformer_tiny', head_from='finest')


def test_eq_1_on_the_maps_of_the_encoder():
    "The arrows come first, then the bottlenecks."
    net = create_model('sosegformer_tiny', c_in=1, n_out=2, cross_at='encoder').eval()
    maps = [torch.rand(1, w, 32 // 2**k, 32 // 2**k) for k, w in enumerate(net.widths[:4])]
    with torch.no_grad():
        wanted = [f(m) for f, m in zip(net.bottlenecks, net.cross(maps))]
        assert all(torch.equal(a, b) for a, b in zip(net.instructed(maps), wanted))
