"Data of others: names that are no names, values that cannot be, files that grow when opened."

import gzip
import json
import os
import resource
import shutil
import signal
import struct
import sys
import zipfile
import zlib
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from processes import completed, refused, snet

from snetlib.core import SnetError


def own_folder(path, n=4, **said):
    "Images with a bright square and masks of 0 and 255; `said` becomes dataset.json."
    rng = np.random.default_rng(0)
    for k in range(n):
        image = rng.integers(0, 99, (32, 32)).astype(np.uint8)
        mask = np.zeros((32, 32), np.uint8)
        image[8:16, 8:16] += 100
        mask[8:16, 8:16] = 255
        for name, pixels in (('images', image), ('masks', mask)):
            (path / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path / name / f'c{k}.png')
    if said:
        (path / 'dataset.json').write_text(json.dumps(said))
    return path


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
    from snetlib.data.prepare import prepare

    folder = tmp_path_factory.mktemp('prepared')
    prepare('folder', own_folder(folder / 'raw'), folder / 'ready')
    return folder / 'ready'


@pytest.fixture
def ready(prepared, tmp_path):
    "A prepared folder to spoil."
    return Path(shutil.copytree(prepared, tmp_path / 'ready'))


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp('trust') / 'run'
    done = snet('train', 'phantom', '--recipe', 'smoke', '--set', 'steps=1', '--out', folder)
    assert done.returncode == 0, done.stderr
    return folder


# ---------------------------------------------------------------- names are never paths

NO_NAMES = ['../../../X', '/tmp/X', 'a/b', '..\\X', 'C:X', '..', '', 'a\0b', 'x' * 201, 'a\nb']


@pytest.mark.parametrize('name', NO_NAMES)
def test_a_case_of_an_index_is_a_name(ready, tmp_path, name):
    index = json.loads((ready / 'index.json').read_text())
    key = next(iter(index['cases']))
    index['cases'] = {(name if k == key else k): v for k, v in index['cases'].items()}
    (ready / 'index.json').write_text(json.dumps(index))
    before = sorted(tmp_path.rglob('*'))
    refused(snet('prepare', 'folder', ready, '--out', tmp_path / 'a/b/out', '--jobs', 1), 'name')
    assert sorted(tmp_path.rglob('*')) == before


@pytest.mark.parametrize('file', ['../raw/images/c0.png', '/etc/hostname', '../../X.h5', 'cases\0'])
def test_a_file_of_an_index_lies_in_the_folder(ready, tmp_path, file):
    index = json.loads((ready / 'index.json').read_text())
    for case in index['cases'].values():
        case.update(file=file, files=[file])
    (ready / 'index.json').write_text(json.dumps(index))
    refused(snet('check', 'folder', ready))
    refused(snet('train', 'folder', '--data', ready, '--recipe', 'smoke', '--out', tmp_path / 'run'))
    assert not (tmp_path / 'run').exists() or not list((tmp_path / 'run').glob('*.pth'))


@pytest.mark.parametrize('name', ['../X', 'a/b', '..'])
def test_a_model_compared_is_a_name(tmp_path, name):
    raw = own_folder(tmp_path / 'raw')
    pred = [f'--pred={n}={raw / "masks"}' for n in (name, 'b')]
    done = snet('evaluate', *pred, '--truth', raw / 'masks', '--out', tmp_path / 'a/out')
    refused(done, 'name')
    assert not [p for p in tmp_path.rglob('*X*')]


# ---------------------------------------------------------------- values that cannot be

WRONG = [
    dict(class_names=[]),
    dict(class_names=['a', 'a']),
    dict(values={'0': 0, '255': -1}),
    dict(values={'0': 0, '255': 1.5}),
    dict(values={'0': True}),
    dict(colours={'red': 1}),
    dict(colours={'#ff00': 1}),
    dict(intensity=dict(kind='nothing')),
    dict(intensity=dict(kind='window', lo='a', hi=5)),
    dict(intensity=dict(kind='percentile', lo=-5, hi=101)),
    dict(intensity='uint8'),
    dict(threshold=[127]),
    dict(axis=3),
    dict(axis=True),
    dict(group='['),
    dict(group=7),
    dict(channels=0),
    dict(mask_suffix=5),
    dict(clas_names=['background', 'a']),
]


