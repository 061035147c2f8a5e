"Preparing: what is there already, what stops everything, and one process at a time."

import errno
import json
import os
import signal
import sys
import time
from functools import partial

import h5py
import numpy as np
import psutil
import pytest
from PIL import Image
from processes import refused, snet, started

from snetlib.claims import locked_folder, remove_leftovers
from snetlib.core import (
    BadSetting,
    DiskFull,
    NotWritable,
    SnetError,
    UnreadableFile,
    machine_mark,
    process_mark,
)
from snetlib.core import test_data as real_data
from snetlib.data import prepare as prepare_module
from snetlib.data.check import check, check_text
from snetlib.data.dataset import inside, read_index
from snetlib.data.files import read_case
from snetlib.data.loaders import load_cases, load_slices
from snetlib.data.prepare import each_case, prepare, run_cases
from snetlib.data.sets.catalogue import DATASETS, FOLDERS, get_dataset
from snetlib.data.sets.folder import write_phantom
from snetlib.data.sets.semsperm import write_phantom as write_sperms

# ---------------------------------------------------------------- raw, prepared, checked, slices

SETS = [n for n, d in DATASETS.items() if d.write_phantom] + list(FOLDERS)


def raw_phantom(name, root, n=6):
    if name == 'semsperm':
        write_sperms(root, n, size=(96, 128))
    elif name in ('folder', 'nuclei'):
        write_phantom(root, n)
    else:
        DATASETS[name].write_phantom(root, n)


@pytest.mark.parametrize('name', SETS)
def test_raw_to_slices(name, tmp_path):
    raw, out = tmp_path / 'raw set', tmp_path / 'bereit ü'
    raw_phantom(name, raw)
    r = prepare(name, raw, out)
    assert not r['failed']
    assert sum(r['parts'].values()) >= 4
    assert all(r['parts'][part] for part in ('train', 'valid', 'test'))
    for root in (raw, out):
        report = check(name, root)
        assert report['ok'], check_text(report)
        json.dumps(report)
    for part in ('train', 'valid', 'test'):
        a, b = (load_slices(name, root, part, size=48) for root in (raw, out))
        assert a.case_ids == b.case_ids
        assert np.array_equal(a.labels, b.labels)
        assert a.n_out == len(get_dataset(name, raw).class_names)
        assert np.abs(a.images.astype(float) - b.images.astype(float)).max() < 1e-5
    for x, y in zip(load_cases(name, raw), load_cases(name, out)):
        assert x.spacing == y.spacing
        assert x.image.shape == y.image.shape
        assert x.affine is None or np.allclose(x.affine, y.affine)


def test_prepared_files_hold_what_other_loaders_expect(tmp_path):
    for name in ('synapse', 'acdc'):
        raw_phantom(name, tmp_path / name, 3)
        prepare(name, tmp_path / name, tmp_path / f'{name} out', val=0)
    s = np.load(next((tmp_path / 'synapse out' / 'train_npz').glob('case*_slice000.npz')), allow_pickle=False)
    assert {'image', 'label'} <= set(s)
    assert s['image'].ndim == s['label'].ndim == 2
    assert s['image'].dtype == np.float32
    assert s['image'].max() <= 1
    with h5py.File(next((tmp_path / 'synapse out' / 'test_vol_h5').glob('*.npy.h5'))) as f:
        assert f['image'].ndim == 3 and f['image'].shape == f['label'].shape
    lists = tmp_path / 'acdc out'
    for line in (lists / 'train_slices.list').read_text().split():
        with h5py.File(lists / 'data' / f'{line}.h5') as f:
            assert f['image'].ndim == 2
    assert (lists / 'train.list').read_text().split() == ['patient003_frame01', 'patient003_frame02']


