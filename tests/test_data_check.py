"Checking: the kind of a problem follows from the type of its error; what only the whole set shows."

import json

import numpy as np
import pytest
from PIL import Image
from processes import refused, snet

from snetlib.core import GeometryMismatch, SnetError, UnreadableFile, WrongLabels
from snetlib.data.check import check, check_text, contact_sheet, kind_of_error
from snetlib.data.prepare import prepare
from snetlib.data.sets.catalogue import DATASETS, get_dataset
from snetlib.data.sets.folder import write_phantom


def kinds(report, of='problems'):
    return [f['kind'] for f in report[of]]


def set_masks(root, change):
    "Write each mask anew as `change` of its array."
    for f in sorted((root / 'masks').iterdir()):
        Image.fromarray(change(np.asarray(Image.open(f)))).save(f)


# ---------------------------------------------------------------- types decide, not words


@pytest.mark.parametrize(
    'error,kind',
    [
        (UnreadableFile('labels/x.png: no labels, no class, mask of size, 3 mm away'), 'unreadable'),
        (WrongLabels('broken file'), 'unexpected label'),
        (GeometryMismatch('broken file'), 'mismatch'),
        (SnetError('label labels'), 'unreadable'),
    ],
)
def test_the_type_of_an_error_is_the_kind_of_the_problem(error, kind):
    assert kind_of_error(error) == kind


def test_a_truncated_mask_in_a_folder_called_labels(tmp_path):
    "It cannot be read; that its path holds the word labels says nothing about its labels."
    write_phantom(tmp_path, 8)
    labels = (tmp_path / 'masks').rename(tmp_path / 'labels')
    config = dict(class_names=['background', 'disc'], values={'0': 0, '255': 1})
    (tmp_path / 'dataset.json').write_text(json.dumps(config))
    mask = labels / 'picture 03.png'
    mask.write_bytes(mask.read_bytes()[:80])
    report = check('folder', tmp_path)
    assert kinds(report) == ['unreadable']
    assert report['problems'][0]['case'] == 'picture 03'


def test_one_broken_case_among_many(tmp_path):
    raw = tmp_path / 'raw'
    DATASETS['monuseg'].write_phantom(raw, 9)
    xml = sorted(raw.rglob('*.xml'))
    xml[0].write_text('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><Annotations>&x;</Annotations>')
    tif = sorted(raw.rglob('*.tif'))[-1]
    tif.write_bytes(tif.read_bytes()[:1000])
    broken = {xml[0].stem, tif.stem}
    r = prepare('monuseg', raw, tmp_path / 'out')
    assert set(r['failed']) == broken and sum(r['parts'].values()) == 7
    report = check('monuseg', raw)
    assert not report['ok'] and {p['case'] for p in report['problems']} == broken


# ---------------------------------------------------------------- classes that cover all or nothing


CONFIG = dict(class_names=['background', 'disc'])


def test_a_class_that_covers_every_image_is_a_problem(tmp_path):
    write_phantom(tmp_path, 6)
    config = dict(CONFIG, values={'0': 1, '255': 1})
    report = check('folder', tmp_path, config=config)
    assert kinds(report) == ['class everywhere']
    assert report['classes']['disc']['share'] == 1
    (tmp_path / 'dataset.json').write_text(json.dumps(config))
    assert 'disc' in snet('check', 'folder', tmp_path, '--jobs', '1').stdout
    refused(snet('check', 'folder', tmp_path, '--jobs', '1'), '1 problems')


def test_a_class_that_no_image_shows_is_noted(tmp_path):
    write_phantom(tmp_path, 6)
    config = dict(class_names=['background', 'disc', 'polyp'], values={'0': 0, '255': 1, '7': 2})
    report = check('folder', tmp_path, config=config)
    assert report['ok']
    assert kinds(report, 'notes') == ['class nowhere']
    assert 'polyp' in report['notes'][0]['what']


def test_blank_masks_are_allowed_and_noted(tmp_path):
    write_phantom(tmp_path, 3)
    set_masks(tmp_path, np.zeros_like)
    report = check('folder', tmp_path, config=dict(CONFIG, values={'0': 0, '255': 1}))
    assert report['ok']
    assert kinds(report, 'notes') == ['empty mask'] * 3 + ['class nowhere']


def test_one_full_image_among_others_is_fine(tmp_path):
    write_phantom(tmp_path, 4)
    mask = tmp_path / 'masks' / 'picture 00.png'
    Image.fromarray(np.full((96, 128), 255, np.uint8)).save(mask)
    report = check('folder', tmp_path, config=dict(CONFIG, values={'0': 0, '255': 1}))
    assert report['ok'], check_text(report)


# ---------------------------------------------------------------- looking


@pytest.mark.parametrize('name', [n for n, d in DATASETS.items() if d.write_phantom])
def test_a_contact_sheet_of_each_kind(name, tmp_path):
    DATASETS[name].write_phantom(tmp_path / 'raw', 4)
    figure = contact_sheet(name, tmp_path / 'raw', tmp_path / 'sheet.png')
    assert sum(bool(a.images) for a in figure.axes) >= 3
    with Image.open(tmp_path / 'sheet.png') as picture:
        assert min(picture.size) > 100


