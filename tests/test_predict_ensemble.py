"Several runs in one call: the mean of their probabilities, and how far they disagree."

import json
import shutil
from itertools import permutations

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from networks import Threshold
from processes import refused, snet
from torch import nn

from snetlib.core import BadSetting
from snetlib.models import create_model
from snetlib.predict import Predictor
from snetlib.predict.predictor import OtherMask
from snetlib.predict.slices import Agreement, Ensemble, Mirrored, device_of, slice_logits
from snetlib.train.run import Run, train_run


class Fixed(nn.Module):
    "A network without a single weight."

    def forward(self, x):
        return torch.cat([0.5 - x, x - 0.5], 1)


class LeftNeighbour(nn.Module):
    "Compares a pixel with its left neighbour: not symmetric."

    def forward(self, x):
        return torch.cat([torch.zeros_like(x), x - x.roll(1, -1)], 1)


def levels(*numbers):
    return [Threshold(n, slope=4).eval() for n in numbers]


VOLUME = np.random.default_rng(0).random((5, 70, 50)).astype(np.float32)
SETTINGS = (dict(), dict(size=64), dict(tile=32), dict(mirror=True), dict(bs=2, fuse=False))


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    "Three tiny runs from different seeds."
    folder = tmp_path_factory.mktemp('runs')
    for seed in range(3):
        changes = dict(size=32, bs=8, epochs=1, precision='float32', progress=False)
        train_run(folder / str(seed), 'mni', recipe='smoke', seed=seed, device='cpu', **changes)
    return [folder / str(seed) for seed in range(3)]


@pytest.fixture(scope='module')
def scan(tmp_path_factory):
    from snetlib.data.sets.mni import mni_case

    path = tmp_path_factory.mktemp('scans') / 'brain.nii.gz'
    image = mni_case('test').image[:4].astype(np.float32)
    nib.save(nib.Nifti1Image(image, np.diag([3.0, 1, 1, 1])), path)
    return path


@pytest.mark.parametrize('settings', SETTINGS)
def test_the_probabilities_are_the_mean_of_the_members(settings):
    members = levels(0.3, 0.5, 0.8)
    mean = np.mean([Predictor(m, **settings).probabilities(VOLUME) for m in members], 0)
    ours = Predictor(members, **settings).probabilities(VOLUME)
    np.testing.assert_allclose(ours.astype(float), mean, atol=2e-3 if 'size' not in settings else 0.02)


@pytest.mark.parametrize('settings', [*SETTINGS, dict(size=64, resize='published')])
def test_a_network_with_itself_is_that_network(settings):
    network = create_model('snet_tiny', c_in=1, n_out=3).eval()
    one, two = Predictor(network, **settings), Predictor([network, network], **settings)
    assert (one.array(VOLUME) == two.array(VOLUME)).mean() > 0.9999
    assert two.disagreement(VOLUME) < 1e-3 or settings.get('mirror')


def test_the_order_does_not_matter():
    predictors = [Predictor(list(p)) for p in permutations(levels(0.3, 0.5, 0.8))]
    first = predictors[0].probabilities(VOLUME)
    for other in predictors[1:]:
        np.testing.assert_allclose(other.probabilities(VOLUME), first, atol=1e-3)
        assert other.disagreement(VOLUME) == pytest.approx(predictors[0].disagreement(VOLUME))
    assert len({p.fingerprint() for p in predictors}) == 1
    assert Predictor(levels(0.3, 0.5, 0.7)).fingerprint() != predictors[0].fingerprint()


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_disagreement_is_one_minus_the_mean_dice_of_pairs():
    members = levels(0.3, 0.5, 0.8)
    a, b, c = (Predictor(m).array(VOLUME) > 0 for m in members)
    expected = 1 - np.mean([dice(a, b), dice(a, c), dice(b, c)])
    for settings in (dict(), dict(bs=2), dict(fuse=False)):
        assert Predictor(members, **settings).disagreement(VOLUME) == pytest.approx(expected)


def one_hot(*labels, n=3):
    return [nn.functional.one_hot(torch.tensor(l), n).T[None, :, None].float() for l in labels]


@pytest.mark.parametrize(
    'labels, expected',
    [
        (([0, 0, 0], [0, 0, 0]), 0),  # all empty: nobody disagrees
        (([1, 2, 0], [1, 2, 0]), 0),
        (([1, 1, 0], [0, 0, 1]), 1),
        (([1, 1, 0], [1, 0, 0]), 1 - 2 / 3),
        (([1, 2, 0], [1, 0, 0]), 1 / 2),  # class 1 agrees, class 2 is found by one only
        (([2, 0, 0], [0, 0, 0], [0, 0, 0]), 1),  # a pair without the class does not count
    ],
)
def test_disagreement_by_hand(labels, expected):
    agreement = Agreement()
    agreement.add(one_hot(*labels))
    assert agreement.disagreement() == pytest.approx(expected)


