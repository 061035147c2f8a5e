"`snet view`: refusals, the page in a real browser, and nothing that stays behind."

import hashlib
import importlib.util
import io
import json
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import webbrowser
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from browsers import chromium, in_browser
from PIL import Image
from processes import ENV, SNET, hide, refused, snet

from snetlib.core import GeometryMismatch
from snetlib.data.clinic import write_itk
from snetlib.data.phantom import abdomen_ct, write_nifti_pair
from snetlib.view import View, names_beside, names_of_masks, open_in_browser, open_scan
from snetlib.widgets import ScanViewer, patient_sides, plain_number, tint

ROOT = Path(__file__).resolve().parent.parent
ARTEFACTS = ROOT / 'tests' / 'artefacts'
served = pytest.mark.skipif(
    not importlib.util.find_spec('voila') or not importlib.util.find_spec('ipykernel'),
    reason='voila is not installed; it is in the extra view',
)


@pytest.fixture(scope='module')
def scans(tmp_path_factory):
    "A folder with a phantom, its organs, two readers' livers, and masks that belong elsewhere."
    folder = tmp_path_factory.mktemp('Zoë & <b>co')
    hu, label, spacing = abdomen_ct(3, (20, 96, 96))
    scan, organs = write_nifti_pair(folder, 'scan', hu, label, spacing)
    liver = (label == 5).astype(np.uint8)
    paths = dict(scan=scan, organs=organs, folder=folder)
    for name, mask, sides in (
        ('reader 1', liver, spacing),
        ('reader 2', np.roll(liver, 2, axis=0), spacing),
        ('moved', liver, (9.0, 4.0, 4.0)),
    ):
        paths[name] = write_nifti_pair(folder / name, name, hu, mask, sides)[1]
    paths['short'] = write_nifti_pair(folder / 'short', 'short', hu[1:], liver[1:], spacing)[1]
    return paths


# ---- what is shown


def test_one_mask_is_divided_into_its_classes_and_several_are_not(scans):
    case, found = open_scan(scans['scan'], [scans['organs']])
    values = np.unique(found['5'])
    assert '5' in found and values.tolist() == [0, 1] and len(found) == 8
    case, found = open_scan(scans['scan'], [scans['organs'], scans['reader 1']])
    assert list(found) == ['scan', 'reader 1'] and found['scan'].max() > 1
    case, found = open_scan(scans['scan'], [scans['reader 1']])
    assert list(found) == ['reader 1']


def test_the_longer_side_has_the_size_that_is_asked_for():
    for shape in ((50, 100), (100, 50)):
        viewer = ScanViewer(np.random.default_rng(0).random(shape), size=320)
        assert sorted(Image.open(io.BytesIO(viewer.picture())).size) == [160, 320]
        assert viewer.image.layout.width == f'{320 * shape[1] // 100}px'
        assert 0.9 < viewer.values['width'] < 1.1, 'of the grey scale'


def test_many_objects_are_one_mask(tmp_path):
    numbers = np.zeros((60, 60), np.uint8)
    numbers[::3, ::3] = 1 + np.arange(400).reshape(20, 20) % 200
    for name, pixels in (('image', numbers), ('mask', numbers)):
        Image.fromarray(pixels).save(tmp_path / f'{name}.png')
    case, found = open_scan(tmp_path / 'image.png', [tmp_path / 'mask.png'])
    assert list(found) == ['mask'] and patient_sides(case) is None


def test_names_of_classes_and_of_masks(scans, tmp_path):
    (tmp_path / 'labels.label').write_text('# x\n    1  0 0 0 1 1 1  "left \'atrium\'"\nnonsense\n')
    assert names_beside(tmp_path / 'mask.nii.gz') == {1: "left 'atrium'"}
    assert names_beside(scans['scan']) == {}
    assert names_of_masks(['a/m.nii.gz', 'b/m.nii.gz']) == ['a/m', 'b/m']


def test_what_the_reader_reads_can_be_shown(scans, tmp_path):
    hu, label, spacing = abdomen_ct(3, (6, 64, 64))
    np.savez(tmp_path / 'scan.npz', image=hu, label=label)
    case, found = open_scan(tmp_path / 'scan.npz')
    assert list(found) == [str(k) for k in np.unique(label) if k]
    assert ScanViewer(case, found).picture()[:4] == b'\x89PNG'
    assert list(ScanViewer(tmp_path / 'scan.npz').masks) == ['mask in the file']
    colours = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
    Image.fromarray(colours).save(tmp_path / 'colour.png')
    assert ScanViewer(*open_scan(tmp_path / 'colour.png')).picture()[:4] == b'\x89PNG'


