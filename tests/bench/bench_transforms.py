"""Batch augmentation as ratios within one run: ours against kornia's AugmentationSequential.

The same changes, image and mask together. Usage: python tests/bench/bench_transforms.py
"""

import time

import kornia.augmentation as K
import numpy as np
import torch

from snetlib.data.transforms import Augment


def seconds(fn, times=5):
    "Median seconds of a call, after one that does not count."
    fn()
    took = []
    for _ in range(times):
        t = time.perf_counter()
        fn()
        took.append(time.perf_counter() - t)
    return float(np.median(took))


def main():
    x, y = torch.rand(12, 1, 224, 224), torch.randint(0, 9, (12, 224, 224))
    m = y[:, None].float()

    def seq(*parts):
        return K.AugmentationSequential(*parts, data_keys=['input', 'mask'])

    flips = K.RandomHorizontalFlip(p=0.5), K.RandomVerticalFlip(p=0.5)
    warp = (K.RandomRotation(20.0, p=0.5),)
    rows = [
        ('flips', dict(hflip=0.5, vflip=0.5), seq(*flips)),
        ('flips, ±20°', dict(hflip=0.5, vflip=0.5, rotate=20, warp_p=0.5), seq(*flips, *warp)),
        (
            'flips, ±20°, zoom, shift',
            dict(hflip=0.5, vflip=0.5, rotate=20, scale=0.1, shift=0.1, warp_p=0.5),
            seq(*flips, K.RandomAffine(20.0, (0.1, 0.1), (0.9, 1.1), p=0.5)),
        ),
        (
            'gamma, contrast, brightness',
            dict(gamma=0.2, contrast=0.2, brightness=0.1, intensity_p=0.5),
            seq(K.RandomGamma((0.8, 1.2), p=0.5), K.ColorJiggle(0.1, 0.2, p=0.5)),
        ),
        (
            'blur',
            dict(blur=1.5, intensity_p=0.5),
            seq(K.RandomGaussianBlur((9, 9), (0.1, 1.5), p=0.5)),
        ),
    ]
    print(f'{"changes":28} {"ms a batch":>10} {"kornia ms":>10} {"ours / kornia":>14}')
    for name, recipe, peer in rows:
        ours, theirs = seconds(lambda: Augment(recipe)(x, y)), seconds(lambda: peer(x, m))
        print(f'{name:28} {ours * 1e3:10.1f} {theirs * 1e3:10.1f} {ours / theirs:14.2f}')


if __name__ == '__main__':
    main()
