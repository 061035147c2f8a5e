"Memory of a micrograph of 4000 columns from file to mask, by tiles and at once, for two heights."

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

CODE = r'''
import re
import sys

import torch
from torch import nn

from snetlib.predict import Predictor


class Point(nn.Module):
    "Nine classes by brightness: a network without maps of its own."

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.linspace(-6, 6, 9))

    def forward(self, x):
        return self.slope.view(1, -1, 1, 1) * (x.mean(1, keepdim=True) - 0.5)


def peak():
    "Megabytes this process has had at most."
    return int(re.search(r'VmHWM:\s+(\d+)', open('/proc/self/status').read())[1]) / 1024


image, out, tile = sys.argv[1:]
start = peak()
rule = dict(kind='uint8')
Predictor(Point().eval(), int(tile) or None, c_in=3, intensity=rule).file(image, out)
print(peak() - start)
'''


def peak(image, out, tile):
    "Megabytes that predicting a file adds to a fresh process."
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', CODE, str(image), str(out), str(tile)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return float(done.stdout)


def main():
    print('Peak memory over that of a fresh process, 4000 columns, 3 channels in, 9 classes out')
    with tempfile.TemporaryDirectory() as d:
        for h in (1500, 3000):
            image = Path(d) / f'{h}.png'
            noise = np.random.default_rng(0).integers(0, 255, (h // 20, 200, 3), np.uint8)
            Image.fromarray(noise).resize((4000, h)).save(image, compress_level=1)
            tiles, whole = (peak(image, Path(d) / f'{h}_{t}', t) for t in (512, 0))
            megabytes = f'tiles of 512 {tiles:6.0f} MB, at once {whole:6.0f} MB'
            print(f'{h:5} rows: {megabytes}, ratio {tiles / whole:.2f}')


if __name__ == '__main__':
    main()
