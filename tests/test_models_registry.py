"The registry and the ledger: every name builds, every choice has a keyword."

import csv
import inspect
import sys
import types
from pathlib import Path

import pytest
import torch

import snetlib.train.losses
import snetlib.train.recipes
from snetlib.core import BadSetting, SnetError
from snetlib.data.source import Source
from snetlib.evaluate import evaluate_run
from snetlib.models import SNet, SoSegFormer
from snetlib.models.registry import (
    MODELS,
    create_model,
    list_models,
    register_model,
)
from snetlib.reproduce.plan import SCORING, Study, protocol_changes
from snetlib.scores.cases import score_case
from snetlib.scores.objects import band_scores

ROOT = Path(__file__).resolve().parent.parent


WRONG = [dict(c_in=v) for v in ('a', 1.5, -1, 0, None, True)]
WRONG += [dict(n_out=v) for v in ('x', 2.0, -1, None)]
WRONG += [dict(fusion=3), dict(nothing=1), dict(pairs=((1.5, 1),)), dict(supervise=1.5), dict(feb=3)]
WRONG += [dict(cnn_widths=v) for v in (3, 'a', (1, 2), (16, 32, 64, 'a'), (16, 32, 64, 0))]
WRONG += [dict(vit_depths=None), dict(vit_heads=(0, 1, 1, 1)), dict(vit_ratio=0), dict(feb_heads=0)]
WRONG += [dict(ffb_kernel=2), dict(fuse_width=-1), dict(gab_width=0), dict(decoder_width='a')]
WRONG_TOO = [dict(c_in='a'), dict(n_out=2.5), dict(encoder=3), dict(aspp_rates=3), dict(arrows=3)]
WRONG_TOO += [dict(drop_path='a'), dict(heads='a'), dict(encoder_options=3), dict(nothing=1)]


@pytest.mark.parametrize(
    ('name', 'keywords'),
    [
        *(('snet_tiny', k) for k in WRONG),
        *(('sosegformer_tiny', k) for k in WRONG_TOO),
        *(('unet_tiny', k) for k in (dict(c_in='a'), dict(n_out=None), dict(channels=3))),
    ],
    ids=str,
)
def test_a_keyword_of_another_type_is_one_sentence(name, keywords):
    with pytest.raises(BadSetting) as e:
        create_model(name, **keywords)
    assert e.value.key and '\n' not in str(e.value)


@pytest.mark.parametrize('weights', [3, b'mni', 0.5])
def test_weights_are_a_name_or_a_file(weights):
    with pytest.raises(BadSetting) as e:
        create_model('snet_tiny', weights=weights)
    assert e.value.key == 'weights'


@pytest.mark.parametrize('name', ['snet_tiny', 'sosegformer_tiny', 'unet_tiny', 'swin_unet'])
@pytest.mark.parametrize('training', [True, False])
def test_a_batch_without_images_is_one_sentence(name, training):
    net = create_model(name, c_in=1, n_out=2).train(training)
    with pytest.raises(BadSetting, match='no image'):
        net(torch.zeros(0, 1, 64, 64))


@pytest.mark.parametrize('name', list_models(tag='snet'))
def test_every_name_builds_at_its_own_size(name):
    with torch.device('meta'):
        m = create_model(name, c_in=1, n_out=4)
        x = torch.empty(1, 1, 224, 224)
    assert (
        m.eval()(x).shape == (1, 4, 224, 224)
        and [o.shape for o in m.train()(torch.empty(2, 1, 224, 224, device='meta'))] == [(2, 4, 224, 224)] * 2
    )


def test_a_page_does_not_replace_the_package():
    "A notebook's own network counts only while that notebook runs."
    code = "@register_model\ndef snet_tiny(c_in=1, n_out=2):\n    'mine'\n    return n_out"
    page = types.ModuleType('__main__')
    page.register_model = register_model
    mine, sys.modules['__main__'] = sys.modules['__main__'], page
    try:
        exec(code, vars(page))
        assert create_model('snet_tiny') == 2
    finally:
        sys.modules['__main__'] = mine
    assert isinstance(create_model('snet_tiny'), SNet)


