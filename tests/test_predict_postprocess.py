"Rules for the largest piece: found on validation only, written, checked, applied when asked."

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from processes import refused, snet

from snetlib.core import BadSetting, NotAtHand, UnreadableFile
from snetlib.data.source import Source
from snetlib.evaluate import evaluate_run
from snetlib.predict import Predictor
from snetlib.predict.postprocess import find_rules, rule_gains, write_rules
from snetlib.predict.predictor import largest_pieces, read_rules
from snetlib.scores.overlap import dice_per_class
from snetlib.train.run import Run, train_run

NAMES = ('background', 'one', 'two')


def test_only_the_largest_piece_stays():
    labels = np.zeros((3, 8, 8), np.uint8)
    labels[:, 1:4, 1:4] = 1  # 27 voxels
    labels[0, 6, 6] = 1
    labels[2, 6:8, 0:2] = 2  # 4 voxels
    labels[2, 0, 7] = 2
    before = labels.copy()
    ours = largest_pieces(labels, (1,))
    assert (ours == 1).sum() == 27 and (ours == 2).sum() == 5
    assert ours[0, 6, 6] == 0 and (labels == before).all()
    both = largest_pieces(labels, (1, 2))
    assert (both == 2).sum() == 4 and both[2, 0, 7] == 0
    np.testing.assert_array_equal(largest_pieces(labels, ()), labels)
    np.testing.assert_array_equal(largest_pieces(labels * 0, (1, 2)), labels * 0)


def test_pieces_that_touch_at_a_corner_are_one():
    labels = np.zeros((2, 3, 3), np.uint8)
    labels[0, 0, 0] = labels[1, 1, 1] = 1
    np.testing.assert_array_equal(largest_pieces(labels, (1,)), labels)
    labels[0, 2, 2] = 1  # meets the other over a corner, too
    assert largest_pieces(labels, (1,)).sum() == 3


def pair(speck, two):
    "A case: class 1 with or without a speck, class 2 in one piece or in two, as in the truth."
    targ = np.zeros((1, 20, 20), np.uint8)
    targ[0, 2:8, 2:8] = 1
    targ[0, 12:18, 2:6] = 2
    if two:
        targ[0, 12:18, 12:15] = 2
    pred = targ.copy()
    if speck:
        pred[0, 2, 18] = 1
    return pred, targ


def test_a_rule_is_kept_only_if_it_helps():
    table = rule_gains([pair(True, True), pair(False, True)], NAMES)
    assert table.keep.to_dict() == {'one': True, 'two': False}
    assert table.gain['one'] > 0 > table.gain['two'] and table.cases.tolist() == [2, 2]
    same = rule_gains([pair(False, False)], NAMES)
    assert not same.keep.any() and (same.gain == 0).all()  # no gain, no rule


def test_gains_are_means_over_cases_where_the_class_is():
    empty = np.zeros((1, 20, 20), np.uint8)
    pairs = [pair(True, False), (empty, empty)]
    table = rule_gains(pairs, NAMES)
    pred, targ = pairs[0]
    assert table.before['one'] == pytest.approx(dice_per_class(pred, targ, 3)[0])
    assert table.after['one'] == 1 and table.cases.tolist() == [1, 1]
    with pytest.raises(BadSetting):
        rule_gains([], NAMES)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs') / 'run'
    quick = dict(size=32, bs=4, steps=4, precision='float32', progress=False)
    train_run(folder, 'phantom', 'snet_tiny', 'smoke', device='cpu', **quick)
    return folder


def rules_for(run, *classes):
    "Write these rules as if they had been found."
    trained = Run(run)
    names = trained.class_names[1:]
    keep = [k in classes for k in range(1, len(names) + 1)]
    table = pd.DataFrame(dict(before=0.5, after=0.6, gain=0.1, cases=1, keep=keep), index=names)
    write_rules(trained, table.rename_axis('class'))


