"One reader: every kind of mask, name and geometry gives its right value, or the sentence that fixes it."

import gzip
import json
import re
import unicodedata
import zlib

import h5py
import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from snetlib.core import BadSetting, GeometryMismatch, SnetError, UnreadableFile, WrongLabels
from snetlib.data.files import (
    Labels,
    numbers_in,
    read_case,
    read_image,
    read_mask,
    settle_labels,
    without_mask,
)
from snetlib.data.sets.folder import folder_set, pairs
from snetlib.data.slices import check_fractions
from snetlib.data.writing import write_mask

SQUARE = np.zeros((64, 64), bool)
SQUARE[20:30, 20:30] = True
BOX = np.zeros((40, 36, 6), np.uint8)
BOX[10:20, 10:20, 2:4] = 1
RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def picture(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array)).save(path, **options)


def volume(path, array, affine=RAS):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)


def coverage(root, paths):
    "Share of class 1 in each mask of a folder, once it is settled what the numbers mean."
    labels = settle_labels(paths)
    return [float((read_mask(p, labels).label == 1).mean()) for p in paths]


# ---------------------------------------------------------------- masks

SHARE = 100 / 4096


@pytest.mark.parametrize('low,high', [(0, 255), (0, 1), (1, 2), (0, 7)])
def test_two_numbers_the_larger_is_class_1(tmp_path, low, high):
    path = tmp_path / 'm.png'
    picture(path, np.where(SQUARE, high, low).astype(np.uint8))
    assert coverage(tmp_path, [path]) == [SHARE]


def test_minus_one_and_one(tmp_path):
    volume(tmp_path / 'm.nii.gz', BOX.astype(np.int16) * 2 - 1)
    assert coverage(tmp_path, [tmp_path / 'm.nii.gz']) == [BOX.mean()]


def test_nan_outside_is_background(tmp_path):
    volume(tmp_path / 'm.nii.gz', np.where(BOX, 1, np.nan).astype(np.float32))
    assert coverage(tmp_path, [tmp_path / 'm.nii.gz']) == [BOX.mean()]


@pytest.mark.parametrize('colour', [(255, 255, 255), (0, 0, 0), (255, 0, 0)])
def test_a_shape_in_the_alpha_channel(tmp_path, colour):
    rgba = np.zeros((64, 64, 4), np.uint8)
    rgba[..., :3], rgba[..., 3] = colour, SQUARE * 255
    picture(tmp_path / 'm.png', rgba)
    assert coverage(tmp_path, [tmp_path / 'm.png']) == [SHARE]


def test_jpeg_and_png_of_0_and_1_in_one_folder(tmp_path):
    picture(tmp_path / 'a.jpg', (SQUARE * 255).astype(np.uint8), quality=75)
    picture(tmp_path / 'b.png', SQUARE.astype(np.uint8))
    shares = coverage(tmp_path, [tmp_path / 'a.jpg', tmp_path / 'b.png'])
    assert abs(shares[0] - SHARE) < 0.001 and shares[1] == SHARE


def test_0_and_1_saved_as_jpeg_is_refused(tmp_path):
    picture(tmp_path / 'm.jpg', SQUARE.astype(np.uint8), quality=95)
    with pytest.raises(WrongLabels, match='threshold'):
        coverage(tmp_path, [tmp_path / 'm.jpg'])


def test_0_1_beside_0_255_is_refused(tmp_path):
    picture(tmp_path / 'a.png', SQUARE.astype(np.uint8))
    picture(tmp_path / 'b.png', (SQUARE * 255).astype(np.uint8))
    with pytest.raises(WrongLabels, match='"values"'):
        settle_labels([tmp_path / 'a.png', tmp_path / 'b.png'])


@pytest.mark.parametrize('number', [1, 255])
def test_masks_without_background_are_refused(tmp_path, number):
    picture(tmp_path / 'a.png', np.full((8, 8), number, np.uint8))
    with pytest.raises(WrongLabels, match='no background'):
        settle_labels([tmp_path / 'a.png'])