@pytest.mark.parametrize('wrong', WRONG, ids=json.dumps)
def test_a_wrong_value_is_one_sentence(tmp_path, wrong):
    raw = own_folder(tmp_path / 'raw', **wrong)
    refused(snet('prepare', 'folder', raw, '--out', tmp_path / 'out', '--jobs', 1))
    assert not list(tmp_path.glob('out/cases/*'))


def special(path, kind):
    "Something that is called like a picture and is none."
    path.unlink()
    if kind == 'fifo':
        os.mkfifo(path)
    elif kind == 'folder':
        path.mkdir()
    elif kind == 'device':
        path.symlink_to('/dev/zero')
    elif kind == 'circle':
        path.symlink_to(path.name)
    elif kind == 'gone':
        path.symlink_to('nowhere.png')
    else:
        path.touch()


@pytest.mark.parametrize('place', ['images', 'masks'])
@pytest.mark.parametrize('kind', ['fifo', 'folder', 'device', 'circle', 'gone', 'empty'])
def test_no_case_is_lost_without_a_word(tmp_path, kind, place):
    raw = own_folder(tmp_path / 'raw')
    special(raw / place / 'c0.png', kind)
    done = snet('prepare', 'folder', raw, '--out', tmp_path / 'out', '--jobs', 1)
    refused(done)
    assert 'c0' in done.stderr


def volume(path, at, value, sform=0):
    "A NIfTI whose bytes say `value` where pixdim[at] stands; nibabel itself would repair it."
    pixels = np.random.default_rng(0).random((40, 40, 3)).astype(np.float32)
    nib.save(nib.Nifti1Image(pixels, np.eye(4)), path)
    content = bytearray(path.read_bytes())
    content[76 + 4 * at : 80 + 4 * at] = struct.pack('<f', value)
    content[252:256] = struct.pack('<hh', 0, sform)
    path.write_bytes(content)


def test_an_impossible_voxel_has_no_millilitres(run, tmp_path):
    values = [float('nan'), 0.0, float('inf'), -3.0, 1e30, 1e-30]
    (tmp_path / 'in').mkdir()
    for k, value in enumerate(values):
        for at in (1, 3):
            volume(tmp_path / f'in/{k}_{at}.nii', at, value)
    done = snet('predict', run, tmp_path / 'in', '--out', tmp_path / 'out')
    refused(done, '6 of 12 files')
    table = pd.read_csv(tmp_path / 'out/predictions.csv').set_index('case')
    known = table.filter(like='(ml)').notna().any(axis=1)
    assert known[known].index.tolist() == ['3_1', '3_3']
    assert set(table.index[table.status == 'failed']) == {f'{k}_{at}' for k in (0, 2, 5) for at in (1, 3)}
    assert 'nan' not in done.stdout and '0.0' not in done.stdout


def test_nothing_found_is_said_and_a_little_is_not_rounded_away():
    from snetlib.cli import _prediction_line
    from snetlib.predict.predictor import Prediction

    p = Prediction('scan', amounts={'liver': 1234.5678, 'spleen': 0.0, 'cyst': 0.000412})
    assert _prediction_line(p) == 'scan: done, liver (ml) 1234.568, cyst (ml) 0.000412, not found: spleen'
    assert p.row()['spleen (ml)'] == 0


# ---------------------------------------------------------------- stopped, and told how to go on


def test_listing_masks_and_cases_is_linear(tmp_path):
    "Counted in calls of the file system, not in seconds."
    from snetlib.data.sets.catalogue import get_dataset
    from snetlib.evaluate import mask_files

    def calls(n):
        raw = tmp_path / str(n)
        for name in ('images', 'masks'):
            (raw / name).mkdir(parents=True)
            for k in range(n):
                Image.fromarray(np.full((4, 4), 255 * (k % 2), np.uint8)).save(raw / name / f'c{k}.png')
        seen = []
        sys.setprofile(lambda frame, event, arg: seen.append(1))
        try:
            assert len(mask_files(raw / 'masks')) == n
            ds = get_dataset('folder', raw)
            assert len(ds.items(raw)) == n
        finally:
            sys.setprofile(None)
        return len(seen)

    small, large = calls(50), calls(200)
    assert large < 5 * small


