"A run's folder: continued on the same images, refused on others, opened whatever wrapped its weights."

import json

import numpy as np
import pytest
import torch
from PIL import Image
from processes import refused, snet
from torch import nn

from snetlib.cli import at_home, main, parse_settings
from snetlib.core import BadSetting, NotAtHand, SnetError, UnreadableFile, WrongLabels
from snetlib.data import Source
from snetlib.data.loaders import slice_dls
from snetlib.data.sets.folder import write_phantom
from snetlib.data.slices import Slices
from snetlib.predict.predictor import find_images, predict_volume
from snetlib.train import Run, fit_recipe, train_run
from snetlib.train.checkpoint import DamagedFile, load_tensors, same_weights, save_tensors
from snetlib.train.distributed import ProcessLost, check_device, connection_lost
from snetlib.train.recipes import get_recipe
from snetlib.train.run import FolderInUse, as_source

LINES = dict(size=32, steps=2, precision='float32', progress=False)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp('data')
    write_phantom(out, n=10)
    return out


@pytest.fixture
def run(data, tmp_path):
    train_run(tmp_path / 'run', Source('folder', data, cache=False), 'snet_tiny', 'smoke', **LINES)
    return tmp_path / 'run'


def again(run, data, **kw):
    settings = LINES | dict(resume=True) | kw
    return train_run(run, Source('folder', data, cache=False), 'snet_tiny', 'smoke', **settings)


def test_a_folder_in_use_is_refused_by_type(run, data):
    with pytest.raises(FolderInUse) as e:
        again(run, data, resume=False)
    assert e.value.path == run


def test_a_run_killed_between_its_state_and_its_logs_gets_its_last_row(run, data):
    logs = [run / name for name in ('log.csv', 'log.txt')]
    whole = [log.read_text() for log in logs]
    for log, text in zip(logs, whole):
        log.write_text(''.join(text.splitlines(True)[:-1]))
    again(run, data)
    assert [log.read_text() for log in logs] == whole


@pytest.mark.parametrize('change', [dict(seed=1), dict(lr=0.01), dict(model_kwargs={'gab': False})])
def test_other_settings_are_named(run, data, change):
    with pytest.raises(BadSetting, match=next(iter(change))):
        again(run, data, **change)


def test_other_images_at_the_same_place_are_refused(run, data, tmp_path):
    copy = tmp_path / 'data'
    write_phantom(copy, n=14)
    with pytest.raises(BadSetting, match='other images') as e:
        again(run, copy)
    assert e.value.key == 'data'


def test_other_images_in_a_learner_at_hand_are_refused_as_in_a_run(data, tmp_path):
    "The same sentence, whether the folder is opened anew or a learner in memory was given other loaders."
    write_phantom(tmp_path / 'other', n=14)
    learn = train_run(tmp_path / 'run', Source('folder', data, cache=False), 'snet_tiny', 'smoke', **LINES)
    assert fit_recipe(learn, resume=True) is learn
    other = Source('folder', tmp_path / 'other', cache=False)
    learn.dls = slice_dls(*(other.slices(part, (32, 32)) for part in ('train', 'valid')), bs=4)
    with pytest.raises(BadSetting) as in_memory:
        fit_recipe(learn, resume=True)
    with pytest.raises(BadSetting) as anew:
        again(tmp_path / 'run', tmp_path / 'other')
    assert in_memory.value.key == anew.value.key == 'data'
    assert str(in_memory.value) == str(anew.value)


def test_moved_images_go_on(run, data, tmp_path):
    copy = tmp_path / 'moved'
    write_phantom(copy, n=10)
    learn = again(run, copy)
    assert same_weights(learn.model, Run(run, 'last', 'cpu').model())


def test_an_early_run_without_a_label_for_unknown_goes_on(run, data):
    path = run / 'config.json'
    config = json.loads(path.read_text())
    assert config['recipe'].pop('ignore_index') is None
    path.write_text(json.dumps(config))
    assert Run(run).ignore_index is None
    learn = again(run, data)
    assert same_weights(learn.model, Run(run, 'last', 'cpu').model())


