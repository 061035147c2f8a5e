"Objects and bands: what the page cannot show."

import numpy as np
import pytest

from snetlib.core import SnetError
from snetlib.data.bands import (
    band_masks,
    find_objects,
    match_objects,
    object_areas,
    object_summary,
    score_objects,
)


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


def test_shares_and_instances_are_checked():
    with pytest.raises(SnetError):
        band_masks([9.0])  # a share is at most 1
    with pytest.raises(SnetError):
        object_areas(np.eye(3, dtype=bool))  # a mask is no instance map
