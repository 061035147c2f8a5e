"""A slide deck in a room without a network: opened from a file, turned by key, its equations drawn."""

import pytest
from browsers import ARTEFACTS, ROOT, chromium, in_browser
from scripts import script

pytestmark = in_browser


@pytest.fixture(scope='module')
def decks(tmp_path_factory):
    "A folder with the decks of two lessons and what they load."
    pytest.importorskip('nbconvert')
    pytest.importorskip('sphinx_revealjs')
    slides, folder = script('slides'), tmp_path_factory.mktemp('slides')
    slides.copy_libraries(folder)
    for name in ('01_why_stagger', '03_build_snet'):
        slides.write(ROOT / f'nbs/tutorials/{name}.ipynb', folder)
    return folder


def place(tab):
    "Which slide is shown: (across, down)."
    return tab.evaluate('[Reveal.getIndices().h, Reveal.getIndices().v]')


@pytest.mark.parametrize('name', ['01_why_stagger', '03_build_snet'])
def test_a_deck_is_shown_without_a_network(decks, name):
    ARTEFACTS.mkdir(exist_ok=True)
    asked, failed, errors = [], [], []
    with chromium() as browser:
        room = browser.new_context(offline=True, viewport=dict(width=1280, height=800))
        tab = room.new_page()
        tab.on('request', lambda r: asked.append(r.url))
        tab.on('requestfailed', lambda r: failed.append(r.url))
        tab.on('pageerror', lambda e: errors.append(str(e)))
        tab.goto((decks / f'{name}.slides.html').as_uri())
        tab.wait_for_function('window.Reveal && Reveal.isReady() && MathJax.startup.promise')
        tab.evaluate('MathJax.startup.promise')
        assert tab.locator('section.present h1').first.is_visible()
        assert place(tab) == [0, 0]
        tab.keyboard.press('ArrowRight')
        assert place(tab) == [1, 0]
        drawn, total = tab.locator('mjx-container svg'), tab.evaluate('Reveal.getTotalSlides()')
        assert total >= 15 and drawn.count() > 3
        assert tab.locator('mjx-merror').count() == 0
        tab.screenshot(path=ARTEFACTS / f'{name}_slide.png')
    assert not [url for url in asked if not url.startswith(('file:', 'data:', 'blob:'))]
    assert not failed
    assert not errors