# ---------------------------------------------------------------- tables


def test_names_that_a_spreadsheet_would_run(run, tmp_path):
    for k, name in enumerate(['=1+1', '+x', '-x', '@x', 'NA', '001']):
        (tmp_path / 'in').mkdir(exist_ok=True)
        Image.fromarray(np.full((40, 40), 20 * k, np.uint8)).save(tmp_path / 'in' / f'{name}.png')
    for _ in range(2):  # the second time everything is there
        done = snet('predict', run, tmp_path / 'in', '--out', tmp_path / 'out')
        assert done.returncode == 0, done.stderr
        lines = (tmp_path / 'out/predictions.csv').read_text().splitlines()[1:]
        assert len(lines) == 6 and not [x for x in lines if x[0] in '=+-@'], lines


def test_names_with_html_are_text_in_tables_and_pages(tmp_path):
    raw = own_folder(tmp_path / 'raw')
    name = '<script>alert(1)<'
    done = snet(
        *('evaluate', '--pred', f'{name}={raw / "masks"}', '--pred', f'b={raw / "masks"}'),
        *('--truth', raw / 'masks', '--out', tmp_path / 'out', '--classes', 'background,<b>x'),
    )
    assert done.returncode == 0, done.stderr
    for file in ('tables.md', 'report.html'):
        text = (tmp_path / 'out' / file).read_text()
        assert '<script>alert' not in text and '<b>x' not in text and '&lt;' in text, file


# ---------------------------------------------------------------- read as one sentence, in little memory


def refuses(fn, *arguments):
    with pytest.raises(SnetError) as e:
        fn(*arguments)
    assert '\n' not in str(e.value)


def blocks_of_zeros(megabytes):
    "A deflate stream of zeros, quickly: the same flushed block again and again."
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    end = zlib.compressobj(9, zlib.DEFLATED, -15).flush()
    return block * megabytes + end


def gz_bomb(path):
    "A sound NIfTI of a few bytes, followed by 200 GB of zeros."
    nib.save(nib.Nifti1Image(np.zeros((8, 8, 2), np.uint8), np.eye(4)), path)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    head = packer.compress(gzip.decompress(path.read_bytes())) + packer.flush(zlib.Z_FULL_FLUSH)
    start = b'\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff'
    path.write_bytes(start + head + blocks_of_zeros(200_000) + bytes(8))


def gz_announced(path):
    "A NIfTI whose header and stream agree on 8 GB of zeros."
    image = nib.Nifti1Image(np.zeros((8, 8, 2), np.uint8), np.eye(4))
    image.header.set_data_shape((2000, 2000, 2000))
    header = image.header.binaryblock + bytes(4)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    head = packer.compress(header) + packer.flush(zlib.Z_FULL_FLUSH)
    start = b'\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff'
    path.write_bytes(start + head + blocks_of_zeros(8_000) + bytes(8))


def npz_bomb(path):
    "Forty arrays that are one and the same stretch of the file, each of 500 MB."
    np.savez_compressed(path, image=np.zeros((4, 4)))
    raw = blocks_of_zeros(500)
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as z:
        for k in range(40):
            z.writestr(f'a{k}.npy', b'x')
    content, size = bytearray(path.read_bytes()), struct.pack('<I', 500 << 20)
    at = 0
    while (at := content.find(b'PK\x01\x02', at)) >= 0:
        content[at + 24 : at + 28] = size
        at += 4
    path.write_bytes(raw + bytes(content))


def h5_bomb(path):
    "Chunks that were never written cost nothing until they are read."
    with h5py.File(path, 'w') as f:
        f.create_dataset('image', (3000, 3000, 3000), 'u1', chunks=True, compression='gzip')


