"Pictures that cannot be drawn leave no figure behind; those that can are shown sharp."

import io
from types import SimpleNamespace

import IPython
import matplotlib.pyplot as plt
import numpy as np
import pytest
from IPython.core.formatters import DisplayFormatter
from matplotlib.figure import Figure
from PIL import Image

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


def test_a_page_shows_our_figures_sharp_and_leaves_others_alone(monkeypatch):
    fig, _ = viz.new_figure(1, 2, (3, 1))
    display = DisplayFormatter()
    monkeypatch.setattr(IPython, 'get_ipython', lambda: SimpleNamespace(display_formatter=display))
    display.formatters['image/png'].for_type(Figure, lambda fig: b'as matplotlib shows it')
    viz.show_sharp()
    data, how = display.format(fig)
    assert Image.open(io.BytesIO(data['image/png'])).size == (900, 150)
    assert how['image/png'] == {'width': 600}, '150 dots an inch, shown at 100'
    assert display.format(Figure())[0]['image/png'] == b'as matplotlib shows it'
