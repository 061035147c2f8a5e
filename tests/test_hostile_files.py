"Inputs that were read wrongly without a word, or ended in a traceback: the right value, or one sentence."

import json
import math
import os
import resource
import signal
from types import SimpleNamespace

import h5py
import nibabel as nib
import numpy as np
import pytest
import torch
from jsonschema import Draft202012Validator
from PIL import Image

from snetlib.claims import FolderClaim
from snetlib.core import BadSetting, SnetError, UnreadableFile, WrongLabels, schema_check
from snetlib.data.cache import open_cache
from snetlib.data.check import check
from snetlib.data.clinic import write_series
from snetlib.data.config import SETTINGS, check_settings, json_schema, read_config
from snetlib.data.dataset import read_index, safe_name
from snetlib.data.files import read_case, read_image, read_mask, settle_labels
from snetlib.data.nifti import is_place
from snetlib.data.prepare import prepare
from snetlib.data.sets.acdc import ed_es
from snetlib.data.sets.folder import folder_set
from snetlib.data.splitting import read_split
from snetlib.evaluate import ScoredPair, evaluate_files, score_cases
from snetlib.predict.export import Exported, file_hashes
from snetlib.predict.predictor import Predictor, find_images, read_rules
from snetlib.predict.summary import write_summary
from snetlib.reproduce.queue import finished, run_name
from snetlib.train.run import read_run_config
from snetlib.weights import DamagedFile, load_tensors, load_weights

RNG = np.random.default_rng(0)
DISC = np.zeros((20, 24), np.uint8)
DISC[5:12, 6:16] = 1


def picture(path, x):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(x).save(path)


def grey():
    return RNG.integers(0, 255, (20, 24)).astype(np.uint8)


def pictures(root, n=4, mask=DISC * 255):
    for k in range(n):
        picture(root / 'images' / f'c{k}.png', grey())
        picture(root / 'masks' / f'c{k}.png', mask)
    return root


NO_NUMBERS = [
    np.full((20, 24), 'a'),
    np.ones((20, 24), complex),
    np.zeros((20, 24), 'M8[s]'),
    np.zeros((20, 24), [('a', 'u1')]),
    np.zeros((20, 24), 'V4'),
]


@pytest.mark.parametrize('x', NO_NUMBERS, ids=lambda x: str(x.dtype))
@pytest.mark.parametrize('key', ['image', 'label'])
def test_arrays_of_other_things_than_numbers(x, key, tmp_path):
    np.savez(tmp_path / 'a.npz', **{'image': grey(), 'label': DISC, key: x})
    with pytest.raises(UnreadableFile, match=f"holds '{key}' as .* no plain numbers"):
        read_case(tmp_path / 'a.npz')


def test_words_beside_the_image_are_left_out(tmp_path):
    x = grey()
    np.savez(tmp_path / 'a.npz', image=x, label=DISC, patient='Ann')
    case = read_case(tmp_path / 'a.npz')
    assert np.array_equal(case.image[0], x) and np.array_equal(case.label[0], DISC)


@pytest.mark.parametrize('end', ['npz', 'h5'])
def test_a_label_alone_is_never_the_image(end, tmp_path):
    if end == 'npz':
        np.savez(tmp_path / 'a.npz', label=DISC)
    else:
        with h5py.File(tmp_path / 'a.h5', 'w') as f:
            f['label'] = DISC
    with pytest.raises(UnreadableFile, match="no array 'image'"):
        read_image(tmp_path / f'a.{end}')


def test_an_image_of_words_in_an_h5_is_not_replaced_by_the_label(tmp_path):
    with h5py.File(tmp_path / 'a.h5', 'w') as f:
        f['image'], f['label'] = np.array(['a', 'b'], 'S2'), DISC
    with pytest.raises(UnreadableFile, match="'image' as"):
        read_case(tmp_path / 'a.h5')
    with h5py.File(tmp_path / 'b.h5', 'w') as f:
        f['image'], f['label'] = h5py.Empty('f'), DISC
    with pytest.raises(UnreadableFile, match='without any number'):
        read_case(tmp_path / 'b.h5')


