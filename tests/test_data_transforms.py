"Augmentation: any recipe keeps image and mask together, and no generator but the right one is touched."

import kornia
import kornia.augmentation as K
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kornia.constants import DataKey, Resample

from snetlib.core import BadSetting, seed_everything
from snetlib.data.transforms import (
    AUGMENTATION_KEYS,
    AUGMENTATIONS,
    Augment,
    check_augmentation,
    draw_changes,
)

relaxed = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
share = st.floats(0, 1)
geometry = st.fixed_dictionaries(
    {},
    optional=dict(
        hflip=share,
        vflip=share,
        rot90=share,
        rotate=st.floats(0, 180),
        scale=st.floats(0, 1),
        shift=st.floats(0, 0.5),
        distort=st.floats(0, 0.08),
        warp_p=share,
        crop=st.one_of(st.integers(8, 60), st.tuples(st.integers(8, 60), st.integers(8, 60))),
    ),
)


@relaxed
@given(geometry, st.integers(0, 2**31 - 1), st.sampled_from([(1, 1, 32, 32), (3, 2, 40, 33), (2, 4, 17, 48)]))
def test_image_is_mask_after_any_geometry(recipe, seed, shape):
    b, c, h, w = shape
    y = torch.randint(0, 200, (b, h, w), generator=torch.Generator().manual_seed(seed))
    x = (y / 255.0)[:, None].repeat(1, c, 1, 1)
    torch.manual_seed(seed)
    xa, ya = Augment(recipe, ignore_index=255, pad_value=1.0, interp='nearest')(x, y)
    assert all(torch.equal((xa[:, k] * 255).round().long(), ya) for k in range(c)), (
        'every channel must move with the mask'
    )
    assert set(ya.unique().tolist()) <= set(y.unique().tolist()) | {255} and ya.dtype == torch.int64
    crop = recipe.get('crop')
    size = (h, w) if crop is None else crop
    assert tuple(ya.shape[1:]) == ((size, size) if isinstance(size, int) else size)


@relaxed
@given(geometry, st.integers(0, 2**31 - 1))
def test_bilinear_stays_within_the_derived_bound(recipe, seed):
    y = (torch.rand(2, 32, 32, generator=torch.Generator().manual_seed(seed)) < 0.5).long()
    torch.manual_seed(seed)
    xa, ya = Augment(recipe)(y[:, None].float(), y)
    assert (xa[:, 0] - ya).abs().max() <= 0.75 + 1e-3


@pytest.mark.parametrize('name', AUGMENTATIONS)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_recipes_types_layout_and_inputs(name, dtype):
    recipe = check_augmentation(name) | dict(crop=(24, 24)) if name == 'sosegformer' else name
    x, y = (
        torch.rand(3, 3, 40, 40).to(dtype).contiguous(memory_format=torch.channels_last),
        torch.randint(0, 5, (3, 40, 40)),
    )
    kept = x.clone(), y.clone()
    seed_everything(3)
    xa, ya = Augment({k: v for k, v in recipe.items()} if isinstance(recipe, dict) else recipe)(x, y)
    assert (
        xa.dtype == dtype and xa.isfinite().all() and torch.equal(x, kept[0]) and torch.equal(y, kept[1])
    ), 'the inputs must not change'
    seed_everything(3)
    xb, yb = Augment(recipe)(x, y)
    assert torch.equal(xa, xb) and torch.equal(ya, yb)


def test_draws_use_torchs_generator_alone():
    seed_everything(0)
    a = np.random.get_state()[1].copy()
    Augment('light')(torch.rand(2, 1, 32, 32), torch.zeros(2, 32, 32).long())
    assert np.array_equal(a, np.random.get_state()[1])


@pytest.mark.parametrize('key', [k for k in AUGMENTATION_KEYS if k not in ('warp_p', 'intensity_p')])
def test_every_key_changes_something_and_only_what_it_should(key):
    recipe = {key: dict(crop=20, distort=0.08, rotate=40, hflip=1.0, vflip=1.0, rot90=1.0).get(key, 0.5)}
    x = 0.2 + 0.6 * torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0.5).long()
    seed_everything(1)
    xa, ya = Augment(recipe)(x, y)
    assert xa.shape != x.shape or not torch.equal(xa, x)
    assert (ya.shape == y.shape and torch.equal(ya, y)) == (
        key in ('gamma', 'contrast', 'brightness', 'blur', 'noise')
    )


