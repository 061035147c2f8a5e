"Debian's Chromium without a window, and JupyterLab, for tests that use a page as a reader does."

import importlib.util
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ARTEFACTS = ROOT / 'tests' / 'artefacts'

NAMES = ('chromium', 'chromium-browser', 'google-chrome')
FOUND = [os.environ.get('SNET_CHROMIUM'), *map(shutil.which, NAMES)]
CHROMIUM = next(filter(None, FOUND), None)
FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-background-networking']

in_browser = pytest.mark.skipif(
    CHROMIUM is None, reason='no Chromium: apt-get install chromium, or name one in SNET_CHROMIUM'
)

in_lab = pytest.mark.skipif(
    not importlib.util.find_spec('jupyterlab'),
    reason='JupyterLab is not installed beside this Python',
)
SETTINGS = {
    'notebook-extension/tracker': {'windowingMode': 'none'},  # all cells, not only those in view
    'apputils-extension/notification': {'fetchNews': 'false', 'checkForUpdates': False},
}
KERNEL = {'display_name': 'Python 3 (ipykernel)', 'language': 'python', 'name': 'python3'}


@contextmanager
def chromium():
    "A browser that is closed when the block is left; skips where Playwright is not installed."
    api = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
    with api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def wait_for(server, url, log):
    "Wait until a server answers; say what it wrote if it ends instead."
    for _ in range(240):
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except OSError:
            time.sleep(0.5)
        assert server.poll() is None, log.read_text()[-2000:]
    raise AssertionError(log.read_text()[-2000:])


class Lab:
    "A JupyterLab of one test: where it is, what opens it, and the folder that it serves."

    def __init__(self, port, token, work):
        self.address, self.token, self.work = f'http://127.0.0.1:{port}', token, work

    def url(self, place):
        "Address of a page of this JupyterLab, with the token."
        return f'{self.address}/{place}?token={self.token}'

    def saved(self, name):
        "A notebook as it is on the disk."
        with urllib.request.urlopen(self.url(f'api/contents/{name}'), timeout=20) as answer:
            return json.loads(answer.read())['content']


@contextmanager
def jupyterlab(work, folder):
    "JupyterLab on a free loopback port over the folder `work`; what it keeps lies in `folder`."
    port, token = free_port(), secrets.token_hex(16)
    for extension, setting in SETTINGS.items():
        f = folder / 'settings' / '@jupyterlab' / f'{extension}.jupyterlab-settings'
        f.parent.mkdir(parents=True, exist_ok=True)
        f.write_text(json.dumps(setting))
    env = os.environ | dict(
        PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')]),
        JUPYTER_TOKEN=token,
        JUPYTER_CONFIG_DIR=str(folder / 'config'),
        JUPYTER_DATA_DIR=str(folder / 'data'),
        JUPYTERLAB_SETTINGS_DIR=str(folder / 'settings'),
        JUPYTERLAB_WORKSPACES_DIR=str(folder / 'spaces'),
        IPYTHONDIR=str(folder / 'ipython'),
        OMP_NUM_THREADS='1',
    )
    env.pop('MPLBACKEND', None)
    command = [
        *(sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', '--ip=127.0.0.1'),
        *(f'--port={port}', '--ServerApp.port_retries=0', f'--ServerApp.root_dir={work}'),
        *('--LabApp.news_url=', '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate'),
    ]
    path = folder / 'lab.log'
    with open(path, 'w') as log:
        server = subprocess.Popen(command, cwd=work, env=env, stdout=log, stderr=log)
        try:
            lab = Lab(port, token, work)
            wait_for(server, lab.url('api'), path)
            yield lab
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def open_notebook(browser, lab, name, size=(1280, 800)):
    "A tab with a notebook of this JupyterLab whose kernel has answered."
    tab = browser.new_page(viewport=dict(zip(('width', 'height'), size)))
    tab.set_default_timeout(120_000)
    tab.goto(lab.url(f'lab/tree/{name}') + '&reset')
    tab.locator('.jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook .jp-Cell').first.wait_for()
    tab.locator('#jp-main-statusbar', has_text='| Idle').wait_for()
    return tab


def choose_in_menu(tab, menu, item):
    "Choose an item of a menu of JupyterLab, by the words that it begins with."
    tab.locator('.lm-MenuBar-item', has_text=menu).first.click()
    tab.locator('.lm-Menu-item', has_text=item).first.click()
