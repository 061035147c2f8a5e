"The comparison of what a page prints with what is committed."

import pytest
from scripts import script

pages = script('pages')


def prints(text):
    "What is compared of a cell that prints this text."
    cell = pages.nbformat.v4.new_code_cell('print()')
    cell.outputs = [pages.nbformat.v4.new_output('stream', name='stdout', text=text)]
    return pages.printed(cell)


@pytest.mark.parametrize(
    'committed, now',
    [
        ('40.1 s for 3 images', '7.3 s for 3 images'),
        ('peak 48.2 MB', 'peak 51 MB'),
        ('written to /tmp/a1/x.png', 'written to /tmp/b2/x.png'),
        ('Dice 0.9501', 'Dice 0.9502'),
        ('a  1\nb  2', 'a 1\nb 2'),
    ],
)
def test_what_varies_is_not_compared(committed, now):
    assert pages.same(prints(committed), prints(now))


@pytest.mark.parametrize(
    'committed, now',
    [
        ("the paper's 38.7 million", "the paper's 38.5 million"),
        ('holds (3 of 3)', 'holds (2 of 3)'),
        ('reproduced', 'not reproduced'),
        ('a 1', 'a 1\nb 2'),
    ],
)
def test_what_is_wrong_is_found(committed, now):
    assert not pages.same(prints(committed), prints(now))


def test_cells_are_left_out_by_their_flags():
    cell = pages.nbformat.v4.new_code_cell
    assert pages.left_out(cell('#| slow\n1')) and pages.left_out(cell('#| cuda\n1'))
    assert not pages.left_out(cell('1'))
    assert pages.left_out(cell('#| data\n1')) != pages.DATA.is_dir()