def png_of_zeros(path):
    "100,000 × 60,000 black pixels."
    width, height = 100_000, 60_000
    raw = blocks_of_zeros((width // 8 + 1) * height >> 20)
    chunks = [(b'IHDR', struct.pack('>IIBBBBB', width, height, 1, 0, 0, 0, 0)), (b'IDAT', b'x\xda' + raw)]
    parts = [struct.pack('>I', len(c)) + n + c + struct.pack('>I', zlib.crc32(n + c)) for n, c in chunks]
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + b''.join(parts) + b'\0\0\0\0IEND\xaeB`\x82')


def png_with_a_long_text(path):
    "A small picture whose comment is 2 GB long."
    Image.new('L', (8, 8)).save(path)
    whole = path.read_bytes()
    text = b'Comment\0\0x\xda' + blocks_of_zeros(2_000)
    chunk = struct.pack('>I', len(text)) + b'zTXt' + text + struct.pack('>I', zlib.crc32(b'zTXt' + text))
    path.write_bytes(whole[:33] + chunk + whole[33:])


def tif_of_zeros(path):
    "60,000 × 60,000 black pixels."
    raw = zlib.compress(b'')[:2] + blocks_of_zeros(3_434)
    side = 60_000
    entries = [
        *((256, 4, side), (257, 4, side), (258, 3, 8), (259, 3, 8), (262, 3, 1)),
        *((273, 4, 8), (277, 3, 1), (278, 4, side), (279, 4, len(raw))),
    ]
    table = struct.pack('<H', len(entries))
    for tag, kind, value in entries:
        table += struct.pack('<HHII', tag, kind, 1, value)
    path.write_bytes(b'II*\0' + struct.pack('<I', 8 + len(raw)) + raw + table + bytes(4))


def xml_of_outlines(path):
    "20,000 outlines, each around the whole picture of 4,000 × 4,000."
    corners = ''.join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in ((0, 0), (4000, 0), (4000, 4000), (0, 4000)))
    region = f'<Region><Vertices>{corners}</Vertices></Region>'
    path.write_text(
        f'<Annotations><Annotation><Regions>{region * 20_000}</Regions></Annotation></Annotations>'
    )


def xml_of_laughs(path):
    lines = [f'<!ENTITY a{k} "{f"&a{k - 1};" * 10}">' for k in range(1, 12)]
    path.write_text(f'<!DOCTYPE a [<!ENTITY a0 "ha">{"".join(lines)}]><Annotations>&a11;</Annotations>')


BOMBS = {
    'a.nii.gz': [gz_bomb, gz_announced],
    'a.npz': [npz_bomb],
    'a.h5': [h5_bomb],
    'a.png': [png_of_zeros, png_with_a_long_text],
    'a.tif': [tif_of_zeros],
    'a.xml': [xml_of_outlines, xml_of_laughs],
}


def read_any(path):
    from snetlib.data.files import read_case
    from snetlib.data.sets.monuseg import rasterise, read_polygons

    if path.suffix == '.xml':
        return rasterise(read_polygons(path), (4000, 4000))
    return read_case(path)


def opened(path):
    "(what came of it, GB that it took), in a process of its own that may work for 60 seconds."

    def work():
        signal.alarm(60)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            read_any(path)
            said = 'read'
        except SnetError as e:
            said = str(e)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(json.dumps([said, grown / 1e6]))

    done = completed(work, path)
    assert done.returncode == 0, done
    return json.loads(done.stdout)


@pytest.mark.parametrize('name, make', [(n, m) for n, makers in BOMBS.items() for m in makers])
def test_a_file_that_grows_when_opened_is_refused(tmp_path, name, make):
    make(tmp_path / name)
    said, gigabytes = opened(tmp_path / name)
    assert said != 'read' and '\n' not in said
    assert name in said or 'the XML' in said
    assert gigabytes < 1, said


@pytest.mark.parametrize('depth', [2_000, 500_000])
def test_nested_json_is_one_sentence(prepared, run, tmp_path, depth):
    from snetlib.data.config import read_config
    from snetlib.data.dataset import read_index
    from snetlib.train.run import Run

    nested = '{"cases": ' + '[' * depth + ']' * depth + '}'
    for name in ('dataset.json', 'index.json', 'config.json'):
        (tmp_path / name).write_text(nested)
    refuses(read_config, tmp_path)
    refuses(read_index, tmp_path)
    shutil.copy(run / 'best.pth', tmp_path)
    refuses(lambda: Run(tmp_path).config)
