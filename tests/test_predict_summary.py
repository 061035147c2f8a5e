"The summary of a predicted folder: numbers by hand, escaping, failures, resumed runs, nothing from outside."

import csv
import functools
import io
import json
import math
import re
import shutil
import sys

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import tqdm.auto
from browsers import chromium, in_browser
from PIL import Image
from processes import refused, snet

from snetlib.cli import advice, main
from snetlib.core import DiskFull, NotAtHand, NotWritable, UnreadableFile
from snetlib.predict.summary import (
    FEWEST,
    UNUSUAL,
    CaseSummary,
    count_marks,
    extent,
    file_within,
    link_to,
    read_predictions,
    robust_z,
    shown_amount,
    write_summary,
)
from snetlib.report.tables import csv_safe, read_case_table

EVIL = '<script>alert(1)<'  # a name of a file on Linux
AFFINE = np.diag([2.0, 2.0, 5.0, 1.0])


def add_case(out, name, slices=2, side=10, **more):
    "A mask of 4 slices of 20×20 voxels of 2×2×5 mm: a square in the last slices. Its row of the table."
    mask = np.zeros((4, 20, 20), np.uint8)
    mask[4 - slices :, :side, :10] = 1
    nib.save(nib.Nifti1Image(mask.T, AFFINE), out / f'{name}_mask.nii.gz')
    Image.fromarray(np.full((20, 20), 90, np.uint8)).save(out / f'{name}_overlay.png')
    row = dict(case=name, status='done', mask=f'{name}_mask.nii.gz')
    return row | {'organ (ml)': 1.0, 'tumour (ml)': 0.0} | more


def write_table(out, rows):
    csv_safe(pd.DataFrame(rows)).to_csv(out / 'predictions.csv', index=False)


def page_of(out):
    return (out / 'summary.html').read_text(encoding='utf-8')


def test_robust_z_of_numbers_done_by_hand():
    ten = np.arange(1, 11)  # median 5.5, deviations 0.5 0.5 1.5 1.5 … 4.5 4.5: MAD 2.5
    assert np.allclose(robust_z(ten), 0.6745 * (ten - 5.5) / 2.5)
    wild = [*range(1, 10), 1000]  # the same median and MAD
    assert math.isclose(robust_z(wild)[-1], 0.6745 * 994.5 / 2.5)
    mostly = [0] * 8 + [4, 6]  # MAD 0, mean deviation 1
    assert np.allclose(robust_z(mostly), [0] * 8 + [0.7979 * 4, 0.7979 * 6])
    assert robust_z([7] * 12).tolist() == [0] * 12
    assert np.isnan(robust_z(range(FEWEST - 1))).all()
    some = robust_z([*wild, math.nan])
    assert math.isnan(some[-1]) and np.allclose(some[:-1], robust_z(wild))


def test_numbers_of_the_table_done_by_hand(tmp_path):
    write_table(tmp_path, [add_case(tmp_path, 'a', disagreement=0.1, look='no')])
    write_summary(tmp_path)
    organ, tumour = read_case_table(tmp_path / 'summary.csv').to_dict('records')
    assert (organ['case'], organ['class'], organ['status']) == ('a', 'organ', 'done')
    assert organ['voxels'] == 200 and organ['ml'] == 200 * 2 * 2 * 5 / 1000 == 4
    assert organ['share'] == 200 / 1600
    assert (organ['first_slice'], organ['last_slice']) == (3, 4)
    assert (organ['from_mm'], organ['to_mm']) == (10, 20)
    assert organ['disagreement'] == 0.1 and organ['look'] == 'no'
    assert pd.isna(organ['z']) and pd.isna(organ['outlier']), 'one case is compared with nothing'
    assert tumour['voxels'] == 0 and pd.isna(tumour['from_mm'])
    html = page_of(tmp_path)
    assert '4 ml' in html and '10–20 mm' in html and 'no volume is marked' in html


def test_slices_are_counted_along_the_axis_of_the_prediction(tmp_path):
    write_table(tmp_path, [add_case(tmp_path, 'a')])
    rows = [write_summary(tmp_path, axis)[0].classes[0] for axis in (0, 1, 2)]
    assert [row['to_mm'] - row['from_mm'] for row in rows] == [20, 20, 10]
    assert {row['ml'] for row in rows} == {4}
    for axis, length in (('0', 20), ('1', 20), ('2', 10), ('', 10), ('nine', 10)):
        write_table(tmp_path, [add_case(tmp_path, 'a') | {'axis': axis}])
        row = write_summary(tmp_path)[0].classes[0]
        assert row['to_mm'] - row['from_mm'] == length, 'counted as the table says'


