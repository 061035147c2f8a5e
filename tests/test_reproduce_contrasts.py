"""The figures of the README that come from E1 and E3 follow from the committed scores."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from snetlib.core import NotAtHand
from snetlib.reproduce.contrasts import (
    CELL_COLUMNS,
    E1_CONTRASTS,
    E3_CONTRASTS,
    contrasts_table,
    decide,
    headline,
    patient_scores,
    read_cells,
)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope='module')
def cells():
    return read_cells(ROOT / 'data/results/e1_e3_tiny_cells.csv')


def test_scores_are_complete(cells):
    assert set(CELL_COLUMNS) <= set(cells)
    assert cells.dice.between(0, 1).all()
    runs = cells.groupby(['experiment', 'cell', 'seed']).size()
    assert set(runs) == {20 * 3}, 'twenty cases with three classes'
    facts = pd.read_csv(ROOT / 'data/results/e1_e3_tiny_runs.csv')
    of_facts = set(zip(facts.cell, facts.seed))
    assert of_facts == set(zip(cells.cell, cells.seed))
    assert facts.commit.nunique() == 1


def test_a_contrast_by_hand(cells):
    "Mean over cases and classes, of the seeds that both cells have."
    contrast = E1_CONTRASTS[0]
    (a, _), (b, _) = contrast.weights
    part = cells[(cells.experiment == 'e1') & cells.cell.isin([a, b])]
    mean = part.groupby(['seed', 'cell']).dice.mean().unstack().dropna()
    by_hand = 100 * (mean[a] - mean[b]).mean()
    found = contrasts_table(cells, (contrast,)).iloc[0]
    assert found['mean'] == pytest.approx(by_hand)
    assert found['seeds'] == len(mean)
    assert found['lo'] < found['mean'] < found['hi']


def test_readme_says_what_the_scores_say():
    readme = (ROOT / 'README.md').read_text(encoding='utf-8')
    for line in headline().splitlines()[2:]:
        numbers = [part.strip() for part in line.strip('|').split('|')]
        row = next(row for row in readme.splitlines() if row.strip('| ').startswith(numbers[0]))
        assert [part.strip() for part in row.strip('|').split('|')] == numbers


def test_two_seeds_give_no_verdict(cells):
    two = cells[cells.seed < 2]
    found = contrasts_table(two, (*E1_CONTRASTS, *E3_CONTRASTS))
    assert set(found.verdict) == {'inconclusive'}


def test_a_missing_cell_is_named(cells):
    with pytest.raises(NotAtHand) as error:
        patient_scores(cells, 'no such cell')
    assert error.value.key == 'no such cell'
    with pytest.raises(NotAtHand):
        read_cells(ROOT / 'data/results/not_there.csv')


def test_the_verdict_follows_interval_and_margin():
    line = dict(seeds=3, mean=-2.0, lo=-3.0, hi=-1.0, p_holm=0.01, equal=False)
    assert [decide(line, k) for k in (1, 0, -1)] == ['contradicted', 'contradicted', 'reproduced']
    not_significant = line | dict(p_holm=0.2)
    assert {decide(not_significant, k) for k in (1, 0, -1)} == {'inconclusive'}
    assert np.all([decide(not_significant | dict(equal=True), 0) == 'reproduced'])
