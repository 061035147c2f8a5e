"""Folders as people have them, drawn at random: the labels are right, or the folder is refused.

SNET_EXAMPLES=300 draws other and more folders than the usual ones."""

import json
import os
import tempfile
import unicodedata
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from snetlib.core import SnetError
from snetlib.data.sets.folder import folder_set

SIDE = (20, 26)
RED, GREEN = [200, 0, 0], [0, 200, 0]


def truth(k, three, empty):
    "The classes of case k, all different: a block of class 1, and one of class 2 if there are three."
    y = np.zeros(SIDE, np.uint8)
    if not empty:
        y[2:11, 1 + k : 10 + k] = 1
        if three:
            y[12:18, 3 + k : 12 + k] = 2
    return y


# how a mask of classes is stored: (three classes?, what dataset.json must say, pixels)


def grey(*numbers):
    return lambda y: Image.fromarray(np.array(numbers, np.uint8)[y])


def palette(*colours):
    def draw(y):
        picture = Image.fromarray(y, 'P')
        picture.putpalette(np.array(colours, np.uint8).ravel().tolist())
        return picture

    return draw


def in_colours(y):
    return Image.fromarray(np.array([[0, 0, 0], RED, GREEN], np.uint8)[y])


def in_alpha(y):
    return Image.fromarray(np.dstack([np.zeros((*y.shape, 3), np.uint8), y * 255]), 'RGBA')


