"Each claim of the papers has one status, and the status follows from committed numbers."

import pytest

from snetlib.reproduce import claims
from snetlib.reproduce.claims import (
    STATUS,
    by_contrast,
    by_dice_bound,
    claims_page,
    dice_against_bound,
    printed_sentences,
)
from snetlib.reproduce.papers import paper_file


@pytest.fixture(scope='module')
def table():
    # other counts take seconds each
    few = [line for line in claims.SNET_STATEMENTS if 'ViT has' not in line[1]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claims, 'SNET_STATEMENTS', few)
        return claims_page()


def test_every_claim_has_one_status(table):
    assert set(table.status) <= set(STATUS)
    assert not table.duplicated(['paper', 'section', 'claim']).any()
    assert table.evidence.str.len().gt(5).all()


def test_status_of_what_the_tables_decide(table):
    status = table.set_index('claim').status
    assert status["CFANet's mean Dice of 59.62"] == 'impossible'
    assert status['small targets are improved by 9 % over SOTA'] == 'contradicted'
    assert status['a gap of more than 10 % to SemSperm for all models'] == 'contradicted'
    assert status['ViTs fail on gallbladder and aorta, "see Table 7"'] == 'impossible'
    assert status['SNet has 38.7 million parameters'] == 'reproduced'


def test_a_contrast_gives_its_own_verdict(table):
    "No claim about runs is told apart from its interval."
    about = table[table.evidence.str.contains('points \\[')]
    assert len(about) >= 9
    for line in about.itertuples():
        lo, hi = (float(end) for end in line.evidence.split('[')[1].split(']')[0].split(','))
        if line.status == 'reproduced':
            assert lo > 0
        if lo < -1 and hi > 1:
            assert line.status == 'inconclusive', line.claim
    assert by_contrast('as_is − zero')[0] in STATUS


def test_one_printed_dice_breaks_the_bound(monkeypatch):
    found = dice_against_bound()
    assert len(found) == 14 * 3 + 7
    assert (found.mdice > found.bound + 0.02).sum() == 1
    right = paper_file
    monkeypatch.setattr(
        claims,
        'paper_file',
        lambda name: right(name).replace({59.62: 49.62}),
    )
    with pytest.raises(IndexError):
        by_dice_bound()  # the corrected digit keeps the bound


def test_sentences_are_those_of_the_file():
    sentences, file = printed_sentences(), paper_file('claims')
    assert len(sentences) == len(file)
    assert (sentences.status == 'reproduced').sum() == (file.agrees == 'yes').sum()
