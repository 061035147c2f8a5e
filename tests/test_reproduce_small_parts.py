"E8: what is said about SoSegFormer's parts follows from the committed counts of objects."

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from snetlib.core import BadSetting, NotAtHand
from snetlib.reproduce.cells import read_objects, record_files
from snetlib.reproduce.claims import by_part
from snetlib.reproduce.contrasts import contrasts_table
from snetlib.reproduce.our_contrasts import E8_CONTRASTS, E8_SMALL, object_shares, part_contrasts
from snetlib.reproduce.our_experiments import EXPERIMENTS

RESULTS = Path(__file__).resolve().parent.parent / 'data/results'
CELLS = [row.method for row in EXPERIMENTS['e8'].rows]


@pytest.fixture(scope='module')
def objects():
    return read_objects(RESULTS / 'e8_tiny_objects.csv')


@pytest.fixture(scope='module')
def runs():
    return pd.read_csv(RESULTS / 'e8_tiny_runs.csv', dtype={'commit': str})


def test_scores_counts_and_runs_are_of_the_same_runs(objects, runs):
    scores = pd.read_csv(RESULTS / 'e8_tiny_cells.csv', dtype={'case': str})
    which = ['data', 'cell', 'seed']
    recorded = set(runs[which].itertuples(index=False, name=None))
    for table in (scores, objects):
        assert set(table[which].itertuples(index=False, name=None)) == recorded
    images = scores.groupby(which).case.nunique().groupby('data').unique()
    assert {k: v.tolist() for k, v in images.items()}.items() <= {'nuclei': [20], 'polypgen': [10]}.items()
    assert 'nuclei' in images
    for _, seed in runs.groupby(['data', 'seed']):
        assert sorted(seed.cell) == sorted(CELLS), 'complete seeds only'
    assert runs.commit.nunique() == 1 and not runs.commit.str.contains('changes').any()
    size = sum(file.stat().st_size for file in record_files('e8', RESULTS))
    assert size < 300_000


def test_every_run_is_asked_for_the_same_objects(objects):
    by_run = objects.groupby(['data', 'case', 'band', 'cell', 'seed']).objects.sum()
    there = by_run.unstack(['cell', 'seed']).dropna(how='all')
    true = there[there.max(axis=1) > 0]
    for data, part in true.groupby('data'):
        asked = part.dropna(axis=1, how='all')
        assert (asked.nunique(axis=1) == 1).all() and asked.notna().all(axis=None), data
    assert (objects.found <= objects.covered).all(), 'an IoU of one half covers one half'
    assert (objects.covered <= objects.objects).all()
    nuclei = objects[(objects['data'] == 'nuclei') & (objects.cell == 'both') & (objects.seed == 0)]
    assert nuclei.groupby('band').objects.sum()[list(E8_SMALL)].sum() == 962


def test_the_primary_effects_by_hand(objects):
    "Means of shares, image by image, without the functions of the package."
    small = objects[(objects['data'] == 'nuclei') & objects.band.isin(E8_SMALL)]
    counts = small.groupby(['cell', 'seed', 'case'])[['objects', 'found']].sum()
    share = 100 * counts[counts.objects > 0].eval('found / objects')
    mean = share.groupby('cell').mean()
    for budget, more in (('GMAC', ', equal GMAC'), ('steps', '')):
        both, no_arrows, no_stages, neither = (
            mean[form + more] for form in ('both', 'no cross-scale', 'no StageFormer', 'neither')
        )
        found = contrasts_table(object_shares(objects, 'nuclei'), part_contrasts(budget), score='found')
        by_hand = [
            (both + no_stages - no_arrows - neither) / 2,
            (both + no_arrows - no_stages - neither) / 2,
            both - no_arrows - no_stages + neither,
        ]
        assert np.allclose(found['mean'], by_hand)


def test_holm_is_over_the_two_parts_of_a_budget(objects):
    found = contrasts_table(object_shares(objects, 'nuclei'), E8_CONTRASTS, score='found')
    for budget in ('GMAC', 'steps'):
        two = found[found.family == f'E8, {budget}']
        small, large = sorted(two.p)
        assert sorted(two.p_holm) == pytest.approx(sorted((min(1, 2 * small), max(large, 2 * small))))
    assert (found[found.family == ''].p_holm == found[found.family == ''].p).all()


@pytest.mark.parametrize('part', ['cross-scale', 'StageFormer'])
def test_a_claim_has_the_verdict_of_its_contrast(part, objects):
    status, evidence = by_part(part)
    found = contrasts_table(object_shares(objects, 'nuclei'), E8_CONTRASTS, score='found')
    for budget in ('steps', 'GMAC'):
        line = found.loc[f'{part}, equal {budget}']
        interval = f'{line["mean"]:+.1f} points [{line.lo:.1f}, {line.hi:.1f}]'
        assert f'equal {budget} {interval}' in evidence
    assert status == line.verdict, 'equal multiply-adds decide'
    if line.lo <= 0 <= line.hi and not line.equal:
        assert status == 'inconclusive'


def test_fewer_than_three_seeds_give_no_verdict(objects):
    two = objects[objects.seed < 2]
    found = contrasts_table(object_shares(two, 'nuclei'), E8_CONTRASTS, score='found')
    assert set(found.verdict) == {'inconclusive'}


def test_an_image_without_small_objects_does_not_count():
    about = dict(data='nuclei', cell='both', seed=0)
    made = pd.DataFrame(
        [
            about | dict(case='a', band='0.1–1 %', objects=3, found=1, covered=2),
            about | dict(case='a', band='< 0.1 %', objects=1, found=0, covered=1),
            about | dict(case='b', band='1–10 %', objects=2, found=2, covered=2),
            about | dict(case='c', band='0.1–1 %', objects=0, found=0, covered=0),
        ]
    )
    shares = object_shares(made, 'nuclei').set_index('case')
    assert shares.found.to_dict() == {'a': 0.25}
    assert object_shares(made, 'nuclei', what='covered').covered.tolist() == [0.75]
    assert object_shares(made, 'polypgen').empty


def test_files_that_are_not_at_hand_are_named(tmp_path):
    with pytest.raises(NotAtHand) as error:
        read_objects(tmp_path / 'nothing.csv')
    assert error.value.path == tmp_path / 'nothing.csv'
    with pytest.raises(BadSetting):
        record_files('tableII', tmp_path)


def test_what_the_page_says_in_words(objects):
    "StageFormer: more at equal steps, fewer at equal multiply-adds; cross-scale: not decided."
    small = object_shares(objects, 'nuclei')
    verdict = contrasts_table(small, E8_CONTRASTS, score='found').verdict
    assert verdict['StageFormer, equal GMAC'] == 'contradicted'
    assert verdict['StageFormer, equal steps'] == 'reproduced'
    assert verdict['cross-scale, equal GMAC'] == verdict['cross-scale, equal steps'] == 'inconclusive'
    found = small.groupby('cell').found.mean()
    assert found.max() < 0.5, 'more than half of the small nuclei are missed by every form'
    for form in ('no cross-scale', 'no StageFormer', 'neither'):
        assert found[f'{form}, equal GMAC'] > found[form], 'more steps find more'
    polyps = objects[(objects['data'] == 'polypgen') & objects.band.isin(E8_SMALL)]
    assert polyps[(polyps.cell == 'both') & (polyps.seed == 0)].objects.sum() == 2