@pytest.mark.parametrize('label', [np.array(1), np.ones(5), np.ones((1, 1, 1, 20, 24))])
def test_a_mask_of_another_rank_is_no_mask_in_colours(label, tmp_path):
    np.savez(tmp_path / 'a.npz', image=grey(), label=label)
    with pytest.raises(UnreadableFile, match='mask of the shape'):
        read_case(tmp_path / 'a.npz')


GEOMETRY = [
    dict(spacing=['a', 'b', 'c']),
    dict(spacing=[np.inf, 1, 1]),
    dict(spacing=[1j, 1, 1]),
    dict(affine=np.full((4, 4), 'a')),
    dict(affine=np.zeros((4, 4))),
    dict(affine=np.diag([1.0, 1, 0, 1])),
    dict(affine=np.eye(4) * 1j),
    dict(affine=np.eye(4) * 2),
]


@pytest.mark.parametrize('facts', GEOMETRY, ids=str)
def test_a_place_that_is_none(facts, tmp_path):
    facts = {key: np.array(value) for key, value in facts.items()}
    np.savez(tmp_path / 'a.npz', image=RNG.random((4, 20, 24)), **facts)
    with pytest.raises(UnreadableFile, match='spacing|affine'):
        read_image(tmp_path / 'a.npz')