def test_foreign_prepared_layouts_need_no_index(tmp_path):
    raw_phantom('acdc', tmp_path / 'raw', 6)
    prepare('acdc', tmp_path / 'raw', tmp_path / 'out')
    ours = load_slices('acdc', tmp_path / 'out', 'train', size=48, split='ssl4mis')
    (tmp_path / 'out' / 'index.json').unlink()
    for f in (tmp_path / 'out' / 'data').glob('patient003_frame0?.h5'):
        f.unlink()  # only the slices are left, as others ship it
    theirs = load_slices('acdc', tmp_path / 'out', 'train', size=48, split='ssl4mis')
    assert theirs.case_ids == ours.case_ids and np.array_equal(theirs.images, ours.images)


# ---------------------------------------------------------------- interruption, full disk, links


def test_interrupted_prepare_goes_on(tmp_path, monkeypatch):
    write_phantom(tmp_path / 'raw', 6)
    real, calls = prepare_module.prepare_one, []

    def cut(*a):
        calls.append(a)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*a)

    monkeypatch.setattr(prepare_module, 'prepare_one', cut)
    with pytest.raises(KeyboardInterrupt):
        prepare('folder', tmp_path / 'raw', tmp_path / 'out')
    assert len(read_index(tmp_path / 'out')['cases']) == 3
    monkeypatch.setattr(prepare_module, 'prepare_one', real)
    r = prepare('folder', tmp_path / 'raw', tmp_path / 'out')
    assert len(r['skipped']) == 3 and len(r['written']) == 3
    prepare('folder', tmp_path / 'raw', tmp_path / 'whole')
    a, b = (read_index(tmp_path / d)['cases'] for d in ('out', 'whole'))
    assert {k: v['sha256'] for k, v in a.items()} == {k: v['sha256'] for k, v in b.items()}


@pytest.mark.parametrize(
    'number,said', [(errno.ENOSPC, 'disk is full'), (errno.EDQUOT, 'share of the disk is used up')]
)
def test_full_disk_stops_with_one_sentence(tmp_path, monkeypatch, number, said):
    write_phantom(tmp_path / 'raw', 4)

    def full(self, *a, **k):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(h5py.File, 'create_dataset', full)
    with pytest.raises(DiskFull, match=said):
        prepare('folder', tmp_path / 'raw', tmp_path / 'out')
    assert not list(tmp_path.rglob('.*part*')) and not list((tmp_path / 'out').rglob('*.h5'))


def start_at_once():
    "Several processes work from the first case on."
    prepare_module.STARTING = 0


def test_a_really_full_disk(tmp_path, small_disk):
    "One sentence, nothing half-written, and with room the same command goes on."
    rng = np.random.default_rng(0)
    pictures = dict(images=rng.integers(0, 255, (224, 224, 3), np.uint8), masks=np.eye(224, dtype=np.uint8))
    for folder in pictures:
        (tmp_path / 'raw' / folder).mkdir(parents=True)
    for k in range(12):
        pictures['images'] = rng.integers(0, 255, (224, 224, 3), np.uint8)
        for folder, array in pictures.items():
            Image.fromarray(array).save(tmp_path / 'raw' / folder / f'{k}.png')
    disk = small_disk.path
    command = ['prepare', 'folder', tmp_path / 'raw', '--out', disk / 'out', '--jobs', '2']
    more_room = f'mount -o remount,size=9m {disk}'
    done = small_disk.run(start_at_once, command, f'find {disk}/out -type f', more_room, command)
    assert 'isk is full' in done.stderr and 'Traceback' not in done.stderr
    first, second = done.stdout.split('code ')[1:]
    assert first.startswith('1') and second.startswith('0'), done.stdout
    left = first.split('\n')[1:]
    assert any(f.endswith('.h5') for f in left), 'what was whole stays'
    assert not any('part' in f for f in left), 'nothing half-written does'


def test_a_folder_on_the_way_may_be_a_link_that_leads_outside(tmp_path):
    (tmp_path / 'set' / 'real').mkdir(parents=True)
    (tmp_path / 'secret').mkdir()
    for folder in ('set/real', 'secret'):
        (tmp_path / folder / 'a.png').touch()
    root = tmp_path / 'set'
    (root / 'out').symlink_to(tmp_path / 'secret')
    (root / 'within').symlink_to(root / 'real')
    (tmp_path / 'other name').symlink_to(root)
    for path in (root / 'real/a.png', root / 'within/a.png', tmp_path / 'other name/real/a.png'):
        assert inside(path, root) == path
        assert inside(path, tmp_path / 'other name') == path
    for path in (root / 'out/a.png', root / '../secret/a.png', tmp_path / 'secret/a.png'):
        with pytest.raises(UnreadableFile, match='leads outside'):
            inside(path, root)