def test_an_unusual_volume_is_marked_and_shown_first(tmp_path):
    rows = [add_case(tmp_path, f'c{k:02}', side=10 + k % 2) for k in range(11)]
    rows.append(add_case(tmp_path, 'tiny', slices=1, side=1))
    rows.append(add_case(tmp_path, 'apart', disagreement=0.4, look='yes'))
    write_table(tmp_path, rows)
    found = {case.case: case for case in write_summary(tmp_path)}
    # amounts 4.0 (7 times), 4.4 (5 times) and 0.2: median 4, deviations 7 × 0, 5 × 0.4, 3.8: MAD 0
    mean_deviation = (5 * 0.4 + 3.8) / 13
    row = found['tiny'].classes[0]
    assert math.isclose(row['z'], 0.7979 * -3.8 / mean_deviation) and row['z'] < -UNUSUAL
    assert found['tiny'].why == ['organ: 0.2 ml, far less than the usual 4 ml (z −6.8)']
    assert found['apart'].why == ['the answers disagree: 0.4 on a scale from 0 to 1']
    marked = [name for name, case in found.items() if case.mark]
    assert marked == ['tiny', 'apart']
    assert '>nan<' not in page_of(tmp_path) and '>0.4</td>' in page_of(tmp_path)
    order = re.findall(r'<li class="card" data-case="(.*?)">', page_of(tmp_path))
    assert order[:3] == ['apart', 'tiny', 'c00'] and len(order) == 13
    table = read_case_table(tmp_path / 'summary.csv')
    told = table[table['class'] == 'organ'].set_index('case')
    assert told.outlier.value_counts().to_dict() == {'no': 12, 'yes': 1}
    assert told.loc[told.look == 'yes'].index.tolist() == ['tiny', 'apart']


def test_names_and_reasons_are_escaped_in_the_page_and_in_the_table(tmp_path):
    rows = [add_case(tmp_path, EVIL), add_case(tmp_path, '=1+1'), add_case(tmp_path, 'javascript:alert(1)')]
    rows[0]['<b>organ</b> (ml)'] = 1.0
    rows.append(dict(case='"><img src=x>', status='failed', reason='=HYPERLINK("x") <i>cut</i>'))
    write_table(tmp_path, rows)
    write_summary(tmp_path)
    html = page_of(tmp_path)
    assert html.count('<script') == 1, 'the script of the page'
    for raw in (EVIL, '<b>organ', '<img src=x', '<i>cut', 'href="javascript'):
        assert raw not in html
    assert '&lt;script&gt;alert(1)&lt;' in html and '&lt;i&gt;cut' in html
    with open(tmp_path / 'summary.csv', newline='') as f:
        cells = [cell for line in csv.reader(f) for cell in line]
    assert "'=1+1" in cells and "'=HYPERLINK(\"x\") <i>cut</i>" in cells
    assert not [c for c in cells if c.startswith(('=', '+', '@'))]
    assert set(read_case_table(tmp_path / 'summary.csv').case) == {row['case'] for row in rows}


def test_links_are_relative_and_lead_to_files_of_the_folder(tmp_path):
    names = ['a', 'ä ö&?#%', '..b', EVIL]
    write_table(tmp_path, [add_case(tmp_path, name) for name in names])
    write_summary(tmp_path)
    html = page_of(tmp_path)
    links = re.findall(r'(?:href|src)="([^"]*)"', html)
    outside = [x for x in links if not re.match(r'\./|#\w+$|data:image/jpeg;base64,', x)]
    assert not outside and '://' not in html
    assert [link_to(tmp_path / f'{name}_overlay.png') in links for name in names] == [True] * 4
    assert html.count('loading="lazy"') == 4
    assert "default-src 'none'" in html


