"""Every kind of file that is read, damaged in many ways: the right result, or one sentence.

`make fuzz` runs 5,000 mutants and prints a table. The same seed gives the same mutants."""

import argparse
import json
import math
import os
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np
from damage import corrupt, good_files
from PIL import Image

from snetlib.core import SnetError

# ---------------------------------------------------------------- other values where JSON had good ones

ODD = (
    *(None, True, False, 0, -1, 1, 255, 256, 1e308, -0.5, float('nan'), float('inf'), 2**70),
    *('', 'x', '../../x', 'a/b', '\0', '=1+1', 'ü' * 300, '1', 'nan'),
    *([], {}, [[]], [0], ['a', 'a'], {'': ''}, {'0': 0}, {'kind': 'window'}),
)


def places(x, path=()):
    "Where in a JSON value something can be changed."
    found = [path] if path else []
    members = ()
    if isinstance(x, (dict, list)):
        members = x.items() if isinstance(x, dict) else enumerate(x)
    for key, value in members:
        found += places(value, (*path, key))
    return found


def change_json(text, rng):
    "One value replaced, removed, doubled or renamed; now and then nested a thousand deep."
    if rng.random() < 0.02:
        return b'[' * 100_000
    x = json.loads(text)
    for _ in range(int(rng.integers(1, 3))):
        where = places(x)
        if not where:
            break
        *way, last = where[int(rng.integers(len(where)))]
        at = x
        for key in way:
            at = at[key]
        value = ODD[int(rng.integers(len(ODD)))]
        if isinstance(at, list) or rng.random() < 0.7:
            at[last] = json.loads(json.dumps(value))
        elif rng.random() < 0.5:
            del at[last]
        else:
            at[f'{last}x'] = at.pop(last)
    return json.dumps(x).encode()


def change_lines(text, rng):
    "One line of a text swapped, doubled, emptied, or replaced by nonsense."
    lines = text.decode('utf-8', 'replace').split('\n')
    k, other = (int(n) for n in rng.integers(len(lines), size=2))
    way = int(rng.integers(5))
    if way == 0:
        lines[k], lines[other] = lines[other], lines[k]
    elif way == 1:
        lines.insert(k, lines[other])
    elif way == 2:
        lines[k] = ''
    elif way == 3:
        lines[k] = ('../../x', 'nan', '-1', '=cmd', 'ED: 0', '\ufeff', ',' * 50, '9' * 400)[
            int(rng.integers(8))
        ]
    else:
        lines[k] = lines[k].replace('1', '-999999999999')
    return '\n'.join(lines).encode()


# ---------------------------------------------------------------- kinds of files


@dataclass
class Kind:
    "What is damaged and what then reads it."

    make: object  # folder -> the file to damage
    use: object  # (folder, the file) -> a result
    changes: tuple = (corrupt,)  # ways to damage it
    same: object = None  # (result, whole result) -> bool, where damage cannot go unnoticed
    cost: int = 1  # only every so many mutants


def same_case(a, b):
    same = np.array_equal(a.image, b.image) and (a.label is None) == (b.label is None)
    return same and (a.label is None or np.array_equal(a.label, b.label))


def plain_file(ending):
    "The small file of this ending."

    def make(folder):
        good_files(folder)
        for f in folder.iterdir():
            if f.name != f'a.{ending}':
                f.unlink()
        return folder / f'a.{ending}'

    return make


def read_one(folder, file):
    from snetlib.data.files import read_case

    case = read_case(file)
    assert np.isfinite(case.image).all(), 'numbers that are none'
    assert case.image.ndim in (3, 4) and case.image.dtype == np.float32
    assert case.spacing is None or min(case.spacing) > 0, f'spacing {case.spacing}'
    return case


def read_as_mask(folder, file):
    from snetlib.data.files import read_mask

    mask = read_mask(file)
    assert mask.label.dtype == np.uint8 and mask.label.ndim == 3
    return mask


def read_outlines(folder, file):
    from snetlib.data.sets.monuseg import read_polygons

    found = read_polygons(file)
    assert all(np.isfinite(p).all() and p.shape[1] == 2 for p in found)
    return found