def test_a_mask_in_another_format_lies_on_the_scan(scans, tmp_path):
    stored = nib.load(scans['reader 1'])
    write_itk(np.asarray(stored.dataobj), stored.affine, tmp_path / 'reader.mha')
    case, found = open_scan(scans['scan'], [scans['reader 1'], tmp_path / 'reader.mha'])
    first, second = found.values()
    assert np.array_equal(first, second) and first.any()


def test_counting_and_amounts_are_those_of_a_clinic(scans):
    viewer = ScanViewer(*open_scan(scans['scan'], [scans['reader 1']]))
    pixels = viewer.set(z=9)['pixels']['reader 1']
    dz, dy, dx = viewer.case.spacing
    assert 'slice <b>10</b> of 20' in viewer.text.value
    text = viewer.controls['show reader 1'].description
    assert f'{plain_number(pixels * dy * dx / 100)} cm² here' in text
    assert f'{plain_number(viewer.voxels["reader 1"] * dz * dy * dx / 1000)} ml in all' in text


@pytest.mark.parametrize('axis,letters', [(2, 'RLAP'), (1, 'RLSI'), (0, 'APSI')])
def test_letters_stand_where_the_patient_has_them(tmp_path, axis, letters):
    "A volume that is bright at the patient's right, at the front and at the head; stored askew."
    voxels = np.zeros((20, 24, 16), np.float32)  # to the left, to the back, to the head
    voxels[:5] += 1  # R
    voxels[:, :6] += 1  # A
    voxels[:, :, 12:] += 1  # S
    nib.save(nib.Nifti1Image(voxels, np.diag([-2.0, -2, 2, 1])), tmp_path / 'v.nii.gz')
    viewer = ScanViewer(open_scan(tmp_path / 'v.nii.gz', axis=axis)[0], level=1.5, width=3.0)
    viewer.set(z=len(viewer.case.image) // 2)
    grey = np.asarray(Image.open(io.BytesIO(viewer.picture())).convert('L')).astype(int)
    assert patient_sides(viewer.case) == letters
    bright = dict(R=True, A=True, S=True, L=False, P=False, I=False)
    left, right, top, bottom = grey[:, 0].mean(), grey[:, -1].mean(), grey[0].mean(), grey[-1].mean()
    assert (left > right) == bright[letters[0]] and (left < right) == bright[letters[1]]
    assert (top > bottom) == bright[letters[2]] and (top < bottom) == bright[letters[3]]


def test_a_line_stays_where_the_tint_is_transparent():
    mask = np.zeros((7, 7), int)
    mask[1:6, 1:6] = 1
    green, blue = np.array([0.0, 1, 0]), np.array([0.0, 0, 1])
    picture = tint(np.zeros((7, 7, 3)), [mask], [green], 0.0)
    assert picture[1, 1].tolist() == [0, 1, 0] and picture[3, 3].tolist() == [0, 0, 0]
    picture = tint(np.zeros((7, 7, 3)), [mask, np.ones((7, 7), int)], [green, blue], 1.0)
    assert picture[1, 1].tolist() == [0, 1, 0], 'a tint hides no line'


# ---- refusals, before any server


def test_what_cannot_be_shown_is_said_in_one_sentence(scans, tmp_path):
    before = set(Path(tempfile.gettempdir()).glob('snet_view_*'))
    refused(snet('view', tmp_path / 'none.nii.gz'), 'does not exist')
    refused(snet('view', scans['scan'], tmp_path / 'none.nii.gz'), 'does not exist')
    refused(snet('view', scans['scan'], scans['reader 1'], scans['moved']), 'mm away')
    refused(snet('view', scans['scan'], scans['short']), 'has the size')
    (tmp_path / 'text.txt').write_text('no scan')
    refused(snet('view', tmp_path / 'text.txt'), 'text.txt')
    np.save(tmp_path / 'many.npy', np.zeros((4, 8, 8, 7), np.float32))
    assert snet('view', tmp_path / 'many.npy').returncode == 1
    assert snet('view', scans['scan'], '--ip', '0.0.0.0').returncode == 2, 'there is no such option'
    assert set(Path(tempfile.gettempdir()).glob('snet_view_*')) == before


@pytest.mark.parametrize('package', ['voila', 'ipykernel'])
def test_a_missing_package_is_said(scans, package):
    refused(snet('view', scans['scan'], first=partial(hide, package)), package, 'snetlib[view]')


def test_a_mask_of_another_kind_must_lie_there_too(scans, tmp_path):
    moved = nib.load(scans['reader 1'])
    affine = moved.affine.copy()
    affine[2, 3] += 40
    nib.save(nib.Nifti1Image(np.asarray(moved.dataobj), affine), tmp_path / 'up.nii.gz')
    with pytest.raises(GeometryMismatch, match='40.0 mm away'):
        open_scan(scans['scan'], [tmp_path / 'up.nii.gz'])


def test_the_browser_is_told_a_file_and_not_the_token(tmp_path, monkeypatch):
    "Other users of the computer see the words of every command."
    told = []
    monkeypatch.setattr(webbrowser, 'open', told.append)
    open_in_browser(View('http://127.0.0.1:1/?token=secret', tmp_path, None))
    assert wait_until(lambda: told) and 'secret' not in told[0]
    assert told[0] == (tmp_path / 'open.html').as_uri()
    assert 'url=http://127.0.0.1:1/?token=secret' in (tmp_path / 'open.html').read_text()


# ---- the server


class Shown:
    "`snet view` as it is typed, in a process of its own: its address and its temporary folder."

    def __init__(self, *arguments, cwd, temporary):
        env = ENV | dict(TMPDIR=str(temporary), PYTHONPATH=str(ROOT))
        words = [*SNET, 'view', '--no-browser', *map(str, arguments)]
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        hears = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a job with & would not
        place = dict(cwd=cwd, env=env, start_new_session=True, preexec_fn=hears)
        self.process = subprocess.Popen(words, **place, **pipes)
        self.address = self.process.stdout.readline().strip()
        assert self.address, self.process.stderr.read()
        self.root, self.token = self.address.split('?token=')

    def end(self, number=signal.SIGTERM):
        "The exit code after a signal, what was said, and the seconds it took."
        start = time.time()
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=40)
        return self.process.returncode, out + err, time.time() - start


