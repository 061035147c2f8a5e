"Every recipe value that no run can have is refused by `get_recipe` in one sentence with its key."

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from snetlib.core import BadSetting, SnetError
from snetlib.train.learner import make_loss
from snetlib.train.recipes import RECIPES, RULES, get_recipe

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
    drop=[0, 2, 'a'],
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


def test_numbers_that_change_nothing_are_refused():
    wrong = [dict(every=3), dict(drop=0.5), dict(weighting='released')]
    wrong += [
        dict(loss='structure', class_weights=[1, 2]),
        dict(loss='ce', squared=False),
        dict(dice=0, background=False),
        dict(schedule='cosine_restarts', every=2, drop=0.5),
    ]
    for lines in wrong:
        with pytest.raises(BadSetting, match='changes nothing'):
            get_recipe('smoke', **lines)


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
