"""The widget page in a real browser: JupyterLab on a free loopback port, headless Chromium.

The slider of every panel is moved by key. Skips with a reason where there is no browser.
"""

import hashlib
import json
import time

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
    'EntropyAreas': ('dependence', 'outcomes'),
    'Regimes': ('n', 'shared'),
    'PairPicker': ('image', 'layer a'),
    'VolumeViewer': ('slice', 'mask opacity'),
}  # the slider that is moved, and a label that only this panel has

pytestmark = [in_browser, in_lab]


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    "A JupyterLab that serves a copy of the widget page without outputs."
    folder = tmp_path_factory.mktemp('lab')
    nb = json.loads((ROOT / 'nbs' / '7_use' / '09_widgets.ipynb').read_text())
    for c in nb['cells']:
        if c['cell_type'] == 'code':
            c['outputs'], c['execution_count'] = [], None
    nb['metadata'] = {'kernelspec': KERNEL}
    work = folder / 'work'
    work.mkdir()
    (work / 'page.ipynb').write_text(json.dumps(nb))
    with jupyterlab(work, folder) as lab:
        yield lab


@pytest.fixture(scope='module')
def page(lab):
    "The page in JupyterLab after Run All Cells."
    ARTEFACTS.mkdir(exist_ok=True)
    with chromium() as browser:
        tab = open_notebook(browser, lab, 'page.ipynb', (1100, 900))
        choose_in_menu(tab, 'Run', 'Run All Cells')
        prompts = tab.locator('.jp-CodeCell .jp-InputPrompt')
        end = time.time() + 400
        while time.time() < end:
            if tab.locator('.jp-Dialog', has_text='Select Kernel').count():
                tab.locator('.jp-Dialog button', has_text='Select').last.click()
            if all(t.strip()[1:-2].isdigit() for t in prompts.all_inner_texts()):
                break  # every cell has its number
            time.sleep(1)
        else:
            tab.screenshot(path=ARTEFACTS / 'widgets_timeout.png')
            raise AssertionError(f'the page did not finish: {prompts.all_inner_texts()}')
        yield tab


def find(tab, name):
    "The output area of one panel, scrolled into view."
    panel = (
        tab.locator('.jp-OutputArea-output')
        .filter(has=tab.locator('.widget-image'))
        .filter(has=tab.locator('.widget-label', has_text=PANELS[name][1]))
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


@pytest.mark.parametrize('name', PANELS)
def test_a_slider_changes_the_picture(page, name):
    panel = find(page, name)
    before = shown(page, panel)
    page.screenshot(path=ARTEFACTS / f'widgets_{name}_before.png')
    row = panel.locator('.widget-hslider').filter(has=page.get_by_text(PANELS[name][0], exact=True)).first
    handle = row.locator('.noUi-handle').first
    readout = row.locator('.widget-readout')
    number = readout.inner_text()
    handle.focus()
    handle.press('ArrowLeft' if name == 'VolumeViewer' else 'ArrowRight')
    for _ in range(120):
        if shown(page, panel) != before:
            break
        time.sleep(0.25)
    page.screenshot(path=ARTEFACTS / f'widgets_{name}_after.png')
    assert readout.inner_text() != number, 'the slider did not move'
    assert shown(page, panel) != before, 'the picture did not follow the slider'


def test_no_cell_failed(page, lab):
    page.keyboard.press('Control+s')
    time.sleep(2)
    nb = lab.saved('page.ipynb')
    code = [
        c
        for c in nb['cells']
        if c['cell_type'] == 'code'
        and ''.join(c['source']).strip()
        and not ''.join(c['source']).startswith('#| default_exp')
    ]
    assert all(c['execution_count'] for c in code), 'a cell was not run'
    assert not [o for c in code for o in c['outputs'] if o['output_type'] == 'error']
