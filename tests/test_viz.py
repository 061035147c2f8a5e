"Pictures that cannot be drawn leave no figure behind."

import matplotlib.pyplot as plt
import numpy as np
import pytest

from snetlib import viz
from snetlib.core import SnetError


@pytest.mark.parametrize('x', [np.zeros((8, 8)), np.full((8, 8), np.inf), np.zeros((0, 4)), 'text'], ids=str)
def test_pictures_never_leave_a_figure(x):
    try:
        viz.overlay(x, np.zeros((8, 8), int))
    except (SnetError, ValueError):
        pass
    assert plt.get_fignums() == []


@pytest.mark.parametrize('c', [2, 4])
def test_of_two_or_four_channels_the_first_is_drawn(c):
    x = np.random.default_rng(0).random((c, 9, 11), np.float32)
    expected = np.repeat(x[0, :, :, None], 3, -1)
    assert np.array_equal(viz.as_rgb(x), expected)
    assert np.array_equal(viz.as_rgb(np.moveaxis(x, 0, -1)), expected)


def test_montage_refuses_and_scales_together():
    with pytest.raises(SnetError):
        viz.montage([])
    with pytest.raises(SnetError):
        viz.montage(np.zeros((3, 8, 8)), masks=np.zeros((2, 8, 8), int))
    fig = viz.montage(np.stack([np.full((8, 8), v) for v in (-100.0, 0.0, 300.0)]))
    assert len({a.images[0].get_array().mean().round(3) for a in fig.axes if a.images}) == 3, (
        'one grey scale for all'
    )
