"Published lists of cases."

import json
from pathlib import Path

import pytest

from snetlib.core import BadSetting
from snetlib.data.sets.catalogue import DATASETS
from snetlib.data.sets.folder import write_phantom
from snetlib.data.source import Source
from snetlib.data.splitting import BadSplit, read_split, read_splits

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


NAMES = [f'picture {k:02d}' for k in range(6)]
LISTED = dict(train=NAMES[:3], valid=NAMES[3:4], test=NAMES[4:])
FOLDS = [dict(train=NAMES[2:], val=NAMES[:2]), dict(train=NAMES[:4], val=NAMES[4:])]


def table(mark):
    rows = [f'{case}{mark}{part}' for part, cases in LISTED.items() for case in cases]
    return '\n'.join([f'Case{mark}Split', *rows])


@pytest.mark.parametrize(
    ('name', 'text'),
    {
        'parts.json': json.dumps(dict(train=NAMES[:3], val=NAMES[3:4], test=NAMES[4:])),
        'parts.csv': table(','),
        'semicolons.csv': table(';'),
        'parts.tsv': table('\t'),
        'with_a_mark.csv': '\ufeff' + table(','),
    }.items(),
)
def test_splits_of_other_tools(tmp_path, name, text):
    write_phantom(tmp_path, n=6)
    (tmp_path / name).write_text(text, encoding='utf-8')
    parts = Source('folder', tmp_path, split=tmp_path / name).parts()
    assert {part: [i.id for i in items] for part, items in parts.items()} == LISTED
    (tmp_path / 'splits').mkdir()
    (tmp_path / name).rename(tmp_path / 'splits' / name)
    assert Source('folder', tmp_path).dataset.splits == {Path(name).stem: LISTED}


def test_a_list_of_folds_is_read_once(tmp_path, monkeypatch):
    file, read = tmp_path / 'splits_final.json', []
    file.write_text(json.dumps(FOLDS))
    text = Path.read_text
    monkeypatch.setattr(Path, 'read_text', lambda path, **how: read.append(path) or text(path, **how))
    found = read_splits(file)
    assert read == [file]
    assert found == {f'splits_final:{k}': read_split(f'{file}:{k}') for k in (0, 1)}
    file.write_text('[]')
    with pytest.raises(BadSplit):
        read_splits(file)


def test_a_fold_of_nnunet_is_named(tmp_path):
    write_phantom(tmp_path, n=6)
    file = tmp_path / 'splits_final.json'
    file.write_text(json.dumps(FOLDS))
    parts = Source('folder', tmp_path, split=f'{file}:1').parts()
    assert [i.id for i in parts['valid']] == NAMES[4:] and not parts['test']
    with pytest.raises(BadSplit, match='2 folds') as e:
        Source('folder', tmp_path, split=file).parts()
    assert e.value.path == file
    with pytest.raises(BadSplit, match='2 folds'):
        read_split(f'{file}:2')
    file.write_text(json.dumps(FOLDS[:1]))
    assert read_split(file) == dict(train=NAMES[2:], valid=NAMES[:2])


NO_SPLITS = {
    'half.json': '{"train": [',
    'text.json': '"train"',
    'numbers.json': '{"train": 3}',
    'other_names.json': '{"training_cases": ["a"]}',
    'empty.json': '[]',
    'no_head.csv': 'a,train\nb,test\n',
    'short_row.csv': 'case,split\na\n',
    'empty.csv': '',
    'twice.csv': 'case,split\na,train\na,test\n',
    'part.csv': 'case,split\na,exam\n',
}


@pytest.mark.parametrize('name', NO_SPLITS)
def test_what_is_no_split_is_one_sentence(tmp_path, name):
    (tmp_path / name).write_text(NO_SPLITS[name])
    with pytest.raises(BadSetting) as e:
        read_split(tmp_path / name)
    assert e.value.path == tmp_path / name and '\n' not in str(e.value)
