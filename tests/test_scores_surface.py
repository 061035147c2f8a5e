"Surface distances against medpy on random shapes, and masks and spacings that do not fit."

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from medpy.metric import binary as medpy

from snetlib.core import SnetError
from snetlib.scores import surface

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


@settings(max_examples=50, deadline=None)
@given(two_masks(), st.floats(0, 5))
def test_surface_dice_equals_its_definition(case, tolerance):
    p, t, spacing = case
    near_p, near_t = (d <= tolerance * (1 + 1e-9) for d in surface.surface_distances(p, t, spacing))
    want = (near_p.sum() + near_t.sum()) / (surface.border(p).sum() + surface.border(t).sum())
    assert surface.surface_dice(p, t, tolerance, spacing) == pytest.approx(want)


def test_a_missed_structure_costs_the_diagonal():
    some, none = np.zeros((3, 4), bool), np.zeros((3, 4), bool)
    some[1, 1] = True
    for pair in ((some, none), (none, some)):
        assert surface.hd95(*pair, (5, 2), missed='diagonal') == 17
        assert surface.surface_dice(*pair, 1) == 0
    assert np.isnan(surface.hd95(none, none, missed='diagonal'))
    assert np.isnan(surface.surface_dice(none, none, 1))


def test_what_is_no_rule_and_no_tolerance_is_refused():
    some = np.ones((3, 4), bool)
    with pytest.raises(SnetError, match='diagonal'):
        surface.hd95(some, some, missed='zero')
    with pytest.raises(SnetError, match='tolerance'):
        surface.surface_dice(some, some, -1)
    with pytest.raises(SnetError, match='empty mask'):
        surface.bounding_box(~some)
