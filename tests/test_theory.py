"The pages of the theory: properties that a lesson can only exemplify."

import ast
import importlib
import itertools
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from lessons import cells, exercises, text_of_page
from scipy.stats import norm

from snetlib.core import BadSetting, SnetError
from snetlib.theory import dependence, divergences, han, pairs
from snetlib.theory import entropy as E

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    '2_theory/00_entropy': 'snetlib.theory.entropy',
    '2_theory/01_han': 'snetlib.theory.han',
    '2_theory/02_divergences': 'snetlib.theory.divergences',
    '2_theory/03_dependence': 'snetlib.theory.dependence',
    '2_theory/04_pairs': 'snetlib.theory.pairs',
}
relaxed = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])


def tables(shapes):
    "Probability tables of one of the shapes, from small integer weights: zeros are common, so supports vary."

    def of(shape):
        n = int(np.prod(shape))
        return (
            st.lists(st.sampled_from((0, 0, 1, 1, 2, 5, 40)), min_size=n, max_size=n)
            .filter(any)
            .map(lambda w: np.array(w, float).reshape(shape) / sum(w))
        )

    return st.sampled_from(shapes).flatmap(of)


PLANE = [(2, 2), (3, 2), (3, 4), (1, 5)]


# --- entropy


@relaxed
@given(tables(PLANE))
def test_entropies_of_a_table(p):
    h, a, b, i = E.entropy(p), E.joint_entropy(p, 0), E.joint_entropy(p, 1), E.mutual_information(p)
    assert -1e-12 <= h <= np.log2(p.size) + 1e-12
    assert max(a, b) - 1e-9 <= h <= a + b + 1e-9
    assert -1e-9 <= i <= min(a, b) + 1e-9 and np.isclose(i, E.mutual_information(p.T))
    assert np.isclose(h, b + E.conditional_entropy(p, 0, 1)) and np.isclose(
        a - E.conditional_entropy(p, 0, 1), i
    )
    assert np.isclose(E.entropy(p, base=np.e), h * np.log(2))


@relaxed
@given(tables(PLANE), st.data())
def test_data_processing_with_equality_exactly_on_injective_maps(p, data):
    f = np.array(data.draw(st.lists(st.integers(0, 14), min_size=p.size, max_size=p.size))).reshape(p.shape)
    loss = E.entropy(p) - E.entropy(E.push_forward(p, f))
    injective = len(set(f[p > 0])) == (p > 0).sum()
    assert loss > -1e-12 and (abs(loss) < 1e-12) == injective


@relaxed
@given(tables([(3, 3)]), st.permutations(range(3)), st.permutations(range(3)))
def test_mutual_information_does_not_see_the_names_of_values(p, u, w):
    assert np.isclose(E.mutual_information(p), E.mutual_information(p[u][:, w]))


@pytest.mark.parametrize(
    'bad', [[], [0.5, 0.6], [1.5, -0.5], [np.nan, 1.0], [np.inf, 0], 'text', [[1, 2], [3]], None]
)
def test_what_is_no_distribution_is_refused(bad):
    for fn in (E.entropy, E.check_distribution, han.subset_averages, lambda p: han.kl_divergence(p, [1.0])):
        with pytest.raises(SnetError):
            fn(bad)


