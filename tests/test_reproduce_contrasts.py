"""The figures of the README that come from E1 and E3 follow from the committed scores."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from snetlib.core import BadSetting, NotAtHand, SnetError, seed_everything
from snetlib.models import create_model
from snetlib.reproduce.cells import CELL_COLUMNS, add_rows, add_runs, read_cells, record_files
from snetlib.reproduce.contrasts import contrasts_table, decide, patient_scores
from snetlib.reproduce.our_contrasts import (
    E1_CONTRASTS,
    E1_EACH,
    E1_WHOLE,
    E3_CONTRASTS,
    e1_cells,
    headline,
    ladder_contrasts,
)
from snetlib.reproduce.our_experiments import ADAPTERS, pair_row
from snetlib.reproduce.plan import Study
from snetlib.reproduce.queue import run_key
from snetlib.reproduce.scales import scaled_model

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope='module')
def cells():
    return read_cells(ROOT / 'data/results/e1_e3_tiny_cells.csv')


@pytest.fixture(scope='module')
def whole():
    return read_cells(ROOT / 'data/results/e1_whole_tiny_cells.csv')


def test_scores_are_complete(cells):
    assert set(CELL_COLUMNS) <= set(cells)
    assert cells.dice.between(0, 1).all()
    runs = cells.groupby(['experiment', 'cell', 'seed']).size()
    assert set(runs) == {20 * 3}, 'twenty cases with three classes'
    facts = pd.read_csv(ROOT / 'data/results/e1_e3_tiny_runs.csv')
    of_facts = set(zip(facts.cell, facts.seed))
    assert of_facts == set(zip(cells.cell, cells.seed))
    assert facts.commit.nunique() == 1


def test_all_cells_of_e1_were_run_together(whole):
    part = whole[whole.experiment == 'e1']
    seeds = part.groupby('cell').seed.unique()
    assert set(seeds.index) == set(e1_cells())
    assert all(sorted(found) == [0, 1, 2, 3, 4] for found in seeds)
    facts = pd.read_csv(ROOT / 'data/results/e1_whole_tiny_runs.csv', dtype={'commit': str})
    assert facts.commit.nunique() == 1
    assert set(zip(facts.cell, facts.seed)) == set(zip(part.cell, part.seed))


def test_four_pairings_at_twice_the_width_were_run_together():
    cells = read_cells(ROOT / 'data/results/e1_whole_small_cells.csv')
    facts = pd.read_csv(ROOT / 'data/results/e1_whole_small_runs.csv', dtype={'commit': str})
    assert facts.commit.nunique() == 1
    assert set(facts.cell) == set(e1_cells(adapters=('equal width',), heads=('no head',)))
    assert set(facts.groupby('cell').seed.unique().map(sorted).map(tuple)) == {(0, 1, 2, 3, 4)}
    assert set(zip(facts.cell, facts.seed)) == set(zip(cells.cell, cells.seed))


def test_one_network_has_one_score(whole):
    "The first pair of stagger is that of CNN3, so two cells are one network."
    for adapters in ADAPTERS:
        pair = [f'stagger, {adapters}, {head}' for head in ('head on the first pair', 'head on CNN3')]
        first, second = (patient_scores(whole, cell) for cell in pair)
        assert (first == second).all().all()


def test_a_mean_over_all_forms_by_hand(whole):
    "The mean of the six single differences, where every cell has every seed."
    found = contrasts_table(whole, (*E1_WHOLE, *E1_EACH))['mean']
    single = found[[contrast.name for contrast in E1_EACH]]
    assert found['stagger − low, all forms'] == pytest.approx(single.mean())


def test_a_contrast_by_hand(cells):
    "Mean over cases and classes, of the seeds that both cells have."
    contrast = E1_CONTRASTS[0]
    (a, _), (b, _) = contrast.weights
    part = cells[(cells.experiment == 'e1') & cells.cell.isin([a, b])]
    mean = part.groupby(['seed', 'cell']).dice.mean().unstack().dropna()
    by_hand = 100 * (mean[a] - mean[b]).mean()
    found = contrasts_table(cells, (contrast,)).iloc[0]
    assert found['mean'] == pytest.approx(by_hand)
    assert found['seeds'] == len(mean)
    assert found['lo'] < found['mean'] < found['hi']


def test_readme_says_what_the_scores_say():
    readme = (ROOT / 'README.md').read_text(encoding='utf-8')
    for line in headline().splitlines()[2:]:
        numbers = [part.strip() for part in line.strip('|').split('|')]
        row = next(row for row in readme.splitlines() if row.strip('| ').startswith(numbers[0]))
        assert [part.strip() for part in row.strip('|').split('|')] == numbers


def test_two_seeds_give_no_verdict(cells):
    two = cells[cells.seed < 2]
    found = contrasts_table(two, (*E1_CONTRASTS, *E3_CONTRASTS))
    assert set(found.verdict) == {'inconclusive'}


def test_a_missing_cell_is_named(cells):
    with pytest.raises(NotAtHand) as error:
        patient_scores(cells, 'no such cell')
    assert error.value.key == 'no such cell'
    with pytest.raises(NotAtHand):
        read_cells(ROOT / 'data/results/not_there.csv')


def test_the_verdict_follows_interval_and_margin():
    line = dict(seeds=3, mean=-2.0, lo=-3.0, hi=-1.0, p_holm=0.01, equal=False)
    assert [decide(line, k) for k in (1, 0, -1)] == ['contradicted', 'contradicted', 'reproduced']
    not_significant = line | dict(p_holm=0.2)
    assert {decide(not_significant, k) for k in (1, 0, -1)} == {'inconclusive'}
    assert np.all([decide(not_significant | dict(equal=True), 0) == 'reproduced'])


def test_cells_of_one_cnn_layer_start_from_the_same_weights():
    "So a gain of E2 is no difference between first weights; the zero control knows no ViT layer."
    x = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    for cnn in (1, 3):
        cells = [first_network(pair_row(cnn, vit, 'zero')) for vit in (1, 2, 3, 4)]
        states = [net.state_dict() for net in cells]
        for state in states[1:]:
            assert state.keys() == states[0].keys()
            assert all(torch.equal(state[key], states[0][key]) for key in state)
        outputs = [net.eval()(x) for net in cells]
        assert all(torch.allclose(y, outputs[0], atol=1e-6) for y in outputs[1:])
        alive = first_network(pair_row(cnn, 1)).eval()(x)
        assert not torch.allclose(alive, outputs[0], atol=1e-5)


def first_network(row):
    "The network of a row as its run draws it."
    name, kwargs = scaled_model(row, 'tiny')
    seed_everything(0)
    return create_model(name, c_in=1, n_out=4, **kwargs)


def test_seeds_are_added_to_what_is_recorded(tmp_path):
    "What is recorded stays, and a run that is recorded is not run again."
    out, cache = tmp_path / 'results', tmp_path / 'runs'
    scores, runs = record_files('e3', out, 'smoke')
    written = pd.DataFrame(
        [dict(cell=row.method, seed=seed, key=run_key(c)) for row, seed, c in Study('e3', 'smoke', 1).steps()]
    )
    lines = written.assign(experiment='e3', case='c', dice=0.5, hd95=1.0)[CELL_COLUMNS[:4] + ['dice']]
    out.mkdir()
    written.iloc[:-1].to_csv(runs, index=False)
    lines.iloc[:-1].to_csv(scores, index=False)
    add_runs(Study('e3', 'smoke', 1), out, cache=cache, progress=False)
    trained = [folder for folder in cache.glob('phantom-*')]
    assert len(trained) == 1, 'only the cell that was not recorded'
    kept = pd.read_csv(scores)
    assert set(pd.read_csv(runs).cell) == set(written.cell)
    assert (kept.iloc[:4].dice == 0.5).all(), 'recorded scores are not touched'
    assert kept.cell.iloc[-1] == written.cell.iloc[-1]


def test_one_row_is_added_to_a_file_of_two_experiments(tmp_path):
    "E1 and E3 share a file, and a row of E1 is none of E3."
    e1 = Study('e1_ends', 'smoke', 1).steps()
    (step,) = [s for s in e1 if s.row.method == 'low, equal width, no head']
    study = Study('e1', 'smoke', 1, only=(step.row.method,))
    how = dict(cache=tmp_path / 'runs', progress=False)
    scores, runs = add_runs(study, tmp_path / 'results', **how)
    assert pd.read_csv(runs).cell.tolist() == [step.row.method]
    assert set(pd.read_csv(scores).experiment) == {'e1'}


def test_nothing_new_changes_no_letter(tmp_path):
    "Whole numbers among fractions stay as they were written."
    path = tmp_path / 'cells.csv'
    path.write_text('cell,seed,hd95\na,0,6\nb,0,0.5\n')
    new = pd.DataFrame(columns=['cell', 'seed', 'hd95'])
    add_rows(path, new, ['cell', 'seed']).to_csv(tmp_path / 'again.csv', index=False, float_format='%.5g')
    assert (tmp_path / 'again.csv').read_text() == path.read_text()


def test_other_settings_are_not_mixed_in(tmp_path):
    old = pd.DataFrame([dict(cell='a', seed=0, key='1')])
    old.to_csv(tmp_path / 'runs.csv', index=False)
    other = pd.DataFrame([dict(cell='a', seed=0, key='2')])
    with pytest.raises(SnetError) as error:
        add_rows(tmp_path / 'runs.csv', other.astype(old.dtypes), ['cell', 'seed'])
    assert error.value.key == 'a'
    with pytest.raises(BadSetting):
        record_files('table1', tmp_path)


@pytest.mark.parametrize(
    ['name', 'scale'], [('table5', 'small'), ('table6', 'small'), ('neighbours', 'tiny')]
)
def test_a_recorded_table_is_of_one_commit_and_one_machine(name, scale):
    cells_file, runs_file = record_files(name, ROOT / 'data/results', scale)
    cells, facts = read_cells(cells_file), pd.read_csv(runs_file, dtype={'commit': str})
    assert facts['commit'].nunique() == facts['machine'].nunique() == 1
    assert '+' not in facts['commit'][0], 'of a clean checkout'
    runs = set(zip(facts['cell'], facts['seed']))
    assert set(zip(cells['cell'], cells['seed'])) == runs
    assert len(runs) == facts['cell'].nunique() * 5, 'every row has five seeds'


def test_what_the_pages_of_tables_5_and_6_say_follows_from_the_recorded_scores():
    tables = {n: read_cells(ROOT / f'data/results/table{n}_small_cells.csv') for n in (5, 6)}
    found = {n: contrasts_table(t, ladder_contrasts(f'table{n}')) for n, t in tables.items()}
    assert all((table['verdict'] == 'inconclusive').all() for table in found.values())
    stagger = found[5].iloc[0]
    assert stagger['lo'] < 0 < 4.26 < stagger['hi'] and stagger['same_sign'] == 5
    low = patient_scores(tables[5], 'Unstagger').mean(axis=1)
    assert (low < 20).sum() == 1, 'one network of five learnt almost nothing'
    feb = found[6].iloc[0]
    assert feb['hi'] < 3.68 and feb['same_sign'] == 5
    assert (found[6]['power'] >= 0.89).all()


def test_what_the_readme_says_of_twice_the_width_follows_from_the_recorded_scores():
    "E1 and E3 at scale small: nothing is decided, and no run is near the floor."
    small = read_cells(ROOT / 'data/results/e1_e3_small_cells.csv')
    found = contrasts_table(small, (E1_CONTRASTS[0], *E3_CONTRASTS))
    assert len(found) == 5 and (found['verdict'] == 'inconclusive').all()
    assert (found['seeds'] == small.seed.nunique()).all(), 'every contrast has every seed'
    assert patient_scores(small, E3_CONTRASTS[0].weights[0][0]).mean(axis=1).min() > 20
    early = contrasts_table(small.query('seed < 3'), E3_CONTRASTS).loc['as_is − flipped']
    assert early['verdict'] == 'reproduced', 'what a look after three seeds would have said'