def palette(path, index, *colours):
    im = Image.fromarray(index.astype(np.uint8), 'P')
    im.putpalette([v for c in colours for v in c])
    im.save(path)


def test_palettes(tmp_path):
    black, white, red, green = (0, 0, 0), (255, 255, 255), (128, 0, 0), (0, 128, 0)
    path, other = tmp_path / 'a.png', tmp_path / 'b.png'
    palette(path, SQUARE, black, red)  # as VOC writes it
    assert coverage(tmp_path, [path]) == [SHARE]
    palette(path, ~SQUARE, white, black)  # optimised: the index 0 is white
    assert coverage(tmp_path, [path]) == [SHARE]
    palette(path, ~SQUARE, red, black)  # nobody can know
    with pytest.raises(WrongLabels, match='colours'):
        settle_labels([path])
    colours = Labels(colours={'#000000': 0, '#800000': 1})
    assert read_mask(path, colours).label.mean() == SHARE
    palette(path, SQUARE, black, red)
    palette(other, SQUARE, black, green)  # the same number, another class
    with pytest.raises(WrongLabels, match='two different colours'):
        settle_labels([path, other])


def written_cure(error):
    "What a sentence says to write into dataset.json, as `Labels`."
    return Labels(colours=json.loads(re.search(r'"colours": (\{.*?\})', str(error)).group(1)))


@pytest.mark.parametrize('kind', ['palette', 'rgb', 'jpeg'])
def test_the_cure_names_the_colours_of_the_file_and_works(tmp_path, kind):
    white, red, blue = (255, 255, 255), (200, 30, 30), (30, 30, 200)
    path = tmp_path / ('a.jpg' if kind == 'jpeg' else 'a.png')
    index = SQUARE.astype(np.uint8)
    index[:2, :2] = 2
    if kind == 'palette':
        palette(path, index, white, red, blue)
    else:
        Image.fromarray(np.uint8([white, red, blue])[index]).save(path, quality=95)
    with pytest.raises(WrongLabels, match='background as class 0') as caught:
        settle_labels([path])
    label = read_mask(path, written_cure(caught.value)).label[0]
    assert (label == 0).mean() == pytest.approx((index == 0).mean(), abs=0.02)
    if kind != 'jpeg':
        assert (label == index).all()


def test_0_9999_is_mapped_where_it_is_said_and_named_where_not(tmp_path):
    path = tmp_path / 'm.nii.gz'
    volume(path, BOX * np.float32(0.9999))
    with pytest.raises(WrongLabels, match='rounded'):
        settle_labels([path])
    labels = Labels(values={'0': 0, '0.9999': 1})
    assert read_mask(path, labels).label.mean() == BOX.mean()


@pytest.mark.parametrize('stored', [(0, 255), (0, 1)])
def test_predictions_may_be_coded_otherwise_than_the_truth(tmp_path, stored):
    truth, pred = tmp_path / 't.png', tmp_path / 'p.png'
    picture(truth, (SQUARE * 255).astype(np.uint8))
    picture(pred, np.where(SQUARE, stored[1], stored[0]).astype(np.uint8))
    labels = settle_labels([truth])
    assert read_mask(pred, settle_labels([pred], like=labels)).label.mean() == SHARE
    picture(pred, np.zeros((64, 64), np.uint8))  # nothing found
    assert read_mask(pred, settle_labels([pred], like=labels)).label.max() == 0


def test_a_class_the_prediction_misses_stays_missing(tmp_path):
    three = np.zeros((8, 8), np.uint8)
    three[0], three[1] = 1, 2
    picture(tmp_path / 't.png', three)
    picture(tmp_path / 'p.png', np.where(three == 1, 0, three))
    labels = settle_labels([tmp_path / 't.png'])
    found = read_mask(tmp_path / 'p.png', settle_labels([tmp_path / 'p.png'], like=labels))
    assert labels.n_classes == 3 and set(np.unique(found.label)) == {0, 2}


# ---------------------------------------------------------------- geometry


