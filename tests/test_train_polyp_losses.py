"Structure loss, three sizes and cut gradients inside a fastai run, and each keyword's effect."

import numpy as np
import pytest
import torch
from torch import nn

from snetlib.core import SnetError
from snetlib.data.loaders import slice_dls
from snetlib.data.slices import Slices
from snetlib.train.learner import fit_recipe, snet_learner
from snetlib.train.polyp_losses import (
    EdgeStructureLoss,
    ScaledBatches,
    StructureLoss,
    against_the_rest,
    border_weight,
    rim,
    scaled_batch,
)
from snetlib.train.schedules import SCHEDULES, learning_rate


@pytest.fixture
def batch():
    torch.manual_seed(0)
    labels = torch.zeros(2, 48, 61, dtype=torch.long)
    labels[0, 10:30, 12:40] = 1
    labels[1, 30:, :20] = 2
    return torch.randn(2, 3, 48, 61), labels


def slices(n):
    rng = np.random.default_rng(0)
    labels = np.zeros((n, 64, 64), np.uint8)
    labels[:, 20:40, 24:50] = 1
    images = 0.3 + 0.4 * labels + 0.1 * rng.standard_normal(labels.shape)
    names = ('background', 'square')
    return Slices(np.clip(images, 0, 1).astype(np.float32), labels, [f'c{i}' for i in range(n)], names)


