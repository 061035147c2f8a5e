"Data: published lists, every layout from raw to slices, and bad input of every kind."

import json
import multiprocessing
import sys
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from snetlib.core import SnetError, seed_everything
from snetlib.data.check import check, check_text
from snetlib.data.files import read_case
from snetlib.data.geometry import from_slices, to_slices
from snetlib.data.loaders import load_cases, load_slices, slice_dls
from snetlib.data.prepare import prepare
from snetlib.data.sets.catalogue import DATASETS, FOLDERS, get_dataset
from snetlib.data.sets.folder import write_phantom
from snetlib.data.sets.monuseg import read_polygons, write_polygons
from snetlib.data.sets.semsperm import write_phantom as write_sperms
from snetlib.data.slices import Slices, scale_intensity
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


# ---------------------------------------------------------------- every layout: raw -> prepared -> checked -> slices

SETS = [n for n, d in DATASETS.items() if d.write_phantom] + list(FOLDERS)


def raw_phantom(name, root, n=6):
    if name == 'semsperm':
        write_sperms(root, n, size=(96, 128))
    elif name == 'folder':
        write_phantom(root, n)
    else:
        DATASETS[name].write_phantom(root, n)


@pytest.mark.parametrize('name', SETS)
def test_raw_to_slices(name, tmp_path):
    raw, out = tmp_path / 'raw set', tmp_path / 'bereit ü'
    raw_phantom(name, raw)
    r = prepare(name, raw, out)
    assert (
        not r['failed']
        and sum(r['parts'].values()) >= 4
        and r['parts']['train']
        and r['parts']['valid']
        and r['parts']['test']
    )
    for root in (raw, out):
        report = check(name, root)
        assert report['ok'], check_text(report)
        json.dumps(report)
    for part in ('train', 'valid', 'test'):
        a, b = (load_slices(name, root, part, size=48) for root in (raw, out))
        assert (
            a.case_ids == b.case_ids
            and np.array_equal(a.labels, b.labels)
            and a.n_out == len(get_dataset(name, raw).class_names)
        )
        assert np.abs(a.images.astype(float) - b.images.astype(float)).max() < 1e-5
    for x, y in zip(load_cases(name, raw), load_cases(name, out)):
        assert (
            x.spacing == y.spacing
            and x.image.shape == y.image.shape
            and (x.affine is None or np.allclose(x.affine, y.affine))
        )


def test_prepared_files_hold_what_other_loaders_expect(tmp_path):
    for name in ('synapse', 'acdc'):
        raw_phantom(name, tmp_path / name, 3)
        prepare(name, tmp_path / name, tmp_path / f'{name} out', val=0)
    s = np.load(next((tmp_path / 'synapse out' / 'train_npz').glob('case*_slice000.npz')), allow_pickle=False)
    assert (
        {'image', 'label'} <= set(s)
        and s['image'].ndim == s['label'].ndim == 2
        and s['image'].dtype == np.float32
        and s['image'].max() <= 1
    )
    with h5py.File(next((tmp_path / 'synapse out' / 'test_vol_h5').glob('*.npy.h5'))) as f:
        assert f['image'].ndim == 3 and f['image'].shape == f['label'].shape
    lists = tmp_path / 'acdc out'
    for line in (lists / 'train_slices.list').read_text().split():
        with h5py.File(lists / 'data' / f'{line}.h5') as f:
            assert f['image'].ndim == 2
    assert (lists / 'train.list').read_text().split() == ['patient003_frame01', 'patient003_frame02']


def test_foreign_prepared_layouts_need_no_index(tmp_path):
    raw_phantom('acdc', tmp_path / 'raw', 6)
    prepare('acdc', tmp_path / 'raw', tmp_path / 'out')
    ours = load_slices('acdc', tmp_path / 'out', 'train', size=48, split='ssl4mis')
    (tmp_path / 'out' / 'index.json').unlink()
    for f in (tmp_path / 'out' / 'data').glob('patient003_frame0?.h5'):
        f.unlink()  # only the slices are left, as others ship it
    theirs = load_slices('acdc', tmp_path / 'out', 'train', size=48, split='ssl4mis')
    assert theirs.case_ids == ours.case_ids and np.array_equal(theirs.images, ours.images)


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


# ---------------------------------------------------------------- an epoch reads arrays, not files

WATCH = dict(seen=[], forbidden=False)


def watch(event, args):
    "An audit hook: which packed files Python opens, and an error where they must not be. Hooks stay for good, so it is off between tests."
    if (
        event != 'open'
        or WATCH['seen'] is None
        or not str(args[0]).lower().endswith(('.png', '.gz', '.npz', '.h5', '.tif', '.jpg'))
    ):
        return
    if WATCH['forbidden']:
        raise AssertionError(f'{args[0]} was opened again')
    WATCH['seen'].append(str(args[0]))