def test_rounded_header_is_the_same_place(tmp_path):
    volume(tmp_path / 'i.nii', np.zeros((99, 99, 10), np.uint8), np.diag([-0.7, -0.7, 5, 1]))
    volume(tmp_path / 'm.nii', np.zeros((99, 99, 10), np.uint8), np.diag([-0.7, -0.7, 4.999, 1]))
    assert read_case(tmp_path / 'i.nii', tmp_path / 'm.nii').label.max() == 0


@pytest.mark.parametrize('lost', [np.eye(4), RAS + 40 * np.eye(4, k=3)])
def test_another_place_is_refused_in_mm(tmp_path, lost):
    volume(tmp_path / 'i.nii', BOX)
    volume(tmp_path / 'm.nii', BOX, lost)
    with pytest.raises(GeometryMismatch, match='mm away') as e:
        read_case(tmp_path / 'i.nii', tmp_path / 'm.nii')
    assert e.value.path == tmp_path / 'm.nii'


def test_spacing_is_the_affines_in_mm(tmp_path):
    img = nib.Nifti1Image(BOX, np.diag([2.0, 2, 2, 1]))
    img.header.set_zooms((1, 1, 1))
    nib.save(img, tmp_path / 'a.nii')
    case = read_image(tmp_path / 'a.nii')
    assert case.spacing == (2, 2, 2) and 'pixdim' in case.notes[0]
    img = nib.Nifti1Image(BOX, np.diag([500.0, 500, 2000, 1]))
    img.header.set_xyzt_units('micron')
    nib.save(img, tmp_path / 'b.nii')
    case = read_image(tmp_path / 'b.nii')
    assert case.spacing == (2, 0.5, 0.5) and 'micron' in case.notes[0]


@pytest.mark.parametrize('broken', [np.nan, 0.0])
def test_broken_pixdim_gives_no_nan_millilitres(tmp_path, broken):
    img = nib.Nifti1Image(BOX, np.diag([2.0, 2, 2, 1]))
    img.header['pixdim'][1:4] = broken
    nib.save(img, tmp_path / 'a.nii')
    assert read_image(tmp_path / 'a.nii').spacing == (2, 2, 2)


def without_size(path, pixdim):
    "A volume whose header has no affine, and this number where the distance of slices belongs."
    nib.save(nib.Nifti1Image(BOX, None), path)
    stored = bytearray(path.read_bytes())
    stored[88:92] = np.float32(pixdim).tobytes()  # pixdim[3]
    path.write_bytes(stored)


@pytest.mark.parametrize('pixdim', [np.nan, np.inf])
def test_a_distance_that_is_no_number_is_refused(tmp_path, pixdim):
    without_size(tmp_path / 'a.nii', pixdim)
    with pytest.raises(UnreadableFile, match='affine that maps voxels nowhere'):
        read_image(tmp_path / 'a.nii')


def test_a_voxel_of_unknown_size_is_said_and_has_no_millimetres(tmp_path):
    without_size(tmp_path / 'a.nii', 0)
    case = read_image(tmp_path / 'a.nii')
    assert case.spacing is None and case.image.sum() == BOX.sum()
    assert 'not known' in case.notes[0]
    back = write_mask(case.image, tmp_path / 'a.nii', tmp_path / 'm.nii')
    assert np.isfinite(nib.load(back).affine).all()
    assert np.array_equal(read_case(tmp_path / 'a.nii', back).label, case.image)


def test_one_frame_is_a_volume_and_its_mask_is_written_back(tmp_path):
    volume(tmp_path / 'a.nii.gz', BOX[..., None].astype(np.float32))
    case = read_image(tmp_path / 'a.nii.gz')
    assert case.grid == (6, 36, 40)
    back = write_mask(case.image, tmp_path / 'a.nii.gz', tmp_path / 'm.nii.gz')
    assert np.array_equal(nib.load(back).get_fdata(), BOX)


def test_an_array_and_a_volume_stored_the_other_way_round_are_refused(tmp_path):
    np.savez(tmp_path / 'c.npz', image=BOX.T.astype(np.float32))
    volume(tmp_path / 'turned.nii', BOX)
    with pytest.raises(GeometryMismatch, match='which way up'):
        read_case(tmp_path / 'c.npz', tmp_path / 'turned.nii')
    volume(tmp_path / 'straight.nii', BOX, np.eye(4))
    assert np.array_equal(read_case(tmp_path / 'c.npz', tmp_path / 'straight.nii').label, BOX.T)


