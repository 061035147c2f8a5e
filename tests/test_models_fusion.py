"The experiments' fusions: other pairs, and what a fusion is shown."

import pytest
import torch
from networks import seeded


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
