"Pictures: large ones by tiles, and colour folders end to end through the command line."

import json
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from processes import refused, snet
from torch import nn
from torch.nn import functional as F

from snetlib.core import SnetError
from snetlib.data.sets.folder import write_phantom
from snetlib.evaluate import evaluate_run
from snetlib.models import create_model
from snetlib.models.layers import PeakMemory
from snetlib.predict import Predictor, predict_volume, predictor
from snetlib.predict.tiles import tile_bands, tile_starts, tile_weights
from snetlib.train.run import train_run


class Means(nn.Module):
    "Logits from means over k×k pixels: sees k//2 pixels to each side, and no farther."

    def __init__(self, k=1, n_out=3):
        super().__init__()
        self.k, self.w = k, nn.Parameter(torch.linspace(-6.0, 6.0, n_out))

    def forward(self, x):
        return self.w.view(1, -1, 1, 1) * (
            F.avg_pool2d(x.mean(1, keepdim=True), self.k, 1, self.k // 2, count_include_pad=False) - 0.5
        )


def means(k=1, n_out=3):
    return Means(k, n_out).eval()


def bands(model, x, **kw):
    return torch.cat([p.clone() for _, p in tile_bands(model, x, **kw)], 1)


@torch.no_grad()
def whole(model, x):
    return model(torch.from_numpy(x).movedim(-1, 0)[None])[0].softmax(0)


def picture(h, w, seed=0):
    return (
        F.interpolate(
            torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(seed)), (h, w), mode='bicubic'
        )[0]
        .clamp(0, 1)
        .movedim(0, -1)
        .contiguous()
        .numpy()
    )


@settings(deadline=None, max_examples=200)
@given(
    length=st.integers(1, 400),
    tile=st.integers(1, 120),
    overlap=st.floats(0, 0.9),
    blend=st.sampled_from(['guarded', 'hann', 'flat']),
)
def test_weights_sum_to_one_everywhere(length, tile, overlap, blend):
    tile = min(tile, length)
    starts, w = tile_starts(length, tile, overlap), tile_weights(length, tile, overlap, blend)
    total = np.zeros(length)
    assert (
        starts[0] == 0 and starts[-1] + tile == length and w.shape == (len(starts), tile) and (w >= 0).all()
    )
    for s, v in zip(starts, w):
        total[s : s + tile] += v
    np.testing.assert_allclose(total, 1, atol=1e-5)


@settings(deadline=None, max_examples=40)
@given(
    h=st.integers(32, 150),
    w=st.integers(32, 150),
    tile=st.tuples(st.integers(32, 90), st.integers(32, 90)),
    overlap=st.floats(0.1, 0.8),
    bs=st.integers(1, 5),
    reach=st.integers(0, 12),
)
def test_a_local_network_gives_the_whole_images_answer(h, w, tile, overlap, bs, reach):
    pixels = min(n - int(n * (1 - overlap)) for n in (min(a, b) for a, b in zip(tile, (h, w))))
    reach = min(reach, int(pixels / 4))
    x, net = picture(h, w), Means(2 * reach + 1)
    torch.testing.assert_close(
        bands(net, x, tile=tile, overlap=overlap, bs=bs), whole(net, x), atol=2e-5, rtol=0
    )


def test_a_network_that_sees_farther_than_the_guard_does_not():
    x = picture(150, 150)
    far, near = (
        float((bands(Means(2 * r + 1), x, tile=64, overlap=0.5) - whole(Means(2 * r + 1), x)).abs().max())
        for r in (16, 8)
    )
    assert near < 2e-5 < far


def seam(p, tile, overlap):
    "Mean step of p (n, H, W) across rows where tiles begin or end, in usual steps."
    h = p.shape[1]
    step = (p[:, 1:] - p[:, :-1]).abs().mean((0, 2))
    at = [r - 1 for s in tile_starts(h, tile, overlap) for r in (s, s + tile) if 0 < r < h]
    return float(step[at].mean() / step.median())


