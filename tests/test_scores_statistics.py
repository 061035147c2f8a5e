"Means, intervals and tests: against SciPy, and coverage in simulated worlds."

import numpy as np
import pandas as pd
import pytest
from scipy.stats import wilcoxon

from snetlib.core import SnetError
from snetlib.scores.statistics import (
    bootstrap_ci,
    compare,
    crossed_ci,
    crossed_p,
    crossed_power,
    equal_within,
    holm,
    probability_of_improvement,
    smallest_effect,
    summarise,
)


def table_of(values, classes=('a', 'b'), protocol='corrected', **more):
    return pd.DataFrame(
        [
            {'case': f'c{i}', 'class': c, 'protocol': protocol, 'dice': v, **more}
            for i, row in enumerate(values)
            for c, v in zip(classes, row)
        ]
    )


def test_summary_is_mean_over_cases_then_classes():
    s = summarise(table_of([[0.9, 0.1], [np.nan, 0.3], [0.7, 0.2]]), ('dice',)).set_index('class')
    assert (
        np.allclose(s['mean'], [0.8, 0.2, 0.5])
        and s.n.tolist() == [2, 3, 3]
        and s.undefined.tolist() == [1, 0, 1]
    )
    assert summarise(table_of([[np.nan, np.nan]]), ('dice',))['mean'].isna().all()
    with pytest.raises(SnetError, match='twice'):
        summarise(pd.concat([table_of([[1, 1]])] * 2), ('dice',))
    both = pd.concat([table_of([[1, 0.5]], model='x'), table_of([[0.2, 0.4]], model='y')])
    assert summarise(both, ('dice',)).set_index(['model', 'class'])['mean'].to_dict() == {
        ('x', 'a'): 1,
        ('x', 'b'): 0.5,
        ('x', 'mean'): 0.75,
        ('y', 'a'): 0.2,
        ('y', 'b'): 0.4,
        ('y', 'mean'): pytest.approx(0.3),
    }


def test_interval_agrees_with_scipy_and_depends_on_the_seed_only():
    from scipy.stats import bootstrap

    x = np.random.default_rng(0).random(15)
    got = bootstrap_ci(x[:, None], None, 4000, 0)
    theirs = bootstrap(
        (x,), np.mean, n_resamples=4000, method='percentile', random_state=np.random.default_rng(1)
    ).confidence_interval
    assert np.allclose((got.lo, got.hi), theirs, atol=0.02)
    assert got.lo < x.mean() < got.hi
    three = bootstrap_ci(x, n_resamples=500, seed=3)
    assert bootstrap_ci(x, n_resamples=500, seed=3) == three
    assert bootstrap_ci(x, n_resamples=500, seed=4) != three
    same = bootstrap_ci(np.full((5, 2), 0.7))
    assert same[:3] == (pytest.approx(0.7),) * 3
    assert not bootstrap_ci(np.ones((1, 2))).known


def test_comparison_is_paired_by_case():
    rng = np.random.default_rng(0)
    a, b = rng.random((9, 2)), rng.random((9, 2))
    a[4, 0] = np.nan
    c = compare(table_of(a), table_of(b).sample(frac=1, random_state=1)).set_index('class')
    keep = np.arange(9) != 4
    assert (
        c.pairs.tolist() == [8, 9, 9]
        and c.p['a'] == wilcoxon(a[keep, 0] - b[keep, 0]).pvalue
        and c.p['b'] == wilcoxon(a[:, 1] - b[:, 1]).pvalue
    )
    assert np.isclose(c.difference['a'], (a[keep, 0] - b[keep, 0]).mean()) and np.isclose(
        c.difference['mean'], c.difference[['a', 'b']].mean()
    )
    assert compare(table_of(b), table_of(b)).p.tolist() == [1, 1, 1]


def crossed_world(rng, seeds, cases, sd_seed, skewed):
    "Scores (seeds, cases) with the true mean 0."

    def draw(sd, shape):
        return sd * (rng.exponential(1, shape) - 1 if skewed else rng.normal(0, 1, shape))

    return draw(sd_seed, (seeds, 1)) + draw(1, (1, cases)) + draw(0.5, (seeds, cases))


@pytest.mark.parametrize('skewed', [False, True])
@pytest.mark.parametrize('seeds, cases, sd_seed', [(3, 12, 0.1), (3, 12, 1.0), (3, 40, 0.3), (5, 10, 0.3)])
def test_crossed_intervals_cover_the_truth(seeds, cases, sd_seed, skewed):
    rng = np.random.default_rng(0)
    found = [crossed_ci(crossed_world(rng, seeds, cases, sd_seed, skewed)) for _ in range(600)]
    share = np.mean([e.lo <= 0 <= e.hi for e in found])
    assert share > (0.88 if skewed else 0.925), share


def test_crossed_p_fits_its_interval():
    rng = np.random.default_rng(1)
    for shift in (0, 0.5, 1, 2):
        x = crossed_world(rng, 4, 9, 0.3, False) + shift
        e = crossed_ci(x)
        assert (crossed_p(x) < 0.05) == (not e.lo <= 0 <= e.hi)
    assert crossed_p(np.zeros((3, 5))) == 1


def test_holm_and_probability_of_improvement():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    rng = np.random.default_rng(0)
    a, b = rng.random((3, 7)), rng.random((4, 7))
    from scipy.stats import mannwhitneyu

    u = [mannwhitneyu(a[:, c], b[:, c]).statistic / 12 for c in range(7)]
    assert probability_of_improvement(a, b) == pytest.approx(np.mean(u))


@pytest.mark.parametrize('effect', [0.0, 0.6, 1.2])
def test_power_is_the_share_of_worlds_in_which_the_test_finds_the_effect(effect):
    rng = np.random.default_rng(2)
    found, said = [], []
    for _ in range(400):
        d = crossed_world(rng, 4, 10, 0.3, False)
        found.append(crossed_p(d + effect) < 0.05)
        said.append(crossed_power(d, effect))
    assert np.mean(said) == pytest.approx(np.mean(found), abs=0.06)


def test_a_difference_is_called_equal_wrongly_in_at_most_five_percent():
    rng = np.random.default_rng(3)
    margin = 1.5
    called = [equal_within(crossed_world(rng, 4, 10, 0.3, False) + margin, margin) for _ in range(600)]
    assert np.mean(called) < 0.07


def test_without_any_variation_there_is_no_power_to_state():
    assert np.isnan(crossed_power(np.zeros((3, 5)), 1.0))
    assert np.isnan(smallest_effect(np.zeros((3, 5))))
