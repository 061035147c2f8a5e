"The comparison of all networks: recipes of authors, lines chosen on validation, equal seconds."

import pandas as pd
import pytest

from snetlib.core import BadSetting
from snetlib.models import create_model
from snetlib.reproduce.cells import add_runs, read_cells, record_files
from snetlib.reproduce.contrasts import contrasts_table, decide
from snetlib.reproduce.everything import planned, reproduce
from snetlib.reproduce.our_contrasts import E5_CONTRASTS
from snetlib.reproduce.our_experiments import EXPERIMENTS, LEARNING_RATES, RIVALS, measured_costs
from snetlib.reproduce.plan import Study
from snetlib.reproduce.queue import chosen_lines, run_key
from snetlib.reproduce.recorded import in_checkout
from snetlib.reproduce.scales import QUARTER_WIDTH
from snetlib.train.rival_recipes import PAPER_RECIPE, RIVAL_RECIPES


@pytest.fixture
def folders(tmp_path):
    for name in ('synapse', 'acdc', 'atlas', 'polypgen'):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.mark.parametrize('table', ['table1', 'table2', 'tableII'])
def test_each_row_has_its_authors_recipe(table, folders):
    steps = Study(table, 'paper', 1, folders, recipes='papers').steps()
    one = Study(table, 'paper', 1, folders).steps()
    changed = 0
    for mine, shared in zip(steps, one):
        name = PAPER_RECIPE.get(mine.row.model)
        if name:
            assert mine.config['recipe']['lr'] == RIVAL_RECIPES[name]['lr']
            changed += mine.config['recipe'] != shared.config['recipe']
        elif mine.config:
            assert mine.config == shared.config
    assert changed >= 3


def test_cfanet_gets_its_edge_map_with_its_recipe(folders):
    steps = Study('tableII', 'paper', 1, folders, recipes='papers', only=('CFANet',)).steps()
    assert steps[0].config['model_kwargs'] == dict(edge=True)
    assert Study('tableII', 'paper', 1, folders, only=('cfanet',)).steps()[0].config['model_kwargs'] == {}


def test_the_authors_recipes_belong_to_the_papers_scale():
    with pytest.raises(BadSetting, match='scale paper'):
        Study('table1', 'smoke', 1, recipes='papers').steps()
    with pytest.raises(BadSetting):
        Study('table1', 'smoke', 1, recipes='mine').steps()


def test_only_some_rows():
    assert [s.row.method for s in Study('table1', 'smoke', 1, only=('SNet', 'unet')).steps()] == [
        'U-Net',
        'SNet',
    ]
    with pytest.raises(BadSetting, match='row'):
        Study('table1', 'smoke', 1, only=('Unet++',)).steps()


def test_equal_seconds_is_fewer_steps_for_a_slower_network(folders):
    seconds = measured_costs()["step_cpu_s"]
    assert set(RIVALS.values()) <= set(seconds.index)
    for step in Study('rivals', 'tiny', 1, folders).steps():
        steps, share = step.config['recipe']['steps'], step.row.share
        if 'equal seconds' in step.row.method:
            spent = steps * seconds[step.row.model]
            assert spent == pytest.approx(240 * seconds['snet_base'], rel=0.01)
        else:
            assert (steps, share) == (240, 1)


@pytest.mark.parametrize('name', [n for n in QUARTER_WIDTH if n not in ('attention_unet', 'unetpp')])
def test_a_quarter_of_the_width_is_about_a_sixteenth_of_the_parameters(name):
    full, small = (
        sum(p.numel() for p in create_model(name, c_in=1, n_out=4, **kwargs).parameters())
        for kwargs in ({}, QUARTER_WIDTH[name])
    )
    assert 13 < full / small < 19 or name == 'caranet', full / small  # CaraNet's groups allow no less


def test_a_choice_needs_every_candidate(tmp_path):
    tuning = Study('rivals', 'smoke', only=('snet_base', 'unet')).tuning()
    facts = pd.DataFrame({'key': [run_key(s.config) for s in tuning], 'best_valid_dice': range(6)})
    assert chosen_lines(tuning, tmp_path, facts) == {'snet_base': {'lr': 1e-2}, 'unet': {'lr': 1e-2}}
    assert chosen_lines(tuning, tmp_path, facts[:5]) == {'snet_base': {'lr': 1e-2}}
    study = Study('rivals', 'smoke', 1, only=('SNet', 'U-Net'))
    _, steps = planned(study, tmp_path, recorded=facts[:3])
    assert [bool(s.config) for s in steps] == [True, False]
    assert steps[1].row.reason


def test_tuned_runs_are_recorded_once(tmp_path):
    study = Study('rivals', 'smoke', 2, only=('unet',))
    how = dict(cache=tmp_path / 'runs', progress=False)
    add_runs(study, tmp_path, **how)
    cells, runs = (pd.read_csv(f) for f in record_files('rivals', tmp_path, 'smoke'))
    assert set(cells['cell']) == {'U-Net', 'U-Net, equal seconds'}
    assert {f'U-Net, lr={dict(x)["lr"]:g}' for x in LEARNING_RATES} <= set(runs['cell'])
    fresh = dict(how, cache=tmp_path / 'elsewhere')
    add_runs(study, tmp_path, **fresh)
    assert not list((tmp_path / 'elsewhere').glob('*/done.json')), 'what is recorded is not run again'
    again = pd.read_csv(record_files('rivals', tmp_path, 'smoke')[0])
    assert len(again) == len(cells)


def test_a_table_of_chosen_recipes(tmp_path):
    study = Study('rivals', 'smoke', 1, only=('U-Net', 'Att-UNet'))
    table = reproduce(study, cache=tmp_path, progress=False)
    assert list(table.index) == ['U-Net', 'Att-UNet']
    assert table['dice'].notna().all()
    assert EXPERIMENTS['rivals'].tune


def test_what_is_said_of_the_fair_rivals_follows_from_the_recorded_scores():
    "The README and the page of E5: at equal seconds and GMAC three U-Nets are better than SNet."
    found = contrasts_table(read_cells(in_checkout('e5_tiny_cells.csv')), E5_CONTRASTS)
    shown = {name: decide(line, -1.0) == 'reproduced' for name, line in found.iterrows()}
    assert {name for name, said in shown.items() if said} == {
        f'SNet − {other}, equal {budget}'
        for other in ('U-Net', 'plain U-Net', 'nnU-Net-like U-Net')
        for budget in ('seconds', 'GMAC')
    }
    better = found['mean'][[name for name, said in shown.items() if said]]
    assert better.max() < -21 and better.min() > -35, 'by 21 to 35 points, says the page'
    assert (found.seeds == 5).all()
