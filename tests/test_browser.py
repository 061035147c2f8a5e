"""The pages of panels in a real browser: JupyterLab on a free loopback port, headless Chromium.

The slider of every panel is moved by key. Skips with a reason where there is no browser.
"""

import hashlib
import json
import time
from functools import cache

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

PANELS = {
    '09_widgets': {
        'EntropyAreas': ('dependence', 'outcomes'),
        'Regimes': ('n', 'shared'),
        'PairPicker': ('image', 'layer a'),
        'VolumeViewer': ('slice', 'mask opacity'),
    },
    '18_block_panels': {
        'Wiring': ('ViT2 meets CNN', 'ViT1 meets CNN'),
        'TokenRow': ('row (%)', 'reduction'),
        'SmallObject': ('size (pixels)', 'size (pixels)'),
    },
}  # of each page: the slider that is moved, and a label that only this panel has
EACH = [(name, panel) for name, panels in PANELS.items() for panel in panels]

pytestmark = [in_browser, in_lab]


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    "A JupyterLab that serves copies of the pages without outputs."
    folder = tmp_path_factory.mktemp('lab')
    work = folder / 'work'
    work.mkdir()
    for name in PANELS:
        nb = json.loads((ROOT / f'nbs/7_use/{name}.ipynb').read_text(encoding='utf-8'))
        for c in nb['cells']:
            if c['cell_type'] == 'code':
                c['outputs'], c['execution_count'] = [], None
        nb['metadata'] = {'kernelspec': KERNEL}
        (work / f'{name}.ipynb').write_text(json.dumps(nb), encoding='utf-8')
    with jupyterlab(work, folder) as lab:
        yield lab


def run_all(browser, lab, name):
    "A tab with a page in JupyterLab after Run All Cells."
    tab = open_notebook(browser, lab, f'{name}.ipynb', (1100, 900))
    choose_in_menu(tab, 'Run', 'Run All Cells')
    prompts = tab.locator('.jp-CodeCell .jp-InputPrompt')
    end = time.time() + 400
    while time.time() < end:
        if tab.locator('.jp-Dialog', has_text='Select Kernel').count():
            tab.locator('.jp-Dialog button', has_text='Select').last.click()
        if all(t.strip()[1:-2].isdigit() for t in prompts.all_inner_texts()):
            return tab  # every cell has its number
        time.sleep(1)
    tab.screenshot(path=ARTEFACTS / f'{name}_timeout.png')
    raise AssertionError(f'{name} did not finish: {prompts.all_inner_texts()}')


@pytest.fixture(scope='module')
def open_page(lab):
    "A function from the name of a page to its tab, where every cell has run."
    ARTEFACTS.mkdir(exist_ok=True)
    with chromium() as browser:
        yield cache(lambda name: run_all(browser, lab, name))


def find(tab, name, label):
    "The output area of the panel with this label, scrolled into view."
    panel = (
        tab.locator('.jp-OutputArea-output')
        .filter(has=tab.locator('.widget-image'))
        .filter(has=tab.locator('.widget-label', has_text=label))
        .first
    )
    try:
        panel.wait_for(timeout=60_000)
    except Exception:
        tab.screenshot(path=ARTEFACTS / f'widgets_{name}_not_found.png')
        (ARTEFACTS / 'page.html').write_text(tab.content())
        raise
    panel.locator('.widget-image').first.scroll_into_view_if_needed()
    return panel


def shown(tab, panel):
    "Digest of the bytes that the panel's picture shows."
    return hashlib.sha1(
        bytes(
            panel.locator('img.widget-image, .widget-image img').first.evaluate(
                'async e => Array.from(new Uint8Array(await (await fetch(e.src)).arrayBuffer()))'
            )
        )
    ).hexdigest()


@pytest.mark.parametrize(['page', 'name'], EACH)
def test_a_slider_changes_the_picture(open_page, page, name):
    tab, (slider, label) = open_page(page), PANELS[page][name]
    panel = find(tab, name, label)
    before = shown(tab, panel)
    tab.screenshot(path=ARTEFACTS / f'widgets_{name}_before.png')
    row = panel.locator('.widget-hslider').filter(has=tab.get_by_text(slider, exact=True)).first
    handle = row.locator('.noUi-handle').first
    readout = row.locator('.widget-readout')
    number = readout.inner_text()
    handle.focus()
    handle.press('ArrowLeft' if name == 'VolumeViewer' else 'ArrowRight')
    for _ in range(120):
        if shown(tab, panel) != before:
            break
        time.sleep(0.25)
    tab.screenshot(path=ARTEFACTS / f'widgets_{name}_after.png')
    assert readout.inner_text() != number, 'the slider did not move'
    assert shown(tab, panel) != before, 'the picture did not follow the slider'


@pytest.mark.parametrize('page', PANELS)
def test_no_cell_failed(open_page, lab, page):
    open_page(page).keyboard.press('Control+s')
    time.sleep(2)
    nb = lab.saved(f'{page}.ipynb')
    code = [
        c
        for c in nb['cells']
        if c['cell_type'] == 'code'
        and ''.join(c['source']).strip()
        and not ''.join(c['source']).startswith('#| default_exp')
    ]
    assert all(c['execution_count'] for c in code), 'a cell was not run'
    assert not [o for c in code for o in c['outputs'] if o['output_type'] == 'error']
