"""Runs that are killed, damaged, shared and cut off: the number at the end is the same, or there is none."""

import json
import os
import random
import shutil
import signal
import time
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from processes import ended, forked

from snetlib import reproduce as R
from snetlib.claims import FolderClaim
from snetlib.core import BadSetting, NotAtHand
from snetlib.data.source import Source
from snetlib.models import create_model
from snetlib.reproduce import queue
from snetlib.reproduce.plan import Study
from snetlib.reproduce.queue import TimeIsUp, estimated_hours, number_of_steps, time_limit
from snetlib.reproduce.scales import SAME_NETWORK, scaled_model
from snetlib.train.recipes import get_recipe
from snetlib.train.run import run_config

KILLS = int(
    os.environ.get('SNET_KILLS', 4)
)  # 20 for the whole proof: SNET_KILLS=20 pytest tests/test_reproduce.py -k killed


@pytest.fixture(autouse=True)
def short(monkeypatch):
    "Every run of this file is a short one."
    shorten(monkeypatch)


def shorten(monkeypatch):
    "Three epochs of three steps on the phantom, two cases to test: a chain with several checkpoints."
    import torch

    import snetlib.data.sets.catalogue as catalogue

    monkeypatch.setitem(R.SCALES['smoke'], 'changes', dict(size=32, bs=64, steps=9))
    monkeypatch.setitem(catalogue.PHANTOM_CASES, 'test', range(200, 202))
    table5 = R.EXPERIMENTS['table5']
    snet_alone = replace(table5, rows=table5.rows[1:])
    monkeypatch.setitem(R.EXPERIMENTS, 'table5', snet_alone)
    torch.set_num_threads(1)


def table(cache, seeds=1, **how):
    study = Study('table5', 'smoke', seeds)
    return R.reproduce(study, cache=cache, progress=False, **how)


def short_table(cache):
    "In a process of its own, which knows nothing of what is changed here."
    shorten(pytest.MonkeyPatch())
    return table(cache)


def in_child(fn, kill_after=None):
    "Run fn in a process of its own; its exit code, or -9 when it was killed after so many seconds."
    process = forked(fn)
    if kill_after is not None:
        time.sleep(kill_after)
        process.kill()
    return ended(process)


def outcome(cache):
    "What must not depend on interruptions: weights, log without its clock, scores, the table's file."
    import torch

    (folder,) = [p for p in Path(cache).glob('phantom-*') if p.is_dir()]
    state = torch.load(folder / 'best.pth', weights_only=True)
    return dict(
        weights={k: sha256(v.numpy().tobytes()).hexdigest() for k, v in state.items()},
        log=pd.read_csv(folder / 'log.csv').drop(columns='seconds').to_csv(),
        scores=(folder / 'scores/scores.csv').read_text(),
        table=(Path(cache) / 'tables/table5_smoke.csv').read_text(),
    )


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
    cache = tmp_path_factory.mktemp('undisturbed')
    began = time.time()
    code = in_child(partial(short_table, cache))
    assert code == 0
    return outcome(cache), time.time() - began


def test_killed_at_random_moments_the_table_is_the_same(undisturbed, tmp_path):
    "SIGKILL anywhere in train -> evaluate -> report, then the same command again."
    reference, seconds = undisturbed
    draw, killed, tries = random.Random(0), 0, 0
    while killed < KILLS and tries < 3 * KILLS:
        cache = tmp_path / str(tries)
        tries += 1
        killed += in_child(partial(short_table, cache), kill_after=seconds * draw.uniform(0.02, 0.98)) == -9
        done = list(cache.glob('phantom-*/done.json'))
        assert all(json.loads(d.read_text()) for d in done) and not list(cache.rglob('*.part.*.csv'))
        assert in_child(partial(short_table, cache)) == 0
        assert outcome(cache) == reference, tries
        shutil.rmtree(cache)
    assert killed == KILLS, 'too many of the processes had finished before they were killed'


