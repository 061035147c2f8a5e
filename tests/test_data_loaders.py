"Loaders: the same batches everywhere, refusals, and what fastai asks of a loader."

import multiprocessing
import pickle

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from snetlib.core import BadSetting, SnetError, seed_everything
from snetlib.data.loaders import load_slices, slice_dls
from snetlib.data.slices import MixedSlices, Slices


def toy(n=50, cases=10, size=(32, 48), channels=(), dtype=np.float32):
    "Slices of noise in which each image's mean tells its index."
    rng = np.random.default_rng(0)
    x = rng.random((n, *size, *channels)) * 0.1 + np.linspace(0, 0.9, n).reshape(
        -1, *[1] * (2 + len(channels))
    )
    x = (x * 255).astype(np.uint8) if dtype == np.uint8 else x.astype(np.float32)
    ids = [f'p{i * cases // n}' for i in range(n)]
    return Slices(x, rng.integers(0, 3, (n, *size), dtype=np.uint8), ids, ('background', 'a', 'b'))


def mixed(sides=((70, 90), (120, 64), (40, 100))):
    x = [np.full((*s, 3), 40 * k, np.uint8) for k, s in enumerate(sides)]
    y = [np.zeros(s, np.uint8) for s in sides]
    return MixedSlices(x, y, [f'm{k}' for k in range(len(sides))], ('background', 'a'))


# ---------------------------------------------------------------- the same batches everywhere


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


# ---------------------------------------------------------------- refusals


def refusal(fn, *args, **kw):
    with pytest.raises(SnetError) as found:
        fn(*args, **kw)
    assert '--' not in str(found.value) and '\n' not in str(found.value)
    return found.value


def test_settings_that_leave_no_batch_are_refused():
    train, valid = toy(), toy(23)
    assert refusal(slice_dls, train, valid, bs=64).key == 'bs'
    assert refusal(slice_dls, train, valid, bs=0).key == 'bs'
    assert refusal(slice_dls, train, toy(0)).key == 'split'
    assert 'channels' in str(refusal(slice_dls, train, toy(channels=(3,))))
    assert len(slice_dls(train, valid, bs=64, drop_last=False).train) == 1


def test_images_of_several_sizes_need_a_window_they_fill():
    m = mixed()
    assert refusal(slice_dls, m, m, bs=2).key == 'size'
    assert refusal(slice_dls, m, m, bs=2, augment=dict(crop=48)).key == 'size'
    small = toy(size=(40, 100))
    assert refusal(slice_dls, small, small, bs=4, augment=dict(crop=48)).key == 'crop'
    assert slice_dls(m, m, bs=2, augment=dict(crop=48), ignore_index=255)


def test_unknown_names_are_refused():
    assert 'acdc' in str(refusal(load_slices, 'acdcc'))
    assert 'test' in str(refusal(load_slices, 'mni', part='tset'))
    assert 'folder' in str(refusal(load_slices, 'folder'))


# ---------------------------------------------------------------- the cases of a batch


@pytest.mark.parametrize('workers', [0, 1])
def test_the_cases_of_a_batch_are_those_it_shows(workers):
    train = toy()
    dls = slice_dls(train, toy(23), bs=7, num_workers=workers, device='cpu')
    for dl in (dls.train, dls.valid):
        means = dl.dataset.images.mean((1, 2))
        for i, (x, _) in enumerate(dl):
            places = [np.abs(means - m).argmin() for m in x.mean((1, 2, 3)).numpy()]
            assert dl.case_ids(i) == [dl.dataset.case_ids[p] for p in places]


# ---------------------------------------------------------------- what fastai asks of a loader


@pytest.fixture
def dls():
    return slice_dls(toy(), toy(23), bs=6, device='cpu')


@pytest.mark.parametrize('channels', [(), (3,)])
def test_pictures_of_a_batch_are_drawn(channels):
    data = toy(channels=channels)
    slice_dls(data, data, bs=6, augment='flips', device='cpu').show_batch(max_n=4)
    axes = [a for a in plt.gcf().axes if a.images]
    assert len(axes) == 4 and all(len(a.images) == 2 for a in axes), 'a picture and its mask'
    plt.close('all')


def test_ignored_pixels_are_shown_as_background(dls):
    x, y = dls.valid.one_batch()
    picture, mask = dls.valid.decode_batch((x, torch.full_like(y, 255)))[0]
    assert picture.shape == (3, 32, 48) and mask.max() == 0
    assert mask.codes == ['background', 'a', 'b'] == dls.vocab


def test_results_are_drawn_beside_the_truth(dls):
    x, y = dls.valid.one_batch()
    dls.valid.show_results((x, y), (y,), max_n=3)
    assert len([a for a in plt.gcf().axes if len(a.images) == 2]) == 6
    plt.close('all')


def test_items_by_index(dls):
    few = dls.test_dl([5, 2, 2], with_labels=True, process=True, rm_type_tfms=None, num_workers=0)
    x, y = few.one_batch()
    valid = dls.valid_ds
    assert torch.equal(x[:, 0], torch.from_numpy(valid.images[[5, 2, 2]]))
    assert torch.equal(y, torch.from_numpy(valid.labels[[5, 2, 2]]).long())
    assert dls.n_inp == 1
    again = dls.test_dl(dls.train.items[3:5])
    assert torch.equal(again.one_batch()[0][:, 0], torch.from_numpy(dls.train_ds.images[3:5]))
    assert [item.case for item in dls.train.items] == dls.train_ds.case_ids


def test_items_that_are_arrays_or_files(dls, tmp_path):
    grey = np.random.default_rng(0).integers(0, 255, (64, 96), np.uint8)
    Image.fromarray(np.stack([grey] * 3, -1)).save(tmp_path / 'a.png')
    path = tmp_path / 'a.png'
    batches = [
        dls.test_dl([item]).one_batch()[0]
        for item in (grey, grey / 255, torch.from_numpy(grey / 255)[None], path, str(path))
    ]
    assert batches[0].shape == (1, 1, 32, 48)
    for x in batches[1:]:
        assert torch.allclose(x, batches[0], atol=2e-3)
    assert dls.test_dl([path]).dataset.case_ids == ['a']
    for bad in (grey.astype(float), np.zeros((2, 2, 2, 2)), np.zeros((0, 4))):
        with pytest.raises(BadSetting):
            dls.test_dl([bad])


def test_a_loader_without_slices_is_kept_by_an_export(dls):
    empty = pickle.loads(pickle.dumps(dls.new_empty()))
    assert len(empty.valid_ds) == 0 and empty.vocab == dls.vocab
    assert empty.test_dl([np.zeros((64, 96), np.uint8)]).one_batch()[0].shape == (1, 1, 32, 48)


def test_fastai_may_switch_between_training_and_validation(dls):
    with dls.valid_ds.set_split_idx(0):
        assert len(dls.valid.one_batch()[0]) == 6
