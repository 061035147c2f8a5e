"The same patients in every format: prepared, trained on, predicted and scored, to the same numbers."

import json
import re
from functools import lru_cache

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from snetlib.data.clinic import LPS, read_any_volume, write_series
from snetlib.data.files import read_mask
from snetlib.data.geometry import corner_gap
from snetlib.data.prepare import prepare
from snetlib.data.source import Source
from snetlib.evaluate import evaluate_files, evaluate_run
from snetlib.predict import Predictor
from snetlib.train.run import Run, train_run

sitk = pytest.importorskip('SimpleITK')
pytest.importorskip('pydicom')

SHAPE = (26, 21, 4)
TURN = np.linalg.qr([[0.95, 0.1, 0.05], [-0.1, 0.95, 0.1], [0.05, -0.1, 1.0]])[0]
AFFINE = np.eye(4)
AFFINE[:3, :3] = TURN * np.linalg.det(TURN) * [0.8, 0.9, 2.5]
AFFINE[:3, 3] = -20, 5, 40
IDS = [f'p{k}' for k in range(6)]
RULE = {'kind': 'window', 'lo': -200, 'hi': 300}


def patient(id):
    "(voxels in HU, mask) of one patient: a bright box in noise."
    rng = np.random.default_rng(int(id[1:]))
    mask = np.zeros(SHAPE, np.uint8)
    mask[5:17, 4:14, 1:3] = 1
    return rng.normal(250 * mask.astype(float), 40).astype(np.int16), mask


def write_volume(voxels, path):
    "A volume in the format that its name says; a name without an ending is a DICOM series."
    path.parent.mkdir(parents=True, exist_ok=True)
    ending = path.name.partition('.')[2]
    if not ending:
        write_series(voxels, AFFINE, path, [f'IM{k}' for k in (3, 1, 2, 0)])
    elif ending == 'mgz':
        nib.save(nib.MGHImage(voxels.astype(np.float32), AFFINE), path)
    elif ending == 'nii.gz':
        nib.save(nib.Nifti1Image(voxels, AFFINE), path)
    else:
        image, lps = sitk.GetImageFromArray(voxels.T), LPS @ AFFINE
        sides = np.linalg.norm(lps[:3, :3], axis=0)
        image.SetSpacing(sides.tolist())
        image.SetOrigin(lps[:3, 3].tolist())
        image.SetDirection((lps[:3, :3] / sides).ravel().tolist())
        sitk.WriteImage(image, str(path))


def raw_folder(root, ending):
    "All patients as images/ and masks/; the masks of a series are NIfTI."
    for id in IDS:
        voxels, mask = patient(id)
        write_volume(voxels, root / 'images' / f'{id}{ending}')
        write_volume(mask, root / 'masks' / f'{id}{ending or ".nii.gz"}')
    (root / 'dataset.json').write_text(json.dumps({'intensity': RULE}))


def go_through(root, run=None):
    "Prepare, train unless a run is given, predict the raw images, score: (slices, run, scores)."
    done = prepare('folder', root / 'raw', root / 'ready', split='seeded')
    assert len(done['written']) == len(IDS)
    source = Source('folder', root / 'ready')
    if run is None:
        settings = dict(steps=3, size=32, bs=2, precision='float32', progress=False)
        train_run(root / 'run', source, 'snet_tiny', 'smoke', **settings)
        run = root / 'run'
    images = source.slices('train', 32).images
    predicted = Predictor(Run(run)).files([root / 'raw' / 'images'], root / 'masks')
    assert [p.status for p in predicted] == ['done'] * len(IDS), [p.error for p in predicted]
    assert {p.unit for p in predicted} == {'ml'}
    scores = evaluate_files(root / 'masks', root / 'raw' / 'masks', root / 'scores', progress=False)
    return images, run, scores[['case', 'class', 'protocol', 'dice', 'hd95', 'pred_ml']]


@pytest.fixture(scope='module')
def reference(tmp_path_factory):
    "What NIfTI gives, computed once for all formats."

    @lru_cache
    def made():
        root = tmp_path_factory.mktemp('nifti')
        raw_folder(root / 'raw', '.nii.gz')
        return root, *go_through(root)

    return made()


