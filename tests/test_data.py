"Data: published lists, every layout from raw to slices, and bad input of every kind."

from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from snetlib.core import SnetError
from snetlib.data.files import read_case
from snetlib.data.geometry import from_slices, to_slices
from snetlib.data.prepare import prepare
from snetlib.data.sets.catalogue import DATASETS
from snetlib.data.sets.monuseg import read_polygons, write_polygons
from snetlib.data.slices import scale_intensity
from snetlib.data.splitting import read_split
from snetlib.data.writing import write_mask

ROOT = Path(__file__).parent.parent


# ---------------------------------------------------------------- published lists


def test_split_files_are_the_packages_lists():
    files = {f.stem: read_split(f) for f in (ROOT / 'snetlib' / 'data' / 'splits').glob('*.txt')}
    lists = {f'{d.name}_{n.replace("/", "-")}': s for d in DATASETS.values() for n, s in d.splits.items()}
    assert {k: files[k] for k in lists} == lists and len(lists) == 5


@pytest.mark.parametrize('name,split', [(d.name, n) for d in DATASETS.values() for n in d.splits])
def test_no_case_in_two_parts(name, split):
    parts = DATASETS[name].splits[split]
    ids = [i for p in parts.values() for i in p]
    assert len(ids) == len(set(ids))


# ---------------------------------------------------------------- masks go back where they came from


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


def test_scores_are_those_of_the_raw_data(tmp_path):
    "Prepared CT holds [0, 1], raw CT HU: a run on either is scored alike; memory holds one case at a time."
    import gc
    import weakref

    from snetlib import evaluate
    from snetlib.train.run import train_run

    DATASETS['synapse'].write_phantom(tmp_path / 'raw', 6)
    prepare('synapse', tmp_path / 'raw', tmp_path / 'out', val=1)
    alive = []
    train_run(
        tmp_path / 'run',
        'synapse',
        'snet_tiny',
        'smoke',
        root=tmp_path / 'out',
        steps=1,
        precision='float32',
        progress=False,
        data_kwargs=dict(val=1),
    )
    real = evaluate.predict_case

    def predict(run, case, intensity, **k):
        gc.collect()
        assert all(r() is None for r in alive), 'the image of an earlier case is still in memory'
        alive.append(weakref.ref(case.image))
        return np.digitize(scale_intensity(case.image, intensity or run.intensity), (0.4, 0.5, 0.6)).astype(
            np.uint8
        )  # a mask that follows from what the network would see

    evaluate.predict_case = predict
    try:
        a, b = (
            evaluate.evaluate_run(
                tmp_path / 'run', tmp_path / f'scores {n}', root=tmp_path / n, part='train', progress=False
            )
            for n in ('raw', 'out')
        )
    finally:
        evaluate.predict_case = real
    assert (
        a['case'].nunique() > 1
        and a.pred_voxels.sum() > 0
        and np.allclose(a[['dice', 'pred_voxels']], b[['dice', 'pred_voxels']], equal_nan=True, atol=0.02)
    )


# ---------------------------------------------------------------- files corrupted at random


def good_files(d):
    "One small file of each kind, its reader, and whether the format carries a check sum."
    rng = np.random.default_rng(0)
    x = rng.integers(0, 255, (24, 28, 3), dtype=np.uint8)
    y = (x[..., 0] > 90).astype(np.uint8)
    v = rng.integers(-500, 500, (12, 10, 6)).astype(np.int16)
    for end in ('png', 'jpg', 'tif', 'bmp'):
        Image.fromarray(x).save(d / f'a.{end}')
    for end in ('nii', 'nii.gz'):
        nib.save(nib.Nifti1Image(v, np.diag([-2.0, 2, 3, 1])), d / f'a.{end}')
    np.savez_compressed(d / 'a.npz', image=x[..., 0], label=y)
    with h5py.File(d / 'a.h5', 'w') as f:
        for k, a in (('image', x[..., 0]), ('label', y)):
            f.create_dataset(k, data=a, compression='gzip', fletcher32=True)
    write_polygons([rng.uniform(0, 50, (8, 2)) for _ in range(6)], d / 'a.xml')
    return {
        'png': True,
        'jpg': False,
        'tif': False,
        'bmp': False,
        'nii': False,
        'nii.gz': True,
        'npz': True,
        'h5': False,
        'xml': False,
    }


def corrupt(b, rng):
    "One of five ways in which files break."
    b, at, n = bytearray(b), int(rng.integers(len(b))), int(rng.integers(1, 40))
    way = int(rng.integers(5))
    if way == 0:
        b[at] ^= 1 << int(rng.integers(8))
    elif way == 1:
        del b[at:]
    elif way == 2:
        b[at : at + n] = bytes(len(b[at : at + n]))
    elif way == 3:
        b[at:at] = rng.bytes(n)
    else:
        del b[at : at + n]
    return bytes(b)


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


@pytest.mark.parametrize('indent', ['', '\n\t\t', '\n   '])
def test_plain_polygons_are_those_of_the_tree(indent, tmp_path):
    "On files broken at random, the quick reader gives the tree's numbers and accepts only what it accepts."
    import defusedxml.ElementTree

    good_files(tmp_path)
    f = tmp_path / 'a.xml'
    whole = f.read_text().replace('<Vertex ', indent + '<Vertex ').encode()
    agreed = refused = 0
    for seed in range(500):
        f.write_bytes(corrupt(whole, np.random.default_rng([seed, 7])) if seed else whole)
        try:
            tree = [
                np.array([[float(v.get(k)) for k in 'XY'] for v in r.iter('Vertex')]).reshape(-1, 2)
                for r in defusedxml.ElementTree.parse(f, forbid_dtd=True).iter('Region')
            ]
        except Exception:
            tree = None
        try:
            ours = read_polygons(f)
        except SnetError:
            refused += 1
            continue
        assert tree is not None, f'corruption {seed} is broken XML and was read'
        tree = [p for p in tree if len(p) > 2]
        agreed += 1
        assert len(tree) == len(ours) and all(map(np.array_equal, tree, ours)), (
            f'corruption {seed} was read otherwise'
        )
    assert agreed > 5 and refused > 100


def test_label_255_is_ignored_and_256_refused(tmp_path):
    np.savez(tmp_path / 'a.npz', image=np.zeros((4, 4)), label=np.full((4, 4), 255))
    assert read_case(tmp_path / 'a.npz').label.max() == 255
    np.savez(tmp_path / 'a.npz', image=np.zeros((4, 4)), label=np.full((4, 4), 256))
    with pytest.raises(SnetError, match='instances'):
        read_case(tmp_path / 'a.npz')
