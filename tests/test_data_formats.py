"Files of every kind, damaged at random, end in one sentence."

import numpy as np
import pytest
from damage import corrupt, good_files

from snetlib.core import SnetError
from snetlib.data.files import read_case
from snetlib.data.sets.monuseg import read_polygons


def read_any(path):
    return read_polygons(path) if path.suffix == '.xml' else read_case(path)


def same(a, b):
    return (
        np.array_equal(a.image, b.image)
        and (a.label is None) == (b.label is None)
        and (a.label is None or np.array_equal(a.label, b.label))
    )


N = 70  # times nine kinds


@pytest.mark.filterwarnings('ignore')  # readers warn about what they are about to refuse
@pytest.mark.parametrize('kind', ['png', 'jpg', 'tif', 'bmp', 'nii', 'nii.gz', 'npz', 'h5', 'xml'])
def test_corrupted_files_end_in_one_sentence(kind, tmp_path):
    summed = good_files(tmp_path)[kind]
    f = tmp_path / f'a.{kind}'
    original, whole = f.read_bytes(), read_any(f)
    refused = 0
    for seed in range(N):
        f.write_bytes(corrupt(original, np.random.default_rng([seed, len(kind)])))
        try:
            got = read_any(f)
        except SnetError as e:
            refused += 1
            assert '\n' not in str(e) and f.name in str(e), str(e)
            continue
        if kind == 'xml':
            assert all(np.isfinite(p).all() and p.shape[1] == 2 for p in got)
            continue
        assert np.isfinite(got.image).all() and got.image.dtype == np.float32 and got.image.ndim in (3, 4)
        assert got.label is None or (got.label.dtype == np.uint8 and got.label.shape == got.image.shape[:3])
        if summed:
            assert same(got, whole), f'{kind}: corruption {seed} was read as other data'
    assert refused >= (N // 2 if summed else 1)


def test_label_255_is_ignored_and_256_refused(tmp_path):
    np.savez(tmp_path / 'a.npz', image=np.zeros((4, 4)), label=np.full((4, 4), 255))
    assert read_case(tmp_path / 'a.npz').label.max() == 255
    np.savez(tmp_path / 'a.npz', image=np.zeros((4, 4)), label=np.full((4, 4), 256))
    with pytest.raises(SnetError, match='instances'):
        read_case(tmp_path / 'a.npz')
