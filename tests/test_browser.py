"""The widget page in a real browser: JupyterLab on a free loopback port, headless Chromium.

The slider of every panel is moved by key. Skips with a reason where there is no browser.
"""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from browsers import chromium, in_browser

ROOT = Path(__file__).resolve().parent.parent
ARTEFACTS = ROOT / 'tests' / 'artefacts'
PANELS = {
    'EntropyAreas': ('dependence', 'outcomes'),
    'Regimes': ('n', 'shared'),
    'PairPicker': ('image', 'layer a'),
    'VolumeViewer': ('slice', 'mask opacity'),
}  # the slider that is moved, and a label that only this panel has

pytestmark = [
    in_browser,
    pytest.mark.skipif(
        not shutil.which('jupyter-lab', path=str(Path(sys.executable).parent)),
        reason='JupyterLab is not installed beside this Python',
    ),
]


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    "(address, folder) of a JupyterLab that serves a copy of the widget page without outputs."
    folder, port = tmp_path_factory.mktemp('lab'), free_port()
    nb = json.loads((ROOT / 'nbs' / '7_use' / '09_widgets.ipynb').read_text())
    for c in nb['cells']:
        if c['cell_type'] == 'code':
            c['outputs'], c['execution_count'] = [], None
    nb['metadata'] = {
        'kernelspec': {'display_name': 'Python 3 (ipykernel)', 'language': 'python', 'name': 'python3'}
    }
    work = folder / 'work'
    work.mkdir()
    (work / 'page.ipynb').write_text(json.dumps(nb))
    for extension, setting in (
        # all cells are in the page, not only those in view
        ('notebook-extension/tracker', {'windowingMode': 'none'}),
        ('apputils-extension/notification', {'fetchNews': 'false', 'checkForUpdates': False}),
    ):
        f = folder / 'settings' / '@jupyterlab' / f'{extension}.jupyterlab-settings'
        f.parent.mkdir(parents=True, exist_ok=True)
        f.write_text(json.dumps(setting))
    env = os.environ | dict(
        PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')]),
        JUPYTER_CONFIG_DIR=str(folder / 'config'),
        JUPYTER_DATA_DIR=str(folder / 'data'),
        JUPYTERLAB_SETTINGS_DIR=str(folder / 'settings'),
        JUPYTERLAB_WORKSPACES_DIR=str(folder / 'spaces'),
        IPYTHONDIR=str(folder / 'ipython'),
        OMP_NUM_THREADS='1',
    )
    env.pop('MPLBACKEND', None)
    log = open(folder / 'lab.log', 'w')
    server = subprocess.Popen(
        [
            sys.executable,
            '-m',
            'jupyterlab',
            '--no-browser',
            '--allow-root',
            '--ip=127.0.0.1',
            f'--port={port}',
            '--ServerApp.port_retries=0',
            '--IdentityProvider.token=',
            '--ServerApp.password=',
            f'--ServerApp.root_dir={work}',
            '--LabApp.news_url=',
            '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate',
        ],
        cwd=work,
        env=env,
        stdout=log,
        stderr=log,
    )
    address = f'http://127.0.0.1:{port}'
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f'{address}/api', timeout=2).close()
                break
            except OSError:
                time.sleep(0.5)
            assert server.poll() is None, (folder / 'lab.log').read_text()[-2000:]
        else:
            raise AssertionError((folder / 'lab.log').read_text()[-2000:])
        yield address
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        log.close()


@pytest.fixture(scope='module')
def page(lab):
    "The page in JupyterLab after Run All Cells."
    ARTEFACTS.mkdir(exist_ok=True)
    with chromium() as browser:
        tab = browser.new_page(viewport={'width': 1100, 'height': 900})
        tab.set_default_timeout(180_000)
        tab.goto(f'{lab}/lab/tree/page.ipynb?reset')
        tab.locator('.jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook').wait_for()
        tab.locator('.jp-Notebook .jp-Cell').first.wait_for()
        tab.locator('#jp-main-statusbar', has_text='| Idle').wait_for()  # the kernel has answered
        tab.locator('.lm-MenuBar-item', has_text='Run').first.click()
        tab.locator('.lm-Menu-item', has_text='Run All Cells').first.click()
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


def test_no_cell_failed(page):
    page.keyboard.press('Control+s')
    time.sleep(2)
    nb = json.loads(
        urllib.request.urlopen(page.url.split('/lab')[0] + '/api/contents/page.ipynb', timeout=20).read()
    )['content']
    code = [
        c
        for c in nb['cells']
        if c['cell_type'] == 'code'
        and ''.join(c['source']).strip()
        and not ''.join(c['source']).startswith('#| default_exp')
    ]
    assert all(c['execution_count'] for c in code), 'a cell was not run'
    assert not [o for c in code for o in c['outputs'] if o['output_type'] == 'error']
