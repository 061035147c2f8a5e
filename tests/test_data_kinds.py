"One right value for each kind of fault that folders of images and masks have."

import json
import re
import unicodedata

import nibabel as nib
import numpy as np
import pytest
import tifffile
from PIL import Image

from snetlib.core import BadSetting, SnetError, UnreadableFile, WrongLabels
from snetlib.data.check import check
from snetlib.data.config import read_config
from snetlib.data.files import read_image, read_mask
from snetlib.data.sets.folder import folder_set
from snetlib.data.sets.monuseg import find, read
from snetlib.evaluate import evaluate_files, mask_files
from snetlib.predict.inputs import find_images

RNG = np.random.default_rng(0)


def block(a=20, b=40, value=1):
    y = np.zeros((64, 64), np.uint8)
    y[a:b, a:b] = value
    return y


def picture(path, x=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 255, (64, 64)).astype(np.uint8) if x is None else x).save(path)


def folder(root, mask='{}.png', n=4, y=None):
    for k in range(n):
        picture(root / 'images' / f'c{k}.png')
        picture(root / 'masks' / mask.format(f'c{k}'), block() if y is None else y)
    return root


def said(root, **settings):
    (root / 'dataset.json').write_text(json.dumps(settings), encoding='utf-8')


# ---- masks under other names


@pytest.mark.parametrize('end', ['_seg', '-mask', '_GT', '_Segmentation', '.mask', '_lesion', ' copy'])
def test_the_cure_for_masks_with_an_ending_of_their_own_works(end, tmp_path):
    folder(tmp_path, '{}' + end + '.png')
    with pytest.raises(BadSetting) as e:
        folder_set(tmp_path)
    cure = re.search(r'"mask_suffix": "(.*?)"', str(e.value))
    said(tmp_path, mask_suffix=cure[1])
    ds = folder_set(tmp_path)
    assert all(ds.load(i).label.sum() == 400 for i in ds.items(tmp_path))


def test_one_mask_with_another_ending_is_to_be_renamed(tmp_path):
    folder(tmp_path)
    (tmp_path / 'masks' / 'c2.png').rename(tmp_path / 'masks' / 'c2-new.png')
    with pytest.raises(BadSetting, match='rename it to c2') as e:
        folder_set(tmp_path)
    assert 'mask_suffix' not in str(e.value)


def test_a_longer_name_is_not_an_ending(tmp_path):
    for name in ('p1', 'p1_2'):
        picture(tmp_path / 'images' / f'{name}.png')
    picture(tmp_path / 'masks' / 'p1_2.png', block())
    items = {i.id: i for i in folder_set(tmp_path).items(tmp_path)}
    assert items['p1'].label is None and items['p1_2'].label.name == 'p1_2.png'


# ---- names


def test_a_pattern_in_decomposed_letters_finds_patients(tmp_path):
    name = unicodedata.normalize('NFD', 'Zoë')
    for k in range(2):
        picture(tmp_path / 'images' / f'{name}_{k}.png')
        picture(tmp_path / 'masks' / f'{name}_{k}.png', block())
    said(tmp_path, group=f'^{name}')
    composed = unicodedata.normalize('NFC', name)
    assert {i.group for i in folder_set(tmp_path).items(tmp_path)} == {composed}


def test_a_pattern_that_finds_no_patient_is_refused(tmp_path):
    folder(tmp_path)
    said(tmp_path, group='patient[0-9]+')
    with pytest.raises(BadSetting, match='finds no patient in the name c0'):
        folder_set(tmp_path)


# ---- files of unread kinds


