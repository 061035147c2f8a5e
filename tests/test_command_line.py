"The `snet` command as a process: killed, starved of disk, given nonsense."

import json
import shutil
import signal
import subprocess
import time

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from processes import ENV, SNET, fresh, refused, snet

TINY = [
    '--recipe',
    'smoke',
    '--set',
    'size=32',
    '--set',
    'bs=8',
    '--set',
    'epochs=3',
    '--set',
    'precision=float32',
]


def train(out, *more):
    return ('train', 'mni', '--out', out, *TINY, *more)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    "A run of three tiny epochs in one go."
    out = tmp_path_factory.mktemp('runs') / 'whole'
    done = fresh(*train(out))
    assert done.returncode == 0, done.stderr
    return out


def test_a_killed_run_continues_to_the_same_weights(run, tmp_path):
    out = tmp_path / 'killed'
    process = subprocess.Popen(
        [*SNET, *map(str, train(out))], env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.time() + 300
    while not (out / 'last.pth').exists() and process.poll() is None and time.time() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    epochs = torch.load(out / 'last.pth', weights_only=True)['epoch']
    assert epochs < 3, 'it was to be killed before its end'
    refused(snet(*train(out)), '--resume')
    refused(snet(*train(out, '--seed', 1, '--resume')), 'seed')
    done = snet(*train(out, '--resume'))
    assert done.returncode == 0, done.stderr
    a, b = (torch.load(d / 'last.pth', weights_only=True) for d in (run, out))
    assert a['epoch'] == b['epoch'] == 3 and all(
        torch.equal(a['model'][k], b['model'][k]) for k in a['model']
    )
    assert all(
        torch.equal(x, y)
        for x, y in zip(
            torch.load(run / 'best.pth', weights_only=True).values(),
            torch.load(out / 'best.pth', weights_only=True).values(),
        )
    )
    assert not list(out.glob('.*part*')) or all(p.stat().st_size for p in out.glob('*.pth'))


def test_two_seeds_differ(run, tmp_path):
    done = snet(*train(tmp_path / 'other', '--seed', 1, '--set', 'epochs=1'))
    assert done.returncode == 0, done.stderr
    a, b = (torch.load(d / 'best.pth', weights_only=True) for d in (run, tmp_path / 'other'))
    assert any(not torch.equal(a[k], b[k]) for k in a)


def test_predict_writes_masks_and_reports_failures(run, tmp_path):
    data = tmp_path / 'scans of Zoë'
    data.mkdir()
    affine = np.array([[0, 0, 2.0, 7], [-1, 0, 0, 2], [0, 1, 0, 5], [0, 0, 0, 1]])
    nib.save(
        nib.Nifti1Image(np.random.default_rng(0).random((40, 36, 3)).astype(np.float32), affine),
        data / 'good one.nii.gz',
    )
    (data / 'cut.nii.gz').write_bytes((data / 'good one.nii.gz').read_bytes()[:-400])
    nib.save(nib.Nifti1Image(np.zeros((40, 36), np.float32), np.eye(4)), data / 'flat.nii.gz')
    (data / 'empty.nii').write_bytes(b'')
    Image.fromarray(np.full((50, 40), 128, np.uint8)).save(data / 'grey.png')
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 40, 3), np.uint8)).save(
        data / 'colour.jpg'
    )
    done = fresh('predict', run, data, '--intensity', 'percentile', '--out', tmp_path / 'out')
    refused(done, '4 of 6')
    for name in ('cut', 'flat', 'empty', 'colour'):
        assert f'{name}: failed: ' in done.stderr
    mask = nib.load(tmp_path / 'out/good one_mask.nii.gz')
    assert (
        mask.shape == (40, 36, 3)
        and np.allclose(mask.affine, affine)
        and Image.open(tmp_path / 'out/grey_mask.png').size == (40, 50)
    )
    refused(
        snet('predict', run, data / 'grey.png', '--out', tmp_path / 'other'), '1 of 1'
    )  # trained on values in [0, 1], and this has 128
    made = sorted(p.name for p in (tmp_path / 'out').iterdir())
    assert made == [
        'good one_mask.nii.gz',
        'good one_overlay.png',
        'grey_mask.png',
        'grey_overlay.png',
        'predictions.csv',
    ]


def test_bad_names_and_places(run, tmp_path):
    assert 'Did you mean' in refused(
        snet('train', 'mni', '--model', 'snet_tinny', '--out', tmp_path / 'a'), 'snet_tiny', 'snet_base'
    )
    refused(snet('train', 'mni', '--recipe', 'none', '--out', tmp_path / 'a'), 'cpu_small')
    refused(snet('train', 'no_set', '--out', tmp_path / 'a'), 'mni', 'phantom')
    refused(snet('train', 'mni', '--set', 'lr=-1', '--out', tmp_path / 'a'), 'lr')
    assert not (tmp_path / 'a').exists()
    (tmp_path / 'file').write_text('')
    refused(snet(*train(tmp_path / 'file' / 'run')), '--out')
    other = tmp_path / 'other'
    shutil.copytree(run, other)
    config = json.loads((other / 'config.json').read_text())
    config['data']['n_out'] = 7
    (other / 'config.json').write_text(json.dumps(config))
    refused(snet('predict', other, 'x.png', '--out', tmp_path / 'o'), 'another configuration')


def test_a_full_disk_stops_with_one_sentence_and_loses_nothing(run, small_disk):
    "A file system of one megabyte."
    folder = small_disk.path / 'run'
    done = small_disk.run([*SNET, *train(folder)], then=f'ls -A {folder};')
    assert 'The disk is full' in done.stderr and 'Traceback' not in done.stderr and 'code 1' in done.stdout
    assert done.stdout.split('code 1')[1].split() == ['config.json'], 'nothing half-written'


def test_evaluate_says_which_cases_are_missing(tmp_path):
    "The others are scored, and the exit code is not 0."
    for folder in ('pred', 'truth'):
        (tmp_path / folder).mkdir()
    mask = np.zeros((40, 36), np.uint8)
    mask[8:20, 8:20] = 1
    for name in 'abc':
        Image.fromarray(mask).save(tmp_path / f'truth/{name}.png')
    for name in 'ab':
        Image.fromarray(mask).save(tmp_path / f'pred/{name}.png')
    refused(
        snet(
            'evaluate', '--pred', tmp_path / 'pred', '--truth', tmp_path / 'truth', '--out', tmp_path / 'out'
        ),
        '1 cases',
        'failed.csv',
    )
    assert 'a' in (tmp_path / 'out/scores.csv').read_text() and (
        tmp_path / 'out/failed.csv'
    ).read_text().splitlines()[1].startswith('c,')
    Image.fromarray(mask).save(tmp_path / 'pred/c.png')
    done = fresh(
        'evaluate', '--pred', tmp_path / 'pred', '--truth', tmp_path / 'truth', '--out', tmp_path / 'out'
    )
    assert done.returncode == 0, done.stderr
