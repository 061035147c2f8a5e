"Every recorded file says whether its numbers can be recomputed from scores of single cases."

from pathlib import Path

import pandas as pd
import pytest

RESULTS = Path(__file__).resolve().parent.parent / 'data/results'


def kept():
    "File -> what is kept, from the table of README.md."
    lines = (RESULTS / 'README.md').read_text(encoding='utf-8').splitlines()
    rows = [[cell.strip(' `*') for cell in line.split('|')] for line in lines if line.startswith('| `')]
    assert len({row[1] for row in rows}) == len(rows), 'a file is listed twice'
    return {row[1]: row[2] for row in rows}


def test_every_file_is_listed():
    files = {f.name for f in RESULTS.iterdir() if f.suffix in ('.csv', '.json')}
    assert set(kept()) == files
    assert set(kept().values()) <= {'cases', 'derived', 'facts', 'not kept'}


@pytest.mark.parametrize('name', [name for name, what in kept().items() if what == 'cases'])
def test_scores_of_cases_are_there(name):
    table = pd.read_csv(RESULTS / name)
    assert table['case'].notna().all()
    assert len(table) > table['case'].nunique() >= 1
    assert {'dice', 'tp', 'dice_sum', 'found'} & set(table)


@pytest.mark.parametrize('name', [name for name, what in kept().items() if what == 'not kept'])
def test_what_is_not_kept_has_no_scores_of_cases(name):
    assert 'case' not in pd.read_csv(RESULTS / name)
    stem = name.removesuffix('.csv')
    assert not (RESULTS / f'{stem}_cases.csv').exists(), 'then the page can recompute it'
