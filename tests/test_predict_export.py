"An exported network gives the masks of the original; what is damaged or missing is said."

import importlib.util
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from processes import refused, snet
from torch import nn

from snetlib.core import BadSetting, NotAtHand, SnetError, UnreadableFile
from snetlib.data.files import read_case
from snetlib.data.source import Source
from snetlib.predict import Predictor
from snetlib.predict.export import (
    Exported,
    check_packages,
    computed_by,
    export_folder,
    export_run,
)
from snetlib.train.run import Run

MISSING = [p for p in ('onnx', 'onnxscript', 'onnxruntime') if importlib.util.find_spec(p) is None]
needs_onnx = pytest.mark.skipif(bool(MISSING), reason='the extra "export" is not installed')


def toy_run(network):
    "What `export_run` asks of a run, around any network."
    data = dict(c_in=1, n_out=2, class_names=['background', 'bright'], intensity=dict(kind='none'))
    config = dict(data=data, recipe=dict(size=None))
    made = dict(weights='best', folder='run', digest='toy', place='cpu')
    return SimpleNamespace(config=config, model=lambda: network, **made)


def pointwise():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1)).eval()


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    out = tmp_path_factory.mktemp('export') / 'onnx'
    return export_run(toy_run(pointwise()), out)


@needs_onnx
@pytest.mark.parametrize('shape', [(1, 40, 50), (3, 64, 64), (2, 97, 130)])
@pytest.mark.parametrize('settings', [{}, dict(mirror=True), dict(tile=64), dict(size=48)])
def test_masks_are_those_of_the_original(exported, shape, settings):
    image = np.random.default_rng(0).random(shape)
    mine, theirs = (Predictor(n, **settings) for n in (Exported(exported), pointwise()))
    labels = theirs.array(image)
    assert 0 < labels.mean() < 1, 'the comparison can fail'
    np.testing.assert_array_equal(mine.array(image), labels)


@needs_onnx
@pytest.mark.skipif(importlib.util.find_spec('openvino') is None, reason='no OpenVINO')
def test_openvino_gives_the_same_masks(tmp_path):
    folder = export_run(toy_run(pointwise()), tmp_path, 'openvino')
    assert sorted(f.name for f in folder.iterdir() if f.name[0] != '.') == [
        'export.json',
        'network.bin',
        'network.xml',
    ]
    image = np.random.default_rng(0).random((2, 97, 130))
    labels = Predictor(pointwise()).array(image)
    assert np.mean(Predictor(Exported(folder)).array(image) == labels) >= 0.999


@needs_onnx
@pytest.mark.skipif(not os.environ.get('SNET_SLOW'), reason='a minute for each; set SNET_SLOW=1')
@pytest.mark.parametrize('name', ['snet_tiny-mni', 'sosegformer_tiny-dsb2018'])
@pytest.mark.parametrize("side", [96, 130])
def test_the_networks_that_ship_give_the_same_masks(name, side, tmp_path, real_data):
    run = Run(name)
    if name.startswith('snet'):
        image = next(iter(Source('mni').cases('test'))).image[10:12, 40 : 40 + side, 30 : 30 + side]
    else:
        first = min((real_data('dsb2018_mini') / 'images').iterdir())
        image = read_case(first).image[:, :side, :side]
    labels = Predictor(run).array(image)
    assert labels.any()
    found = Predictor(Exported(export_run(run, tmp_path))).array(image)
    assert np.mean(found == labels) >= 0.999


@needs_onnx
def test_the_fingerprint_of_masks_follows_the_file(exported, tmp_path):
    other = nn.Sequential(nn.Conv2d(1, 2, 1)).eval()
    another = export_run(toy_run(other), tmp_path / 'another')
    prints = [Predictor(Exported(f)).fingerprint() for f in (exported, exported, another)]
    assert prints[0] == prints[1] != prints[2]


