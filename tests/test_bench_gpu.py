"The script behind `make gpu`: its logic on the processor, at a tiny size."

import importlib.util
from pathlib import Path

import pytest
import torch

PATH = Path(__file__).parent / 'bench/gpu.py'


@pytest.fixture
def gpu():
    spec = importlib.util.spec_from_file_location('bench_gpu', PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TINY = '--size 32 --batch 2 --steps 1 --warmup 1 --no-compile --networks snet_tiny'.split()


def test_every_check_runs(gpu, capsys, monkeypatch):
    monkeypatch.setattr(gpu, 'stops_and_continues', lambda args: 'left out here')
    assert gpu.main(['--device', 'cpu', *TINY]) == 0
    said = capsys.readouterr().out
    assert said.count('s a step') == 4, said
    assert 'as on the CPU' in said and 'FAILED' not in said


def test_a_check_that_fails_does_not_end_the_others(gpu, capsys, monkeypatch):
    def broken(args):
        raise RuntimeError('no memory')

    monkeypatch.setattr(gpu, 'stops_and_continues', broken)
    monkeypatch.setattr(gpu, 'FORMS', {'float32': gpu.FORMS['float32']})
    assert gpu.main(['--device', 'cpu', *TINY]) == 1
    said = capsys.readouterr().out
    assert 'FAILED: RuntimeError: no memory' in said
    assert said.count('s a step') == 1


def test_the_minutes_are_kept(gpu, capsys):
    assert gpu.main(['--device', 'cpu', '--minutes', '0', *TINY]) == 0
    said = capsys.readouterr().out
    assert 's a step' not in said and said.count('not run') == 6


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_without_cuda_it_says_so(gpu, capsys):
    assert gpu.main([]) == 1
    assert 'There is no CUDA here' in capsys.readouterr().out
