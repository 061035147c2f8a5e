"""Pages 10, 17 and 01 where a lesson can only exemplify: any recipe keeps image and mask together; phantoms of many seeds; no generator but the right one is touched."""

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from snetlib import viz
from snetlib.core import SnetError, seed_everything
from snetlib.data.phantom import ORGANS, abdomen_ct, balls, ct_affine, write_nifti_pair
from snetlib.data.transforms import AUGMENTATION_KEYS, AUGMENTATIONS, Augment, check_augmentation

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
    assert tuple(ya.shape[1:]) == (
        (h, w) if crop is None else (crop, crop) if isinstance(crop, int) else crop
    )


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


# --- phantoms


@pytest.mark.parametrize('seed', range(12))
def test_every_patient_has_every_organ_where_it_belongs(seed):
    hu, label, spacing = abdomen_ct(seed, (32, 96, 96))
    assert set(np.unique(label)) == set(range(9))
    middle = {o: np.argwhere(label == k).mean(0) for k, o in enumerate(ORGANS) if k}
    assert (
        middle['liver'][2] < middle['spleen'][2]
        and middle['right kidney'][2] < middle['left kidney'][2]
        and middle['left kidney'][1] > middle['stomach'][1]
    )
    assert (label == 5).mean((1, 2)).max() > 0.12 and min(
        a for k in range(1, 9) for a in (label == k).mean((1, 2)) if a
    ) < 0.002


@relaxed
@given(
    st.integers(0, 10**6),
    st.integers(1, 6),
    st.floats(2, 6),
    st.sampled_from([(48, 48), (33, 71), (20, 40, 40)]),
    st.integers(1, 4),
)
def test_number_of_targets_is_the_number_asked_for(seed, n, radius, shape, classes):
    from scipy import ndimage

    try:
        image, label = balls(seed, shape, n, radius, classes=classes)
    except SnetError:
        assume(False)  # too many to fit: refused, never fewer
    assert (
        ndimage.label(label)[1] == n
        and set(np.unique(label)) == {0, *range(1, min(n, classes) + 1)}
        and image.min() >= 0
        and image.max() <= 1
        and image.dtype == np.float32
    )


def test_phantom_files_keep_their_place_when_tilted(tmp_path):
    hu, label, spacing = abdomen_ct(0, (6, 32, 40))
    img, lab = write_nifti_pair(tmp_path, 'x', hu, label, spacing, tilt=15)
    a, b = nib.load(img), nib.load(lab)
    assert (
        np.allclose(a.affine, ct_affine(hu.shape, spacing, 15), atol=1e-4)
        and np.array_equal(a.affine, b.affine)
        and np.linalg.det(a.affine[:3, :3]) > 0
        and a.shape == (40, 32, 6)
    )


# --- pictures


@pytest.mark.parametrize('x', [np.zeros((8, 8)), np.full((8, 8), np.inf), np.zeros((0, 4)), 'text'], ids=str)
def test_pictures_never_leave_a_figure(x):
    try:
        viz.overlay(x, np.zeros((8, 8), int))
    except (SnetError, ValueError):
        pass
    assert plt.get_fignums() == []


def test_montage_refuses_and_scales_together():
    with pytest.raises(SnetError):
        viz.montage([])
    with pytest.raises(SnetError):
        viz.montage(np.zeros((3, 8, 8)), masks=np.zeros((2, 8, 8), int))
    fig = viz.montage(np.stack([np.full((8, 8), v) for v in (-100.0, 0.0, 300.0)]))
    assert len({a.images[0].get_array().mean().round(3) for a in fig.axes if a.images}) == 3, (
        'one grey scale for all'
    )
