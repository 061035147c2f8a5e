"DICOM series, segmentations, NRRD, MetaImage and MGZ: the same voxels at the same place, or one sentence."

import random

import nibabel as nib
import numpy as np
import pytest

from snetlib.core import GeometryMismatch, NotAtHand, SnetError, UnreadableFile
from snetlib.data import clinic
from snetlib.data.clinic import LPS, files_behind, read_seg, read_series, series_in, write_series
from snetlib.data.files import read_case, read_image, read_mask
from snetlib.data.geometry import corner_gap
from snetlib.data.writing import write_mask

sitk = pytest.importorskip('SimpleITK')
pydicom = pytest.importorskip('pydicom')

SHAPE = (14, 11, 6)
VOXELS = np.random.default_rng(0).integers(-900, 900, SHAPE).astype(np.int16)
TURN = np.linalg.qr([[0.9, 0.2, 0.1], [-0.2, 0.9, 0.3], [0.1, -0.3, 1.0]])[0]
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = TURN * np.linalg.det(TURN) * [0.8, 0.9, 2.5]
OBLIQUE[:3, 3] = -20, 5, 40


def shuffled(n=6):
    "Names of files that say nothing about the order."
    return [f'IM{k:04d}' for k in random.Random(1).sample(range(n), n)]


def affine_of(image):
    "The RAS affine of a SimpleITK image."
    turn = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    return LPS @ np.vstack([np.c_[turn, image.GetOrigin()], [0, 0, 0, 1]])


def test_an_oblique_series_lies_where_simpleitk_sees_it(tmp_path):
    write_series(VOXELS, OBLIQUE, tmp_path / 'scan', shuffled())
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / 'scan')))
    theirs = reader.Execute()
    ours, notes = read_series(tmp_path / 'scan')
    assert np.array_equal(np.asarray(ours.dataobj), sitk.GetArrayFromImage(theirs).T)
    assert np.array_equal(np.asarray(ours.dataobj), VOXELS)
    assert corner_gap(ours.affine, affine_of(theirs), SHAPE) < 1e-3
    assert notes == ()


@pytest.mark.parametrize('ending', ['nrrd', 'mha', 'mhd', 'mgz', 'nii.gz'])
def test_every_volume_gives_the_same_case_and_takes_its_mask_back(tmp_path, ending):
    source, target = tmp_path / f'scan.{ending}', tmp_path / f'm.{ending.replace("mhd", "mha")}'
    if ending in ('mgz', 'nii.gz'):
        kind = nib.MGHImage if ending == 'mgz' else nib.Nifti1Image
        nib.save(kind(VOXELS, OBLIQUE), source)
    else:
        lps = LPS @ OBLIQUE
        sides = np.linalg.norm(lps[:3, :3], axis=0)
        image = sitk.GetImageFromArray(VOXELS.T)
        image.SetSpacing(sides.tolist())
        image.SetOrigin(lps[:3, 3].tolist())
        image.SetDirection((lps[:3, :3] / sides).ravel().tolist())
        sitk.WriteImage(image, str(source))
    case = read_image(source)
    assert case.id == 'scan'
    assert corner_gap(clinic.read_any_volume(source)[0].affine, OBLIQUE, SHAPE) < 1e-3
    drawn = (case.image > 300).astype(np.uint8)
    write_mask(drawn, source, target)
    assert np.array_equal(read_mask(target).label, drawn)
    assert np.array_equal(np.asarray(clinic.read_any_volume(target)[0].dataobj), VOXELS > 300)
    assert np.array_equal(read_case(source, target).label, drawn)


def test_a_tilted_gantry_is_kept_and_said(tmp_path):
    sheared = OBLIQUE.copy()
    sheared[1, 2] += 0.6
    write_series(VOXELS, sheared, tmp_path / 'scan')
    image, (note,) = read_series(tmp_path / 'scan')
    assert corner_gap(image.affine, sheared, SHAPE) < 1e-3
    assert 'gantry' in note
    assert 'gantry' in read_image(tmp_path / 'scan').notes[0]
    with pytest.raises(GeometryMismatch, match='sheared'):
        write_mask(np.zeros((6, 11, 14)), tmp_path / 'scan', tmp_path / 'm.nrrd')


def test_a_missing_slice_is_refused(tmp_path):
    write_series(VOXELS, OBLIQUE, tmp_path / 'scan')
    (tmp_path / 'scan' / 'IM0003.dcm').unlink()
    with pytest.raises(UnreadableFile, match='lacks slices'):
        read_image(tmp_path / 'scan')


def test_two_images_at_one_place_are_refused(tmp_path):
    same = dict(SeriesInstanceUID='1.2.3')
    write_series(VOXELS, OBLIQUE, tmp_path / 'scan', **same)
    write_series(VOXELS, OBLIQUE, tmp_path / 'scan', shuffled(), **same)
    with pytest.raises(UnreadableFile, match='at one place'):
        read_image(tmp_path / 'scan')


def test_a_study_of_two_series(tmp_path):
    write_series(VOXELS, OBLIQUE, tmp_path, SeriesDescription='axial', SeriesNumber=1)
    write_series(VOXELS + 1, OBLIQUE, tmp_path, shuffled(), SeriesDescription='soft', SeriesNumber=2)
    with pytest.raises(UnreadableFile, match='1_axial.series'):
        read_image(tmp_path)
    assert [p.name for p in series_in(tmp_path)] == ['2_soft.series', '1_axial.series']
    assert len(files_behind(tmp_path / '2_soft.series')) == 6
    gap = read_image(tmp_path / '2_soft.series').image - read_image(tmp_path / '1_axial.series').image
    assert (gap == 1).all()


