"Losses, metrics, surfaces, bands and reports: what a page cannot show. Random shapes against medpy, MONAI and torchmetrics, and mistakes on purpose."

import contextlib
import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from medpy.metric import binary as medpy
from scipy.stats import wilcoxon

from snetlib import surface
from snetlib.core import SnetError
from snetlib.data.bands import (
    band_masks,
    find_objects,
    match_objects,
    object_areas,
    object_summary,
    score_objects,
)
from snetlib.report.page import evaluation_parts, light_markdown, write_report
from snetlib.report.tables import score_table, to_html, to_latex, to_markdown
from snetlib.scores.cases import score_case
from snetlib.scores.objects import band_scores, threshold_dice
from snetlib.scores.overlap import confusion, dice_per_class, iou_per_class, set_scores
from snetlib.scores.statistics import compare, interval, summarise
from snetlib.train.losses import CrossEntropy, SNetLoss, dice_loss


def quiet(f, *a, **kw):
    with contextlib.redirect_stderr(io.StringIO()):
        return f(*a, **kw)


# ---- surfaces ---------------------------------------------------------------------------------------------------------------

shapes = st.one_of(
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=16),
    hnp.array_shapes(min_dims=3, max_dims=3, max_side=9),
)


@st.composite
def two_masks(draw):
    shape = draw(shapes)
    p, t = (draw(hnp.arrays(bool, shape)) for _ in 'pt')
    for m in (p, t):
        if not m.any():
            m[tuple(draw(st.integers(0, s - 1)) for s in shape)] = True
    spacing = draw(st.one_of(st.none(), st.floats(0.1, 9), st.tuples(*[st.floats(0.1, 9)] * len(shape))))
    return p, t, spacing


@settings(max_examples=150, deadline=None)
@given(two_masks())
@example((np.ones((4, 5), bool), np.eye(4, 5, dtype=bool), (2.0, 0.5)))
def test_surface_distances_equal_medpy(case):
    p, t, spacing = case
    for ours, theirs in (
        (surface.hd95, medpy.hd95),
        (surface.hd, medpy.hd),
        (surface.asd, medpy.asd),
        (surface.assd, medpy.assd),
    ):
        assert abs(ours(p, t, spacing) - theirs(p, t, spacing)) < 1e-9, (ours.__name__, spacing)


@settings(max_examples=50, deadline=None)
@given(two_masks())
def test_hd95_is_symmetric_scales_and_does_not_see_the_surroundings(case):
    p, t, spacing = case
    assert surface.hd95(p, t, spacing) == surface.hd95(t, p, spacing)
    assert np.isclose(surface.hd95(p, t, np.full(p.ndim, 3.0)), 3 * surface.hd95(p, t))
    assert surface.hd95(np.pad(p, 7), np.pad(t, 7), spacing) == surface.hd95(p, t, spacing)


def test_large_blobs_equal_medpy():
    from scipy import ndimage

    for seed, shape, spacing in (
        (0, (30, 60, 61), (3, 0.7, 0.8)),
        (1, (200, 180), None),
        (2, (30, 60, 61), None),
    ):
        p, t = (
            ndimage.gaussian_filter(np.random.default_rng(seed + k).normal(size=shape), 2) > 0.05
            for k in (0, 50)
        )
        assert abs(surface.hd95(p, t, spacing) - medpy.hd95(p, t, spacing)) < 1e-9


@pytest.mark.parametrize('fn', [surface.hd95, surface.hd, surface.asd, surface.assd])
def test_an_empty_mask_is_undefined(fn):
    full, none = np.ones((3, 4), bool), np.zeros((3, 4), bool)
    assert (
        np.isnan(fn(full, none))
        and np.isnan(fn(none, full))
        and np.isnan(fn(none, none))
        and fn(full, full) == 0
    )


@pytest.mark.parametrize('spacing', [(1, 1, 1), (1, -1), (1, float('nan')), 0, (1, float('inf'))])
def test_a_spacing_that_does_not_fit_is_refused_also_for_empty_masks(spacing):
    for m in (np.ones((3, 4), bool), np.zeros((3, 4), bool)):
        with pytest.raises(SnetError, match='spacing'):
            surface.hd95(m, m, spacing)


def test_masks_of_other_types_are_taken_as_not_zero():
    p, t = np.zeros((9, 9), np.uint8), np.zeros((9, 9), np.float32)
    p[2:5, 2:5] = 7
    t[4:7, 3:8] = 0.5
    assert surface.hd95(p, t) == medpy.hd95(p, t) == surface.hd95(p > 0, t > 0)