def test_link_leading_outside_is_refused(tmp_path):
    raw = tmp_path / 'raw'
    write_phantom(raw, 4)
    picture = raw / 'images' / 'picture 00.png'
    (tmp_path / 'elsewhere.png').write_bytes(picture.read_bytes())
    picture.unlink()
    picture.symlink_to(tmp_path / 'elsewhere.png')
    with pytest.raises(SnetError, match='leads outside'):
        prepare('folder', raw, tmp_path / 'out')
    (tmp_path / 'link').symlink_to(raw)
    picture.unlink()
    (raw / 'masks' / 'picture 00.png').unlink()
    through_link = get_dataset('folder', tmp_path / 'link').items(tmp_path / 'link')
    assert len(through_link) == 3, 'a link to the whole folder is fine'


def test_index_that_leads_outside_is_refused(tmp_path):
    write_phantom(tmp_path / 'raw', 4)
    prepare('folder', tmp_path / 'raw', tmp_path / 'out')
    f = tmp_path / 'out' / 'index.json'
    f.write_text(f.read_text().replace('cases/picture 00.h5', '../raw/x.h5'))
    with pytest.raises(SnetError, match='outside'):
        get_dataset('folder', tmp_path / 'out').items(tmp_path / 'out')


SUPERUSER = not hasattr(os, 'geteuid') or os.geteuid() == 0


@pytest.mark.skipif(SUPERUSER, reason='the superuser may read and write everything')
def test_read_only_source_is_enough(tmp_path):
    raw = tmp_path / 'raw'
    write_phantom(raw, 4)
    for p in (*raw.rglob('*'), raw):
        p.chmod(0o555 if p.is_dir() else 0o444)
    try:
        assert not prepare('folder', raw, tmp_path / 'out')['failed']
    finally:
        for p in (raw, *raw.rglob('*')):
            p.chmod(0o755)


# ---------------------------------------------------------------- types decide, not words


@pytest.mark.parametrize('jobs', [1, 2])
def test_a_broken_picture_in_a_folder_called_like_the_result(tmp_path, jobs, monkeypatch):
    "polyps is part of polyps_raw: the place of the fault says nothing about its kind."
    monkeypatch.setattr(prepare_module, 'STARTING', 0)
    raw, out = tmp_path / 'polyps_raw', tmp_path / 'polyps'
    write_phantom(raw, 6)
    (raw / 'images' / 'picture 02.png').write_bytes(b'\x89PNG broken')
    r = prepare('folder', raw, out, jobs=jobs)
    assert list(r['failed']) == ['picture 02']
    assert len(r['written']) == 5


def test_a_broken_picture_below_the_prepared_folder(tmp_path):
    "As it was typed: snet prepare folder polyps/raw --out polyps."
    raw = tmp_path / 'polyps' / 'raw'
    write_phantom(raw, 6)
    (raw / 'images' / 'picture 02.png').write_bytes(b'\x89PNG broken')
    done = snet('prepare', 'folder', raw, '--out', tmp_path / 'polyps', '--jobs', '1')
    assert 'picture 02' in done.stderr and '5 written' in done.stdout
    refused(done, '1 cases')


def test_a_place_that_cannot_be_written_stops_everything(tmp_path):
    write_phantom(tmp_path / 'raw', 4)
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'cases').write_text('a file where a folder is needed')
    with pytest.raises(NotWritable) as refusal:
        prepare('folder', tmp_path / 'raw', tmp_path / 'out')
    assert refusal.value.path.parent.name == 'cases'