def test_a_name_that_leads_out_of_the_folder_is_neither_read_nor_linked(tmp_path):
    out, secret = tmp_path / 'out', tmp_path / 'secret'
    out.mkdir()
    secret.mkdir()
    row = add_case(secret, 'x')
    (out / 'link_mask.nii.gz').symlink_to(secret / 'x_mask.nii.gz')
    (out / 'link_overlay.png').symlink_to(secret / 'x_overlay.png')
    places = ['../secret/x', str(secret / 'x'), 'link', 'no\\x', 'y' * 300]
    write_table(out, [row | dict(case=place, mask=f'{place}_mask.nii.gz') for place in places])
    for case in write_summary(out):
        assert case.why == ['its mask is not in the folder'] and case.overlay is None and not case.classes
    assert 'href="./' not in page_of(out) and 'data:image/jpeg' not in page_of(out)
    assert file_within(out, '..') is None and file_within(out, '\0') is None


def test_an_empty_folder_and_failures_alone(tmp_path):
    (tmp_path / 'predictions.csv').write_text('case\n')
    assert write_summary(tmp_path) == []
    assert 'No case yet.' in page_of(tmp_path)
    assert read_case_table(tmp_path / 'summary.csv').empty
    write_table(tmp_path, [dict(case='NA', status='failed', reason='cut off')])
    (case,) = write_summary(tmp_path)
    assert case.failed and count_marks([case]) == '1 case: 0 to look at, 1 failed, 0 with nothing to note.'
    (row,) = read_case_table(tmp_path / 'summary.csv').to_dict('records')
    assert row['case'] == 'NA' and row['why'] == 'cut off' and row['look'] == 'yes'


def test_a_mask_that_is_gone_or_broken_is_a_case_to_look_at(tmp_path):
    rows = [add_case(tmp_path, name) for name in ('gone', 'broken', 'fine')]
    write_table(tmp_path, rows)
    (tmp_path / 'gone_mask.nii.gz').unlink()
    (tmp_path / 'broken_mask.nii.gz').write_bytes(b'no volume')
    (tmp_path / 'fine_overlay.png').write_bytes(b'no picture')
    gone, broken, fine = write_summary(tmp_path)
    assert gone.mark == broken.mark == 'look' and not fine.mark
    assert 'broken_mask.nii.gz' in broken.why[0]
    assert math.isinf(gone.urgency())
    assert page_of(tmp_path).count('no overlay</span>') == 1


def test_a_corrected_mask_is_counted_as_it_is_now(tmp_path):
    write_table(tmp_path, [add_case(tmp_path, 'a')])
    assert write_summary(tmp_path)[0].classes[0]['ml'] == 4
    add_case(tmp_path, 'a', slices=4)
    assert write_summary(tmp_path)[0].classes[0]['ml'] == 8


def test_pictures_have_pixels_and_are_compared_among_themselves(tmp_path):
    rows = [add_case(tmp_path, f'v{k}') for k in range(FEWEST)]
    for k in range(FEWEST):
        mask = np.zeros((30, 30), np.uint8)
        mask[: 20 + k % 3] = 1
        Image.fromarray(mask).save(tmp_path / f'p{k}_mask.png')
        rows.append(
            dict(case=f'p{k}', status='done', mask=f'p{k}_mask.png') | {'organ (px)': 9, 'tumour (px)': 0}
        )
    write_table(tmp_path, rows)
    cases = write_summary(tmp_path)
    assert not any(case.why for case in cases)
    picture = cases[-1].classes[0]
    assert math.isnan(picture['ml']) and shown_amount(picture) == '600 px' and extent(picture) == ''
    assert page_of(tmp_path).count('<td>organ</td><td class="num">found in') == 0
    assert page_of(tmp_path).count('aria-label="amounts of organ"') == 2, 'a line for each unit'


def test_classes_without_names_are_numbered_over_the_whole_folder(tmp_path):
    rows = []
    for name, top in (('a', 1), ('b', 2)):
        mask = np.full((4, 4), top, np.uint8)
        mask[0, 0] = 1
        Image.fromarray(mask).save(tmp_path / f'{name}_mask.png')
        amounts = {f'class {k} (px)': 1 for k in range(1, top + 1)}
        rows.append(dict(case=name, status='done', mask=f'{name}_mask.png') | amounts)
    write_table(tmp_path, rows)
    a, b = write_summary(tmp_path)
    assert [row['voxels'] for row in a.classes] == [16, 0]
    assert [row['voxels'] for row in b.classes] == [1, 15]