def test_an_array_without_a_mask_does_not_change_what_masks_mean(tmp_path):
    for k in range(3):
        (tmp_path / 'images').mkdir(exist_ok=True)
        np.savez(tmp_path / f'images/c{k}.npz', image=np.zeros((64, 64), np.float32))
        picture(tmp_path / f'masks/c{k}.png', (SQUARE * 255).astype(np.uint8))
    (tmp_path / 'masks/c0.png').unlink()
    ds = folder_set(tmp_path)
    last = ds.load(ds.items(tmp_path)[2])
    assert np.array_equal(last.label[0], SQUARE)


def test_colours_in_a_volume_of_plain_numbers_are_named(tmp_path):
    volume(tmp_path / 'c.nii', BOX * 7)
    with pytest.raises(WrongLabels, match='#070707'):
        read_mask(tmp_path / 'c.nii', Labels(colours={'#000000': 0, '#ff0000': 1}))


def test_a_bmp_that_pillow_misreads_is_refused(tmp_path):
    two = Image.fromarray(SQUARE.astype(np.uint8), 'P')
    two.putpalette([0, 0, 0, 255, 255, 255])
    two.save(tmp_path / 'm.bmp')
    with pytest.raises(UnreadableFile, match='save it as PNG'):
        read_mask(tmp_path / 'm.bmp')
    Image.fromarray(SQUARE).save(tmp_path / 'bits.bmp')
    assert coverage(tmp_path, [tmp_path / 'bits.bmp']) == [SHARE]


# ---------------------------------------------------------------- files


def test_compressed_or_not_whatever_the_name_says(tmp_path):
    volume(tmp_path / 'a.nii', BOX)
    (tmp_path / 'b.nii').write_bytes(gzip.compress((tmp_path / 'a.nii').read_bytes()))
    (tmp_path / 'c.NII.GZ').write_bytes((tmp_path / 'a.nii').read_bytes())
    for name in ('b.nii', 'c.NII.GZ'):
        assert read_image(tmp_path / name).image.sum() == BOX.sum()
        write_mask(read_image(tmp_path / name).image, tmp_path / name, tmp_path / 'm.nii.gz')


@pytest.mark.parametrize('end', ['h5', 'hdf5', 'H5', 'npz', 'NPZ'])
def test_every_spelling_of_an_ending(tmp_path, end):
    path = tmp_path / f'a.{end}'
    if end.lower() == 'npz':
        with open(path, 'wb') as f:
            np.savez(f, image=BOX, label=BOX)
    else:
        with h5py.File(path, 'w') as f:
            f['image'], f['label'] = BOX, BOX
    assert np.array_equal(read_case(path).label, BOX)


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    shown = (SQUARE * 220).astype(np.uint8)
    for end in ('jpg', 'png', 'tif'):
        path = tmp_path / f'a.{end}'
        Image.fromarray(np.ascontiguousarray(shown[::-1, ::-1])).save(path, exif=exif)
        assert read_image(path).image[0][SQUARE].mean() > 200, end


@pytest.mark.parametrize('mode,end,options', [('L', 'png', {}), ('1', 'png', {}), ('1', 'tif', {})])
def test_a_large_blank_mask_is_sound(tmp_path, mode, end, options):
    compression = dict(compression='group4') if end == 'tif' else {}
    Image.new(mode, (6000, 6000)).save(tmp_path / f'm.{end}', **compression)
    assert read_mask(tmp_path / f'm.{end}').label.max() == 0


def test_more_than_89_million_pixels_are_no_damage(tmp_path):
    Image.new('1', (14000, 14000)).save(tmp_path / 'm.tif', compression='group4')
    try:
        assert read_mask(tmp_path / 'm.tif').grid == (1, 14000, 14000)
    except UnreadableFile as e:
        assert 'too large' in str(e)


