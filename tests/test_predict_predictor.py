"Files of every kind become masks on their own grid; what cannot be right is refused."

import gzip
import json
import pickle
import shutil

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from networks import Threshold
from PIL import Image
from processes import refused, snet

from snetlib.core import BadSetting, SnetError, UnreadableFile
from snetlib.data.files import read_case
from snetlib.data.slices import scale_intensity
from snetlib.models import create_model
from snetlib.predict import Predictor, find_images, predict_volume
from snetlib.predict.inputs import left_out, passed_over
from snetlib.predict.predictor import OtherMask
from snetlib.predict.slices import Mirrored, match_channels, slice_labels
from snetlib.train.run import Run, train_run, without_files

RULE = dict(kind='percentile', lo=0.5, hi=99.5)
NAMES = ('background', 'disc')


def toy(level=0.5, **settings):
    settings = dict(size=64, intensity=RULE, class_names=NAMES, c_in=1) | settings
    return Predictor(Threshold(level).eval(), **settings)


def scan(path, affine, shape=(40, 36, 5)):
    "A small NIfTI with a bright block."
    voxels = np.zeros(shape, np.float32)
    voxels[5:20, 8:30, 1:4] = 100
    voxels += np.random.default_rng(0).random(shape)
    image = nib.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units('mm')
    nib.save(image, path)
    return image


# ---- geometry
c, s = np.cos(0.3), np.sin(0.3)
AFFINES = dict(
    plain=np.diag([1.0, 1, 3, 1]),
    flipped=np.diag([-1.0, -1, 3, 1]),
    permuted=np.array([[0, 0, 3.0, 7], [-1, 0, 0, 2], [0, 1, 0, 5], [0, 0, 0, 1]]),
    oblique=np.array([[c, -s, 0, 9.0], [s, c, 0, 3], [0, 0, 3, 1], [0, 0, 0, 1]]),
)


@pytest.mark.parametrize('name', AFFINES)
def test_a_mask_lies_where_its_image_lies(tmp_path, name):
    image = scan(tmp_path / 'scan.nii.gz', AFFINES[name])
    toy().file(tmp_path / 'scan.nii.gz', tmp_path / 'out')
    mask = nib.load(tmp_path / 'out/scan_mask.nii.gz')
    assert mask.shape == image.shape and mask.get_data_dtype() == np.uint8
    np.testing.assert_allclose(mask.affine, image.affine)
    assert mask.header.get_zooms() == image.header.get_zooms()
    assert mask.header['sform_code'] == image.header['sform_code']
    assert nib.aff2axcodes(mask.affine) == nib.aff2axcodes(image.affine)
    inside, found = image.get_fdata() > 50, np.asarray(mask.dataobj) > 0  # in the file's own order
    assert 2 * (inside & found).sum() / (inside.sum() + found.sum()) > 0.95
    again = read_case(tmp_path / 'out/scan_mask.nii.gz').image
    np.testing.assert_array_equal(again, toy().case(read_case(tmp_path / 'scan.nii.gz')))
    made = sorted(p.name for p in (tmp_path / 'out').iterdir() if p.name[0] != '.')
    assert made == ['scan_mask.nii.gz', 'scan_overlay.png']
    assert toy().file(tmp_path / 'scan.nii.gz', tmp_path / 'out').status == 'was there'


def test_another_intensity_gives_another_mask(tmp_path):
    scan(tmp_path / 'case.nii.gz', np.eye(4))
    case = read_case(tmp_path / 'case.nii.gz')
    assert toy(intensity=dict(kind='window', lo=200, hi=300)).case(case).sum() == 0
    assert toy().case(case).sum() > 0


# ---- arrays
def test_large_slices_come_in_smaller_batches():
    image = np.random.default_rng(0).random((5, 512, 384), np.float32)
    many, one = (Predictor(Threshold().eval(), bs=bs, tile=None) for bs in (16, 1))
    assert many.slices_at_a_time((512, 384)) == 5 and one.slices_at_a_time((512, 384)) == 1
    assert [len(x) for _, x in many._batches(np.repeat(image, 2, 0), None)] == [5, 5]
    np.testing.assert_array_equal(many.array(image), one.array(image))
    assert many.slices_at_a_time((9, 9)) == 16 and many.slices_at_a_time((10**4, 10**4)) == 1


