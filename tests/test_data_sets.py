"Data sets: dataset.json is validated, published layouts are read as they are, ids are names."

import json

import nibabel as nib
import numpy as np
import pytest
from damage import corrupt, good_files
from PIL import Image

from snetlib.core import BadSetting, SnetError, UnreadableFile, WrongLabels
from snetlib.data.config import SETTINGS, check_settings, json_schema, read_config
from snetlib.data.dataset import index_items, safe_name
from snetlib.data.sets import acdc, monuseg, polypgen
from snetlib.data.sets.catalogue import get_dataset
from snetlib.data.sets.folder import write_phantom
from snetlib.data.sets.monuseg import read_polygons
from snetlib.data.source import Source
from snetlib.data.splitting import read_split

SLIPS = [
    dict(class_names='polyp'),
    dict(class_names=['a']),
    dict(values={'0': 0, 'white': 1}),
    dict(values=[0, 255]),
    dict(values={'0': 0, '255': 2}, class_names=['background', 'polyp']),
    dict(group='p(\\d+'),
    dict(axis='z'),
    dict(axis=True),
    dict(threshold='127'),
    dict(colours={'#000000': 0, 'white': 1}),
    dict(intensity='percentile'),
    dict(intensity={'kind': 'percentile', 'lo': 99, 'hi': 1}),
    dict(intensity={'kind': 'window', 'lo': 5, 'hi': 5}),
    dict(values={'0': 0}, threshold=3),
    dict(images='../elsewhere'),
]


@pytest.mark.parametrize('slip', SLIPS, ids=str)
def test_a_slip_is_one_sentence(slip):
    with pytest.raises(BadSetting) as e:
        check_settings(slip)
    assert '\n' not in str(e.value) and e.value.key in SETTINGS


def test_unknown_keys_suggest_the_nearest():
    with pytest.raises(BadSetting, match="Did you mean 'class_names'"):
        check_settings({'clas_names': ['a', 'b']})


def test_examples_of_the_schema_are_accepted():
    for key, rule in json_schema()['properties'].items():
        assert check_settings({key: rule['examples'][0]})


@pytest.mark.parametrize('text', ['', '[]', '3', 'null', '{"a": ', '[' * 100_000])
def test_no_json_object(tmp_path, text):
    (tmp_path / 'dataset.json').write_text(text)
    with pytest.raises(UnreadableFile, match='no readable JSON object'):
        read_config(tmp_path)


def test_byte_order_marks_are_read(tmp_path):
    (tmp_path / 'dataset.json').write_text('{"axis": 1}', encoding='utf-8-sig')
    (tmp_path / 's.txt').write_text('[train]\nä\n', encoding='utf-8-sig')
    assert read_config(tmp_path) == {'axis': 1} and read_split(tmp_path / 's.txt') == {'train': ['ä']}


# ---------------------------------------------------------------- ids and splits


@pytest.mark.parametrize('id', ['../../../X', 'a/b', 'a\\b', '', '..', 'C:x', 'a\nb', 'x' * 300, None])
def test_ids_are_names_and_no_paths(tmp_path, id):
    with pytest.raises(BadSetting):
        safe_name(id)
    index = dict(dataset='x', class_names=['background', 'x'], intensity={'kind': 'none'})
    index['cases'] = {str(id): {'file': 'a.h5'}}
    (tmp_path / 'index.json').write_text(json.dumps(index))
    if id is not None:
        with pytest.raises(BadSetting):
            index_items(tmp_path)


def test_ids_of_a_split_that_no_case_bears(tmp_path):
    write_phantom(tmp_path, 4)
    split = tmp_path / 's.txt'
    split.write_text('[train]\npicture 00\n[test]\npicture 01.png\npicture 99\n')
    with pytest.raises(BadSetting, match='picture 01.png, picture 99'):
        Source('folder', tmp_path, split=str(split)).parts()


# ---------------------------------------------------------------- layouts


