"The published rule written out, and the two protocols of `snet reproduce`."

import json

import numpy as np
import pytest
from medpy.metric import binary as medpy

from snetlib.core import BadSetting
from snetlib.data.source import Source
from snetlib.reproduce.everything import reproduce
from snetlib.reproduce.plan import LINEAGE, Study, protocol_changes
from snetlib.reproduce.queue import finished, run_name
from snetlib.scores.cases import score_case


def published_rule(pred, targ):
    "What the code behind the tables computes for one class of one volume: Dice, HD in voxels."
    if pred.sum() > 0 and targ.sum() > 0:
        return medpy.dc(pred, targ), medpy.hd95(pred, targ)
    if pred.sum() > 0:
        return 1, 0
    return 0, 0


def imagined(labels, seed):
    "A prediction with classes that move, vanish and appear."
    rng = np.random.default_rng(seed)
    pred = np.roll(labels, rng.integers(-3, 4, 3), (0, 1, 2))
    lost, new = rng.choice(np.arange(1, 9), 2, replace=False)
    pred[pred == lost] = 0
    pred[2, 3:6, 4:9] = new
    return pred


@pytest.mark.parametrize('seed', (0, 5))
def test_published_scores_are_bit_for_bit_those_of_the_rule(seed):
    cases = list(Source('phantom').cases('test'))
    table, theirs = [], []
    for case in cases:
        labels = np.asarray(case.label).copy()
        labels[labels == 1 + seed] = 0  # a class that the truth lacks
        pred = imagined(labels, seed)
        scores = score_case(pred, labels, 9, spacing=(5.0, 0.7, 0.7))
        ours = scores[scores.protocol == 'published'].set_index('class')[['dice', 'hd95']]
        rule = [published_rule(pred == c, labels == c) for c in range(1, 9)]
        assert ours.to_numpy().tolist() == [[float(d), float(h)] for d, h in rule]
        table.append(ours)
        theirs.append(rule)
    mean_of_cases = np.mean([t.to_numpy() for t in table], 0)
    assert np.array_equal(mean_of_cases, np.mean(theirs, 0, dtype=float))


def test_every_special_case_of_the_rule_occurs():
    labels = np.zeros((4, 8, 8), int)
    pred = labels.copy()
    labels[1:3, 2:5, 2:5], pred[1:3, 3:6, 2:5] = 1, 2
    scores = score_case(pred, labels, 4)
    published = scores[scores.protocol == 'published'].set_index('class')
    assert published.dice.tolist() == [0, 1, 0]  # missed, invented, in neither
    assert published.hd95.tolist() == [0, 0, 0]


def test_lineage_trains_on_all_cases_and_scores_the_last_epoch(tmp_path):
    changes = protocol_changes('table5', 'lineage', dict(recipe=dict(epochs=2, steps=None, bs=64)))
    how = dict(changes=changes, only=('Stagger',))
    study = Study('table5', 'smoke', 1, **how)
    table = reproduce(study, cache=tmp_path, progress=False)
    assert table.loc['Stagger', 'seeds'] == 1
    step = study.steps()[0]
    folder = tmp_path / run_name(step.config)
    done = finished(step.config, tmp_path)
    assert done['config']['scoring'] == LINEAGE['scoring']
    about = (tmp_path / 'tables/table5_smoke.md').read_text()
    assert 'the last epoch' in about and 'weights=last' in about
    log = (folder / 'log.csv').read_text().splitlines()
    assert [line.split(',')[3] != '' for line in log[1:]] == [False, True]


def test_no_case_is_held_out(tmp_path):
    from snetlib.train.run import run_parts

    source = Source('acdc', None)
    assert source.val is None
    folder = tmp_path / 'own'
    from PIL import Image

    for kind in ('images', 'masks'):
        (folder / kind).mkdir(parents=True)
        for i in range(5):
            Image.fromarray(np.full((32, 32), i, np.uint8)).save(folder / kind / f'{i}.png')
    split = folder / 'list.txt'
    split.write_text('[train]\n0\n1\n2\n3\n[test]\n4\n')
    held = run_parts(tmp_path / 'a', Source('folder', folder, str(split), val=1), 32)
    none = run_parts(tmp_path / 'b', Source('folder', folder, str(split), val=0), 32)
    assert [len(part) for part in held] == [3, 1]
    assert [len(part) for part in none] == [4, 4]


def test_settings_of_a_user_go_before_those_of_the_protocol():
    given = dict(data=dict(val=2), scoring=dict(weights='best'))
    changes = protocol_changes('table1', 'lineage', given)
    assert changes['data'] == dict(val=2, resize='published')
    config = Study('table1', 'smoke', 1, changes=changes).steps()[0].config
    assert config['scoring'] == dict(resize='published')
    assert protocol_changes('tableII', 'lineage')['data'] == dict(split='frames')


def test_honest_is_what_was_run_before():
    before = [json.dumps(step.config) for step in Study('table5', 'smoke', 1).steps()]
    now = Study('table5', 'smoke', 1, changes=protocol_changes('table5')).steps()
    assert [json.dumps(step.config) for step in now] == before


@pytest.mark.parametrize(
    'wrong',
    [
        dict(protocol='strict'),
        dict(name='table9'),
        dict(changes=dict(scoring=dict(best=1))),
        dict(changes=dict(scoring=dict(weights='worst'))),
    ],
)
def test_an_unknown_protocol_is_refused(wrong):
    with pytest.raises(BadSetting):
        protocol_changes(**dict(name='table1', protocol='lineage') | wrong)