@pytest.mark.parametrize(
    'call',
    [
        lambda: E.entropy([1.0], base=0),
        lambda: E.marginal([[1.0]], 3),
        lambda: E.push_forward([0.5, 0.5], [0.5, 1.0]),
        lambda: E.push_forward([0.5, 0.5], [-1, 0]),
        lambda: E.to_bins([1, 2], bins=1),
        lambda: E.to_bins([1, 2], how='depth'),
        lambda: E.to_bins([1]),
        lambda: E.entropy_from_counts([0]),
        lambda: E.entropy_from_counts([-1, 3]),
        lambda: E.entropy_from_counts([1], 'james-stein'),
        lambda: E.mi_from_samples([1, 2, 3], [1, 2]),
        lambda: E.mi_from_samples([1, 2], [1, 2], 'knn'),
        lambda: E.gaussian_entropy([[1, 2], [2, 1]]),
        lambda: E.gaussian_entropy([[1, 2]]),
        lambda: E.noisy_copy(1.2),
        lambda: han.bit_features(2, 3, 0),
        lambda: han.bit_features(16, 8, 0),
        lambda: han.fuse_bits(np.eye(2, dtype=int), 0),
        lambda: han.fuse_bits(np.eye(2, dtype=int), 2, 'magic'),
        lambda: han.gaussian_survival(np.eye(2), [1], noise=0),
        lambda: han.kl_divergence([0.5, 0.5], [1.0]),
        lambda: divergences.jensen_shannon([0.5, 0.5], [1.0]),
    ],
)
def test_bad_arguments_get_one_sentence(call):
    with pytest.raises(SnetError) as e:
        call()
    assert len(str(e.value)) > 20 and '\n' not in str(e.value)


@pytest.mark.parametrize('rho', [0, 0.5, 0.9])
@pytest.mark.parametrize(
    'kw', [dict(), dict(how='share', bins=12), dict(method='knn')], ids=['width', 'share', 'knn']
)
def test_estimators_meet_the_gaussian(rho, kw):
    x, y = np.random.default_rng(0).multivariate_normal([0, 0], [[1, rho], [rho, 1]], 4000).T
    assert abs(E.mi_from_samples(x, y, **kw) - E.gaussian_mi(rho)) < 0.03 + 0.12 * E.gaussian_mi(
        rho
    )  # bins lose a share of what there is


def test_miller_madow_is_the_leading_bias():
    g = np.random.default_rng(0)
    p = np.full(20, 1 / 20)
    bias = {
        c: np.mean([E.entropy_from_counts(g.multinomial(400, p), c) for _ in range(400)]) - E.entropy(p)
        for c in E.CORRECTIONS
    }
    assert bias['none'] < -0.02 and abs(bias['miller-madow']) < 0.005


# --- Han and Proposition 3


@settings(deadline=None, max_examples=1000, suppress_health_check=[HealthCheck.too_slow])
@given(tables([(2, 2), (2, 2, 2), (3, 2, 2), (2, 2, 2, 2), (3, 3, 2), (2, 1, 3, 2)]))
def test_han(p):
    profile = han.han_profile(p)
    assert (np.diff(profile) < 1e-10).all()
    averages = han.subset_averages(p)
    assert (np.diff(averages) > -1e-10).all(), 'more variables, more entropy'
    assert np.isclose(averages[-1], E.entropy(p)) and np.isclose(profile[-1] * p.ndim, E.entropy(p))
    product = np.ones(())
    for axis in range(p.ndim):
        product = np.multiply.outer(product, E.marginal(p, axis))
    flat = abs(profile[0] - profile[-1]) < 1e-12
    assert flat == np.allclose(p, product, atol=1e-7), 'flat exactly for independent variables'


@relaxed
@given(tables([(2, 3, 2), (2, 2, 2, 2)]))
def test_subset_entropies_are_those_of_the_marginals(p):
    h = han.subset_entropies(p)
    for k in range(1, p.ndim + 1):
        for T in itertools.combinations(range(p.ndim), k):
            assert np.isclose(h[sum(1 << v for v in T)], E.joint_entropy(p, T))


def test_twelve_variables():
    p = np.random.default_rng(0).dirichlet(np.full(2**12, 0.05)).reshape((2,) * 12)
    profile = han.han_profile(p)
    assert len(profile) == 12 and (np.diff(profile) < 0).all() and np.isclose(profile[-1] * 12, E.entropy(p))