def test_other_formats_are_named_by_what_is_in_them(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / 'a.gif')
    (tmp_path / 'a.gif').rename(tmp_path / 'a.png')
    with pytest.raises(UnreadableFile, match='no PNG, JPEG, TIFF or BMP'):
        read_image(tmp_path / 'a.png')


# ---------------------------------------------------------------- names


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root / 'images', root / 'masks'


def test_names_composed_and_decomposed_are_one(tmp_path):
    composed, decomposed = (unicodedata.normalize(f, 'Körper') for f in ('NFC', 'NFD'))
    folders = touch(tmp_path, f'images/{composed}.png', f'masks/{decomposed}.png')
    assert [(name, mask is not None) for name, _, mask in pairs(*folders)] == [(composed, True)]


def test_a_case_may_be_called_na(tmp_path):
    assert pairs(*touch(tmp_path, 'images/NA.png', 'masks/NA.png'))[0][0] == 'NA'


@pytest.mark.parametrize(
    'masks,fix',
    [
        (['c0.png', 'c0.jpg'], 'same name'),
        (['c0_gt.png', 'c0_seg.png'], 'mask_suffix'),
        (['c0_mask.png'], '"mask_suffix": "_mask"'),
    ],
)
def test_masks_that_are_not_clear(tmp_path, masks, fix):
    with pytest.raises(BadSetting, match=fix):
        pairs(*touch(tmp_path, 'images/c0.png', *(f'masks/{m}' for m in masks)))


@pytest.mark.parametrize('name', ['masks/c0.gif', 'masks/c0.mnc', 'images/c1.webp'])
def test_kinds_that_are_not_read_are_named(tmp_path, name):
    with pytest.raises(UnreadableFile, match=name.split('.')[1]):
        pairs(*touch(tmp_path, 'images/c0.png', name))


def test_pictures_called_slice_are_cases_of_their_own(tmp_path):
    for z in range(3):
        picture(tmp_path / 'images' / f'p1_slice_{z}.png', (SQUARE * (60 + z)).astype(np.uint8))
        picture(tmp_path / 'masks' / f'p1_slice_{z}.png', (SQUARE * 255).astype(np.uint8))
    ds = folder_set(tmp_path)
    cases = [ds.load(i) for i in ds.items(tmp_path)]
    assert [c.grid for c in cases] == [(1, 64, 64)] * 3
    assert [c.image.max() for c in cases] == [60, 61, 62]


@pytest.mark.parametrize('shape', [(6, 3), (6, 4), (4, 4), (6, 9)])
def test_a_narrow_grey_picture_is_grey(tmp_path, shape):
    path = tmp_path / 'narrow.png'
    Image.fromarray(np.zeros(shape, np.uint8)).save(path)
    assert read_image(path).image.shape == (1, *shape)


# ---------------------------------------------------------------- sentences that can be followed


def said_of_masks(tmp_path, *masks):
    "The entry for dataset.json that the refusal of a folder of such masks names, as `Labels`."
    paths = [tmp_path / f'm{k}.png' for k in range(len(masks))]
    for path, mask in zip(paths, masks):
        picture(path, np.uint8(mask))
    with pytest.raises(WrongLabels) as caught:
        settle_labels(paths)
    found = re.search(r'"(values|threshold|instances)": (\{.*?\}|[\w.]+)', str(caught.value))
    return paths, Labels(**{found[1]: json.loads(found[2])}), str(caught.value)


@pytest.mark.parametrize('numbers', [(0, 128, 255), (1, 2, 3), (0, 40, 80)])
def test_every_number_is_in_the_cure(tmp_path, numbers):
    index = np.uint8(SQUARE)
    index[40:50, 40:50] = 2
    paths, labels, _ = said_of_masks(tmp_path, np.array(numbers)[index])
    assert np.array_equal(read_mask(paths[0], labels).label[0], index)


def test_smoothed_borders_of_black_and_white_need_a_threshold(tmp_path):
    grey = np.asarray(Image.fromarray(np.uint8(SQUARE) * 255).resize((61, 61), Image.BILINEAR))
    paths, labels, _ = said_of_masks(tmp_path, grey)
    assert labels.threshold == 127
    assert np.array_equal(read_mask(paths[0], labels).label[0], grey > 127)