def test_batches_are_counted_together():
    whole, parts = Agreement(), Agreement()
    whole.add(one_hot([1, 1, 0, 2], [1, 0, 2, 2]))
    parts.add(one_hot([1, 1], [1, 0]))
    parts.add(one_hot([0, 2], [2, 2]))
    assert whole.disagreement() == parts.disagreement()


def test_a_single_answer_has_no_disagreement():
    assert Predictor(Threshold().eval()).disagreement(VOLUME) is None
    assert Predictor(levels(0.5)).disagreement(VOLUME) is None
    assert Predictor(Ensemble(levels(0.5))).disagreement(VOLUME) is None
    left = LeftNeighbour().eval()
    assert Predictor(left).disagreement(VOLUME) is None
    assert Predictor(left, mirror=True).disagreement(VOLUME) > 0.1
    assert Predictor(Threshold().eval(), mirror=True).disagreement(VOLUME) == 0
    assert Mirrored(left).agreement is None


def test_a_network_without_weights_predicts():
    assert device_of(Fixed()) == torch.device('cpu')
    x = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(slice_logits(Fixed().eval(), x), torch.cat([0.5 - x, x - 0.5], 1))
    np.testing.assert_array_equal(Predictor(Fixed().eval()).array(VOLUME), VOLUME > 0.5)
    assert Predictor([Fixed().eval(), Threshold().eval()]).array(VOLUME).max() == 1


@pytest.mark.parametrize(
    'make, says',
    [
        (lambda: Predictor([]), 'needs a network'),
        (lambda: Predictor([Threshold().eval(), Threshold(n_out=3).eval()]).array(VOLUME), 'classes'),
        (lambda: Predictor([Threshold().eval(), Threshold().train()]), 'train'),
        (lambda: Predictor(levels(0.5, 0.6), look=1.5), '1.5'),
    ],
)
def test_what_cannot_be_averaged_is_refused(make, says):
    with pytest.raises(BadSetting, match=says):
        make()


def changed(run, folder, **changes):
    "A copy of a run whose config.json says something else."
    shutil.copytree(run, folder)
    config = json.loads((folder / 'config.json').read_text())
    for key, value in changes.items():
        place = config['data'] if key in config['data'] else config['recipe']
        place[key] = value
    (folder / 'config.json').write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    'changes, names',
    [
        (dict(size=48), 'size'),
        (dict(intensity=dict(kind='uint8')), 'intensity'),
        (dict(class_names=list('abcd')), 'classes'),
    ],
)
def test_runs_that_differ_are_refused_by_what_differs(runs, tmp_path, changes, names):
    other = changed(runs[1], tmp_path / 'other', **changes)
    with pytest.raises(BadSetting, match=f'differ in {names} ') as e:
        Predictor([Run(runs[0]), Run(other)])
    assert e.value.path == other


def test_the_command_averages_and_marks(runs, scan, tmp_path):
    out, also = tmp_path / 'out', ['--also', runs[1], '--also', runs[2]]
    command = ['predict', runs[0], scan, '--out', out, '--probabilities', '--device', 'cpu']
    done = snet(*command, *also, '--look', '0')
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(out / 'predictions.csv')
    assert table.look[0] == 'yes' and 0 <= table.disagreement[0] <= 1
    assert 'disagreement' in done.stdout
    kept = np.load(out / 'brain_probabilities.npz')['probabilities'].astype(float)
    singles = []
    for k, run in enumerate(runs):
        single = snet('predict', run, scan, '--out', tmp_path / str(k), *command[5:])
        assert single.returncode == 0, single.stderr
        assert 'look' not in pd.read_csv(tmp_path / str(k) / 'predictions.csv')
        file = np.load(tmp_path / str(k) / 'brain_probabilities.npz')
        singles.append(file['probabilities'].astype(float))
    assert np.abs(kept - np.mean(singles, 0)).mean() < 0.01
    again = snet(*command, *also, '--look', '1')  # the mask stays, the mark follows the limit
    assert again.returncode == 0 and 'was there' in again.stdout
    assert pd.read_csv(out / 'predictions.csv').look[0] == 'no'
    turned = snet(*command, *reversed([runs[2], '--also', runs[1], '--also']))
    assert turned.returncode == 0 and 'was there' in turned.stdout  # another order, the same masks
    fewer = snet(*command, '--also', runs[1])
    assert refused(fewer) and 'other weights' in fewer.stderr


def test_the_command_refuses_other_runs_in_one_sentence(runs, scan, tmp_path):
    other = changed(runs[1], tmp_path / 'other', size=48)
    done = snet('predict', runs[0], scan, '--out', tmp_path / 'out', '--also', other)
    assert refused(done) and 'differ in size' in done.stderr
    done = snet('predict', runs[0], scan, '--out', tmp_path / 'out', '--also', tmp_path)
    assert refused(done) and 'no run' in done.stderr
    assert OtherMask.__name__ not in done.stderr