LEDGER_OWNERS = dict(
    Source=Source,
    Study=Study,
    protocol_changes=protocol_changes,
    score_case=score_case,
    evaluate_run=evaluate_run,
    band_scores=band_scores,
)


def known(reference):
    "Whether a keyword of the ledger exists: Owner:keyword."
    owner, key = reference.split(':')
    if owner in ('SNet', 'SoSegFormer'):
        return key in inspect.signature({'SNet': SNet, 'SoSegFormer': SoSegFormer}[owner]).parameters
    if owner == 'recipe':
        recipes = snetlib.train.recipes
        return key in recipes.get_recipe() | recipes.OPTIONAL_KEYS
    if owner in LEDGER_OWNERS:
        return key in inspect.signature(LEDGER_OWNERS[owner]).parameters
    if owner == 'create_model':
        return key in list_models()
    if owner in MODELS:
        return key in inspect.signature(SNet if owner.startswith('snet') else SoSegFormer).parameters
    return key in inspect.signature(getattr(snetlib.train.losses, owner)).parameters


def test_ledger():
    with open(ROOT / 'data' / 'ledger.csv', newline='', encoding='utf-8') as f:
        rows = list(csv.DictReader(f))
    assert list(rows[0]) == 'network part mark what section keyword reason'.split()
    for r in rows:
        assert (
            r['network'] in ('SNet', 'SoSegFormer') and r['mark'] in 'PIC' and r['what'] and None not in r
        ), r
        assert r['mark'] == 'P' or r['reason'], f'a choice without a reason: {r["what"]}'
        assert not r['keyword'] or known(r['keyword']), f'{r["keyword"]} does not exist'
        if r['mark'] in 'IC':
            alone = r['reason'].startswith('no keyword: ')
            assert r['keyword'] or alone, f'a choice without a keyword: {r["what"]}'
    named = {r['keyword'].split(':')[1] for r in rows if r['keyword'].startswith('SNet:')}
    assert named == set(inspect.signature(SNet).parameters)
    with pytest.raises((AttributeError, AssertionError)):
        assert known('SNet:no_such_keyword') or known('NoSuchLoss:x')


def test_snet_reproduce_reaches_every_choice():
    "By --set, --model-set, --data-set, --seeds, --scale or --protocol; both scores are always computed."
    always = {'score_case', 'band_scores'}
    asked = {'reproduce', 'protocol_changes', 'create_model'}
    with open(ROOT / 'data' / 'ledger.csv', newline='', encoding='utf-8') as f:
        choices = [r['keyword'] for r in csv.DictReader(f) if r['mark'] in 'IC' and r['keyword']]
    for owner, key in (keyword.split(':') for keyword in choices):
        if owner in always | asked:
            continue
        if owner == 'recipe':
            assert key in snetlib.train.recipes.get_recipe() | snetlib.train.recipes.OPTIONAL_KEYS
        elif owner == 'Source':
            assert key in Source.__dataclass_fields__
        elif owner == 'evaluate_run':
            assert key in SCORING
        else:
            name = 'table1' if owner.lower().startswith('snet') else 'tableII'
            steps = [s for s in Study(name, 'smoke', 1, changes=dict(model={key: 0})).steps() if s.config]
            assert any(s.config['model_kwargs'].get(key) == 0 for s in steps), key


REBUILT = '''transunet r50_vit swin_unet swin_unet_deep missformer hiformer_s hiformer_b hiformer_l
uctransnet ctcnet ctcnet_t34 pranet caranet cfanet att_unet'''.split()


@pytest.mark.parametrize('name', REBUILT + list_models(tag='interpretation'))
def test_every_rival_knows_pretrained(name):
    "One table of settings serves all: what cannot be had is refused by name, not as a keyword."
    with pytest.raises(SnetError) as refused:
        create_model(name, c_in=1, n_out=2, pretrained='no such file.pth')
    assert getattr(refused.value, 'key', '') != 'model_kwargs'