@relaxed
@given(st.integers(1, 6), st.data())
def test_the_best_code_keeps_min_n_nstar_and_none_keeps_more(a, data):
    b = data.draw(st.integers(1, a))
    shared = data.draw(st.integers(0, b))
    n = data.draw(st.integers(1, 14))
    seed = data.draw(st.integers(0, 99))
    z = han.bit_features(a, b, shared, seed)
    n_star = a + b - shared
    assert np.isclose(han.surviving_bits(han.fuse_bits(z, n, 'best')), min(n, n_star))
    for how in ('linear', 'table'):
        assert han.surviving_bits(han.fuse_bits(z, n, how, seed)) <= min(n, n_star) + 1e-9
    weights = np.random.default_rng(seed).integers(0, 2, (a + b, n))
    code = (z @ weights % 2) @ (1 << np.arange(n))
    assert np.isclose(han.surviving_bits(code), han.rank2(z @ weights % 2)), 'a linear code keeps its rank'


@given(st.integers(1, 64))
def test_the_papers_fusion_width_is_always_case_one(d):
    assert all(han.regime(2 * d, 4 * d + d - shared) == 1 for shared in range(d + 1))


@relaxed
@given(tables([(4,)]), tables([(4,)]))
def test_divergences(p, q):
    kl, js = han.kl_divergence(p, q), divergences.jensen_shannon(p, q)
    assert kl >= -1e-12 and -1e-12 <= js <= 1 + 1e-12 and (kl < 1e-12) == np.allclose(p, q)
    assert np.isinf(kl) == bool(((p > 0) & (q == 0)).any())
    assert np.isclose(js, divergences.jensen_shannon(q, p))


@relaxed
@given(st.integers(0, 10**6), st.floats(0, 3))
def test_couplings_have_the_marginals_they_are_given(seed, tight):
    a, b = np.random.default_rng(seed).dirichlet(np.full(4, 5.0), 2)
    t = han.random_coupling(a, b, tight, seed)
    assert np.allclose(t.sum(1), a, atol=1e-9) and np.allclose(t.sum(0), b, atol=2e-3) and (t > 0).all()


# --- pairs


def act(seed, b=4, c=4, h=8, w=8):
    return torch.randn(b, c, h, w, generator=torch.Generator().manual_seed(seed))