def children(pid):
    "Numbers of the processes below one, at any depth."
    listed = subprocess.check_output(['ps', '-eo', 'pid=,ppid='], text=True).split()
    pairs = list(zip(map(int, listed[::2]), map(int, listed[1::2])))
    found, new = set(), {pid}
    while new:
        new = {child for child, parent in pairs if parent in new} - found
        found |= new
    return found


def alive(pids):
    "Those of them that still run; a zombie does not."
    listed = subprocess.run(['ps', '-o', 'pid=,stat=', '-p', ','.join(map(str, pids))], capture_output=True)
    rows = [line.split() for line in listed.stdout.decode().splitlines()]
    return {int(pid) for pid, state in rows if not state.startswith('Z')}


def wait_until(true, seconds=20):
    "Whether it becomes true in time."
    deadline = time.time() + seconds
    while not true() and time.time() < deadline:
        time.sleep(0.1)
    return true()


def answer(address, **headers):
    "(status, body) of an answer."
    try:
        request = urllib.request.Request(address, headers=headers)
        with urllib.request.urlopen(request, timeout=20) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as e:
        return e.code, e.read()


@pytest.fixture(scope='module')
def shown(scans, tmp_path_factory):
    "A page with two masks; its current folder holds settings for Voilà that would open everything."
    place, temporary = tmp_path_factory.mktemp('place'), tmp_path_factory.mktemp('t')
    wide = dict(Voila=dict(ip='0.0.0.0'), VoilaConfiguration=dict(file_allowlist=['.*'], file_denylist=[]))
    (place / 'voila.json').write_text(json.dumps(wide))
    page = Shown(scans['scan'], scans['reader 1'], scans['reader 2'], cwd=place, temporary=temporary)
    page.temporary = temporary
    try:
        yield page
    finally:
        if page.process.poll() is None:
            page.end()


