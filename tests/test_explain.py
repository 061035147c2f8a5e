"""Explain and widgets, where a lesson can only exemplify.

Every registered model, restored modes, attention rows against the full map, known laws of the estimators,
panels without a browser, the exercises.
"""

import ast
import base64
import importlib
import io
import json
import time
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pytest
import torch
from lessons import exercises, text_of_page
from PIL import Image
from torch import nn

from snetlib import explain
from snetlib import widgets as W
from snetlib.core import SnetError
from snetlib.course import assess
from snetlib.data.files import Case
from snetlib.data.phantom import abdomen_ct, write_nifti_pair
from snetlib.explain import attention, figures, hooks, study
from snetlib.models.registry import create_model, list_models

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    '7_use/04_hooks': 'snetlib.explain.hooks',
    '7_use/05_figures': 'snetlib.explain.figures',
    '7_use/06_attention': 'snetlib.explain.attention',
    '7_use/07_study': 'snetlib.explain.study',
    '7_use/09_widgets': 'snetlib.widgets',
}


def hooks_left(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


# --- hooks and activations


@pytest.mark.parametrize('name', list_models())
def test_collect_from_every_registered_model(name):
    torch.manual_seed(0)
    net = create_model(name, c_in=1, n_out=2).train()
    frozen = next(m for m in net.modules() if isinstance(m, nn.BatchNorm2d) or not list(m.children()))
    frozen.eval()
    modes, x = [m.training for m in net.modules()], torch.rand(1, 1, 64, 64)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    acts = hooks.collect(net, x)
    assert len(acts) > 1 and all(
        a.dim() == 4 and a.device.type == 'cpu' and a.dtype == torch.float32 and not a.requires_grad
        for a in acts.values()
    )
    assert [m.training for m in net.modules()] == modes, 'modes must be restored one by one'
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items()), (
        'looking must not change running statistics'
    )
    assert hooks_left(net) == 0


def test_hooks_go_when_the_model_fails():
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(1, 1, 1)

        def forward(self, x):
            self.a(x)
            raise ValueError('broken')

    net = Broken().train()
    with pytest.raises(ValueError):
        hooks.collect(net, torch.rand(1, 1, 4, 4), ['a'])
    assert hooks_left(net) == 0 and net.training


def test_collected_activations_are_copies():
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(inplace=True))
    x = torch.randn(1, 1, 8, 8)
    acts = hooks.collect(net, x)
    assert acts['0'].min() < 0 <= acts['1'].min(), (
        'an in-place layer must not change what was collected before it'
    )


@pytest.mark.parametrize(
    'n,size,grid', [(12, (30, 40), (3, 4)), (12, (40, 30), (4, 3)), (16, (8, 8), (4, 4)), (7, (64, 64), None)]
)
def test_tokens_find_their_grid(n, size, grid):
    m = hooks.to_feature_map(torch.arange(float(n)).reshape(1, n, 1), size)
    assert (
        m is None
        if grid is None
        else (m.shape[2:] == grid and torch.equal(m[0, 0].flatten(), torch.arange(float(n))))
    )


def test_what_gives_no_map_is_refused():
    with pytest.raises(SnetError, match='called_layers'):
        hooks.collect(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), torch.rand(2, 1, 2, 2))


# --- attention rows


