"Evaluation of stored masks: every coding that `prepare` reads, geometry, names, corrected truths."

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from snetlib.core import BadSetting, SnetError, WrongLabels
from snetlib.data.clinic import write_seg, write_series
from snetlib.data.prepare import prepare
from snetlib.data.sets.catalogue import DATASETS
from snetlib.data.slices import scale_intensity
from snetlib.evaluate import ScoredPair, content_hash, evaluate_files, mask_files, score_cases
from snetlib.predict import Predictor


def square(shift=0, value=1):
    mask = np.zeros((64, 64), np.uint8)
    mask[10:30, 10 + shift : 30 + shift] = value
    return mask


def save(array, path, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith('.nii.gz'):
        nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    else:
        Image.fromarray(array).save(path)


def dice(folder, **more):
    scores = evaluate_files(folder / 'pred', folder / 'truth', folder / 'out', progress=False, **more)
    scores = scores[scores.protocol == 'corrected']
    return scores.set_index(['case', 'class']).dice.to_dict()


@pytest.mark.parametrize('names', [None, ('background', 'polyp')])
@pytest.mark.parametrize('of_truth, of_pred', [(255, 255), (1, 1), (255, 1), (1, 255)])
def test_0_255_and_0_1_are_the_same_mask(tmp_path, of_truth, of_pred, names):
    save(square(0, of_truth), tmp_path / 'truth/c.png')
    save(square(2, of_pred), tmp_path / 'pred/c.png')
    assert list(dice(tmp_path, class_names=names).values()) == [0.9]


def test_jpeg_noise_is_no_class(tmp_path):
    save(square(0, 255), tmp_path / 'truth/c.jpg')
    save(square(2, 255), tmp_path / 'pred/c.jpg')
    found = dice(tmp_path)
    assert list(found) == [('c', 'class 1')]
    assert found['c', 'class 1'] == pytest.approx(0.9, abs=0.02)


def test_the_index_of_a_palette_is_the_class(tmp_path):
    truth = square(0, 1) + square(25, 2)
    for name, mask in (('truth', truth), ('pred', np.where(truth == 2, 0, truth))):
        picture = Image.fromarray(mask.astype(np.uint8), 'P')
        picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [0] * 759)
        (tmp_path / name).mkdir()
        picture.save(tmp_path / name / 'c.png')
    assert list(dice(tmp_path).values()) == [1, 0]


@pytest.mark.parametrize('affine', [np.eye(4), np.diag([-1.0, -1, 2, 1])])
def test_a_prediction_in_another_place_is_refused(tmp_path, affine):
    mask = np.zeros((48, 40, 12), np.uint8)
    mask[5:15, 5:15, 2:6] = 1
    away = np.diag([-1.0, -1, 2, 1])
    away[0, 3] = 40
    save(mask, tmp_path / 'truth/c.nii.gz', away)
    save(mask, tmp_path / 'pred/c.nii.gz', affine)
    with pytest.raises(SnetError, match='mm'):
        dice(tmp_path)


def test_rounding_of_a_header_is_the_same_place(tmp_path):
    mask = np.zeros((64, 64, 10), np.uint8)
    mask[10:20, 10:20, 2:4] = 1
    save(mask, tmp_path / 'truth/c.nii.gz', np.diag([-0.7, -0.7, 5, 1]))
    save(mask, tmp_path / 'pred/c.nii.gz', np.diag([-0.7, -0.7, 4.999, 1]))
    assert list(dice(tmp_path).values()) == [1]


def test_a_corrected_truth_is_scored_again(tmp_path):
    save(square(0), tmp_path / 'truth/c.png')
    save(square(2), tmp_path / 'pred/c.png')
    assert list(dice(tmp_path).values()) == [0.9]
    save(square(2), tmp_path / 'truth/c.png')
    assert list(dice(tmp_path).values()) == [1]


