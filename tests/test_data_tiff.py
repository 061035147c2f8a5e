"TIFF of every sort, written by tifffile itself: the same numbers, axes and lengths, or one sentence."

import json

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from snetlib.core import SnetError, UnreadableFile, WrongLabels
from snetlib.data.check import check
from snetlib.data.files import Labels, read_image, read_mask
from snetlib.data.formats import read_picture, read_tiff
from snetlib.data.prepare import prepare
from snetlib.data.source import Source
from snetlib.evaluate import evaluate_files
from snetlib.predict import Predictor
from snetlib.predict.predictor import save_mask

RNG = np.random.default_rng(0)
FINE = dict(PhysicalSizeX=0.25, PhysicalSizeXUnit='µm', PhysicalSizeY=500, PhysicalSizeYUnit='nm')
DEEP = FINE | dict(PhysicalSizeZ=2, PhysicalSizeZUnit='um')


def numbers(*shape, dtype=np.uint16):
    return RNG.integers(0, 250, shape).astype(dtype)


@pytest.mark.parametrize('dtype', 'int8 uint8 int16 uint16 int32 uint32 float16 float32 float64'.split())
@pytest.mark.parametrize('how', [{}, dict(compression='zlib'), dict(bigtiff=True), dict(tile=(16, 32))])
def test_every_number_of_every_type_is_kept(dtype, how, tmp_path):
    x = (numbers(37, 45) - 30.0).clip(0).astype(dtype)
    tifffile.imwrite(tmp_path / 'a.tif', x, photometric='minisblack', **how)
    assert np.array_equal(read_picture(tmp_path / 'a.tif')[0], x)


@pytest.mark.parametrize(
    ['axes', 'shape', 'becomes'],
    [
        ('YX', (9, 7), (0, 1, None)),
        ('ZYX', (4, 9, 7), (1, 2, None)),
        ('CYX', (2, 9, 7), (1, 2, 0)),
        ('ZCYX', (4, 5, 9, 7), (2, 3, 1)),
        ('CZYX', (2, 4, 9, 7), (2, 3, 0)),
        ('TCZYX', (1, 2, 4, 9, 7), (3, 4, 1)),
        ('YXS', (9, 7, 3), (0, 1, 2)),
        ('ZYXS', (4, 9, 7, 3), (1, 2, 3)),
    ],
)
@pytest.mark.parametrize('kind', ['ome', 'imagej', 'shaped'])
def test_axes_are_those_of_the_description(axes, shape, becomes, kind, tmp_path):
    if kind == 'imagej' and 'CZ' in axes:
        pytest.skip('ImageJ has one order of axes')
    x = numbers(*shape, dtype=np.uint8)
    name = 'a.ome.tif' if kind == 'ome' else 'a.tif'
    more = dict(imagej=True) if kind == 'imagej' else {}
    photometric = 'rgb' if 'S' in axes else 'minisblack'
    tifffile.imwrite(tmp_path / name, x, metadata={'axes': axes}, photometric=photometric, **more)
    z, y, x_ = axes.find('Z'), axes.index('Y'), axes.index('X')
    c = next((axes.index(a) for a in 'CS' if a in axes and shape[axes.index(a)] > 1), None)
    order = [k for k in (z if z >= 0 else None, y, x_, c) if k is not None]
    wanted = np.moveaxis(x.squeeze(tuple(set(range(x.ndim)) - set(order))), 0, 0)
    left = [k for k in range(x.ndim) if k in order]
    wanted = wanted.transpose([left.index(k) for k in order])
    found = read_image(tmp_path / name).image
    assert np.array_equal(found if z >= 0 else found[0], wanted)


def test_the_size_of_a_pixel_is_read_and_swaps_with_the_axes(tmp_path):
    f = tmp_path / 'a.ome.tif'
    tifffile.imwrite(f, numbers(4, 9, 7), metadata={'axes': 'ZYX', **DEEP})
    np.testing.assert_allclose(read_image(f).spacing, (0.002, 0.0005, 0.00025))
    tifffile.imwrite(f, numbers(9, 7), metadata={'axes': 'YX', **FINE})
    flat = read_image(f)
    np.testing.assert_allclose(flat.spacing, (0.0005, 0.0005, 0.00025))
    assert 'thick' in flat.notes[0]
    tifffile.imwrite(f, numbers(4, 9, 7), metadata={'axes': 'ZYX', **FINE})
    unknown = read_image(f)
    assert unknown.spacing is None and 'distance between its slices' in unknown.notes[0]
    turned = [(274, 3, 1, 6, True)]
    tifffile.imwrite(f, numbers(9, 7), metadata={'axes': 'YX', **FINE}, extratags=turned)
    assert read_image(f).grid == (1, 7, 9)
    np.testing.assert_allclose(read_image(f).spacing, (0.0005, 0.00025, 0.0005))