def test_a_damaged_checkpoint_is_set_aside(undisturbed, tmp_path, capsys):
    config = R.Study('table5', 'smoke', 1).steps()[0][2]
    folder = tmp_path / R.run_name(config)
    folder.mkdir(parents=True)
    assert in_child(partial(short_table, tmp_path), kill_after=undisturbed[1] * 0.45) in (0, -9)
    (folder / 'done.json').unlink(missing_ok=True)
    (folder / 'last.pth').write_bytes(b'not a checkpoint at all')
    table(tmp_path)
    assert (
        'set aside' in capsys.readouterr().err
        and (folder / 'last.damaged').exists()
        and outcome(tmp_path) == undisturbed[0]
    )


def test_a_deleted_cache_is_made_again_and_half_a_run_gives_no_number(undisturbed, tmp_path):
    config = R.Study('table5', 'smoke', 1).steps()[0][2]
    t = table(tmp_path, train=False)
    assert t.seeds.tolist() == [0] and 'average' not in t and t.verdict.tolist() == ['not_run']
    table(tmp_path)
    done = tmp_path / R.run_name(config) / 'done.json'
    text = json.loads(done.read_text())
    done.write_text(json.dumps(text | dict(config=text['config'] | dict(seed=5))))
    assert 'average' not in table(tmp_path, train=False)  # a mark of another run
    done.write_text('{"config": ')
    assert 'average' not in table(tmp_path, train=False)  # half a mark
    shutil.rmtree(tmp_path)
    table(tmp_path)
    assert outcome(tmp_path) == undisturbed[0]


def claim_and_die(folder):
    "As a process that is killed after its run was finished and before it gave the folder back."
    assert FolderClaim(folder, 'run').acquire()
    os._exit(9)


def test_the_claim_of_a_dead_process_on_a_finished_run_goes(tmp_path):
    table(tmp_path)
    run = tmp_path / R.run_name(R.Study('table5', 'smoke', 1).steps()[0][2])
    claim = FolderClaim(run, 'run')
    assert in_child(partial(claim_and_die, run)) == 9 and claim.file.exists()
    table(tmp_path)
    assert not claim.file.exists()
    assert claim.acquire()
    table(tmp_path)
    assert claim.file.exists(), 'a living process keeps its claim'
    claim.release()


def share(folder):
    "Work on the queue of three runs, and note which ones this process trains."
    shorten(pytest.MonkeyPatch())
    trained, original = [], queue.train_run

    def noting(run, *args, **settings):
        trained.append(str(run))
        return original(run, *args, **settings)

    queue.train_run = noting
    R.run_queue(R.Study('table5', 'smoke', 3).steps(), folder, 'cpu', False)
    (folder / f'trained-{os.getpid()}.json').write_text(json.dumps(trained))


def test_two_processes_share_the_queue(tmp_path):
    "Each run is trained by one of them, and the table needs no third training."
    steps = R.Study('table5', 'smoke', 3).steps()

    sharing = [forked(partial(share, tmp_path)) for _ in range(2)]
    assert [ended(p) for p in sharing] == [0, 0]
    trained = [json.loads(f.read_text()) for f in tmp_path.glob('trained-*.json')]
    assert len(trained) == 2 and sorted(sum(trained, [])) == sorted(
        {str(tmp_path / R.run_name(c)) for _, _, c in steps}
    ), trained
    t = table(tmp_path, seeds=3, train=False)
    assert t.seeds.tolist() == [3]


def test_submitit_jobs_share_the_queue(tmp_path):
    "What the page of the queue shows for a cluster, on submitit's local executor."
    submitit = pytest.importorskip('submitit', reason='submitit is not installed')
    steps = R.Study('table5', 'smoke', 2).steps()
    executor = submitit.AutoExecutor(folder=tmp_path / 'jobs', cluster='local')
    executor.update_parameters(timeout_min=10)
    jobs = [executor.submit(R.run_queue, steps, tmp_path / 'cache', 'cpu', False) for _ in range(2)]
    assert [j.result() for j in jobs] == [{}, {}]
    assert all(R.finished(c, tmp_path / 'cache') for _, _, c in steps)


@pytest.fixture
def folder_data(tmp_path):
    "Ten grey images with a square to find, split by hand."
    rng = np.random.default_rng(0)
    for part, n in dict(train=6, valid=2, test=2).items():
        for kind in ('images', 'masks'):
            (tmp_path / 'raw' / part / kind).mkdir(parents=True)
        for i in range(n):
            m = np.zeros((48, 48), np.uint8)
            m[8 + 3 * i : 24 + 3 * i, 10:30] = 1
            Image.fromarray((90 * m + rng.integers(0, 60, m.shape)).astype(np.uint8)).save(
                tmp_path / f'raw/{part}/images/{part}{i}.png'
            )
            Image.fromarray(m).save(tmp_path / f'raw/{part}/masks/{part}{i}.png')
    return tmp_path / 'raw'


