"2.5-D: neighbouring slices as channels, from the recipe through training to masks and scores."

import numpy as np
import pytest
import torch
from processes import refused, snet
from torch import nn

from snetlib.core import BadSetting
from snetlib.data.slices import (
    MixedSlices,
    NeighbourSlices,
    Slices,
    neighbour_rows,
    stack_neighbours,
)
from snetlib.data.source import Source
from snetlib.evaluate import evaluate_run
from snetlib.predict import Predictor
from snetlib.train.recipes import get_recipe
from snetlib.train.run import Run, train_run

RNG = np.random.default_rng(0)


def some(c=None, n=7):
    shape = (n, 8, 6) if c is None else (n, 8, 6, c)
    ids = ['a'] * 3 + ['b'] + ['c'] * (n - 4)
    labels = RNG.integers(0, 2, (n, 8, 6)).astype(np.uint8)
    return Slices(RNG.random(shape).astype(np.float32), labels, ids, ('background', 'x'))


@pytest.mark.parametrize('neighbours', [1, 2, 5])
@pytest.mark.parametrize('c', [None, 1, 3])
def test_each_channel_is_the_slice_it_says(c, neighbours):
    slices = some(c)
    ours = NeighbourSlices(slices, neighbours)
    x, y = ours.batch(range(7))
    assert x.shape[1] == ours.c_in == (c or 1) * (2 * neighbours + 1)
    for i in range(7):
        case = [k for k in range(7) if slices.case_ids[k] == slices.case_ids[i]]
        for d in range(-neighbours, neighbours + 1):
            seen = min(max(i + d, case[0]), case[-1])  # never beyond the case
            first = (d + neighbours) * (c or 1)
            assert torch.equal(x[i, first : first + (c or 1)], slices[seen][0])
        assert torch.equal(y[i], slices[i][1])


def test_selected_slices_keep_their_neighbours():
    ours = NeighbourSlices(some(), 1)
    chosen = ours.select([5, 1])
    assert torch.equal(chosen.batch([0, 1])[0], ours.batch([5, 1])[0])
    assert ours.select(['b']).case_ids == ['b'] and ours.select(['b']).c_in == 3
    assert len(ours.new_empty()) == 0 and ours.new_empty().c_in == 3


def test_slices_of_several_sizes_are_refused():
    images = [np.zeros((4, 5), np.float32), np.zeros((6, 5), np.float32)]
    labels = [np.zeros((4, 5), np.uint8), np.zeros((6, 5), np.uint8)]
    mixed = MixedSlices(images, labels, ['a', 'b'], ('background', 'x'))
    with pytest.raises(BadSetting) as e:
        NeighbourSlices(mixed, 1)
    assert e.value.key == 'neighbours'


def test_rows_of_one_slice_and_of_none():
    assert neighbour_rows(['a'], 2).tolist() == [[0] * 5]
    assert neighbour_rows([], 1).shape == (0, 3)
    volume = RNG.random((4, 3, 2))
    same = stack_neighbours(volume, neighbour_rows([0] * 4, 0))
    np.testing.assert_array_equal(same[..., 0], volume)


class Last(nn.Module):
    "Class 1 where the slice after is bright."

    def forward(self, x):
        return torch.cat([0.5 - x[:, -1:], x[:, -1:] - 0.5], 1)


@pytest.mark.parametrize('settings', [dict(), dict(bs=2), dict(tile=32), dict(size=(40, 36))])
def test_a_predictor_stacks_as_training_does(settings):
    volume = RNG.random((5, 40, 36)).astype(np.float32)
    predictor = Predictor(Last().eval(), c_in=1, neighbours=1, **settings)
    after = volume[[1, 2, 3, 4, 4]]
    np.testing.assert_array_equal(predictor.array(volume), after > 0.5)
    case = Slices(volume, np.zeros(volume.shape, np.uint8), ['a'] * 5, ('background', 'x'))
    trained_on, _ = NeighbourSlices(case, 1).batch(range(5))
    np.testing.assert_array_equal(Last()(trained_on).argmax(1), predictor.array(volume))


@pytest.mark.parametrize('value', [0, -1, 1.5, True, 'one'])
def test_a_recipe_wants_a_whole_number(value):
    with pytest.raises(BadSetting) as e:
        get_recipe('smoke', neighbours=value)
    assert e.value.key == 'neighbours'
    assert 'neighbours' not in get_recipe('smoke')


def test_frames_have_no_neighbours(tmp_path):
    with pytest.raises(BadSetting, match='frames'):
        train_run(tmp_path / 'r', Source('phantom', split='frames'), recipe='smoke', neighbours=1)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs') / 'run'
    quick = dict(size=32, bs=4, steps=2, precision='float32', progress=False)
    train_run(folder, 'phantom', 'snet_tiny', 'smoke', neighbours=1, device='cpu', **quick)
    return folder


def test_from_training_to_scores(run, tmp_path):
    trained = Run(run)
    assert trained.neighbours == 1 and trained.config['data']['c_in'] == 3
    assert trained.model().c_in == 3
    case = next(trained.source.cases('test'))
    predictor = Predictor(trained)
    assert (predictor.c_in, predictor.neighbours) == (1, 1)
    slices = NeighbourSlices(trained.source.slices('test', 32).select([case.id]), 1)
    with torch.no_grad():
        small = trained.model()(slices.batch(range(len(slices)))[0]).argmax(1)
    again = Predictor(trained, size=32)
    assert again.case(case).shape == case.label.shape and small.shape[1:] == (32, 32)
    scores = evaluate_run(run, tmp_path / 'scores', limit=1, progress=False)
    assert scores['case'].unique().tolist() == [case.id]


def test_plain_runs_and_these_do_not_mix(run, tmp_path):
    quick = dict(size=32, bs=4, steps=2, precision='float32', progress=False)
    train_run(tmp_path / 'plain', 'phantom', 'snet_tiny', 'smoke', device='cpu', **quick)
    with pytest.raises(BadSetting, match='neighbours'):
        Predictor([Run(run), Run(tmp_path / 'plain')])
    done = snet('train', 'phantom', '--out', tmp_path / 'x', '--set', 'neighbours=0')
    assert refused(done, '(--set neighbours=…)')