@pytest.mark.parametrize('name', ['sosegformer_tiny', 'snet_tiny'])
def test_blending_leaves_no_seam_where_bare_tiles_have_one(name):
    torch.manual_seed(0)
    net = create_model(name, c_in=3, n_out=3)
    x = picture(224, 96)
    for _ in range(2):
        net.train()(
            torch.from_numpy(picture(96, 96, 1)).movedim(-1, 0)[None].repeat(4, 1, 1, 1)
        )  # norms see an image
    net.eval()
    jumps = {
        k: seam(bands(net, x, tile=96, **kw), 96, kw['overlap'])
        for k, kw in dict(bare=dict(overlap=0.0, blend='flat'), guarded=dict(overlap=0.5)).items()
    }
    assert jumps['guarded'] < 2 and jumps['bare'] > 2 * jumps['guarded'], jumps


def test_equals_monai_with_the_same_window():
    from monai.inferers import sliding_window_inference

    x = picture(133, 101)
    net = Means(33)
    map_ = torch.from_numpy(
        np.outer(*[np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in (64, 48)])
    ).float()
    for blend, kw in (('hann', dict(roi_weight_map=map_)), ('flat', {})):
        with torch.no_grad():
            theirs = sliding_window_inference(
                torch.from_numpy(x).movedim(-1, 0)[None],
                (64, 48),
                3,
                lambda v: net(v).softmax(1),
                overlap=0.3,
                mode='constant',
                **kw,
            )[0]
        torch.testing.assert_close(
            bands(net, x, tile=(64, 48), overlap=0.3, blend=blend), theirs, atol=1e-5, rtol=0
        )


def test_memory_does_not_grow_with_the_height():
    peaks = {}
    for h in (256, 1024):
        x = np.zeros((1, h, 512, 3), np.float32)
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        with PeakMemory() as m:
            predict_volume(means(1, 16), x, dict(kind='none'), tile=128)
        peaks[h] = m.peak, tracemalloc.get_traced_memory()[1] - before
        tracemalloc.stop()
    one_map = 16 * 1024 * 512 * 4  # every class of the taller image in float32
    assert peaks[256][0] == peaks[1024][0] < one_map, peaks
    assert peaks[1024][1] - peaks[256][1] < 3 * (1024 - 256) * 512, (
        peaks
    )  # masks, a byte a pixel; a scaled image would be twelve


def test_percentiles_and_gaps_are_those_of_the_whole():
    x = np.random.default_rng(0).normal(100, 20, (2, 90, 70)).astype(np.float32)
    x[1] += 40
    x[0, 5, 5] = np.nan
    how = dict(kind='percentile', lo=5, hi=95)
    np.testing.assert_array_equal(
        predict_volume(means(n_out=2), x, how, tile=32), predict_volume(means(n_out=2), x, how)
    )


def toy(size, **settings):
    "Bright is class 1, for colour pictures."
    names, rule = ('background', 'bright'), dict(kind='uint8')
    return Predictor(means(1, 2), size=size, c_in=3, intensity=rule, class_names=names, **settings)


def test_large_images_are_tiled_by_themselves_and_say_so(tmp_path, monkeypatch):
    monkeypatch.setattr(predictor, 'LARGE', 100 * 100)
    monkeypatch.setattr(predictor, 'TILE', 64)
    Image.fromarray((picture(120, 131) * 255).astype(np.uint8)).save(tmp_path / 'large.png')
    Image.fromarray((picture(90, 90) * 255).astype(np.uint8)).save(tmp_path / 'small.png')

    def predicted(name, size, tile):
        out = tmp_path / f'{name}{size}{tile}'
        row = toy(size, tile=tile).file(tmp_path / f'{name}.png', out).row()
        return row.get('tiles'), np.asarray(Image.open(out / row['mask']))

    by_itself, mask = predicted('large', None, 'auto')
    never, whole_mask = predicted('large', None, None)
    assert (by_itself, never) == ('64×64', None)
    np.testing.assert_array_equal(mask, whole_mask)
    assert 0 < mask.mean() < 1
    assert predicted('large', 64, 'auto')[0] is None
    assert predicted('small', None, 'auto')[0] is None
    assert predicted('small', 64, 32)[0] == '32×32'
    assert toy(None).tile_for((4000, 3000)) == (64, 64)
    assert toy(None, tile=0).tile_for((4000, 3000)) is None


