"""The papers' tables as data: every printed average and every claim of the texts, recomputed.

The disagreements must be exactly those that are flagged.
"""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from snetlib.reproduce.papers import paper_file

ROWS = dict(  # of each file
    snet_table1=15,
    snet_table2=7,
    snet_table3=8,
    snet_table4=8,
    snet_table5=2,
    snet_table6=4,
    sosegformer_table1=3,
    sosegformer_table2=14,
    sosegformer_table3=7,
)
ORGANS = ['aorta', 'gallbladder', 'kidney_l', 'kidney_r', 'pancreas', 'liver', 'spleen', 'stomach']
GROUPS = dict(tissues=1, small=4, large=3)  # organs behind each column of Tables 5 and 6 (5.1.1)
AVERAGES = dict(
    snet_table1=dict.fromkeys(ORGANS, 1),
    snet_table2=dict(rv=1, myo=1, lv=1),
    snet_table5=GROUPS,
    snet_table6=GROUPS,
)
SWITCHES = ['stagger', 'feb', 'ffb', 'gab']


def table(name):
    return paper_file(name)


def disagreements():
    """Every (table, row, column) whose printed average is not the weighted mean of its columns, with both.

    Rounding of the columns and of the average allows 0.005 + 0.005.
    """
    found = {}
    for name, weights in AVERAGES.items():
        t = table(name)
        mean = np.average(t[list(weights)], axis=1, weights=list(weights.values()))
        for row in np.flatnonzero(np.abs(mean - t.avg) > 0.01 + 1e-9):
            found[name, int(row), 'avg'] = (float(t.avg[row]), round(float(mean[row]), 3))
    return found


def flagged():
    return {
        (name, int(i), c)
        for name in ROWS
        for i, columns in table(name).slip_columns.dropna().items()
        for c in columns.split()
    }


@pytest.mark.parametrize('name,rows', ROWS.items())
def test_tables_are_complete(name, rows):
    t = table(name)
    assert (
        len(t) == rows
        and t.source.notna().all()
        and t.section.notna().all()
        and (t.slip.notna() == t.slip_columns.notna()).all()
    )
    values = t.drop(
        columns=['source', 'section', 'slip_columns', 'slip', 'method', 'dataset', 'hd'], errors='ignore'
    )
    assert values.notna().all(axis=None) and all(pd.api.types.is_numeric_dtype(d) for d in values.dtypes)
    assert not t.duplicated([c for c in ('dataset', 'method', *SWITCHES) if c in t]).any()
    assert all(set(columns.split()) <= set(t) for columns in t.slip_columns.dropna())


def test_averages_disagree_exactly_where_flagged():
    found = disagreements()
    for (name, row, column), (printed, mean) in found.items():
        print(f'{name} row {row + 1}: {column} printed {printed}, its columns give {mean}')
    assert set(found) == flagged()
    assert found['snet_table6', 0, 'avg'] == (76.81, 76.076), 'the slip that is known'


def test_a_mistyped_number_would_be_seen(monkeypatch):
    right = table
    monkeypatch.setitem(
        globals(),
        'table',
        lambda name: (
            right(name).assign(pancreas=lambda t: t.pancreas + 0.1 * (t.method == 'SNet'))
            if name == 'snet_table1'
            else right(name)
        ),
    )
    assert ('snet_table1', 14, 'avg') in set(disagreements()) - flagged()


def test_tables_agree_with_each_other():
    one, five, six = (
        table('snet_table1').set_index('method').loc['SNet'],
        table('snet_table5').set_index('method').loc['Stagger'],
        table('snet_table6').iloc[3],
    )
    groups = dict(
        tissues=['aorta'],
        small=['gallbladder', 'kidney_l', 'kidney_r', 'pancreas'],
        large=['liver', 'spleen', 'stomach'],
    )
    for g, organs in groups.items():
        assert five[g] == six[g] and abs(one[organs].astype(float).mean() - five[g]) < 0.01
    assert one.avg == five.avg == six.avg and one.hd == five.hd


def test_iou_and_dice_can_belong_together():
    """IoU = D/(2−D) is convex: a mean IoU is at least D/(2−D) of the mean Dice, and at most the Dice.

    The values here are rounded to 0.1 at worst.
    """
    for name, pairs in dict(
        snet_table3=[('iou', 'dice')],
        sosegformer_table2=[(f'miou_{b}', f'mdice_{b}') for b in ('ultra_small', 'small', 'all')],
        sosegformer_table3=[('miou', 'mdice')],
    ).items():
        t = table(name)
        for i, d in pairs:
            dice = t[d] / 100 - 0.0005
            assert (t[i] / 100 + 0.0005 >= dice / (2 - dice)).all() and (t[i] <= t[d]).all(), name


def names_of_rows(t):
    "What a claim calls each row of a table."
    if 'method' not in t:
        return t[SWITCHES].apply(lambda r: '+'.join(s for s in SWITCHES if r[s]), axis=1)
    return t.dataset + '/' + t.method if 'dataset' in t else t.method


def recompute(claim):
    t = table(claim.table)
    value = t[claim.column].set_axis(names_of_rows(t))
    if pd.isna(claim.minus):
        return value[claim.row]
    if claim.minus != 'best other':
        return value[claim.row] - value[claim.minus]
    others = value[
        [
            not n.split('/')[-1].startswith(('SNet', 'SoSegFormer'))
            and ('/' not in n or n.split('/')[0] == claim.row.split('/')[0])
            for n in value.index
        ]
    ]
    return value[claim.row] - others.max()


def test_claims_agree_exactly_where_flagged():
    claims = paper_file('claims', dtype=dict(printed=str))
    assert len(claims) > 40 and set(claims.agrees) == {'yes', 'no'}
    for c in claims.itertuples():
        v, p, digits = recompute(c), float(c.printed), len(c.printed.partition('.')[2])
        agrees = {'=': abs(v - p) < 0.5 * 10**-digits - 1e-9, '>=': v >= p - 1e-9, '<': v < p}[c.relation]
        if not agrees:
            print(
                f'{c.paper} {c.section}: {c.claim}: printed {c.relation} {c.printed}, the table gives {v:.2f}'
            )
        assert abs(v - c.recomputed) < 0.0051, c.claim
        assert agrees == (c.agrees == 'yes'), c.claim


def test_the_numbers_are_at_hand_without_a_checkout(tmp_path):
    code = "from snetlib.reproduce import paper_table; print(paper_table('table5').avg.tolist())"
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == '[78.79, 83.05]', done.stderr
