"""Pages in a real browser: JupyterLab on a free loopback port, headless Chromium.

The slider of every panel is moved by key, and two lessons are walked as a student would: a wrong answer, a
hint, the right answer. Skips with a reason where there is no browser.
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
from contextlib import contextmanager
from pathlib import Path

import pytest
from test_exercises import exercises

ROOT = Path(__file__).resolve().parent.parent
ARTEFACTS = ROOT / 'tests' / 'artefacts'
CHROMIUM = next(
    (
        p
        for p in (
            os.environ.get('SNET_CHROMIUM'),
            shutil.which('chromium'),
            shutil.which('chromium-browser'),
            shutil.which('google-chrome'),
        )
        if p
    ),
    None,
)
PANELS = {
    'EntropyAreas': ('dependence', 'outcomes'),
    'Regimes': ('n', 'shared'),
    'PairPicker': ('image', 'layer a'),
    'VolumeViewer': ('slice', 'mask opacity'),
}  # the slider that is moved, and a label that only this panel has

pytestmark = [
    pytest.mark.skipif(
        CHROMIUM is None, reason='no Chromium: apt-get install chromium, or name one in SNET_CHROMIUM'
    ),
    pytest.mark.skipif(
        not shutil.which('jupyter-lab', path=str(Path(sys.executable).parent)),
        reason='JupyterLab is not installed beside this Python',
    ),
]


SERVED = {
    'page.ipynb': '7_use/09_widgets.ipynb',
    'lesson_1.ipynb': 'tutorials/01_why_stagger.ipynb',
    'lesson_3.ipynb': 'tutorials/03_build_snet.ipynb',
}


def without_outputs(path):
    "A page as a student opens it."
    nb = json.loads(path.read_text())
    for c in nb['cells']:
        if c['cell_type'] == 'code':
            c['outputs'], c['execution_count'] = [], None
    kernel = {'display_name': 'Python 3 (ipykernel)', 'language': 'python', 'name': 'python3'}
    nb['metadata'] = {'kernelspec': kernel}
    return nb


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    "(address, folder) of a JupyterLab that serves a copy of the widget page without outputs."
    folder, port = tmp_path_factory.mktemp('lab'), free_port()
    work = folder / 'work'
    work.mkdir()
    for name, page in SERVED.items():
        (work / name).write_text(json.dumps(without_outputs(ROOT / 'nbs' / page)))
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


@contextmanager
def opened(lab, name):
    "A page in JupyterLab after Run All Cells."
    from playwright.sync_api import sync_playwright

    ARTEFACTS.mkdir(exist_ok=True)
    with sync_playwright() as p:
        browser = p.chromium.launch(
            executable_path=CHROMIUM,
            args=['--no-sandbox', '--disable-gpu', '--disable-background-networking'],
        )
        try:
            tab = browser.new_page(viewport={'width': 1100, 'height': 900})
            tab.set_default_timeout(180_000)
            tab.goto(f'{lab}/lab/tree/{name}?reset')
            tab.locator('.jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook').wait_for()
            tab.locator('.jp-Notebook .jp-Cell').first.wait_for()
            tab.locator('#jp-main-statusbar', has_text='| Idle').wait_for()  # the kernel has answered
            tab.locator('.lm-MenuBar-item', has_text='Run').first.click()
            tab.locator('.lm-Menu-item', has_text='Run All Cells').first.click()
            wait_for_all(tab)
            yield tab
        finally:
            browser.close()


def wait_for_all(tab):
    "Until every code cell has its number."
    prompts = tab.locator('.jp-CodeCell .jp-InputPrompt')
    end = time.time() + 400
    while time.time() < end:
        if tab.locator('.jp-Dialog', has_text='Select Kernel').count():
            tab.locator('.jp-Dialog button', has_text='Select').last.click()
        if all(t.strip()[1:-2].isdigit() for t in prompts.all_inner_texts()):
            return
        time.sleep(1)
    tab.screenshot(path=ARTEFACTS / 'page_timeout.png')
    raise AssertionError(f'the page did not finish: {prompts.all_inner_texts()}')


@pytest.fixture(scope='module')
def page(lab):
    "The page of the panels."
    with opened(lab, 'page.ipynb') as tab:
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


def cell_with(tab, text):
    "The code cell that holds a text."
    return tab.locator('.jp-CodeCell').filter(has=tab.locator('.cm-content', has_text=text)).last


def answer(tab, check, source):
    "Write an answer into a stub, run it with Shift+Enter, and read what it says."
    cell = cell_with(tab, f'self_check({check}')
    before = cell.locator('.jp-InputPrompt').inner_text()
    cell.scroll_into_view_if_needed()
    cell.locator('.cm-content').click()
    tab.keyboard.press('Control+a')
    tab.keyboard.insert_text(source)
    tab.keyboard.press('Shift+Enter')
    for _ in range(240):
        now = cell.locator('.jp-InputPrompt').inner_text()
        if now != before and now.strip()[1:-2].isdigit():
            return cell.locator('.jp-OutputArea-output').first.inner_text().strip()
        time.sleep(0.5)
    tab.screenshot(path=ARTEFACTS / f'{check}_timeout.png')
    raise AssertionError(f'the answer was not run: {before} {now}')


def walk(tab, name, check, wrong, right):
    "Unsolved, wrong, with a hint, right: as a student goes through an exercise."
    first = cell_with(tab, f'self_check({check}').locator('.jp-OutputArea-output').first
    assert first.inner_text().strip() == 'not yet'
    call = f'\n\n\nself_check({check}, {name}, hint='
    said = answer(tab, check, f'{wrong}{call}0)')
    assert said.startswith('not yet: ') and 'hint' not in said
    said = answer(tab, check, f'{wrong}{call}1)')
    assert 'hint 1: ' in said and 'hint 2' not in said
    assert answer(tab, check, f'{right}{call}0)') == 'solved'


def test_a_student_walks_lesson_1(lab):
    with opened(lab, 'lesson_1.ipynb') as tab:
        walk(tab, 'answer_1', 'check_bits', 'answer_1 = 6, 2', 'answer_1 = 5, 1')
        test_a_slider_changes_the_picture(tab, 'EntropyAreas')
        tab.screenshot(path=ARTEFACTS / 'lesson_1.png')


def test_a_student_walks_lesson_3(lab):
    found = {e[2]: e[3] for e in exercises(ROOT / 'nbs' / SERVED['lesson_3.ipynb'])}
    right = next(s for stub, s in found.items() if 'check_my_ffb' in stub).strip()
    wrong = right.replace('torch.cat([F_2, F_C], 1)', 'torch.cat([F_C, F_2], 1)')
    assert wrong != right
    with opened(lab, 'lesson_3.ipynb') as tab:
        walk(tab, 'MyFFB', 'check_my_ffb', wrong, right)
        tab.screenshot(path=ARTEFACTS / 'lesson_3.png')