def test_nanometres_are_a_place():
    assert is_place(np.diag([5e-6, 5e-6, 5e-6, 1]))
    assert not is_place(np.diag([1, 1, 1e-30, 1]))
    assert not is_place(np.array([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))


@pytest.mark.parametrize('one', [1 + 1e-6, 1 - 1e-6])
def test_a_rounded_1_is_1_and_0_999_is_asked(one, tmp_path):
    y = DISC[..., None].repeat(3, -1)
    nib.save(nib.Nifti1Image((y * one).astype(np.float32), np.eye(4)), tmp_path / 'm.nii.gz')
    labels = settle_labels([tmp_path / 'm.nii.gz'])
    assert read_mask(tmp_path / 'm.nii.gz', labels).label.sum() == y.sum()
    nib.save(nib.Nifti1Image((y * 0.999).astype(np.float32), np.eye(4)), tmp_path / 'n.nii.gz')
    with pytest.raises(WrongLabels, match='"0.999": 1'):
        settle_labels([tmp_path / 'n.nii.gz'])


def test_infinity_inside_is_not_called_background(tmp_path):
    y = np.where(DISC[..., None].repeat(3, -1), np.inf, 0).astype(np.float32)
    nib.save(nib.Nifti1Image(y, np.eye(4)), tmp_path / 'm.nii.gz')
    np.savez(tmp_path / 'a.npz', image=grey(), label=y[..., 0])
    for read in (lambda: read_mask(tmp_path / 'm.nii.gz'), lambda: read_case(tmp_path / 'a.npz')):
        with pytest.raises(UnreadableFile, match='infinity and 0'):
            read()
    outside = np.where(DISC[..., None].repeat(3, -1), 1, np.inf).astype(np.float32)
    nib.save(nib.Nifti1Image(outside, np.eye(4)), tmp_path / 'o.nii.gz')
    assert read_mask(tmp_path / 'o.nii.gz').label.sum() == 3 * DISC.sum()


def test_minus_1_and_0_are_asked_and_the_cure_works(tmp_path):
    root = tmp_path / 'raw'
    for k in range(3):
        (root / 'images').mkdir(parents=True, exist_ok=True)
        (root / 'masks').mkdir(exist_ok=True)
        x, y = RNG.random((20, 24, 3)), -DISC[..., None].repeat(3, -1).astype(np.int8)
        nib.save(nib.Nifti1Image(x.astype(np.float32), np.eye(4)), root / f'images/c{k}.nii.gz')
        nib.save(nib.Nifti1Image(y, np.eye(4)), root / f'masks/c{k}.nii.gz')
    with pytest.raises(WrongLabels, match='"values": {"0": 0, "-1": 1}'):
        folder_set(root)
    ds = folder_set(root, dict(values={'0': 0, '-1': 1}))
    assert ds.load(ds.items(root)[0]).label.sum() == 3 * DISC.sum()


@pytest.mark.parametrize('read', [read_image, read_mask])
def test_an_animated_png_is_not_read_in_part(read, tmp_path):
    more = [Image.fromarray(grey())]
    Image.fromarray(grey()).save(tmp_path / 'a.png', save_all=True, append_images=more)
    with pytest.raises(UnreadableFile, match='animated PNG of 2 pictures'):
        read(tmp_path / 'a.png')


def test_a_folder_that_is_not_there_is_said_so(tmp_path):
    for read in (folder_set, read_image):
        with pytest.raises(UnreadableFile, match='nowhere does not exist'):
            read(tmp_path / 'nowhere')
    (tmp_path / 'file').write_text('x')
    with pytest.raises(UnreadableFile, match='a file where a folder is needed'):
        folder_set(tmp_path / 'file')


def test_a_mask_without_an_image_is_said(tmp_path):
    root = pictures(tmp_path / 'raw')
    (root / 'images/c1.png').unlink()
    notes = prepare('folder', root, tmp_path / 'out')['notes']
    assert any('one file belongs to no case' in n and 'c1.png' in n for n in notes)


@pytest.mark.parametrize('inside', ['images', 'masks', 'images/new'])
def test_nothing_is_prepared_among_the_raw_images(inside, tmp_path):
    root = pictures(tmp_path / 'raw')
    before = sorted(root.rglob('*'))
    with pytest.raises(BadSetting, match='among the raw files'):
        prepare('folder', root, root / inside)
    assert sorted(root.rglob('*')) == before
    assert len(prepare('folder', root, root / 'ready')['written']) == 4  # beside them is fine


@pytest.mark.parametrize(
    'values, what',
    [
        ({'0': 1, '255': 1}, "every mask is full of the class 'class 1'"),
        ({'0': 0, '255': 2}, "no mask shows the class 'class 1'"),
    ],
)
def test_a_class_everywhere_or_nowhere_is_said(values, what, tmp_path):
    root = pictures(tmp_path / 'raw')
    notes = prepare('folder', root, tmp_path / 'out', config=dict(values=values))['notes']
    assert any(what in note for note in notes)
    right = prepare('folder', root, tmp_path / 'right')['notes']
    assert not any('the class' in note for note in right)


SLIPS = [
    dict(values={'0': 0, '1e999': 1}),
    dict(values={'0': 0, '9' * 400: 1}),
    dict(values={'0': 0, '0.0': 1, '255': 1}),
    dict(colours={'#ff0000': 1, '#FF0000': 2, '#000000': 0}),
    dict(threshold=-1),
    dict(class_names=['background', 'a\nb']),
    dict(class_names=['background', '  ']),
    dict(intensity=dict(kind='uint8', lo=3)),
    dict(masks='images'),
    dict(images='x', masks='x'),
]


@pytest.mark.parametrize('slip', SLIPS, ids=str)
def test_more_slips_in_dataset_json(slip):
    with pytest.raises(BadSetting) as caught:
        check_settings(slip)
    assert caught.value.key in slip


def test_a_schema_named_for_an_editor_is_no_setting():
    said = {'$schema': 'https://example.org/dataset.json', 'axis': 2}
    assert check_settings(said) == {'axis': 2}
    assert Draft202012Validator(json_schema()).is_valid(said)
    assert not Draft202012Validator(json_schema()).is_valid({'$other': 'x'})


NUMBERS = (None, True, 0, 1, 3, 1.0, 2.5, -1, 64, 65, 10**400, math.inf, math.nan)
TEXTS = ('', ' ', 'a', 'a/b', '\x00', '#ffffff')
LISTS = ([], ['a', 'b'], ['a', 'a'], ['a', 1], [['a']], ['a'] * 300)
TABLES = ({}, {'0': 0}, {'0': True}, {'0': 256}, {'x': 0}, {'#ffffff': 1})
SCALES = ({'kind': 'none'}, {'kind': ['x']}, {'kind': 'none', 'lo': 'a'}, {'kind': 'none', 'x': 1})
ODD = [*NUMBERS, *TEXTS, *LISTS, *TABLES, *SCALES]


@pytest.mark.parametrize('key', SETTINGS)
def test_values_are_held_against_the_schema_as_jsonschema_would(key):
    ours, theirs = schema_check(SETTINGS[key]), Draft202012Validator(SETTINGS[key])
    answers = [ours(value) for value in ODD]
    assert answers == [theirs.is_valid(value) for value in ODD]
    assert any(ours(example) for example in SETTINGS[key]['examples'])
    assert key == 'licence' or not all(answers)


def test_a_name_does_not_end_in_a_new_line():
    assert not schema_check(SETTINGS['class_names'])(['background', 'a\n'])


@pytest.mark.parametrize('names', [('a',), ('background', ''), ('background', 'a', 'a')])
def test_every_class_to_score_has_a_name_of_its_own(names, tmp_path):
    for folder in ('pred', 'truth'):
        picture(tmp_path / folder / 'c.png', DISC * 255)
    with pytest.raises(BadSetting, match='give each a name of its own'):
        evaluate_files(tmp_path / 'pred', tmp_path / 'truth', tmp_path / 'out', names)


def test_masks_that_were_predicted_into_the_folder_are_no_images(tmp_path):
    for name in ('a.png', 'b.png', 'a_mask.png', 'a_overlay.png'):
        picture(tmp_path / name, grey())
    (tmp_path / 'predictions.csv').write_text('case,status,mask\na,done,a_mask.png\n')
    assert [f.name for f in find_images([tmp_path])] == ['a.png', 'b.png']


@pytest.mark.parametrize('name, why', [('a\tb', 'cannot be seen'), ('x' * 240, '240 letters')])
def test_a_name_is_refused_for_the_right_reason(name, why, tmp_path):
    root = pictures(tmp_path / 'raw')
    picture(root / 'images' / f'{name}.png', grey())
    picture(root / 'masks' / f'{name}.png', DISC * 255)
    with pytest.raises(SnetError, match=why):
        prepare('folder', root, tmp_path / 'out')


@pytest.mark.parametrize('white', [1, 255])
@pytest.mark.parametrize('full', [1, 255])
def test_predictions_that_are_full_everywhere_are_scored(white, full, tmp_path):
    for k in range(2):
        picture(tmp_path / 'truth' / f'c{k}.png', DISC * white)
        picture(tmp_path / 'pred' / f'c{k}.png', np.full_like(DISC, full))
    scores = evaluate_files(tmp_path / 'pred', tmp_path / 'truth', tmp_path / 'out', progress=False)
    right = 2 * DISC.sum() / (DISC.sum() + DISC.size)
    assert np.allclose(scores['dice'], right)


def test_two_sizes_of_a_voxel_are_said_and_the_first_counts(tmp_path):
    for name, step in (('truth', 1.0), ('pred', 5.0)):
        (tmp_path / name).mkdir()
        y = DISC[None].repeat(3, 0)
        np.savez(tmp_path / name / 'c.npz', label=y, spacing=np.array([step, 1, 1]))
    scores = evaluate_files(tmp_path / 'pred', tmp_path / 'truth', tmp_path / 'out', progress=False)
    assert any('1 × 1 × 1 mm' in n and '5 × 1 × 1 mm' in n for n in scores.attrs['notes'])
    assert np.allclose(scores['targ_ml'], 3 * DISC.sum() / 1000)


def test_dicom_files_beside_other_images_are_not_left_out(tmp_path):
    picture(tmp_path / 'a.png', grey())
    (tmp_path / 'b.dcm').write_bytes(b'x')
    with pytest.raises(BadSetting, match='only one kind'):
        find_images([tmp_path])
    (tmp_path / 'b.dcm').rename(tmp_path / 'a_seg.dcm')  # what a prediction of a.png may leave
    assert [f.name for f in find_images([tmp_path])] == ['a.png']


def test_a_damaged_index_is_mended_as_its_sentence_says(tmp_path):
    root, out = pictures(tmp_path / 'raw'), tmp_path / 'out'
    prepare('folder', root, out)
    (out / 'index.json').write_text('{')
    with pytest.raises(UnreadableFile, match='delete that file and prepare the set again'):
        prepare('folder', root, out)
    (out / 'index.json').unlink()
    assert len(prepare('folder', root, out)['written']) == 4


RUN = dict(
    **dict(dataset='phantom', root=None, data_kwargs={}, model='snet_tiny', model_kwargs={}),
    **dict(recipe=dict(size=64, ignore_index=255), seed=0),
    data=dict(class_names=['background', 'a'], c_in=1, n_out=2, intensity={'kind': 'uint8'}),
)
WRONG_RUNS = [
    dict(data=RUN['data'] | dict(class_names=['background', 'a', 'b'])),
    dict(data=RUN['data'] | dict(class_names=['a', 'a'])),
    dict(data=RUN['data'] | dict(intensity=dict(kind='window', lo=5, hi=5))),
    dict(data=RUN['data'] | dict(intensity=dict(kind='percentile', lo=99, hi=1))),
    dict(data_kwargs=dict(root='/elsewhere')),
    dict(data_kwargs=dict(zzz=1)),
    dict(data=RUN['data'] | dict(class_names=['background', '\ud800'])),
    dict(data=RUN['data'] | dict(class_names=['background', 'a\nb'])),
    dict(recipe=dict(size=20_000)),  # a slice of 20,000² for every slice of 64²
    dict(recipe=dict(size=64, neighbours=10**9)),
    dict(recipe=dict(size=64, neighbours='x')),
]


@pytest.mark.parametrize('wrong', WRONG_RUNS, ids=json.dumps)
def test_a_run_that_contradicts_itself_is_damaged(wrong, tmp_path):
    path = tmp_path / 'config.json'
    path.write_text(json.dumps(RUN))
    assert read_run_config(tmp_path) == RUN
    path.write_text(json.dumps(RUN | wrong))
    with pytest.raises(UnreadableFile, match='config.json is damaged'):
        read_run_config(tmp_path)


SPARSE = np.zeros((20, 24), np.float32)
SPARSE[3, 4] = 7  # one bright pixel of 480: both percentiles are 0


@pytest.mark.parametrize(
    'image, how',
    [
        (np.full((20, 24), 5, np.float32), None),
        (SPARSE, None),
        (RNG.random((20, 24)).astype(np.float32), dict(kind='window', lo=50, hi=60)),
    ],
)
def test_an_image_that_becomes_black_is_said(image, how, tmp_path):
    root = pictures(tmp_path / 'raw')
    for k in range(4):
        (root / f'images/c{k}.png').unlink()
        x = image if k == 1 or how else RNG.random((20, 24)).astype(np.float32)
        Image.fromarray(x).save(root / f'images/c{k}.tif')
    config = {} if how is None else dict(intensity=how)
    notes = prepare('folder', root, tmp_path / 'out', config=config)['notes']
    black = [note for note in notes if 'every pixel is 0' in note]
    assert len(black) == (1 if how is None else 4) and any('c1.tif' in note for note in black)
    said = check('folder', root, config=config)['notes']
    assert [n['what'] for n in said if 'every pixel' in n['what']] == sorted(black)


def test_a_dicom_series_without_a_pixel_spacing_has_no_millimetres(tmp_path):
    pydicom = pytest.importorskip('pydicom')
    write_series(RNG.integers(0, 900, (24, 20, 4)), np.eye(4), tmp_path / 'a')
    assert read_image(tmp_path / 'a').spacing == (1, 1, 1)
    for f in (tmp_path / 'a').iterdir():
        ds = pydicom.dcmread(f)
        del ds.PixelSpacing
        ds.save_as(f)
    case = read_image(tmp_path / 'a')
    assert case.spacing is None and 'PixelSpacing is missing' in case.notes[0]


# ---------------------------------------------------------------- files that never end


def never_ends(path, kind):
    "A pipe, a device, or 5 GB of which nothing is stored, under a name that is read."
    if kind == 'pipe':
        os.mkfifo(path)
    elif kind == 'device':
        path.symlink_to('/dev/zero')
    else:
        with open(path, 'wb') as f:
            f.truncate(5 << 30)
    return path


@pytest.fixture
def soon():
    "The test fails, in place of waiting for ever or of filling the memory."

    def late(number, frame):
        raise AssertionError('it waits')

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    handler = signal.signal(signal.SIGALRM, late)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, handler)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1e6, 'more than a gigabyte'