def test_batches_tiles_and_gaps():
    volume = np.random.default_rng(0).normal(100, 20, (7, 70, 50)).astype(np.float32)
    scaled, net = scale_intensity(volume, RULE), Threshold().eval()
    single = [predict_volume(net, scaled[i : i + 1], size=64) for i in range(7)]
    for bs in (1, 3, 16):
        labels = predict_volume(net, volume, RULE, size=64, bs=bs)
        np.testing.assert_array_equal(labels, np.concatenate(single))
    whole = predict_volume(net, volume, RULE)
    assert 0.2 < whole.mean() < 0.8
    np.testing.assert_array_equal(predict_volume(net, volume, RULE, tile=32), whole)
    volume[0, 3, 3] = np.nan
    gap = predict_volume(net, volume, RULE)
    np.testing.assert_array_equal(predict_volume(net, volume, RULE, tile=32), gap)


def test_the_two_ways_to_resize_differ():
    x = torch.rand(3, 1, 90, 70)
    net = Threshold().eval()
    a, b = slice_labels(net, x, (64, 64)), slice_labels(net, x, (64, 64), 'published')
    assert a.shape == b.shape == (3, 90, 70) and a.dtype == b.dtype == np.uint8
    assert (a != b).any() and max(a.max(), b.max()) < 2


def test_channels_are_matched_or_refused():
    x = torch.rand(3, 1, 9, 7)
    assert match_channels(x, 3).shape == (3, 3, 9, 7)
    assert match_channels(x.repeat(1, 3, 1, 1), 1).shape == x.shape
    with pytest.raises(BadSetting, match='4 channels'):
        match_channels(torch.rand(1, 4, 8, 8), 3)
    with pytest.raises(BadSetting, match='1 channel and the network takes 2'):
        match_channels(x, 2)


@pytest.mark.parametrize('c_in', [2, 3, 4])
def test_one_channel_of_several_is_never_taken_for_all(tmp_path, c_in):
    scan = nib.Nifti1Image(np.random.default_rng(0).random((32, 32, 3)).astype('f4'), np.eye(4))
    for i in range(c_in):
        nib.save(scan, tmp_path / f'whole_{i:04}.nii.gz')
    nib.save(scan, tmp_path / 'lone_0000.nii.gz')
    rule = dict(kind='percentile', lo=0.5, hi=99.5)
    one = Predictor(Threshold().eval(), intensity=rule, c_in=c_in)
    done = one.files([tmp_path], tmp_path / 'masks')
    status = {one.case: one.status for one in done}
    assert status == {'whole': 'done', 'lone_0000': 'failed'}


def test_probabilities_are_those_of_the_labels():
    volume = np.random.default_rng(0).random((3, 70, 50)).astype(np.float32)
    for settings in (dict(), dict(size=None), dict(size=None, tile=32), dict(mirror=True)):
        predictor = toy(**settings)
        p = predictor.probabilities(volume)
        assert p.shape == (2, 3, 70, 50) and p.dtype == np.float16
        np.testing.assert_allclose(p.astype(float).sum(0), 1, atol=2e-3)
        sure = np.abs(p[0].astype(float) - 0.5) > 1e-3
        assert (p.argmax(0) == predictor.array(volume))[sure].all()


def test_mirroring_is_the_mean_over_flips():
    net = create_model('snet_tiny', c_in=1, n_out=3).eval()
    x = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        flips = [net(x.flip(axes)).softmax(1).flip(axes) for axes in ([], [-1], [-2], [-2, -1])]
        ours = Mirrored(net).eval()(x)
        torch.testing.assert_close(ours.softmax(1), sum(flips) / 4, atol=1e-5, rtol=1e-4)
        turned = Mirrored(net).eval()(x.flip(-1)).flip(-1)
    torch.testing.assert_close(turned, ours, atol=1e-4, rtol=1e-4)  # the answer turns with the image