def test_rules_come_from_validation_cases_only(run, monkeypatch):
    seen = []
    whole = Predictor.case
    monkeypatch.setattr(Predictor, 'case', lambda self, case: seen.append(case.id) or whole(self, case))
    table = find_rules(run, progress=False)
    assert seen == [i.id for i in Run(run).source.items('valid')]
    written = json.loads((run / 'postprocess.json').read_text())
    assert written['keep_largest'] == [k for k, keep in enumerate(table.keep, 1) if keep]
    assert read_rules(Run(run)) == tuple(written['keep_largest'])
    assert [row['class'] for row in written['classes']] == list(table.index)


def test_rules_are_applied_when_asked(run, tmp_path):
    trained = Run(run)
    case = next(trained.source.cases('test'))
    plain = Predictor(trained)
    pred = plain.case(case)
    ruled = Predictor(trained, keep_largest=tuple(range(1, len(trained.class_names))))
    np.testing.assert_array_equal(ruled.case(case), largest_pieces(pred, ruled.keep_largest))
    assert ruled.fingerprint() != plain.fingerprint()
    rules_for(run, 1, 2)
    without = evaluate_run(run, tmp_path / 'out', limit=1, progress=False)
    with_rules = evaluate_run(run, tmp_path / 'out', limit=1, postprocess=True, progress=False)
    largest = largest_pieces(pred, (1, 2))
    n = len(trained.class_names)
    for scores, mask in ((without, pred), (with_rules, largest)):
        ours = scores[scores.protocol == 'corrected'].dice
        np.testing.assert_allclose(ours, dice_per_class(mask, case.label, n), atol=1e-6)
    assert 'largest piece kept of aorta, gallbladder' in (tmp_path / 'out/report.html').read_text()


def test_the_command_finds_prints_and_applies(run, tmp_path):
    scan = tmp_path / 'scan.nii.gz'
    case = next(Run(run).source.cases('test'))
    nib.save(nib.Nifti1Image(case.image.T.astype(np.float32), np.eye(4)), scan)
    (run / 'postprocess.json').unlink(missing_ok=True)
    command = ['predict', run, scan, '--device', 'cpu', '--out']
    none = snet(*command, tmp_path / 'none', '--postprocess')
    assert refused(none, 'has no rules yet')
    found = snet('postprocess', run, '--device', 'cpu')
    assert found.returncode == 0, found.stderr
    assert 'gain' in found.stdout and 'the largest piece is kept of' in found.stdout
    rules_for(run, *range(1, 9))
    for name, more in (('plain', []), ('ruled', ['--postprocess'])):
        done = snet(*command, tmp_path / name, *more)
        assert done.returncode == 0, done.stderr
    plain, ruled = (
        np.asarray(nib.load(tmp_path / name / 'scan_mask.nii.gz').dataobj).astype(np.uint8)
        for name in ('plain', 'ruled')
    )
    np.testing.assert_array_equal(ruled, largest_pieces(plain, tuple(range(1, 9))))
    scored = snet('evaluate', '--pred', tmp_path, '--truth', tmp_path, '--postprocess', '--out', tmp_path)
    assert refused(scored, '--postprocess')


def test_rules_of_other_weights_and_damaged_ones_are_refused(run, tmp_path):
    rules_for(run, 1)
    path = run / 'postprocess.json'
    facts = json.loads(path.read_text())
    path.write_text(json.dumps(facts | dict(weights='0' * 64)))
    with pytest.raises(BadSetting, match='other weights'):
        read_rules(Run(run))
    path.write_text('{')
    with pytest.raises(UnreadableFile):
        read_rules(Run(run))
    path.unlink()
    with pytest.raises(NotAtHand):
        read_rules(Run(run))


def test_a_run_without_validation_has_no_rules(tmp_path):
    source = Source('phantom', val=0, fold=0, folds=2)
    quick = dict(size=32, bs=4, steps=2, precision='float32', progress=False)
    train_run(tmp_path / 'run', source, 'snet_tiny', 'smoke', device='cpu', **quick)
    with pytest.raises(BadSetting, match='no validation cases'):
        find_rules(tmp_path / 'run', progress=False)
    assert not (tmp_path / 'run/postprocess.json').exists()