def test_stored_scores_are_read_to_the_last_bit(tmp_path):
    for shift in range(1, 6):
        save(square(0)[..., None], tmp_path / f'truth/c{shift}.nii.gz', np.diag([0.7, 0.9, 1.1, 1]))
        save(square(3 * shift)[..., None], tmp_path / f'pred/c{shift}.nii.gz', np.diag([0.7, 0.9, 1.1, 1]))
    folders = tmp_path / 'pred', tmp_path / 'truth', tmp_path / 'out'
    first, second = (evaluate_files(*folders, progress=False) for _ in range(2))
    pd.testing.assert_frame_equal(first, second, check_exact=True)
    assert first.dice.nunique() == 5


def test_two_masks_of_one_case_are_refused(tmp_path):
    for name in ('c_gt.png', 'c_seg.png'):
        save(square(), tmp_path / name)
    with pytest.raises(BadSetting, match='c_gt.png and c_seg.png'):
        mask_files(tmp_path)


def test_what_predict_writes_beside_its_masks_is_no_mask(tmp_path):
    save(square(0, 255), tmp_path / 'truth/c.png')
    save(square(2, 1), tmp_path / 'pred/c_mask.png')
    save(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8), tmp_path / 'pred/c_overlay.png')
    chances = np.zeros((2, 1, 64, 64), np.float16)
    np.savez(tmp_path / 'pred/c_probabilities.npz', probabilities=chances, class_names=['background', 'a'])
    (tmp_path / 'pred/predictions.csv').write_text('case,status\nc,done\n')
    assert list(dice(tmp_path).values()) == [0.9]
    save(square(2, 1), tmp_path / 'pred/c.png')
    with pytest.raises(BadSetting, match='both masks of c'):
        dice(tmp_path)


def organs(numbers):
    "A map of three classes stored as these numbers."
    mask = np.zeros((64, 64), np.uint8)
    mask[10:30, 10:30], mask[40:50, 40:50] = 1, 2
    return np.array(numbers)[mask].astype(np.uint8)


SAID = {'class_names': ['background', 'liver', 'tumour']}


@pytest.mark.parametrize('stored', [(0, 50, 100), (0, 1, 2)])
def test_predictions_hold_the_numbers_of_the_truth_or_classes(tmp_path, stored):
    save(organs((0, 50, 100)), tmp_path / 'truth/c.png')
    said = SAID | {'values': {'0': 0, '50': 1, '100': 2}}
    (tmp_path / 'truth/dataset.json').write_text(json.dumps(said))
    save(organs(stored), tmp_path / 'pred/c.png')
    assert dice(tmp_path) == {('c', 'liver'): 1, ('c', 'tumour'): 1}


def test_colours_of_the_truth_and_classes_of_the_prediction(tmp_path):
    colours = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], np.uint8)
    save(colours[organs((0, 1, 2))], tmp_path / 'masks/c.png')
    said = SAID | {'colours': {'#000000': 0, '#ff0000': 1, '#00ff00': 2}}
    (tmp_path / 'dataset.json').write_text(json.dumps(said))
    for pred in (organs((0, 1, 2)), colours[organs((0, 1, 2))]):
        save(pred, tmp_path / 'pred/c.png')
        scores = evaluate_files(tmp_path / 'pred', tmp_path / 'masks', tmp_path / 'out', progress=False)
        assert set(scores[scores.protocol == 'corrected'].dice) == {1.0}


def test_numbers_that_could_be_stored_or_classes_are_refused(tmp_path):
    save(organs((0, 2, 1)), tmp_path / 'truth/c.png')
    said = SAID | {'values': {'0': 0, '2': 1, '1': 2}}
    (tmp_path / 'truth/dataset.json').write_text(json.dumps(said))
    save(organs((0, 1, 2)), tmp_path / 'pred/c.png')
    with pytest.raises(WrongLabels, match='could be classes already'):
        dice(tmp_path)


def test_a_dicom_segmentation_is_a_truth(tmp_path):
    pytest.importorskip('highdicom')
    affine = np.diag([-1.0, -1, 2, 1])
    mask = np.zeros((20, 18, 5), np.uint8)
    mask[3:12, 2:10, 1:3] = 1
    for k in range(2):
        write_series(np.zeros(mask.shape, np.int16), affine, tmp_path / f'scan{k}')
        (tmp_path / 'truth').mkdir(exist_ok=True)
        write_seg(mask, tmp_path / f'scan{k}', tmp_path / f'truth/c{k}_seg.dcm', ('background', 'a'))
        save(np.roll(mask, k, 0), tmp_path / f'pred/c{k}_mask.nii.gz', affine)
    assert list(dice(tmp_path).values()) == [1, pytest.approx(8 / 9)]


