"Every recipe value that no run can have is refused by `get_recipe` in one sentence with its key."

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import squares
from torch import nn

from snetlib.core import BadSetting, SnetError
from snetlib.data import Source
from snetlib.data.loaders import slice_dls
from snetlib.data.sets.folder import write_phantom
from snetlib.data.slices import Slices
from snetlib.train import fit_recipe, snet_learner, train_run
from snetlib.train.callbacks import Precision
from snetlib.train.learner import make_loss
from snetlib.train.recipes import (
    EFFECTS,
    EXTRA_KEYS,
    OPTIONAL_KEYS,
    RECIPES,
    RULES,
    SYNAPSE_PAPER,
    TRUE_ANYWAY,
    get_recipe,
    idle_lines,
    set_lines,
)
from snetlib.train.run import run_config, run_learner

NAN = float('nan')
WRONG = dict(
    clip=[-1, 'a', NAN],
    steps=[-1, 0, 1.5, 'a'],
    seconds=[-1, 0, NAN, 'a'],
    valid_every=[0, -1, 1.5, None],
    epochs=[0, -1, 1.5, '3', None, True],
    bs=[0, 2.5, None],
    lr=[0, -1, 'abc', NAN, None, float('inf')],
    lr_end=[-1, 'a'],
    momentum=[1, 2, -0.1, 'a'],
    wd=[-1, None],
    power=[-1, 'a'],
    warmup=[-0.1, 1, 'a'],
    dice=[-3, 'a'],
    bce=[-1, 'a'],
    num_workers=[-1, 0.5],
    size=[0, -5, [64], 64.5, [64, 0], 'a'],
    ignore_index=['a', -1, 1.5],
    compile=['yes', 1],
    channels_last=['yes'],
    patience=[0, -1, 1.5, 'a'],
    class_weights=[3, [], [1], [-1, 1], [0, 0], 'ab'],
    init=[''],
    every=[0, 1.5, 'a'],
    drop=[0, 1, 2, 'a'],
    schedule_epochs=[0, 1.5],
    clip_value=[0, -1, 'a'],
    multi_scale=[0.75, [], [0], ['a']],
    weighting=['paper', 'released'],
    squared=['a', 0],
    background=['a', 1],
    augment=[{'hflip': 'x'}, 3, {'hflip': 7}, 'snett', {'flip': 1}],
    opt=['sdg', None],
    schedule=['cosine', 'drops', 'cosine_restarts'],
    loss=['dice', 'structures'],
    pixel=['tanh'],
    precision=['float8'],
)


@pytest.mark.parametrize(['key', 'value'], [(k, v) for k, values in WRONG.items() for v in values])
def test_is_refused(key, value):
    with pytest.raises(SnetError) as e:
        get_recipe('smoke', **{key: value})
    assert '\n' not in str(e.value)
    if key in RULES:
        assert isinstance(e.value, BadSetting)
        assert e.value.key == key


def test_a_recipe_can_be_written_down():
    recipe = get_recipe('smoke', lr=np.float32(0.5), epochs=np.int64(2), init=Path('runs/a'))
    assert json.loads(json.dumps(recipe)) == recipe | dict(init='runs/a', lr=0.5, epochs=2)


@pytest.mark.parametrize('change', [dict(dice=0.5), dict(pixel='sigmoid')])
def test_lines_of_another_loss_are_refused(change):
    with pytest.raises(BadSetting) as e:
        get_recipe('smoke', loss='ce', **change)
    assert e.value.key in change


def test_both_halves_cannot_be_off():
    with pytest.raises(BadSetting, match='bce and dice'):
        get_recipe('smoke', bce=0, dice=0)


@pytest.mark.parametrize('name', RECIPES)
def test_named_recipes_are_fine_and_keep_their_lines(name):
    recipe = get_recipe(name)
    assert get_recipe(recipe) == recipe
    off = 'patience class_weights init multi_scale weighting drop squared background'.split()
    off = set(off) - set(RECIPES[name])
    assert not off & set(recipe), 'off lines are not mentioned'


