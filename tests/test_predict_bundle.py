"A bundle runs in MONAI without a network and writes the mask of `snet predict`."

import json
import subprocess
import sys
from functools import partial

import nibabel as nib
import numpy as np
import pytest
import torch
from processes import ENV, hide, refused, snet

from snetlib.core import BadSetting
from snetlib.data.sets.mni import mni_case
from snetlib.predict import Predictor
from snetlib.predict.bundle import (
    check_bundle,
    export_bundle,
    inference_config,
    scaling_transform,
)
from snetlib.train.run import Run

for package in ('monai', 'ignite', 'fire'):
    pytest.importorskip(package, reason='the extra "monai" is not installed')

FLIPPED = np.array([[-2.0, 0, 0, 90], [0, 0, 3, -70], [0, 2, 0, -100], [0, 0, 0, 1]])


def test_a_bundle_writes_the_mask_of_the_predictor(tmp_path):
    "Axes swapped and one flipped, so that a mask of wrong orientation is seen."
    done = snet('export', 'mni-weights', '--to', 'monai', '--out', tmp_path / 'bundle')
    assert done.returncode == 0, done.stderr
    slices = mni_case('test').image[::8]
    voxels = np.swapaxes(np.transpose(slices, (2, 1, 0))[::-1], 1, 2).astype(np.float32) * 100
    (tmp_path / 'images').mkdir()
    nib.save(nib.Nifti1Image(np.ascontiguousarray(voxels), FLIPPED), tmp_path / 'images/scan.nii.gz')
    command = [sys.executable, '-m', 'monai.bundle', 'run', '--bundle_root', tmp_path / 'bundle']
    for option, name in (('config', 'inference'), ('meta', 'metadata')):
        command += [f'--{option}_file', tmp_path / f'bundle/configs/{name}.json']
    command += ['--dataset_dir', tmp_path / 'images', '--output_dir', tmp_path / 'masks']
    run = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=ENV)
    assert run.returncode == 0, run.stderr[-2000:]
    theirs = nib.load(tmp_path / 'masks/scan_mask.nii.gz')
    Predictor(Run('mni-weights')).files([tmp_path / 'images'], tmp_path / 'ours')
    ours = nib.load(tmp_path / 'ours/scan_mask.nii.gz')
    assert np.allclose(ours.affine, theirs.affine)
    a, b = np.asarray(ours.dataobj), np.asarray(theirs.dataobj)
    assert set(np.unique(a)) == {0, 1, 2, 3} and np.mean(a == b) >= 0.999


def test_a_rule_for_intensities_becomes_monais_transform():
    monai = pytest.importorskip('monai.transforms')
    from snetlib.data.slices import scale_intensity

    x = np.random.default_rng(0).normal(60, 40, (3, 20, 30)).astype(np.float32)
    rules = [dict(kind='percentile', lo=0.5, hi=99.5), dict(kind='window', lo=-10, hi=90)]
    for rule in rules:
        words = scaling_transform(rule)
        transform = getattr(monai, words.pop('_target_'))(**words)
        found = transform({'image': torch.from_numpy(x)[None]})['image'][0]
        np.testing.assert_allclose(found.numpy(), scale_intensity(x, rule), atol=1e-5)


def test_what_no_bundle_can_hold_is_refused(tmp_path):
    run = Run('mni-weights')
    run.config['model'] = 'net.py:build'
    with pytest.raises(BadSetting, match='of your own'):
        check_bundle(run)
    colour = Run('dsb2018-weights')
    if colour.config['data']['c_in'] != 1:
        with pytest.raises(BadSetting, match='one channel'):
            export_bundle(colour, tmp_path / 'colour')
    words = ('export', 'mni-weights', '--to', 'monai', '--out', tmp_path / 'b')
    done = snet(*words, first=partial(hide, 'ignite'))
    refused(done, 'ignite', 'snetlib[monai]')
    assert not (tmp_path / 'b').exists()


def test_keywords_that_name_files_stay_out_of_a_bundle():
    run = Run('mni-weights')
    run.config['model_kwargs'] = dict(pretrained='other.pth', ffb_kernel=3)
    built = inference_config(run)['network_def']['network']
    assert 'pretrained' not in built and built['ffb_kernel'] == 3


def test_the_description_names_the_classes(tmp_path):
    folder = export_bundle(Run('mni-weights'), tmp_path / 'b')
    about = json.loads((folder / 'configs/metadata.json').read_text())
    channels = about['network_data_format']['outputs']['pred']['channel_def']
    assert channels == {'0': 'background', '1': 'csf', '2': 'grey matter', '3': 'white matter'}
