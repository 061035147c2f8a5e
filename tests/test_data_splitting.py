"Published lists of cases."

from pathlib import Path

import pytest

from snetlib.data.sets.catalogue import DATASETS
from snetlib.data.splitting import read_split

ROOT = Path(__file__).parent.parent


def test_split_files_are_the_packages_lists():
    files = {f.stem: read_split(f) for f in (ROOT / 'snetlib' / 'data' / 'splits').glob('*.txt')}
    lists = {f'{d.name}_{n.replace("/", "-")}': s for d in DATASETS.values() for n, s in d.splits.items()}
    assert {k: files[k] for k in lists} == lists and len(lists) == 5


@pytest.mark.parametrize('name,split', [(d.name, n) for d in DATASETS.values() for n in d.splits])
def test_no_case_in_two_parts(name, split):
    parts = DATASETS[name].splits[split]
    ids = [i for p in parts.values() for i in p]
    assert len(ids) == len(set(ids))