def rules_of(path):
    return read_rules(SimpleNamespace(folder=path.parent, digest='a', class_names=('a', 'b')))


READERS = {
    'config.json': lambda path: read_run_config(path.parent),
    'best.pth': load_tensors,
    'model.safetensors': load_tensors,
    'dataset.json': lambda path: read_config(path.parent),
    'index.json': lambda path: read_index(path.parent),
    'split.txt': read_split,
    'split.json': read_split,
    'postprocess.json': rules_of,
    'export.json': lambda path: Exported(path.parent).about,
    'Info.cfg': ed_es,
}
KINDS = ['pipe', 'device', 'endless']


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('name', READERS)
def test_a_file_that_never_ends_is_refused(name, kind, tmp_path, soon):
    with pytest.raises(SnetError) as caught:
        READERS[name](never_ends(tmp_path / name, kind))
    assert '\n' not in str(caught.value)


def predicted_into(folder):
    picture(folder.parent / 'c.png', DISC * 99)
    torch.manual_seed(0)
    network = torch.nn.Conv2d(1, 2, 1).eval()
    return Predictor(network, intensity=dict(kind='uint8')).files([folder.parent / 'c.png'], folder)


@pytest.mark.parametrize('kind', KINDS)
def test_what_is_written_anew_is_not_read_for_ever(kind, tmp_path, soon):
    (tmp_path / 'out').mkdir()
    never_ends(tmp_path / 'out/predictions.csv', kind)
    assert [p.status for p in predicted_into(tmp_path / 'out')] == ['done']
    assert 'c,done' in (tmp_path / 'out/predictions.csv').read_text()
    (tmp_path / 'scores/cases').mkdir(parents=True)
    never_ends(tmp_path / 'scores/cases/c.csv', kind)
    pair = ScoredPair(DISC[None], lambda: DISC[None])
    assert len(score_cases(['c'], lambda name: pair, ('background', 'a'), tmp_path / 'scores'))
    config = dict(RUN)
    (tmp_path / run_name(config)).mkdir()
    never_ends(tmp_path / run_name(config) / 'done.json', kind)
    assert finished(config, tmp_path) is None
    claim = FolderClaim(tmp_path, 'work')
    never_ends(claim.file, kind)
    assert claim.owner() == {}