def test_refusals_carry_fields_and_name_no_flag(tmp_path):
    raw, out = tmp_path / 'raw', tmp_path / 'out'
    write_phantom(raw, 6)
    with pytest.raises(BadSetting) as same_folder:
        prepare('folder', raw, raw)
    assert same_folder.value.path == raw
    prepare('folder', raw, out, val=0)
    with pytest.raises(BadSetting) as other_settings:
        prepare('folder', raw, out, val=1)
    assert other_settings.value.key == 'val'
    for refusal in (same_folder, other_settings):
        assert '--' not in str(refusal.value)


# ---------------------------------------------------------------- nothing stale


def two_discs(root):
    "Six pictures with a small object of label 1 and a larger one of label 2."
    rng = np.random.default_rng(0)
    mask = np.zeros((64, 64), np.uint8)
    mask[5:15, 5:15] = 1
    mask[30:50, 30:50] = 2
    for folder in ('images', 'masks'):
        (root / folder).mkdir(parents=True)
    for k in range(6):
        Image.fromarray(rng.integers(0, 255, (64, 64), np.uint8)).save(root / 'images' / f'c{k}.png')
        Image.fromarray(mask).save(root / 'masks' / f'c{k}.png')


def describe_discs(root, **config):
    config = dict(class_names=['background', 'liver', 'tumour'], **config)
    (root / 'dataset.json').write_text(json.dumps(config))


def test_corrected_values_are_prepared_and_trained_with(tmp_path):
    raw, out, cache = tmp_path / 'raw', tmp_path / 'out', tmp_path / 'cache'
    two_discs(raw)
    corner = {}
    for liver, tumour in ((2, 1), (1, 2)):
        describe_discs(raw, values={'0': 0, '1': liver, '2': tumour})
        r = prepare('folder', raw, out)
        assert len(r['written']) == 6 and not r['skipped']
        prepared = read_case(out / 'cases' / 'c0.h5').label
        slices = [load_slices('folder', root, 'train', cache=cache) for root in (raw, out)]
        found = {int(prepared[0, 10, 10]), *(int(s.labels[0][10, 10]) for s in slices)}
        corner[liver] = found
    assert corner == {2: {2}, 1: {1}}
    assert len(prepare('folder', raw, out)['skipped']) == 6


GREYS = ('#000000', '#010101', '#020202')


@pytest.mark.parametrize(
    'before,after',
    [
        (dict(values={'0': 0, '1': 1, '2': 2}), dict(values={'0': 0, '1': 1, '2': 1})),
        (dict(threshold=0), dict(threshold=1)),
        (
            dict(colours={'#010101': 1, '#020202': 2, '#000000': 0}),
            dict(colours={'#010101': 2, '#020202': 1, '#000000': 0}),
        ),
    ],
)
def test_every_kind_of_mapping_is_part_of_what_is_there(tmp_path, before, after):
    raw, out = tmp_path / 'raw', tmp_path / 'out'
    two_discs(raw)
    for config in (before, after):
        describe_discs(raw, **config)
        assert len(prepare('folder', raw, out)['written']) == 6
    describe_discs(raw, **after, licence='CC0')
    assert len(prepare('folder', raw, out)['skipped']) == 6, 'a licence changes no voxel'


def test_another_axis_is_another_set_of_slices(tmp_path):
    import nibabel as nib

    raw, out = tmp_path / 'raw', tmp_path / 'out'
    volume = np.random.default_rng(0).normal(0, 1, (12, 10, 6)).astype(np.float32)
    for k in range(3):
        for folder, array in (('images', volume + k), ('masks', (volume > 1).astype(np.uint8))):
            (raw / folder).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.eye(4)), raw / folder / f'v{k}.nii.gz')
    shapes = []
    for axis in (2, 0):
        (raw / 'dataset.json').write_text(json.dumps(dict(axis=axis)))
        prepare('folder', raw, out)
        cached = load_slices('folder', raw, 'all', size=16, cache=tmp_path / 'cache')
        shapes.append((read_case(out / 'cases' / 'v0.h5').label.shape[0], len(cached)))
    assert shapes == [(6, 18), (12, 36)]