def test_nnunet_folder_with_two_channels(tmp_path):
    rng, target = np.random.default_rng(0), np.zeros((20, 18, 6), np.uint8)
    target[5:10, 5:10, 2:4] = 2
    for folder, names in (('imagesTr', ('c{}_0000', 'c{}_0001')), ('labelsTr', ('c{}',))):
        (tmp_path / folder).mkdir()
        for k in range(3):
            for name in names:
                x = target if folder == 'labelsTr' else rng.normal(100, 9, target.shape)
                file = tmp_path / folder / f'{name.format(k)}.nii.gz'
                nib.save(nib.Nifti1Image(x.astype(np.float32), np.eye(4)), file)
    labels = {'background': 0, 'oedema': 1, 'tumour': 2}
    about = dict(channel_names={'0': 'T1', '1': 'T2'}, labels=labels, file_ending='.nii.gz')
    (tmp_path / 'dataset.json').write_text(json.dumps(about))
    source = Source('folder', tmp_path)
    case = next(source.cases('all'))
    assert source.dataset.class_names == tuple(labels)
    assert case.image.shape == (6, 18, 20, 2) and (case.label == 2).sum() == (target == 2).sum()
    assert len(source.items()[0].files) == 3
    (tmp_path / 'imagesTr' / 'c1_0001.nii.gz').unlink()
    with pytest.raises(UnreadableFile, match='c1 lacks the channel 0001'):
        get_dataset('folder', tmp_path)


@pytest.mark.parametrize(
    'facts',
    [
        dict(channel_names={'a': 'CT'}),
        dict(channel_names={'1': 'CT'}),
        dict(labels={'background': 0, 'a': 1, 'b': 1}),
        dict(labels={'background': 0, 'a': [1, 2]}),
        dict(labels={'background': 0, 'a': 300}),
        dict(labels={'a': 1, 'b': 2}),
        dict(labels={'0': 'background', '1': 'a', '2': 'a'}),
    ],
)
def test_slips_in_the_dataset_json_of_nnunet(tmp_path, facts):
    good = dict(channel_names={'0': 'CT'}, labels={'background': 0, 'a': 1})
    (tmp_path / 'dataset.json').write_text(json.dumps(good | facts))
    with pytest.raises(BadSetting, match='labels'):
        read_config(tmp_path)
    (tmp_path / 'dataset.json').write_text(json.dumps(good))
    assert read_config(tmp_path)['class_names'] == ['background', 'a']


def test_acdc_names_the_missing_mask(tmp_path):
    acdc.write_phantom(tmp_path, 2)
    gone = next(tmp_path.rglob('patient003_frame01_gt.nii.gz'))
    gone.unlink()
    items = acdc.find(tmp_path)
    assert len(items) == 4
    with pytest.raises(UnreadableFile, match='patient003_frame01_gt.nii.gz is missing'):
        for i in items:
            acdc.read(i)


def test_acdc_frame_zero_is_refused(tmp_path):
    acdc.write_phantom(tmp_path, 1)
    info = next(tmp_path.rglob('Info.cfg'))
    info.write_text('ED: 0\nES: 7\n')
    with pytest.raises(UnreadableFile, match='does not name the frames'):
        acdc.find(tmp_path)


def test_monuseg_masks_beside_the_tissue_are_no_images(tmp_path):
    monuseg.write_phantom(tmp_path, 3)
    for f in list(tmp_path.rglob('Tissue Images/*.tif')):
        mask = f.parent.parent / 'masks' / f'{f.stem}.png'
        mask.parent.mkdir(exist_ok=True)
        Image.new('L', (256, 256)).save(mask)
    items = monuseg.find(tmp_path)
    assert len(items) == 3 and {i.image.suffix for i in items} == {'.tif'}


