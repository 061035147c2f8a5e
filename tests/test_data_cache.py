"The cache: keyed on all that decides its content, and an epoch reads arrays, not files."

import os
import sys

import h5py
import numpy as np
import pytest
from PIL import Image

from snetlib.core import SnetError
from snetlib.data import prepare as prepare_module
from snetlib.data.cache import cache_key, cached_slices
from snetlib.data.loaders import load_slices
from snetlib.data.prepare import prepare
from snetlib.data.sets.folder import folder_set, write_phantom

CONFIG = dict(class_names=['background', 'disc'], values={'0': 0, '255': 1}, channels=3)


def key(root, **config):
    config = CONFIG | config
    if 'instances' in config or 'threshold' in config:
        del config['values']  # one of them says what the masks mean
    ds = folder_set(root, config)
    return cache_key(ds, ds.items(root), (32, 32), 'bilinear')


OTHERS = [
    dict(values={'0': 1, '255': 0}),
    dict(values={'0': 0, '255': 1, '7': 1}),
    dict(class_names=['background', 'polyp']),
    dict(axis=0),
    dict(instances=True),
    dict(threshold=9),
    dict(channels=1),
    dict(group='picture 0'),
    dict(intensity={'kind': 'window', 'lo': 0, 'hi': 200}),
]


def test_every_part_of_the_description_is_in_the_key(tmp_path):
    write_phantom(tmp_path, 4)
    names = [key(tmp_path), *(key(tmp_path, **other) for other in OTHERS)]
    assert len(set(names)) == len(names)
    assert key(tmp_path) == names[0]
    assert key(tmp_path, licence='CC0') == names[0], 'a licence changes no voxel'


def test_a_changed_file_with_its_old_size_and_date(tmp_path):
    write_phantom(tmp_path, 4)
    before = key(tmp_path)
    mask = tmp_path / 'masks' / 'picture 01.png'
    state, content = mask.stat(), mask.read_bytes()
    mask.write_bytes(content[::-1])
    os.utime(mask, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert mask.stat().st_mtime_ns == state.st_mtime_ns
    assert mask.stat().st_size == state.st_size
    assert key(tmp_path) != before


def test_training_reads_the_new_mapping(tmp_path):
    "The same files, another meaning: the second call must not be answered by the first one's cache."
    write_phantom(tmp_path / 'raw', 5)
    upside_down = CONFIG | dict(values={'0': 1, '255': 0})
    cache = tmp_path / 'cache'
    a, b = (
        load_slices('folder', tmp_path / 'raw', 'all', config=c, cache=cache) for c in (CONFIG, upside_down)
    )
    assert np.array_equal(a.labels, 1 - b.labels)


def test_every_slice_of_a_volume_is_in_the_key(tmp_path):
    "Prepared slices of others are one case, read from many files."
    from snetlib.data.sets.acdc import ACDC

    ACDC.write_phantom(tmp_path / 'raw', 3)
    prepare('acdc', tmp_path / 'raw', tmp_path / 'out', val=0)
    (tmp_path / 'out' / 'index.json').unlink()
    for whole in (tmp_path / 'out' / 'data').glob('patient???_frame??.h5'):
        whole.unlink()

    def name():
        items = ACDC.items(tmp_path / 'out')
        return cache_key(ACDC, items, None, 'bilinear')

    before = name()
    last = sorted((tmp_path / 'out' / 'data').rglob('*_slice_*.h5'))[-1]
    last.touch()
    assert name() != before


def test_a_broken_file_leaves_no_cache(tmp_path):
    write_phantom(tmp_path / 'raw', 4)
    ds = folder_set(tmp_path / 'raw', CONFIG)
    items = ds.items(tmp_path / 'raw')
    (tmp_path / 'raw' / 'images' / 'picture 02.png').write_bytes(b'broken')
    with pytest.raises(SnetError, match='picture 02'):
        cached_slices(ds, items, tmp_path / 'cache', (64, 64))
    assert not list((tmp_path / 'cache').iterdir())


def test_two_processes_fill_the_same_cache_as_one(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_module, 'STARTING', 0)
    write_phantom(tmp_path / 'raw', 6)
    ds = folder_set(tmp_path / 'raw', CONFIG)
    items = ds.items(tmp_path / 'raw')
    one, two = (cached_slices(ds, items, tmp_path / f'{j}', (48, 48), jobs=j) for j in (1, 2))
    assert np.array_equal(one.images, two.images)
    assert one.case_ids == two.case_ids
    again = one.select(['picture 00'])
    assert np.array_equal(again.images[0], np.asarray(one.images[0]))


def test_masks_of_another_picture_are_seen(tmp_path):
    write_phantom(tmp_path / 'raw', 4)
    cache = tmp_path / 'cache'
    first = load_slices('folder', tmp_path / 'raw', 'all', config=CONFIG, cache=cache)
    shown = np.asarray(first.labels[0]).copy()
    mask = tmp_path / 'raw' / 'masks' / 'picture 00.png'
    Image.fromarray(np.roll(np.asarray(Image.open(mask)), 5, 1)).save(mask)
    second = load_slices('folder', tmp_path / 'raw', 'all', config=CONFIG, cache=cache)
    assert np.array_equal(second.labels[0], np.roll(shown, 5, 1))


# ---------------------------------------------------------------- an epoch reads arrays, not files


WATCH = dict(seen=[], forbidden=False)


def watch(event, args):
    "An audit hook: which packed files Python opens. Hooks stay for good, so it is off between tests."
    packed = ('.png', '.gz', '.npz', '.h5', '.tif', '.jpg')
    if event != 'open' or WATCH['seen'] is None or not str(args[0]).lower().endswith(packed):
        return
    if WATCH['forbidden']:
        raise AssertionError(f'{args[0]} was opened again')
    WATCH['seen'].append(str(args[0]))


@pytest.mark.parametrize('ready', [False, True])
def test_only_the_first_epoch_reads_packed_files(ready, tmp_path, monkeypatch):
    from snetlib.train.checkpoint import Checkpoint
    from snetlib.train.run import train_run

    write_phantom(tmp_path / 'raw', 10)
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
        assert len(learn.checkpoint.history) == 3
        # of train and valid: image and mask, or one file
        assert len(set(WATCH['seen'])) >= (8 if ready else 16)
        with pytest.raises(SnetError, match='opened again'):
            load_slices('folder', root, 'test', size=32)  # the watch sees what it should
        WATCH.update(seen=[], forbidden=False)
        monkeypatch.setattr(Checkpoint, 'after_epoch', end)
        if ready:
            go('b')
            assert not WATCH['seen'], 'a second run finds the cache beside the prepared data'
    finally:
        WATCH.update(seen=None, forbidden=False)