# ---- metrics ----------------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_published_is_the_old_code_bit_for_bit(data):
    shape = data.draw(hnp.array_shapes(min_dims=3, max_dims=3, max_side=6))
    p, t = (data.draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, 4))) for _ in 'pt')

    def old(p, t):
        if p.sum() > 0 and t.sum() > 0:
            return medpy.dc(p, t), medpy.hd95(p, t)
        return (1, 0) if p.sum() > 0 else (0, 0)

    rows = score_case(p, t, 5, spacing=(2, 1, 1)).query('protocol == "published"')
    want = [old(p == c, t == c) for c in range(1, 5)]
    np.testing.assert_array_equal(rows.dice, [d for d, _ in want])
    np.testing.assert_array_equal(rows.hd95, [h for _, h in want])


def test_the_four_cases_of_absence():
    some, none = np.array([0, 1, 1]), np.zeros(3, int)
    for p, t, pub, cor in (
        (some, none, 1, 0),
        (none, none, 0, np.nan),
        (none, some, 0, 0),
        (some, some, 1, 1),
    ):
        for f in (dice_per_class, iou_per_class):
            np.testing.assert_array_equal(f(p, t, 2, 'published'), [pub])
            np.testing.assert_array_equal(f(p, t, 2, 'corrected'), [cor])
    undefined = {
        k: score_case(p, t, 2).undefined.tolist()
        for k, (p, t) in dict(
            invented=(some, none), missed=(none, some), neither=(none, none), both=(some, some)
        ).items()
    }
    assert undefined == {
        'invented': ['', 'hd95'],
        'missed': ['', 'hd95'],
        'neither': ['', 'dice, iou, hd95'],
        'both': ['', ''],
    }


def test_slices_of_a_volume_are_scored_together():
    t = np.zeros((2, 4, 4), int)
    t[0] = 1
    t[1, 0, 0] = 1
    p = t.copy()
    p[1] = 0
    assert (
        dice_per_class(p, t, 2)[0] == 32 / 33 != np.mean([dice_per_class(a, b, 2)[0] for a, b in zip(p, t)])
    )


def test_confusion_in_pieces_equals_one_piece():
    rng = np.random.default_rng(0)
    p, t = (rng.integers(0, 4, (9, 1000, 1000), dtype=np.uint8) for _ in 'pt')
    assert (
        confusion(p, t, 4) == np.bincount(t.ravel().astype(int) * 4 + p.ravel(), minlength=16).reshape(4, 4)
    ).all()


@pytest.mark.parametrize(
    'wrong, words',
    [
        ((np.array([5]), np.array([0]), 5), 'prediction holds class 5'),
        ((np.array([0]), np.array([-1]), 5), 'truth holds class -1'),
        ((np.zeros(2, int), np.zeros(3, int), 2), 'shapes'),
        ((np.zeros(2), np.zeros(2, int), 2), 'float64'),
    ],
)
def test_labels_that_do_not_fit(wrong, words):
    for f in (confusion, dice_per_class, iou_per_class, score_case):
        with pytest.raises(SnetError, match=words):
            f(*wrong)


def test_class_names_must_be_complete_and_the_table_says_them():
    p = np.array([[0, 1, 2]])
    assert score_case(p, p, 3, class_names=('bg', 'a', 'b'))['class'].tolist() == ['a', 'b', 'a', 'b']
    with pytest.raises(SnetError, match='2 class names'):
        score_case(p, p, 3, class_names=('a', 'b'))


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
    got = interval(x[:, None], 4000, 0)
    theirs = bootstrap(
        (x,), np.mean, n_resamples=4000, method='percentile', random_state=np.random.default_rng(1)
    ).confidence_interval
    assert np.allclose(got, theirs, atol=0.02) and got[0] < x.mean() < got[1]
    assert interval(x[:, None], 500, 3) == interval(x[:, None], 500, 3) != interval(x[:, None], 500, 4)
    assert (
        interval(np.full((5, 2), 0.7)) == (pytest.approx(0.7), pytest.approx(0.7))
        and np.isnan(interval(np.ones((1, 2)))).all()
    )


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


