"Slices: what does not fit is refused."

import numpy as np
import pytest

from snetlib.core import BadSetting, SnetError
from snetlib.data.files import Case
from snetlib.data.slices import MixedSlices, Slices, scale_intensity

CT = {'kind': 'window', 'lo': -125, 'hi': 275}
NAMES = ('background', 'liver', 'tumour')


def cases():
    rng = np.random.default_rng(0)
    for i in range(2):
        image, label = rng.normal(40, 90, (3, 20 + i, 33)), rng.integers(0, 3, (3, 20 + i, 33))
        yield Case(f'p{i}', image, label.astype(np.uint8))


def test_numbers_that_were_not_announced():
    with pytest.raises(SnetError, match='0 to 255 were announced'):
        scale_intensity(np.array([-1000.0, 75, 3000]), {'kind': 'uint8'})


def test_several_sizes_and_labels_without_a_name():
    with pytest.raises(SnetError, match='different sizes'):
        Slices.from_cases(cases(), NAMES, CT)
    with pytest.raises(SnetError, match='labels'):
        Slices.from_cases(cases(), NAMES[:2], CT, (32, 32))


def test_an_image_and_a_mask_of_another_size():
    a = np.arange(20).reshape(4, 5)
    with pytest.raises(SnetError, match='do not fit'):
        MixedSlices([a], [a[:3]], ['p'], NAMES)


@pytest.mark.parametrize(
    'how',
    [
        dict(kind='percentile', lo=99, hi=1),
        dict(kind='percentile', lo=0.5, hi=199),
        dict(kind='window', lo=5, hi=-5),
        dict(kind='window', lo=float('nan'), hi=1),
        dict(kind='window', lo='0', hi=1),
        dict(kind='window'),
    ],
)
def test_limits_that_make_every_image_black_are_refused(how):
    with pytest.raises(BadSetting) as e:
        scale_intensity(np.arange(6.0), how)
    assert e.value.key == 'intensity'