@pytest.mark.parametrize('heads', (1, 2))
@pytest.mark.parametrize('layer,at', [(0, (3, 5)), (1, (2, 1))])
def test_feb_row_is_the_full_maps_row(heads, layer, at):
    torch.manual_seed(1)
    net = create_model('snet_tiny', c_in=1, n_out=2, feb_heads=heads).eval()
    x = torch.rand(1, 1, 64, 64)
    rows = attention.feb_attention(net, x, at, layer)
    maps, feb = attention.module_inputs(net, 'feb', x), net.feb
    with torch.no_grad():
        parts = [m.permute(0, 2, 3, 1).reshape(1, -1, feb.width) for m in maps]
        q, k, _ = feb.qkv(feb.norm(torch.cat(parts, 1))).chunk(3, -1)
        d = feb.width // heads
        A = (
            sum(
                (q[0, :, h * d : (h + 1) * d] @ k[0, :, h * d : (h + 1) * d].T / d**0.5).softmax(-1)
                for h in range(heads)
            )
            / heads
        )  # (N, N), by hand
    per = [m.shape[1] // feb.width for m in maps]
    w = maps[layer].shape[-1]
    start = (parts[0].shape[1] if layer else 0) + (at[0] * w + at[1]) * per[layer]
    want = A[start : start + per[layer]].mean(0)
    n = parts[0].shape[1]
    assert torch.allclose(
        rows[0].flatten(), want[:n].reshape(-1, per[0]).sum(1), atol=1e-5
    ) and torch.allclose(rows[1].flatten(), want[n:].reshape(-1, per[1]).sum(1), atol=1e-5)


@pytest.mark.parametrize('grid', (3, 4))
def test_gab_rows_on_either_grid(grid):
    torch.manual_seed(2)
    net = create_model('snet_tiny', c_in=1, n_out=2, gab_grid=grid).eval()
    x = torch.rand(1, 1, 96, 64)
    seen = attention.gab_attention(net, x, (1, 0))
    out = hooks.collect(net, x, 'gab')['gab']
    assert (
        seen['A'].shape == out.shape[-2:]
        and abs(seen['A'].sum() - 2) < 1e-5
        and abs(seen['cross'].sum() - 1) < 1e-5
    )
    a, b = net.gab.align(*attention.module_inputs(net, 'gab', x))
    t1, t2 = a.flatten(2).mT, b.flatten(2).mT
    A = sum((t @ t.mT / t.shape[-1] ** 0.5).softmax(-1) for t in (t1, t2))
    assert torch.allclose((seen['cross'].flatten() @ net.gab.v(A @ t2 + t1)[0]), out[0, :, 1, 0], atol=1e-4)


def test_models_without_the_parts_are_refused():
    x = torch.rand(2, 1, 32, 32)
    for kw, fn in (
        (dict(feb=False), lambda m: attention.feb_attention(m, x, (0, 0))),
        (dict(feb=False), lambda m: study.feb_effect(m, x)),
        (dict(gab=False), lambda m: attention.gab_attention(m, x, (0, 0))),
    ):
        with pytest.raises(SnetError):
            fn(create_model('snet_tiny', c_in=1, n_out=2, **kw))


# --- figures and entropies


@pytest.mark.parametrize(
    'kw', [dict(), dict(fusion='unstagger'), dict(feb=False), dict(ffb=False, gab=False)]
)
def test_figures_of_every_variant_and_no_figure_left(kw):
    net, x = create_model('snet_tiny', c_in=1, n_out=2, **kw), torch.rand(2, 1, 64, 64)
    y = torch.zeros(2, 64, 64, dtype=torch.int64)
    net.train()
    assert (
        len(figures.figure1(net, x).axes) == 10
        and len(figures.figure2({'a': net, 'b': net}, x, y, i=1, pair=1).axes) == 20
    )
    assert plt.get_fignums() == [] and net.training and hooks_left(net) == 0


def test_entropy_of_known_distributions():
    g = torch.Generator().manual_seed(0)
    n = 300_000
    t = study.layer_entropy(
        {
            'exp': -torch.rand(n, generator=g).log(),
            'two': (torch.rand(n, generator=g) < 0.5).float(),
            'u': 8 * torch.rand(n, generator=g),
        }
    ).set_index('layer')
    assert (
        abs(t.differential['u'] - 3) < 0.02
        and abs(t['shape']['two'] - 1) < 0.001
        and abs(t.zeros['two'] - 0.5) < 0.01
    )  # log2 8; one fair bit
    assert abs(t.differential['exp'] - np.log2(np.e)) < 0.1  # 1 nat; the tail beyond 4σ is folded in


@pytest.mark.parametrize('share', (0.02, 0.5, 0.9))
def test_a_law_with_an_atom_has_no_differential_entropy(share):
    g = torch.Generator().manual_seed(0)
    a = torch.randn(100_000, generator=g)
    mixed = torch.where(torch.rand(100_000, generator=g) < share, torch.zeros(()), a)
    t = study.layer_entropy({'smooth': a, 'mixed': mixed, 'shifted': mixed + 1}).set_index('layer')
    assert np.isfinite(t.differential['smooth'])
    assert np.isnan(t.differential['mixed']) and np.isnan(t.differential['shifted'])
    assert np.isfinite(t['shape']).all()


def test_layers_that_end_in_relu_have_no_differential_entropy():
    acts = hooks.snet_layers(create_model('snet_tiny', c_in=1, n_out=2), torch.rand(2, 1, 64, 64))
    h = study.layer_entropy(acts).set_index('layer').differential
    assert h[[f'CNN{i}' for i in (1, 2, 3, 4)]].isna().all()
    assert h[['ViT1', 'ViT2', 'FEB1', 'FEB2']].notna().all()


def test_public_names_are_found_when_used():
    assert set(explain.__all__) <= set(dir(explain))
    assert explain.collect is hooks.collect and explain.information is study.information
    assert all(getattr(explain, name).__doc__ for name in explain.__all__)


@pytest.mark.parametrize(
    'bad', [torch.ones(5), torch.tensor([1.0, np.nan]), torch.empty(0), torch.tensor([1.0])]
)
def test_entropy_refuses(bad):
    with pytest.raises(SnetError):
        study.layer_entropy({'x': bad})


# --- trained runs and the paper's claims


def brief_run(folder, seed=0, **kw):
    from snetlib.train.run import train_run

    train_run(
        folder,
        'phantom',
        'snet_tiny',
        'smoke',
        size=64,
        bs=2,
        steps=1,
        device='cpu',
        progress=False,
        seed=seed,
        model_kwargs=kw,
    )
    return folder


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    work = tmp_path_factory.mktemp('runs')
    return {
        (f, s): brief_run(work / f'{f}{s}', s, **({} if f == 'stagger' else {'fusion': f}))
        for f in ('stagger', 'unstagger')
        for s in (0, 1)
    }


@pytest.fixture(scope='module')
def measured(runs):
    return study.information(list(runs.values()), n=4)


def test_first_weights_are_the_trainers(runs):
    from snetlib.data.loaders import load_slices, slice_dls
    from snetlib.train.learner import snet_learner

    config = json.loads((runs['unstagger', 1] / 'config.json').read_text())
    slices = load_slices('phantom', part='valid', size=64)
    learn = snet_learner(
        slice_dls(slices, slices, bs=2, device='cpu'),
        'snet_tiny',
        config['recipe'],
        seed=1,
        progress=False,
        model_kwargs=config['model_kwargs'],
    )
    x = torch.rand(2, 1, 64, 64)
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    net = study.before_training(config, x)
    assert torch.equal(torch.get_rng_state(), state[0]) and (np.random.get_state()[1] == state[1]).all(), (
        'nobody else\'s random numbers change'
    )
    for (n, a), b in zip(net.named_parameters(), learn.model.parameters()):
        assert torch.equal(a, b), n
    assert not any(
        torch.equal(a, b)
        for (n, a), b in zip(
            study.before_training(config | {'seed': 2}, x).named_parameters(), net.parameters()
        )
        if a.dim() == 4 and a.std() > 0
    )


def test_study_images_are_spread_over_the_held_out_part(runs):
    from snetlib.data.loaders import load_slices

    config = json.loads((runs['stagger', 0] / 'config.json').read_text())
    held = load_slices('phantom', part='test', size=64)
    full = [i for i, l in enumerate(held.labels) if l.any()]
    got = study.study_images(config, 3)
    for x, i in zip(got['x'], (full[0], full[round((len(full) - 1) / 2)], full[-1])):
        assert torch.equal(x, held[i][0])


def test_spectral_entropy_knows_neither_scale_nor_rotation():
    g = torch.Generator().manual_seed(0)
    a = torch.randn(3, 5, 16, 16, generator=g) * torch.tensor([1.0, 2, 3, 0.5, 0.1])[:, None, None]
    q = torch.linalg.qr(torch.randn(5, 5, generator=g))[0]
    h = study.spectral_entropy(a)
    p = np.array([1, 4, 9, 0.25, 0.01])
    p /= p.sum()
    assert (
        abs(h - -(p * np.log2(p)).sum()) < 0.05
        and np.isclose(study.spectral_entropy(7 * a + 2), h, atol=1e-4)
        and np.isclose(study.spectral_entropy(torch.einsum('bchw,cd->bdhw', a, q)), h, atol=1e-4)
    )


def test_recovered_is_what_an_invertible_map_keeps_and_does_not_reward_memory():
    g = torch.Generator().manual_seed(0)
    a = torch.randn(4, 3, 8, 8, generator=g)
    assert study.recovered(torch.einsum('bchw,cd->bdhw', a, torch.randn(3, 3, generator=g)) + 5, a) > 0.999
    assert study.recovered(torch.randn(4, 120, 8, 8, generator=g), a) < 0, (
        'many channels of noise fit half of the images and fail on the others'
    )
    assert study.recovered(a, torch.nn.functional.avg_pool2d(a, 2)) > 0.999, 'compared on the coarser grid'
    for bad in ((a[:1], a[:1]), (a, a[:3])):
        with pytest.raises(SnetError):
            study.recovered(*bad)


def test_information_has_every_run_twice_and_no_folder(runs, measured, tmp_path):
    assert (
        measured.groupby(['fusion', 'seed', 'weights']).size().eq(41).all()
        and measured.groupby(['fusion', 'seed', 'weights']).ngroups == 8
    )
    assert (
        not measured.astype(str)
        .apply(lambda c: c.str.contains(str(runs['stagger', 0].parent), regex=False))
        .any(axis=None)
    )
    fresh = (
        measured[(measured.weights == 'untrained') & (measured.kind == 'pair')]
        .set_index(['seed', 'a', 'b'])
        .sort_index()
    )
    s, u = (fresh[fresh.fusion == f].kl for f in ('stagger', 'unstagger'))
    assert np.allclose(s, u) and not np.allclose(s[0], s[1]), (
        'untrained branches depend on the seed and not on the pairing'
    )
    with pytest.raises(SnetError, match='There is no run'):
        study.information([])
    with pytest.raises(SnetError, match='no run'):
        study.information([tmp_path])


def test_claims_follow_the_numbers(measured):
    t = measured.copy()

    def at(c, v):
        return (t.kind == 'pair') & (t.a == c) & (t.b == v)

    for c, v, kl in (
        ('CNN3', 'ViT1', 1.0),
        ('CNN4', 'ViT2', 2.0),
        ('CNN1', 'ViT1', 3.0),
        ('CNN2', 'ViT2', 5.0),
    ):
        t.loc[at(c, v), 'kl'] = kl
    t.loc[at('CNN1', 'ViT1') & (t.seed == 1) & (t.weights == 'trained'), 'kl'] = -9
    claims = study.paper_claims(t)
    key = 'stagger pairs diverge less than the lower ones', 'kl'
    row = claims.set_index(['claim', 'measure']).loc[key]
    assert np.isclose(row.untrained_mean, -2.5) and np.isclose(row.trained_mean, 0.5)
    assert (row.untrained_agree, row.untrained_n) == (1, 1), 'equal untrained networks count once'
    assert (row.trained_agree, row.trained_n) == (2, 4)
    text = study.claims_text(claims).set_index(['claim', 'measure']).loc[key]
    assert text.untrained.startswith('-2.500') and text.trained.startswith('+0.500')
    assert text['untrained verdict'] == 'holds (1 of 1)'
    assert text['trained verdict'] == 'differs between runs (2 of 4)'
    older = study.paper_claims(t.drop(columns='w1'))
    assert len(older) == len(claims) - 2, 'a measure that a recorded table lacks is left out'
    with pytest.raises(SnetError, match='both fusions'):
        study.paper_claims(
            t[((t.fusion == 'stagger') & (t.seed == 0)) | ((t.fusion == 'unstagger') & (t.seed == 1))]
        )
    with pytest.raises(SnetError, match='no FEB'):
        study.paper_claims(t[t.a != 'FEB2'])


# --- panels without a browser


def test_a_drag_draws_few_pictures_and_always_the_last():
    p = W.EntropyAreas(wait=0.3)
    for k in range(60):
        p.set(dependence=k / 60)
    time.sleep(2.5)  # the timer's picture, without a flush
    assert p.drawn < 30 and p.image.value == p.render(p.values), 'the picture must belong to the last value'


def test_picture_follows_values_and_no_figure_is_left():
    p = W.Regimes()
    first = p.picture()
    p.set(n=7)
    assert p.picture() != first and p.values['case'] == 2 and plt.get_fignums() == []


def test_where_nothing_runs_a_panel_is_its_picture():
    p = W.Regimes()
    data, how = p._repr_mimebundle_()
    assert base64.b64decode(data['image/png']) == p.picture()
    assert how['image/png'] == {'width': 640}
    assert 'application/vnd.jupyter.widget-view+json' in data, 'JupyterLab shows the controls'
    p.set(b=6)  # more than a: there is nothing to draw
    assert 'image/png' not in p._repr_mimebundle_()


@pytest.mark.parametrize('flip', [(1, 1, 1), (-1, 1, 1), (-1, -1, 1), (1, 1, -1)])
def test_viewer_hangs_every_orientation_alike(tmp_path, flip):
    "One bright voxel in the patient's right, front, upper part appears left and above, in any file."
    a = np.zeros((12, 10, 8), np.float32)
    a[9, 8, 6] = 1  # RAS: right, front, up
    data, affine = a[tuple(slice(None, None, f) for f in flip)], np.diag([*(2.0 * f for f in flip), 1.0])
    for i, f in enumerate(flip):
        affine[i, 3] = 0 if f > 0 else 2.0 * (a.shape[i] - 1)
    nib.save(nib.Nifti1Image(data, affine), tmp_path / 'v.nii.gz')
    v = W.VolumeViewer(tmp_path / 'v.nii.gz', level=0.5, width=1.0)
    v.set(z=6)
    im = np.asarray(Image.open(io.BytesIO(v.picture())))[..., 0]
    r, c = (np.argwhere(im > 128).mean(0) / im.shape).tolist()
    assert c < 0.4 and r < 0.4
    v.set(z=5)
    assert np.asarray(Image.open(io.BytesIO(v.picture()))).max() < 128


def test_viewer_with_a_run_and_with_files_that_do_not_fit(tmp_path):
    hu, label, spacing = abdomen_ct(0, (4, 40, 40))
    image, mask = write_nifti_pair(tmp_path, 'a', hu, label, spacing)
    _, other = write_nifti_pair(tmp_path, 'b', hu[:3], label[:3], spacing)
    from snetlib.train.run import Run

    net = create_model('snet_tiny', c_in=1, n_out=2)
    torch.save(net.state_dict(), tmp_path / 'best.pth')
    window = {'kind': 'window', 'lo': -125, 'hi': 275}
    about = dict(class_names=['background', 'x'], intensity=window, c_in=1, n_out=2)
    config = dict(model='snet_tiny', model_kwargs={}, data=about, recipe=dict(size=32, ignore_index=None))
    config |= dict(dataset='folder', root=str(tmp_path), data_kwargs={}, seed=0)
    (tmp_path / 'config.json').write_text(json.dumps(config))
    run = Run(tmp_path)
    v = W.VolumeViewer(image, mask, model=run)
    v.set(show_model=True)
    v.throttle.flush()  # on a busy machine the picture comes later
    assert v.values['pred'].shape == (40, 40) and len(v.predictions) == 1
    v.set(opacity=0.1)
    v.throttle.flush()
    assert len(v.predictions) == 1, 'a slice is predicted once'
    with pytest.raises(SnetError):
        W.VolumeViewer(image, other)
    with pytest.raises(SnetError):
        W.VolumeViewer(Case('x', np.full((1, 4, 4), np.nan, np.float32)))


# --- the exercises


CASES = [(page, *e) for page in PAGES for e in exercises(page)]


@pytest.mark.parametrize('page,title,code,solution', CASES, ids=[f'{c[0][:2]} {c[1]}' for c in CASES])
def test_exercise(page, title, code, solution):
    ns = dict(vars(importlib.import_module(PAGES[page])))
    ns |= dict(create_model=create_model)
    ns |= dict(divergence=figures.divergence, heat_map=figures.heat_map)
    tree = ast.parse(code)
    call = tree.body.pop().value
    assert call.func.id == 'self_check'
    check, answer = (compile(ast.Expression(a), page, 'eval') for a in call.args)
    exec(compile(tree, page, 'exec'), ns)
    hint = assess(eval(check, ns), eval(answer, ns))
    assert hint.startswith('not yet: ') and 'your code stopped' not in hint and len(hint) > 30, hint
    exec(solution, ns)
    assert assess(eval(check, ns), eval(answer, ns)) == 'solved'


@pytest.mark.parametrize('page', PAGES)
def test_page_reads_like_a_course(page):
    text = text_of_page(page)
    assert 1 <= len(exercises(page)) <= 5
    assert 'reading time' in text and 'prerequisites' in text and '## Recap' in text
