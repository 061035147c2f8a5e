"One small file of each kind, and ways to damage it."

import h5py
import nibabel as nib
import numpy as np
from PIL import Image

from snetlib.data.sets.monuseg import write_polygons


def good_files(d):
    "One small file of each kind, its reader, and whether the format carries a check sum."
    rng = np.random.default_rng(0)
    x = rng.integers(0, 255, (24, 28, 3), dtype=np.uint8)
    y = (x[..., 0] > 90).astype(np.uint8)
    v = rng.integers(-500, 500, (12, 10, 6)).astype(np.int16)
    for end in ('png', 'jpg', 'tif', 'bmp'):
        Image.fromarray(x).save(d / f'a.{end}')
    for end in ('nii', 'nii.gz'):
        nib.save(nib.Nifti1Image(v, np.diag([-2.0, 2, 3, 1])), d / f'a.{end}')
    np.savez_compressed(d / 'a.npz', image=x[..., 0], label=y)
    with h5py.File(d / 'a.h5', 'w') as f:
        for k, a in (('image', x[..., 0]), ('label', y)):
            f.create_dataset(k, data=a, compression='gzip', fletcher32=True)
    write_polygons([rng.uniform(0, 50, (8, 2)) for _ in range(6)], d / 'a.xml')
    return {
        'png': True,
        'jpg': False,
        'tif': False,
        'bmp': False,
        'nii': False,
        'nii.gz': True,
        'npz': True,
        'h5': False,
        'xml': False,
    }


def corrupt(b, rng):
    "One of five ways in which files break."
    b, at, n = bytearray(b), int(rng.integers(len(b))), int(rng.integers(1, 40))
    way = int(rng.integers(5))
    if way == 0:
        b[at] ^= 1 << int(rng.integers(8))
    elif way == 1:
        del b[at:]
    elif way == 2:
        b[at : at + n] = bytes(len(b[at : at + n]))
    elif way == 3:
        b[at:at] = rng.bytes(n)
    else:
        del b[at : at + n]
    return bytes(b)
