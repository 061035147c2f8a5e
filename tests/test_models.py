"""Every registered network behaves as a torch module.

The names come from the registry, so a new network is tested without a line here. All checks are
made of the tiny networks, a few of all others; SNET_SLOW=1 makes all checks of all networks, with
the export of each (seconds) and torch.compile.
"""

import copy
import inspect
import io
import os
import pickle
import shutil

import pytest
import torch
from torch import nn
from torch.export import Dim, export
from torch.nn.utils import parametrize

from snetlib.core import NotAtHand
from snetlib.models import create_model, list_models
from snetlib.models import snet as snet_page
from snetlib.models import sosegformer as sosegformer_page
from snetlib.models.layers import conv_norm_pairs, fuse_for_inference
from snetlib.models.registry import registered_models

OWN = [n for n, build in registered_models().items() if build.__module__.startswith('snetlib.')]
WEIGHTED = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
TRANSUNET = dict(units=(1, 1, 1), stem_width=8, width=16, depth=1, heads=2, widths=(16, 8, 8, 8))
SWIN_UNET = dict(width=8, depths=(2, 2, 2, 2), heads=(1, 2, 2, 4))
CTCNET = SWIN_UNET | dict(
    encoder='resnet34', encoder_options=dict(layers=(1, 1, 1, 1), channels=(8, 8, 16, 16))
)
SMALLER = {  # keywords that make a network cheap and leave its kind as it is
    'attention_unet': dict(channels=(4, 8, 16, 32, 64)),
    'dynunet': dict(filters=(4, 8, 16, 32, 64, 64)),
    'unet': dict(channels=(4, 8, 16, 32, 64)),
    'unet_plain': dict(features=(4, 8, 16, 32, 64, 4)),
    'unet_large': dict(features=(4, 8, 16, 32, 64, 4)),
    'unetpp': dict(features=(4, 8, 16, 32, 64, 4)),
    'r50_unet': dict(encoder_name='resnet18'),
    'r50_deeplabv3plus': dict(encoder_name='resnet18'),
    'swin_unetr': dict(feature_size=12),
    'transunet': TRANSUNET,
    'r50_vit': TRANSUNET,
    'swin_unet': SWIN_UNET,
    'swin_unet_deep': SWIN_UNET,
    'ctcnet': CTCNET,
    'ctcnet_t34': CTCNET,
    'attransunet': TRANSUNET,
    'transclaw_unet': dict(widths=(4, 8, 8, 16), width=16, depth=1, heads=2),
    'catformer': dict(units=(1, 1, 1), stem_width=8, width=16, depth=1, heads=2, side=4),
    'missformer': dict(widths=(8, 16, 24, 32), depths=(1, 1, 1, 1), heads=(1, 1, 2, 2), bridges=1),
}
EXCEPTIONS = {  # (network, check): why it is not asked
    ('hrnet', None): 'the code of hrnet_w18 with seven times its work',
    ('unetpp', 'adapters'): 'three of its four heads speak in deep supervision only',
}
slow = pytest.mark.skipif(not os.environ.get('SNET_SLOW'), reason='long; set SNET_SLOW=1')
NAMES = [name for name in OWN if (name, None) not in EXCEPTIONS]
TINY = ('snet_tiny', 'sosegformer_tiny')
QUICK = ('deepcopy', 'apply', 'data_parallel')  # asked of the others where SNET_SLOW is not set


def small(name, n_out=3):
    "The named network for one channel, at a small size where it has one, with norms that matter."
    build, kw = registered_models()[name], SMALLER.get(name, {})
    if 'size' in inspect.signature(build).parameters:
        kw = dict(size='tiny')
    elif name in list_models(tag='snet'):
        kw = snet_page.SNET_SIZES['tiny']
    elif name in list_models(tag='sosegformer'):
        kw = sosegformer_page.SOSEGFORMER_SIZES['tiny']
    torch.manual_seed(0)
    try:
        net = create_model(name, c_in=1, n_out=n_out, **kw)
    except NotAtHand as e:
        pytest.skip(str(e))
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d) and m.running_mean is not None:
            m.running_mean.normal_(0, 0.1)
            m.running_var.uniform_(0.5, 2)
    return net.eval()


def answer(net, x):
    with torch.no_grad():
        return net(x)


def same(a, b, tol=1e-4):
    torch.testing.assert_close(a, b, atol=tol, rtol=tol)


def asked_for(net):
    "Layers with weights, but for those whose weights torch's own attention reads itself."
    inside = {id(c) for m in net.modules() if isinstance(m, nn.MultiheadAttention) for c in m.modules()}
    return [m for m in net.modules() if isinstance(m, WEIGHTED) and id(m) not in inside]


def outputs(net, x):
    "All outputs in train()."
    found = net.train()(x)
    return found if isinstance(found, (tuple, list)) else (found,)


def check_deepcopy(net, x):
    same(answer(copy.deepcopy(net), x), answer(net, x))


def check_pickle(net, x):
    same(answer(pickle.loads(pickle.dumps(net)), x), answer(net, x))