def test_good_values_pass():
    lines = dict(size=(64, 96), steps=3, seconds=0.5, patience=2, class_weights=[1, 0.5], init='runs/a')
    recipe = get_recipe('smoke', **lines)
    assert {k: recipe[k] for k in lines} == lines


IDLE = [  # what is set, and the line of it that changes nothing
    (dict(every=3), 'every'),
    (dict(drop=0.5), 'drop'),
    (dict(schedule_epochs=9), 'schedule_epochs'),
    (dict(weighting='released'), 'weighting'),
    (dict(loss='structure', class_weights=[1, 2]), 'class_weights'),
    (dict(loss='structure', pixel='softmax'), 'pixel'),
    (dict(loss='structure', bce=0.6), 'bce'),
    (dict(bce=0, class_weights=[1, 2]), 'class_weights'),
    (dict(loss='ce', bce=0.6), 'bce'),
    (dict(loss='ce', squared=False), 'squared'),
    (dict(dice=0, background=False), 'background'),
    (dict(epochs=9, schedule='cosine_restarts', every=2, drop=0.5), 'drop'),
    (dict(schedule='cosine_restarts', every=2), 'every'),
    (dict(schedule='constant', power=0.9), 'power'),
    (dict(schedule='constant', lr_end=0), 'lr_end'),
    (dict(power=0, lr_end=0.01), 'lr_end'),
    (dict(lr=0.1, lr_end=0.1, power=2), 'power'),
    (dict(epochs=5, schedule='drops', every=5, drop=0.5), 'drop'),
    (dict(steps=10, epochs=2), 'epochs'),
    (dict(epochs=1, valid_every=2), 'valid_every'),
    (dict(epochs=4, valid_every=2, patience=1), 'patience'),
    (dict(augment=dict(hflip=0.5, warp_p=0.5)), 'augment'),
    (dict(augment=dict(hflip=0.5, intensity_p=0.5)), 'augment'),
]


@pytest.mark.parametrize(['lines', 'key'], IDLE, ids=str)
def test_a_line_that_changes_nothing_is_refused_where_it_was_set(lines, key):
    for call in (
        lambda: get_recipe('smoke', **lines),
        lambda: get_recipe(lines | dict(epochs=lines.get('epochs', 1))),
    ):
        with pytest.raises(BadSetting, match='changes nothing') as e:
            call()
        assert e.value.key == key and 'leave it out' in str(e.value) and '\n' not in str(e.value)


@pytest.mark.parametrize('name', RECIPES)
@pytest.mark.parametrize(
    'change',
    [
        dict(schedule='constant'),
        dict(schedule='poly'),
        dict(loss='ce'),
        dict(loss='structure'),
        dict(opt='adam'),
        dict(steps=5),
        dict(epochs=1),
        dict(dice=0, loss='ce'),
    ],
    ids=str,
)
def test_what_is_inherited_may_be_idle(name, change):
    "A change of one line leaves others of a named recipe without effect; nobody set those."
    recipe = get_recipe(name, **change)
    assert get_recipe(recipe) == get_recipe(json.loads(json.dumps(recipe))) | dict(recipe) == recipe
    assert {k: v for k, v in recipe.items() if k in change} == change
    assert get_recipe({**RECIPES[name], **change}) == recipe


def test_a_line_set_before_is_refused_with_the_change_that_makes_it_idle():
    recipe = get_recipe('smoke', power=0.5)
    with pytest.raises(BadSetting) as e:
        get_recipe(recipe, schedule='constant')
    assert e.value.key == 'power' and 'power' not in set_lines(recipe | dict(power=0.9), {})


def test_a_small_dictionary_was_written_by_somebody():
    assert get_recipe(dict(loss='ce', dice=0, pixel='softmax', bce=1.0))['dice'] == 0
    with pytest.raises(BadSetting) as e:
        get_recipe(dict(loss='ce', dice=0.4))
    assert e.value.key == 'dice'


def test_every_line_has_a_row():
    assert set(EFFECTS) == {*EXTRA_KEYS, *OPTIONAL_KEYS, *(k for r in RECIPES.values() for k in r)}
    for key, (decided, _) in EFFECTS.items():
        assert set(decided) <= set(EFFECTS) - {key}