@pytest.mark.parametrize('ending', ['', '.nrrd', '.mha', '.mgz'])
def test_every_format_gives_the_scores_of_nifti(reference, tmp_path, ending):
    root, images, run, scores = reference
    raw_folder(tmp_path / 'raw', ending)
    theirs, _, found = go_through(tmp_path, run)
    assert np.array_equal(theirs, images)
    pd.testing.assert_frame_equal(found, scores, rtol=1e-4)
    for id in IDS:
        (written,) = (tmp_path / 'masks').glob(f'{id}_mask.*')
        mask, _ = read_any_volume(written)
        assert corner_gap(mask.affine, AFFINE, SHAPE) < 1e-3
        assert mask.shape == SHAPE


def test_the_scores_of_files_are_those_of_the_run(reference):
    root, _, run, scores = reference
    of_run = evaluate_run(run, root / 'of run', progress=False)
    both = of_run.merge(scores, on=['case', 'protocol'], suffixes=('', '_files'))
    assert len(both) == 2 * of_run['case'].nunique()
    np.testing.assert_allclose(both.dice, both.dice_files, atol=1e-6)


def test_a_dicom_segmentation_is_the_mask_beside_it(reference, tmp_path):
    pytest.importorskip('highdicom')
    _, _, run, _ = reference
    write_series(patient('p0')[0], AFFINE, tmp_path / 'scan')
    predictor = Predictor(Run(run))
    predictor.files([tmp_path / 'scan'], tmp_path / 'out')
    (again,) = predictor.files([tmp_path / 'scan'], tmp_path / 'out', dicom_seg=True)
    assert again.status == 'done', 'the mask was there, the segmentation was not'
    mask, seg = (read_mask(tmp_path / 'out' / f'scan_{end}') for end in ('mask.nii.gz', 'seg.dcm'))
    assert np.array_equal(mask.label, seg.label)
    assert corner_gap(mask.affine, seg.affine, SHAPE) < 1e-3


def test_two_channels_of_nnunet_go_out_and_back_by_its_rules(tmp_path):
    raw = tmp_path / 'raw'
    for id in IDS:
        voxels, mask = patient(id)
        for channel in range(2):
            write_volume(voxels + 100 * channel, raw / 'imagesTr' / f'{id}_{channel:04d}.nii.gz')
        write_volume(mask, raw / 'labelsTr' / f'{id}.nii.gz')
    facts = dict(
        channel_names={'0': 'T1', '1': 'T2'},
        labels={'background': 0, 'tumour': 1},
        numTraining=len(IDS),
        file_ending='.nii.gz',
    )
    (raw / 'dataset.json').write_text(json.dumps(facts))
    prepare('folder', raw, tmp_path / 'ready', split='seeded')
    settings = dict(steps=2, size=32, bs=2, precision='float32', progress=False)
    train_run(tmp_path / 'run', Source('folder', tmp_path / 'ready'), 'snet_tiny', 'smoke', **settings)
    predicted = Predictor(Run(tmp_path / 'run')).files([raw / 'imagesTr'], tmp_path / 'out')
    assert [p.case for p in predicted] == IDS and {p.status for p in predicted} == {'done'}

    # how nnU-Net pairs: every file with the ending of the truth, found by the same name
    ending = facts['file_ending']
    truths = sorted(f.name for f in (raw / 'labelsTr').iterdir() if f.name.endswith(ending))
    ours = sorted(f.name for f in (tmp_path / 'out').iterdir() if f.name.endswith(ending))
    assert ours == truths
    inputs = {f.name for f in (raw / 'imagesTr').iterdir()}
    assert {re.sub(r'_\d{4}\.nii\.gz$', ending, name) for name in inputs} == set(truths)
    for name in truths:
        mask, truth = (nib.load(d / name) for d in (tmp_path / 'out', raw / 'labelsTr'))
        assert mask.shape == truth.shape
        np.testing.assert_allclose(mask.affine, truth.affine, atol=1e-4)
        assert set(np.unique(mask.dataobj)) <= set(facts['labels'].values())
    scores = evaluate_files(tmp_path / 'out', raw / 'labelsTr', tmp_path / 'scores', progress=False)
    assert set(scores['class']) == {'tumour'} and set(scores['case']) == set(IDS)