def test_an_early_run_with_an_idle_line_goes_on(data, tmp_path):
    "Early versions took a line that changes nothing; it is no difference now."
    quiet = dict(schedule='constant')
    source, run = Source('folder', data, cache=False), tmp_path / 'run'
    train_run(run, source, 'snet_tiny', 'smoke', **quiet, **LINES)
    config = json.loads((run / 'config.json').read_text())
    config['recipe']['power'] = 2.0
    (run / 'config.json').write_text(json.dumps(config))
    learn = again(run, data, **quiet)
    assert same_weights(learn.model, Run(run, 'last', 'cpu').model())
    with pytest.raises(BadSetting, match='warmup'):
        again(run, data, warmup=0.5, **quiet)


def test_more_epochs_are_another_recipe_and_named(run, data):
    with pytest.raises(BadSetting, match='epochs'):
        again(run, data, epochs=2)


def test_the_text_log_has_a_line_for_each_epoch(run):
    lines = (run / 'log.txt').read_text().splitlines()
    assert len(lines) == len(Run(run).history()) == 2
    assert lines[0].startswith('epoch 0 train_loss')


MINE = """
from pathlib import Path
from torch import nn

Path(__file__).with_name('was_run').touch()

def build(c_in, n_out, width=8):
    first = nn.Conv2d(c_in, width, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), nn.Conv2d(width, n_out, 1))

def number(c_in, n_out):
    return 3
"""


def test_a_network_from_a_file_runs_only_where_it_is_named(data, tmp_path):
    own, run, marker = tmp_path / 'mine.py', tmp_path / 'run', tmp_path / 'was_run'
    own.write_text(MINE)
    model, settings = f'{own}:build', dict(model_kwargs=dict(width=4), **LINES)
    source = Source('folder', data, cache=False)
    learn = train_run(run, source, model, 'smoke', **settings)
    assert Run(run).config['model'] == 'mine.py:build' and marker.exists()
    marker.unlink()
    with pytest.raises(BadSetting, match='network of its own') as e:
        Run(run).model()
    Image.new('L', (40, 40)).save(tmp_path / 'p.png')
    predict = 'predict', run, tmp_path / 'p.png', '--out', tmp_path / 'masks'
    refused(snet(*predict), '--model')
    assert e.value.key == 'model' and not marker.exists(), 'a config.json runs nothing'
    assert same_weights(Run(run, 'last', 'cpu', model).model(), learn.model)
    assert snet(*predict, '--model', model).returncode == 0
    again = train_run(run, source, model, 'smoke', resume=True, **settings)
    assert same_weights(again.model, learn.model)
    own.write_text(MINE + '# changed')
    with pytest.raises(BadSetting, match='model_file'):
        train_run(run, source, model, 'smoke', resume=True, **settings)


def test_a_registered_network_needs_no_file(run, tmp_path):
    with pytest.raises(BadSetting, match='leave it out'):
        Run(run, network=f'{tmp_path}/mine.py:build').model()


@pytest.mark.parametrize(
    'place', ['nothing.py:build', 'mine.py:other', 'mine.py:number', 'broken.py:build', 'mine:build']
)
def test_files_that_build_no_network_are_refused(place, data, tmp_path):
    (tmp_path / 'mine.py').write_text(MINE)
    (tmp_path / 'broken.py').write_text('def build(:')
    source = Source('folder', data, cache=False)
    with pytest.raises(BadSetting) as e:
        train_run(tmp_path / 'run', source, str(tmp_path / place), 'smoke', **LINES)
    assert e.value.key == 'model'


def test_tensorboard_is_asked_for_before_any_work(data, tmp_path, monkeypatch):
    monkeypatch.setattr('importlib.util.find_spec', lambda name, *rest: None)
    with pytest.raises(NotAtHand, match='tensorboard'):
        train_run(tmp_path / 'run', Source('folder', data), 'snet_tiny', 'smoke', tensorboard=True, **LINES)
    assert not (tmp_path / 'run').exists()


