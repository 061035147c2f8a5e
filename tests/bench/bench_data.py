"""Loading and preparing, as ratios within one run. Usage: python tests/bench/bench_data.py

Augmentation against the published per-image pipeline, a cached epoch against the first, a second
prepare against the first, polygons against the naive loop, memory of 10 and of 1,000 cases.
"""

import gc
import json
import shutil
import tempfile
import time
import tracemalloc
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
from matplotlib.path import Path as MplPath
from PIL import Image, ImageDraw
from scipy import ndimage

from snetlib.core import seed_everything
from snetlib.data.cache import cached_slices
from snetlib.data.check import check
from snetlib.data.loaders import load_slices, slice_dls
from snetlib.data.phantom import abdomen_ct
from snetlib.data.prepare import prepare
from snetlib.data.sets.folder import folder_set, write_phantom
from snetlib.data.sets.monuseg import rasterise, read_polygons, write_polygons
from snetlib.data.sets.synapse import SYNAPSE
from snetlib.data.slices import Slices, resize_images, resize_labels


def seconds(fn, times=3):
    "Median seconds of a call."
    took = []
    for _ in range(times):
        t = time.perf_counter()
        fn()
        took.append(time.perf_counter() - t)
    return float(np.median(took))


def published(x, y, rng):
    "A training pair as the published line makes it: quarter turns and flip, or ±20°; then cubic zoom."
    if rng.random() > 0.5:
        k, axis = rng.integers(4), rng.integers(2)
        x, y = (np.flip(np.rot90(a, k), axis) for a in (x, y))
    elif rng.random() > 0.5:
        angle = int(rng.integers(-20, 20))
        x, y = (ndimage.rotate(a, angle, order=0, reshape=False) for a in (x, y))
    return ndimage.zoom(x, (224 / 512, 224 / 512), order=3), ndimage.zoom(y, (224 / 512, 224 / 512), order=0)


