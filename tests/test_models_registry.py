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
from snetlib.data.source import Source
from snetlib.evaluate import evaluate_run
from snetlib.models import SNet, SoSegFormer
from snetlib.models.registry import (
    MODELS,
    create_model,
    list_models,
    register_model,
)
from snetlib.reproduce import reproduce
from snetlib.reproduce.plan import SCORING, Study, protocol_changes
from snetlib.scores.cases import score_case
from snetlib.scores.objects import band_scores

ROOT = Path(__file__).resolve().parent.parent


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
    reproduce=reproduce,
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