VOLUME = np.random.default_rng(0).random((4, 40, 40))
REFUSED = {
    'one slice': (lambda: toy().array(VOLUME[0]), 'image.None'),
    'a picture': (lambda: toy().array(np.zeros((40, 40, 3))), 'image.None'),
    'channel first': (lambda: toy(c_in=3).array(VOLUME[:3]), 'moveaxis'),
    'channel first, four axes': (lambda: toy(c_in=3).array(np.zeros((1, 3, 40, 40))), 'moveaxis'),
    'no rule': (lambda: predict_volume(Threshold().eval(), VOLUME * 255), 'numbers from 0'),
    'NaN, no rule': (lambda: predict_volume(Threshold().eval(), VOLUME * np.nan), 'nothing says'),
    'training': (lambda: Predictor(Threshold().train()), 'eval'),
    'way to resize': (lambda: toy(resize='cubic'), 'published'),
    'tiles and resize': (lambda: toy(tile=32, resize='published'), 'resolution'),
    'small tile': (lambda: toy(tile=16), '32'),
    'overlap': (lambda: toy(tile=64, overlap=1.0), '0.25'),
    'batch': (lambda: toy(bs=0), '1 or more'),
    'classes': (lambda: Predictor(Threshold(n_out=300).eval()).array(VOLUME), '256'),
    'NaN': (lambda: Predictor(Threshold(float('nan')).eval()).array(VOLUME), 'NaN'),
}


@pytest.mark.parametrize('name', REFUSED)
def test_what_cannot_be_right_is_refused(name):
    ask, words = REFUSED[name]
    with pytest.raises(SnetError, match=words):
        ask()


# ---- many files
def test_a_batch_survives_broken_files(tmp_path):
    data, out = tmp_path / 'in', tmp_path / 'out'
    data.mkdir()
    for name in 'ab':
        scan(data / f'{name}.nii.gz', np.eye(4))
    (data / 'broken.nii.gz').write_bytes((data / 'a.nii.gz').read_bytes()[:2000])
    nib.save(nib.Nifti1Image(np.zeros((9, 9, 4, 2)), np.eye(4)), data / 'four.nii.gz')
    nib.save(nib.Nifti1Image(np.full((40, 40, 4), np.nan), np.eye(4)), data / 'nan.nii.gz')
    noise = np.random.default_rng(0).integers(0, 255, (60, 50), np.uint8)
    Image.fromarray(noise).save(data / 'grey.png')
    (data / 'folder.png').mkdir()
    done = {p.case: p for p in toy().files([data], out)}
    status = {name: p.status for name, p in done.items()}
    bad = dict.fromkeys(('broken', 'four', 'nan', 'folder'), 'failed')
    assert status == dict(a='done', b='done', grey='done') | bad
    assert all(isinstance(done[name].error, UnreadableFile) for name in bad)
    assert Image.open(out / 'grey_mask.png').size == (50, 60)
    table = pd.read_csv(out / 'predictions.csv', keep_default_na=False).set_index('case')
    assert table.status.to_dict() == status
    assert (table.reason != '').sum() == len(bad)
    assert float(table.loc['a', 'disc (ml)']) > 0


def test_a_mask_of_something_else_is_neither_taken_nor_overwritten(tmp_path):
    scan(tmp_path / 'a.nii.gz', np.eye(4))
    out = tmp_path / 'out'

    def predicted(level=0.5, **kwargs):
        return toy(level).files([tmp_path / 'a.nii.gz'], out, **kwargs)[0]

    assert predicted().status == 'done'
    before = (out / 'a_mask.nii.gz').read_bytes()
    again = predicted()
    assert again.status == 'was there'
    assert pd.read_csv(out / 'predictions.csv').loc[0, 'disc (ml)'] > 0, 'amounts are kept'
    for _ in range(2):
        assert isinstance(predicted(0.9).error, OtherMask)
        assert (out / 'a_mask.nii.gz').read_bytes() == before
    assert predicted().status == 'was there'
    assert predicted(0.9, overwrite=True).status == 'done'
    scan(tmp_path / 'a.nii.gz', np.diag([2.0, 1, 1, 1]))
    assert isinstance(predicted(0.9).error, OtherMask), 'the image has changed'