@served
def test_only_the_token_opens_it(shown):
    assert shown.root.startswith('http://127.0.0.1:') and len(shown.token) == 32
    for address in (shown.root, f'{shown.root}?token={shown.token[::-1]}', f'{shown.root}login'):
        status, body = answer(address)
        assert status == 403 and b'reader' not in body, address
    assert b'lacks its token' in answer(shown.root)[1]
    assert answer(f'{shown.root}api/kernels')[0] == 403


@served
def test_no_other_host_reaches_it(shown):
    port = int(shown.root.split(':')[2].strip('/'))
    assert answer(shown.address, Host='scans.example.org')[0] == 403, 'a name that was rebound'
    listed = subprocess.run(['ss', '-Hltn'], capture_output=True, text=True)
    if listed.returncode == 0:
        bound = [row.split()[3] for row in listed.stdout.splitlines() if row.split()[3].endswith(f':{port}')]
        assert bound == [f'127.0.0.1:{port}']
    other = [a[4][0] for a in socket.getaddrinfo(socket.gethostname(), port, socket.AF_INET)]
    for address in {*other, '127.0.0.2'} - {'127.0.0.1'}:
        with socket.socket() as s:
            s.settimeout(2)
            assert s.connect_ex((address, port)) != 0, address


@served
def test_no_file_is_handed_out(shown, scans):
    scan = str(scans['scan']).replace('/', '%2f').replace(' ', '%20')
    up = '..%2f' * 12
    for path in (
        'voila/files/view.ipynb',
        'voila/files/view.json',
        'voila/files/log.txt',
        'voila/files/x.png',
        f'voila/files/{up}etc%2fpasswd',
        f'voila/static/{up}etc%2fpasswd',
        f'voila/templates/lab/static/{up}etc%2fpasswd',
        f'voila/labextensions/{up}etc%2fpasswd',
        f'voila/api/themes/{up}etc%2fpasswd',
        f'voila/static/{up}{urllib.request.quote(scan, safe="%")}',
        'voila/tree',
        'api/contents',
        'view.json',
    ):
        status, body = answer(f'{shown.root}{path}?token={shown.token}')
        assert status >= 400 and b'root:' not in body and b'reader' not in body, (path, status)


# ---- the page in a browser


@pytest.fixture(scope='module')
def tab(shown):
    "The page, once its picture is there; `tab.elsewhere` holds every address that answered."
    ARTEFACTS.mkdir(exist_ok=True)
    with chromium() as browser:
        tab = browser.new_page(viewport={'width': 1280, 'height': 860})
        tab.set_default_timeout(120_000)
        tab.elsewhere = []
        tab.on('response', lambda r: tab.elsewhere.append(r.url))
        tab.goto(shown.address)
        tab.locator('.snet-picture').wait_for()
        tab.locator('.snet-slice .noUi-handle').wait_for()
        assert wait_until(lambda: tab.evaluate('document.activeElement.className').startswith('noUi'))
        yield tab


PIXELS = """async e => {
    await e.decode().catch(() => null);
    const paper = document.createElement('canvas');
    [paper.width, paper.height] = [e.naturalWidth, e.naturalHeight];
    paper.getContext('2d').drawImage(e, 0, 0);
    return paper.toDataURL();
}"""


def picture(tab):
    "Digest of the pixels of the picture."
    return hashlib.sha1(tab.locator('img.snet-picture').evaluate(PIXELS).encode()).hexdigest()


def settled(tab):
    "The picture once nothing of an earlier act is still on its way."
    now, before = picture(tab), None
    while now != before:
        time.sleep(0.3)
        now, before = picture(tab), now
    return now


def changes(tab, act):
    "Whether the picture changes after an act."
    before = settled(tab)
    act()
    return wait_until(lambda: picture(tab) != before)


def says(tab, text):
    return wait_until(lambda: text in tab.locator('.snet-page').inner_text())


def handle(tab, name):
    "The handle of the slider with this label."
    row = tab.locator('.widget-hslider').filter(has=tab.get_by_text(name, exact=True))
    return row.locator('.noUi-handle').first


@served
@in_browser
def test_the_page_shows_the_scan(tab):
    tab.screenshot(path=ARTEFACTS / 'view.png')
    text = tab.locator('.snet-page').inner_text()
    assert 'reader 1' in text and 'reader 2' in text and 'Zoë' not in text
    assert [t.inner_text() for t in tab.locator('.snet-side').all()] == ['A', 'R', 'L', 'P']