def test_the_lengths_of_imagej_are_read_and_those_of_a_printer_are_not(tmp_path):
    f = tmp_path / 'a.tif'
    facts = {'axes': 'ZYX', 'spacing': 3.0, 'unit': 'um'}
    tifffile.imwrite(f, numbers(4, 9, 7), imagej=True, resolution=(4, 2), metadata=facts)
    np.testing.assert_allclose(read_image(f).spacing, (0.003, 0.0005, 0.00025))
    tifffile.imwrite(f, numbers(9, 7), resolution=(300, 300), resolutionunit='INCH')
    assert read_image(f).spacing is None


@pytest.mark.parametrize('turn', range(1, 9))
def test_a_picture_is_turned_as_its_header_says(turn, tmp_path):
    x = numbers(9, 7, dtype=np.uint8)
    tags = [(274, 3, 1, turn, True)]
    tifffile.imwrite(tmp_path / 'a.tif', x, photometric='minisblack', extratags=tags)
    shown = (x, x[:, ::-1], x[::-1, ::-1], x[::-1], x.T, np.rot90(x, -1), x[::-1, ::-1].T, np.rot90(x))
    assert np.array_equal(read_picture(tmp_path / 'a.tif')[0], shown[turn - 1])


def test_a_pyramid_is_its_largest_level_and_white_zero_is_turned(tmp_path):
    x = numbers(64, 80, dtype=np.uint8)
    with tifffile.TiffWriter(tmp_path / 'a.ome.tif') as tif:
        options = dict(tile=(16, 16), photometric='minisblack')
        tif.write(x, subifds=2, metadata={'axes': 'YX'}, **options)
        tif.write(x[::2, ::2], subfiletype=1, **options)
        tif.write(x[::4, ::4], subfiletype=1, **options)
    assert np.array_equal(read_picture(tmp_path / 'a.ome.tif')[0], x)
    tifffile.imwrite(tmp_path / 'w.tif', x, photometric='miniswhite')
    assert np.array_equal(read_picture(tmp_path / 'w.tif')[0], 255 - x)


def test_what_cannot_be_one_image_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / 'tz.ome.tif', numbers(3, 4, 9, 7), metadata={'axes': 'TZYX'})
    with tifffile.TiffWriter(tmp_path / 'two.tif') as tif:
        tif.write(numbers(9, 7), metadata=None)
        tif.write(numbers(8, 7), metadata=None)
    tifffile.imwrite(tmp_path / 'cut.tif', numbers(99, 99))
    (tmp_path / 'cut.tif').write_bytes((tmp_path / 'cut.tif').read_bytes()[:9000])
    whole = tmp_path / 'half.tif'
    tifffile.imwrite(whole, numbers(64, 64), tile=(16, 16), compression='zlib')
    with tifffile.TiffFile(whole, mode='r+') as tif:
        tag = tif.pages[0].tags['TileByteCounts']
        tag.overwrite([0, *tag.value[1:]])
    for name, why in (
        ('tz.ome', 'one time point'),
        ('two', 'different sizes'),
        ('cut', 'damaged'),
        ('half', 'never'),
    ):
        with pytest.raises(UnreadableFile, match=why) as e:
            read_picture(tmp_path / f'{name}.tif')
        assert '\n' not in str(e.value)


def test_planes_of_other_files_are_refused(tmp_path):
    x = numbers(2, 9, 7)
    tifffile.imwrite(tmp_path / 'a.ome.tif', x, metadata={'axes': 'ZYX'})
    with tifffile.TiffFile(tmp_path / 'a.ome.tif') as tif:
        text = tif.ome_metadata
    part = '<TiffData IFD="0" FirstZ="0" PlaneCount="1"/><TiffData IFD="0" FirstZ="1" PlaneCount="1">'
    part += '<UUID FileName="b.ome.tif">urn:uuid:1</UUID></TiffData>'
    start, end = text.index('<TiffData'), text.index('</Pixels>')
    tifffile.imwrite(
        tmp_path / 'a.ome.tif', x[0], description=text[:start] + part + text[end:], metadata=None
    )
    with pytest.raises(UnreadableFile, match='other files'):
        read_picture(tmp_path / 'a.ome.tif')


def test_large_files_are_read_in_bands_or_refused_by_their_header(tmp_path, monkeypatch):
    f = tmp_path / 'large.tif'
    tifffile.imwrite(f, np.zeros((14000, 14000), np.uint8), tile=(512, 512), compression='zlib')
    monkeypatch.setattr(
        'snetlib.data.reading.psutil.virtual_memory', lambda: type('M', (), dict(available=10**8))
    )
    with pytest.raises(UnreadableFile, match='too large.*cut it into tiles'):
        read_picture(f)
    assert read_tiff(f, pixels=False).spacing is None


