"Debian's Chromium without a window, for the tests that look at a page as a reader does."

import os
import shutil
from contextlib import contextmanager

import pytest

NAMES = ('chromium', 'chromium-browser', 'google-chrome')
FOUND = [os.environ.get('SNET_CHROMIUM'), *map(shutil.which, NAMES)]
CHROMIUM = next(filter(None, FOUND), None)
FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-background-networking']

in_browser = pytest.mark.skipif(
    CHROMIUM is None, reason='no Chromium: apt-get install chromium, or name one in SNET_CHROMIUM'
)


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