def test_a_contact_sheet_leaves_broken_cases_out(tmp_path):
    write_phantom(tmp_path, 4)
    config = dict(CONFIG, values={'0': 0, '255': 1}, channels=3, intensity={'kind': 'uint8'})
    (tmp_path / 'images' / 'picture 01.png').write_bytes(b'broken')
    figure = contact_sheet('folder', tmp_path, tmp_path / 'sheet.png', config=config)
    assert sum(bool(a.images) for a in figure.axes) == 3
    for f in (tmp_path / 'images').iterdir():
        f.write_bytes(b'broken')
    with pytest.raises(UnreadableFile):
        contact_sheet('folder', tmp_path, tmp_path / 'sheet.png', config=config)


def test_a_sheet_shows_which_side_of_an_outline_is_meant(tmp_path):
    mask = np.zeros((48, 48), np.uint8)
    mask[10:30, 10:30] = 255
    for folder, value in (('images', np.full((48, 48), 128, np.uint8)), ('masks', mask)):
        (tmp_path / folder).mkdir()
        Image.fromarray(value).save(tmp_path / folder / 'a.png')
    fig = contact_sheet('folder', tmp_path, tmp_path / 'sheet.png')
    shown = np.asarray(fig.axes[0].images[0].get_array())
    assert shown[20, 20].std() > 0.01, 'inside there is a tint'
    assert shown[40, 40].std() == 0, 'outside there is none'


# ---------------------------------------------------------------- what leaks, what cannot be learnt


def slices_of_patients(root, patients=4, slices=3):
    rng, mask = np.random.default_rng(0), np.zeros((32, 32), np.uint8)
    mask[5:10, 5:10] = 255
    for folder in ('images', 'masks'):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for p in range(patients):
        for z in range(slices):
            x = rng.integers(0, 255, (32, 32), np.uint8)
            Image.fromarray(x).save(root / f'images/p{p}_slice_{z}.png')
            Image.fromarray(mask).save(root / f'masks/p{p}_slice_{z}.png')


def test_slices_of_one_patient_in_two_parts_are_said_and_the_cure_works(tmp_path):
    slices_of_patients(tmp_path)
    report = check('folder', tmp_path)
    assert report['ok'] and kinds(report, 'notes') == ['torn patient']
    (note,) = prepare('folder', tmp_path, tmp_path / 'out')['notes']
    cure = note.split('"group": "')[1].split('"')[0]
    (tmp_path / 'dataset.json').write_text(json.dumps({'group': cure}))
    assert not check('folder', tmp_path)['notes']
    parts = get_dataset('folder', tmp_path).parts(get_dataset('folder', tmp_path).items(tmp_path))
    assert {i.group for i in parts['train']}.isdisjoint(i.group for i in parts['test'])


def test_one_image_in_two_parts_and_cases_in_none_are_said(tmp_path):
    write_phantom(tmp_path, 6)
    for folder in ('images', 'masks'):
        copy = (tmp_path / folder / 'picture 00.png').read_bytes()
        (tmp_path / folder / 'picture 05.png').write_bytes(copy)
    names = [f'picture {k:02d}' for k in range(6)]
    split = tmp_path / 's.txt'
    split.write_text('\n'.join(['[train]', *names[:3], '[test]', names[5]]))
    notes = prepare('folder', tmp_path, tmp_path / 'out', str(split))['notes']
    assert notes == [
        '2 cases are in no part of the split, e.g. picture 03.',
        'picture 05 (test) and picture 00 (train) are the same image; take one of them away.',
    ]


def test_a_class_that_only_the_test_part_shows(tmp_path):
    for part, k in (('train', 1), ('test', 2)):
        write_phantom(tmp_path / part, 4, seed=k, values=(0, k))
    config = dict(class_names=['background', 'disc', 'other'])
    notes = check('folder', tmp_path, config=config)['notes']
    assert [n['kind'] for n in notes] == ['class not trained']
    assert "'other'" in notes[0]['what']


def test_numbers_out_of_range_name_their_file(tmp_path):
    write_phantom(tmp_path, 20)
    deep = tmp_path / 'images/picture 03.png'
    Image.fromarray(np.full((96, 128), 60000, np.uint16)).save(deep)
    (problem,) = check('folder', tmp_path)['problems']
    assert str(deep) in problem['what']


def test_a_sheet_is_not_drawn_over_a_mask(tmp_path):
    write_phantom(tmp_path / 'raw', 2)
    mask = tmp_path / 'raw' / 'masks' / 'picture 00.png'
    before = mask.read_bytes()
    done = snet('check', 'folder', tmp_path / 'raw', '--sheet', mask, '--jobs', 1)
    refused(done, 'choose another folder')
    assert mask.read_bytes() == before
