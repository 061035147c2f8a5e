"""Many cases through prepare, check, evaluate and predict: does the work stay linear?

Each command runs in a process of its own on 100, 1,000 and 10,000 small pictures. A row gives cases a CPU
second, the peak memory above that of 100 cases for each further case, and the growth of the seconds:
1.0 is linear, 2.0 would be quadratic. Usage: python tests/bench/load.py [100 1000 10000] [--only check]
"""

import argparse
import contextlib
import io
import json
import math
import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 32


def write_pictures(root, n):
    "Pictures with a bright square, their masks, and masks of a tool that is a little off."
    rng = np.random.default_rng(0)
    for folder in ('images', 'masks', 'pred'):
        (root / folder).mkdir(parents=True)
    for k in range(n):
        top, left = rng.integers(2, 20, 2)
        mask = np.zeros((SIDE, SIDE), np.uint8)
        mask[top : top + 9, left : left + 9] = 255
        image = rng.integers(0, 99, (SIDE, SIDE), np.uint8) + mask // 3
        for folder, x in (('images', image), ('masks', mask), ('pred', np.roll(mask, 1, 0))):
            Image.fromarray(x).save(root / folder / f'c{k:06d}.png')
    said = dict(class_names=['background', 'square'], values={'0': 0, '255': 1}, channels=1)
    (root / 'dataset.json').write_text(json.dumps(said | dict(intensity=dict(kind='uint8'))))


def commands(root, run):
    "name -> words of `snet`, in the order in which they need each other."
    scoring = ('--pred', root / 'pred', '--truth', root / 'masks', '--classes', 'background,square')
    found = {
        'prepare': ('prepare', 'folder', root, '--out', root / 'ready', '--jobs', 1),
        'check': ('check', 'folder', root / 'ready', '--jobs', 1),
        'evaluate': ('evaluate', *scoring, '--out', root / 'scores'),
        'predict': ('predict', run, root / 'images', '--out', root / 'masks_of_ours', '--device', 'cpu'),
    }
    return {name: list(map(str, words)) for name, words in found.items()}


def load_everything():
    "Import once what every command needs, so that no row holds it."
    import torch

    import snetlib.cli
    import snetlib.data.check
    import snetlib.evaluate
    import snetlib.predict.predictor
    import snetlib.train.run  # noqa: F401

    torch.set_num_threads(1)


def in_a_process(words):
    "(CPU seconds, peak bytes, exit code, what it said) of a command in a forked process."
    return forked_result(lambda: one_command(words))


def forked_result(fn):
    "What a function gives in a process of its own, as JSON."
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reading)
        answer = json.dumps(fn()).encode()
        with os.fdopen(writing, 'wb') as f:
            f.write(answer)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, 'rb') as f:
        answer = f.read()
    os.waitpid(pid, 0)
    return json.loads(answer)


def one_command(words):
    from snetlib.cli import main

    said, code, began = io.StringIO(), 0, time.process_time()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main(words)
        except SystemExit as e:
            code = e.code or 0
    used = time.process_time() - began
    return used, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, code, said.getvalue()[-300:]


def train_a_run(folder):
    "A run of one step on a few such pictures."
    write_pictures(folder / 'few', 10)
    settings = ('--set', f'size={SIDE}', '--set', 'bs=2', '--set', 'steps=1', '--set', 'precision=float32')
    words = ('train', 'folder', '--data', folder / 'few', '--out', folder / 'run', '--recipe', 'smoke')
    _, _, code, said = in_a_process(list(map(str, words + settings)))
    if code:
        raise SystemExit(said)
    return folder / 'run'


def growth(sizes, values):
    "The exponent of a power law between the first size and the last."
    return math.log(values[-1] / values[0]) / math.log(sizes[-1] / sizes[0])


def main(argv=()):
    p = argparse.ArgumentParser()
    p.add_argument('sizes', type=int, nargs='*', default=[100, 1000, 10000])
    p.add_argument('--only', action='append', help='a command; may be repeated')
    a = p.parse_args(argv)
    load_everything()
    seconds, peaks = {}, {}
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        run = train_a_run(tmp)
        for n in a.sizes:
            root = tmp / f'{n}'
            write_pictures(root, n)
            for name, words in commands(root, run).items():
                if a.only and name not in a.only and name != 'prepare':
                    continue
                used, peak, code, said = in_a_process(words)
                if code:
                    raise SystemExit(f'{name} of {n} cases ended with {code}: {said}')
                seconds.setdefault(name, []).append(used)
                peaks.setdefault(name, []).append(peak)
                print(f'{n:6,} cases, {name:9}: {n / used:7.1f} cases a CPU second', flush=True)
            shutil.rmtree(root)
    print(f'from {a.sizes[0]:,} to {a.sizes[-1]:,} pictures of {SIDE}²:')
    for name, used in seconds.items():
        more = (peaks[name][-1] - peaks[name][0]) / max(a.sizes[-1] - a.sizes[0], 1)
        print(
            f'  {name:9}: seconds grow with the power {growth(a.sizes, used):4.2f} of the cases, '
            f'memory by {more / 1e3:6.1f} kB a case, peak {peaks[name][-1] / 1e9:.2f} GB'
        )


if __name__ == '__main__':
    main(sys.argv[1:])