def test_places_and_names_are_checked_first(tmp_path):
    with pytest.raises(UnreadableFile, match='no image'):
        find_images([tmp_path])
    scan(tmp_path / 'a.nii.gz', np.eye(4))
    with pytest.raises(BadSetting, match='same mask'):
        find_images([tmp_path / 'a.nii.gz', tmp_path / 'a.nii.gz'])
    (tmp_path / 'file').write_text('')
    with pytest.raises(SnetError, match='file'):
        toy().files([tmp_path / 'a.nii.gz'], tmp_path / 'file')


def test_every_kind_that_is_read_gets_a_mask(tmp_path):
    "What preparing reads, predicting reads and writes."
    data, out = tmp_path / 'in', tmp_path / 'out'
    data.mkdir()
    scan(data / 'plain.nii', np.eye(4))
    (data / 'packed.nii').write_bytes(gzip.compress((data / 'plain.nii').read_bytes()))
    shutil.copy(data / 'plain.nii', data / 'unpacked.nii.gz')
    scan(data / 'UPPER.NII.GZ', np.eye(4))
    image = nib.load(data / 'plain.nii')
    frame = nib.Nifti1Image(image.get_fdata()[..., None].astype(np.float32), image.affine)
    nib.save(frame, data / 'one frame.nii.gz')
    rng = np.random.default_rng(0)
    pages = [Image.fromarray(rng.integers(0, 255, (64, 60), np.uint8)) for _ in range(3)]
    pages[0].save(data / 'pages.tif', save_all=True, append_images=pages[1:])
    pages[0].save(data / 'grey.JPG')
    for ending in ('h5', 'hdf5', 'H5'):
        with h5py.File(data / f'x_{ending}_{ending.islower()}.{ending}', 'w') as f:
            f['image'] = rng.random((3, 64, 60))
    np.savez(data / 'x.npz', image=rng.random((3, 64, 60)))
    (data / 'x.npz').rename(data / 'x.NPZ')
    done = toy().files([data], out)
    assert [p.case for p in done if p.status != 'done'] == [], [str(p.error) for p in done]
    with Image.open(out / 'pages_mask.tif') as written:
        assert written.n_frames == 3 and written.size == (60, 64)
    same = [np.asarray(nib.load(out / f'{n}_mask.nii.gz').dataobj) for n in ('plain', 'packed', 'unpacked')]
    np.testing.assert_array_equal(same[0], same[1])
    np.testing.assert_array_equal(same[0], same[2])
    assert nib.load(out / 'x_mask.nii.gz').shape == (60, 64, 3)


# ---- runs
@pytest.fixture(scope='module')
def run(tmp_path_factory):
    "A run of one step."
    out = tmp_path_factory.mktemp('runs') / 'run'
    train_run(out, 'phantom', 'snet_tiny', 'smoke', progress=False, steps=1, size=32)
    return out


def test_a_run_predicts_and_writes_probabilities(run, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (50, 40), np.uint8)
    Image.fromarray(noise).save(tmp_path / 'a.png')
    more = ('--intensity', 'percentile', '--mirror', '--probabilities')
    done = snet('predict', run, tmp_path / 'a.png', '--out', tmp_path / 'out', *more)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / 'out/a_probabilities.npz') as stored:
        p, names = stored['probabilities'], stored['class_names']
    assert p.dtype == np.float16 and p.shape == (len(names), 1, 50, 40)
    mask = np.asarray(Image.open(tmp_path / 'out/a_mask.png'))
    assert (p.argmax(0)[0] == mask).mean() > 0.99  # ties in float16 may fall either way
    other = snet('predict', run, tmp_path / 'a.png', '--out', tmp_path / 'out', *more[:2])
    refused(other, '1 of 1')
    assert '--overwrite' in other.stderr


