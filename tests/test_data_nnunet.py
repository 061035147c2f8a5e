"Folders of nnU-Net and the Decathlon from raw to masks, and what files say about themselves."

import json

import nibabel as nib
import numpy as np
import pytest

from snetlib.core import UnreadableFile
from snetlib.data.check import check
from snetlib.data.prepare import prepare
from snetlib.data.sets.folder import folder_set
from snetlib.predict.predictor import case_of, group_channels, mask_name

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