@pytest.mark.parametrize('ready', [False, True])
def test_only_the_first_epoch_reads_packed_files(ready, tmp_path, monkeypatch):
    from snetlib.train.checkpoint import Checkpoint
    from snetlib.train.run import train_run

    raw_phantom('folder', tmp_path / 'raw', 10)
    prepare('folder', tmp_path / 'raw', tmp_path / 'out')
    root = tmp_path / ('out' if ready else 'raw')
    real, end = h5py.File.__init__, Checkpoint.after_epoch

    def file(self, name, *a, **k):
        watch('open', (name,))
        real(self, name, *a, **k)  # h5py opens files without telling Python

    def after(self):
        end(self)
        WATCH['forbidden'] = True

    monkeypatch.setattr(h5py.File, '__init__', file)
    monkeypatch.setattr(Checkpoint, 'after_epoch', after)
    WATCH.update(seen=[], forbidden=False)
    if not hasattr(sys, 'audited'):
        sys.audited = True
        sys.addaudithook(watch)

    def go(name, **kw):
        return train_run(
            tmp_path / name,
            'folder',
            'snet_tiny',
            'smoke',
            root=root,
            size=32,
            epochs=3,
            precision='float32',
            progress=False,
            **kw,
        )

    try:
        learn = go('a')
        assert len(learn.checkpoint.history) == 3 and len(set(WATCH['seen'])) >= (
            8 if ready else 16
        )  # of train and valid: image and mask, or one file
        with pytest.raises(SnetError, match='opened again'):
            load_slices('folder', root, 'test', size=32)  # the watch sees what it should
        WATCH.update(seen=[], forbidden=False)
        monkeypatch.setattr(Checkpoint, 'after_epoch', end)
        if ready:
            go('b')
            assert not WATCH['seen'], 'a second run finds the cache beside the prepared data'
    finally:
        WATCH.update(seen=None, forbidden=False)


def test_scores_are_those_of_the_raw_data(tmp_path):
    "Prepared CT holds [0, 1], raw CT Hounsfield units: a run on either is scored alike on both, and memory holds one case at a time."
    import gc
    import weakref

    from snetlib import evaluate
    from snetlib.train.run import train_run

    raw_phantom('synapse', tmp_path / 'raw', 6)
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
    "The quick reader of plain files against defusedxml's tree, on files broken at random: never other numbers, and nothing broken accepted but what the tree accepts."
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


def test_one_broken_case_among_many(tmp_path):
    raw_phantom('monuseg', tmp_path / 'raw', 9)
    xml = sorted((tmp_path / 'raw').rglob('*.xml'))
    xml[0].write_text('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><Annotations>&x;</Annotations>')
    tif = sorted((tmp_path / 'raw').rglob('*.tif'))[-1]
    tif.write_bytes(tif.read_bytes()[:1000])
    r = prepare('monuseg', tmp_path / 'raw', tmp_path / 'out')
    assert set(r['failed']) == {xml[0].stem, tif.stem} and sum(r['parts'].values()) == 7
    report = check('monuseg', tmp_path / 'raw')
    assert not report['ok'] and {p['case'] for p in report['problems']} == {xml[0].stem, tif.stem}


def test_label_255_is_ignored_and_256_refused(tmp_path):
    np.savez(tmp_path / 'a.npz', image=np.zeros((4, 4)), label=np.full((4, 4), 255))
    assert read_case(tmp_path / 'a.npz').label.max() == 255
    np.savez(tmp_path / 'a.npz', image=np.zeros((4, 4)), label=np.full((4, 4), 256))
    with pytest.raises(SnetError, match='instances'):
        read_case(tmp_path / 'a.npz')


def test_batches_do_not_depend_on_how_reading_processes_start():
    "Spawned, as on macOS and Windows, they are handed everything in writing."
    rng = np.random.default_rng(0)
    s = Slices(
        rng.random((6, 40, 48), np.float32),
        rng.integers(0, 2, (6, 40, 48), np.uint8),
        list('aabbcc'),
        ('background', 'disc'),
    )

    def epoch(workers):
        seed_everything(3)
        return [
            b
            for b in slice_dls(
                s, s, bs=2, augment=dict(hflip=0.5, rotate=20), num_workers=workers, device='cpu'
            ).train
        ]

    multiprocessing.set_start_method('spawn', force=True)
    try:
        there = epoch(1)
    finally:
        multiprocessing.set_start_method(None, force=True)
    here = epoch(0)
    assert len(here) == len(there) == 3
    for a, b in zip(here, there):
        for x, y in zip(a, b):
            np.testing.assert_array_equal(x, y)
