"FEB: the memory of the whole process."

import subprocess
import sys

import pytest


def test_feb_at_448_in_the_memory_of_the_whole_process():
    """What a kernel uses inside itself is not seen by the dispatcher: measure the process.

    One map of 18 816² floats would be 1416 MB.
    """
    code = """
import resource
import torch
from snetlib.models.feb import FEB

torch.set_num_threads(1)


def step(feb, side):
    out = feb(torch.rand(1, 64, side, side), torch.rand(1, 128, side // 2, side // 2))
    sum(o.sum() for o in out).backward()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


feb = FEB((64, 128))
small = step(feb, 8)
print(step(feb, 112) - small)
"""
    pytest.importorskip('resource')
    grown = int(
        subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    ) * (1024 if sys.platform == 'linux' else 1)
    assert grown < 4 * 18816**2 / 5, f'{grown / 1e6:.0f} MB'