@pytest.mark.parametrize('text', ['[1]', 'null', '{"config": 7}', '[' * 100_000])
def test_a_damaged_done_json_is_a_run_that_has_not_finished(text, tmp_path):
    (tmp_path / run_name(RUN)).mkdir()
    (tmp_path / run_name(RUN) / 'done.json').write_text(text)
    assert finished(RUN, tmp_path) is None


@pytest.mark.parametrize('shapes', [None, 7, [[1]], ['a'], [None], {}])
def test_a_cache_whose_index_is_of_other_things(shapes, tmp_path):
    about = dict(shapes=shapes, case_ids=['a'], class_names=['background', 'a'])
    (tmp_path / 'index.json').write_text(json.dumps(about))
    for name in ('images', 'labels'):
        np.save(tmp_path / f'{name}.npy', np.zeros(16, np.float16))
    with pytest.raises(UnreadableFile, match='damaged'):
        open_cache(tmp_path)


# ---------------------------------------------------------------- what a stranger's run says


def test_weights_that_are_no_numbers_predict_nothing(tmp_path):
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4))
    state = {key: v.clone() for key, v in network.state_dict().items()}
    load_weights(network, state, 'a file')
    state['1.running_var'][2] = float('nan')
    with pytest.raises(DamagedFile, match='NaN.*1.running_var'):
        load_weights(network, state, 'a file')