def test_a_case_that_cannot_be_read_is_named_and_the_rest_is_scored(folder_data, tmp_path):
    (folder_data / 'test/images/test1.png').write_bytes(
        (folder_data / 'test/images/test1.png').read_bytes()[:40]
    )
    config = run_config(
        Source('folder', folder_data), 'snet_tiny', get_recipe('smoke', size=32, bs=2, steps=2)
    )
    done = R.run_one(config, tmp_path / 'cache', progress=False)
    assert done['counts']['test_cases'] == 1 and done['counts']['test_failed'] == 1
    failed = pd.read_csv(tmp_path / 'cache' / R.run_name(config) / 'scores/failed.csv')
    assert failed.case.str.contains('test1').all() and failed.why.str.contains('test1').all()


def changed_pixels(path, value):
    pixels = np.array(Image.open(path))
    pixels[:4, :4] = value
    Image.fromarray(pixels).save(path)


def test_no_score_outlives_its_data(folder_data, tmp_path):
    "A corrected truth is scored again; other training images are refused, and the folder says how to go on."
    recipe = get_recipe('smoke', size=32, bs=2, steps=2)
    config = run_config(Source('folder', folder_data), 'snet_tiny', recipe)
    cache = tmp_path / 'cache'
    folder = cache / R.run_name(config)
    done = R.run_one(config, cache, progress=False)
    before = pd.read_csv(folder / 'scores/scores.csv')
    trained = (folder / 'best.pth').read_bytes()
    assert R.run_one(config, cache, progress=False) == done
    changed_pixels(folder_data / 'test/masks/test1.png', 1)
    queue.forget_data()
    assert R.finished(config, cache) is None
    again = R.run_one(config, cache, progress=False)
    assert again['content'] != done['content'] and R.finished(config, cache) == again
    after = pd.read_csv(folder / 'scores/scores.csv')
    changed = after['case'].str.contains('test1')
    assert (before[changed]['dice'] != after[changed]['dice']).any()
    assert before[~changed].equals(after[~changed])
    assert (folder / 'best.pth').read_bytes() == trained, 'the network is the same'

    changed_pixels(folder_data / 'train/images/train1.png', 255)
    with pytest.raises(BadSetting, match='other images.*delete this folder'):
        R.run_one(config, cache, progress=False)
    assert R.finished(config, cache) is None, 'no old score is shown'
    shutil.rmtree(folder)
    assert R.run_one(config, cache, progress=False)['content'] not in (done['content'], again['content'])
    shutil.rmtree(folder_data)
    queue.forget_data()
    assert R.finished(config, cache), 'without the data there is nothing to compare'


def test_a_failing_run_leaves_the_others(tmp_path):
    steps = R.Study('table5', 'smoke', 2).steps()
    broken = [(r, s, c if s else c | dict(model_kwargs={'fusion': 'sideways'})) for r, s, c in steps]
    why = R.run_queue(broken, tmp_path, 'cpu', False)
    assert (
        list(why) == [R.run_name(broken[0][2])]
        and 'sideways' in why[R.run_name(broken[0][2])]
        and R.finished(steps[1][2], tmp_path)
    )
    t = R.cases_table('table5', broken, tmp_path, 'smoke', why)
    assert t.seeds.tolist() == [1] and '1 of 2 seeds' in R.as_text(t).verdict.iloc[0]


def test_a_full_disk_stops_the_table_with_one_sentence(small_disk):
    scale = ['--scale', 'smoke', '--seeds', '1', '--device', 'cpu']
    command = ['reproduce', 'table5', *scale, '--cache', small_disk.path / 'cache']
    done = small_disk.run(command, f'find {small_disk.path} -type f | sort')
    assert 'The disk is full' in done.stderr and 'Traceback' not in done.stderr, done.stderr
    assert 'code 1' in done.stdout, done.stderr
    left = done.stdout.split('code 1')[1].split()
    assert not any('done.json' in f or '.part.' in f or '_smoke.' in f for f in left)


