"Published lists of cases."

from pathlib import Path

import pytest

from snetlib.core import BadSetting
from snetlib.data.sets.catalogue import DATASETS
from snetlib.data.sets.folder import write_phantom
from snetlib.data.source import Source
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


def test_what_is_asked_of_the_validation_part_is_obeyed_or_refused(tmp_path):
    "A number that would change nothing is not taken without a word."
    write_phantom(tmp_path, n=12)

    def sizes(**facts):
        return [len(part) for part in Source('folder', tmp_path, **facts).parts().values()]

    assert sizes() == [9, 1, 2]
    assert sizes(val=3) == [7, 3, 2], 'a split that is drawn here is drawn as asked'
    assert sizes(val=0) == [10, 0, 2]
    assert sizes(val=3, fold=0, folds=4) == [6, 3, 3]
    with pytest.raises(BadSetting, match='leaves none to train on'):
        sizes(val=10)
    names = [f'picture {k:02}' for k in range(12)]
    listed = str(tmp_path / 'list.txt')

    def write(**parts):
        lines = [line for part, ids in parts.items() for line in (f'[{part}]', *ids)]
        Path(listed).write_text('\n'.join(lines))

    write(train=names[:8], valid=names[8:10], test=names[10:])
    assert sizes(split=listed) == [8, 2, 2]
    assert sizes(split=listed, val=2) == [8, 2, 2], 'that many there are'
    for key, asked in (('val', dict(val=3)), ('seed', dict(seed=1))):
        with pytest.raises(BadSetting, match='would change nothing') as refused:
            sizes(split=listed, **asked)
        assert refused.value.key == key
    write(train=names[:10], test=names[10:])
    assert sizes(split=listed, val=3) == sizes(split=listed, val=3, seed=1) == [7, 3, 2]
