"Memory of a micrograph of 4000 columns from file to mask, by tiles and at once, for two heights."

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

CODE = '''
import re, sys, torch
from pathlib import Path
from torch import nn
from snetlib.infer import Run, predict_file
class Point(nn.Module):
    "Nine classes by brightness: a network without maps of its own."
    def __init__(self): super().__init__(); self.w = nn.Parameter(torch.linspace(-6, 6, 9))
    def forward(self, x): return self.w.view(1, -1, 1, 1)*(x.mean(1, keepdim=True) - .5)
peak = lambda: int(re.search(r'VmHWM:\\\\s+(\\\\d+)', open('/proc/self/status').read())[1])/1024
image, out, tile = sys.argv[1:]; start = peak()
run = Run(Path(out), dict(recipe=dict(size=None), data=dict(class_names=[str(k) for k in range(9)], c_in=3, n_out=9, intensity=dict(kind='uint8'))), Point().eval())
predict_file(run, image, out, tile=int(tile) or None, progress=False); print(peak() - start)
'''.replace('\\\\', '\\')


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
            Image.fromarray(np.random.default_rng(0).integers(0, 255, (h // 20, 200, 3), np.uint8)).resize(
                (4000, h)
            ).save(image := Path(d) / f'{h}.png', compress_level=1)
            tiles, whole = (peak(image, Path(d) / f'{h}_{t}', t) for t in (512, 0))
            print(
                f'{h:5} rows: tiles of 512 {tiles:6.0f} MB, at once {whole:6.0f} MB, ratio {tiles / whole:.2f}'
            )


if __name__ == '__main__':
    main()
