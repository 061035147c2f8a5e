"Folders of nnU-Net and the Decathlon from raw to masks, and what files say about themselves."

import json

import nibabel as nib
import numpy as np
import pytest
import torch

from snetlib.core import UnreadableFile
from snetlib.data.check import check
from snetlib.data.files import read_case, read_mask
from snetlib.data.prepare import description_hash, prepare
from snetlib.data.sets.folder import folder_set
from snetlib.predict.inputs import case_of, group_channels, mask_name

SHAPE = (14, 12, 4)
AFFINE = np.diag([-1.0, -1.0, 3.0, 1.0])


def save(path, voxels, affine=AFFINE, side=None):
    "Write a NIfTI; `side` is what its pixdim says, whatever the affine says."
    path.parent.mkdir(parents=True, exist_ok=True)
    img = nib.Nifti1Image(voxels, affine)
    if side:
        img.header['pixdim'][1:4] = side
    nib.save(img, path)


def nnunet(root, channels, stacked=False, key='channel_names', side=None):
    "Six cases with a square of 200 in noise around 0; `stacked`: channels along the fourth axis."
    rng = np.random.default_rng(0)
    mask = np.zeros(SHAPE, np.uint8)
    mask[3:9, 3:9, 1:3] = 1
    for k in range(6):
        found = [rng.normal(200 * mask, 1).astype(np.float32) + 10 * c for c in range(len(channels))]
        if stacked:
            save(root / 'imagesTr' / f'c{k}.nii.gz', np.stack(found, -1), side=side)
        else:
            for c, voxels in enumerate(found):
                save(root / 'imagesTr' / f'c{k}_{c:04d}.nii.gz', voxels, side=side)
        save(root / 'labelsTr' / f'c{k}.nii.gz', mask)
    facts = {key: dict(enumerate(channels)), 'labels': {'background': 0, 'tumour': 1}}
    if key == 'modality':
        facts['labels'] = {'0': 'background', '1': 'tumour'}
    (root / 'dataset.json').write_text(json.dumps(facts))
    return mask


def test_channels_in_files_and_along_the_fourth_axis_are_the_same(tmp_path):
    for name, stacked, key in (('a', False, 'channel_names'), ('b', True, 'modality')):
        mask = nnunet(tmp_path / name, ['T1', 'T2'], stacked, key)
    first, second = (folder_set(tmp_path / name) for name in 'ab')
    one, two = (ds.load(ds.items(tmp_path / name)[0]) for name, ds in (('a', first), ('b', second)))
    assert one.image.shape == (4, 12, 14, 2)
    assert np.array_equal(one.image, two.image)
    assert np.array_equal(one.label, two.label)
    assert one.label.sum() == mask.sum()
    assert check('folder', tmp_path / 'b')['ok']
    assert len(prepare('folder', tmp_path / 'b', tmp_path / 'out')['written']) == 6


def test_too_few_channels_are_named(tmp_path):
    nnunet(tmp_path, ['T1', 'T2'], stacked=True)
    save(tmp_path / 'imagesTr' / 'c0.nii.gz', np.zeros(SHAPE, np.float32))
    ds = folder_set(tmp_path)
    with pytest.raises(UnreadableFile, match='1 channels where dataset.json names 2'):
        ds.load(ds.items(tmp_path)[0])


def test_ct_gets_the_window_of_its_labelled_voxels(tmp_path):
    nnunet(tmp_path, ['CT'])
    how = folder_set(tmp_path).intensity
    assert how['kind'] == 'window'
    assert 196 < how['lo'] < 199 < 201 < how['hi'] < 204
    said = [note['what'] for note in check('folder', tmp_path)['notes']]
    assert any('labelled voxels' in what for what in said)


def test_masks_are_called_as_nnunet_expects(tmp_path):
    files = [tmp_path / 'imagesTs' / f'c{k}_{c:04d}.nii.gz' for k in range(2) for c in range(2)]
    first, second = group_channels(files, 2)
    assert (case_of(first), case_of(second)) == ('c0', 'c1')
    assert mask_name(first) == 'c0.nii.gz'
    alone = tmp_path / 'imagesTs' / 'c0_0000.nii.gz'
    assert group_channels([alone], 1) == [alone]
    assert mask_name(alone) == 'c0.nii.gz'
    assert mask_name(tmp_path / 'photos' / 'ISIC_0000.png') == 'ISIC_0000_mask.png'