def test_a_lossy_mask_is_told_by_its_content(tmp_path):
    y = np.zeros((64, 64), np.uint8)
    y[20:40, 20:50] = 255
    Image.fromarray(y).save(tmp_path / 'a.tif', compression='jpeg')
    Image.fromarray(y).save(tmp_path / 'b.jpg', quality=70)
    (tmp_path / 'b.jpg').rename(tmp_path / 'b.png')
    colours = Labels(colours={'#000000': 0, '#ffffff': 1})
    for name in ('a.tif', 'b.png'):
        assert (read_mask(tmp_path / name, colours).label[0] != (y > 0)).mean() < 0.02
    noisy = np.where(y, 180 + RNG.integers(0, 9, y.shape), 0).astype(np.uint8)
    Image.fromarray(noisy).save(tmp_path / 'c.png')
    with pytest.raises(WrongLabels, match='no class'):
        read_mask(tmp_path / 'c.png', colours)


def test_masks_go_out_as_they_came(tmp_path):
    tifffile.imwrite(tmp_path / 'a.ome.tiff', numbers(4, 9, 7), metadata={'axes': 'ZYX', **DEEP})
    case, mask = read_image(tmp_path / 'a.ome.tiff'), numbers(4, 9, 7, dtype=np.uint8)
    save_mask(tmp_path / 'm.ome.tif', mask, case, tmp_path / 'a.ome.tiff')
    back = read_mask(tmp_path / 'm.ome.tif')
    assert np.array_equal(back.label, mask)
    np.testing.assert_allclose(back.spacing, case.spacing)


def microscopy(root, n=6):
    "Two channels of 16 bits; a bright square in the second one is class 1. Masks are OME-TIFF, too."
    for k in range(n):
        y = np.zeros((64, 72), np.uint8)
        y[5 + k : 35 + k, 10:40] = 1
        x = np.stack([numbers(64, 72), 3000 * y.astype(np.uint16) + numbers(64, 72)])
        for folder, a, axes in (('images', x, 'CYX'), ('masks', y, 'YX')):
            (root / folder).mkdir(parents=True, exist_ok=True)
            path = root / folder / f'c{k}.ome.tif'
            tifffile.imwrite(path, a, metadata={'axes': axes, **FINE}, photometric='minisblack')


class Second(torch.nn.Module):
    "Class 1 where the second channel is bright."

    c_in = 2

    def __init__(self):
        super().__init__()
        self.level = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        return torch.cat([torch.zeros_like(x[:, :1]), x[:, 1:] - self.level], 1)


def test_two_channels_go_through_every_command(tmp_path):
    microscopy(tmp_path / 'raw')
    report = check('folder', tmp_path / 'raw')
    assert report['ok'], report['problems']
    prepare('folder', tmp_path / 'raw', tmp_path / 'ready', split='seeded')
    index = json.loads((tmp_path / 'ready' / 'index.json').read_text())
    assert index['cases']['c0']['shape'] == [1, 64, 72, 2]
    np.testing.assert_allclose(index['cases']['c0']['spacing'], (0.0005, 0.0005, 0.00025))
    slices = Source('folder', tmp_path / 'ready').slices('train')
    assert slices.c_in == 2
    rule = dict(kind='window', lo=0, hi=4000)
    done = Predictor(Second().eval(), intensity=rule).files([tmp_path / 'raw' / 'images'], tmp_path / 'out')
    assert [p.status for p in done] == ['done'] * 6, [p.error for p in done]
    assert {p.unit for p in done} == {'px'} and {p.mask for p in done} >= {'c0_mask.ome.tif'}
    scores = evaluate_files(tmp_path / 'out', tmp_path / 'raw' / 'masks', tmp_path / 's', progress=False)
    assert (scores.dice == 1).all()
    assert set(scores[scores.protocol == 'corrected'].unit) == {'mm'}
    assert set(scores.tolerance) == {0.001}, 'two voxels, not two millimetres'


def test_an_image_with_other_channels_than_the_rest_is_refused(tmp_path):
    microscopy(tmp_path)
    tifffile.imwrite(tmp_path / 'images' / 'c5.ome.tif', numbers(5, 64, 72), metadata={'axes': 'CYX'})
    (tmp_path / 'dataset.json').write_text('{"channels": 2}')
    problems = check('folder', tmp_path)['problems']
    assert [p['case'] for p in problems] == ['c5'] and '5 channels where 2' in problems[0]['what']
    with pytest.raises(SnetError, match='5 channels where 2'):
        list(Source('folder', tmp_path).cases('all'))


def test_four_channels_stay_four(tmp_path):
    for k in range(3):
        for folder, shape, axes in (('images', (4, 20, 24), 'CYX'), ('masks', (20, 24), 'YX')):
            (tmp_path / folder).mkdir(exist_ok=True)
            x = numbers(*shape) if folder == 'images' else numbers(*shape, dtype=np.uint8) % 2
            tifffile.imwrite(tmp_path / folder / f'c{k}.ome.tif', x, metadata={'axes': axes})
    assert Source('folder', tmp_path).slices('all').c_in == 4