def numbered(y):
    return Image.fromarray(
        np.where(y > 0, 1 + np.arange(y.size).reshape(y.shape) // 130, 0).astype(np.uint16)
    )


def one_bit(y):
    return Image.fromarray(y * 255).convert('1')


COLOURS = {'#000000': 0, '#c80000': 1, '#00c800': 2}
NAMES = ['background', 'a', 'b']
KINDS = {  # name: (three classes, settings without which it may be refused, how it is drawn)
    '0/1': (False, {}, grey(0, 1)),
    '0/255': (False, {}, grey(0, 255)),
    '1/2': (False, {}, grey(1, 2)),
    '0/1/2': (True, {}, grey(0, 1, 2)),
    '0/128/255': (True, {'values': {'0': 0, '128': 1, '255': 2}}, grey(0, 128, 255)),
    '0/2/1': (True, {'values': {'0': 0, '2': 1, '1': 2}, 'class_names': NAMES}, grey(0, 2, 1)),
    'inverted': (False, {'values': {'255': 0, '0': 1}}, grey(255, 0)),
    'one bit': (False, {}, one_bit),
    'palette': (True, {}, palette([0, 0, 0], RED, GREEN)),
    'palette on white': (
        True,
        {'colours': {'#ffffff': 0, '#c80000': 1, '#00c800': 2}},
        palette([255] * 3, RED, GREEN),
    ),
    'black and white palette': (False, {}, palette([0] * 3, [255] * 3)),
    'colours': (True, {'colours': COLOURS}, in_colours),
    'alpha': (False, {}, in_alpha),
    'objects': (False, {'instances': True}, numbered),
}
AS_SAID = {'0/2/1', 'inverted', 'objects'}  # without settings these mean something else, and nobody can tell
MASKS = ('png', 'tif', 'bmp', 'jpg', 'nii.gz', 'npz')
HOLDS_NOT = {'jpg': ('P', 'RGBA', 'I;16'), 'bmp': ('RGBA', 'I;16')}  # then it is saved as PNG
IMAGES = ('png', 'jpg', 'tif', 'bmp', 'nii.gz', 'npz')
NAMED = [
    *('case 1', 'Zoë', unicodedata.normalize('NFD', 'Zoë 2'), 'NA', '007', 'a.b', 'p1_slice_1'),
    *('p1_slice_2', 'x_0000', 'x_0001', '=1+1', 'c_mask', 'c', '1e5', 'CAPITAL', "it's"),
]


def stored(picture, path):
    "Save a drawn mask in the format of the name. Volumes hold what the picture's numbers are."
    numbers = np.asarray(picture)
    if path.name.endswith('.nii.gz'):
        nib.save(nib.Nifti1Image(numbers.T[..., None].astype(np.float32), np.diag([-1, -1, 2, 1.0])), path)
    elif path.suffix == '.npz':
        np.savez(path, label=numbers)
    else:
        ending = path.suffix[1:]
        if picture.mode in HOLDS_NOT.get(ending, ()):
            path = path.parent / f'{path.name.removesuffix(ending)}png'
        picture.save(path, **({'quality': 95} if path.suffix == '.jpg' else {}))


def image(k, path):
    "A picture, a volume of one slice or an array; all of the size of the masks."
    x = np.random.default_rng(k).integers(0, 255, SIDE, np.uint8)
    if path.name.endswith('.nii.gz'):
        nib.save(nib.Nifti1Image(x.T[..., None].astype(np.int16), np.diag([-1, -1, 2, 1.0])), path)
    elif path.suffix == '.npz':
        np.savez(path, image=x)
    else:
        Image.fromarray(x).save(path)


@st.composite
def own_folder(draw):
    "What decides a folder: kind of masks, formats, names, layout, splits, and what is said."
    return dict(
        kind=draw(st.sampled_from(list(KINDS))),
        said=draw(st.booleans()),
        names=draw(st.lists(st.sampled_from(NAMED), min_size=2, max_size=5, unique=True)),
        image=draw(st.sampled_from(IMAGES)),
        masks=draw(st.lists(st.sampled_from(MASKS), min_size=1, max_size=2)),
        suffix=draw(st.sampled_from(['', '', '_mask', '_gt'])),
        suffix_said=draw(st.booleans()),
        layout=draw(st.sampled_from(['flat', 'flat', 'labels', 'parts'])),
        empty=draw(st.booleans()),
        split=draw(st.sampled_from([None, 'good', 'typo', 'twice'])),
        instead=draw(st.sampled_from([None, None, None, 'missing mask', 'two masks', 'other size'])),
    )


def sides(f, root):
    "(folder of images, folder of masks, part) of each case."
    for k in range(len(f['names'])):
        part = ('train', 'test')[k % 2] if f['layout'] == 'parts' else ''
        yield root / part / 'images', root / part / ('labels' if f['layout'] == 'labels' else 'masks')


def build(f, root):
    "Write the folder; {name in NFC: its true classes}."
    three, needed, draw = KINDS[f['kind']]
    made = {}
    for k, (name, (images, masks)) in enumerate(zip(f['names'], sides(f, root))):
        y = truth(k, three, f['empty'] and k == 0)
        for folder in (images, masks):
            folder.mkdir(parents=True, exist_ok=True)
        image(k, images / f'{name}.{f["image"]}')
        first = k == 0
        if not (first and f['instead'] == 'missing mask'):
            drawn = y[:-3] if first and f['instead'] == 'other size' else y
            stored(draw(drawn), masks / f'{name}{f["suffix"]}.{f["masks"][k % len(f["masks"])]}')
        if first and f['instead'] == 'two masks':
            other = 'npz' if 'npz' not in f['masks'] else 'tif'
            stored(draw(y[:, ::-1]), masks / f'{name}{f["suffix"]}.{other}')
        made[unicodedata.normalize('NFC', name)] = y
    said = dict(needed) if f['said'] else {}
    if f['suffix'] and f['suffix_said']:
        said['mask_suffix'] = f['suffix']
    if said:
        (root / 'dataset.json').write_text(json.dumps(said))
    write_split(f, root, list(made))
    return made


def write_split(f, root, names):
    if f['split'] is None:
        return
    lists = {'train': names[1:], 'valid': [], 'test': names[:1]}
    if f['split'] == 'typo':
        lists['train'] = [*lists['train'], 'nobody']
    if f['split'] == 'twice':
        lists['train'] = [*lists['train'], names[0]]
    (root / 'splits').mkdir()
    text = ''.join(f'[{part}]\n' + ''.join(f'{n}\n' for n in ids) for part, ids in lists.items())
    (root / 'splits' / 'mine.txt').write_text(text, encoding='utf-8')


def wrong(f, root, made):
    "What is wrong with the labels or the parts that are read; SnetError where it is refused."
    ds = folder_set(root)
    items = ds.items(root)
    if sorted(i.id for i in items) != sorted(made):
        return f'the cases are {[i.id for i in items]}'
    for item in items:
        label, y = ds.load(item).label, made[item.id]
        if label is None and item.label is None:
            continue  # prepare and check say so
        if f['image'] == 'nii.gz':
            y = y[::-1, ::-1]  # stored from the patient's left and front
        share = float((label[0] != y).mean())
        if share > (0.05 if item.label.suffix == '.jpg' else 0):
            return f'{item.id}: {share:.0%} of the pixels have another class'
    parts = {part: sorted(i.id for i in members) for part, members in ds.parts(items).items()}
    if f['split'] == 'good' and f['layout'] != 'parts':
        if parts['test'] != [next(iter(made))] or parts['train'] != sorted(list(made)[1:]):
            return f'the parts are {parts}'
    ids = [i for members in parts.values() for i in members]
    return 'a case is in two parts' if len(ids) != len(set(ids)) else None


def is_clear(f):
    "Whether nothing about a folder is open to doubt, so that it must be accepted."
    three, needed, _ = KINDS[f['kind']]
    pictures = {'png', 'tif', 'bmp'}
    plain = set(f['masks']) <= pictures and f['image'] in pictures | {'jpg'}
    if f['kind'] in ('palette', 'palette on white', 'alpha', 'objects'):
        plain = plain and set(f['masks']) == {'png'}
    if f['kind'] == 'black and white palette':
        plain = plain and 'bmp' not in f['masks']  # Pillow takes its bytes for bits
    said = f['said'] or not needed
    return plain and said and f['instead'] is None and f['split'] in (None, 'good') and not f['suffix']


MORE = int(os.environ.get('SNET_EXAMPLES', 0))


@settings(
    max_examples=MORE or 40,
    derandomize=not MORE,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(own_folder())
def test_labels_are_right_or_the_folder_is_refused(f):
    if f['kind'] in AS_SAID:
        f['said'] = True
    with tempfile.TemporaryDirectory() as d:
        made = build(f, Path(d))
        try:
            fault = wrong(f, Path(d), made)
        except SnetError as e:
            assert '\n' not in str(e)
            assert not is_clear(f), f'refused, and nothing is wrong with it: {e}'
            return
        assert fault is None, fault


@pytest.mark.parametrize('kind', KINDS)
def test_every_kind_is_read_where_nothing_is_in_doubt(kind, tmp_path):
    f = dict(kind=kind, said=True, names=['a', 'b', 'c'], image='png', masks=['png'], suffix='')
    f |= dict(suffix_said=False, layout='flat', empty=False, split='good', instead=None)
    made = build(f, tmp_path)
    assert is_clear(f) and wrong(f, tmp_path, made) is None