class Bomb:
    "Writes a file when it is unpickled."

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return (open, (self.target, 'w'))


def test_no_code_runs_from_a_run_folder(run, tmp_path):
    "A folder from somebody else: its config names a file, its weights are a pickle."
    mark, bomb = tmp_path / 'mark', tmp_path / 'bomb.pth'
    bomb.write_bytes(pickle.dumps(Bomb(mark)))
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(tmp_path / 'a.png')
    folder = tmp_path / 'run'
    shutil.copytree(run, folder)
    config = json.loads((folder / 'config.json').read_text())
    options = dict(checkpoint_path=str(bomb), pretrained_cfg_overlay=dict(file=str(bomb)))
    config |= dict(
        model='sosegformer_tiny',
        model_kwargs=dict(pretrained=str(bomb), encoder_options=options),
    )
    (folder / 'config.json').write_text(json.dumps(config))
    done = snet('predict', folder, tmp_path / 'a.png', '--out', tmp_path / 'out')
    assert done.returncode == 1 and not mark.exists(), done.stderr
    shutil.copy(run / 'config.json', folder / 'config.json')
    shutil.copy(bomb, folder / 'best.pth')
    refused(snet('predict', folder, tmp_path / 'a.png', '--out', tmp_path / 'out'), 'best.pth')
    assert not mark.exists()
    assert without_files(dict(fusion='stagger', encoder='local-dir:/x', pretrained='x')) == dict(
        fusion='stagger'
    )


def test_a_folder_that_is_no_run_is_refused(run, tmp_path):
    with pytest.raises(UnreadableFile):
        Predictor(Run(tmp_path))
    damaged = tmp_path / 'damaged'
    shutil.copytree(run, damaged)
    (damaged / 'best.pth').write_bytes(b'half')
    with pytest.raises(UnreadableFile, match='best.pth'):
        Predictor(Run(damaged))
    (damaged / 'last.pth').unlink()
    with pytest.raises(UnreadableFile, match='last.pth'):
        Predictor(Run(damaged, 'last'))


@pytest.mark.parametrize('axis', [0, 2])
def test_the_table_says_along_which_axis_a_volume_was_sliced(tmp_path, axis):
    "A picture has no axis; a volume that was there already keeps what was said of it."
    data, out = tmp_path / 'data', tmp_path / 'out'
    data.mkdir()
    scan(data / 'volume.nii.gz', np.diag([1, 1, 4, 1.0]))
    Image.fromarray(np.zeros((40, 36), np.uint8)).save(data / 'picture.png')
    for _ in range(2):
        toy().files([data], out, axis=axis)
        table = pd.read_csv(out / 'predictions.csv', dtype=str, keep_default_na=False)
        assert dict(zip(table['case'], table['axis'])) == {'volume': str(axis), 'picture': ''}


def photo(path, level=200):
    "A grey picture with a bright square."
    path.parent.mkdir(parents=True, exist_ok=True)
    x = np.full((40, 36), 20, np.uint8)
    x[8:20, 8:20] = level
    Image.fromarray(x).save(path)


def predict_photos(inputs, out, **more):
    return {p.case: p for p in toy(intensity=dict(kind='uint8')).files(inputs, out, **more)}


def test_images_of_subfolders_are_said_and_never_lost(tmp_path):
    for name in ('in/a.png', 'in/more/b.png', 'in/more/deep/c.tif', 'in/.cache/d.png'):
        photo(tmp_path / name)
    assert [f.name for f in find_images([tmp_path / 'in'])] == ['a.png']
    assert [f.name for f in passed_over(tmp_path / 'in')] == ['b.png', 'c.tif']
    (note,) = left_out([tmp_path / 'in'])
    assert note.startswith('2 images') and 'more/b.png' in note
    assert not left_out([tmp_path / 'in' / 'more' / 'deep'])
    (tmp_path / 'in' / 'a.png').unlink()
    with pytest.raises(UnreadableFile, match='in/more') as e:
        find_images([tmp_path / 'in'])
    assert e.value.path == tmp_path / 'in'