def test_headers_of_a_study_are_read_once(tmp_path, monkeypatch):
    for n in range(5):
        names = [f'{n}_{k}.dcm' for k in range(3)]
        write_series(VOXELS[..., :3], OBLIQUE, tmp_path, names, SeriesDescription=f's{n}')
    read, seen = clinic.read_header, []
    monkeypatch.setattr(clinic, 'read_header', lambda path: seen.append(path) or read(path))
    behind = [files_behind(path) for path in series_in(tmp_path)]
    assert [len(files) for files in behind] == [3] * 5
    assert len(seen) == 15
    write_series(
        VOXELS[..., :3], OBLIQUE, tmp_path, ['4_0.dcm', '4_1.dcm', '4_2.dcm'], SeriesDescription='new'
    )
    assert [p.name for p in series_in(tmp_path)][-1] == '1_new.series'


def test_a_dicom_segmentation_goes_out_and_back(tmp_path):
    pytest.importorskip('highdicom')
    write_series(VOXELS, OBLIQUE, tmp_path / 'scan', shuffled())
    case = read_image(tmp_path / 'scan')
    drawn = np.where(case.image > 600, 2, case.image > 0).astype(np.uint8)
    write_mask(drawn, tmp_path / 'scan', tmp_path / 'seg.dcm', class_names=('background', 'a', 'b'))
    assert np.array_equal(read_case(tmp_path / 'scan', tmp_path / 'seg.dcm').label, drawn)
    assert corner_gap(read_seg(tmp_path / 'seg.dcm').affine, OBLIQUE, SHAPE) < 1e-3


def test_one_slice_alone_is_a_picture(tmp_path):
    write_series(VOXELS[:, :, :1], OBLIQUE, tmp_path)
    case = read_image(tmp_path / 'IM0000.dcm')
    assert case.affine is None
    assert np.array_equal(case.image[0], VOXELS[:, :, 0].T)


REAL = ["CT_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "JPEG2000.dcm"]


@pytest.mark.parametrize("name", REAL)
def test_real_files_hold_what_simpleitk_sees(name):
    path = pydicom.data.get_testdata_file(name, download=False)
    theirs = sitk.GetArrayFromImage(sitk.ReadImage(path)).reshape(read_image(path).grid)
    assert np.allclose(read_image(path).image, theirs)


def test_a_file_without_a_picture_is_named():
    path = pydicom.data.get_testdata_file('rtstruct.dcm', download=False)
    with pytest.raises(UnreadableFile, match='without a picture'):
        read_image(path)


@pytest.mark.parametrize('name', ['a.nrrd', 'a.mha', 'a.mgz', 'a.dcm'])
@pytest.mark.parametrize('content', [b'', b'NRRD0004\n', bytes(300)])
def test_damage_is_one_sentence(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableFile):
        read_image(tmp_path / name)


@pytest.mark.parametrize('name, package', [('a.mha', 'SimpleITK'), ('a.dcm', 'pydicom')])
def test_a_missing_library_is_one_sentence(tmp_path, monkeypatch, name, package):
    (tmp_path / name).write_bytes(bytes(300))
    monkeypatch.setattr('importlib.util.find_spec', lambda wanted: None)
    with pytest.raises(NotAtHand, match=f'{package}.*pip install "snetlib'):
        read_image(tmp_path / name)


def test_the_raw_part_of_a_header_belongs_to_its_content(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(VOXELS.T), str(tmp_path / 'a.mhd'))
    assert [f.name for f in files_behind(tmp_path / 'a.mhd')] == ['a.mhd', 'a.raw']


def test_a_picture_and_a_volume_do_not_fit(tmp_path):
    from PIL import Image

    nib.save(nib.Nifti1Image(VOXELS[:, :, :1], OBLIQUE), tmp_path / 'c.nii')
    Image.fromarray(np.zeros((11, 14), np.uint8)).save(tmp_path / 'c.png')
    with pytest.raises(SnetError):
        read_case(tmp_path / 'c.nii', tmp_path / 'c.png')


def test_a_truncated_slice_is_not_called_something_to_take_away(tmp_path):
    write_series(VOXELS, OBLIQUE, tmp_path)
    slice_ = sorted(tmp_path.iterdir())[2]
    slice_.write_bytes(slice_.read_bytes()[:600])
    with pytest.raises(UnreadableFile, match='truncated'):
        read_series(tmp_path)


def test_a_header_whose_voxels_are_gone(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(VOXELS), str(tmp_path / 'c.mhd'))
    (tmp_path / 'c.raw').unlink()
    with pytest.raises(UnreadableFile, match='c.raw, which is not there'):
        read_image(tmp_path / 'c.mhd')


def test_every_slice_has_its_own_slope(tmp_path):
    write_series(np.full(SHAPE, -924), OBLIQUE, tmp_path)
    for k, path in enumerate(sorted(tmp_path.iterdir())):
        slice_ = pydicom.dcmread(path)
        slice_.RescaleSlope, slice_.RescaleIntercept = k + 1, 0
        slice_.save_as(path)
    image = read_image(tmp_path).image
    assert sorted(image.reshape(6, -1).mean(1).tolist()) == [100.0 * k for k in range(1, 7)]