def test_curves_for_tensorboard_go_on_where_a_run_goes_on(data, tmp_path):
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    learn = train_run(
        tmp_path / 'run', Source('folder', data, cache=False), 'snet_tiny', 'smoke', tensorboard=True, **LINES
    )
    curves = EventAccumulator(str(tmp_path / 'run/tensorboard')).Reload()
    assert {'train_loss', 'lr_0', 'valid_dice'} <= set(curves.Tags()['scalars'])
    best = curves.Scalars('valid_dice')[-1]
    assert best.value == pytest.approx(learn.checkpoint.best, abs=1e-6)
    assert best.step == learn.train_iter == LINES['steps']


def test_a_damaged_config_is_named(run, data):
    (run / 'config.json').write_text('{"dataset"')
    for ask in (lambda: again(run, data), lambda: Run(run).config, lambda: Run(run).model()):
        with pytest.raises(UnreadableFile) as e:
            ask()
        assert e.value.path == run / 'config.json'


@pytest.mark.parametrize(
    'change',
    [
        lambda c: c.pop('model'),
        lambda c: c['data'].update(c_in={}),
        lambda c: c['data'].update(class_names='abc'),
        lambda c: c['recipe'].update(size=[32]),
        lambda c: c.update(model_kwargs=dict(fusion=[[]])),
        lambda c: c.update(model_kwargs=dict(no_such_keyword=1)),
    ],
)
def test_a_config_with_wrong_types_is_refused(run, change):
    config = json.loads((run / 'config.json').read_text())
    change(config)
    (run / 'config.json').write_text(json.dumps(config))
    with pytest.raises(SnetError):
        Run(run).model()


