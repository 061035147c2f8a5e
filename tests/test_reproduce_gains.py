"Gains of sixteen pairs: what is measured is what meets in the fusion, and shuffled layers keep their level."

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr

from snetlib.core import seed_everything
from snetlib.models import create_model
from snetlib.reproduce.cells import read_cells
from snetlib.reproduce.gains import (
    E2_PAIRS,
    fused_maps,
    gains,
    gains_sentence,
    hypotheses,
    layer_permutation,
    read_measures,
    whole_seeds,
)
from snetlib.reproduce.our_experiments import pair_row
from snetlib.reproduce.scales import scaled_model

RESULTS = Path(__file__).resolve().parent.parent / 'data/results'


def untrained(cnn, vit):
    name, kwargs = scaled_model(pair_row(cnn, vit), 'smoke')
    seed_everything(0)
    return create_model(name, c_in=1, n_out=2, **kwargs).eval()


def test_the_measured_maps_are_those_that_meet_in_the_fusion():
    "Fusing the measured maps gives the skip connection of the network."
    x = torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    for cnn, vit in ((1, 2), (3, 1), (4, 4)):
        net = untrained(cnn, vit)
        with torch.no_grad():
            maps_c, maps_v = fused_maps(net, x)
            skips = net.features(x)[1]
            fused = net.stagger.fuse[0](maps_c[cnn - 1], maps_v[vit - 1])
        assert torch.allclose(skips[cnn - 1], fused, atol=1e-5)


def test_correlation_is_spearmans_and_the_group_is_complete():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 4, 4))
    rho, high, low = layer_permutation(a, b)
    assert rho == pytest.approx(spearmanr(a.ravel(), b.ravel()).statistic)
    assert high + low >= 1
    assert (576 * high) == pytest.approx(round(576 * high))
    order = rng.permutation(4)
    assert layer_permutation(a[order], b[order]) == pytest.approx((rho, high, low))


def test_a_pattern_of_one_kind_of_layer_cannot_be_confirmed():
    "Equal rows: 24 of 576 arrangements are the true one."
    columns = np.tile(np.arange(4.0), (4, 1))
    assert layer_permutation(columns, columns)[1] == pytest.approx(24 / 576)


def test_the_level_holds():
    "Maps with effects of whole layers, but nothing in common."
    rng = np.random.default_rng(2)
    below = 0
    for _ in range(300):
        a, b = rng.normal(size=(2, 4, 1)) + rng.normal(size=(2, 1, 4)) + rng.normal(size=(2, 4, 4))
        below += layer_permutation(a, b)[1] < 0.05
    assert below / 300 < 0.09
    assert len(E2_PAIRS) == 16


@pytest.fixture(scope='module')
def recorded():
    return read_cells(RESULTS / 'e2_tiny_cells.csv'), read_measures(RESULTS / 'e2_tiny_measures.csv')


def test_recorded_scores_are_complete(recorded):
    cells, _ = recorded
    assert set(cells.groupby(['cell', 'seed']).size()) == {20 * 3}, 'twenty cases with three classes'
    assert cells.dice.between(0, 1).all()
    facts = pd.read_csv(RESULTS / 'e2_tiny_runs.csv', dtype={'commit': str})
    assert set(zip(facts.cell, facts.seed)) == set(zip(cells.cell, cells.seed))
    assert facts.key.is_unique
    of_layer = facts.assign(cnn=facts.cell.str[3]).groupby('cnn').parameters.nunique()
    assert (of_layer == 1).all(), 'cells of one CNN layer have equal parameters'


def test_a_gain_by_hand(recorded):
    cells, _ = recorded
    found = gains(cells)
    whole = sorted(whole_seeds(cells).seed.unique())
    mean = cells.groupby(['cell', 'seed']).dice.mean()
    pair, control = (mean[name] for name in ('CNN3 with ViT2', 'CNN3 with ViT1, zero'))
    by_hand = 100 * (pair - control)[whole]
    assert np.allclose(found.mean(1)[:, 2, 1], by_hand)


def test_hypotheses_follow_from_the_recorded_files(recorded):
    cells, measures = recorded
    found, gain = hypotheses(cells, measures), gains(cells).mean((0, 1))
    first = measures[measures.weights == 'first']
    assert set(whole_seeds(cells).seed) <= set(first.seed), 'every seed has been measured'
    for name, title in (('kl', 'KL'), ('mi_seen', 'MI − floor')):
        means = first.groupby(['cnn', 'vit'])[name].mean()
        line = found.loc[title]
        assert line.rho == pytest.approx(spearmanr(means, gain.ravel()).statistic)
        assert (line.verdict == 'reproduced') == (line.p_holm < 0.05)
        assert found.p_holm.notna().sum() == 2, 'two confirmatory hypotheses'


def test_readme_says_what_the_gains_say():
    assert gains_sentence() in (RESULTS.parent.parent / 'README.md').read_text(encoding='utf-8')