def augmentation(n=48):
    "Images a second: the published pipeline, ours resizing every time, ours resized once."
    hu, y, _ = abdomen_ct(0, (4, 512, 512))
    x = np.clip((hu.astype(np.float32) + 125) / 400, 0, 1)
    x, y = (np.concatenate([a] * (n // 4)) for a in (x, y))
    rng = np.random.default_rng(0)
    names = tuple(str(k) for k in range(9))
    small = Slices(resize_images(x, (224, 224)), resize_labels(y, (224, 224)), ['a'] * n, names)
    dls = slice_dls(small, small, bs=12, augment='snet', device='cpu')

    def ours():
        seed_everything(0)
        for _ in dls.train:
            pass

    def resizing():
        resize_images(x, (224, 224))
        resize_labels(y, (224, 224))
        ours()

    theirs = seconds(lambda: [published(a, b, rng) for a, b in zip(x, y)], 1)
    for name, fn in (('resized every time', resizing), ('resized once', ours)):
        ratio = theirs / seconds(fn)
        print(f'augmented 224² from 512², {name:18s}: {ratio:6.1f} × the published pipeline ({n} images)')


def epochs():
    "An epoch over the mapped cache against the first, which unpacks the files and fills it."
    with tempfile.TemporaryDirectory() as d:
        d = Path(d)
        SYNAPSE.write_phantom(d / 'raw', 5, shape=(24, 512, 512))
        prepare('synapse', d / 'raw', d / 'out', val=0)

        def epoch():
            s = load_slices('synapse', d / 'out', 'train', size=224, cache=d / 'cache', val=0)
            for _ in slice_dls(s, s, bs=12, device='cpu').train:
                pass

        first = seconds(epoch, 1)
        print(f'an epoch from the cache: {first / seconds(epoch):6.1f} × faster than the first')


def preparing():
    "A second call, which verifies by content what is there, against the first."
    with tempfile.TemporaryDirectory() as d:
        d = Path(d)
        SYNAPSE.write_phantom(d / 'raw', 5, shape=(24, 512, 512))
        first = seconds(lambda: prepare('synapse', d / 'raw', d / 'out', val=0), 1)
        again = seconds(lambda: prepare('synapse', d / 'raw', d / 'out', val=0))
        print(f'prepare again, nothing changed: {first / again:6.1f} × faster than the first time')


def naive(path):
    "Each polygon on an image of its own, the images joined."
    out = np.zeros((1000, 1000), bool)
    for region in ElementTree.parse(path).iter('Region'):
        im = Image.new('L', (1000, 1000))
        corners = [(float(v.get('X')), float(v.get('Y'))) for v in region.iter('Vertex')]
        ImageDraw.Draw(im).polygon(corners, fill=1)
        out |= np.asarray(im) > 0
    return out


def exact_raster(polygons):
    "A pixel belongs to a polygon if its centre lies inside: by the definition, in each polygon's box."
    exact = np.zeros((1000, 1000), np.int32)
    for i, p in enumerate(polygons, 1):
        x, y = (np.arange(max(int(v.min()) - 1, 0), int(v.max()) + 2) for v in p.T)
        r, c = np.meshgrid(y, x, indexing='ij')
        box = exact[y[0] : y[-1] + 1, x[0] : x[-1] + 1]
        inside = MplPath(p).contains_points(np.c_[c.ravel(), r.ravel()] + 0.5).reshape(r.shape)
        box[inside[: box.shape[0], : box.shape[1]]] = i
    return exact


def write_nuclei(folder, files, nuclei, corners):
    "Files of MoNuSeg's size: circles of several sizes."
    rng = np.random.default_rng(0)
    t = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    circle = np.stack([np.cos(t), np.sin(t)], 1)
    for k in range(files):
        drawn = [rng.uniform(20, 980, 2) + rng.uniform(5, 14) * circle for _ in range(nuclei)]
        write_polygons(drawn, Path(folder) / f'{k}.xml')
    return sorted(Path(folder).glob('*.xml'))


def polygons(files=100, nuclei=480, corners=60):
    "Seconds for XML files, the two forms in turns; and that ours draws exactly the right pixels."
    with tempfile.TemporaryDirectory() as d:
        paths = write_nuclei(d, files, nuclei, corners)
        ours, theirs, reading = [], [], []
        for k, p in enumerate(paths):
            ours.append(seconds(lambda: rasterise(read_polygons(p), (1000, 1000)), 1))
            reading.append(seconds(lambda: read_polygons(p), 1))
            if k % 10 == 0:
                theirs.append(seconds(lambda: naive(p), 1))
        ratio = np.median(theirs) / np.median(ours[::10])
        share = np.median(reading) / np.median(ours)
        print(f'{files} XML files of {nuclei} nuclei: {ratio:6.1f} × faster than polygon by polygon')
        print(f'  (medians; the naive loop on every tenth file); {share:.0%} of our time is reading')
        drawn = read_polygons(paths[0])
        assert np.array_equal(rasterise(drawn, (1000, 1000)), exact_raster(drawn))
        print('  and equal to it pixel for pixel, a pixel belonging to a polygon if its centre does')


PHASES = ('preparing', 'checking', 'caching', 'an epoch from the cache')


def peaks(n):
    "Peak traced bytes of each phase on n cases, above what was there before it."
    with tempfile.TemporaryDirectory() as d:
        d = Path(d)
        write_phantom(d / 'raw', 10, size=(160, 160))
        for k in range(10, n):
            for f in ('images', 'masks'):
                folder = d / 'raw' / f
                shutil.copy(folder / f'picture {k % 10:02d}.png', folder / f'picture {k:04d}.png')
        config = dict(class_names=['background', 'disc'], values={'0': 0, '255': 1})
        config.update(intensity={'kind': 'uint8'}, channels=3)
        (d / 'raw' / 'dataset.json').write_text(json.dumps(config))

        def epoch():
            s = load_slices('folder', d / 'out', 'train', cache=d / 'cache')
            for i in range(0, len(s), 5):
                s.batch(range(i, min(i + 5, len(s))))

        def caching():
            ds = folder_set(d / 'out')
            cached_slices(ds, ds.parts(ds.items(d / 'out'))['train'], d / 'cache')

        found = []
        for phase in (
            lambda: prepare('folder', d / 'raw', d / 'out'),
            lambda: check('folder', d / 'out'),
            caching,
            epoch,
        ):
            gc.collect()
            tracemalloc.start()
            phase()
            found.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        return np.array(found)


def memory(few=10, many=1000):
    "Peak traced memory of 10 and of 1,000 cases; what a case adds, against the bytes of its decoded image."
    peaks(few)  # once before, so that what is imported on the way does not count
    a, b = peaks(few), peaks(many)
    print(f'peak memory from {few} to {many:,} cases; an image has {160 * 160 * 3:,} bytes')
    for name, x, y in zip(PHASES, a, b):
        grown = (y - x) / (many - few)
        print(f'  {name:24s}: {x / 1e6:5.2f} → {y / 1e6:5.2f} MB, {grown:6.0f} bytes a case')


def main():
    augmentation()
    epochs()
    preparing()
    polygons()
    memory()


if __name__ == '__main__':
    main()