def test_weights_alone_cannot_be_continued_but_used(run, data):
    weights = load_tensors(run / 'last.pth')['model']
    save_tensors(weights, run / 'last.pth')
    with pytest.raises(DamagedFile) as e:
        again(run, data)
    assert e.value.path == run / 'last.pth'
    model = Run(run, 'last', 'cpu').model()
    assert all(torch.equal(weights[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize('prefix', ['module.', '_orig_mod.', 'module._orig_mod.'])
def test_prefixes_of_wrappers_come_off(run, data, prefix):
    state = load_tensors(run / 'last.pth')
    before = Run(run, 'last', 'cpu').model()
    state['model'] = {prefix + k: v for k, v in state['model'].items()}
    save_tensors(state, run / 'last.pth')
    assert same_weights(Run(run, 'last', 'cpu').model(), before)
    assert same_weights(again(run, data).model, before)


def test_what_is_missing_is_named(run, tmp_path):
    with pytest.raises(UnreadableFile) as e:
        Run(tmp_path / 'nothing').model()
    assert e.value.path == tmp_path / 'nothing'
    (run / 'best.pth').unlink()
    with pytest.raises(UnreadableFile) as e:
        Run(run).model()
    assert e.value.path == run / 'best.pth'
    with pytest.raises(UnreadableFile):
        Run(run).scores()


@pytest.mark.parametrize(
    'ask',
    dict(
        folder=lambda run: Run(None),
        device=lambda run: Run(run, device='gpu').model(),
        model=lambda run: train_run(run / 'new', 'phantom', torch.nn.Conv2d(1, 2, 1), 'smoke', **LINES),
    ).items(),
    ids=lambda ask: ask[0],
)
def test_what_names_no_run_is_refused(ask, run):
    with pytest.raises(BadSetting) as e:
        ask[1](run)
    assert e.value.key == ask[0]


def test_a_lost_best_epoch_is_said(run, data):
    (run / 'best.pth').unlink()
    with pytest.warns(UserWarning, match='best.pth'):
        learn = again(run, data)
    assert learn.checkpoint.best == -1


def test_weights_in_a_larger_module_are_found(run):
    "As Lightning keeps them: under the key state_dict, and under one name."
    net = Run(run, 'last', 'cpu').model()
    state = {f'model.{k}': v for k, v in net.state_dict().items()}
    save_tensors(dict(state_dict=state, epoch=3), run / 'last.pth')
    assert same_weights(Run(run, 'last', 'cpu').model(), net)


def test_weights_of_another_network_are_refused(run):
    config = json.loads((run / 'config.json').read_text())
    (run / 'config.json').write_text(json.dumps(config | dict(model='snet_small')))
    with pytest.raises(BadSetting, match='another network'):
        Run(run, 'last').model()


@pytest.mark.parametrize(
    'settings',
    [
        dict(model_kwargs={'dropout': 0.1}),
        dict(data_kwargs={'fold': 1}),
        dict(seed=-1),
        dict(seed='a'),
        dict(device='gpu'),
    ],
    ids=str,
)
def test_settings_that_no_run_has(settings, tmp_path):
    with pytest.raises(BadSetting) as e:
        train_run(tmp_path / 'run', 'phantom', 'snet_tiny', 'smoke', **LINES, **settings)
    assert e.value.key
    assert not (tmp_path / 'run' / 'last.pth').exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_cuda_without_a_gpu():
    with pytest.raises(SnetError, match='no GPU'):
        check_device('cuda')


def raised(f):
    with pytest.raises(RuntimeError) as e:
        f()
    return e.value


def test_a_lost_connection_is_told_by_where_it_was_raised():
    own = raised(lambda: torch.zeros(2) @ torch.zeros(3))
    named_like_one = raised(lambda: (_ for _ in ()).throw(RuntimeError('gloo: connection closed by peer')))
    typed = torch.distributed.DistNetworkError('no words')
    assert not connection_lost(own)
    assert not connection_lost(named_like_one)
    assert connection_lost(typed)
    assert '--' not in str(ProcessLost())


def test_history_and_scores_are_tables(run):
    assert Run(run).history()['epoch'].is_monotonic_increasing
    (run / 'scores').mkdir()
    (run / 'scores' / 'scores.csv').write_text('case,dice\n007,0.5\n')
    scores = Run(run).scores()
    assert scores['case'][0] == '007'
    assert np.isclose(scores['dice'][0], 0.5)


def test_a_call_of_an_older_script(data, tmp_path):
    "Name, folder and settings one by one mean the same source."
    settings = LINES | dict(root=data, cache=False, data_kwargs=dict(seed=3))
    train_run(tmp_path / 'older', 'folder', 'snet_tiny', 'smoke', **settings)
    assert Run(tmp_path / 'older').source == Source('folder', data, seed=3)


def test_an_older_script_may_call_the_data_set_by_keyword():
    settings = dict(dataset='folder', root='somewhere', data_kwargs=dict(seed=3), bs=2)
    assert as_source('mni', settings) == Source('folder', 'somewhere', seed=3)
    assert settings == dict(bs=2), 'what is left are lines of the recipe'


LEFT = dict(  # what a folder holds that must not be written over
    weights_without_state=lambda run: (run / 'last.pth').unlink(),
    shared_weights=lambda run: [
        (run / 'model.safetensors').touch(),
        *((run / name).unlink() for name in ('last.pth', 'best.pth', 'log.csv')),
    ],
    config_of_something_else=lambda run: [
        (run / 'config.json').write_text('{"architectures": ["Bert"]}'),
        (run / 'last.pth').unlink(),
    ],
)


@pytest.mark.parametrize('left', LEFT)
@pytest.mark.parametrize('resume', [True, False])
def test_nothing_is_written_over(left, resume, run, data):
    LEFT[left](run)
    before = {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()}
    with pytest.raises(BadSetting) as e:
        again(run, data, resume=resume)
    assert e.value.path == run
    assert {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()} == before


def test_a_run_that_was_killed_before_its_first_state_starts_anew(run, data):
    for name in ('last.pth', 'log.csv', 'log.txt'):  # best.pth is the first that an epoch writes
        (run / name).unlink()
    assert again(run, data).checkpoint.history


def test_a_run_has_a_folder_of_its_own(data, tmp_path):
    with pytest.raises(BadSetting) as e:
        train_run(data, Source('folder', data, cache=False), 'snet_tiny', 'smoke', **LINES)
    assert e.value.path == data and not (data / 'config.json').exists()
    with pytest.raises(BadSetting) as e:
        train_run(tmp_path / 'run', Source('phantom', data), 'snet_tiny', 'smoke', **LINES)
    assert e.value.key == 'data', 'a set that comes with the package reads no folder'


def test_without_held_out_cases_no_validation_is_claimed(data, tmp_path, capsys):
    split = tmp_path / 'split.txt'  # every case but one is trained on
    names = [item.id for item in Source('folder', data).items()]
    split.write_text('\n'.join(['[train]', *names[:-1], '[test]', names[-1]]) + '\n')
    arguments = ['train', 'folder', '--data', str(data), '--out', str(tmp_path / 'run'), '--recipe', 'smoke']
    arguments += [f'--data-set=split={split}', '--data-set=val=0', '--set=size=32', '--set=steps=1']
    with pytest.raises(SystemExit) as e:
        main(arguments)
    said = capsys.readouterr().out
    assert e.value.code in (None, 0) and 'no case was held out' in said and 'validation Dice' not in said
    with pytest.raises(SystemExit) as e:
        main([*arguments[:5], str(tmp_path / 'other'), *arguments[6:], '--set=patience=2'])
    assert e.value.code == 1 and 'patience' in capsys.readouterr().err


@pytest.mark.parametrize('lines', [dict(init=5), dict(init=True), dict(init='a\0b')])
def test_a_place_is_a_text(lines):
    with pytest.raises(BadSetting) as e:
        get_recipe('smoke', **lines)
    assert e.value.key == 'init'


def test_one_class_alone_is_nothing_to_learn(data, tmp_path):
    source = Source('folder', data, cache=False)
    with pytest.raises(BadSetting) as e:
        train_run(tmp_path / 'run', source, 'snet_tiny', 'smoke', ignore_index=1, **LINES)
    assert e.value.key == 'ignore_index'


@pytest.mark.parametrize(
    'key,value',
    [('epoch', 'a'), ('epoch', -3), ('best', None), ('history', 3), ('history', [3])]
    + [('opt', {}), ('model', [1]), ('used', 'x')],
)
def test_a_state_with_wrong_values_is_damaged(key, value, run, data):
    state = load_tensors(run / 'last.pth')
    save_tensors(state | {key: value}, run / 'last.pth')
    with pytest.raises(DamagedFile) as e:
        again(run, data)
    assert e.value.path == run / 'last.pth'


def test_a_file_of_weights_without_names_is_damaged(run):
    save_tensors([1, 2, 3], run / 'best.pth')
    with pytest.raises(DamagedFile):
        Run(run).model()


def test_every_input_of_predict_holds_an_image_under_a_readable_name(tmp_path):
    (tmp_path / 'empty').mkdir()
    Image.new('L', (40, 40)).save(tmp_path / 'p.png')
    with pytest.raises(UnreadableFile) as e:
        find_images([tmp_path / 'p.png', tmp_path / 'empty'])
    assert e.value.path == tmp_path / 'empty'
    with pytest.raises(BadSetting):
        find_images([tmp_path / '\udcff.png'])


@pytest.mark.parametrize('answer', [nn.Conv2d(1, 1, 1), nn.Flatten()])
def test_a_network_without_two_classes_makes_no_mask(answer):
    with pytest.raises(BadSetting) as e:
        predict_volume(answer.eval(), np.ones((1, 8, 8)))
    assert e.value.key == 'n_out'


def test_a_network_in_half_precision_predicts():
    assert predict_volume(nn.Conv2d(1, 2, 1).half().eval(), np.ones((1, 8, 8))).shape == (1, 8, 8)


def test_slices_with_fractions_or_unscaled_values_are_refused():
    x, y = np.zeros((2, 8, 8), np.float32), np.zeros((2, 8, 8), np.uint8)
    with pytest.raises(WrongLabels):
        Slices(x, y + 0.5, ['a', 'b'], ('background', 'one'))
    unscaled = Slices(x + 200, y, ['a', 'b'], ('background', 'one'))
    with pytest.raises(BadSetting) as e:
        slice_dls(unscaled, unscaled, bs=1)
    assert e.value.key == 'images'


def test_a_deep_value_and_a_home_folder_on_the_command_line(monkeypatch):
    with pytest.raises(BadSetting):
        parse_settings(['lr=' + 5000 * '['])
    monkeypatch.setenv('HOME', '/somewhere')
    assert at_home('--out=~/run') == '--out=/somewhere/run'
