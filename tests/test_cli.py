"The `snet` command: quick, one sentence an error; killed, stopped, starved of disk, given nonsense."

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from processes import ENV, SNET, fresh, refused, snet, snet_command, started

from snetlib import core
from snetlib.cli import (
    advice,
    collect_names,
    explain,
    known_names,
    parse_intensity,
    parse_settings,
    sentence,
)
from snetlib.data.sets.folder import write_phantom

TINY = '--recipe smoke --set size=32 --set bs=8 --set epochs=3 --set precision=float32'.split()


def train(out, *more):
    return ('train', 'mni', '--out', out, *TINY, *more)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    "A run of three tiny epochs in one go."
    out = tmp_path_factory.mktemp('runs') / 'whole'
    done = snet(*train(out))
    assert done.returncode == 0, done.stderr
    return out


def wait_for(file, process):
    deadline = time.time() + 300
    while not file.exists() and process.poll() is None and time.time() < deadline:
        time.sleep(0.02)


def same_tensors(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_killed_run_continues_to_the_same_weights(run, tmp_path):
    out = tmp_path / 'killed'
    with started(snet_command(train(out))) as process:
        wait_for(out / 'last.pth', process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    epochs = torch.load(out / 'last.pth', weights_only=True)['epoch']
    assert epochs < 3, 'it was to be killed before its end'
    refused(snet(*train(out)), '--resume')
    refused(snet(*train(out, '--seed', 1, '--resume')), 'seed')
    done = snet(*train(out, '--resume'))
    assert done.returncode == 0, done.stderr
    a, b = (torch.load(d / 'last.pth', weights_only=True) for d in (run, out))
    assert a['epoch'] == b['epoch'] == 3
    assert same_tensors(a['model'], b['model'])
    a, b = (torch.load(d / 'best.pth', weights_only=True) for d in (run, out))
    assert same_tensors(a, b)
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
    done = snet('predict', run, data, '--intensity', 'percentile', '--out', tmp_path / 'out')
    refused(done, '4 of 6')
    for name in ('cut', 'flat', 'empty', 'colour'):
        assert f'{name}: failed: ' in done.stderr
    mask = nib.load(tmp_path / 'out/good one_mask.nii.gz')
    assert mask.shape == (40, 36, 3)
    assert np.allclose(mask.affine, affine)
    assert Image.open(tmp_path / 'out/grey_mask.png').size == (40, 50)
    # trained on values in [0, 1], and this has 128
    refused(snet('predict', run, data / 'grey.png', '--out', tmp_path / 'other'), '1 of 1')
    made = sorted(p.name for p in (tmp_path / "out").iterdir() if p.name[0] != ".")
    assert made == [
        'good one_mask.nii.gz',
        'good one_overlay.png',
        'grey_mask.png',
        'grey_overlay.png',
        'labels.ctbl',
        'labels.label',
        'predictions.csv',
        'summary.csv',
        'summary.html',
    ]


def test_bad_names_and_places(run, tmp_path):
    mistyped = snet('train', 'mni', '--model', 'snet_tinny', '--out', tmp_path / 'a')
    assert 'Did you mean' in refused(mistyped, 'snet_tiny', 'snet_base')
    refused(snet('train', 'mni', '--recipe', 'none', '--out', tmp_path / 'a'), 'cpu_small')
    refused(snet('train', 'no_set', '--out', tmp_path / 'a'), 'mni', 'phantom')
    refused(snet('train', 'mni', '--set', 'lr=-1', '--out', tmp_path / 'a'), 'lr')
    assert not (tmp_path / 'a').exists()
    (tmp_path / 'file').write_text('')
    refused(snet(*train(tmp_path / 'file' / 'run')), '--out')
    refused(snet(*train(tmp_path / 'a', '--set', 'lr')), '--set', 'lr=0.01')
    refused(snet(*train(tmp_path / 'a', '--data-set', 'fold=1')), 'fold', 'split')
    refused(snet(*train(tmp_path / 'a', '--device', 'gpu')), 'gpu', '--device cuda')
    refused(snet(*train(tmp_path / 'a', '--seed', '-1')), '-1', '--seed 0')
    refused(snet('models', 'no_such*'), 'snet models')
    refused(snet('predict', tmp_path / 'no_run', 'a.png', '--out', tmp_path / 'a'), 'no_run')
    refused(snet('evaluate', '--out', tmp_path / 'a'), '--pred')
    refused(snet('evaluate', '--pred', 'a', '--out', tmp_path / 'a'), '--truth')
    refused(snet('reproduce', 'table9'), 'table5')
    refused(snet('reproduce', 'table5', '--scale', 'huge'), 'small')
    refused(snet('reproduce', 'table5', '--scale', 'paper'))
    assert not (tmp_path / 'a').exists()
    wrong_use = snet('predict', '--axis', 7, 'run', 'a.png', '--out', 'x')
    assert wrong_use.returncode == 2 and 'Traceback' not in wrong_use.stderr
    other = tmp_path / 'other'
    shutil.copytree(run, other)
    config = json.loads((other / 'config.json').read_text())
    config['data']['n_out'] = 7
    (other / 'config.json').write_text(json.dumps(config))
    refused(snet('predict', other, 'x.png', '--out', tmp_path / 'o'), 'config.json is damaged')
    config['data']['class_names'] = [f'class {k}' for k in range(7)]
    (other / 'config.json').write_text(json.dumps(config))
    refused(snet('predict', other, 'x.png', '--out', tmp_path / 'o'), 'another network')


def test_a_full_disk_stops_with_one_sentence_and_loses_nothing(run, small_disk):
    "A file system of one megabyte."
    folder = small_disk.path / 'run'
    done = small_disk.run(train(folder), f'ls -A {folder}')
    assert 'The disk is full' in done.stderr and 'Traceback' not in done.stderr and 'code 1' in done.stdout
    assert done.stdout.split('code 1')[1].split() == ['.train.lock', 'config.json'], 'nothing half-written'


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
    command = ('evaluate', '--pred', tmp_path / 'pred', '--truth', tmp_path / 'truth')
    command = (*command, '--out', tmp_path / 'out')
    refused(snet(*command), '1 cases', 'failed.csv')
    assert 'a' in (tmp_path / 'out/scores.csv').read_text()
    assert (tmp_path / 'out/failed.csv').read_text().splitlines()[1].startswith('c,')
    Image.fromarray(mask).save(tmp_path / 'pred/c.png')
    done = fresh(*command)
    assert done.returncode == 0, done.stderr


# ---- quick answers


def test_names_json_is_what_the_code_knows():
    wrong = "names.json is old; write it anew: python -c 'from snetlib.cli import write_names; write_names()'"
    assert known_names() == collect_names(), wrong


QUICK = (
    ('--help',),
    ('--version',),
    ('train', '--help'),
    ('summary', '--help'),
    ('models', 'snet_*'),
    ('train', 'mni', '--out', 'never', '--model', 'snet_tinny'),
    ('train', 'mnii', '--out', 'never'),
    ('train', 'mni', '--out', 'never', '--recipe', 'none'),
    ('prepare', 'nuclees', 'raw', '--out', 'never'),
)


def fresh_and_then(said, *words):
    "`snet` in a new interpreter, which prints these expressions at its end."
    code = f'import sys, time\nfrom snetlib.cli import main\ntry: main(sys.argv[1:])\nfinally: print({said})'
    command = [sys.executable, '-c', code, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=ENV)


@pytest.mark.parametrize('arguments', QUICK, ids=' '.join)
def test_no_torch_for_a_short_answer(arguments):
    done = fresh_and_then('"torch" in sys.modules, "pandas" in sys.modules', *arguments)
    assert done.stdout.splitlines()[-1] == 'False False', done.stderr
    assert 'Traceback' not in done.stderr


def test_files_alone_need_no_torch(tmp_path):
    "Preparing a folder, and scoring masks of another tool."
    for name in ('images', 'masks'):
        (tmp_path / 'raw' / name).mkdir(parents=True)
        for k in range(3):
            pixels = np.full((32, 32), k, np.uint8)
            pixels[4:9, 4:9] = 1
            Image.fromarray(pixels).save(tmp_path / f'raw/{name}/{k}.png')
    masks = tmp_path / 'raw/masks'
    for words in (
        ('prepare', 'folder', tmp_path / 'raw', '--out', tmp_path / 'ready'),
        ('evaluate', '--pred', masks, '--truth', masks, '--out', tmp_path / 'scores'),
    ):
        done = fresh_and_then('"torch" in sys.modules', *words)
        assert done.returncode == 0 and done.stdout.splitlines()[-1] == 'False', done.stderr


def test_help_and_a_mistyped_name_take_less_than_a_second_of_work():
    for arguments in (QUICK[0], QUICK[5]):
        done = fresh_and_then('time.process_time()', *arguments)
        assert float(done.stdout.splitlines()[-1]) < 1


def test_the_module_is_the_command():
    command = [sys.executable, '-m', 'snetlib', '--version']
    done = subprocess.run(command, capture_output=True, text=True, env=ENV)
    assert done.returncode == 0 and done.stdout.startswith('snetlib 0.'), done.stderr


# ---- words and values


def test_settings_become_values():
    assert parse_settings(['lr=0.01', 'epochs=3', 'channels_last=False', 'seconds=none']) == dict(
        lr=0.01, epochs=3, channels_last=False, seconds=None
    )
    assert parse_settings(['augment=flips', 'augment2={"hflip": 0.5}']) == dict(
        augment='flips', augment2=dict(hflip=0.5)
    )
    for wrong in ('lr', '=3'):
        with pytest.raises(core.BadSetting, match='key=value'):
            parse_settings([wrong])


def test_intensities_become_rules():
    assert parse_intensity(None) is None
    assert parse_intensity('percentile') == dict(kind='percentile', lo=0.5, hi=99.5)
    assert parse_intensity('window:-125,275') == dict(kind='window', lo=-125.0, hi=275.0)
    assert parse_intensity('uint8') == dict(kind='uint8')


@pytest.mark.parametrize('wrong', ['window', 'window:1', 'window:a,b', 'window:5,5', 'uint8:1,2', 'percent'])
def test_other_intensities_are_refused(wrong):
    with pytest.raises(core.BadSetting):
        parse_intensity(wrong)


# ---- flags are added by the type of an error


def test_flags_come_from_the_type_of_an_error():
    "The sentence itself is the same everywhere; nothing is searched in it."
    full, closed = core.DiskFull('x', path='out'), core.NotWritable('x', path='out')
    assert '--resume' in advice(full, 'train')
    for name in ('prepare', 'evaluate', 'predict', 'reproduce', 'demo'):
        assert '--resume' not in advice(full, name)
        assert '--out' in advice(full, name) and '--out' in advice(closed, name)
    assert '--data' in advice(core.NotAtHand('x', key='acdc'), 'train')
    assert advice(core.NotAtHand('x', key='monai'), 'train') == ''
    assert advice(core.BadSetting('x', key='tile'), 'predict') == '(--tile)'
    assert '--set lr' in advice(core.BadSetting('x', key='lr'), 'train')
    assert advice(core.SnetError('say --resume and --out'), 'train') == ''
    assert sentence(core.SnetError('two\nlines'), 'train') == 'two lines'


def test_a_full_memory_is_one_sentence():
    for error in (
        MemoryError(),
        RuntimeError('[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: not enough memory'),
        type('OutOfMemoryError', (RuntimeError,), {})('CUDA out of memory'),
    ):
        text, code = explain(error, 'predict')
        assert code == 1 and text.startswith('The memory is full') and '--bs' in text
    with pytest.raises(RuntimeError, match='other'):
        explain(RuntimeError('other'), 'train')


@pytest.mark.parametrize('number,code', [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_says_what_is_kept(tmp_path, number, code):
    out = tmp_path / 'run'
    with started(snet_command(train(out, '--set', 'epochs=500'))) as process:
        wait_for(out / 'last.pth', process)
        process.send_signal(number)
        assert process.wait() == code, process.said()
        said = process.said()
    assert 'Traceback' not in said
    assert 'epochs are kept' in said.splitlines()[-1] and '--resume' in said.splitlines()[-1]
    assert torch.load(out / 'last.pth', weights_only=True)['epoch'] >= 1


def test_a_stopped_preparation_does_not_offer_resume(tmp_path):
    from snetlib.cli import Stopped

    for name in ('prepare', 'evaluate', 'predict', 'reproduce', 'demo'):
        assert '--resume' not in str(Stopped(name, 130))
        assert 'same command' in str(Stopped(name, 130))


# ---- what programs read


def document(done, code=0):
    "The whole of stdout as JSON, without NaN."
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout, parse_constant=lambda text: pytest.fail(f'{text} is no JSON'))


def test_models_are_listed_for_a_program():
    listed = document(snet('models', 'snet_t*', '--json', '--count'))
    tiny = next(m for m in listed if m['name'] == 'snet_tiny')
    assert tiny['parameters'] > 10**6 and 'snet' in tiny['tags'] and tiny['about'].endswith('.')
    assert tiny['group'] == 'SNet'
    assert not snet('models', 'no_such', '--json').stdout


def test_every_network_is_listed_under_one_title():
    from snetlib.cli import MODEL_GROUPS, known_names

    lines = snet('models').stdout.splitlines()
    titles = [line for line in lines if line and not line.startswith(' ')]
    assert titles == list(MODEL_GROUPS.values())
    listed = [line.split()[0] for line in lines if line.startswith('  ')]
    assert sorted(listed) == sorted(known_names()['models'])
    under = lines[lines.index(MODEL_GROUPS['interpretation']) :]
    assert {line.split()[0] for line in under[1:]} >= {'attransunet', 'catformer', 'transclaw_unet'}
    assert snet('models', 'snet_*').stdout.startswith('  snet_base')


def test_training_and_scores_are_told_to_a_program(tmp_path):
    out = tmp_path / 'run'
    done = snet(*train(out, '--set', 'epochs=1', '--json'))
    told = document(done)
    assert told['run'] == str(out) and told['epochs'] == 1
    assert told['last']['epoch'] == 0
    assert 'epoch' in done.stderr, 'progress is for people'
    done = snet('evaluate', out, '--out', tmp_path / 'scores', '--json')
    told = document(done)
    assert told['lost'] == 0 and told['report'].endswith('report.html')
    kinds = {(row['protocol'], row['score']) for row in told['scores']}
    assert {('published', 'dice'), ('corrected', 'dice'), ('corrected', 'nsd')} <= kinds
    table = snet('evaluate', out, '--out', tmp_path / 'scores').stdout
    mean = next(r['mean'] for r in told['scores'] if r['class'] == 'mean' and r['score'] == 'dice')
    assert f'{mean:.3f}' in table


def test_predictions_are_told_to_a_program_also_those_that_failed(run, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 48), np.uint8)).save(tmp_path / 'a.png')
    (tmp_path / 'b.png').write_bytes(b'no picture')
    files = [tmp_path / 'a.png', tmp_path / 'b.png']
    done = snet('predict', run, *files, '--intensity', 'percentile', '--out', tmp_path / 'out', '--json')
    a, b = document(done, code=1)['predictions']
    assert a['mask'] == 'a_mask.png' and a['status'] == 'done'
    assert b['status'] == 'failed' and b['reason'] in done.stderr


@pytest.mark.parametrize(
    'words, found',
    [
        ('snet tra', 'train'),
        ('snet train mni --model snet_ti', 'snet_tiny'),
        ('snet train mni --recipe cpu_', 'cpu_small'),
        ('snet train phan', 'phantom'),
        ('snet predict --inten', '--intensity'),
    ],
)
def test_a_shell_completes_commands_and_names(words, found):
    ask = {'_SNET_COMPLETE': 'complete_bash', 'COMP_WORDS': words, 'COMP_CWORD': str(words.count(' '))}
    done = subprocess.run(SNET, env={**ENV, **ask}, capture_output=True, text=True)
    assert found in done.stdout.split(), done.stderr


@pytest.mark.parametrize('asked', ['seed=abc', 'seed=1', 'val=3'])
def test_a_keyword_of_the_data_is_named_as_it_is_typed(tmp_path, asked):
    "The data's seed is not the run's: the cure names --data-set, not --seed."
    write_phantom(tmp_path / 'pictures', n=12)
    assert not snet('prepare', 'folder', tmp_path / 'pictures', '--out', tmp_path / 'ready').returncode
    done = snet(
        'train', 'folder', '--data', tmp_path / 'ready', '--out', tmp_path / 'run', '--data-set', asked
    )
    key = asked.split('=')[0]
    refused(done, f'(--data-set {key}=…)')
    assert '(--seed)' not in done.stderr


def test_a_terminal_that_lacks_a_letter_is_no_error():
    "A pipe on Windows takes no Ł."
    code = (
        'import snetlib.cli as cli\n'
        "cli.known_names = lambda: dict(models={'Łęk': dict(about='3×4', tags=[])})\n"
        'cli.main()'
    )
    command = [sys.executable, '-c', code, 'models']
    done = subprocess.run(command, capture_output=True, env={**ENV, 'PYTHONIOENCODING': 'cp1252'})
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert b'\\u0141\\u0119k' in done.stdout and '3×4'.encode('cp1252') in done.stdout


def test_half_a_letter_in_a_name_is_one_sentence():
    with pytest.raises(UnicodeEncodeError) as caught:
        'a folder called b\udcffd'.encode()
    said, code = explain(caught.value, 'predict')
    assert code == 1 and 'not written in UTF-8: …a folder called b\\udcffd…' in said
    with pytest.raises(UnicodeEncodeError) as caught:
        '×'.encode('ascii')
    with pytest.raises(UnicodeEncodeError):
        explain(caught.value, 'predict')


@pytest.mark.skipif(not Path('/dev/full').exists(), reason='a device of Linux')
@pytest.mark.parametrize('words', [('models',), ('predict', '--help'), ('--version',)])
def test_a_full_disk_behind_the_output_is_said(words):
    with open('/dev/full', 'w') as full:
        done = subprocess.run([*SNET, *words], stdout=full, stderr=subprocess.PIPE, text=True, env=ENV)
    assert done.returncode == 1 and done.stderr.startswith('snet: The disk is full'), done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_nobody_listens():
    "Output that is closed, and a reader that goes at once."
    for command in ('"$@" >&-', '"$@" >&- 2>&-', '"$@" | true'):
        shell = ['bash', '-c', f'set -o pipefail; {command}', 'bash', *SNET, 'models']
        done = subprocess.run(shell, capture_output=True, text=True, env=ENV)
        assert done.returncode in (0, 1) and not done.stderr, (command, done.returncode, done.stderr)
