"""Lessons 1 and 3 as a student walks them: JupyterLab on the copies of `make student`, in Chromium.

The cells run up to the first exercise. Its stub is not solved; a wrong answer gets its message, a hint
comes when asked for, the right answer is accepted and gives the point. The slider of lesson 1 moves, and
its picture and its numbers follow.
"""

import hashlib
import re
import time
from functools import cache

import nbformat
import pytest
from browsers import (
    ARTEFACTS,
    KERNEL,
    ROOT,
    choose_in_menu,
    chromium,
    in_browser,
    in_lab,
    jupyterlab,
    open_notebook,
)
from test_exercises import exercises
from test_student import student

pytestmark = [in_browser, in_lab]
WALKS = {
    '01_why_stagger': dict(
        wrong=('5, 1', '6, 1'),  # in place of a part of the solution
        says='not yet: not 6 bits: 3 + 3, and one of them is counted twice',
        hint='hint 1: Joint entropy is what both have, and what they share is counted once.',
    ),
    '03_build_snet': dict(
        wrong=('self.qkv(self.norm(t))', 'self.qkv(t)'),
        says='not yet: q, k and v come from the normalised tokens',
        hint='hint 1: t: torch.cat([tokens_a, tokens_b], 1), along the axis of the tokens.',
    ),
}


@pytest.fixture(scope='module')
def walk(tmp_path_factory):
    "A function from a lesson to its tab in JupyterLab, over a folder with the student's copies."
    folder = tmp_path_factory.mktemp('student')
    work = folder / 'work'
    for name in WALKS:
        page = student.write(ROOT / f'nbs/tutorials/{name}.ipynb', work)
        nb = nbformat.read(page, 4)
        nb.metadata.kernelspec = KERNEL  # no question which kernel
        nbformat.write(nb, page)
    ARTEFACTS.mkdir(exist_ok=True)
    with jupyterlab(work, folder) as lab, chromium() as browser:
        yield cache(lambda name: open_notebook(browser, lab, f'{name}.ipynb'))


class Cell:
    "A code cell in JupyterLab, found once by words of its code, which may then change."

    def __init__(self, tab, words):
        self.tab = tab
        every = tab.locator('.jp-Notebook .jp-CodeCell')
        found = [i for i, text in enumerate(every.all_inner_texts()) if words in text]
        self.place = every.nth(found[0])

    def select(self):
        self.place.locator('.jp-InputPrompt').click()

    def number(self):
        "What stands in the brackets beside the cell: '', '*' or the number of its run."
        return self.place.locator('.jp-InputPrompt').inner_text().strip().strip('[]:')

    def run(self, code=None):
        "Type this code in place of the old one, run the cell, and give what it says."
        before = self.number()
        self.select()
        if code is not None:
            self.place.locator('.cm-content').click()
            self.tab.keyboard.press('Control+a')
            self.tab.keyboard.insert_text(code)
        self.tab.keyboard.press('Control+Enter')
        return self.wait(before)

    def wait(self, before=''):
        "What the cell says once it has a new number."
        end = time.time() + 180
        while not self.number().isdigit() or self.number() == before:
            if time.time() > end:
                self.tab.screenshot(path=ARTEFACTS / 'lesson_timeout.png')
                raise AssertionError('a cell did not finish; see tests/artefacts/lesson_timeout.png')
            time.sleep(0.1)
        return self.place.locator('.jp-OutputArea-output').all_inner_texts()


def run_up_to(tab, cell):
    "Run all cells above one, as the menu offers it, and the cell itself."
    cell.select()
    choose_in_menu(tab, 'Run', 'Run All Above Selected Cell')
    return cell.run()


def lines(outputs):
    return '\n'.join(outputs).strip().splitlines()


@pytest.mark.parametrize('name', WALKS)
def test_the_first_exercise_is_walked_through(walk, name):
    steps = WALKS[name]
    _, _, stub, solution = exercises(ROOT / f'nbs/tutorials/{name}.ipynb')[0]
    ask = stub.strip().splitlines()[-1]
    tab = walk(name)
    stub_cell, point = Cell(tab, ask), Cell(tab, '1.0 is the point')
    assert lines(run_up_to(tab, stub_cell)) == ['not yet']
    assert lines(point.run()) == ['0.0']
    right, mistake = steps['wrong']
    assert right in solution
    wrong = solution.replace(right, mistake)
    assert lines(stub_cell.run(f'{wrong}\n{ask}')) == [steps['says']]
    assert lines(point.run()) == ['0.0']
    with_hint = ask.replace('hint=0', 'hint=1')
    assert lines(stub_cell.run(f'{wrong}\n{with_hint}')) == [steps['says'], steps['hint']]
    assert lines(stub_cell.run(f'{solution}\n{ask}')) == ['solved']
    assert lines(point.run()) == ['1.0']
    tab.screenshot(path=ARTEFACTS / f'{name}_solved.png')


def digest(panel):
    "Digest of the picture that a panel shows."
    image = panel.locator('img.widget-image, .widget-image img').first
    code = 'async e => Array.from(new Uint8Array(await (await fetch(e.src)).arrayBuffer()))'
    return hashlib.sha1(bytes(image.evaluate(code))).hexdigest()


def test_the_slider_of_lesson_1_changes_picture_and_numbers(walk):
    tab = walk('01_why_stagger')
    cell = Cell(tab, 'areas = EntropyAreas()')
    run_up_to(tab, cell)
    panel = cell.place.locator('.jp-OutputArea')
    panel.locator('.widget-image').first.wait_for()
    numbers = panel.locator('.widget-html').first
    numbers.filter(has_text='H_ab: 3.55').wait_for()
    picture = digest(panel)
    handle = panel.locator('.widget-hslider').first.locator('.noUi-handle').first
    handle.focus()
    for _ in range(10):  # from 0.5 to 1 in steps of 0.05
        handle.press('ArrowRight')
    numbers.filter(has_text=re.compile(r'I: 2\s+H_ab: 2\s')).wait_for(timeout=20_000)
    end = time.time() + 20
    while digest(panel) == picture and time.time() < end:
        time.sleep(0.1)
    assert digest(panel) != picture, 'the picture did not follow the slider'
    tab.screenshot(path=ARTEFACTS / 'lesson_1_slider.png')