# ---- plans


@pytest.mark.parametrize('name', [n for n, e in R.EXPERIMENTS.items() if e.kind in ('cases', 'bands')])
def test_every_table_is_planned_and_asks_for_its_data(name):
    steps = R.Study(name, 'smoke', 1).steps()
    assert [step.row for step in steps] == list(R.EXPERIMENTS[name].rows)
    assert all(step.config or step.row.reason for step in steps)
    with pytest.raises(NotAtHand) as error:
        R.Study(name, 'paper').steps()
    assert error.value.key == R.EXPERIMENTS[name].dataset.split()[0]
    assert '--' not in str(error.value)


@pytest.mark.parametrize('wrong', [dict(name='table7'), dict(name='table5', scale='large')])
def test_an_unknown_table_or_scale_is_refused(wrong):
    with pytest.raises(BadSetting):
        R.Study(**wrong).steps()


@pytest.mark.parametrize('row, snet', SAME_NETWORK.items())
def test_rows_that_are_snet_itself_share_its_run(row, snet):
    import torch

    torch.manual_seed(0)
    a = create_model(row, c_in=1, n_out=3, size='tiny')
    torch.manual_seed(0)
    b = create_model(snet.replace('base', 'tiny'), c_in=1, n_out=3)
    assert a.config == b.config
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


@pytest.mark.parametrize('name', ['table5', 'table6'])
def test_a_scaled_row_keeps_its_switches(name):
    for row in R.EXPERIMENTS[name].rows:
        paper, small = (scaled_model(row, scale) for scale in ('paper', 'small'))
        full = create_model(paper[0], c_in=1, n_out=3, **paper[1]).config
        half = create_model(small[0], c_in=1, n_out=3, **small[1]).config
        differ = {k for k in full if full[k] != half[k]}
        assert not differ & {'fusion', 'feb', 'ffb', 'gab'}


def test_workers_share_the_queue_and_say_what_failed(tmp_path, capfd):
    steps = R.Study('table5', 'smoke', 2).steps()
    broken = steps[0]._replace(config=steps[0].config | dict(model='no_such_network'))
    assert R.run_workers([broken, steps[1]], tmp_path, ['cpu', 'cpu']) == [0, 0]
    assert R.finished(steps[1].config, tmp_path)
    assert 'no_such_network' in capfd.readouterr().err


def test_every_choice_can_be_made_otherwise():
    "Lines of the recipe, keywords of our networks, keywords of the data set."
    changes = dict(recipe=dict(lr=0.01), model=dict(ffb_kernel=3), data=dict(seed=5))
    steps = Study('table1', 'smoke', 1, changes=changes).steps()
    plain = Study('table1', 'smoke', 1).steps()
    for step, before in zip(steps, plain):
        if step.config is None:
            continue
        assert step.config['recipe'] == before.config['recipe'] | dict(lr=0.01)
        ours = step.config['model'].startswith('snet')
        assert step.config['model_kwargs'].get('ffb_kernel') == (3 if ours else None)
        assert step.config['data_kwargs']['seed'] == 5
    for wrong in (dict(nothing={}), dict(recipe=dict(no_such_line=1))):
        with pytest.raises(BadSetting):
            Study('table5', 'smoke', 1, changes=wrong).steps()


def test_time_limit_tells_its_own_stop_from_another():
    with pytest.raises(TimeIsUp) as error, time_limit(1e-5):
        while True:
            pass
    assert error.value.key == 'hours'
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a job started with nohup and &
    try:
        with pytest.raises(TimeIsUp), time_limit(1e-6):
            while True:
                pass
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, handler)
    with pytest.raises(KeyboardInterrupt), time_limit(1):
        raise KeyboardInterrupt
    with time_limit(None):
        pass


def test_estimate_counts_what_is_left(tmp_path):
    left, hours = estimated_hours(Study('table5', 'smoke', 2).steps(), tmp_path, 'cpu')
    assert left == 2
    assert 0 < hours < 1
    config = Study('table5', 'smoke', 1).steps()[0].config
    epochs = config | dict(dataset='acdc', recipe=config['recipe'] | dict(steps=None, epochs=2, bs=4))
    assert number_of_steps(epochs) == 2 * 1312 / 4