nan = act(0).clone()
nan[1, 2, 3, 4] = float('nan')
BAD = {
    'empty dict': ({}, {'x': act(1)}),
    'empty layer': ({'x': act(0, c=0)}, {'x': act(1)}),
    'constant': ({'x': torch.ones(4, 2, 3, 3)}, {'x': act(1)}),
    'nan': ({'x': act(1)}, {'x': nan}),
    'one image': ({'x': act(0, b=1)}, {'y': act(1, b=1)}),
    'batches across': ({'x': act(0, b=4)}, {'y': act(1, b=6)}),
    'batches within': ({'x': act(0), 'z': act(0, b=2)}, {'y': act(1)}),
    'tokens': ({'x': act(0).flatten(2)}, {'y': act(1)}),
    'no dict': ([act(0)], {'y': act(1)}),
    'constant on the coarse grid': (
        {'x': torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(2, 1, 4, 4)},
        {'y': act(1, b=2, h=4, w=4)},
    ),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_activations_get_one_sentence(name):
    with pytest.raises(SnetError) as e:
        pairs.compare_layers(*BAD[name])
    assert '\n' not in str(e.value) and re.search(r'[;:,] ', str(e.value))


def test_a_choice_of_nothing_is_refused():
    with pytest.raises(SnetError, match='4:1'):
        pairs.choose_pairs(pairs.compare_layers({'x': act(0)}, {'y': act(1)}))
    with pytest.raises(SnetError, match='kl'):
        pairs.rank_pairs(pairs.compare_layers({'x': act(0)}, {'y': act(1)}), 'mutual')
    with pytest.raises(SnetError):
        pairs.compare_layers({'x': act(0)}, {'y': act(1)}, summary='max')


def test_keywords_matter():
    x, y = {'x': act(0) + 3}, {'y': torch.relu(act(0)) + 0.5 * act(2)}

    def measure(**kw):
        return pairs.compare_layers(x, y, **kw).iloc[0]

    base = measure()
    assert measure(bins=8).kl != base.kl
    assert measure(mi_bins=3).mi != base.mi
    assert measure(summary='mean').mi != base.mi
    assert measure(grid=(4, 4)).positions == 64 < base.positions
    assert measure(grid=(4, 4), reduce='mean').cka != measure(grid=(4, 4)).cka
    assert base.kl < base.kl_raw, 'standardised values are nearer than raw ones'


@relaxed
@given(st.integers(0, 10**6), st.floats(0.1, 10), st.floats(-5, 5))
def test_cka_and_mi_do_not_see_units(seed, scale, shift):
    x, y = act(seed), act(seed) * 0.5 + act(seed + 1)
    t, u = (pairs.compare_layers({'x': s}, {'y': y}).iloc[0] for s in (x, scale * x + shift))
    assert np.isclose(t.cka, u.cka, atol=1e-3) and abs(t.mi - u.mi) < 0.05 and 0 <= t.cka <= 1 + 1e-6
    assert np.isclose(t.kl, u.kl, atol=0.02) and np.isclose(t.w1, u.w1, atol=1e-3)


def test_grids_and_odd_sizes():
    fine = act(0, h=12, w=8)
    other = {
        'averaged': torch.nn.functional.adaptive_avg_pool2d(fine, (6, 4)),
        'picked': fine[:, :, 1::2, 1::2],
        'wide': act(1, c=1, h=5, w=13),
    }
    pick, mean = (
        pairs.compare_layers({'fine': fine}, other, reduce=how).set_index('b')
        for how in dependence.REDUCTIONS
    )
    assert np.isclose(mean.cka['averaged'], 1, atol=1e-5) and pick.cka['averaged'] < 0.9
    assert np.isclose(pick.cka['picked'], 1, atol=1e-5) and mean.cka['picked'] < 0.9
    assert pick.positions['averaged'] == 4 * 6 * 4 and pick.positions['wide'] == 4 * 5 * 8
    measures = ['kl', 'js', 'w1', 'kl_raw', 'mi', 'mi_floor', 'mi_floor_sd', 'mi_seen', 'cka', 'cka_floor']
    assert pick[measures].notna().all(axis=None) and mean[measures].notna().all(axis=None)


def gauss_and_rectified(n):
    g = torch.Generator().manual_seed(n)
    return torch.randn(n, generator=g), torch.randn(n, generator=g).relu()


def exact_histograms(bins=64, smooth=0.003):
    "Bin probabilities of a standard Gaussian and of a standardised rectified one, from the normal law."
    edges = np.linspace(-6, 6, bins + 1)
    gauss = np.diff(norm.cdf(edges))
    mean, spread = norm.pdf(0), np.sqrt(0.5 - norm.pdf(0) ** 2)
    rectified = np.diff(norm.cdf((edges * spread + mean).clip(0)))
    rectified[np.searchsorted(edges, -mean / spread) - 1] += 0.5  # the zeros
    return [(1 - smooth) * p / p.sum() + smooth / bins for p in (gauss, rectified)]


@pytest.mark.parametrize('divergence', [han.symmetric_kl, divergences.jensen_shannon])
def test_divergences_do_not_depend_on_the_size_of_a_layer(divergence):
    "A Gaussian against a rectified one: 885,000 values (CNN1 of the study) and 28,000 (CNN4 or ViT4)."
    true = divergence(*exact_histograms())
    for n, m in ((885_000, 885_000), (28_000, 28_000), (885_000, 28_000)):
        x, y = gauss_and_rectified(n)[0], gauss_and_rectified(m)[1]
        assert abs(divergence(divergences.unit_histogram(x), divergences.unit_histogram(y)) / true - 1) < 0.03


def test_half_a_count_did_depend_on_it():
    def half_a_count(x):
        counts = torch.histc(divergences.standardise(x).clamp(-6, 6), 64, -6, 6).double().numpy() + 0.5
        return counts / counts.sum()

    large, small = (han.symmetric_kl(*map(half_a_count, gauss_and_rectified(n))) for n in (885_000, 28_000))
    assert large - small > 0.5


@pytest.mark.parametrize('n', (28_000, 885_000))
def test_wasserstein_of_a_rectified_gaussian(n):
    mean, spread = norm.pdf(0), np.sqrt(0.5 - norm.pdf(0) ** 2)
    z = norm.ppf((np.arange(20_000) + 0.5) / 20_000)
    true = np.abs(z - (z.clip(0) - mean) / spread).mean()
    assert abs(divergences.wasserstein1(*gauss_and_rectified(n)) - true) < 0.01


@pytest.mark.parametrize('shift, scale', [(0.0, 1.0), (5.0, 3.0), (-2.0, 0.1)])
def test_wasserstein_by_the_closed_form(shift, scale):
    "Standardised: uniform against Gaussian is the integral of the quantiles' distance, in any units."
    g = np.random.default_rng(0)
    x, y = g.uniform(size=200_000), g.normal(shift, scale, 200_000)
    u = (np.arange(20_000) + 0.5) / 20_000
    true = np.abs((u - 0.5) * 12**0.5 - norm.ppf(u)).mean()
    assert abs(divergences.wasserstein1(x, y) - true) < 0.01


@pytest.mark.parametrize('c', (16, 64, 256))
@pytest.mark.parametrize('grid', (3, 6))
def test_debiased_cka_of_independent_maps_is_zero(c, grid):
    found = [
        pairs.compare_layers({'x': act(s, 12, c, grid, grid)}, {'y': act(99 + s, 12, c, grid, grid)}).cka[0]
        for s in range(6)
    ]
    assert abs(np.mean(found)) < 0.03, found


def test_biased_cka_of_independent_maps_was_not():
    x, y = (dependence.centred_rows(act(s, 12, 256, 3, 3)) for s in (0, 1))
    assert dependence.linear_cka(x, y, debiased=False) > 0.65
    assert abs(dependence.linear_cka(x, y)) < 0.05


def test_debiased_cka_of_a_known_share():
    "Half of the variance of one channel is common: CKA of scalars is the squared correlation."
    z = act(0, 40, 3, 8, 8)
    x, y = z[:, :1] + z[:, 1:2], z[:, :1] + z[:, 2:]
    rows = (dependence.centred_rows(t) for t in (x, y))
    assert abs(dependence.linear_cka(*rows) - 0.25) < 0.05


def test_equally_noisy_layers_of_one_signal_have_equal_information():
    "With averaging the finer layers lose noise and seem to know more; with picking no pair is special."
    g = torch.Generator().manual_seed(0)
    signal = torch.randn(16, 1, 10, 10, generator=g)

    def layer(scale):
        fine = signal.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
        return fine + 0.5 * torch.randn(fine.shape, generator=g)

    cnn = {f'CNN{4 - k}': layer(2**k) for k in range(4)}
    for reduce, apart in (('pick', 0.08), ('mean', None)):
        mi = pairs.compare_layers(cnn, {'ViT1': layer(1)}, reduce=reduce).mi
        assert np.ptp(mi) < apart if apart else np.ptp(mi) > 0.2


def test_the_floor_is_a_mean_with_a_spread():
    t = pairs.compare_layers({'x': act(0, 12)}, {'y': act(1, 12)}).iloc[0]
    each = [dependence.layer_mi(act(0, 12), act(1, 12), shift=s) for s in dependence.image_shifts(12)]
    assert (
        len(each) == 5 and np.isclose(t.mi_floor, np.mean(each)) and np.isclose(t.mi_floor_sd, np.std(each))
    )
    assert np.isclose(t.mi_seen, t.mi - t.mi_floor) and abs(t.mi_seen) < 0.2


def test_information_is_not_summed_across_grids():
    cnn = {'fine': act(0, h=8, w=8), 'coarse': act(1, h=4, w=4)}
    vit = {'fine_v': act(2, c=1, h=8, w=8), 'coarse_v': act(3, c=1, h=4, w=4)}
    table = pairs.compare_layers(cnn, vit)
    assert len(pairs.choose_pairs(table, 'mi')) == 2, 'no layer has candidates on two grids'
    for by in pairs.GRID_BOUND:
        with pytest.raises(BadSetting) as e:
            pairs.choose_pairs(table, by, same_grid=False)
        assert e.value.key == by
    assert len(pairs.choose_pairs(table, 'cka', same_grid=False)) == 2
    one_grid = pairs.compare_layers(cnn, vit, grid=(4, 4))
    assert len(pairs.choose_pairs(one_grid, 'mi', same_grid=False)) == 2
    with pytest.raises(BadSetting):
        pairs.compare_layers(cnn, vit, grid=(5, 4))


@settings(deadline=None, max_examples=150)
@given(st.integers(1, 4), st.integers(1, 4), st.sampled_from(['kl', 'cka']), st.data())
def test_choice_is_the_best_of_all_choices(n_a, n_b, by, data):
    ij = list(itertools.product(range(n_a), range(n_b)))
    value = data.draw(st.lists(st.integers(0, 50), min_size=len(ij), max_size=len(ij)))
    ok = data.draw(st.lists(st.booleans(), min_size=len(ij), max_size=len(ij)))
    assume(any(ok))
    t = pd.DataFrame(
        [
            {
                'a': f'a{i}',
                'b': f'b{j}',
                by: float(v),
                'channels_a': 4 if o else 3,
                'channels_b': 1,
                'grid_a': (2, 2),
                'grid_b': (2, 2),
            }
            for (i, j), v, o in zip(ij, value, ok)
        ]
    )
    sign = -1 if by == 'cka' else 1
    best = None
    good = [(i, j, sign * v) for (i, j), v, o in zip(ij, value, ok) if o]
    for k in range(min(n_a, n_b), 0, -1):
        totals = [
            sum(v for *_, v in c)
            for c in itertools.combinations(good, k)
            if len({i for i, *_ in c}) == len({j for _, j, _ in c}) == k
        ]
        if totals:
            best = k, min(totals)
            break
    got = pairs.choose_pairs(t, by)
    assert (len(got), sign * got[by].sum()) == best and got.a.is_unique and got.b.is_unique


# --- the house


def namespace(page):
    "What a reader has at the exercises without running the lesson: module, imports, helpers."
    ns = dict(vars(importlib.import_module(PAGES[page])))
    for c in cells(page):
        if c['cell_type'] == 'code' and '#| export' not in ''.join(c['source']):
            for node in ast.parse(''.join(c['source'])).body:
                if isinstance(
                    node, (ast.Import, ast.ImportFrom, ast.FunctionDef)
                ) and 'matplotlib' not in ast.dump(node):
                    exec(compile(ast.Module([node], []), page, 'exec'), ns)
    return ns


def test_what_the_page_says_of_han():
    "A fused code is no subset of the variables, and one subset is not the average of all."
    copies = np.diag([0.5, 0.5])
    fused = E.push_forward(copies, np.zeros((2, 2), int))
    assert E.entropy(fused) / 1 < E.entropy(copies) / 2
    lopsided = np.zeros((2, 2, 2))
    lopsided[0] = 1 / 4
    assert E.joint_entropy(lopsided, (0, 1)) / 2 < E.entropy(lopsided) / 3 <= han.han_profile(lopsided)[1]


@pytest.mark.parametrize('u, w, most', [(0.6, 0.4, 0.971), (0.5, 0.6, 0.610), (0.5, 0.5, 1.0)])
def test_the_bound_is_reached_by_permutations_only(u, w, most):
    page = namespace('2_theory/01_han')
    assert abs(page['most_shared'](u, w) - most) < 1e-3


@pytest.mark.parametrize('page', PAGES)
def test_page_reads_like_a_course(page):
    text = text_of_page(page)
    assert 1 <= len(exercises(page)) <= 5
    assert 'reading time' in text and 'prerequisites' in text and '## Recap' in text


def test_theory_knows_no_model():
    for f in (ROOT / 'snetlib' / 'theory').glob('*.py'):
        imports = re.findall(r'^\s*(?:from|import) ([\w.]+)', f.read_text(), re.M)
        assert not [
            m for m in imports if m.startswith(('snetlib.models', 'fastai', 'matplotlib', 'timm', 'monai'))
        ], f.name