def test_a_folder_that_no_prediction_made_is_refused(tmp_path):
    with pytest.raises(NotAtHand, match='no predictions.csv'):
        write_summary(tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(NotAtHand):
        write_summary(tmp_path / 'nowhere')
    assert not (tmp_path / 'nowhere').exists()
    for damage in (b'', b'a,b\n1,2\n', b'\xff\xfe\x00case', b'case\n"a'):
        (tmp_path / 'predictions.csv').write_bytes(damage)
        with pytest.raises(UnreadableFile, match='damaged'):
            read_predictions(tmp_path)
    done = snet('summary', tmp_path)
    refused(done, 'damaged')
    assert advice(DiskFull('full'), 'summary') == '', 'there is no other folder to choose'
    (tmp_path / 'predictions.csv').unlink()
    refused(snet('summary', tmp_path), 'predictions.csv', str(tmp_path))


def test_both_files_are_whole_or_as_they_were(tmp_path, monkeypatch):
    write_table(tmp_path, [add_case(tmp_path, 'a')])
    write_summary(tmp_path)
    before = {f: (tmp_path / f).read_bytes() for f in ('summary.csv', 'summary.html')}
    write_table(tmp_path, [add_case(tmp_path, 'a'), add_case(tmp_path, 'b')])

    def full(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('os.replace', full)
    with pytest.raises(NotWritable):
        write_summary(tmp_path)
    monkeypatch.undo()
    assert {f: (tmp_path / f).read_bytes() for f in before} == before
    assert not list(tmp_path.glob('.*'))


@pytest.fixture(scope='module')
def predicted(tmp_path_factory):
    "A folder that the command predicted with the shipped weights, a broken file among the others."
    root = tmp_path_factory.mktemp('night')
    scans = root / 'scans'
    scans.mkdir()
    rng = np.random.default_rng(0)
    for name in ('a', 'b', EVIL):
        scan = rng.random((32, 32, 2)).astype(np.float32)
        nib.save(nib.Nifti1Image(scan, AFFINE), scans / f'{name}.nii.gz')
    (scans / 'cut.nii.gz').write_bytes((scans / 'a.nii.gz').read_bytes()[:-400])
    done = snet('predict', 'mni-weights', scans, '--out', root / 'out')
    refused(done, '1 of 4')
    return root, done


def test_predict_ends_with_the_summary_also_where_files_failed(predicted):
    root, done = predicted
    assert 'summary.html: 4 cases: 0 to look at, 1 failed, 3 with nothing to note.' in done.stdout
    table = read_case_table(root / 'out' / 'summary.csv')
    assert set(table.case) == {'a', 'b', EVIL, 'cut'}
    assert set(table['class'].dropna()) == {'csf', 'grey matter', 'white matter'}
    listed = pd.read_csv(root / 'out' / 'predictions.csv').set_index('case')
    for _, row in table[table.case == 'a'].iterrows():
        assert math.isclose(row.ml, listed.loc['a', f'{row["class"]} (ml)'], rel_tol=1e-3)
    assert 'cut.nii.gz' in page_of(root / 'out')
    assert f'data-case="{EVIL}' not in page_of(root / 'out')


def test_a_continued_run_and_the_command_make_the_same_summary(predicted, tmp_path):
    root, _ = predicted
    out = tmp_path / 'out'
    shutil.copytree(root / 'out', out)
    wanted = read_case_table(out / 'summary.csv')
    for name in ('b_mask.nii.gz', 'b_overlay.png', 'summary.csv', 'summary.html'):
        (out / name).unlink()
    done = snet('predict', 'mni-weights', root / 'scans' / 'b.nii.gz', '--out', out, '--json')
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told['summary'] == str(out / 'summary.html')
    assert [p['case'] for p in told['predictions']] == ['b']

    def numbers(table):
        return table.sort_values(['case', 'class']).reset_index(drop=True)

    pd.testing.assert_frame_equal(numbers(read_case_table(out / 'summary.csv')), numbers(wanted))
    (out / 'summary.csv').unlink()
    done = snet('summary', out)
    assert done.returncode == 0 and '4 cases' in done.stdout and not done.stderr
    pd.testing.assert_frame_equal(numbers(read_case_table(out / 'summary.csv')), numbers(wanted))
    (out / 'predictions.csv').unlink()  # masks without a record: measured all the same
    done = snet('predict', 'mni-weights', root / 'scans' / 'a.nii.gz', '--out', out)
    assert done.returncode == 0, done.stderr
    assert len(read_case_table(out / 'summary.csv')) == 3


class Terminal(io.StringIO):
    "A stream that says it is a terminal."

    def isatty(self):
        return True


def test_a_terminal_sees_the_time_left_and_a_program_nothing(predicted, tmp_path, monkeypatch):
    root, _ = predicted
    scans = [str(root / 'scans' / f'{name}.nii.gz') for name in 'ab']
    every_step = functools.partial(tqdm.auto.tqdm, mininterval=0)
    monkeypatch.setattr(tqdm.auto, 'tqdm', every_step)

    def said(out, *more):
        monkeypatch.setattr(sys, 'stderr', Terminal())
        with pytest.raises(SystemExit) as end:
            main(['predict', 'mni-weights', *scans, '--out', str(tmp_path / out), *more])
        assert not end.value.code
        return sys.stderr.getvalue()

    shown = said('people')
    assert re.search(r'1/2 \[\d\d:\d\d<\d\d:\d\d', shown), 'done, of how many, [time so far < time left'
    assert 'summary: ' in shown
    told = said('program', '--json')
    assert 'a: done' in told and '%|' not in told and '<' not in told, 'lines, no bar'


def test_of_a_case_that_is_there_without_amounts_the_mask_is_measured(tmp_path):
    row = add_case(tmp_path, 'a')
    write_table(tmp_path, [dict(case='a', status='was there', mask=row['mask'])])
    (case,) = write_summary(tmp_path)
    assert [r['class'] for r in case.classes] == ['class 1'] and case.classes[0]['ml'] == 4


def test_urgency_is_the_largest_share_of_a_limit():
    row = {'class': 'a', 'ml': 1.0, 'voxels': 1, 'share': 0.1, 'z': -7.0}
    assert CaseSummary('a', classes=[row]).urgency() == 2
    assert CaseSummary('a', classes=[row], disagreement=0.8).urgency() == 4
    assert CaseSummary('a', classes=[row | dict(z=math.nan)]).urgency() == 0


@in_browser
@pytest.mark.parametrize('scripted', [True, False])
def test_the_page_in_a_browser_with_and_without_script(tmp_path, scripted):
    out = tmp_path / 'a folder'
    out.mkdir()
    rows = [add_case(out, f'c{k:02}', side=10 + k % 3) for k in range(11)]
    rows += [add_case(out, 'tiny', slices=1, side=1), dict(case=EVIL, status='failed', reason=EVIL)]
    write_table(out, rows)
    write_summary(out)
    with chromium() as browser:
        tab = browser.new_context(java_script_enabled=scripted).new_page()
        asked, said = [], []
        tab.on('request', lambda r: asked.append(r.url))
        tab.on('console', lambda m: said.append(m.text))
        tab.on('pageerror', lambda e: said.append(str(e)))
        tab.on('dialog', lambda d: said.append(d.message))
        tab.goto((out / 'summary.html').as_uri())
        assert tab.locator('#look .card').all_inner_texts()[0].startswith('tiny')
        assert tab.locator('#fine .card').count() == 11
        assert tab.locator('.find input').count() == scripted
        tab.locator('#numbers > summary').click()
        assert tab.locator('#numbers tbody tr').count() == 13
        if scripted:
            use_the_script(tab)
        outside = [url for url in asked if not url.startswith(('file:', 'data:'))]
        assert not outside and not said
        tab.locator('#look .card a').first.click()
        tab.wait_for_url('**/tiny_overlay.png')


def use_the_script(tab):
    "Sort by the first class, smallest first and last, then find a name."
    rows, head = tab.locator('#numbers tbody tr'), tab.locator('#numbers th button', has_text='organ')
    head.click()
    assert [t.split()[0] for t in rows.all_inner_texts()[1:3]] == ['tiny', 'c00']
    head.click()
    assert rows.first.inner_text().split()[0] in ('c02', 'c05', 'c08')
    assert tab.locator('#fine .card').first.inner_text()[:3] in ('c02', 'c05', 'c08')
    tab.locator('.find input').fill('C07')
    assert tab.locator('.card:visible').count() == 1
    tab.locator('.find input').fill('')