VOLUME = np.random.default_rng(0).integers(-500, 500, (9, 8, 4)).astype(np.int16)


def mask_file(ending):
    "A small mask of three classes."
    y = (np.indices((24, 28)).sum(0) // 18).astype(np.uint8)

    def make(folder):
        path = folder / f'a.{ending}'
        if ending == 'nii':
            nib.save(nib.Nifti1Image(y[..., None], np.eye(4)), path)
        else:
            picture = Image.fromarray(y, 'P' if ending == 'png' else 'L')
            if ending == 'png':
                picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
            picture.save(path)
        return path

    return make


def clinic_file(ending):
    def make(folder):
        if ending == 'mgz':
            nib.save(nib.MGHImage(VOLUME.astype(np.float32), np.diag([-2.0, 2, 3, 1])), folder / 'a.mgz')
        elif ending == 'dcm':
            from snetlib.data.clinic import write_series

            write_series(VOLUME[..., :1], np.eye(4), folder, ['a.dcm'])
        else:
            import SimpleITK as sitk

            sitk.WriteImage(sitk.GetImageFromArray(VOLUME), str(folder / f'a.{ending}'))
        return folder / f'a.{ending}'

    return make


def series(folder):
    from snetlib.data.clinic import write_series

    write_series(VOLUME, np.diag([-1.0, -1, 2, 1]), folder / 'scan')
    return folder / 'scan' / 'IM0002.dcm'


def read_folder_of_slices(folder, file):
    return read_one(folder, file.parent)


def pictures(folder, **said):
    rng = np.random.default_rng(0)
    for k in range(4):
        mask = np.zeros((24, 32), np.uint8)
        mask[4:12, 4 + k : 14 + k] = 255
        pixels = rng.integers(0, 200, (24, 32, 3), np.uint8)
        for name, x in (('images', pixels), ('masks', mask)):
            (folder / 'raw' / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(x).save(folder / 'raw' / name / f'picture {k:02d}.png')
    (folder / 'raw' / 'dataset.json').write_text(json.dumps(said))
    return folder / 'raw' / 'dataset.json'


SAID = dict(
    class_names=['background', 'disc'],
    values={'0': 0, '255': 1},
    intensity={'kind': 'window', 'lo': 0, 'hi': 255},
    axis=2,
    group='^[^_]+',
    channels=3,
    mask_suffix='',
    licence='CC0',
)


def checked(name, jobs=1):
    "`check` of a raw or prepared folder, then `prepare`."

    def use(folder, file):
        from snetlib.data.check import check, check_text
        from snetlib.data.prepare import prepare

        report = check(name, folder / 'raw')
        assert check_text(report)
        json.dumps(report)
        if report['ok'] and not (folder / 'raw' / 'index.json').exists():
            done = prepare(name, folder / 'raw', folder / 'ready')
            assert not done['failed'], done['failed']
        return report

    return use


def nnunet(folder):
    root = folder / 'raw'
    for sub in ('imagesTr', 'labelsTr'):
        (root / sub).mkdir(parents=True)
    mask = (VOLUME > 200).astype(np.uint8)
    for k in range(3):
        for c in range(2):
            nib.save(nib.Nifti1Image(VOLUME + c, np.eye(4)), root / 'imagesTr' / f'c{k}_{c:04d}.nii')
        nib.save(nib.Nifti1Image(mask, np.eye(4)), root / 'labelsTr' / f'c{k}.nii')
    facts = dict(
        channel_names={'0': 'T1', '1': 'T2'}, labels={'background': 0, 'tumour': 1}, file_ending='.nii'
    )
    (root / 'dataset.json').write_text(json.dumps(facts))
    return root / 'dataset.json'


def split_list(folder):
    from snetlib.data.splitting import write_split

    pictures(folder, **SAID)
    path = folder / 'raw' / 'splits' / 'mine.txt'
    path.parent.mkdir()
    ids = [f'picture {k:02d}' for k in range(4)]
    path.write_text(write_split({'train': ids[:2], 'valid': ids[2:3], 'test': ids[3:]}, 'made up'))
    return path


def use_split(folder, file):
    from snetlib.data.sets.catalogue import get_dataset

    ds = get_dataset('folder', folder / 'raw')
    parts = ds.parts(ds.items(folder / 'raw'), 'mine')
    ids = [i.id for members in parts.values() for i in members]
    assert len(ids) == len(set(ids)), 'a case in two parts'
    return ids


def prepared(folder):
    from snetlib.data.prepare import prepare

    pictures(folder / 'before', **SAID)
    prepare('folder', folder / 'before' / 'raw', folder / 'raw', split='seeded')
    return folder / 'raw' / 'index.json'


def prepared_case(folder):
    index = json.loads(prepared(folder).read_text())
    (name, *_) = (case['file'] for case in index['cases'].values() if case['part'] == 'train')
    return folder / 'raw' / name


def use_prepared(folder, file):
    from snetlib.data.loaders import load_slices

    checked('folder')(folder, file)
    return load_slices('folder', folder / 'raw', 'train').images


def acdc_info(folder):
    from snetlib.data.sets.catalogue import DATASETS

    DATASETS['acdc'].write_phantom(folder / 'raw', 4)
    return sorted((folder / 'raw').rglob('Info.cfg'))[0]


def cached(folder):
    prepared(folder)
    use_cache(folder, None)
    return max((f for f in (folder / 'cache').rglob('*.npy')), key=lambda f: f.stat().st_size)


def use_cache(folder, file):
    from snetlib.data.source import Source

    return np.array(Source('folder', folder / 'raw', cache=folder / 'cache').slices('train', 24).images)


@lru_cache
def a_run():
    "A folder with a run of one step, made once; it lives as long as the process."
    from snetlib.train.run import train_run

    folder = tempfile.TemporaryDirectory()
    settings = dict(steps=1, size=32, bs=2, precision='float32', progress=False)
    train_run(folder.name, 'phantom', 'snet_tiny', 'smoke', **settings)
    return folder


def trained(name):
    def make(folder):
        shutil.copytree(a_run().name, folder / 'run')
        return folder / 'run' / name

    return make


def use_run(folder, file):
    from snetlib.predict import Predictor
    from snetlib.train.run import Run

    run = Run(folder / 'run', 'last' if file.name == 'last.pth' else 'best')
    mask = Predictor(run).array(np.zeros((1, 32, 32), np.float32), dict(kind='none'))
    assert mask.shape == (1, 32, 32)
    assert run.source.name
    return mask


def use_log(folder, file):
    from snetlib.train.run import Run

    return Run(folder / 'run').history()


def predictions(folder):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / 'c.png')
    use_predictions(folder, None)
    return folder / 'out' / 'predictions.csv'


def use_predictions(folder, file):
    import torch

    from snetlib.predict import Predictor

    torch.manual_seed(0)
    network = torch.nn.Conv2d(1, 2, 1).eval()
    done = Predictor(network, intensity=dict(kind='uint8')).files([folder / 'c.png'], folder / 'out')
    return [p.status for p in done]


def stored_scores(folder):
    use_stored_scores(folder, None)
    return folder / 'out' / 'cases' / 'c.csv'


def use_stored_scores(folder, file):
    from snetlib.evaluate import ScoredPair, score_cases

    mask = np.ones((1, 4, 4), np.uint8)
    return score_cases(
        ['c'], lambda name: ScoredPair(mask, lambda: mask), ('background', 'a'), folder / 'out'
    )


def recipe(folder):
    from snetlib.train.recipes import get_recipe

    (folder / 'recipe.json').write_text(json.dumps(get_recipe('smoke')))
    return folder / 'recipe.json'


def use_recipe(folder, file):
    from snetlib.train.recipes import get_recipe

    try:
        changes = json.loads(file.read_text())
    except RecursionError:  # no file of ours: settings come from Python
        return None
    return get_recipe(changes)


def a_config():
    return json.loads((Path(a_run().name) / 'config.json').read_text())


def state_of_a_table(folder):
    "A run of `reproduce` that has finished, as its folder says."
    from snetlib.reproduce.queue import run_name

    run = folder / run_name(a_config())
    (run / 'scores').mkdir(parents=True)
    for name in ('scores/scores.csv', 'best.pth'):
        (run / name).touch()
    (run / 'done.json').write_text(json.dumps(dict(config=a_config(), content=None)))
    return run / 'done.json'


def use_state(folder, file):
    from snetlib.reproduce.queue import commit_of, finished

    done = finished(a_config(), folder)
    assert done is None or done['config'] == a_config()
    return done, commit_of(file.parent)


def exported(folder):
    from snetlib.predict.export import file_hashes

    (folder / 'network.onnx').write_bytes(b'no network, but the file that was hashed')
    about = dict(to='onnx', sha256=file_hashes(folder, 'onnx'), pad='replicate', config=a_config())
    (folder / 'export.json').write_text(json.dumps(about))
    return folder / 'export.json'


def use_export(folder, file):
    from snetlib.predict.export import Exported

    found = Exported(folder)
    assert len(found.class_names) == found.config['data']['n_out']
    return found.size, found.intensity, found.neighbours


def rules(folder):
    shutil.copytree(a_run().name, folder / 'run')
    text = dict(keep_largest=[1, 2], classes=[dict(gain=0.1)], weights=digest_of(folder / 'run'))
    (folder / 'run/postprocess.json').write_text(json.dumps(text))
    return folder / 'run/postprocess.json'


def digest_of(folder):
    from snetlib.train.run import Run

    return Run(folder).digest


def use_rules(folder, file):
    from snetlib.predict.predictor import read_rules
    from snetlib.train.run import Run

    found = read_rules(Run(folder / 'run'))
    assert all(type(k) is int and k > 0 for k in found)
    return found


TEXT, JSON = (corrupt, change_lines), (corrupt, change_json, change_json, change_json)
KINDS = {end: Kind(plain_file(end), read_one) for end in ('jpg', 'tif', 'bmp', 'nii', 'h5')}
KINDS |= {end: Kind(plain_file(end), read_one, same=same_case) for end in ('png', 'nii.gz', 'npz')}
KINDS |= {f'mask {end}': Kind(mask_file(end), read_as_mask) for end in ('png', 'tif', 'nii')}
KINDS |= {end: Kind(clinic_file(end), read_one) for end in ('nrrd', 'mha', 'mgz', 'dcm')}
KINDS |= {
    'dcm series': Kind(series, read_folder_of_slices, cost=2),
    'xml outlines': Kind(plain_file('xml'), read_outlines, TEXT),
    'dataset.json': Kind(lambda d: pictures(d, **SAID), checked('folder'), JSON, cost=4),
    'dataset.json of nnU-Net': Kind(nnunet, checked('folder'), JSON, cost=4),
    'split list': Kind(split_list, use_split, TEXT, cost=2),
    'index.json': Kind(prepared, use_prepared, JSON, cost=4),
    'prepared case': Kind(prepared_case, use_prepared, cost=4),
    'Info.cfg': Kind(acdc_info, checked('acdc'), TEXT, cost=8),
    'cache': Kind(cached, use_cache, cost=2),
    'config.json': Kind(trained('config.json'), use_run, JSON, cost=4),
    'best.pth': Kind(trained('best.pth'), use_run, cost=4),
    'last.pth': Kind(trained('last.pth'), use_run, cost=4),
    'log.csv': Kind(trained('log.csv'), use_log, TEXT, cost=2),
    'predictions.csv': Kind(predictions, use_predictions, TEXT, cost=2),
    'scores of a case': Kind(stored_scores, use_stored_scores, TEXT, cost=2),
    'recipe': Kind(recipe, use_recipe, (change_json,)),
    'done.json': Kind(state_of_a_table, use_state, JSON, cost=2),
    'export.json': Kind(exported, use_export, JSON, cost=2),
    'postprocess.json': Kind(rules, use_rules, JSON, cost=4),
}


# ---------------------------------------------------------------- one mutant, many mutants


class Hang(Exception):
    "A mutant that takes longer than it may."


def _alarm(number, frame):
    raise Hang


def other_files(folder):
    "Files beside the box, and unfinished ones in it."
    outside = [str(f) for f in folder.rglob('*') if folder / 'box' not in f.parents and f.name != 'box']
    return sorted(outside + [str(f) for f in (folder / 'box').rglob('*.part.*')])


def outcome(kind, box, file, whole, seed, limit=0):
    "('right' or 'refused', '') of a mutant, or (the fault, where it arose)."
    rng = np.random.default_rng([seed, *kind.encode()])
    k, original = KINDS[kind], file.read_bytes()
    change = k.changes[int(rng.integers(len(k.changes)))]
    file.write_bytes(change(original, rng))
    signal.alarm(limit)
    try:
        found = k.use(box, file)
        signal.alarm(0)
        if k.same is not None and not k.same(found, whole):
            return 'silently wrong', ''
        return 'right', ''
    except SnetError as e:
        one = '\n' not in str(e) and len(str(e)) < 2000
        return ('refused', '') if one else ('no sentence', str(e)[:500])
    except Hang:
        return 'hang', ''
    except Exception:
        return 'traceback', traceback.format_exc()
    finally:
        signal.alarm(0)


def fuzz(kind, seeds, limit=0):
    "{outcome: how many}, and [(seed, fault, where)]."
    counts, faults = Counter(), []
    with tempfile.TemporaryDirectory() as d, warnings.catch_warnings():
        warnings.simplefilter('ignore')
        d = Path(d)
        (d / 'good').mkdir()
        file = KINDS[kind].make(d / 'good').relative_to(d / 'good')
        whole = KINDS[kind].use(d / 'good', d / 'good' / file)
        shutil.rmtree(d / 'good' / 'ready', ignore_errors=True)
        for seed in seeds:
            place = d / 'place'
            (place / 'around').mkdir(parents=True)
            shutil.copytree(d / 'good', place / 'box')
            before = other_files(place)
            found, where = outcome(kind, place / 'box', place / 'box' / file, whole, seed, limit)
            if other_files(place) != before:
                found, where = 'files left', str(other_files(place))
            counts[found] += 1
            if found not in ('right', 'refused'):
                faults.append((seed, found, where))
            shutil.rmtree(place)
    return counts, faults


def shares(n):
    "How many of n mutants each kind gets; slow kinds get fewer."
    weights = {kind: 1 / k.cost for kind, k in KINDS.items()}
    return {kind: math.ceil(n * w / sum(weights.values())) for kind, w in weights.items()}


def in_a_process(kind, seeds, limit):
    "`fuzz` in a process of its own, so that a crash of a library is a fault like any other."
    with tempfile.TemporaryFile('w+') as said:
        pid = os.fork()
        if not pid:
            counts, faults = fuzz(kind, seeds, limit)
            json.dump([counts, faults, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6], said)
            said.flush()
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        said.seek(0)
        if code:
            return Counter(crash=1), [(seeds[0], 'crash', f'exit code {code}')], 0.0
        counts, faults, memory = json.load(said)
        return Counter(counts), faults, memory


def main():
    "Print a table; exit code 1 if anything but a right result or a sentence came out."
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--inputs', type=int, default=5000)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--only', help='one kind')
    parser.add_argument('--show', type=int, default=3, help='faults to show of each kind')
    options = parser.parse_args()
    names = 'right refused traceback silently-wrong hang files-left no-sentence crash'.split()
    print(f'{"":26}' + ''.join(f'{n:>15}' for n in names) + f'{"GB":>8}')
    total, shown = Counter(), []
    for kind, n in shares(options.inputs).items():
        if options.only not in (None, kind):
            continue
        seeds = [options.seed * 10**6 + k for k in range(n)]
        counts, faults, memory = in_a_process(kind, seeds, 20)
        if memory > 4:
            counts['hang'] += 1
            faults.append((seeds[0], 'more than 4 GB', f'{memory:.1f} GB'))
        total += counts
        shown += [(kind, *fault) for fault in faults[: options.show]]
        row = ''.join(f'{counts[n.replace("-", " ")]:15d}' for n in names)
        print(f'{kind:26}{row}{memory:8.1f}', flush=True)
    print(f'{"sum":26}' + ''.join(f'{total[n.replace("-", " ")]:15d}' for n in names))
    for kind, seed, fault, where in shown:
        print(f'\n{kind}, seed {seed}: {fault}\n{where}')
    sys.exit(bool(shown))


if __name__ == '__main__':
    signal.signal(signal.SIGALRM, _alarm)
    main()