def test_rivals_have_the_settings_of_their_authors():
    assert get_recipe('ctcnet')['momentum'] == 0.99
    assert get_recipe('pranet')['multi_scale'] == (0.75, 1, 1.25)
    assert 'clip_value' not in get_recipe('cfanet')
    assert get_recipe('uctransnet')['opt'] == 'adam'


@pytest.mark.parametrize('key', ['squared', 'background'])
def test_lines_of_the_dice_half_change_the_loss(key):
    logits, targ = torch.randn(2, 3, 8, 8), torch.randint(0, 3, (2, 8, 8))
    usual, other = make_loss(get_recipe('smoke')), make_loss(get_recipe('smoke', **{key: False}))
    assert not torch.equal(usual(logits, targ), other(logits, targ))
    assert torch.equal(usual(logits, targ), make_loss(get_recipe('smoke', **{key: True}))(logits, targ))


class Tiny(nn.Module):
    "Two convolutions; two outputs in training."

    def __init__(self, c_in=1, n_out=2):
        super().__init__()
        self.first, self.last = nn.Conv2d(c_in, 4, 3, padding=1), nn.Conv2d(4, n_out, 1)

    def forward(self, x):
        y = self.last(self.first(x).relu())
        return (y, y) if self.training else y


@cache
def trained(written):
    "What a run leaves behind: its weights, its log without the seconds, and the rate of every step."
    dls = slice_dls(*(squares(n, seed, side=16, of_a_case=1) for seed, n in enumerate((8, 4))), bs=4)
    torch.manual_seed(0)
    learn = fit_recipe(snet_learner(dls, Tiny(), json.loads(written), progress=False))
    weights = {k: v.tolist() for k, v in learn.model.state_dict().items()}
    log = [{k: v for k, v in row.items() if k != 'seconds'} for row in learn.checkpoint.history]
    return json.dumps([weights, log, learn.schedule.rates])


FROM = get_recipe('smoke', epochs=3, bs=4, size=16, augment='none', precision='float32', clip=0)
BESIDE = dict(  # the same recipe with other lines, beside which each line is tried
    plain={},
    constant=dict(schedule='constant'),
    cosine=dict(schedule='cosine_restarts', every=2),
    cosine_flat=dict(schedule='cosine_restarts', every=2, lr_end=0.05),
    cosine_each=dict(schedule='cosine_restarts', every=1),
    cosine_of_one=dict(schedule='cosine_restarts', every=2, epochs=1),
    drops=dict(schedule='drops', every=1, drop=0.5),
    drops_later=dict(schedule='drops', every=3, drop=0.5),
    drops_longer=dict(schedule='drops', every=3, drop=0.5, schedule_epochs=9),
    compounding=dict(schedule='compounding_drops', every=1, drop=0.5),
    steps=dict(steps=5),
    steps_by_epoch=dict(steps=5, schedule='drops', every=1, drop=0.5),
    steps_by_epochs_of=dict(steps=5, schedule='drops', every=1, drop=0.5, schedule_epochs=4),
    one_epoch=dict(epochs=1),
    two_epochs=dict(epochs=2, valid_every=1),
    late=dict(epochs=4, valid_every=2),
    no_power=dict(power=0),
    flat=dict(lr_end=0.05),
    ce=dict(loss='ce'),
    structure=dict(loss='structure'),
    dice_alone=dict(bce=0),
    pixels_alone=dict(dice=0),
    adam=dict(opt='adam', lr=1e-3),
)
TWO = dict(  # two values of each line that decides by itself how these slices are trained
    epochs=(2, 4),
    steps=(3, 5),
    seconds=(1e-9, 1e6),
    valid_every=(1, 2),
    opt=('sgd', 'adam'),
    momentum=(0.5, 0.9),
    wd=(0, 0.1),
    lr=(0.05, 0.1),
    schedule=('poly', 'constant'),
    power=(0.9, 2),
    lr_end=(0, 0.01),
    warmup=(0, 0.5),
    clip=(0, 1e-3),
    clip_value=(1e-4, 1e-3),
    multi_scale=((1, 2), (2,)),
    loss=('snet', 'ce'),
    bce=(0.6, 0.3),
    dice=(0.4, 0.1),
    pixel=('softmax', 'sigmoid'),
    class_weights=([1, 5], [5, 1]),
    squared=(True, False),
    background=(True, False),
    weighting=('released', 'published'),
    every=(1, 2),
    drop=(0.5, 0.1),
    schedule_epochs=(2, 12),
    patience=(1, 9),
)
STANDS_STILL = dict(lr=1e-9, lr_end=0)  # no epoch is better than the first