def test_monuseg_holes_are_holes(tmp_path):
    def box(a, b, hole):
        corners = ((a, a), (b, a), (b, b), (a, b))
        vertices = ''.join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in corners)
        return f'<Region NegativeROA="{hole}"><Vertices>{vertices}</Vertices></Region>'

    Image.new('RGB', (64, 64)).save(tmp_path / 'a.tif')
    regions = box(10, 50, 0) + box(20, 40, 1)
    text = f'<Annotations><Annotation><Regions>{regions}</Regions></Annotation></Annotations>'
    (tmp_path / 'a.xml').write_text(text)
    case = monuseg.read(monuseg.find(tmp_path)[0])
    assert case.label.sum() == 40**2 - 20**2 and case.instances.max() == 1


def test_a_hundred_outlines_of_everything_are_refused(tmp_path):
    whole = np.array([[0, 0], [999, 0], [999, 999], [0, 999.0]])
    with pytest.raises(SnetError, match='hundred times'):
        monuseg.rasterise([whole] * 200, (1000, 1000))


def test_polypgen_masks_of_0_and_1(tmp_path):
    mask = np.zeros((64, 64), np.uint8)
    mask[20:40, 20:40] = 1
    for folder, name, x in (('images', 'f.png', mask * 99), ('masks', 'f_mask.png', mask)):
        path = tmp_path / 'data_C1' / f'{folder}_C1' / name
        path.parent.mkdir(parents=True)
        Image.fromarray(x).save(path)
    case = polypgen.POLYPGEN.load(polypgen.find(tmp_path)[0])
    assert case.label.sum() == 400


# ---------------------------------------------------------------- Source


def test_a_fingerprint_follows_content_and_meaning(tmp_path):
    write_phantom(tmp_path, 4)
    first = Source('folder', tmp_path).fingerprint()
    assert Source('folder', tmp_path).fingerprint() == first
    assert Source('folder', tmp_path, seed=1).fingerprint() != first
    (tmp_path / 'dataset.json').write_text('{"values": {"0": 1, "255": 0}}')
    assert Source('folder', tmp_path).fingerprint() != first
    (tmp_path / 'dataset.json').unlink()
    mask = tmp_path / 'masks' / 'picture 00.png'
    mask.write_bytes((tmp_path / 'masks' / 'picture 01.png').read_bytes())
    assert Source('folder', tmp_path).fingerprint() != first


@pytest.mark.parametrize('facts', [dict(seed=-1), dict(val=-2), dict(seed='x')])
def test_facts_that_do_not_fit(facts):
    with pytest.raises(BadSetting):
        Source('mni', **facts)


@pytest.mark.parametrize('indent', ['', '\n\t\t', '\n   '])
def test_plain_polygons_are_those_of_the_tree(indent, tmp_path):
    "On files broken at random, the quick reader gives the tree's numbers and accepts only what it accepts."
    import defusedxml.ElementTree

    good_files(tmp_path)
    f = tmp_path / 'a.xml'
    whole = f.read_text().replace('<Vertex ', indent + '<Vertex ').encode()
    agreed = refused = 0
    for seed in range(500):
        f.write_bytes(corrupt(whole, np.random.default_rng([seed, 7])) if seed else whole)
        try:
            tree = [
                np.array([[float(v.get(k)) for k in 'XY'] for v in r.iter('Vertex')]).reshape(-1, 2)
                for r in defusedxml.ElementTree.parse(f, forbid_dtd=True).iter('Region')
            ]
        except Exception:
            tree = None
        try:
            ours = read_polygons(f)
        except SnetError:
            refused += 1
            continue
        assert tree is not None, f'corruption {seed} is broken XML and was read'
        tree = [p for p in tree if len(p) > 2]
        agreed += 1
        assert len(tree) == len(ours) and all(map(np.array_equal, tree, ours)), (
            f'corruption {seed} was read otherwise'
        )
    assert agreed > 5 and refused > 100


def test_a_folder_of_ones_own_needs_its_folder():
    with pytest.raises(SnetError, match='folder'):
        get_dataset('folder')


# ---------------------------------------------------------------- nothing is lost