@pytest.mark.parametrize('kept', [[3], [0], [-1], ['1'], '1', [1.0], [True], [[1]], None, {'1': 1}, 1])
def test_rules_name_classes_that_there_are(kept, tmp_path):
    path = tmp_path / 'postprocess.json'
    path.write_text(json.dumps(dict(keep_largest=[1], weights='a')))
    assert rules_of(path) == (1,)
    path.write_text(json.dumps(dict(keep_largest=kept, weights='a')))
    with pytest.raises(UnreadableFile, match='damaged'):
        rules_of(path)


@pytest.mark.parametrize('wrong', [dict(config={}), dict(config=7), dict(pad=None), dict(pad=[])], ids=str)
def test_an_export_says_what_a_run_says(wrong, tmp_path):
    (tmp_path / 'network.onnx').write_bytes(b'x')
    about = dict(to='onnx', sha256=file_hashes(tmp_path, 'onnx'), pad='replicate', config=RUN)
    (tmp_path / 'export.json').write_text(json.dumps(about))
    assert Exported(tmp_path).class_names == ('background', 'a')
    (tmp_path / 'export.json').write_text(json.dumps(about | wrong))
    with pytest.raises(UnreadableFile, match='damaged'):
        Exported(tmp_path).config  # noqa: B018


@pytest.mark.parametrize('said', ['x', '.', '1.2.3', 'inf', '-1', '1e9', 'nan'])
def test_a_disagreement_that_is_no_share(said, tmp_path):
    out = tmp_path / 'out'
    predicted_into(out)
    table = (out / 'predictions.csv').read_text().splitlines()
    table = [f'{table[0]},disagreement,look', f'{table[1]},{said},yes']
    (out / 'predictions.csv').write_text('\n'.join(table))
    assert np.isnan(write_summary(out)[0].disagreement)
    (done,) = predicted_into(out)
    assert done.status == 'was there' and done.disagreement is None