@pytest.mark.parametrize('key', ['warp_p', 'intensity_p'])
def test_shares_of_images_are_honest(key):
    x = torch.rand(400, 1, 16, 16)
    seed_everything(0)
    xa, _ = Augment(
        dict(rotate=40, warp_p=0.3) if key == 'warp_p' else dict(brightness=0.4, intensity_p=0.3)
    )(x, torch.zeros(400, 16, 16).long())
    assert abs((xa != x).any((1, 2, 3)).float().mean() - 0.3) < 4 * (0.21 / 400) ** 0.5


# ---------------------------------------------------------------- the same pictures as kornia's


OLD = tuple(map(int, kornia.__version__.split('.')[:2])) < (0, 9)


@pytest.mark.skipif(OLD, reason='kornia before 0.9 (Python 3.10) turns by another rule')
@pytest.mark.parametrize('size', [(48, 40), (33, 65), (64, 64)])
@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('seed', range(3))
def test_equal_to_kornias_sequential(size, channels, seed):
    "kornia draws mirrors, rotation, zoom and shift; ours with the same numbers gives the same pictures."
    extra = {DataKey.MASK: dict(resample=Resample.NEAREST, align_corners=False)}
    parts = (
        K.RandomHorizontalFlip(p=0.5),
        K.RandomVerticalFlip(p=0.5),
        K.RandomAffine(20.0, (0.1, 0.1), (0.8, 1.2), p=0.7),
    )
    peer = K.AugmentationSequential(*parts, data_keys=['input', 'mask'], extra_args=extra)
    torch.manual_seed(seed)
    x, y = torch.rand(8, channels, *size), torch.randint(0, 9, (8, *size))
    params = peer.forward_parameters(x.shape)
    images, masks = peer(x, y[:, None].float(), params=params)
    flips, mirrors, affine = (p.data for p in params)
    d = draw_changes(check_augmentation({}), 8, size)
    d['hflip'], d['vflip'] = flips['batch_prob'] > 0.5, mirrors['batch_prob'] > 0.5
    d['warp'], d['angle'] = affine['batch_prob'] > 0.5, -affine['angle']
    d['zoom'], d['shift'] = affine['scale'][:, 0], affine['translations']
    ours, our_masks = Augment(dict(rotate=20, scale=0.2, shift=0.1)).apply_draws(x, y, d)
    assert (ours - images).abs().max() < 1e-4
    # a point in the middle between two pixels may be rounded either way
    assert (our_masks != masks[:, 0]).float().mean() < 1e-3


GREY = {  # key: (value, kornia's function of the image and the value)
    'gamma': (1.3, kornia.enhance.adjust_gamma),
    'contrast': (0.8, kornia.enhance.adjust_contrast_with_mean_subtraction),
    'brightness': (0.1, kornia.enhance.adjust_brightness),
    'blur': (1.2, lambda x, v: kornia.filters.gaussian_blur2d(x, 9, (v, v))),
}


@pytest.mark.parametrize(
    'key, channels',
    # of a colour image kornia takes the mean of the luminance, ours of all channels
    [(key, channels) for key in GREY for channels in (1, 3) if (key, channels) != ('contrast', 3)],
)
def test_grey_changes_equal_kornias(key, channels):
    "One change alone, the same number for every image; kornia too clips to 0 … 1."
    value, peer = GREY[key]
    torch.manual_seed(0)
    n = 1 if key == 'contrast' else 4  # kornia before 0.9 subtracts the mean of the whole batch
    x, y = torch.rand(n, channels, 32, 40), torch.zeros(n, 32, 40).long()
    d = draw_changes(check_augmentation({}), n, (32, 40))
    d[key] = torch.full((n,), value)
    images, masks = Augment({}).apply_draws(x, y, d)
    assert (images - peer(x, value)).abs().max() < 1e-5
    assert (images - x).abs().max() > 0.01 and torch.equal(masks, y)


def test_recorded_draws():
    "The numbers of a seed are those of the recorded runs."
    seed_everything(3, 7)
    d = draw_changes(check_augmentation('snet'), 4, (64, 64))
    assert d['turns'].tolist() == [2, 3, 2, 1]
    assert d['angle'].numpy().round(4).tolist() == np.float32([15.6428, -13.9815, -14.4037, -7.3126]).tolist()


@pytest.mark.parametrize(
    'bad',
    [
        {'hflp': 0.5},
        {'hflip': 1.5},
        {'rotate': -3},
        {'distort': 0.5},
        {'crop': (0, 9)},
        'sosegfromer',
    ],
    ids=str,
)
def test_impossible_augmentations_are_refused(bad):
    with pytest.raises(BadSetting):
        check_augmentation(bad)


def test_masks_of_another_size_are_refused():
    with pytest.raises(BadSetting, match='do not belong together'):
        Augment('snet')(torch.rand(2, 1, 32, 32), torch.zeros(2, 16, 16).long())
