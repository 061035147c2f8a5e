"Reports are one safe page, and tables survive their own signs."

import re

import numpy as np
import pandas as pd
import pytest
from browsers import chromium, in_browser

from snetlib.core import SnetError
from snetlib.report.page import evaluation_parts, light_markdown, write_report
from snetlib.report.tables import (
    csv_restore,
    csv_safe,
    format_table,
    score_table,
    to_html,
    to_latex,
    to_markdown,
)
from snetlib.scores.cases import score_case


def scored(n=4):
    rng = np.random.default_rng(0)
    return pd.concat(
        [
            score_case(
                rng.integers(0, 3, (2, 8, 8)),
                rng.integers(0, 3, (2, 8, 8)),
                3,
                (2, 1, 1),
                ('bg', 'a_1', 'b<2>'),
                f'case {i}',
            ).assign(model=m)
            for m in 'xy'
            for i in range(n)
        ]
    )


def test_a_report_is_one_safe_page(tmp_path):
    table = scored()
    pictures = {
        f'case {i}': tuple(np.random.default_rng(i).integers(0, 3, (2, 8, 8)) for _ in 'ipt')
        for i in range(4)
    }
    page = write_report(
        tmp_path / 'new' / 'r.html',
        '<b>&',
        ['<img src=x onerror=alert(1)>', *evaluation_parts(table, pictures, ('bg', 'a_1', 'b<2>'))],
    )
    html = page.read_text()
    assert html.count('src="data:image/png;base64,') == 5 and not re.search(
        r'(src|href)="(?!data:)|https?://|@import|<script|<img src=x', html
    )
    assert (
        '&lt;b&gt;&amp;' in html
        and 'b&lt;2&gt;' in html
        and '<b<2>' not in html
        and 'prefers-color-scheme: dark' in html
        and 'width=device-width' in html
    )
    assert [f.name for f in page.parent.iterdir()] == ['r.html']


def test_a_report_of_one_case_and_one_model(tmp_path):
    t = scored(1).query('model == "x"').drop(columns='model')
    parts = evaluation_parts(t)
    assert (
        write_report(tmp_path / 'r.html', 'one', parts).stat().st_size > 10_000
        and 'nan' not in format_table(score_table(t)).to_string().lower()
    )


def test_a_report_that_fails_leaves_the_old_one(tmp_path):
    page = write_report(tmp_path / 'r.html', 'old', ['old'])
    before = page.read_text()
    with pytest.raises(SnetError, match='cannot show'):
        write_report(page, 'new', ['fine', object()])
    assert page.read_text() == before
    (tmp_path / 'file').write_text('')
    with pytest.raises(SnetError, match='a file stands'):
        write_report(tmp_path / 'file' / 'r.html', 'x', [])


def test_tables_as_text_survive_their_own_signs():
    t = pd.DataFrame({'a_b': ['1|2', 'x & y %', '<i>', '\\n'], 'n': [0.5, np.nan, 1 / 3, 2e-7]})
    md = to_markdown(t)
    assert len(md.splitlines()) == 6 and all(re.sub(r'\\\|', '', l).count('|') == 3 for l in md.splitlines())
    tex = to_latex(t)
    assert tex.count(r'\\') == 5 and r'a\_b' in tex and r'\textbackslash{}n' in tex and r'x \& y \%' in tex
    assert '<i>' not in to_html(t) and to_html(t).count('<tr') == 5


def test_light_markdown_escapes_first():
    assert (
        light_markdown('`<a>` **<b>**\n\n## <c>')
        == '<p><code>&lt;a&gt;</code> <b>&lt;b&gt;</b></p>\n<h2>&lt;c&gt;</h2>'
    )


@in_browser
@pytest.mark.parametrize('width, scheme', [(390, 'dark'), (1200, 'light')])
def test_the_page_fits_a_phone_and_follows_the_colour_scheme(tmp_path, width, scheme):
    page = write_report(tmp_path / 'r.html', 'fits', evaluation_parts(scored()))
    with chromium() as browser:
        tab = browser.new_page(viewport={'width': width, 'height': 800}, color_scheme=scheme)
        asked = []
        tab.on('request', lambda r: asked.append(r.url))
        tab.goto(page.as_uri())
        assert tab.evaluate('document.documentElement.scrollWidth') <= width, (
            'the page itself must not scroll sideways'
        )
        assert tab.evaluate('[...document.images].every(i => i.complete && i.naturalWidth > 0)') and all(
            u.startswith(('file:', 'data:')) for u in asked
        )
        dark = (
            sum(
                int(v)
                for v in re.findall(r'\d+', tab.evaluate('getComputedStyle(document.body).backgroundColor'))[
                    :3
                ]
            )
            < 200
        )
        assert dark == (scheme == 'dark')


def test_text_that_a_spreadsheet_would_run_is_marked_and_comes_back():
    t = pd.DataFrame({'case': ['=1+1', '+a', '-b', '@c', 'p1'], 'dice': [-1.0, 0, 1, 2, 3]})
    assert [v[0] for v in csv_safe(t).case] == ["'"] * 4 + ['p']
    assert csv_safe(t).dice.tolist() == t.dice.tolist()
    assert csv_restore(csv_safe(t)).equals(t)


def test_html_in_markdown_is_escaped():
    assert '<' not in to_markdown(pd.DataFrame({'<b>': ['<img src=x onerror=alert(1)>']}))
