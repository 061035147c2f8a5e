"Masks go back where they came from."

import nibabel as nib
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from snetlib.data.files import read_case
from snetlib.data.geometry import from_slices, to_slices
from snetlib.data.writing import write_mask


@settings(max_examples=60, deadline=None, database=None)
@given(
    st.tuples(*[st.integers(1, 7)] * 3),
    st.permutations([0, 1, 2]),
    st.tuples(*[st.sampled_from([-1, 1])] * 3),
    st.integers(0, 2),
    st.integers(0, 99),
)
def test_write_mask_round_trip(tmp_path_factory, shape, order, signs, axis, seed):
    d = tmp_path_factory.mktemp('m')
    rng = np.random.default_rng(seed)
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, order] * np.array(signs) * rng.uniform(0.5, 5, 3)
    affine[:3, :3] += rng.normal(0, 0.02, (3, 3))
    affine[:3, 3] = rng.normal(0, 50, 3)
    img = nib.Nifti1Image(rng.integers(0, 9, shape).astype(np.int16), affine)
    nib.save(img, d / 'x.nii.gz')
    case = read_case(d / 'x.nii.gz', axis=axis)
    back = nib.load(write_mask(case.image.astype(np.uint8), d / 'x.nii.gz', d / 'm.nii.gz', axis))
    assert np.array_equal(np.asarray(back.dataobj), np.asarray(img.dataobj)) and np.allclose(
        back.affine, img.affine, atol=1e-3
    )
    assert np.array_equal(from_slices(to_slices(case.image, axis), axis), case.image)