@served
@in_browser
def test_keys_and_wheel_move_the_slice(tab):
    "The slice slider has the focus from the start."
    tab.keyboard.press('Home')
    assert says(tab, 'slice 1 of 20')
    assert changes(tab, lambda: tab.keyboard.press('ArrowUp')) and says(tab, 'slice 2 of 20')
    tab.keyboard.press('PageUp')
    assert says(tab, 'slice 7 of 20')
    tab.keyboard.press('PageDown')
    assert says(tab, 'slice 2 of 20')
    tab.keyboard.press('End')
    assert says(tab, 'slice 20 of 20')
    tab.locator('img.snet-picture').hover()
    tab.mouse.wheel(0, 100)
    assert says(tab, 'slice 19 of 20')
    tab.get_by_label('reader 1').focus()  # a key reaches the slices from there, too
    for _ in range(9):
        tab.keyboard.press('ArrowDown')
    assert says(tab, 'slice 10 of 20')


@served
@in_browser
def test_the_slice_slider_follows_the_mouse(tab):
    box = handle(tab, 'slice').bounding_box()
    x, y = box['x'] + box['width'] / 2, box['y'] + box['height'] / 2

    def drag():
        tab.mouse.move(x, y)
        tab.mouse.down()
        tab.mouse.move(x + 40, y, steps=4)
        tab.mouse.up()

    assert changes(tab, drag)


@served
@in_browser
@pytest.mark.parametrize('name', ['level', 'width', 'mask opacity'])
def test_window_and_opacity_change_the_picture(tab, name):
    tab.locator('img.snet-picture').click()
    tab.keyboard.press('Home')
    assert says(tab, 'slice 1 of 20')
    for slice_ in range(2, 11):
        tab.keyboard.press('ArrowUp')
        assert says(tab, f'slice {slice_} of 20')
    handle(tab, name).focus()
    assert changes(tab, lambda: tab.keyboard.press('PageDown'))
    assert says(tab, 'slice 10 of 20'), 'the key belongs to the slider that has the focus'


@served
@in_browser
def test_a_window_is_chosen_by_its_name(tab):
    assert changes(tab, lambda: tab.locator('.widget-dropdown select').select_option('lung'))
    assert says(tab, 'grey scale -1350 to 150')
    assert changes(tab, lambda: tab.locator('.widget-dropdown select').select_option('soft tissue'))
    assert says(tab, 'grey scale -160 to 240')
    handle(tab, 'width').press('ArrowUp')
    chosen = tab.locator('.widget-dropdown select')
    assert wait_until(lambda: chosen.input_value() == 'by hand')
    chosen.select_option('soft tissue')
    assert says(tab, 'grey scale -160 to 240')


@served
@in_browser
@pytest.mark.parametrize('name', ['reader 1', 'reader 2'])
def test_each_mask_is_hidden_and_shown(tab, name):
    before = settled(tab)
    assert changes(tab, lambda: tab.get_by_label(name).click())
    assert changes(tab, lambda: tab.get_by_label(name).click())
    assert wait_until(lambda: picture(tab) == before)


@served
@in_browser
def test_nothing_is_loaded_from_elsewhere(tab, shown):
    assert tab.elsewhere
    other = [u for u in tab.elsewhere if not u.startswith((shown.root, 'data:', 'blob:'))]
    assert not other


# ---- the end


@served
def test_sigterm_leaves_nothing_behind(shown):
    below = children(shown.process.pid)
    assert below
    code, said, seconds = shown.end()
    assert code == 0 and 'closed' in said and 'Traceback' not in said, said
    assert wait_until(lambda: not alive(below), 5)
    assert not list(shown.temporary.iterdir())
    assert seconds < 15


@served
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGKILL])
def test_it_ends_with_the_process_that_started_it(scans, tmp_path, number):
    temporary = tmp_path / 't'
    temporary.mkdir()
    page = Shown(scans['scan'], cwd=tmp_path, temporary=temporary)
    if number == signal.SIGKILL:  # with a kernel at work
        status, body = answer(page.address)
        assert status == 200 and b'snet-slice' in body
    below = children(page.process.pid)
    code, said, _ = page.end(number)
    assert code == (0 if number == signal.SIGINT else -number) and 'Traceback' not in said
    assert wait_until(lambda: not alive(below) and not list(temporary.iterdir()))
