"""Ratios of naive time to ours for pages Han and pairs: python tests/bench/bench_theory.py"""

import itertools
import time

import numpy as np
import torch

from snetlib.theory import dependence, divergences, han, pairs
from snetlib.theory import entropy as E


def seconds(fn, least=0.3):
    "Median seconds of a call, after one to warm up."
    fn()
    times = []
    while sum(times) < least or len(times) < 3:
        t = time.perf_counter()
        fn()
        times.append(time.perf_counter() - t)
    return float(np.median(times))


def naive_han(p):
    return [
        np.mean([E.joint_entropy(p, T) for T in itertools.combinations(range(p.ndim), k)]) / k
        for k in range(1, p.ndim + 1)
    ]


def naive_pairs(A, B):
    "One pair after the other, every piece computed anew, plain numpy histograms."
    out = []
    for x, y in itertools.product(A.values(), B.values()):
        xs, ys = (((t - t.mean()) / t.std()).clamp(-6, 6).numpy().ravel() for t in (x, y))
        p, q = (np.histogram(v, np.linspace(-6, 6, 65))[0] / v.size for v in (xs, ys))
        p, q = (0.997 * v + 0.003 / 64 for v in (p, q))
        out.append(
            (
                han.symmetric_kl(p, q),
                divergences.jensen_shannon(p, q),
                dependence.layer_mi(x, y),
                dependence.mi_floor(x, y)[0],
                dependence.linear_cka(dependence.centred_rows(x), dependence.centred_rows(y)),
            )
        )
    return np.array(out)


def main():
    print(f'{"what":60s} {"ours, s":>9s} {"naive, s":>9s} {"naive / ours":>13s}')
    for i in (8, 10, 12):
        p = np.random.default_rng(0).dirichlet(np.full(2**i, 0.1)).reshape((2,) * i)
        assert np.allclose(naive_han(p), han.han_profile(p))
        ours, naive = seconds(lambda: han.han_profile(p)), seconds(lambda: naive_han(p))
        print(f'{f"Han profile of {i} binary variables":60s} {ours:9.4f} {naive:9.4f} {naive / ours:13.1f}')

    def act(seed, n):
        return {
            f'{seed}{k}': torch.randn(4, 64, 56, 56, generator=torch.Generator().manual_seed(seed + k))
            for k in range(n)
        }

    A, B = act(0, 8), act(50, 7)
    got = pairs.compare_layers(A, B)
    assert np.allclose(naive_pairs(A, B), got[['kl', 'js', 'mi', 'mi_floor', 'cka']], atol=2e-3)
    ours = seconds(lambda: pairs.compare_layers(A, B), 0)
    naive = seconds(lambda: naive_pairs(A, B), 0)
    what = f'{len(got)} pairs of layers, 4 images × 64 channels × 56²'
    print(f'{what:60s} {ours:9.4f} {naive:9.4f} {naive / ours:13.1f}')


if __name__ == '__main__':
    main()