@needs_onnx
def test_a_folder_is_known_by_itself_and_by_its_file(exported, tmp_path):
    assert export_folder(exported) == export_folder(exported / 'network.onnx') == exported
    assert export_folder(tmp_path) is None


@needs_onnx
def test_what_differs_is_not_written(tmp_path):
    "Zero padding at a ragged border is not what the runtime sees there."
    network = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1)).eval()
    with pytest.raises(SnetError, match='differs from the original'):
        export_run(toy_run(network), tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


@needs_onnx
def test_changed_files_and_small_images_are_refused(exported, tmp_path):
    with pytest.raises(BadSetting, match='33 pixels'):
        Predictor(Exported(exported)).array(np.zeros((1, 32, 64)))
    for name in ('network.onnx', 'export.json'):
        (tmp_path / name).write_bytes((exported / name).read_bytes())
    (tmp_path / 'network.onnx').write_bytes(b'another network')
    with pytest.raises(UnreadableFile, match='not those that were checked'):
        Exported(tmp_path).model()
    (tmp_path / 'export.json').write_text('{"to": []}')
    with pytest.raises(UnreadableFile, match='damaged'):
        Exported(tmp_path).model()


def test_a_missing_package_is_said_before_any_work(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    run = SimpleNamespace(model=lambda: pytest.fail('work has begun'), folder=tmp_path)
    with pytest.raises(NotAtHand, match='export'):
        export_run(run)
    with pytest.raises(NotAtHand, match='openvino'):
        export_run(run, to='openvino')


def test_a_format_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(BadSetting, match='onnx'):
        check_packages('onxx')
    refused(snet('export', tmp_path, '--to', 'onxx'), 'onnx', 'openvino')


@needs_onnx
def test_the_command_predicts_with_an_exported_network(exported, tmp_path):
    from PIL import Image

    picture = np.random.default_rng(0).integers(0, 255, (40, 60)).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / 'p.png')
    out = tmp_path / 'masks'
    done = snet('predict', exported, tmp_path / 'p.png', '--out', out, '--intensity', 'uint8')
    assert done.returncode == 0, done.stderr
    expected = Predictor(pointwise()).array(picture[None] / 255)[0]
    np.testing.assert_array_equal(np.asarray(Image.open(out / 'p_mask.png')) > 0, expected > 0)


def trained_toy(folder, network):
    "A run on disk around a network that `create_model` does not know."
    run = toy_run(network)
    run.folder = folder
    return run


@needs_onnx
def test_an_export_in_the_run_computes_it_on_a_cpu_and_only_while_it_is_of_these_weights(tmp_path):
    run = trained_toy(tmp_path, pointwise())
    assert computed_by(run) is run, 'nothing is exported yet'
    export_run(run)
    chosen = computed_by(run)
    assert isinstance(chosen, Exported) and chosen.about['to'] == 'onnx'
    assert computed_by(run, 'torch') is run
    run.place = 'cuda'
    assert computed_by(run) is run, 'a GPU is faster'
    run.place, run.digest = 'cpu', 'trained on'
    assert computed_by(run) is run, 'an export of older weights'
    with pytest.raises(NotAtHand, match='export the run first'):
        computed_by(run, 'onnx')
    with pytest.raises(BadSetting, match='runtime'):
        computed_by(run, 'tensorrt')


@needs_onnx
def test_the_run_itself_predicts_images_that_an_export_cannot(tmp_path):
    run = trained_toy(tmp_path, pointwise())
    export_run(run)
    image = np.random.default_rng(0).random((1, 20, 24))
    masks = Predictor(computed_by(run)).array(image)
    np.testing.assert_array_equal(masks, Predictor(pointwise()).array(image))


def test_a_runtime_that_is_not_installed_is_not_taken(tmp_path, monkeypatch):
    run = trained_toy(tmp_path, pointwise())
    (tmp_path / 'onnx').mkdir()
    (tmp_path / 'onnx' / 'export.json').write_text('{}')
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    assert computed_by(run) is run
    with pytest.raises(NotAtHand):
        computed_by(run, 'onnx')