@pytest.mark.parametrize('name', ['\ud800', 'a\udfffb'])
def test_half_a_letter_is_no_name(name, tmp_path):
    "JSON can write one; no file can."
    with pytest.raises(BadSetting, match='not written in UTF-8'):
        safe_name(name)
    with pytest.raises(BadSetting):
        check_settings(dict(class_names=['background', name]))


LIMITS = [('percentile', 0, 200), ('percentile', -1, 50), ('window', -np.inf, np.inf)]
LIMITS += [('window', -1e308, 1e308), ('window', np.nan, 1), ('window', 5, 1)]


@pytest.mark.parametrize('kind, lo, hi', LIMITS)
def test_limits_of_intensities_that_are_none(kind, lo, hi):
    network = torch.nn.Conv2d(1, 2, 1).eval()
    predictor = Predictor(network, intensity=dict(kind=kind, lo=lo, hi=hi))
    with pytest.raises(BadSetting, match='needs two numbers'):
        predictor.array(RNG.random((1, 20, 24)))


def test_a_window_too_narrow_for_its_numbers_makes_no_nan():
    from snetlib.data.slices import scale_intensity

    x = scale_intensity(np.float32([0, 1, 2]), dict(kind='window', lo=0, hi=1e-300))
    assert np.isfinite(x).all()
