"HD95 of a liver-sized organ in 148×512×512 voxels: medpy, MONAI, medpy on the cropped volume, and ours."

import contextlib
import io
import time

import numpy as np
from scipy import ndimage

from snetlib.scores.surface import bounding_box, hd95

SHAPE = (148, 512, 512)


def organ(wobble=0.0, seed=1):
    "An ellipsoid with a rough outline; `wobble` roughens it anew, as a prediction does."
    z, y, x = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]

    def rough(s):
        return ndimage.zoom(
            np.random.default_rng(s).normal(size=(16, 33, 33)), np.array(SHAPE) / (16, 33, 33), order=1
        )

    return ((z - 74) / 50) ** 2 + ((y - 230) / 95) ** 2 + ((x - 200) / 120) ** 2 + 0.15 * rough(0) + (
        wobble * rough(seed) if wobble else 0
    ) < 1


def seconds(fn, times):
    "(median seconds of a call, its value)"
    took = []
    for _ in range(times):
        t = time.perf_counter()
        value = fn()
        took.append(time.perf_counter() - t)
    return float(np.median(took)), value


def main():
    import torch
    from medpy.metric.binary import hd95 as medpy_hd95
    from monai.metrics import compute_hausdorff_distance

    truth, pred = organ(), organ(0.04)
    box = bounding_box(pred | truth)
    dice = 2 * (pred & truth).sum() / (pred.sum() + truth.sum())
    millions = f'{truth.sum() / 1e6:.2f} million voxels of organ in {truth.size / 1e6:.0f} million'
    print(f'{millions}, Dice {dice:.3f}, union box {pred[box].shape}')
    a, b = (torch.from_numpy(m)[None, None] for m in (pred, truth))

    def monai():
        with contextlib.redirect_stderr(io.StringIO()):
            return compute_hausdorff_distance(a, b, include_background=True, percentile=95).item()

    for name, spacing in (('voxels', None), ('mm, spacing 3 × 0.8 × 0.8', (3, 0.8, 0.8))):
        ours, value = seconds(lambda: hd95(pred, truth, spacing), 5)
        rows = {
            'medpy, whole volume': seconds(lambda: medpy_hd95(pred, truth, spacing), 1),
            'medpy, union box': seconds(lambda: medpy_hd95(pred[box], truth[box], spacing), 1),
        }
        assert all(abs(v - value) < 1e-9 for _, v in rows.values()), 'ours must equal medpy'
        if spacing is None:
            rows['MONAI (larger of two percentiles)'] = seconds(monai, 3)
        print(f'{name:36s} {"seconds":>9s} {"/ ours":>8s} {"HD95":>9s}')
        for k, (s, v) in (rows | {'ours': (ours, value)}).items():
            print(f'  {k:34s} {s:9.2f} {s / ours:8.1f} {v:9.4f}')
    inner = organ()
    inner[:] = False
    inner[50:98, 190:270, 150:250] = True  # unfavourable to a tree: every voxel is far from the other surface
    ours, value = seconds(lambda: hd95(inner, truth), 2)
    box = bounding_box(truth)
    cropped, other = seconds(lambda: medpy_hd95(inner[box], truth[box]), 1)
    assert abs(value - other) < 1e-9
    ratio = f'medpy on the union box {cropped / ours:.1f} times as long'
    print(f'far apart (a block deep inside): ours {ours:.2f} s, {ratio}')


if __name__ == '__main__':
    main()