def test_nnunet_leaves_its_dataset_json_beside_its_predictions(tmp_path):
    said = {'channel_names': {'0': 'CT'}, 'labels': {'background': 0, 'liver': 1, 'tumour': 2}}
    mask = organs((0, 1, 2)).reshape(64, 32, 2)
    for folder in ('labelsTr', 'pred'):
        save(mask, tmp_path / folder / 'c.nii.gz')
    for folder in (tmp_path, tmp_path / 'pred'):
        (folder / 'dataset.json').write_text(json.dumps(said))
    scores = evaluate_files(tmp_path / 'pred', tmp_path / 'labelsTr', tmp_path / 'out', progress=False)
    assert set(scores['class']) == {'liver', 'tumour'}
    assert set(scores[scores.protocol == 'corrected'].dice) == {1.0}


def test_names_that_share_nothing_are_refused(tmp_path):
    save(square(), tmp_path / 'truth/a.png')
    save(square(), tmp_path / 'pred/b.png')
    with pytest.raises(BadSetting, match='called like'):
        dice(tmp_path)


def test_a_case_is_a_name_and_no_path(tmp_path):
    def pair(name):
        return ScoredPair(square()[None], lambda: square()[None])

    with pytest.raises(SnetError):
        score_cases(['../outside'], pair, ('background', 'a'), tmp_path / 'out')
    assert not list(tmp_path.rglob('outside*'))


@pytest.mark.parametrize('name', ['NA', '=1+1', '007', 'null'])
def test_a_case_keeps_its_name(tmp_path, name):
    def pair(name):
        return ScoredPair(square()[None], lambda: square()[None])

    for _ in range(2):
        scores = score_cases([name], pair, ('background', 'NA'), tmp_path / 'out')
        assert set(scores['case']) == {name}
        assert set(scores['class']) == {'NA'}


def test_content_is_what_counts():
    a = np.arange(6)
    assert content_hash(a, 1) == content_hash(a.copy(), 1)
    different = {content_hash(*v) for v in ((a, 1), (a, 2), (a.reshape(2, 3), 1), (a + 1, 1))}
    assert len(different) == 4


def test_scores_are_those_of_the_raw_data(tmp_path):
    "Prepared CT holds [0, 1], raw CT HU: a run on either is scored alike; memory holds one case at a time."
    import gc
    import weakref

    from snetlib import evaluate
    from snetlib.data.source import Source
    from snetlib.train.run import train_run

    DATASETS['synapse'].write_phantom(tmp_path / 'raw', 6)
    prepare('synapse', tmp_path / 'raw', tmp_path / 'out', val=1)
    alive = []
    train_run(
        tmp_path / 'run',
        Source('synapse', tmp_path / 'out', val=1),
        'snet_tiny',
        'smoke',
        steps=1,
        precision='float32',
        progress=False,
    )
    real = Predictor.case

    def predict(predictor, case):
        gc.collect()
        assert all(r() is None for r in alive), 'the image of an earlier case is still in memory'
        alive.append(weakref.ref(case.image))
        seen = scale_intensity(case.image, predictor.intensity_of(case))
        return np.digitize(seen, (0.4, 0.5, 0.6)).astype(np.uint8)  # follows from what a network would see

    Predictor.case = predict
    try:
        a, b = (
            evaluate.evaluate_run(
                tmp_path / 'run', tmp_path / f'scores {n}', root=tmp_path / n, part='train', progress=False
            )
            for n in ('raw', 'out')
        )
    finally:
        Predictor.case = real
    assert (
        a['case'].nunique() > 1
        and a.pred_voxels.sum() > 0
        and np.allclose(a[['dice', 'pred_voxels']], b[['dice', 'pred_voxels']], equal_nan=True, atol=0.02)
    )