def pictures_of_nnunet(root, channels, value=1):
    rng, target = np.random.default_rng(0), np.zeros((32, 32), np.uint8)
    target[5:10, 5:10] = value
    for folder in ('imagesTr', 'labelsTr'):
        (root / folder).mkdir(exist_ok=True)
    for k in range(3):
        x = rng.integers(0, 255, (32, 32, 3), np.uint8)
        Image.fromarray(x).save(root / f'imagesTr/c{k}_0000.png')
        Image.fromarray(target).save(root / f'labelsTr/c{k}.png')
    about = dict(channel_names=channels, labels={'background': 0, 'road': 1}, file_ending='.png')
    (root / 'dataset.json').write_text(json.dumps(about))


def test_one_picture_holds_all_colours_of_nnunet(tmp_path):
    pictures_of_nnunet(tmp_path, {'0': 'R', '1': 'G', '2': 'B'})
    case = next(Source('folder', tmp_path).cases('all'))
    assert case.image.shape == (1, 32, 32, 3) and case.label.sum() == 25
    pictures_of_nnunet(tmp_path, {'0': 'R', '1': 'G', '2': 'B'}, 255)
    with pytest.raises(WrongLabels, match='"labels" in dataset.json'):
        get_dataset('folder', tmp_path)


def test_a_channel_that_dataset_json_does_not_name(tmp_path):
    pictures_of_nnunet(tmp_path, {'0': 'grey'})
    (tmp_path / 'imagesTr/c1_0000.png').rename(tmp_path / 'imagesTr/c1_0001.png')
    with pytest.raises(SnetError, match='channel 0001 of c1'):
        get_dataset('folder', tmp_path)


@pytest.mark.parametrize('name', ['acdc', 'synapse'])
def test_two_cases_of_one_name_are_refused(tmp_path, name):
    ds = get_dataset(name)
    ds.write_phantom(tmp_path / 'a', 1)
    ds.write_phantom(tmp_path / 'b', 1)
    with pytest.raises(BadSetting, match='are both the case'):
        ds.items(tmp_path)


def test_a_patient_without_info_is_named(tmp_path):
    acdc.write_phantom(tmp_path, 2)
    next(tmp_path.rglob('Info.cfg')).unlink()
    with pytest.raises(UnreadableFile, match='has no Info.cfg'):
        acdc.find(tmp_path)


def test_outlines_of_another_image_are_refused(tmp_path):
    monuseg.write_phantom(tmp_path, 1)
    xml = next(tmp_path.rglob('*.xml'))
    xml.write_text(xml.read_text().replace('X="', 'X="9'))
    with pytest.raises(WrongLabels, match='outside the image of 256 × 256'):
        monuseg.read(monuseg.find(tmp_path)[0])


def test_centres_of_polypgen_in_other_letters(tmp_path):
    polypgen.write_phantom(tmp_path, 6)
    (tmp_path / 'data_C1').rename(tmp_path / 'Data_c1')
    items = polypgen.find(tmp_path)
    assert len(items) == 6 and all(i.label for i in items)


def test_a_label_that_synapse_does_not_have(tmp_path):
    ds = get_dataset('synapse')
    ds.write_phantom(tmp_path, 1)
    path = next(tmp_path.rglob('label*.nii.gz'))
    label = nib.load(path)
    nib.save(nib.Nifti1Image(np.full(label.shape, 14, np.uint8), label.affine), path)
    with pytest.raises(WrongLabels, match='thirteen organs'):
        ds.load(ds.items(tmp_path)[0])


def test_headings_of_a_split(tmp_path):
    split = tmp_path / 's.txt'
    split.write_text('[Train]\r\na\r\n[val]\r\nb\r\n')
    assert read_split(split) == {'train': ['a'], 'valid': ['b']}
    split.write_text('[trian]\na\n')
    with pytest.raises(BadSetting, match='s.txt has the heading'):
        read_split(split)