def check_state_dict(net, x):
    other, file = copy.deepcopy(net), io.BytesIO()
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.1)
    torch.save(net.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    same(answer(other, x), answer(net, x))


def check_bfloat16(net, x):
    y = answer(copy.deepcopy(net).bfloat16(), x.bfloat16())
    assert y.dtype == torch.bfloat16
    assert y.isfinite().all()


def check_half(net, x):
    assert answer(copy.deepcopy(net).half(), x.half()).dtype == torch.float16


def check_hooks(net, x):
    net, seen = copy.deepcopy(net), set()
    for m in asked_for(net):
        m.register_forward_hook(lambda m, i, o: seen.add(m))
    outputs(net, x)
    silent = [n for n, m in net.named_modules() if m in set(asked_for(net)) - seen]
    assert not silent, f'hooks do not fire on {silent}'


def check_apply(net, x):
    seen = []
    net.apply(seen.append)
    assert set(seen) == set(net.modules())  # dynunet owns some modules twice


def check_data_parallel(net, x):
    same(answer(nn.DataParallel(net), x), answer(net, x))


def check_group_norm(net, x):
    net = copy.deepcopy(net)
    for m in list(net.modules()):
        for name, child in m.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(m, name, nn.GroupNorm(1, child.num_features))
    outputs(net, x)
    assert answer(net.eval(), x).isfinite().all()


class LowRank(nn.Module):
    "LoRA as a parametrization: the weight plus a product of two thin matrices."

    def __init__(self, weight):
        super().__init__()
        rows, columns = weight.shape[0], weight[0].numel()
        self.a = nn.Parameter(torch.full((rows, 1), 0.1))
        self.b = nn.Parameter(torch.full((1, columns), 0.1))

    def forward(self, weight):
        return weight + (self.a @ self.b).view(weight.shape)


def check_adapters(net, x):
    "An adapter on each layer is felt: it gets a gradient in train(), and eval() changes."
    adapted, parts = copy.deepcopy(net), {}
    layers = asked_for(adapted)
    for name, m in list(adapted.named_modules()):
        if m in layers:
            parts[name] = LowRank(m.weight)
            parametrize.register_parametrization(m, 'weight', parts[name])
    changed = answer(adapted, x)
    assert not torch.allclose(changed, answer(net, x), atol=1e-3)
    sum(y.square().mean() for y in outputs(adapted, x)).backward()
    unfelt = [name for name, part in parts.items() if part.a.grad is None]
    assert not unfelt, f'adapters are left out on {unfelt}'
    same(answer(fuse_for_inference(adapted), x), answer(adapted.eval(), x))


def check_vmap(net, x):
    "torch.func: one image at a time, and an ensemble of two networks."
    if type(net).__module__.split('.')[2] not in ('snet', 'sosegformer'):
        return  # the libraries of baselines ask for sizes that vmap hides
    same(torch.func.vmap(lambda one: answer(net, one[None])[0])(x), answer(net, x))


def check_fused(net, x):
    fused = fuse_for_inference(net)
    expected = answer(net, x)
    apart = max(1e-3, 1e-5 * float(expected.abs().max()))  # hrnet at random weights: 10⁶
    torch.testing.assert_close(answer(fused, x), expected, rtol=1e-3, atol=apart)
    assert not conv_norm_pairs(fused, x)


CHECKS = {name[6:]: f for name, f in list(globals().items()) if name.startswith('check_')}


@pytest.mark.parametrize('name', NAMES)
def test_behaves_as_a_torch_module(name):
    net, faults = small(name), {}
    x = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    asked = CHECKS if name in TINY or os.environ.get('SNET_SLOW') else QUICK
    for what in asked:
        check = CHECKS[what]
        if (name, what) in EXCEPTIONS:
            continue
        try:
            check(net.eval(), x)
        except Exception as e:
            faults[what] = f'{type(e).__name__}: {str(e)[:300]}'
    assert not faults


def test_exceptions_name_networks_and_checks():
    for name, check in EXCEPTIONS:
        assert name in OWN
        assert check is None or check in CHECKS or check == 'export'


@pytest.mark.parametrize('name', [n if n in TINY else pytest.param(n, marks=slow) for n in NAMES])
def test_exports_for_one_size(name):
    if (name, 'export') in EXCEPTIONS:
        pytest.skip(EXCEPTIONS[name, 'export'])
    net, x = small(name), torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        same(export(net, (x,)).module()(x), net(x))


@pytest.mark.parametrize('name', TINY)
def test_exports_for_every_size(name):
    "Sides are multiples of 32; one of the maps needs fewer keys, and one more taps, than another."
    net = small(name)
    free = {0: Dim('b', min=1, max=64), 2: 32 * Dim('h', min=2, max=16), 3: 32 * Dim('w', min=2, max=16)}
    with torch.no_grad():
        exported = export(net, (torch.rand(2, 1, 64, 96),), dynamic_shapes=(free,)).module()
        for shape in ((1, 1, 64, 64), (3, 1, 128, 160), (1, 1, 256, 96), (1, 1, 64, 512)):
            x = torch.rand(shape)
            same(exported(x), net(x))


@slow
@pytest.mark.skipif(shutil.which('g++') is None, reason='no compiler')
@pytest.mark.parametrize('name', TINY)
def test_compiles(name):
    net, x = small(name), torch.rand(1, 1, 64, 64)
    same(answer(torch.compile(net), x), answer(net, x))