def test_content_counts_not_age(tmp_path):
    raw, out = tmp_path / 'raw', tmp_path / 'out'
    two_discs(raw)
    prepare('folder', raw, out)
    mask = raw / 'masks' / 'c3.png'
    age = mask.stat().st_mtime_ns
    array = np.asarray(Image.open(mask)).copy()
    array[5:15, 5:15], array[30:50, 30:50] = 2, 1
    Image.fromarray(array).save(mask)
    os.utime(mask, ns=(age, age))
    assert prepare('folder', raw, out)['written'] == ['c3'], 'changed, with its old time'
    for f in raw.rglob('*.png'):
        f.touch()
    assert len(prepare('folder', raw, out)['skipped']) == 6, 'touched, but not changed'


def test_a_case_in_another_part_is_prepared_anew(tmp_path):
    raw, out = tmp_path / 'raw', tmp_path / 'out'
    two_discs(raw)
    lists = tmp_path / 'lists.txt'
    lists.write_text('[train]\nc0\nc1\nc2\n[valid]\nc3\n[test]\nc4\nc5\n')
    prepare('folder', raw, out, split=str(lists))
    lists.write_text('[train]\nc0\nc1\nc4\n[valid]\nc3\n[test]\nc2\nc5\n')
    r = prepare('folder', raw, out, split=str(lists))
    assert r['written'] == ['c2', 'c4']
    assert r['parts'] == {'train': 3, 'valid': 1, 'test': 2}


# ---------------------------------------------------------------- one process at a time


def hold(folder):
    "Keep the lock of a folder until the end."
    with locked_folder(folder):
        (folder / 'held').touch()
        time.sleep(60)


def wait_until(true):
    "Wait for something that another process does."
    patience = time.monotonic() + 120
    while not true() and time.monotonic() < patience:
        time.sleep(0.1)
    assert true()


def test_two_processes_do_not_prepare_into_one_folder(tmp_path):
    "The files of the one that works stay, whatever the numbers in their names say here."
    write_phantom(tmp_path / 'raw', 4)
    out = tmp_path / 'out'
    with started(partial(hold, out)) as other:
        wait_until(lambda: (out / 'held').exists())
        foreign = (
            out / 'cases' / f'.{machine_mark()}-4194000.part.picture 00.h5'
        )  # no such process on this computer
        foreign.parent.mkdir()
        foreign.touch()
        with pytest.raises(NotWritable, match='another process'):
            prepare('folder', tmp_path / 'raw', out)
        assert foreign.exists()
        other.send_signal(signal.SIGKILL)
        other.wait()
    prepare('folder', tmp_path / 'raw', out)
    assert not foreign.exists(), 'the lock of a killed process is free, and its file goes'


def test_a_living_process_keeps_its_file(tmp_path):
    mine = tmp_path / f'.{process_mark()}.part.a.h5'
    mine.touch()
    with locked_folder(tmp_path):
        remove_leftovers(tmp_path)
    assert mine.exists()


def beat(folder, k):
    "Note that this process lives, for five minutes: longer than a busy machine needs to start the other one."
    for _ in range(3000):
        (folder / str(os.getpid())).touch()
        time.sleep(0.1)
    return k


def work_for_long(folder):
    start_at_once()
    list(run_cases(partial(beat, folder), [(0,), (1,)], jobs=2))


@pytest.mark.skipif(sys.platform == 'win32', reason='Windows gives no orphan a new parent')
def test_workers_end_with_a_killed_parent(tmp_path):
    with started(partial(work_for_long, tmp_path)) as parent:
        wait_until(lambda: len(list(tmp_path.iterdir())) >= 2)
        parent.send_signal(signal.SIGKILL)
        parent.wait()

    def still():
        "Whether nobody writes for a second and a half."
        before = {f.name: f.stat().st_mtime for f in tmp_path.iterdir()}
        time.sleep(1.5)
        return before == {f.name: f.stat().st_mtime for f in tmp_path.iterdir()}

    wait_until(still)  # on a busy machine a worker looks for its parent late
    time.sleep(3)
    assert still(), 'the workers go on'


# ---------------------------------------------------------------- real data


