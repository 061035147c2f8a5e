"Confusion, Dice, IoU and the tables of cases and small objects against medpy, torchmetrics and MONAI."

import contextlib
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from medpy.metric import binary as medpy

from snetlib.core import SnetError
from snetlib.scores import surface
from snetlib.scores.cases import score_case
from snetlib.scores.objects import band_scores, threshold_dice
from snetlib.scores.overlap import confusion, dice_per_class, iou_per_class, set_scores


def quiet(f, *a, **kw):
    with contextlib.redirect_stderr(io.StringIO()):
        return f(*a, **kw)


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
