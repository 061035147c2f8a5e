"Cross-validation by patient: drawn, trained, pooled; what is missing or there twice is named."

import json

import numpy as np
import pandas as pd
import pytest
from processes import refused, snet

from snetlib.core import BadSetting
from snetlib.data.source import Source
from snetlib.data.splitting import PARTS, draw_fold
from snetlib.evaluate import check_folds, evaluate_folds, evaluate_run
from snetlib.train.run import Run, train_run

QUICK = dict(size=32, bs=4, steps=2, precision='float32', progress=False)


@pytest.mark.parametrize('n, folds', [(2, 2), (7, 3), (10, 5), (23, 5), (4, 4)])
def test_every_patient_is_tested_once(n, folds):
    names = [f'p{k}' for k in range(n)]
    for seed in range(3):
        drawn = [draw_fold(names, k, folds, seed) for k in range(folds)]
        assert sorted(p for d in drawn for p in d['test']) == sorted(names)
        sizes = [len(d['test']) for d in drawn]
        assert max(sizes) - min(sizes) <= 1
        for d in drawn:
            assert sorted(d['train'] + d['test']) == sorted(names)


def test_folds_depend_on_the_seed_and_on_names_only():
    names = [f'p{k}' for k in range(20)]
    first = draw_fold(names, 0, 5)
    assert draw_fold(reversed(names * 2), 0, 5) == first
    assert draw_fold(names, 0, 5, seed=1) != first
    assert draw_fold(names, 1, 5) != first


@pytest.mark.parametrize('fold, folds', [(5, 5), (-1, 5), (0, 1), (0, 21)])
def test_folds_that_are_none_are_refused(fold, folds):
    with pytest.raises(BadSetting) as e:
        draw_fold([f'p{k}' for k in range(20)], fold, folds)
    assert e.value.key in ('fold', 'folds')


@pytest.mark.parametrize('name', ['phantom', 'acdc'])
def test_no_patient_is_on_both_sides(name, tmp_path):
    root = None
    if name == 'acdc':
        from snetlib.data.sets.catalogue import DATASETS

        DATASETS['acdc'].write_phantom(tmp_path, 7, 0)
        root = tmp_path
    tested = []
    for k in range(3):
        source = Source(name, root, fold=k, folds=3)
        parts = {part: {i.unit for i in items} for part, items in source.parts().items()}
        assert not parts['train'] & parts['test'] and not parts['valid'] & parts['test']
        assert not parts['train'] & parts['valid'] and parts['valid']
        tested += [i.id for i in source.items('test')]
        ids = [i.id for part in PARTS for i in source.parts()[part]]
        assert sorted(ids) == sorted(i.id for i in source.items())  # nobody is lost
    assert sorted(tested) == sorted(i.id for i in Source(name, root).items())


def test_a_source_keeps_its_fold():
    source = Source('phantom', fold=1, folds=3, seed=2)
    assert source.settings() == dict(fold=1, folds=3, seed=2)
    assert Source.from_dict(json.loads(json.dumps(source.as_dict()))) == source
    prints = {Source('phantom', fold=k, folds=3).fingerprint() for k in range(3)}
    assert len(prints | {Source('phantom').fingerprint()}) == 4


@pytest.mark.parametrize(
    'settings, key',
    [
        (dict(fold=1), 'folds'),
        (dict(folds=3), 'fold'),
        (dict(fold=-1, folds=3), 'fold'),
        (dict(fold=0, folds=1), 'folds'),
        (dict(fold=0, folds=3, split='layout'), 'split'),
    ],
)
def test_half_a_cross_validation_is_refused(settings, key):
    with pytest.raises(BadSetting) as e:
        Source('phantom', **settings)
    assert e.value.key == key


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    "Runs of three folds, one of another seed of the data, and one without folds."
    folder = tmp_path_factory.mktemp('runs')
    sources = {str(k): Source('phantom', fold=k, folds=3) for k in range(3)}
    sources['other seed'] = Source('phantom', fold=1, folds=3, seed=1)
    sources['plain'] = Source('phantom')
    for name, source in sources.items():
        train_run(folder / name, source, 'snet_tiny', 'smoke', device='cpu', **QUICK)
    return folder


def test_pooling_is_concatenation(runs, tmp_path):
    folders = [runs / str(k) for k in (2, 0, 1)]
    pooled = evaluate_folds(folders, tmp_path / 'pooled', progress=False)
    assert pooled['case'].nunique() == len(Source('phantom').items())
    singles = []
    for k in range(3):
        scores = evaluate_run(runs / str(k), tmp_path / str(k), progress=False)
        singles.append(scores.assign(fold=k))
    expected = pd.concat(singles, ignore_index=True)
    pd.testing.assert_frame_equal(pooled.reset_index(drop=True), expected)
    written = pd.read_csv(tmp_path / 'pooled/scores.csv')
    assert written.fold.tolist() == pooled.fold.tolist()
    np.testing.assert_allclose(written.dice, pooled.dice, atol=1e-6)
    assert (tmp_path / 'pooled/report.html').is_file()


@pytest.mark.parametrize(
    'names, words',
    [
        (['0', '1'], 'missing: 2'),
        (['1'], 'missing: 0, 2'),
        (['0', '1', '1'], 'Fold 1 is there twice'),
        (['0', 'plain', '2'], 'was not trained on a fold'),
        (['0', 'other seed', '2'], 'differ in data settings'),
    ],
)
def test_folds_that_do_not_fit_are_named(runs, names, words):
    with pytest.raises(BadSetting, match=words):
        check_folds([Run(runs / name) for name in names])


def test_the_command_trains_and_pools(runs, tmp_path):
    quick = '--recipe smoke --set size=32 --set bs=4 --set steps=2'.split()
    command = ['train', 'phantom', *quick, '--set', 'precision=float32', '--device', 'cpu']
    done = snet(*command, '--out', tmp_path / 'run', '--fold', 1, '--folds', 3)
    assert done.returncode == 0, done.stderr
    assert Run(tmp_path / 'run').source == Source('phantom', fold=1, folds=3)
    other = snet(*command, '--out', tmp_path / 'run', '--fold', 2, '--folds', 3, '--resume')
    assert refused(other, 'another data_kwargs')
    half = snet(*command, '--out', tmp_path / 'half', '--fold', 2)
    assert refused(half, '(--folds)')
    folders = [runs / str(k) for k in range(3)]
    pooled = snet('evaluate', *folders, '--folds', '--out', tmp_path / 'scores')
    assert pooled.returncode == 0, pooled.stderr
    assert 'report.html' in pooled.stdout
    assert refused(snet('evaluate', *folders, '--out', tmp_path / 'x'), '--folds')
    assert refused(snet('evaluate', *folders[:2], '--folds', '--out', tmp_path / 'x'), 'missing')
    part = snet('evaluate', *folders, '--folds', '--part', 'valid', '--out', tmp_path / 'x')
    assert refused(part, '--part')
    assert not (tmp_path / 'x').exists()