@pytest.mark.skipif(
    real_data('dsb2018_mini') is None, reason='no dsb2018_mini beside the checkout (set SNET_TEST_DATA)'
)
def test_real_nuclei_as_a_folder(tmp_path):
    config = {'instances': True, 'class_names': ['background', 'nucleus']}
    raw = real_data('dsb2018_mini')
    r = prepare('folder', raw, tmp_path / 'out', config=config)
    assert not r['failed'] and r['parts'] == {'train': 70, 'valid': 10, 'test': 20}
    s = load_slices('folder', tmp_path / 'out', 'test', size=96)
    assert len(s) == 20 and s.class_names == ('background', 'nucleus') and s.c_in == 3


def test_workers_end_with_their_work_and_know_where_they_are(tmp_path, monkeypatch):
    "Idle processes would keep memory for minutes, and a relative path would mean another folder."
    monkeypatch.setattr(prepare_module, 'STARTING', 0)
    for name in ('one', 'two'):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert {os.path.basename(p) for p in run_cases(os.path.abspath, [('.',)] * 4, jobs=2)} == {name}
        left = psutil.Process().children(recursive=True)
        assert not [p for p in left if any('LokyProcess' in word for word in p.cmdline())]


def process_of(k):
    "In which process a case was worked on."
    time.sleep(0.2)
    return k, os.getpid()


def test_processes_are_started_for_what_is_long(monkeypatch):
    cases = [(k,) for k in range(6)]
    here = set(each_case(process_of, cases, jobs=2))
    assert here == {(k, os.getpid()) for k in range(6)}
    monkeypatch.setattr(prepare_module, 'STARTING', 0.3)
    done = list(each_case(process_of, cases, jobs=2, ordered=True))
    assert [k for k, _ in done] == list(range(6))
    assert [process == os.getpid() for _, process in done] == 2 * [True] + 4 * [False]


# ---------------------------------------------------------------- one prepared folder, one source


def noisy_set(root, seed, n=6):
    "Pictures that no other seed has, all of them with the names c0, c1, …"
    rng = np.random.default_rng(seed)
    mask = np.zeros((24, 24), np.uint8)
    mask[4:14, 5:15] = 1
    for folder in ('images', 'masks'):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for k in range(n):
        Image.fromarray(rng.integers(0, 256, mask.shape, np.uint8)).save(root / 'images' / f'c{k}.png')
        Image.fromarray(mask).save(root / 'masks' / f'c{k}.png')
    return root


def prepared_image(out, case):
    return read_case(out / 'cases' / f'{case}.h5').image


@pytest.mark.parametrize('n', [4, 6, 9])
def test_a_second_set_with_the_same_names_is_refused(tmp_path, n):
    first, second, out = noisy_set(tmp_path / 'a', 1), noisy_set(tmp_path / 'b', 2, n), tmp_path / 'out'
    prepare('folder', first, out, split='seeded')
    before = {f: f.read_bytes() for f in out.rglob('*') if f.is_file() and f.name[0] != '.'}
    with pytest.raises(BadSetting, match='another data set') as e:
        prepare('folder', second, out, split='seeded')
    assert e.value.path == out and e.value.key == 'out'
    assert {f: f.read_bytes() for f in before} == before
    done = snet('prepare', 'folder', second, '--out', out, '--split', 'seeded', '--jobs', 1)
    assert 'choose another folder' in refused(done, '--out')


def test_the_same_set_may_move_grow_shrink_and_change(tmp_path):
    out = tmp_path / 'out'
    raw = noisy_set(tmp_path / 'raw', 1)
    prepare('folder', raw, out, split='seeded')
    raw = raw.rename(tmp_path / 'moved')
    assert len(prepare('folder', raw, out, split='seeded')['skipped']) == 6
    noisy_set(raw, 1, n=15)  # nine more
    assert {f'c{k}' for k in range(6, 15)} <= set(prepare('folder', raw, out, split='seeded')['written'])
    Image.fromarray(np.full((24, 24), 77, np.uint8)).save(raw / 'images' / 'c0.png')
    assert prepare('folder', raw, out, split='seeded')['written'] == ['c0']
    assert np.allclose(prepared_image(out, 'c0'), 77)
    for k in range(3, 15):
        for folder in ('images', 'masks'):
            (raw / folder / f'c{k}.png').unlink()
    prepare('folder', raw, out, split='seeded')
    assert set(read_index(out)['cases']) == {'c0', 'c1', 'c2'}


