"Phantoms of many seeds: organs where they belong, as many targets as were asked for."

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from snetlib.core import SnetError
from snetlib.data.phantom import ORGANS, abdomen_ct, balls, ct_affine, place_balls, write_nifti_pair

relaxed = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize('seed', range(12))
def test_every_patient_has_every_organ_where_it_belongs(seed):
    hu, label, spacing = abdomen_ct(seed, (32, 96, 96))
    assert set(np.unique(label)) == set(range(9))
    middle = {o: np.argwhere(label == k).mean(0) for k, o in enumerate(ORGANS) if k}
    assert (
        middle['liver'][2] < middle['spleen'][2]
        and middle['right kidney'][2] < middle['left kidney'][2]
        and middle['left kidney'][1] > middle['stomach'][1]
    )
    assert (label == 5).mean((1, 2)).max() > 0.12 and min(
        a for k in range(1, 9) for a in (label == k).mean((1, 2)) if a
    ) < 0.002


@relaxed
@given(
    st.integers(0, 10**6),
    st.integers(1, 6),
    st.floats(2, 6),
    st.sampled_from([(48, 48), (33, 71), (20, 40, 40)]),
    st.integers(1, 4),
)
def test_number_of_targets_is_the_number_asked_for(seed, n, radius, shape, classes):
    from scipy import ndimage

    try:
        image, label = balls(seed, shape, n, radius, classes=classes)
    except SnetError:
        assume(False)  # too many to fit: refused, never fewer
    assert (
        ndimage.label(label)[1] == n
        and set(np.unique(label)) == {0, *range(1, min(n, classes) + 1)}
        and image.min() >= 0
        and image.max() <= 1
        and image.dtype == np.float32
    )


def test_phantom_files_keep_their_place_when_tilted(tmp_path):
    hu, label, spacing = abdomen_ct(0, (6, 32, 40))
    img, lab = write_nifti_pair(tmp_path, 'x', hu, label, spacing, tilt=15)
    a, b = nib.load(img), nib.load(lab)
    assert (
        np.allclose(a.affine, ct_affine(hu.shape, spacing, 15), atol=1e-4)
        and np.array_equal(a.affine, b.affine)
        and np.linalg.det(a.affine[:3, :3]) > 0
        and a.shape == (40, 32, 6)
    )


def test_what_cannot_be_drawn_is_refused(tmp_path):
    with pytest.raises(SnetError):
        place_balls(np.random.default_rng(0), (64, 64), 9, 20)  # they do not fit
    with pytest.raises(SnetError):
        abdomen_ct(0, (4, 8, 8))
    hu, label, spacing = abdomen_ct(1, (24, 64, 64))
    with pytest.raises(SnetError):
        write_nifti_pair(tmp_path, '0002', hu, label[1:], spacing)
    assert not list(tmp_path.rglob('*0002*'))