def test_a_negative_number_beside_0_is_ignored(tmp_path):
    volume(tmp_path / 'm.nii', np.int16(BOX) - 2 * np.int16(BOX[::-1]))
    with pytest.raises(WrongLabels, match='"-2": 255, "0": 0, "1": 1') as caught:
        settle_labels([tmp_path / 'm.nii'])
    assert 'no 0 for the background' not in str(caught.value)


def test_smoothed_colours_are_refused(tmp_path):
    colours = np.zeros((64, 64, 3), np.uint8)
    colours[SQUARE] = 255, 0, 0
    colours[40:50, 40:50] = 0, 255, 0
    Image.fromarray(colours).resize((57, 57), Image.BILINEAR).save(tmp_path / 'm.png')
    labels = Labels(colours={'#000000': 0, '#ff0000': 1, '#00ff00': 2})
    with pytest.raises(WrongLabels, match='smoothed'):
        read_mask(tmp_path / 'm.png', labels)


def test_counted_objects_are_no_classes(tmp_path):
    masks = []
    for n in (3, 5, 8):
        mask = np.zeros((64, 64), np.uint8)
        for k in range(n):
            mask[2 + 7 * k : 6 + 7 * k, 5:9] = k + 1
        masks.append(mask)
    paths, labels, _ = said_of_masks(tmp_path, *masks)
    assert labels.instances
    assert (read_mask(paths[2], labels).label == 1).sum() == 8 * 16
    assert settle_labels(paths, Labels(classes=9)).classes == 9  # named, so they are classes
    assert settle_labels(paths[:2]).classes == 6  # two masks show no pattern


def test_255_alone_is_not_ignored_in_every_mask(tmp_path):
    for k in range(3):
        picture(tmp_path / f'images/c{k}.png', np.uint8(SQUARE) * 90)
        picture(tmp_path / f'masks/c{k}.png', np.uint8(SQUARE) * 255)
    for config in ({'class_names': ['background', 'a', 'b']}, {'values': {'0': 0, '1': 1}}):
        with pytest.raises(WrongLabels, match='"255": 1'):
            folder_set(tmp_path, config)
    named = folder_set(tmp_path, {'class_names': ['background', 'a', 'b'], 'values': {'0': 0, '255': 1}})
    assert named.load(named.items(tmp_path)[0]).label.mean() == SHARE


@pytest.mark.parametrize('axis', [0, -1])
@pytest.mark.parametrize('share', [1.0, 0.8])
def test_one_channel_for_each_class_is_named(tmp_path, axis, share):
    chance = np.where(SQUARE, share, 1 - share)
    np.savez(tmp_path / 'm.npz', label=np.stack([1 - chance, chance], axis).astype(np.float32))
    with pytest.raises(WrongLabels, match=f'argmax\\(label, {axis % 3}\\)'):
        read_mask(tmp_path / 'm.npz')


@pytest.mark.parametrize('name', ['line.png', 'line.nii.gz', 'line.npz'])
def test_a_line_with_one_pixel_in_each_row_is_no_channel(tmp_path, name):
    line = np.zeros((1, 40, 32), np.uint8)
    line[0, np.arange(40), np.arange(40) % 32] = 1
    if name.endswith('.png'):
        picture(tmp_path / name, line[0])
    elif name.endswith('.npz'):
        np.savez(tmp_path / name, label=line)
    else:
        volume(tmp_path / name, line.transpose(2, 1, 0), np.diag([1.0, 1.0, 1.0, 1.0]))
    assert np.array_equal(read_mask(tmp_path / name).label, line)


@pytest.mark.parametrize('mask', [False, True])
@pytest.mark.parametrize('name', ['c.png', 'c.jpg'])
def test_a_picture_is_opened_once(tmp_path, monkeypatch, name, mask):
    picture(tmp_path / name, SQUARE.astype(np.uint8))
    opened, plain = [], open

    def counted(file, *args, **options):
        opened.append(str(file))
        return plain(file, *args, **options)

    monkeypatch.setattr('builtins.open', counted)
    (read_mask if mask else read_image)(tmp_path / name)
    assert opened == [str(tmp_path / name)]