def learner(**lines):
    dls = slice_dls(slices(4), slices(2), bs=2, seed=0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    length = {} if 'steps' in lines else dict(epochs=2)
    lines = length | dict(lr=0.1, precision='float32', channels_last=False) | lines
    return snet_learner(dls, net, 'smoke', progress=False, **lines)


@pytest.mark.parametrize('change', [dict(weighting='published'), dict(window=5), dict(gain=1.0)])
def test_every_keyword_changes_the_loss(batch, change):
    base = dict(weighting='published') if 'weighting' not in change else {}
    plain, changed = StructureLoss(**base), StructureLoss(**(base | change))
    assert not torch.isclose(plain(*batch), changed(*batch), atol=1e-4)


def test_one_class_against_the_rest_is_its_probability(batch):
    assert torch.allclose(against_the_rest(batch[0]).sigmoid(), batch[0].softmax(1)[:, 1:], atol=1e-6)


def test_the_truth_has_hardly_a_loss_and_its_opposite_has_much(batch):
    sure = 20 * torch.nn.functional.one_hot(batch[1], 3).permute(0, 3, 1, 2).float()
    assert StructureLoss()(sure, batch[1]) < 1e-3
    assert StructureLoss()(sure.roll(1, 1), batch[1]) > 1


@pytest.mark.parametrize('loss', [StructureLoss, EdgeStructureLoss])
def test_gradients_reach_every_output(batch, loss):
    outputs = [batch[0].clone().requires_grad_() for _ in range(4)]
    loss()(outputs, batch[1]).backward()
    assert all(x.grad.abs().sum() > 0 for x in outputs)


@pytest.mark.parametrize('loss', [StructureLoss, EdgeStructureLoss])
def test_one_number_an_image(batch, loss):
    each = loss()
    each.reduction = 'none'
    rows = each((batch[0], batch[0]), batch[1])
    alone = loss()((batch[0][1:], batch[0][1:]), batch[1][1:])
    assert torch.allclose(rows[1], alone)


def test_an_unknown_region_is_no_edge(batch):
    labels = batch[1].clone()
    labels[:, :20] = 255
    loss = EdgeStructureLoss(ignore_index=255)
    moved = batch[0].clone()
    moved[:, 1, :19] += 5
    assert torch.isclose(loss.edges(batch[0], labels), loss.edges(moved, labels))


def test_a_wrong_label_is_refused(batch):
    with pytest.raises(SnetError):
        StructureLoss()(batch[0], batch[1] + 5)


def test_border_weight_is_one_far_from_borders():
    assert (border_weight(torch.zeros(1, 1, 40, 41)) == 1).all()
    inside = border_weight(torch.ones(1, 1, 80, 80))[0, 0]
    assert torch.isclose(inside[40, 40], torch.tensor(1.0))
    assert inside[0, 0] > 1, 'beyond the image counts as zero'


def test_rim_by_the_definition_written_out():
    torch.manual_seed(0)
    t = torch.randint(0, 3, (2, 9, 7))
    naive = torch.zeros_like(t, dtype=torch.bool)
    for b, y, x in np.ndindex(*t.shape):
        beside = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        values = [t[b, i, j] for i, j in beside if 0 <= i < 9 and 0 <= j < 7]
        naive[b, y, x] = t[b, y, x] > 0 and any(v != t[b, y, x] for v in values)
    assert rim(t).equal(naive)


@pytest.mark.parametrize(['side', 'scale', 'expected'], [(352, 0.75, 256), (352, 1.25, 448), (33, 0.5, 32)])
def test_sides_are_multiples_of_32(side, scale, expected):
    images, labels = scaled_batch(torch.rand(1, 1, side, side), torch.zeros(1, side, side).long(), scale)
    assert images.shape[-2:] == labels.shape[-2:] == (expected, expected)


def test_the_rest_of_a_batch_travels_along():
    pairs = [(torch.rand(1, 1, 64, 64), torch.zeros(1, 64, 64).long(), 'case')]
    assert [row[2] for row in ScaledBatches(pairs, (0.5, 1))] == ['case', 'case']


def test_three_sizes_are_three_steps_and_a_run_ends_on_time():
    whole = fit_recipe(learner(multi_scale=(0.5, 1, 1.5)))
    assert whole.train_iter == 2 * 2 * 3
    cut = fit_recipe(learner(multi_scale=(0.5, 1, 1.5), steps=7))
    assert cut.train_iter == 7
    assert len(cut.checkpoint.history) == 2


def test_clip_value_bounds_what_the_optimiser_sees():
    free, bound = fit_recipe(learner(steps=1)), fit_recipe(learner(steps=1, clip_value=1e-6))
    moved = [(a - b).abs().max() for a, b in zip(free.model.parameters(), bound.model.parameters())]
    assert max(moved) > 1e-3
    start = learner()
    still = [(a - b).abs().max() for a, b in zip(start.model.parameters(), bound.model.parameters())]
    assert max(still) < 1e-5


def test_a_run_learns_the_square():
    log = fit_recipe(learner(loss='structure', epochs=8, opt='adam', lr=0.05)).checkpoint.history
    assert log[-1]['train_loss'] < log[0]['train_loss']


def test_a_loss_of_edges_needs_an_edge_map():
    with pytest.raises(SnetError, match='edge map'):
        learner(loss='structure_edge')
    dls = slice_dls(slices(4), slices(2), bs=2, seed=0)
    small = dict(width=16, encoder_options=dict(channels=(16, 32, 64, 128)))
    lines = dict(steps=1, loss='structure_edge', precision='float32')
    learn = snet_learner(
        dls, 'cfanet', 'smoke', progress=False, model_kwargs=small | dict(edge=True), **lines
    )
    assert fit_recipe(learn).train_iter == 1


@pytest.mark.parametrize('name', SCHEDULES)
def test_schedules_start_at_lr_and_never_rise_above_it(name):
    recipe = dict(schedule=name, lr=0.1, lr_end=0.01, power=0.9, every=3, drop=0.5, epochs=10, warmup=0.0)
    rates = [learning_rate(recipe, t) for t in np.linspace(0, 1, 101)]
    assert rates[0] == 0.1
    assert max(rates) == 0.1


@pytest.mark.parametrize(['key', 'value'], [('every', 2), ('drop', 0.9), ('schedule_epochs', 40)])
def test_every_number_of_a_schedule_matters(key, value):
    recipe = dict(schedule='drops', lr=0.1, lr_end=0.0, every=3, drop=0.5, epochs=10, warmup=0.0)
    assert learning_rate(recipe, 0.55) != learning_rate(recipe | {key: value}, 0.55)
