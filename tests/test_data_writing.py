"Masks go back where they came from."

import re

import nibabel as nib
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from snetlib.data.files import read_case
from snetlib.data.geometry import from_slices, to_slices
from snetlib.data.writing import write_label_files, write_mask
from snetlib.viz import class_colours


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


NAMES = ('background', 'left ventricle', 'the "scar"', 'Myokard (groß)', *'abcdefg')


def test_names_and_colours_are_read_back_by_the_formats_of_the_viewers(tmp_path):
    snap, slicer = (p.read_text(encoding='utf-8') for p in write_label_files(tmp_path, NAMES))
    colours = [tuple(np.rint(c * 255).astype(int)) for c in class_colours(len(NAMES) - 1)]
    rows = [line for line in snap.splitlines() if not line.startswith('#')]
    line = re.compile(r'\s*(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s+([\d.]+)\s+([01])\s+([01])\s+"([^"]*)"')
    found = [line.fullmatch(row).groups() for row in rows]
    assert found[0] == ('0', '0', '0', '0', '0', '0', '0', 'Clear Label')
    assert [int(f[0]) for f in found] == list(range(len(NAMES)))
    assert [tuple(map(int, f[1:4])) for f in found[1:]] == colours and len(set(colours)) == 10
    assert [f[7] for f in found[1:4]] == ['left ventricle', "the 'scar'", 'Myokard (groß)']
    assert all(f[4:7] == ('1', '1', '1') for f in found[1:])
    header, *rest = slicer.splitlines()
    assert header.startswith('# Color table file')
    found = [row.split(' ') for row in rest if not row.startswith('#')]
    assert all(len(row) == 6 for row in found) and [int(r[0]) for r in found] == list(range(11))
    assert [tuple(map(int, r[2:5])) for r in found[1:]] == colours
    assert found[1][1] == 'left_ventricle' and found[0][5] == '0' and found[1][5] == '255'