def test_unread_kinds_are_named_wherever_they_lie(tmp_path):
    for name in ('pred', 'images', 'truth'):
        (tmp_path / name).mkdir()
    Image.fromarray(block()).save(tmp_path / 'pred' / 'c0.gif')
    picture(tmp_path / 'truth' / 'c0.png', block())
    with pytest.raises(UnreadableFile, match='gif.*PNG'):
        evaluate_files(tmp_path / 'pred', tmp_path / 'truth', tmp_path / 'out', progress=False)
    Image.fromarray(block()).save(tmp_path / 'truth' / 'c1.webp')
    with pytest.raises(UnreadableFile, match='webp'):
        mask_files(tmp_path / 'truth')
    (tmp_path / 'images' / 'c0.jp2').write_bytes(b'x')
    (tmp_path / 'masks').mkdir()
    with pytest.raises(UnreadableFile, match='jp2'):
        folder_set(tmp_path)
    picture(tmp_path / 'truth' / 'c1.png')
    assert [f.name for f in find_images([tmp_path / 'pred'])] == ['c0.gif']
    assert [f.name for f in find_images([tmp_path / 'truth'])] == ['c0.png', 'c1.png']


# ---- what a mask holds


def test_a_shape_in_the_alpha_of_sixteen_bits(tmp_path):
    x = np.zeros((64, 64, 4), np.uint16)
    x[..., 3] = 65535 * block().astype(np.uint16)
    tifffile.imwrite(tmp_path / 'a.tif', x, photometric='rgb', extrasamples=['unassalpha'])
    assert np.array_equal(read_mask(tmp_path / 'a.tif').label[0] > 0, block() > 0)


def test_probabilities_need_a_threshold_and_the_cure_works(tmp_path):
    for k in range(3):
        picture(tmp_path / 'images' / f'c{k}.png')
        (tmp_path / 'masks').mkdir(exist_ok=True)
        p = RNG.random((64, 64)).astype(np.float32)
        tifffile.imwrite(tmp_path / 'masks' / f'c{k}.tif', p)
    with pytest.raises(WrongLabels, match='probabilities') as e:
        folder_set(tmp_path)
    cure = re.search(r'"threshold": (\d+\.\d+)', str(e.value))
    said(tmp_path, threshold=float(cure[1]))
    assert 0.48 < check('folder', tmp_path)['classes']['object']['share'] < 0.52


def test_a_fourth_axis_of_metaimage_is_read_from_memory_that_still_lives(tmp_path):
    sitk = pytest.importorskip('SimpleITK')
    y = np.stack([block()] * 3)
    sitk.WriteImage(sitk.JoinSeries([sitk.GetImageFromArray(y)]), str(tmp_path / 'a.mha'))
    for _ in range(5):
        assert np.array_equal(read_mask(tmp_path / 'a.mha').label.sum(), y.sum())


def regions(*boxes):
    "An ImageScope file of squares (from, to, hole)."
    text = ''
    for a, b, hole in boxes:
        corners = ((a, a), (b, a), (b, b), (a, b))
        shape = ''.join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in corners)
        text += f'<Region NegativeROA="{hole}"><Vertices>{shape}</Vertices></Region>'
    return f'<Annotations><Annotation><Regions>{text}</Regions></Annotation></Annotations>'


@pytest.mark.parametrize(
    ['boxes', 'pixels'],
    [
        ([(10, 50, 0), (20, 40, 1)], 1600 - 400),
        ([(20, 40, 1), (10, 50, 0)], 1600 - 400),
        ([(10, 50, 0), (20, 40, 1), (25, 35, 0)], 1600 - 400 + 100),
        ([(10, 30, 0), (40, 50, 1)], 400),
    ],
)
def test_holes_are_cut_out_and_a_nucleus_in_a_hole_stays(boxes, pixels, tmp_path):
    picture(tmp_path / 'a.tif', np.zeros((64, 64, 3), np.uint8))
    (tmp_path / 'a.xml').write_text(regions(*boxes))
    (item,) = find(tmp_path)
    assert read(item).label.sum() == pixels


# ---- dataset.json