def test_what_a_header_says_reaches_the_user(tmp_path):
    nnunet(tmp_path / 'raw', ['MR'], side=(5, 5, 5))
    found = prepare('folder', tmp_path / 'raw', tmp_path / 'out')['notes']
    assert sum('pixdim says 5' in note for note in found) == 6
    again = prepare('folder', tmp_path / 'raw', tmp_path / 'out')['notes']
    assert again == found
    said = check('folder', tmp_path / 'raw')['notes']
    assert {note['case'] for note in said if note['kind'] == 'header'} == {f'c{k}' for k in range(6)}


def test_each_channel_is_scaled_alone(tmp_path):
    "Two sequences whose numbers differ by a factor of 10000: neither becomes black."
    mask = nnunet(tmp_path / 'raw', ['T1', 'T2'])
    for f in (tmp_path / 'raw' / 'imagesTr').glob('*_0001.nii.gz'):
        save(f, (nib.load(f).get_fdata() / 10000).astype(np.float32))
    done = prepare('folder', tmp_path / 'raw', tmp_path / 'out')
    assert any('its own percentiles' in note for note in done['notes'])
    case = read_case(tmp_path / 'out' / 'cases' / 'c0.h5')
    for channel in np.moveaxis(case.image, -1, 0):
        assert channel.min() == 0 and channel.max() == 1
        assert channel[case.label == 1].mean() > 0.9 > 0.2 > channel[case.label == 0].mean()
    assert case.label.sum() == mask.sum()


def test_a_set_whose_channels_were_scaled_together_is_prepared_anew(tmp_path):
    nnunet(tmp_path / 'raw', ['T1', 'T2'])
    assert len(prepare('folder', tmp_path / 'raw', tmp_path / 'out')['written']) == 6
    index = tmp_path / 'out' / 'index.json'
    ds = folder_set(tmp_path / 'raw')
    facts = {k: v for k, v in ds.description().items() if k != 'scaled'}  # as it was before
    new, old = description_hash(ds.description()), description_hash(facts)
    assert new != old and new in index.read_text()
    index.write_text(index.read_text().replace(new, old))
    assert len(prepare('folder', tmp_path / 'raw', tmp_path / 'out')['written']) == 6


@pytest.mark.parametrize('tile', [None, 32])
def test_predicted_channels_are_scaled_as_in_training(tmp_path, tile):
    "A network that sees only the second channel, which is 10000 times darker than the first."
    from torch import nn

    from snetlib.predict import Predictor

    class Second(nn.Module):
        c_in = 2

        def forward(self, x):
            bright = x[:, 1:] - 0.5
            return torch.cat([-bright, bright], 1)

    rng = np.random.default_rng(0)
    truth = np.zeros((1, 40, 44), np.uint8)
    truth[:, 5:25, 8:30] = 1
    image = np.stack([rng.normal(1000, 300, truth.shape), truth * 0.02], -1).astype(np.float32)
    rule = dict(kind='percentile', lo=0.5, hi=99.5, per_channel=True)
    assert np.array_equal(Predictor(Second().eval(), tile, intensity=rule).array(image), truth)
    save(tmp_path / 'c.nii.gz', image.transpose(2, 1, 0, 3), np.eye(4))
    Predictor(Second().eval(), tile, intensity=rule).file(tmp_path / 'c.nii.gz', tmp_path)
    assert np.array_equal(read_mask(tmp_path / 'c_mask.nii.gz').label, truth)


def test_a_folder_that_dataset_json_of_nnunet_promises_and_that_is_not_there(tmp_path):
    nnunet(tmp_path, ['CT'])
    (tmp_path / 'imagesTr').rename(tmp_path / 'images')
    with pytest.raises(UnreadableFile, match='no folder') as e:
        folder_set(tmp_path)
    assert e.value.path == tmp_path / 'imagesTr'


def test_test_images_without_labels_are_said(tmp_path):
    nnunet(tmp_path / 'raw', ['CT'])
    save(tmp_path / 'raw' / 'imagesTs' / 't_0000.nii.gz', np.zeros(SHAPE, np.float32))
    notes = prepare('folder', tmp_path / 'raw', tmp_path / 'out')['notes']
    assert any('not read (imagesTs)' in note for note in notes)