def test_every_picture_of_a_set_in_its_place_may_change(tmp_path):
    raw, out = noisy_set(tmp_path / 'raw', 1), tmp_path / 'out'
    prepare('folder', raw, out)
    noisy_set(raw, 2)
    assert len(prepare('folder', raw, out)['written']) == 6
    with pytest.raises(BadSetting, match='another data set'):
        prepare('folder', noisy_set(tmp_path / 'other', 3), out)


def test_an_index_does_not_tell_where_its_source_lies(tmp_path):
    raw, out = noisy_set(tmp_path / 'secret', 1), tmp_path / 'out'
    prepare('folder', raw, out)
    assert 'secret' not in json.dumps({k: v for k, v in read_index(out).items() if k != 'cases'})


def test_nothing_is_prepared_among_images_of_another_set(tmp_path):
    raw, other = noisy_set(tmp_path / 'sets' / 'raw', 1), noisy_set(tmp_path / 'other', 2)
    cases = noisy_set(tmp_path / 'third' / 'cases', 3)  # where cases are written
    for source, out in ((raw, other), (raw, tmp_path), (cases, tmp_path / 'third')):
        with pytest.raises(BadSetting) as e:
            prepare('folder', source, out)
        assert e.value.path == out and not (out / 'index.json').exists()
    ready = tmp_path / 'ready'
    prepare('folder', raw, ready)
    (ready / 'index.json').unlink()  # cut before the index was written: arrays of ours alone
    assert len(prepare('folder', raw, ready)['written']) == 6


def test_images_in_folders_that_are_not_read_are_said(tmp_path):
    raw = noisy_set(tmp_path / 'raw', 1)
    assert not prepare('folder', raw, tmp_path / 'a')['notes']
    noisy_set(raw / 'more', 2, n=2)
    noisy_set(raw / 'predicted', 3, n=2)
    (raw / 'predicted' / 'predictions.csv').write_text('case\n')
    (raw / 'masks' / 'scan.mat').write_bytes(b'x')
    (note,) = prepare('folder', raw, tmp_path / 'b')['notes']
    assert note.startswith('5 files') and 'more' in note and 'predicted' not in note
    report = check('folder', raw)
    assert report['ok'] and [n['kind'] for n in report['notes']] == ['not read']


ENDLESS = ['(a+)+$', '(a|aa)*$', '(a?){60}a{60}$', r'(\w*)*#', '.*.*.*.*.*.*.*.*#']


@pytest.mark.parametrize('pattern', ENDLESS)
def test_a_pattern_that_never_ends_is_refused(tmp_path, pattern):
    raw = noisy_set(tmp_path / 'raw', 1, n=2)
    for folder in ('images', 'masks'):
        (raw / folder / 'c1.png').rename(raw / folder / f'{"a" * 120}b.png')
    began = time.monotonic()
    with pytest.raises(BadSetting, match='did not end') as e:
        get_dataset('folder', raw, dict(group=pattern))
    assert e.value.key == 'group' and e.value.case == 'a' * 120 + 'b'
    assert time.monotonic() - began < 60  # and not for ever


@pytest.mark.parametrize('pattern', ['^[^_]+', r'^(case|p)\d+(?=_)', '(?i)^P[0-9]+(_[a-z]+)?'])
def test_patterns_that_end_find_what_python_finds(tmp_path, pattern):
    import re

    raw = noisy_set(tmp_path / 'raw', 1, n=0)
    names = ['p1_é_1', 'p1_b_2', 'p22_c']
    for name in names:
        for folder in ('images', 'masks'):
            Image.fromarray(np.tri(24, dtype=np.uint8)).save(raw / folder / f'{name}.png')
    items = get_dataset('folder', raw, dict(group=pattern)).items(raw)
    assert {i.id: i.group for i in items} == {n: re.search(pattern, n)[0] for n in names}