def test_whole_numbers_of_any_type_are_the_same_classes(tmp_path):
    for kind in (np.uint8, np.int16, np.float32, np.float64):
        volume(tmp_path / 'm.nii.gz', BOX.astype(kind))
        assert numbers_in(BOX.astype(kind)).dtype == (np.int64 if kind == np.uint8 else kind)
        found = read_mask(tmp_path / 'm.nii.gz', Labels(values={'0': 0, '1': 3})).label
        assert found.sum() == 3 * BOX.sum() and found.dtype == np.uint8
    odd = BOX.astype(np.float32)
    odd[0, 0, 0] = np.nan
    assert np.isnan(numbers_in(odd)[-1]) and len(numbers_in(odd)) == 3
    assert numbers_in(np.array([-1, 256, 300])).tolist() == [-1, 256, 300]


def test_arrays_of_other_names_and_axes(tmp_path):
    np.savez(tmp_path / 'thin.npz', image=SQUARE[..., None] * 1.0, label=SQUARE)
    assert read_case(tmp_path / 'thin.npz').grid == (1, 64, 64)
    np.savez(tmp_path / 'first.npz', image=np.zeros((3, 64, 64), np.float32), label=SQUARE)
    with pytest.raises(GeometryMismatch, match='channels of an image come last'):
        read_case(tmp_path / 'first.npz')
    np.savez(tmp_path / 'image.npz', image=SQUARE)
    with pytest.raises(UnreadableFile, match="no array 'label'"):
        read_mask(tmp_path / 'image.npz')
    np.savez(tmp_path / 'other.npz', image=SQUARE, mask=SQUARE)
    assert 'mask' in without_mask(tmp_path / 'other.npz')


def test_an_array_with_equal_sides_fits_a_volume_in_two_ways(tmp_path):
    cube = np.zeros((8, 8, 8), np.uint8)
    cube[1:3, 2:5] = 1
    np.savez(tmp_path / 'c.npz', image=np.float32(cube))
    volume(tmp_path / 'c.nii', cube, np.eye(4))
    with pytest.raises(GeometryMismatch, match='equally long'):
        read_case(tmp_path / 'c.npz', tmp_path / 'c.nii')


def test_two_places_in_one_header_are_said(tmp_path):
    image = nib.Nifti1Image(BOX, RAS)
    moved = RAS.copy()
    moved[0, 3] = 30
    image.set_qform(moved, 1)
    nib.save(image, tmp_path / 'c.nii')
    assert any('30 mm apart' in note for note in read_image(tmp_path / 'c.nii').notes)
    volume(tmp_path / 'd.nii', BOX)
    assert not read_image(tmp_path / 'd.nii').notes


# ---------------------------------------------------------------- images


def test_fractions_are_not_8_bits(tmp_path):
    rng = np.random.default_rng(0)
    for k in range(3):
        picture(tmp_path / f'images/c{k}.tif', rng.random((64, 64)).astype(np.float32))
        picture(tmp_path / f'masks/c{k}.png', np.uint8(SQUARE) * 255)
    assert folder_set(tmp_path).intensity['kind'] == 'percentile'
    with pytest.raises(SnetError, match='fractions'):
        check_fractions(read_image(tmp_path / 'images/c0.tif').image, {'kind': 'uint8'})


def test_colours_of_16_bits_in_a_png_are_refused(tmp_path):
    picture(tmp_path / 'c.png', np.zeros((4, 4, 3), np.uint8))
    data = bytearray((tmp_path / 'c.png').read_bytes())
    data[24] = 16
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, 'big')
    (tmp_path / 'c.png').write_bytes(data)
    with pytest.raises(UnreadableFile, match='save it as TIFF'):
        read_image(tmp_path / 'c.png')


# ---------------------------------------------------------------- folders