def test_what_was_predicted_below_the_images_is_none_of_them(tmp_path):
    photo(tmp_path / 'in' / 'a.png')
    predict_photos([tmp_path / 'in'], tmp_path / 'in' / 'out')
    assert passed_over(tmp_path / 'in') == []
    photo(tmp_path / 'in' / 'out' / 'foreign.png')
    assert [f.name for f in passed_over(tmp_path / 'in')] == ['foreign.png']


def test_dicom_series_are_read_and_pictures_below_them_are_said(tmp_path):
    from snetlib.data.clinic import write_series

    for name in ('p1', 'p2/s1'):
        write_series(np.zeros((6, 5, 3), np.int16), np.eye(4), tmp_path / 'in' / name)
    assert [f.name for f in find_images([tmp_path / 'in'])] == ['p1', 's1']
    assert not left_out([tmp_path / 'in'])
    photo(tmp_path / 'in' / 'p2' / 'report.png')
    (tmp_path / 'in' / 'DICOMDIR').write_bytes(bytes(128) + b'DICM')
    assert [f.name for f in passed_over(tmp_path / 'in')] == ['report.png']
    (first, *_) = sorted((tmp_path / 'in' / 'p1').iterdir())
    photo(tmp_path / 'mixed' / 'a.png')
    shutil.copy(first, tmp_path / 'mixed' / 'IM0001')  # DICOM without an ending
    with pytest.raises(BadSetting, match='only one kind'):
        find_images([tmp_path / 'mixed'])


def test_a_true_mask_is_never_taken_for_a_prediction(tmp_path):
    photo(tmp_path / 'in' / 'a.png')
    photo(tmp_path / 'truth' / 'a_mask.png')
    before = (tmp_path / 'truth' / 'a_mask.png').read_bytes()
    for _ in range(2):
        done = predict_photos([tmp_path / 'in'], tmp_path / 'truth')
        assert isinstance(done['a'].error, OtherMask)
        assert (tmp_path / 'truth' / 'a_mask.png').read_bytes() == before
    assert predict_photos([tmp_path / 'in'], tmp_path / 'truth', overwrite=True)['a'].status == 'done'


def test_masks_of_a_run_that_was_killed_are_known_by_what_they_show(tmp_path):
    photo(tmp_path / 'in' / 'a.png')
    scan(tmp_path / 'in' / 'b.nii.gz', np.diag([-1, -1, 2, 1.0]))
    first = predict_photos([tmp_path / 'in' / 'a.png'], tmp_path / 'out')
    assert first['a'].amounts['disc'] == 144
    (tmp_path / 'out' / 'predictions.csv').unlink()  # its row was not written yet
    assert predict_photos([tmp_path / 'in' / 'a.png'], tmp_path / 'out')['a'].status == 'done'
    assert predict_photos([tmp_path / 'in' / 'a.png'], tmp_path / 'out')['a'].status == 'was there'
    three = toy().files([tmp_path / 'in' / 'b.nii.gz'], tmp_path / 'volumes')
    (tmp_path / 'volumes' / 'predictions.csv').unlink()
    assert three[0].status == toy().files([tmp_path / 'in' / 'b.nii.gz'], tmp_path / 'volumes')[0].status


def test_no_input_is_written_over(tmp_path):
    for name in ('a.png', 'a_mask.png'):
        photo(tmp_path / name)
    before = (tmp_path / 'a_mask.png').read_bytes()
    with pytest.raises(BadSetting, match='is an input') as e:
        predict_photos([tmp_path], tmp_path, overwrite=True)
    assert e.value.path == tmp_path / 'a_mask.png' and e.value.key == 'out'
    assert (tmp_path / 'a_mask.png').read_bytes() == before
    assert set(predict_photos([tmp_path], tmp_path / 'out')) == {'a', 'a_mask'}
