"Every kind of file, damaged in a few hundred ways: the right result or one sentence; `make fuzz` tries more."

import pytest
from fuzz import KINDS, Kind, fuzz, shares

pytest.importorskip('SimpleITK')
pytest.importorskip('pydicom')


@pytest.mark.parametrize('kind', KINDS)
def test_damage_is_seen_or_harmless(kind):
    counts, faults = fuzz(kind, range(shares(250)[kind]))
    assert not faults, faults[0]
    assert sum(counts.values()) == shares(250)[kind]


@pytest.mark.parametrize('kind', ['png', 'nii.gz', 'npz'])
def test_a_check_sum_sees_nearly_everything(kind):
    counts, _ = fuzz(kind, range(100, 120))
    assert counts['refused'] >= 15


def raises(folder, file):
    return 1 / (folder.name == 'good')


def writes_outside(folder, file):
    (folder.parent / 'outside').touch()


def notices_nothing(folder, file):
    return file.read_bytes()


@pytest.mark.parametrize(
    'use, fault',
    [(raises, 'traceback'), (writes_outside, 'files left'), (notices_nothing, 'silently wrong')],
)
def test_a_bad_reader_is_found_out(monkeypatch, use, fault):
    same = (lambda a, b: a == b) if use is notices_nothing else None
    monkeypatch.setitem(KINDS, 'png', Kind(KINDS['png'].make, use, same=same))
    counts, faults = fuzz('png', range(3))
    assert counts == {fault: 3} and len(faults) == 3