def full(root, *names):
    for name in names:
        picture(root / name, np.uint8(SQUARE) * (255 if 'mask' in name else 90))


@pytest.mark.parametrize(
    'names,fix',
    [
        (['images/p1/a.png', 'masks/p1/a.png'], 'p1_a.png'),
        (['images/a.png', 'masks/a.png', 'images/more/b.png'], 'more_b.png'),
        (['images/img_1.png', 'masks/mask_001.png'], 'the masks mask_001'),
        (['images/a.png', 'mask/a.png'], '"masks": "mask"'),
        (['Image/a.png', 'mask/a.png'], '"images": "Image", "masks": "mask"'),
        (['my/images/a.png', 'my/masks/a.png'], 'my does; give that folder'),
        (['train/images/a.png', 'train/masks/a.png', 'extra/images/b.png'], 'extra holds images'),
    ],
)
def test_folders_of_other_forms_are_named(tmp_path, names, fix):
    full(tmp_path, *names)
    with pytest.raises(SnetError, match=re.escape(fix)):
        folder_set(tmp_path)


def test_parts_by_other_names(tmp_path):
    for k, part in enumerate(('training', 'Validation', 'test')):
        full(tmp_path, f'{part}/images/c{k}.png', f'{part}/masks/c{k}.png')
    parts = folder_set(tmp_path).parts(folder_set(tmp_path).items(tmp_path))
    assert {p: [i.id for i in items] for p, items in parts.items()} == dict(
        train=['c0'], valid=['c1'], test=['c2']
    )


def test_the_share_of_mixed_colours_is_said(tmp_path):
    "Half of the columns are a ramp from black to red; a fifth of the picture is nearer to red."
    ramp = np.zeros((4, 100, 3), np.uint8)
    ramp[:, :50, 0] = np.linspace(1, 254, 50)
    ramp[:, 80:, 0] = 255
    Image.fromarray(ramp).save(tmp_path / 'm.png')
    with pytest.raises(WrongLabels, match=r'50\.0% of its pixels') as e:
        read_mask(tmp_path / 'm.png', Labels(colours={'#000000': 0, '#ff0000': 1}))
    assert '#ff0000 (25.0%), #000000 (25.0%)' in str(e.value)
    assert e.value.path == tmp_path / 'm.png'


@pytest.mark.parametrize(('shape', 'said'), [((8, 8, 4, 3), True), ((8, 8, 4, 200), False)])
def test_four_axes_may_be_channels(tmp_path, shape, said):
    nib.save(nib.Nifti1Image(np.zeros(shape, np.float32), np.eye(4)), tmp_path / 'c.nii.gz')
    with pytest.raises(UnreadableFile) as e:
        read_image(tmp_path / 'c.nii.gz')
    assert ('"channels": 3' in str(e.value)) == said
    assert read_image(tmp_path / 'c.nii.gz', channels=shape[3]).image.shape[-1] == shape[3]


@pytest.mark.parametrize('values', [{'0': 0, '1': 1, '2': 2}, {'0': 0, '250': 1, '255': 2}])
def test_numbers_that_a_jpeg_cannot_keep_apart_are_refused(tmp_path, values):
    y = np.repeat(np.array([int(n) for n in values], np.uint8), 12)[None].repeat(36, 0)
    Image.fromarray(y).save(tmp_path / 'm.jpg')
    Image.fromarray(y).save(tmp_path / 'm.png')
    with pytest.raises(WrongLabels, match='as PNG') as e:
        read_mask(tmp_path / 'm.jpg', Labels(values=values))
    assert e.value.path == tmp_path / 'm.jpg'
    assert np.unique(read_mask(tmp_path / 'm.png', Labels(values=values)).label).size == 3


def test_black_and_white_in_a_jpeg_have_values(tmp_path):
    y = np.repeat(np.array([0, 255], np.uint8), 16)[None].repeat(32, 0)
    Image.fromarray(y).save(tmp_path / 'm.jpg', quality=100)
    label = read_mask(tmp_path / 'm.jpg', Labels(values={'0': 0, '255': 1})).label
    np.testing.assert_array_equal(label[0], y // 255)
