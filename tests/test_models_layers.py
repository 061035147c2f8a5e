"Layers: fused, channels last, and attention without a map."

import pytest
import torch
import torch.nn.utils.prune as prune
from networks import seeded
from torch import nn

from snetlib.models import layers
from snetlib.models.layers import (
    ConvNormAct,
    attention,
    fast_settings,
    fuse_for_inference,
    naive_attention,
)
from snetlib.models.registry import (
    create_model,
)


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


def test_gradients_in_one_piece_are_the_same_gradients(monkeypatch):
    "Each resize copies its gradient, and no weight gets another one for it."
    net, x = seeded().train(), torch.rand(2, 1, 64, 96)
    first, calls = layers.in_one_piece, []

    def gradients():
        net.zero_grad()
        sum(y.square().mean() for y in net(x)).backward()
        return {k: p.grad.clone() for k, p in net.named_parameters() if p.grad is not None}

    def counted(grad):
        calls.append(grad.shape)
        return first(grad)

    monkeypatch.setattr(layers, 'in_one_piece', counted)
    found = gradients()
    monkeypatch.setattr(layers, 'in_one_piece', lambda grad: grad)
    plain = gradients()
    assert len(calls) >= 4 and found.keys() == plain.keys()
    for k, g in found.items():
        torch.testing.assert_close(g, plain[k], rtol=1e-4, atol=1e-6)


def test_resized_maps_have_gradients_under_torch_func():
    like = torch.rand(1, 1, 12, 10)
    one = torch.func.grad(lambda x: (layers.resize_to(x[None], like) ** 2).sum())
    each = torch.vmap(one)(torch.rand(3, 2, 6, 5))
    assert each.shape == (3, 2, 6, 5) and each.abs().sum() > 0


@pytest.mark.parametrize('c_in', [1, 3])
@pytest.mark.parametrize('batch', [1, 2])
@pytest.mark.parametrize('name', ['snet_tiny', 'sosegformer_tiny'])
def test_maps_are_channels_last_and_filters_flat(name, batch, c_in):
    "Maps need no copy to become tokens, and what flattens a filter by `view` finds it flat."
    net, orders = create_model(name, c_in=c_in, n_out=2).eval(), {}
    net.load_state_dict(create_model(name, c_in=c_in, n_out=2).state_dict())
    assert all(p.view(-1).shape == (p.numel(),) for p in net.parameters())

    def look(module, args, out):
        if out.shape[1] > 1 and min(out.shape[2:]) > 1 and module.groups == 1:
            orders[module] = out.is_contiguous(memory_format=torch.channels_last)

    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    for conv in convs:
        conv.register_forward_hook(look)
    with torch.no_grad():
        net(torch.rand(batch, c_in, 64, 96))
    first = {convs[0], net.vit.layers[0]['embed'].proj} if name == 'snet_tiny' else {convs[0]}
    assert len(orders) > 20
    assert all(order for conv, order in orders.items() if c_in > 1 or conv not in first)


@pytest.mark.parametrize('name', ['snet_tiny', 'sosegformer_tiny'])
def test_pruned_by_torch(name):
    net, x = create_model(name, c_in=1, n_out=2).eval(), torch.rand(1, 1, 64, 64)
    layers_ = [(m, 'weight') for m in net.modules() if type(m) in (nn.Conv2d, nn.Linear)]
    for module, weight in layers_:
        prune.l1_unstructured(module, weight, amount=0.5)
    prune.global_unstructured(layers_, prune.RandomUnstructured, amount=0.1)
    with torch.no_grad():
        assert net(x).shape == (1, 2, 64, 64)
    for module, weight in layers_:
        prune.remove(module, weight)
    zeros = sum(int((m.weight == 0).sum()) for m, _ in layers_)
    assert zeros >= 0.5 * sum(m.weight.numel() for m, _ in layers_)


def test_settings_for_a_cpu():
    assert set(fast_settings('cpu')) == {'memory_format', 'amp', 'compile'}


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


def test_bfloat16_is_not_trusted_where_its_convolutions_are_noise(monkeypatch):
    monkeypatch.setattr(torch.cpu, '_is_avx512_bf16_supported', lambda: True)
    plain = torch.nn.functional.conv2d

    def noisy(x, w, **kwargs):
        y = plain(x, w, **kwargs)
        return torch.randn_like(y) if x.dtype == torch.bfloat16 else y

    state = torch.get_rng_state()
    monkeypatch.setattr(layers.F, 'conv2d', noisy)
    assert not layers.bfloat16_is_right.__wrapped__('cpu')
    monkeypatch.setattr(layers.F, 'conv2d', lambda x, w, **k: plain(x.float(), w.float(), **k).to(x.dtype))
    torch.set_rng_state(state)
    assert layers.bfloat16_is_right.__wrapped__('cpu')
    assert torch.equal(state, torch.get_rng_state())  # the probe draws from a generator of its own
    for right in (True, False):
        monkeypatch.setattr(layers, 'bfloat16_is_right', lambda device, right=right: right)
        assert fast_settings('cpu')['amp'] == (torch.bfloat16 if right else None)