def test_the_overlay_of_a_micrograph_is_small():
    x = np.zeros((1, 90, 4200, 3), np.float32)
    x[:, 30:60, 1000:2000] = 255
    shown, mask = predictor.overview(x, (x[..., 0] > 0).astype(np.uint8), dict(kind='uint8'))
    assert mask.shape == (30, 1400)
    assert shown.shape == (30, 1400, 3)
    assert abs(mask.mean() - (x > 0).mean()) < 0.01


@pytest.mark.parametrize(
    'kw,word',
    [
        (dict(tile=16), '32'),
        (dict(tile=64, overlap=1.0), '0.25'),
        (dict(tile=64, resize='published'), 'resolution'),
        (dict(tile=64, c_in=1), 'grey'),
    ],
)
def test_bad_tiles_are_refused_in_one_sentence(kw, word):
    with pytest.raises(SnetError, match=word):
        predict_volume(means(), picture(70, 70)[None], **kw)


# ---- colour folders through the command line
SMALL = [
    '--recipe',
    'sosegformer_cpu',
    '--set',
    'epochs=1',
    '--set',
    'bs=4',
    '--set',
    'augment={"crop":64,"hflip":0.5}',
]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp('pictures')
    write_phantom(root, n=10, size=(96, 128))
    return root


@pytest.fixture(scope='module', params=['sosegformer_tiny', 'snet_tiny'])
def run(request, folder, tmp_path_factory):
    out = tmp_path_factory.mktemp('runs') / request.param
    done = snet('train', 'folder', '--data', folder, '--out', out, '--model', request.param, *SMALL)
    assert done.returncode == 0, done.stderr
    return out


def test_train_predict_evaluate_on_colour_pictures(run, folder, tmp_path):
    config = json.loads((run / 'config.json').read_text())
    assert config['data']['c_in'] == 3 and config['data']['n_out'] == 2
    for more, tiles in (((), None), (('--tile', 64, '--overlap', 0.5), '64×64')):
        out = tmp_path / f'masks{tiles}'
        done = snet('predict', run, folder / 'images', '--out', out, *more)
        assert done.returncode == 0, done.stderr
        table = pd.read_csv(out / 'predictions.csv')
        assert (
            len(table) == 10
            and (table['status'] == 'done').all()
            and (set(table['tiles']) == {tiles} if tiles else 'tiles' not in table)
        )
        masks = [np.asarray(Image.open(f)) for f in sorted(out.glob('*_mask.png'))]
        assert len(masks) == 10 and all(m.shape == (96, 128) and m.max() < 2 for m in masks)
    done = snet('evaluate', run, '--out', tmp_path / 'scores')
    assert done.returncode == 0, done.stderr
    scores = pd.read_csv(tmp_path / 'scores' / 'scores.csv')
    assert (
        set(scores['protocol']) == {'published', 'corrected'}
        and scores['case'].nunique() == 2
        and scores['dice'].between(0, 1).all()
        and (tmp_path / 'scores' / 'report.html').stat().st_size > 10_000
    )