def test_agreement_with_torchmetrics_and_monai():
    from monai.metrics import compute_dice, compute_hausdorff_distance, compute_iou
    from torchmetrics.classification import (
        MulticlassFBetaScore,
        MulticlassJaccardIndex,
        MulticlassPrecision,
        MulticlassRecall,
    )

    g = torch.Generator().manual_seed(0)
    p, t = (torch.randint(0, 4, (5, 12, 13), generator=g) for _ in 'pt')
    for p, t in (
        (p, t),
        (p.clamp(max=2), t),
        (p.clamp(max=2), t.clamp(max=2)),
    ):  # all classes; one never predicted; one in neither
        ours = set_scores([confusion(a.numpy(), b.numpy(), 4) for a, b in zip(p, t)])
        for k, m in dict(
            miou=MulticlassJaccardIndex(4),
            precision=MulticlassPrecision(4),
            recall=MulticlassRecall(4),
            f2=MulticlassFBetaScore(2.0, 4),
        ).items():
            assert ours[k] == pytest.approx(m(p, t).item(), rel=1e-5), k

    def hot(v):
        return torch.nn.functional.one_hot(v, 4).movedim(-1, 1)

    per = np.array(
        [[f(a.numpy(), b.numpy(), 4) for a, b in zip(p, t)] for f in (dice_per_class, iou_per_class)]
    )
    np.testing.assert_allclose(per[0], compute_dice(hot(p), hot(t), include_background=False), rtol=1e-6)
    np.testing.assert_allclose(per[1], compute_iou(hot(p), hot(t), include_background=False), rtol=1e-6)
    a, b = p[0] == 1, t[0] == 1
    far = quiet(
        compute_hausdorff_distance, a[None, None], b[None, None], include_background=True, percentile=95
    ).item()
    assert far == pytest.approx(
        max(np.percentile(d, 95) for d in surface.surface_distances(a.numpy(), b.numpy()))
    )


def test_published_pools_before_it_divides():
    one, two = (
        confusion(np.array(p), np.array(t), 2)
        for p, t in (([1, 0, 0, 0], [1, 0, 0, 0]), ([0, 0, 0, 0], [1, 1, 1, 0]))
    )
    assert (
        set_scores([one, two])['miou'] == pytest.approx((1 / 4 + 4 / 7) / 2)
        and set_scores([one, two], 'corrected')['miou'] == 0.5
    )


def test_bands_of_a_set():
    def image(share, hit):
        t = np.zeros(1000, int)
        t[: int(1000 * share)] = 1
        return confusion(t * hit, t, 2)

    images = [image(0.005, 0), image(0.05, 1), image(0.5, 1), image(0, 1)]
    assert band_scores(images).images.tolist() == [1, 2, 4] and band_scores(
        images, 'corrected', False
    ).images.tolist() == [1, 1, 1, 1]
    c = band_scores(images, 'corrected', False)
    assert c.mdice.tolist()[:3] == [0, 1, 1] and np.isnan(c.mdice['empty']) and c.undefined['empty'] == 5
    assert band_scores(images).mdice['ultra-small'] > 0.49, 'the background alone is worth a half'
    with pytest.raises(SnetError):
        band_scores([])


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.float64, (5, 6), elements=st.floats(0, 1)), hnp.arrays(bool, (5, 6)))
def test_threshold_dice_equals_the_loop(p, t):
    loop = [2 * ((p >= c) & t).sum() / max(1, (p >= c).sum() + t.sum()) for c in np.linspace(0, 1, 256)]
    assert threshold_dice(p, t, stretch=False) == pytest.approx(np.mean(loop), abs=1e-12)


# ---- bands ------------------------------------------------------------------------------------------------------------------


def test_disjoint_bands_part_the_images_and_cumulative_ones_grow():
    s = np.r_[0, np.random.default_rng(0).random(200) ** 4]
    assert (sum(m.astype(int) for m in band_masks(s, False).values()) == 1).all()
    c = band_masks(s)
    assert (c['ultra-small'] <= c['small']).all() and (c['small'] <= c['all']).all() and not c['small'][0]


def test_objects_in_three_dimensions_and_large_numbers():
    m = np.zeros((3, 3, 3), bool)
    m[0, 0, 0] = m[1, 1, 1] = True
    assert find_objects(m).max() == 1 and find_objects(m, 'face').max() == 2
    big = np.array([[70000, 0], [70000, 5]], np.int32)
    assert object_areas(big).to_dict() == {5: 1, 70000: 2} and match_objects(big, big) == {
        5: (5, 1),
        70000: (70000, 2),
    }