def tried(lines, key, value):
    "(recipe as JSON, whether the line is refused)."
    base = SYNAPSE_PAPER | FROM | lines | (STANDS_STILL if key == 'patience' else {})
    full = {**base, key: value}
    return json.dumps(full), key in idle_lines(full)


FLAT = ('no_power', 'flat', 'cosine_flat')  # one rate throughout, as with the schedule constant


@pytest.mark.parametrize(
    ['key', 'beside'], [(k, b) for k in TWO for b in BESIDE if not (k == 'schedule' and b in FLAT)]
)
def test_two_values_train_differently_or_are_refused(key, beside, monkeypatch):
    "Both ways: what is refused would have changed nothing, and what is taken does something."
    monkeypatch.setattr('snetlib.train.recipes.check_used', lambda recipe, lines: None)
    (a, idle_a), (b, idle_b) = (tried(BESIDE[beside], key, value) for value in TWO[key])
    same = trained(a) == trained(b)
    assert same == (idle_a or idle_b)
    if idle_a != idle_b:  # one of the two only tells what is so anyway
        assert TRUE_ANYWAY[json.loads(a)['loss']][key] in TWO[key]


DATA = dict(  # two values of each line that decides what a network is shown, or begins with
    bs=(2, 4),
    size=(32, 64),
    augment=('none', 'flips'),
    neighbours=(None, 1),
    ignore_index=(None, 255),  # of what a turn brings in from outside
    init=(None, 'other'),
)


@pytest.fixture(scope='module')
def first_runs(tmp_path_factory):
    "A function that trains two steps on pictures: the weights, as bytes."
    out = tmp_path_factory.mktemp('runs')
    write_phantom(out / 'data', n=10)

    def weights(name, **lines):
        source = Source('folder', out / 'data', cache=False)
        settings = dict(size=32, bs=4, augment={'rotate': 40}, steps=2, precision='float32') | lines
        settings['init'] = out / 'other' if settings.get('init') else None
        learn = train_run(out / name, source, 'unet_tiny', 'smoke', progress=False, **settings)
        return [v.numpy().tobytes() for v in learn.model.state_dict().values()]

    weights('other', lr=0.01)
    return weights


@pytest.mark.parametrize('key', DATA)
def test_two_values_of_the_data_train_differently(key, first_runs):
    a, b = (first_runs(f'{key}{i}', **{key: value}) for i, value in enumerate(DATA[key]))
    assert a != b


def how(**lines):
    "How a network is trained: the order of its weights in memory, its type, its number format, its readers."
    grey = Slices(np.zeros((4, 32, 32), np.float32), np.zeros((4, 32, 32), np.uint8), 'abcd', ('a', 'b'))
    config = run_config('phantom', 'unet_tiny', get_recipe(FROM | dict(bs=2), **lines))
    learn = run_learner('run', config, [grey, grey], 'cpu', progress=False)
    strides = [p.stride() for p in learn.model.parameters()]
    formats = [cb.dtype for cb in learn.cbs if isinstance(cb, Precision)]
    return strides, type(learn.model).__name__, formats, learn.dls.train.fake_l.num_workers


@pytest.mark.parametrize(
    ['key', 'values'],
    dict(
        channels_last=(True, False),
        compile=(True, False),
        precision=('float32', 'bfloat16'),
        num_workers=(0, 1),
    ).items(),
)
def test_two_values_of_how_are_done(key, values):
    a, b = (how(**{key: value}) for value in values)
    assert a != b


def test_no_line_is_left_out_of_these_tests():
    assert {*TWO, *DATA, 'channels_last', 'compile', 'precision', 'num_workers'} == set(EFFECTS)
