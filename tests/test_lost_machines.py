"""Killed at any moment, two at once, a closed terminal, a full disk, another machine: nothing is lost.

SNET_KILLS=100 pytest tests/test_lost_machines.py -k killed: the whole proof. CI kills a few."""

import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from PIL import Image
from processes import ENV, refused, snet, snet_command, started

from snetlib.claims import FolderClaim, locked_folder

KILLS = int(os.environ.get('SNET_KILLS', 8))
SMOKE = '--recipe smoke --set size=32 --set bs=8 --set steps=6 --set precision=float32'.split()


def pictures(folder, n=12):
    rng = np.random.default_rng(0)
    for k in range(n):
        image = rng.integers(0, 99, (48, 48)).astype(np.uint8)
        mask = np.zeros((48, 48), np.uint8)
        image[8 + k : 20 + k, 8:20] += 100
        mask[8 + k : 20 + k, 8:20] = 255
        for name, pixels in (('images', image), ('masks', mask)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / name / f'c{k:02d}.png')
    return folder


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "A folder with raw pictures, the same prepared, a run trained on them, and what it predicts."
    folder = tmp_path_factory.mktemp('made')
    pictures(folder / 'raw')
    for words in (
        ('prepare', 'folder', folder / 'raw', '--out', folder / 'ready', '--jobs', 1),
        ('train', 'folder', '--data', folder / 'ready', *SMOKE, '--out', folder / 'run'),
        ('predict', folder / 'run', folder / 'raw/images', '--out', folder / 'masks'),
    ):
        done = snet(*words)
        assert done.returncode == 0, done.stderr
    return folder


CHANGES = {'postprocess': 'run', 'summary': 'masks'}  # commands that write into what they read


def words_of(command, made, out):
    "The words of a command that writes into `out`, which is a copy where it reads `out`, too."
    if command in CHANGES and not out.exists():
        shutil.copytree(made / CHANGES[command], out)
    return {
        'prepare': ('prepare', 'folder', made / 'raw', '--out', out, '--jobs', 1),
        'train': ('train', 'folder', '--data', made / 'ready', *SMOKE, '--out', out),
        'evaluate': ('evaluate', made / 'run', '--part', 'train', '--out', out),
        'predict': ('predict', made / 'run', made / 'raw/images', '--out', out),
        'reproduce': (
            *('reproduce', 'table5', '--scale', 'smoke', '--seeds', 1, '--device', 'cpu'),
            *('--cache', out),
        ),
        'export': ('export', made / 'run', '--to', 'monai', '--out', out),
        'postprocess': ('postprocess', out),
        'summary': ('summary', out),
        'demo': ('demo', '--out', out, '--seconds', 1),
        'sheet': ('check', 'folder', made / 'raw', '--jobs', 1, '--sheet', out / 'sheet.png'),
        'scores': (
            *('evaluate', '--pred', made / 'raw/masks', '--truth', made / 'raw/masks'),
            *('--out', out),
        ),
    }[command]


COMMANDS = ['prepare', 'train', 'evaluate', 'predict', 'reproduce', 'export', 'postprocess', 'summary']


def needs(command):
    "Skip where a package of the command is missing."
    if command == 'export':
        pytest.importorskip('monai')
        pytest.importorskip('ignite')


# ---------------------------------------------------------------- what must be the same


def short(content):
    "A hash: two that differ are told apart in one line."
    return sha256(content).hexdigest()


def tensors(file):
    import torch

    state = torch.load(file, weights_only=True)
    state = state.get('model', state)
    return {k: short(v.numpy().tobytes()) for k, v in state.items()}


def without(file, *columns):
    table = pd.read_csv(file)
    return table.drop(columns=[c for c in columns if c in table]).to_csv()


def outcome(command, out):
    "What a command leaves, without clocks and without what it keeps for itself."
    if command == 'train':
        return tensors(out / 'last.pth'), tensors(out / 'best.pth'), without(out / 'log.csv', 'seconds')
    if command == 'predict':
        masks = {f.name: short(f.read_bytes()) for f in out.glob('*_mask.png')}
        return masks, without(out / 'predictions.csv', 'status', 'tiles', 'disc (px)', 'class 1 (px)')
    if command == 'reproduce':
        weights = {f.parent.name: tensors(f) for f in sorted(out.glob('phantom-*/best.pth'))}
        scores = [without(f, 'commit') for f in sorted(out.glob('phantom-*/scores/scores.csv'))]
        return weights, scores, without(out / 'tables/table5_smoke.csv', 'commit')
    if command == 'export':
        texts = {f.name: f.read_text() for f in sorted(out.glob('*/*')) if f.suffix != '.pt'}
        return texts, tensors(out / 'models/model.pt')
    if command == 'postprocess':
        rules = json.loads((out / 'postprocess.json').read_text())
        return {key: value for key, value in rules.items() if key != 'origin'}
    if command == 'summary':
        return (out / 'summary.csv').read_text()
    if command == 'evaluate':
        files = {str(f.relative_to(out)): without(f, 'commit') for f in sorted(out.rglob('*.csv'))}
    else:
        files = {f.name: short(f.read_bytes()) for f in sorted(out.rglob('*.h5'))}
    return files, sorted(f.name for f in out.iterdir() if f.name[0] != '.')