def test_matching_is_one_to_one_and_best_first():
    t, p = np.zeros((2, 12), int), np.zeros((2, 12), int)
    t[0, :6] = 1
    t[0, 6:12] = 2
    p[0, 3:11] = 1
    p[0, :2] = 2  # blob 1: IoU 3/11 with object 1, 5/9 with object 2
    assert match_objects(p, t) == {2: (1, 5), 1: (2, 2)}
    o = score_objects(p, t)
    assert (
        o.found.tolist() == [False, True, False]
        and o.kind.tolist() == ['true', 'true', 'extra']
        and o.object.tolist() == [1, 2, 2]
    )
    s = object_summary(o).loc['all']
    assert (s.recall, s.precision, s.f1) == (0.5, 0.5, 0.5)


def test_a_label_type_of_16_bits_does_not_overflow():
    t = np.arange(300 * 300, dtype=np.uint16).reshape(300, 300) // 10
    assert score_objects(t, t).query('kind == "true"').found.all()


# ---- losses -----------------------------------------------------------------------------------------------------------------


def test_dice_loss_equals_monai():
    from monai.losses import DiceLoss

    x, t = (
        torch.randn(3, 4, 9, 8, generator=torch.Generator().manual_seed(0)),
        torch.randint(0, 4, (3, 9, 8), generator=torch.Generator().manual_seed(1)),
    )
    for squared in (True, False):
        for background in (True, False):
            theirs = DiceLoss(
                softmax=True,
                to_onehot_y=True,
                batch=True,
                squared_pred=squared,
                include_background=background,
                smooth_nr=1e-5,
                smooth_dr=1e-5,
            )(x, t[:, None])
            torch.testing.assert_close(
                dice_loss(x.softmax(1), t, squared=squared, background=background), theirs
            )


@pytest.mark.parametrize(
    'loss', [SNetLoss(), SNetLoss(pixel='sigmoid'), SNetLoss(ignore_index=255), CrossEntropy()], ids=str
)
def test_gradient_is_that_of_finite_differences(loss):
    torch.manual_seed(0)
    t = torch.randint(0, 3, (2, 3, 4))
    t[0, 0, 0] = 255 if getattr(loss, 'ignore_index', None) else 0
    x = torch.randn(2, 3, 3, 4, requires_grad=True)
    loss(x, t).backward()
    for i in ((0, 0, 0, 0), (1, 2, 2, 3), (0, 1, 1, 1)):
        h = torch.zeros_like(x)
        h[i] = 1e-2
        assert x.grad[i].item() == pytest.approx(((loss(x + h, t) - loss(x - h, t)) / 2e-2).item(), abs=2e-4)


def test_unknown_pixels_change_nothing():
    torch.manual_seed(0)
    x, t = torch.randn(2, 3, 8, 8), torch.randint(0, 3, (2, 8, 8))
    t[:, :3] = 255
    for loss in (SNetLoss(ignore_index=255), SNetLoss(ignore_index=255, pixel='sigmoid'), CrossEntropy(255)):
        y = x.clone()
        y[:, :, :3] = 50 * torch.randn(2, 3, 3, 8)
        torch.testing.assert_close(loss(x, t), loss(y, t))


def test_a_label_outside_the_classes_names_it_and_the_cure():
    x, t = torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
    t[0, 1, 1] = 7
    for loss in (SNetLoss(), CrossEntropy()):
        with pytest.raises(SnetError, match=r'class 7.*n_out=3.*n_out=8'):
            loss((x, x), t)
    with pytest.raises((RuntimeError, IndexError)):
        torch.nn.functional.cross_entropy(x, t)


def test_bfloat16_sums_do_not_saturate():
    torch.manual_seed(0)
    x, t = torch.randn(2, 3, 224, 224), torch.randint(0, 3, (2, 224, 224))
    for loss in (SNetLoss(), SNetLoss(pixel='sigmoid'), CrossEntropy()):
        with torch.autocast('cpu', dtype=torch.bfloat16):
            low = loss(x.bfloat16(), t)
        assert low.dtype == torch.float32
        torch.testing.assert_close(low, loss(x, t), rtol=2e-3, atol=0)
        plain = loss(x.bfloat16(), t)
        assert plain.dtype == torch.float32
        torch.testing.assert_close(plain, loss(x.bfloat16().float(), t), rtol=1e-5, atol=0)


# ---- reports ----------------------------------------------------------------------------------------------------------------