SLIPS = [
    *(dict(class_names=[]), dict(class_names=['background']), dict(class_names=['a', 'a'])),
    *(dict(class_names=['background', 5]), dict(values={}), dict(values={'0': 0, '255': -1})),
    *(
        dict(values={'0': 0, '255': 1.5}),
        dict(values={'0': 0, '255': '1'}),
        dict(values={'0': 0, '255': True}),
    ),
    *(dict(values={'0': 0, '255': 1.0}), dict(threshold=float('nan')), dict(threshold=[127])),
    *(dict(colours={'#000': 0}), dict(colours=['#000000']), dict(instances=1), dict(instances='yes')),
    *(dict(axis=3), dict(axis=True), dict(axis=1.0), dict(axis='2'), dict(group=5), dict(group='')),
    *(dict(group='('), dict(images='../x'), dict(mask_suffix=5), dict(channels=0), dict(channels=2.0)),
    *(dict(channels='3'), dict(intensity={}), dict(intensity={'kind': 'windw'}), dict(licence=5)),
    *(dict(intensity={'kind': 'window', 'lo': 5, 'hi': 1}), dict(intensity={'kind': 'window'})),
    *(dict(intensity={'kind': 'percentile', 'lo': -1, 'hi': 100}), dict(valuse={'0': 0})),
    *(dict(intensity={'kind': 'window', 'lo': float('-inf'), 'hi': 1}),),
]


@pytest.mark.parametrize('slip', SLIPS, ids=json.dumps)
def test_slips_are_one_sentence_that_names_the_key(slip, tmp_path):
    said(tmp_path, **slip)
    with pytest.raises(BadSetting) as e:
        read_config(tmp_path)
    assert next(iter(slip)) in str(e.value) and '\n' not in str(e.value)


def test_a_key_that_is_there_twice_is_refused(tmp_path):
    for text in ('{"threshold": 127, "threshold": 5}', '{"values": {"0": 0, "255": 1, "255": 2}}'):
        (tmp_path / 'dataset.json').write_text(text)
        with pytest.raises(UnreadableFile, match='twice'):
            read_config(tmp_path)


# ---- every printed cure is followed


def volumes(root, value):
    for k in range(3):
        for name, x in (('images', RNG.normal(99, 9, (20, 20, 3))), ('masks', value * np.ones((20, 20, 3)))):
            (root / name).mkdir(parents=True, exist_ok=True)
            x = x.astype(np.float32)
            if name == 'masks':
                x[:10] = 0
            nib.save(nib.Nifti1Image(x, np.eye(4)), root / name / f'c{k}.nii.gz')


def coloured(root):
    y = np.zeros((64, 64, 3), np.uint8)
    y[20:40, 20:40, 0] = 255
    folder(root, y=y)


def two_codings(root):
    folder(root, y=block(value=255))
    picture(root / 'masks' / 'c1.png', block())


CURES = [
    (lambda root: volumes(root, 0.9999), 'labels must be rounded'),
    (lambda root: folder(root, y=block(value=77) + 5 * block(50, 60)), 'numbers up to 77'),
    (lambda root: folder(root, y=np.full((64, 64), 3, np.uint8)), 'no background'),
    (coloured, 'mask in colours'),
    (two_codings, '0 and 255'),
]


@pytest.mark.parametrize(['make', 'why'], CURES, ids=[why for _, why in CURES])
def test_the_cure_that_check_prints_leads_on(make, why, tmp_path):
    make(tmp_path)
    seen = set()
    for _ in range(4):
        try:
            problems = check('folder', tmp_path)['problems']
            text = ' '.join(p['what'] for p in problems)
        except SnetError as e:
            text = str(e)
        assert why in text or seen, text
        assert text not in seen, 'the cure changed nothing'
        seen.add(text)
        cure = re.search(r'"(values|colours|threshold)": (\{[^{}]*\}|[\d.]+)', text)
        if cure is None:
            break
        said(tmp_path, **{cure[1]: json.loads(cure[2])})
    assert 'Traceback' not in text and (not text or 'class' in text)


def test_the_same_image_in_every_coding_of_the_axes(tmp_path):
    x = RNG.integers(0, 99, (3, 20, 24)).astype(np.uint8)
    tifffile.imwrite(tmp_path / 'a.tif', x, photometric='minisblack')
    nib.save(nib.Nifti1Image(x.T, np.eye(4)), tmp_path / 'a.nii.gz')
    assert np.array_equal(*(read_image(tmp_path / f).image for f in ('a.tif', 'a.nii.gz')))