def test_bad_pictures_are_refused_in_one_sentence(run, folder, tmp_path):
    if 'sosegformer' not in run.name:
        pytest.skip('the same sentences; once is enough')
    three = tmp_path / 'three'
    write_phantom(three, n=10, size=(96, 128), values=(0, 1))
    for f in (three / 'masks').iterdir():
        m = np.array(Image.open(f))
        m[:9, :9] = 2
        Image.fromarray(m).save(f)
    (three / 'dataset.json').write_text('{"class_names": ["background", "disc"]}')
    refused(
        snet(
            'train', 'folder', '--data', three, '--out', tmp_path / 'a', '--model', 'sosegformer_tiny', *SMALL
        ),
        '2 classes',
        'dataset.json',
    )
    refused(snet('evaluate', run, '--data', three, '--out', tmp_path / 'b'), 'class 2', 'n_classes=2')
    mixed = tmp_path / 'mixed'
    write_phantom(mixed, n=10, size=(96, 128))
    Image.fromarray(np.zeros((70, 60, 3), np.uint8)).save(mixed / 'images' / 'picture 01.png')
    Image.fromarray(np.zeros((70, 60), np.uint8)).save(mixed / 'masks' / 'picture 01.png')
    refused(
        snet(
            'train',
            'folder',
            '--data',
            mixed,
            '--out',
            tmp_path / 'c',
            '--model',
            'sosegformer_tiny',
            *SMALL,
            '--set',
            'augment=none',
        ),
        'different sizes',
        'size=',
        'crop',
    )
    for root, crop, words in (
        (folder, 100, 'smaller than the crop.*ignore_index=255'),
        (mixed, 64, 'different sizes.*ignore_index=255'),
    ):
        with pytest.raises(SnetError, match=words):
            train_run(
                tmp_path / 'f',
                'folder',
                'sosegformer_tiny',
                'sosegformer_cpu',
                root=root,
                progress=False,
                bs=2,
                ignore_index=None,
                augment=dict(crop=crop),
            )
    Image.open(folder / 'images' / 'picture 00.png').convert('L').save(tmp_path / 'grey.png')
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / 'dot.png')
    done = snet('predict', run, tmp_path / 'grey.png', tmp_path / 'dot.png', '--out', tmp_path / 'd')
    refused(done, '1 of 2')
    assert (
        'grey: done' in done.stdout and 'dot: failed: ' in done.stderr and '32' in done.stderr
    )  # grey is repeated for a colour network
    refused(snet('predict', run, folder / 'images', '--out', tmp_path / 'e', '--tile', 16), '16×16', '32')


def test_pictures_of_several_sizes_train_by_windows_and_are_scored_whole(tmp_path):
    "The paper's recipe crops; endoscopes differ in size, and some pictures are smaller than the window."
    root = tmp_path / 'data'
    sizes = [(96, 128), (64, 80), (120, 70), (56, 100)]
    for k, size in enumerate(sizes):
        write_phantom(tmp_path / str(k), n=3, seed=k, size=size)
        for f in (tmp_path / str(k)).glob('*/*.png'):
            (root / f.parent.name).mkdir(parents=True, exist_ok=True)
            f.rename(root / f.parent.name / f'{k} {f.name}')
    train_run(
        tmp_path / 'run',
        'folder',
        'sosegformer_tiny',
        'sosegformer_cpu',
        root=root,
        progress=False,
        epochs=1,
        bs=2,
        augment=dict(crop=64, hflip=0.5, rotate=15),
    )
    evaluate_run(tmp_path / 'run', tmp_path / 'scores', progress=False)
    scores = pd.read_csv(tmp_path / 'scores' / 'scores.csv')
    assert scores['case'].nunique() >= 2 and scores['dice'].between(0, 1).all()
    done = snet('predict', tmp_path / 'run', root / 'images', '--out', tmp_path / 'masks')
    assert done.returncode == 0, done.stderr
    assert {np.asarray(Image.open(f)).shape for f in (tmp_path / 'masks').glob('*_mask.png')} == set(sizes)


def test_a_colour_picture_for_a_grey_network_offers_the_cure():
    with pytest.raises(SnetError, match='convert the image.*c_in=3'):
        predict_volume(create_model('sosegformer_tiny', c_in=1).eval(), picture(64, 64)[None], c_in=1)
    with pytest.raises(SnetError, match='c_in=1'):
        create_model('sosegformer_tiny', c_in=3).eval()(torch.rand(1, 1, 64, 64))