def leftovers(out):
    return [f for f in out.rglob('*') if '.part.' in f.name or f.name.endswith('.claim')]


@pytest.fixture(scope='module')
def undisturbed(made, tmp_path_factory):
    "command -> (what it leaves in one go, the seconds it takes)."
    known = {}

    def run(command):
        if command not in known:
            out = tmp_path_factory.mktemp('undisturbed') / command
            began = time.time()
            done = snet(*words_of(command, made, out))
            assert done.returncode == 0, done.stderr
            known[command] = outcome(command, out), time.time() - began
        return known[command]

    return run


def killed(words, seconds):
    "Whether SIGKILL came before the end."
    with started(snet_command(words)) as process:
        ends = time.time() + seconds
        while process.poll() is None and time.time() < ends:
            time.sleep(0.01)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        return process.wait() == -signal.SIGKILL


@pytest.mark.parametrize('command', COMMANDS)
def test_killed_at_random_moments_the_result_is_the_same(undisturbed, made, tmp_path, command):
    needs(command)
    reference, seconds = undisturbed(command)
    draw, hits = random.Random(command), 0
    for k in range(max(1, KILLS // len(COMMANDS))):
        out = tmp_path / str(k)
        words = words_of(command, made, out)
        hits += killed(words, seconds * draw.uniform(0.02, 0.98))
        resume = ['--resume'] if command == 'train' and (out / 'last.pth').exists() else []
        done = snet(*words, *resume)
        assert done.returncode == 0, (k, done.stderr)
        assert outcome(command, out) == reference, k
        assert not leftovers(out), k
        shutil.rmtree(out)
    print(f'{command}: {hits} killed')
    assert hits or KILLS < 20, 'most of the processes were to be killed before their end'


# ---------------------------------------------------------------- two at once


LOCKED = ['prepare', 'train', 'evaluate', 'predict', 'export', 'postprocess', 'demo']


@pytest.mark.parametrize('command', LOCKED)
def test_the_second_process_is_told_and_changes_nothing(made, tmp_path, command):
    needs(command)
    out = tmp_path / 'out'
    words = words_of(command, made, out)
    with locked_folder(out, command):
        before = sorted(tmp_path.rglob('*'))
        refused(snet(*words), 'in use by another process')
        assert sorted(tmp_path.rglob('*')) == before
    assert command == 'demo' or snet(*words).returncode == 0


@pytest.mark.parametrize('command', COMMANDS)
def test_two_at_once_leave_what_one_leaves(undisturbed, made, tmp_path, command):
    needs(command)
    out = tmp_path / 'out'
    words = snet_command(words_of(command, made, out))
    with started(words) as one, started(words) as two:
        codes = [one.wait(), two.wait()]
        said = one.said() + two.said()
    assert 0 in codes and 'Traceback' not in said, said
    assert outcome(command, out) == undisturbed(command)[0]
    assert not leftovers(out)


# ---------------------------------------------------------------- a closed terminal


@pytest.mark.parametrize('command', ['train', 'prepare', 'predict'])
def test_a_closed_terminal_says_what_is_kept(made, tmp_path, command):
    out = tmp_path / 'out'
    words = words_of(command, made, out)
    words = (*words, '--set', 'steps=5000') if command == 'train' else words
    with started(snet_command(words)) as process:
        while not list(out.glob('.*.claim')) and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGHUP)
        code, said = process.wait(), process.said()
    assert code in (129, 0) and 'Traceback' not in said
    assert code == 0 or 'kept' in said.splitlines()[-1]
    assert code == 129 or command != 'train'
    assert not leftovers(out)


def hang_up():
    "The terminal closes now."
    os.kill(os.getpid(), signal.SIGHUP)
    time.sleep(0.01)


def in_an_import():
    "A library that is being imported makes an error of its own of an interruption."
    import snetlib.cli as cli

    def interrupted(*names):
        try:
            hang_up()
        except BaseException:
            raise ImportError('a part failed to import') from None

    cli.choose = interrupted


def in_the_sentence():
    "While the sentence of another error is made."
    import snetlib.cli as cli

    explain = cli.explain

    def interrupted(error, command):
        cli.explain = explain
        hang_up()

    cli.explain = interrupted


def at_the_very_end():
    "While the signals get their old meaning back."
    change = signal.signal

    def changed(number, handler):
        if number == signal.SIGTERM and handler == signal.SIG_DFL:
            hang_up()
        return change(number, handler)

    signal.signal = changed


def twice():
    "The shell and the system both say it; the second time while the folder is given back."
    import snetlib.claims as claims
    import snetlib.predict.predictor as predictor

    give_back = claims._give_back
    predictor.Predictor.file = lambda *args, **settings: hang_up()
    claims._give_back = lambda claim: (hang_up(), give_back(claim))


@pytest.mark.parametrize('moment', [in_an_import, in_the_sentence, at_the_very_end, twice])
def test_a_terminal_closed_at_an_unlucky_moment(made, tmp_path, moment):
    missing = moment is in_the_sentence
    run = made / 'no_run' if missing else made / 'run'
    words = ('predict', run, made / 'raw/images', '--out', tmp_path / 'out')
    with started(snet_command(words, first=moment)) as process:
        code, said = process.wait(), process.said()
    assert code == 129 and said.splitlines()[-1].startswith('snet: Stopped:'), (code, said)
    assert 'Traceback' not in said and not leftovers(tmp_path)


# ---------------------------------------------------------------- a full disk


@pytest.mark.parametrize('command', ['evaluate', 'predict', 'scores', 'export', 'sheet', 'demo'])
def test_a_full_disk_is_one_sentence_and_leaves_no_half_file(made, small_disk, command):
    needs(command)
    small_disk.size = '16k'
    out = small_disk.path / 'out'
    words = words_of(command, made, out)
    done = small_disk.run(words, f'find {small_disk.path} -name "*.part.*"')
    assert 'Traceback' not in done.stderr and 'disk is full' in done.stderr, done.stderr
    assert done.stdout.strip().endswith('code 1'), done.stdout


@pytest.mark.parametrize('command', CHANGES)
def test_a_disk_that_is_full_already(made, small_disk, tmp_path, command):
    "The folder that is read lies on it, and is not changed."
    small_disk.size = '64m'
    out, source = small_disk.path / 'out', made / CHANGES[command]
    fill = f'cp -r {source} {out} && cat /dev/zero > {small_disk.path}/full 2> /dev/null'
    after = f'diff -r -x ".*.lock" {source} {out} && find {small_disk.path} -name "*.part.*"'
    done = small_disk.run(fill, [command, out], after)
    assert 'Traceback' not in done.stderr and 'disk is full' in done.stderr, done.stderr
    assert done.stdout.strip().endswith('code 1'), done.stdout


# ---------------------------------------------------------------- another machine, another container

HOLD = """
import sys, time
import snetlib.claims as claims

class NoLocks:
    def __init__(self, path): pass
    def acquire(self, blocking): raise NotImplementedError
    def release(self): raise AssertionError

if sys.argv[2] == 'nolocks':
    claims.FileLock = NoLocks
with claims.locked_folder(sys.argv[1], 'work'):
    print('held', flush=True)
    time.sleep(60)
"""
ELSEWHERE = ['unshare', '-u', '-p', '-f', '--kill-child', 'sh', '-c', 'hostname elsewhere; exec "$@"', 'sh']


@pytest.fixture
def elsewhere(tmp_path):
    "A process of another host name and another numbering of processes that holds tmp_path/out."
    if subprocess.run([*ELSEWHERE, 'true'], capture_output=True).returncode:
        pytest.skip('no private namespaces here (needs root)')
    holders = []

    def hold(locks):
        command = [*ELSEWHERE, sys.executable, '-c', HOLD, tmp_path / 'out', locks]
        holder = subprocess.Popen(
            list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENV, text=True
        )
        holders.append(holder)
        assert holder.stdout.readline() == 'held\n', holder.stderr.read()
        return holder

    yield hold
    for holder in holders:
        holder.kill()
        holder.wait()


class NoLocks:
    "A disk without locks."

    def __init__(self, path):
        pass

    def acquire(self, blocking):
        raise NotImplementedError


@pytest.mark.parametrize('locks', ['locks', 'nolocks'])
def test_a_claim_of_another_container_holds_until_it_is_silent(elsewhere, tmp_path, monkeypatch, locks):
    out = tmp_path / 'out'
    holder = elsewhere(locks)
    if locks == 'nolocks':
        monkeypatch.setattr('snetlib.claims.FileLock', NoLocks)
    claim = FolderClaim(out, 'work')
    owner = claim.owner()
    assert owner['machine'] == 'elsewhere'
    part = out / f'.{owner["process"]}.part.file'  # its number may be that of nobody here
    part.touch()
    assert not claim.acquire()
    inside = psutil.Process(holder.pid).children(recursive=True)
    holder.kill()
    holder.wait()
    psutil.wait_procs(inside, 60)
    assert not claim.acquire(), 'nobody here can know that it is dead'
    os.utime(claim.file, (time.time() - 130,) * 2)
    with locked_folder(out, 'work'):
        assert part.exists(), 'a file of another machine is kept for a day'
    os.utime(part, (time.time() - 90_000,) * 2)
    with locked_folder(out, 'work'):
        assert not part.exists()


def test_of_two_that_take_over_one_wins(tmp_path, monkeypatch):
    monkeypatch.setattr('snetlib.claims.FileLock', NoLocks)
    dead = dict(process='0123abcd-1', machine='elsewhere', id='x')
    for _ in range(20):
        first, second = FolderClaim(tmp_path, 'work'), FolderClaim(tmp_path, 'work')
        first.file.write_text(json.dumps(dead))
        os.utime(first.file, (time.time() - 130,) * 2)
        assert second.owner() == dead
        assert first.acquire()
        assert not second._take_away(dead) and not second.acquire()
        first.release()


def test_a_process_that_was_asleep_stops_when_its_folder_is_taken(tmp_path, monkeypatch):
    from snetlib.core import NotWritable

    monkeypatch.setattr('snetlib.claims.BEAT', 0.05)
    with pytest.raises(NotWritable, match='taken over'), locked_folder(tmp_path, 'work'):
        (tmp_path / '.work.claim').write_text('{"process": "0123abcd-1", "id": "x"}')
        for _ in range(500):
            time.sleep(0.01)
    assert (tmp_path / '.work.claim').exists(), 'the claim of the other one stays'


def test_a_sign_of_life_keeps_a_long_work(tmp_path, monkeypatch):
    monkeypatch.setattr('snetlib.claims.BEAT', 0.05)
    monkeypatch.setattr('snetlib.claims.STALE', 0.5)
    monkeypatch.setattr('snetlib.claims.FileLock', NoLocks)
    with locked_folder(tmp_path, 'work'):
        for _ in range(10):
            time.sleep(0.1)
            assert not FolderClaim(tmp_path, 'work').acquire()


def test_nothing_that_windows_lacks_is_imported():
    "fcntl, resource, pwd, grp, termios and posix are not there."
    code = (
        'import sys, importlib.abc\n'
        'class Gone(importlib.abc.MetaPathFinder):\n'
        '    def find_spec(self, name, path=None, target=None):\n'
        '        frame = sys._getframe()\n'
        '        while frame and "importlib" in frame.f_code.co_filename: frame = frame.f_back\n'
        '        if name in ("fcntl", "resource", "pwd", "grp", "termios"):\n'
        '            if "snetlib" in (frame.f_globals.get("__name__") or ""): raise ImportError(name)\n'
        'sys.meta_path.insert(0, Gone())\n'
        'import snetlib.cli, snetlib.data, snetlib.train, snetlib.predict, snetlib.reproduce\n'
        'import snetlib.evaluate, snetlib.demo, snetlib.claims\n'
    )
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for file in Path(__file__).parents[1].joinpath('snetlib').rglob('*.py'):
        assert 'import fcntl' not in file.read_text(encoding='utf-8')
        assert 'os.uname' not in file.read_text(encoding='utf-8'), file


def test_a_signal_while_the_claim_is_written_leaves_no_file(tmp_path, monkeypatch):
    "The file is there before its owner's name: whoever stops in between must take it away."
    import snetlib.claims as claims

    class Interrupted(io.StringIO):
        def write(self, text):
            raise KeyboardInterrupt

    def opened(path, *args, **kwargs):
        Path(path).touch(exist_ok=False)
        return Interrupted()

    monkeypatch.setattr(claims, 'open', opened, raising=False)
    with pytest.raises(KeyboardInterrupt), locked_folder(tmp_path, 'predict'):
        raise AssertionError('the folder is not held')
    assert not leftovers(tmp_path)


def test_a_signal_while_the_claim_is_given_back_leaves_no_file(tmp_path, monkeypatch):
    "torchrun asks a process to end that is ending already: its claim goes, and the signal is heard."
    import snetlib.claims as claims

    asked, owner = [], claims.FolderClaim.owner

    def interrupted(claim):
        asked.append(claim)
        if len(asked) == 1:
            raise KeyboardInterrupt
        return owner(claim)

    with pytest.raises(KeyboardInterrupt):
        with locked_folder(tmp_path, 'predict'):
            monkeypatch.setattr(claims.FolderClaim, 'owner', interrupted)
    assert len(asked) == 2 and not leftovers(tmp_path)
    with locked_folder(tmp_path, 'predict'):
        pass