def scored(n=4):
    rng = np.random.default_rng(0)
    return pd.concat(
        [
            score_case(
                rng.integers(0, 3, (2, 8, 8)),
                rng.integers(0, 3, (2, 8, 8)),
                3,
                (2, 1, 1),
                ('bg', 'a_1', 'b<2>'),
                f'case {i}',
            ).assign(model=m)
            for m in 'xy'
            for i in range(n)
        ]
    )


def test_a_report_is_one_safe_page(tmp_path):
    table = scored()
    pictures = {
        f'case {i}': tuple(np.random.default_rng(i).integers(0, 3, (2, 8, 8)) for _ in 'ipt')
        for i in range(4)
    }
    page = write_report(
        tmp_path / 'new' / 'r.html',
        '<b>&',
        ['<img src=x onerror=alert(1)>', *evaluation_parts(table, pictures, ('bg', 'a_1', 'b<2>'))],
    )
    html = page.read_text()
    assert html.count('src="data:image/png;base64,') == 5 and not re.search(
        r'(src|href)="(?!data:)|https?://|@import|<script|<img src=x', html
    )
    assert (
        '&lt;b&gt;&amp;' in html
        and 'b&lt;2&gt;' in html
        and '<b<2>' not in html
        and 'prefers-color-scheme: dark' in html
        and 'width=device-width' in html
    )
    assert [f.name for f in page.parent.iterdir()] == ['r.html']


def test_a_report_of_one_case_and_one_model(tmp_path):
    t = scored(1).query('model == "x"').drop(columns='model')
    parts = evaluation_parts(t)
    assert (
        write_report(tmp_path / 'r.html', 'one', parts).stat().st_size > 10_000
        and 'nan' not in score_table(t).to_string().lower()
    )


def test_a_report_that_fails_leaves_the_old_one(tmp_path):
    page = write_report(tmp_path / 'r.html', 'old', ['old'])
    before = page.read_text()
    with pytest.raises(SnetError, match='cannot show'):
        write_report(page, 'new', ['fine', object()])
    assert page.read_text() == before
    (tmp_path / 'file').write_text('')
    with pytest.raises(SnetError, match='a file stands'):
        write_report(tmp_path / 'file' / 'r.html', 'x', [])


def test_tables_as_text_survive_their_own_signs():
    t = pd.DataFrame({'a_b': ['1|2', 'x & y %', '<i>', '\\n'], 'n': [0.5, np.nan, 1 / 3, 2e-7]})
    md = to_markdown(t)
    assert len(md.splitlines()) == 6 and all(re.sub(r'\\\|', '', l).count('|') == 3 for l in md.splitlines())
    tex = to_latex(t)
    assert tex.count(r'\\') == 5 and r'a\_b' in tex and r'\textbackslash{}n' in tex and r'x \& y \%' in tex
    assert '<i>' not in to_html(t) and to_html(t).count('<tr') == 5


def test_light_markdown_escapes_first():
    assert (
        light_markdown('`<a>` **<b>**\n\n## <c>')
        == '<p><code>&lt;a&gt;</code> <b>&lt;b&gt;</b></p>\n<h2>&lt;c&gt;</h2>'
    )


@pytest.mark.skipif(not Path('/usr/bin/chromium').exists(), reason='no browser at /usr/bin/chromium')
@pytest.mark.parametrize('width, scheme', [(390, 'dark'), (1200, 'light')])
def test_the_page_fits_a_phone_and_follows_the_colour_scheme(tmp_path, width, scheme):
    playwright = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
    page = write_report(tmp_path / 'r.html', 'fits', evaluation_parts(scored()))
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(
            executable_path='/usr/bin/chromium',
            args=['--no-sandbox', '--disable-gpu', '--disable-background-networking'],
        )
        try:
            tab = browser.new_page(viewport={'width': width, 'height': 800}, color_scheme=scheme)
            asked = []
            tab.on('request', lambda r: asked.append(r.url))
            tab.goto(page.as_uri())
            assert tab.evaluate('document.documentElement.scrollWidth') <= width, (
                'the page itself must not scroll sideways'
            )
            assert tab.evaluate('[...document.images].every(i => i.complete && i.naturalWidth > 0)') and all(
                u.startswith(('file:', 'data:')) for u in asked
            )
            dark = (
                sum(
                    int(v)
                    for v in re.findall(
                        r'\d+', tab.evaluate('getComputedStyle(document.body).backgroundColor')
                    )[:3]
                )
                < 200
            )
            assert dark == (scheme == 'dark')
        finally:
            browser.close()