def test_probabilities_are_named_and_the_cure_works(tmp_path):
    soft = np.uint8(square(2, 200) + np.arange(64))
    save(square(0, 255), tmp_path / 'truth/c.png')
    save(soft, tmp_path / 'pred/c.png')
    with pytest.raises(SnetError, match='"threshold"'):
        dice(tmp_path)
    (tmp_path / 'pred/dataset.json').write_text('{"threshold": 127}')
    assert list(dice(tmp_path).values()) == [0.9]


def test_numbers_that_are_no_class_name_their_file_and_the_cure_works(tmp_path):
    both = square(0, 1) + square(22, 2)
    save(both, tmp_path / 'truth/c.png')
    save(both * 100, tmp_path / 'pred/c.png')
    cure = '"values": {"0": 0, "100": 1, "200": 2}'
    with pytest.raises(SnetError, match=f'pred/c.png holds the number 100.*{cure}'):
        dice(tmp_path)
    (tmp_path / 'pred/dataset.json').write_text('{' + cure + '}')
    assert list(dice(tmp_path).values()) == [1, 1]


def test_counted_objects_against_black_and_white(tmp_path):
    truth = np.zeros((64, 64), np.uint8)
    for k in range(5):
        truth[2 + 9 * k : 8 + 9 * k, 4:10] = k + 1
    save(truth, tmp_path / 'truth/c.png')
    save(np.uint8(truth > 0), tmp_path / 'pred/c.png')
    with pytest.raises(WrongLabels, match='"instances": true'):
        dice(tmp_path)
    (tmp_path / 'truth/dataset.json').write_text('{"instances": true}')
    assert list(dice(tmp_path).values()) == [1]


def test_masks_without_truth_are_said(tmp_path):
    for name in ('truth/a', 'pred/a', 'pred/b'):
        save(square(), tmp_path / f'{name}.png')
    found = evaluate_files(tmp_path / 'pred', tmp_path / 'truth', tmp_path / 'out', progress=False)
    (note,) = found.attrs['notes']
    assert note.endswith('have no truth and are not scored, e.g. b.')


@pytest.mark.parametrize('where', ['truth', 'pred'])
def test_masks_in_a_subfolder_beside_masks_are_not_left_out(tmp_path, where):
    for folder in ('truth', 'pred'):
        save(square(), tmp_path / folder / 'a.png')
    save(square(3), tmp_path / where / 'more' / 'b.png')
    with pytest.raises(BadSetting) as e:
        evaluate_files(tmp_path / 'pred', tmp_path / 'truth', tmp_path / 'out', progress=False)
    assert e.value.path == tmp_path / where / 'more' / 'b.png' and e.value.case == 'b'


@pytest.mark.parametrize('place', ['x/truth', 'x/pred'])
def test_nothing_is_written_among_the_masks_that_are_scored(tmp_path, place):
    for folder in ('truth', 'pred'):
        save(square(), tmp_path / 'x' / folder / 'a.png')
    before = sorted(tmp_path.rglob('*'))
    with pytest.raises(BadSetting) as e:
        evaluate_files(tmp_path / 'x/pred', tmp_path / 'x/truth', tmp_path / place, progress=False)
    assert e.value.key == 'out' and sorted(tmp_path.rglob('*')) == before
    scores = evaluate_files(tmp_path / 'x/pred', tmp_path / 'x/truth', tmp_path / 'x/s', progress=False)
    assert set(scores.dice) == {1.0}


@pytest.mark.parametrize('name', ['deep/b.png', 'b.dcm', 'deep/b.gif'])
def test_no_mask_is_passed_over(tmp_path, name):
    for folder in ('truth', 'pred'):
        save(square(), tmp_path / folder / 'a.png')
    (tmp_path / 'truth' / 'deep').mkdir()
    (tmp_path / 'truth' / name).write_bytes(b'x')
    with pytest.raises(BadSetting, match='would not be scored') as e:
        evaluate_files(tmp_path / 'pred', tmp_path / 'truth', tmp_path / 'out', progress=False)
    assert e.value.path == tmp_path / 'truth' / name
