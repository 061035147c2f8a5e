"fastai's Learner API on what `snet_learner` returns: each call works, or refuses in one sentence."

import json
import pickle
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from fastai.callback.core import Callback, FetchPredsCallback, GatherPredsCallback
from fastai.callback.fp16 import MixedPrecision, NonNativeMixedPrecision
from fastai.callback.mixup import CutMix, MixUp
from fastai.callback.progress import CSVLogger, ShowGraphCallback
from fastai.callback.rnn import ModelResetter
from fastai.callback.schedule import ParamScheduler, SchedLin, fine_tune, fit_one_cycle, lr_find  # noqa: F401
from fastai.callback.tracker import (
    EarlyStoppingCallback,
    ReduceLROnPlateau,
    SaveModelCallback,
)
from fastai.callback.training import GradientAccumulation, GradientClip, ShortEpochCallback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.data.transforms import Normalize, get_c
from fastai.interpret import ClassificationInterpretation, Interpretation, SegmentationInterpretation
from fastai.learner import Learner, SkipToEpoch, load_learner
from fastai.losses import (
    BCEWithLogitsLossFlat,
    CrossEntropyLossFlat,
    DiceLoss,
    LabelSmoothingCrossEntropy,
    MSELossFlat,
)
from fastai.metrics import Dice, DiceMulti, F1Score, accuracy, foreground_acc
from fastai.optimizer import SGD
from fastai.vision.core import PILImageBW
from fastai.vision.data import SegmentationDataLoaders
from networks import squares
from PIL import Image
from torch import nn

from snetlib.core import BadSetting, SnetError, UnreadableFile
from snetlib.data.loaders import slice_dls
from snetlib.data.slices import Slices
from snetlib.models import create_model
from snetlib.train import DeepSupervision, SNetLoss, fit_recipe, snet_learner
from snetlib.train.callbacks import RunProgress
from snetlib.train.checkpoint import FolderInUse, same_weights
from snetlib.train.learner import check_network, images_hash
from snetlib.weights import OtherNetwork, load_tensors, save_safetensors, save_tensors, weights_hash


class Tiny(nn.Module):
    "Two convolutions, an encoder and a head; two outputs in training."

    def __init__(self, c_in=1, n_out=2):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(c_in, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Conv2d(4, n_out, 1)

    def forward(self, x):
        y = self.head(self.encoder(x))
        return (y, y) if self.training else y


def learner(tmp_path=None, model=None, **lines):
    dls = slice_dls(squares(8), squares(4, 1), bs=4)
    settings = dict(epochs=2, precision='float32', clip=0.0) | lines
    torch.manual_seed(0)
    return snet_learner(dls, model or Tiny(), 'smoke', run=tmp_path, progress=False, size=None, **settings)


@pytest.fixture(autouse=True)
def no_pictures_left():
    yield
    plt.close('all')


def save(learn):
    learn.add_cb(SaveModelCallback(monitor='valid_dice', fname='best_model'))
    fit_recipe(learn)
    assert (learn.path / learn.model_dir / 'best_model.pth').exists()


def log_to_csv(learn):
    learn.add_cb(CSVLogger())
    fit_recipe(learn)
    rows = (learn.path / 'history.csv').read_text().splitlines()
    assert len(rows) == 1 + 2
    assert len({r.count(',') for r in rows}) == 1, 'every row has every column'


def stop_early(learn):
    learn.recipe['epochs'] = 9
    learn.add_cb(EarlyStoppingCallback(monitor='valid_dice', min_delta=2.0, patience=2))
    fit_recipe(learn)
    assert len(learn.checkpoint.history) < 9


def export(learn):
    fit_recipe(learn)
    learn.export('learner.pkl')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        again = load_learner(learn.path / 'learner.pkl')
    x = squares(1).images[0]
    assert torch.equal(again.predict(x)[0], learn.predict(x)[0])


def picture_of(learn):
    learn.path.mkdir(parents=True, exist_ok=True)
    Image.fromarray((255 * squares(1).images[0]).astype(np.uint8)).save(learn.path / 'picture.png')


def predict_file(learn):
    path = learn.path / 'picture.png'
    Image.fromarray((255 * squares(1).images[0]).astype(np.uint8)).save(path)
    assert learn.predict(path)[0].shape == (32, 32)


def fine_tuned(learn):
    before = [p.detach().clone() for p in learn.model.encoder[0].parameters()]
    learn.freeze()
    learn.fit_one_cycle(1, 1e-2)
    assert all(torch.equal(a, b) for a, b in zip(before, learn.model.encoder[0].parameters()))
    learn.fine_tune(1, 1e-2)
    assert not torch.equal(before[0], learn.model.encoder[0].weight)


def top_losses(learn):
    found = Interpretation.from_learner(learn)
    losses, places = found.top_losses()
    assert len(losses) == 4
    assert losses[0] >= losses[-1]
    found.plot_top_losses(2)
    found.show_results([0, 1])
    assert found.top_losses(1, items=True)[2][0].case in ('case0', 'case1')


def predict_picture(learn):
    values = (255 * squares(1).images[0]).astype(np.uint8)
    Image.fromarray(values).save(learn.path / 'picture.png')
    from_file = learn.predict(learn.path / 'picture.png')[2]
    assert torch.equal(learn.predict(Image.fromarray(values))[2], from_file)
    assert torch.equal(learn.predict(PILImageBW.create(values))[2], from_file)


def scheduled(learn):
    fit_recipe(learn)
    learn.recorder.plot_sched()
    assert len(learn.recorder.hps['lr']) == 4, 'one rate a step'


def their_loss(learn):
    learn.loss_func = CrossEntropyLossFlat(axis=1)
    learn.fit(1, lr=1e-3)
    targets, losses = learn.get_preds(with_loss=True)[1:]
    assert len(losses) == len(targets) == 4
    learn.loss_func = DiceLoss()
    learn.fit(1, lr=1e-3)


def first_call_writes(learn):
    assert not learn.path.exists()
    learn.add_cb(CSVLogger())
    learn.fit_one_cycle(1, 1e-3)
    learn.export()
    assert {f.name for f in learn.path.iterdir()} == {'history.csv', 'export.pkl'}


def loggable(learn):
    fit_recipe(learn)
    numbers = {key: type(x) for group in learn.opt.hypers for key, x in group.items()}
    assert numbers['lr'] is float and set(numbers.values()) == {float}


def explicit_lr(learn):
    learn.fit(2, lr=1e-3)
    assert learn.opt.hypers[-1]['lr'] == 1e-3


def own_function(learn):
    "A plain function is a loss: predictions are classes and probabilities all the same."
    learn.loss_func = lambda p, t: nn.functional.cross_entropy(p[0] if isinstance(p, tuple) else p, t)
    learn.fit(1, lr=1e-3)
    mask, _, probs = learn.predict(squares(1).images[0])
    assert mask.dtype == torch.int64 and mask.shape == (32, 32)
    assert torch.allclose(probs.sum(0), torch.ones(32, 32))
    probs, targets, losses = learn.get_preds(with_loss=True)
    by_hand = nn.functional.nll_loss(probs.log(), targets, reduction='none').mean((1, 2))
    assert torch.allclose(losses, by_hand, atol=1e-5), 'one loss an image'
    Interpretation.from_learner(learn).plot_top_losses(1)


def own_metrics(learn):
    "What chooses the best epoch stays, and the log holds plain numbers."
    learn.metrics = [Dice(), DiceMulti(), foreground_acc]
    fit_recipe(learn)
    assert (learn.path / 'best.pth').exists()
    row = learn.checkpoint.history[-1]
    assert {type(row[name]) for name in ('valid_dice', 'dice', 'foreground_acc')} <= {float, type(None)}


def validate_beside_trackers(learn):
    learn.add_cb(SaveModelCallback(monitor='valid_dice'))
    fit_recipe(learn)
    assert learn.validate()[1] == learn.checkpoint.best
    learn.lr_find(num_it=12, show_plot=False)


def predictions_while_training(learn):
    learn.add_cb(FetchPredsCallback())
    fit_recipe(learn)
    assert len(learn.checkpoint.history) == 2


def predict_numbers(learn):
    "Eight bits, a tensor with its channel first and a grey picture of three channels are one image."
    values = (255 * squares(1).images[0]).astype(np.uint8)
    expected = learn.predict(values / np.float32(255))[2]
    for item in (values, torch.from_numpy(values)[None], Image.fromarray(values).convert('RGB')):
        assert torch.allclose(learn.predict(item)[2], expected, atol=1e-6)


def confusion_of_classes(learn):
    found = ClassificationInterpretation.from_learner(learn)
    assert found.confusion_matrix().shape == (2, 2)
    assert {name for row in found.most_confused() for name in row[:2]} == {'background', 'square'}


def wrapped_weights(learn):
    "With the prefixes of DataParallel, the last.pth of a run, and safetensors."
    fit_recipe(learn)
    state = learn.model.state_dict()
    torch.save(nn.DataParallel(learn.model).state_dict(), learn.path / 'wrapped.pth')
    save_safetensors(state, learn.path / 'shared.safetensors')
    for file in ('wrapped', 'last', 'best', 'shared.safetensors'):
        other = learner(learn.path)
        other.load(learn.path / file)
        assert file == 'best' or same_weights(other.model, learn.model), file


def network_replaced(learn):
    "The optimiser is made anew: the new network is trained, not the old one."
    fit_recipe(learn)
    learn.model = nn.Conv2d(1, 2, 1)
    before = learn.model.weight.detach().clone()
    learn.fit(1, lr=0.1)
    assert not torch.equal(before, learn.model.weight)


def optimiser_of_torch(learn):
    learn.opt_func = torch.optim.AdamW
    fit_recipe(learn)
    assert type(learn.opt.opt) is torch.optim.AdamW


def appended_metric(learn):
    learn.metrics.append(foreground_acc)
    learn.fit(1, lr=1e-3)
    assert learn.recorder.metric_names[-2] == 'foreground_acc'


def weights_of_another_optimiser(learn):
    fit_recipe(learn)
    learn.save('weights')
    other = learner(learn.path, opt='adamw')
    with pytest.raises(BadSetting) as e:
        other.load('weights')
    assert e.value.key == 'with_opt'
    other.load('weights', with_opt=False).fit(1, lr=1e-3)


def skipped_epochs(learn):
    seen = []
    learn.fit(3, 1e-3, start_epoch=2, cbs=SeenEpochs(seen))
    assert set(seen) == {2}
    learn.add_cb(SkipToEpoch(1))
    fit_recipe(learn)
    assert [row['train_loss'] is None for row in learn.checkpoint.history] == [True, False]
    learn.validate()


class SeenEpochs(Callback):
    "Keeps the epochs in which a step was made."

    def __init__(self, seen):
        self.seen = seen

    def after_step(self):
        self.seen.append(self.epoch)


WORKS = dict(
    network_replaced=network_replaced,
    optimiser_of_torch=optimiser_of_torch,
    appended_metric=appended_metric,
    weights_of_another_optimiser=weights_of_another_optimiser,
    skipped_epochs=skipped_epochs,
    csv_deeper=lambda learn: learn.fit(1, 1e-3, cbs=CSVLogger('logs/history.csv')),
    label_smoothing=lambda learn: with_loss(learn, LabelSmoothingCrossEntropy()),
    metric_of_scikit_learn=lambda learn: (setattr(learn, 'metrics', F1Score(axis=1)), learn.validate()),
    rate_for_each_group=lambda learn: learn.fit(1, lr=[1e-4, 1e-3]),
    validate_beside_predictions=lambda learn: (learn.add_cb(FetchPredsCallback()), learn.validate()),
    show_one=lambda learn: learn.dls.show(learn.dls.train_ds[0]),
    decode=lambda learn: learn.dls.decode(learn.dls.one_batch()),
    cycles=lambda learn: (learn.fit_sgdr(1, 1, 1e-3), learn.fit_flat_cos(1, 1e-3)),
    wrapped_weights=wrapped_weights,
    all_losses=lambda learn: Interpretation.from_learner(learn).plot_top_losses(99),
    losses_of_segments=lambda learn: SegmentationInterpretation.from_learner(learn).top_losses(99),
    part_of_an_epoch=lambda learn: fit_recipe(learn.add_cb(ShortEpochCallback(0.5))),
    save_deeper=lambda learn: learn.load(learn.save('a/b/c')),
    saved_predictions=lambda learn: learn.get_preds(save_preds=learn.path / 'new'),
    no_epochs_of_the_rest=lambda learn: learn.fine_tune(0),
    one_file=lambda learn: (picture_of(learn), learn.dls.test_dl(learn.path / 'picture.png')),
    own_function=own_function,
    own_metrics=own_metrics,
    validate_beside_trackers=validate_beside_trackers,
    predictions_while_training=predictions_while_training,
    predict_numbers=predict_numbers,
    confusion_of_classes=confusion_of_classes,
    export_into_a_new_folder=lambda learn: learn.export(learn.path / 'new' / 'learner.pkl'),
    fit=explicit_lr,
    fit_one_cycle=lambda learn: learn.fit_one_cycle(1, 1e-2),
    fine_tune=fine_tuned,
    lr_find=lambda learn: learn.lr_find(num_it=12, show_plot=False),
    lr_find_plot=lambda learn: learn.lr_find(num_it=12),
    validate=lambda learn: learn.validate(),
    validate_train=lambda learn: learn.validate(ds_idx=0),
    get_preds=lambda learn: learn.get_preds(with_loss=True, with_decoded=True),
    get_preds_train=lambda learn: learn.get_preds(ds_idx=0),
    predict_index=lambda learn: learn.predict(0, with_input=True),
    predict_array=lambda learn: learn.predict(np.full((20, 24), 0.5)),
    predict_file=predict_file,
    show_batch=lambda learn: learn.dls.show_batch(max_n=4),
    show_results=lambda learn: learn.show_results(max_n=2),
    summary=lambda learn: learn.summary(),
    interpretation=top_losses,
    segmentation=lambda learn: SegmentationInterpretation.from_learner(learn).top_losses(2),
    export=export,
    pickle=lambda learn: pickle.loads(pickle.dumps(learn)),
    save_load=lambda learn: learn.load(learn.save('weights').stem),
    bf16=lambda learn: fit_recipe(learn.to_bf16()),
    fp32=lambda learn: fit_recipe(learn.to_bf16().to_fp32()),
    accumulation=lambda learn: fit_recipe(learn.add_cb(GradientAccumulation(8))),
    early_stopping=stop_early,
    save_model=save,
    csv=log_to_csv,
    show_graph=lambda learn: fit_recipe(learn.add_cb(ShowGraphCallback())),
    predict_picture=predict_picture,
    schedule_curve=scheduled,
    their_loss=their_loss,
    loggable=loggable,
    classes=lambda learn: (get_c(learn.dls), learn.dls.vocab.index('square')),
    plateau=lambda learn: learn.fit(1, 1e-3, cbs=ReduceLROnPlateau(monitor='valid_loss')),
    test_set=lambda learn: learn.get_preds(dl=learn.dls.test_dl([squares(1).images[0]])),
    loss_curve=lambda learn: fit_recipe(learn).recorder.plot_loss(skip_start=0),
)


@pytest.mark.parametrize('call', WORKS)
@pytest.mark.parametrize('valid_every', [1, 2])
def test_works(call, valid_every, tmp_path):
    if valid_every == 2 and call not in ('early_stopping', 'save_model', 'csv', 'show_graph', 'loss_curve'):
        pytest.skip('validation plays no part')
    WORKS[call](learner(tmp_path, valid_every=valid_every))


def exported(learn):
    "The learner as `load_learner` gives it, without images."
    learn.path.mkdir(parents=True, exist_ok=True)
    learn.export()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return load_learner(learn.path / 'export.pkl')


def with_loss(learn, loss):
    learn.loss_func = loss
    learn.fit(1, lr=1e-3)


def other_network(learn):
    torch.save(nn.Linear(2, 2).state_dict(), learn.path / 'other.pth')
    learn.load(learn.path / 'other')


def in_run(cb):
    return lambda learn: (learn.add_cb(cb()), fit_recipe(learn))


def half_a_file(learn):
    path = learn.save('weights')
    path.write_bytes(path.read_bytes()[:200])
    learn.load('weights')


def without(learn, name):
    "A run of a learner that has lost a callback."
    learn.remove_cb(getattr(learn, name))
    fit_recipe(learn)


def other_data(learn, channels):
    shape = squares(4)
    learn.dls = slice_dls(*[Slices(np.stack([shape.images] * channels, -1), *rest(shape))] * 2, bs=2)
    learn.fit(1, lr=1e-3)


def rest(slices):
    return slices.labels, slices.case_ids, slices.class_names


def again(learn, **lines):
    "Another learner around the same loaders."
    return snet_learner(learn.dls, Tiny(), 'smoke', progress=False, **lines)


REFUSED = dict(
    gradient_turned_round=lambda learn: learn.add_cb(GradientClip(-1.0)),
    reset_of_a_network=lambda learn: learn.add_cb(ModelResetter()),
    patience_in_words=lambda learn: learn.add_cb(EarlyStoppingCallback(patience='long')),
    run_without_recorder=lambda learn: without(learn, 'recorder'),
    run_without_modes=lambda learn: without(learn, 'train_eval'),
    data_with_other_channels=lambda learn: other_data(learn, 3),
    network_for_other_images=lambda learn: (setattr(learn, 'model', Tiny(3)), fit_recipe(learn)),
    network_for_other_classes=lambda learn: (setattr(learn, 'model', Tiny(1, 7)), learn.fit(1, 1e-3)),
    network_in_half_precision=lambda learn: (learn.model.half(), learn.fit(1, 1e-3)),
    nothing_to_train=lambda learn: (learn.model.requires_grad_(False), learn.fit(1, 1e-3)),
    decay_below_nothing=lambda learn: learn.fit(1, 1e-3, wd=-1),
    decay_in_words=lambda learn: learn.fit(1, 1e-3, wd='small'),
    two_momenta=lambda learn: learn.fit_one_cycle(1, 1e-3, moms=(0.95, 0.85)),
    start_past_the_end=lambda learn: learn.fit_one_cycle(1, 1e-3, pct_start=2),
    division_by_nothing=lambda learn: learn.fit_one_cycle(1, 1e-3, div=0),
    rate_that_climbs_flat=lambda learn: learn.fit_flat_cos(1, -1e-3),
    cycle_without_length=lambda learn: learn.fit_sgdr(1, 0, 1e-3),
    half_a_frozen_epoch=lambda learn: learn.fine_tune(1, freeze_epochs=0.5),
    three_rates=lambda learn: learn.fit(1, [1e-4, 1e-3, 1e-2]),
    search_in_words=lambda learn: learn.lr_find(num_it='many'),
    loss_of_many_numbers=lambda learn: with_loss(learn, nn.CrossEntropyLoss(reduction='none')),
    loss_without_weights=lambda learn: with_loss(learn, lambda p, t: torch.tensor(1.0)),
    loss_that_is_no_tensor=lambda learn: with_loss(learn, lambda p, t: 1.0),
    loss_of_logarithms=lambda learn: with_loss(learn, nn.NLLLoss()),
    predictions_gathered_in_a_fit=in_run(GatherPredsCallback),
    metric_of_nothing=lambda learn: (setattr(learn, 'metrics', lambda p, t: None), learn.validate()),
    optimiser_in_words=lambda learn: setattr(learn, 'opt_func', 'adam'),
    metric_of_another_axis=lambda learn: setattr(learn, 'metrics', F1Score()),
    metric_that_is_a_word=lambda learn: (setattr(learn, 'metrics', lambda p, t: 'a'), learn.validate()),
    device_in_words=lambda learn: (learn.save('weights'), learn.load('weights', device='gpu')),
    export_to_a_folder=lambda learn: (learn.path.mkdir(exist_ok=True), learn.export(learn.path)),
    summary_without_images=lambda learn: exported(learn).summary(),
    search_without_images=lambda learn: exported(learn).lr_find(),
    pictures_of_no_images=lambda learn: exported(learn).dls.show_batch(),
    augmentation_of_loaders=lambda learn: again(learn, augment='snet'),
    readers_of_loaders=lambda learn: again(learn, num_workers=1),
    size_of_loaders=lambda learn: again(learn, size=64),
    neighbours_of_loaders=lambda learn: again(learn, neighbours=1),
    keywords_of_a_module=lambda learn: again(learn, model_kwargs={'fusion': 'high'}),
    keywords_that_are_words=lambda learn: snet_learner(learn.dls, 'snet_tiny', model_kwargs='high'),
    slices_for_loaders=lambda learn: snet_learner(squares(4)),
    no_loaders=lambda learn: snet_learner(None),
    fewer_losses_than_none=lambda learn: Interpretation.from_learner(learn).top_losses(-1),
    no_results=lambda learn: learn.show_results(max_n=0),
    no_batch=lambda learn: learn.dls.show_batch(max_n=-3),
    third_part=lambda learn: learn.show_results(ds_idx=2),
    part_of_preds=lambda learn: learn.get_preds(ds_idx=9),
    part_to_validate=lambda learn: learn.validate(ds_idx='valid'),
    words_for_a_loader=lambda learn: learn.validate(dl='a'),
    no_share_of_an_epoch=lambda learn: learn.fit(1, 1e-3, cbs=ShortEpochCallback(0)),
    half_a_file=half_a_file,
    file_without_a_name=lambda learn: learn.load(None),
    save_without_a_name=lambda learn: learn.save(None),
    half_an_epoch=lambda learn: learn.fit(1.5),
    less_than_no_epoch=lambda learn: learn.fit_one_cycle(-1),
    rate_that_climbs=lambda learn: learn.fit(1, lr=-1),
    rate_that_is_none=lambda learn: learn.fit(1, lr=float('nan')),
    rate_in_words=lambda learn: learn.fit_one_cycle(1, 'high'),
    rates_of_a_slice=lambda learn: learn.fit(1, lr=slice(-1e-3, 1e-2)),
    fifth_group=lambda learn: learn.freeze_to(5),
    group_in_words=lambda learn: learn.freeze_to('encoder'),
    search_downwards=lambda learn: learn.lr_find(start_lr=1, end_lr=1e-4, show_plot=False),
    search_from_nothing=lambda learn: learn.lr_find(start_lr=0, show_plot=False),
    complex_numbers=lambda learn: learn.predict(np.ones((20, 24), complex)),
    true=lambda learn: learn.predict(True),
    no_loss=lambda learn: setattr(learn, 'loss_func', None),
    loss_in_words=lambda learn: setattr(learn, 'loss_func', 'dice'),
    loss_of_flat_numbers=lambda learn: with_loss(learn, MSELossFlat()),
    metric_in_words=lambda learn: setattr(learn, 'metrics', 'dice'),
    metric_of_labels=lambda learn: (setattr(learn, 'metrics', accuracy), learn.fit(1, 1e-3)),
    callback_in_words=lambda learn: learn.add_cb('CSVLogger'),
    callback_that_is_a_function=lambda learn: learn.add_cb(lambda: None),
    mixed_precision=lambda learn: learn.add_cb(MixedPrecision()),
    other_mixed_precision=lambda learn: learn.fit(1, cbs=NonNativeMixedPrecision()),
    plateau_in_a_run=in_run(lambda: ReduceLROnPlateau(monitor='valid_loss')),
    rates_in_a_run=in_run(lambda: ParamScheduler({'lr': SchedLin(1e-3, 1e-4)})),
    no_step=in_run(lambda: GradientAccumulation(1000)),
    no_clock=lambda learn: (learn.remove_cb(learn.schedule), fit_recipe(learn)),
    other_optimiser=lambda learn: (setattr(learn, 'opt_func', SGD), fit_recipe(learn)),
    search_without_steps=lambda learn: learn.lr_find(num_it=1, show_plot=False),
    one_number_loss=lambda learn: with_loss(learn, BCEWithLogitsLossFlat()),
    loss_of_one_output=lambda learn: with_loss(learn, nn.functional.cross_entropy),
    weights_of_another=other_network,
    no_images_to_train=lambda learn: exported(learn).fit(1, 1e-3),
    no_images_to_validate=lambda learn: exported(learn).validate(),
    no_images_for_a_run=lambda learn: fit_recipe(exported(learn)),
    no_such_slice=lambda learn: learn.predict(99),
    no_such_item=lambda learn: learn.dls.test_dl([99]),
    nothing=lambda learn: learn.dls.test_dl([]),
    empty_array=lambda learn: learn.predict(np.zeros((0, 0))),
    words=lambda learn: learn.predict(['a', 'b']),
    colours=lambda learn: learn.predict(Image.new('RGB', (32, 32), 'red')),
    mixup=lambda learn: learn.add_cb(MixUp()),
    cutmix=lambda learn: learn.add_cb(CutMix()),
    mixup_in_fit=lambda learn: learn.fit(1, cbs=MixUp()),
    tta=lambda learn: learn.tta(),
    fp16_on_a_cpu=lambda learn: learn.to_fp16(),
    array_outside=lambda learn: learn.predict(np.full((20, 24), 200.0)),
    channels_first=lambda learn: learn.predict(np.zeros((1, 20, 24))),
    channels=lambda learn: learn.predict(np.zeros((20, 24, 3))),
    list_of_arrays=lambda learn: learn.predict([np.zeros((20, 24))]),
    monitor=lambda learn: learn.fit(1, 1e-3, cbs=SaveModelCallback(monitor='dice')),
    array_shape=lambda learn: learn.predict(np.zeros((2, 3, 20, 24))),
    other_wd=lambda learn: (setattr(learn, 'wd', 0.5), fit_recipe(learn)),
    no_checkpoint=lambda learn: without(learn, 'checkpoint'),
    no_folder_to_resume=lambda learn: fit_recipe(learner(), resume=True),
    other_lr=lambda learn: (setattr(learn, 'lr', 1.0), fit_recipe(learn)),
)


@pytest.mark.parametrize('call', REFUSED)
def test_refuses(call, tmp_path):
    with pytest.raises(SnetError) as e:
        REFUSED[call](learner(tmp_path))
    assert e.value.key if call != 'half_a_file' else e.value.path.name == 'weights.pth'
    assert '\n' not in str(e.value)


def test_what_does_not_fit_is_named(tmp_path):
    torch.save(Tiny(n_out=5).state_dict(), tmp_path / 'other.pth')
    with pytest.raises(OtherNetwork) as e:
        learner(tmp_path).load(tmp_path / 'other')
    assert e.value.apart == dict(shape=['head.weight', 'head.bias'], missing=[], extra=[])
    assert 'head.weight' in str(e.value) and 'damaged' not in str(e.value)


def test_layers_that_start_anew_are_named(tmp_path, capsys):
    torch.save(Tiny(n_out=5).state_dict(), tmp_path / 'other.pth')
    learn = learner(init=str(tmp_path / 'other.pth'))
    (note,) = learn.notes
    assert note.startswith('1 layers start anew (2 of 9 tensors)') and 'head' in note
    learn.add_cb(RunProgress())
    fit_recipe(learn)
    assert note in capsys.readouterr().err
    assert learner(init=str(tmp_path / 'other.pth'), model=Tiny(n_out=2)).notes == learn.notes
    torch.save(Tiny().state_dict(), tmp_path / 'same.pth')
    assert learner(init=str(tmp_path / 'same.pth')).notes == ()


def test_a_folder_is_made_by_what_writes_first(tmp_path):
    first_call_writes(learner(tmp_path / 'new'))


def test_freezing_needs_an_encoder():
    learn = learner(model=nn.Conv2d(1, 2, 1))
    with pytest.raises(BadSetting, match='no encoder'):
        learn.freeze()


@pytest.mark.parametrize('call', ['lr_find', 'validate', 'get_preds', 'fit', 'interpretation'])
def test_a_run_is_left_alone(call, tmp_path):
    learn = fit_recipe(learner(tmp_path))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    rows, used = list(learn.checkpoint.history), learn.schedule.used
    WORKS[call](learn)
    assert learn.checkpoint.history == rows
    assert learn.schedule.used == used
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_looking_for_a_learning_rate_changes_nothing():
    plain, searched = learner(), learner()
    searched.lr_find(num_it=12, show_plot=False)
    searched.validate()
    assert same_weights(fit_recipe(plain).model, fit_recipe(searched).model)


@pytest.fixture
def pictures(tmp_path):
    "Colour pictures and masks as fastai's SegmentationDataLoaders reads them."
    for i, (image, mask) in enumerate(zip(squares(8).images, squares(8).labels)):
        rgb = np.repeat((255 * image).astype(np.uint8)[..., None], 3, 2)
        Image.fromarray(rgb).save(tmp_path / f'{i}.png')
        Image.fromarray(mask).save(tmp_path / f'{i}_mask.tif')
    return tmp_path


def mask_of(path):
    return path.with_name(f'{path.stem}_mask.tif')


def fastai_dls(folder, valid_pct=0.25, bs=2):
    return SegmentationDataLoaders.from_label_func(
        folder,
        sorted(folder.glob('*.png')),
        mask_of,
        codes=['background', 'square'],
        bs=bs,
        num_workers=0,
        seed=0,
        valid_pct=valid_pct,
    )


def test_loaders_of_fastai_train_by_recipe(pictures):
    learn = snet_learner(
        fastai_dls(pictures), 'snet_tiny', 'smoke', steps=1, precision='float32', progress=False
    )
    fit_recipe(learn)
    assert learn.checkpoint.history[-1]['valid_dice'] is not None
    learn.show_results(max_n=1)
    assert learn.predict(pictures / '0.png')[0].shape == (32, 32)


def test_loaders_of_fastai_are_asked_by_index_and_by_file(pictures):
    learn = snet_learner(fastai_dls(pictures), 'snet_tiny', 'smoke', steps=1, progress=False)
    file = learn.dls.valid.items[0]
    assert torch.equal(learn.predict(0)[0], learn.predict(file)[0])
    with pytest.raises(BadSetting) as e:
        learn.predict(99)
    assert e.value.key == 'item'
    with pytest.raises(UnreadableFile) as e:
        learn.predict(pictures / 'none.png')
    assert e.value.path == pictures / 'none.png'


def test_loaders_of_torch_are_refused():
    x, y = torch.rand(8, 1, 32, 32), torch.randint(0, 2, (8, 32, 32))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=2)
    dls = DataLoaders(loader, loader)
    dls.c, dls.vocab = 2, ['background', 'square']
    with pytest.raises(BadSetting) as e:
        snet_learner(dls, 'snet_tiny', 'smoke', progress=False)
    assert e.value.key == 'dls'


def test_a_batch_larger_than_the_images_is_named(pictures):
    with pytest.raises(BadSetting) as e:
        fit_recipe(snet_learner(fastai_dls(pictures, bs=64), 'snet_tiny', 'smoke', progress=False))
    assert e.value.key == 'bs'


def test_loaders_without_a_batch_to_validate_on_are_refused(pictures):
    dls = fastai_dls(pictures, valid_pct=0.0)
    with pytest.raises(BadSetting) as e:
        snet_learner(dls, 'snet_tiny', 'smoke', progress=False)
    assert e.value.key == 'dls'


@pytest.mark.parametrize(
    'loss', [SNetLoss(), DeepSupervision(CrossEntropyLossFlat(axis=1))], ids=lambda f: type(f).__name__
)
def test_a_plain_learner_trains_snet(pictures, loss):
    net = create_model('snet_tiny', c_in=3, n_out=2)
    learn = Learner(fastai_dls(pictures), net, loss_func=loss)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 1e-3)
        assert learn.recorder.values[-1][0] > 0
        assert len(learn.get_preds(with_loss=True)[2]) == 2
        Interpretation.from_learner(learn).plot_top_losses(1)


OTHER_NETWORKS = dict(
    classes=lambda: Tiny(n_out=5),
    channels=lambda: Tiny(c_in=3),
    pixels=lambda: nn.Conv2d(1, 2, 2, stride=2),
    weights=nn.Identity,
    module=lambda: Tiny,
)


@pytest.mark.parametrize('what', OTHER_NETWORKS)
def test_a_network_for_other_images_is_refused_before_a_run(what):
    with pytest.raises(BadSetting) as e:
        learner(model=OTHER_NETWORKS[what]())
    assert e.value.key == 'model' and '\n' not in str(e.value)


def test_a_look_at_a_network_leaves_it_as_it_was():
    net = Tiny().train()
    net.encoder.eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    torch.manual_seed(3)
    check_network(net, slice_dls(squares(8), squares(4, 1), bs=4))
    assert torch.initial_seed() == 3 and torch.equal(torch.rand(1), torch.rand(1, generator=seeded(3)))
    assert net.training and not net.encoder.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def seeded(number):
    return torch.Generator().manual_seed(number)


class Stop(Callback):
    order = 90

    def after_epoch(self):
        raise KeyboardInterrupt


def stopped(learn):
    "A run that ends after its first epoch."
    learn.add_cb(Stop())
    with pytest.raises(KeyboardInterrupt):
        fit_recipe(learn)


@pytest.mark.parametrize('change', [dict(opt='adamw'), dict(epochs=5), dict(lr=0.5)])
def test_a_learner_continues_its_own_recipe_only(change, tmp_path):
    stopped(learner(tmp_path))
    with pytest.raises(BadSetting) as e:
        fit_recipe(learner(tmp_path, **change), resume=True)
    (key,) = change
    assert e.value.key == key and str(change[key]) in str(e.value)


def test_a_run_goes_on_with_metrics_and_callbacks_of_fastai(tmp_path):
    def with_all(folder):
        learn = learner(folder, epochs=3)
        learn.metrics = [*learn.metrics, foreground_acc]
        learn.add_cb(EarlyStoppingCallback(monitor='valid_loss', patience=9))
        return learn

    stopped(with_all(tmp_path / 'cut'))
    again = fit_recipe(with_all(tmp_path / 'cut'), resume=True)
    whole = fit_recipe(with_all(tmp_path / 'whole'))
    assert same_weights(again.model, whole.model)
    assert [row['foreground_acc'] for row in again.checkpoint.history] == [
        row['foreground_acc'] for row in whole.checkpoint.history
    ]


def test_a_line_that_loaders_do_not_follow_is_refused():
    with pytest.raises(BadSetting) as e:
        learner(bs=9)
    assert e.value.key == 'bs'


def test_patience_ends_a_run():
    learn = fit_recipe(learner(epochs=40, lr=1e-9, patience=2))
    assert len(learn.checkpoint.history) == 3


def test_class_weights_are_one_for_each_class():
    with pytest.raises(BadSetting, match='3 class_weights'):
        learner(class_weights=[1, 2, 3])
    weighted, plain = learner(class_weights=[1, 5]), learner()
    assert not same_weights(fit_recipe(weighted).model, fit_recipe(plain).model)


def test_a_run_starts_from_other_weights(tmp_path):
    first = fit_recipe(learner(tmp_path))
    again = learner(init=str(tmp_path))
    assert same_weights(first.model, again.model) or first.checkpoint.best > 0
    dls = slice_dls(squares(8), squares(4), bs=4)
    other = snet_learner(dls, Tiny(n_out=2), 'smoke', progress=False, init=str(tmp_path / 'best.pth'))
    best = torch.load(tmp_path / 'best.pth', weights_only=True)
    assert torch.equal(other.model.encoder[0].weight, best['encoder.0.weight'])
    with pytest.raises(BadSetting):
        snet_learner(dls, nn.Conv2d(1, 2, 1), 'smoke', progress=False, init=str(tmp_path))


def test_a_second_run_starts_anew():
    learn = fit_recipe(learner())
    with pytest.warns(UserWarning, match='init'):
        fit_recipe(learn)
    assert [row['epoch'] for row in learn.checkpoint.history] == [0, 1]


QUIET = 'lr_find validate get_preds summary show_results save_load'.split()


@pytest.mark.filterwarnings('error:This run starts')
@pytest.mark.parametrize('call', QUIET)
def test_what_leaves_the_first_weights_alone_is_not_warned_of(call, tmp_path):
    learn = learner(tmp_path)
    WORKS[call](learn)
    fit_recipe(learn)


def test_a_run_is_not_written_over(tmp_path):
    fit_recipe(learner(tmp_path))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(FolderInUse) as e:
        fit_recipe(learner(tmp_path, epochs=1))
    assert e.value.path == tmp_path
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_best_epoch_without_its_state_is_not_written_over(tmp_path):
    fit_recipe(learner(tmp_path))
    (tmp_path / 'last.pth').unlink()
    before = (tmp_path / 'best.pth').read_bytes()
    for resume in (True, False):
        with pytest.raises(BadSetting, match='no last.pth') as e:
            fit_recipe(learner(tmp_path), resume=resume)
        assert e.value.path == tmp_path and (tmp_path / 'best.pth').read_bytes() == before


def other_loaders(**lines):
    "A change of a learner's images or loaders."
    settings = dict(n=8, seed=0, bs=4) | lines
    train = squares(settings.pop('n'), settings.pop('seed'))
    return lambda learn: setattr(learn, 'dls', slice_dls(train, squares(4, 1), **settings))


def relabelled(learn):
    "One pixel of one mask is another one: the same file names, other data."
    train = squares(8)
    train.labels[3, 0, 0] = 1
    learn.dls = slice_dls(train, squares(4, 1), bs=4)


def other_names(learn):
    "The classes are called otherwise."
    parts = [
        Slices(p.images, p.labels, p.case_ids, ('square', 'background')) for p in (squares(8), squares(4, 1))
    ]
    learn.dls = slice_dls(*parts, bs=4)


def other_validation(learn):
    learn.dls = slice_dls(squares(8), squares(4, 2), bs=4)


def one_group(model):
    return [list(model.parameters())]


BY_HAND = dict(  # what is done to a learner after it was made, and the name under which it is told
    images=(other_loaders(seed=5), 'data'),
    more_images=(other_loaders(n=12), 'data'),
    one_pixel=(relabelled, 'data'),
    validation=(other_validation, 'data'),
    names=(other_names, 'classes'),
    batches=(other_loaders(bs=2), 'bs'),
    augmentation=(other_loaders(augment='flips'), 'augment'),
    order=(lambda learn: other_loaders()(learn) or setattr(learn.dls.train, 'seed', 3), 'loader_seed'),
    frozen=(lambda learn: learn.freeze(), 'frozen'),
    loss=(lambda learn: setattr(learn, 'loss_func', CrossEntropyLossFlat(axis=1)), 'loss_func'),
    number_of_loss=(lambda learn: setattr(learn, 'loss_func', SNetLoss(bce=0.5)), 'loss_func'),
    optimiser=(lambda learn: setattr(learn, 'opt_func', torch.optim.AdamW), 'opt_func'),
    number_of_optimiser=(lambda learn: setattr(learn, 'opt_func', torch.optim.SGD), 'opt_func'),
    accumulation=(lambda learn: learn.add_cb(GradientAccumulation(8)), 'callbacks'),
    clipping=(lambda learn: learn.add_cb(GradientClip(0.1)), 'callbacks'),
    precision=(lambda learn: learn.to_bf16(), 'precision'),
    network=(lambda learn: setattr(learn, 'model', Other()), 'network'),
    short_batch=(other_loaders(drop_last=False), 'drop_last'),
    groups=(lambda learn: setattr(learn, 'splitter', one_group), 'splitter'),
)


class Other(Tiny):
    "The same tensors, another network."

    def forward(self, x):
        return super().forward(1 - x)


@pytest.mark.parametrize('what', BY_HAND)
@pytest.mark.parametrize('when', ['before', 'after'])
def test_a_run_goes_on_with_what_was_done_by_hand_or_is_refused(what, when, tmp_path):
    change, key = BY_HAND[what]
    first, again = learner(tmp_path, epochs=3), learner(tmp_path, epochs=3)
    change(first if when == 'before' else again)
    stopped(first)
    untrained = weights_hash(again.model)
    with pytest.raises(BadSetting) as e:
        fit_recipe(again, resume=True)
    assert e.value.key == key and '\n' not in str(e.value)
    assert weights_hash(again.model) == untrained


@pytest.mark.filterwarnings('ignore:This run starts')
@pytest.mark.parametrize('what', BY_HAND)
def test_the_same_change_continues_to_the_same_weights(what, tmp_path):
    change, _ = BY_HAND[what]

    def changed(folder):
        learn = learner(folder, epochs=3)
        torch.manual_seed(0)
        change(learn)
        return learn

    stopped(changed(tmp_path / 'cut'))
    again = fit_recipe(changed(tmp_path / 'cut'), resume=True)
    assert same_weights(again.model, fit_recipe(changed(tmp_path / 'whole')).model)


def test_images_that_moved_or_are_loaded_anew_go_on(tmp_path):
    stopped(learner(tmp_path, epochs=3))
    again = learner(tmp_path, epochs=3)
    other_loaders()(again)
    assert same_weights(fit_recipe(again, resume=True).model, fit_recipe(learner(epochs=3)).model)


def test_a_state_from_before_there_were_facts_goes_on(tmp_path):
    stopped(learner(tmp_path, epochs=3))
    state = load_tensors(tmp_path / 'last.pth')
    assert state.pop('facts')['images']['train_slices'] == 8
    save_tensors(state, tmp_path / 'last.pth')
    again = fit_recipe(learner(tmp_path, epochs=3), resume=True)
    assert same_weights(again.model, fit_recipe(learner(epochs=3)).model)


def test_pictures_at_the_same_path_are_compared(pictures, tmp_path):
    "fastai's loaders name files; what is in them may have changed."

    def of_pictures():
        lines = dict(epochs=2, precision='float32', progress=False, clip=0.0)
        torch.manual_seed(0)
        return snet_learner(fastai_dls(pictures), Tiny(3), 'smoke', run=tmp_path / 'run', **lines)

    stopped(of_pictures())
    again = fit_recipe(of_pictures(), resume=True)
    assert len(again.checkpoint.history) == 2
    name = again.dls.train.items[0]
    Image.fromarray(255 - np.asarray(Image.open(name))).save(name)
    with pytest.raises(BadSetting) as e:
        fit_recipe(of_pictures(), resume=True)
    assert e.value.key == 'data'


def test_images_that_a_data_set_changes_each_time_are_not_compared():
    class Noisy(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, i):
            return torch.rand(1, 32, 32), torch.zeros(32, 32, dtype=torch.long)

    class Steady(Noisy):
        def __getitem__(self, i):
            return torch.full((1, 32, 32), i / 8), torch.zeros(32, 32, dtype=torch.long)

    assert images_hash(DataLoader(Noisy(), bs=2)) is None
    assert images_hash(DataLoader(Steady(), bs=2)) == images_hash(DataLoader(Steady(), bs=4, shuffle=True))


def test_a_keyword_of_the_network_is_compared(tmp_path):
    def of_tiny(**keywords):
        dls = slice_dls(squares(8), squares(4, 1), bs=4)
        lines = dict(size=None, epochs=2, precision='float32', progress=False)
        return snet_learner(dls, 'snet_tiny', 'smoke', run=tmp_path, model_kwargs=keywords, **lines)

    stopped(of_tiny(feb_residual=False))
    with pytest.raises(BadSetting) as e:
        fit_recipe(of_tiny(), resume=True)
    assert e.value.key == 'network' and 'feb_residual' in str(e.value)


@pytest.mark.parametrize(
    ['key', 'value'], dict(epochs=3, schedule='constant', warmup=0.5, lr_end=0.01, valid_every=2).items()
)
def test_a_line_that_is_read_in_a_run_may_be_changed_before_it(key, value, tmp_path):
    "The learner is then as one that was made with it, and the state says so."
    changed, made = learner(tmp_path), learner(**{key: value})
    changed.recipe = changed.recipe | {key: value}  # another dictionary
    fit_recipe(changed)
    assert json.loads(changed.checkpoint.fingerprint)['recipe'][key] == value
    assert same_weights(changed.model, fit_recipe(made).model)
    logs = [[row['valid_dice'] for row in each.checkpoint.history] for each in (changed, made)]
    assert logs[0] == logs[1] and changed.schedule.rates == made.schedule.rates


@pytest.mark.parametrize(
    ['key', 'value'], dict(clip=1.0, loss='ce', opt='adam', wd=0.1, patience=1, bs=2).items()
)
def test_a_line_that_is_built_into_a_learner_cannot_be_changed(key, value):
    learn = learner()
    learn.recipe[key] = value
    with pytest.raises(BadSetting) as e:
        fit_recipe(learn)
    assert e.value.key == key


def test_a_run_in_memory_cannot_be_resumed():
    learn = fit_recipe(learner())
    with pytest.raises(BadSetting) as e:
        fit_recipe(learn, resume=True)
    assert e.value.key == 'run' and len(learn.checkpoint.history) == 2


def test_eval_and_unfreeze_change_no_run():
    def handled():
        learn = learner()
        learn.freeze()
        learn.unfreeze()
        learn.model.eval()
        return fit_recipe(learn)

    assert same_weights(handled().model, fit_recipe(learner()).model)


def test_an_early_run_with_an_idle_line_goes_on(tmp_path):
    stopped(learner(tmp_path, epochs=3, schedule='constant'))
    state = load_tensors(tmp_path / 'last.pth')
    settings = json.loads(state['fingerprint'])
    settings['recipe']['power'] = 2.0  # idle, and taken without a word by an early version
    save_tensors(state | dict(fingerprint=json.dumps(settings)), tmp_path / 'last.pth')
    fit_recipe(learner(tmp_path, epochs=3, schedule='constant'), resume=True)
    settings['recipe']['warmup'] = 0.5
    save_tensors(state | dict(fingerprint=json.dumps(settings)), tmp_path / 'last.pth')
    with pytest.raises(BadSetting) as e:
        fit_recipe(learner(tmp_path, epochs=3, schedule='constant'), resume=True)
    assert e.value.key == 'warmup'


def test_a_picture_is_scaled_and_sized_as_the_images_of_the_loaders(tmp_path):
    "A window of grey values, and slices of another size than the recipe names."
    values = (100 + 100 * squares(1).images[0]).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / 'picture.png')
    train, valid = squares(8), squares(4, 1)
    for part in (train, valid):
        part.intensity = dict(kind='window', lo=100, hi=200)
    learn = snet_learner(slice_dls(train, valid, bs=4), Tiny(), 'smoke', progress=False)
    assert learn.recipe['size'] == 64
    mask, _, probs = learn.predict(tmp_path / 'picture.png')
    expected = learn.predict(((values - 100) / 100).astype(np.float32))[2]
    assert mask.shape == (32, 32) and torch.allclose(probs, expected, atol=1e-6)
    assert learn.intensity == valid.intensity, 'also of a learner that is exported without images'


def test_another_normalisation_of_fastai_is_another_run(pictures, tmp_path):
    def scaled(std):
        dls = SegmentationDataLoaders.from_label_func(
            pictures,
            sorted(pictures.glob('*.png')),
            mask_of,
            codes=['background', 'square'],
            bs=2,
            num_workers=0,
            seed=0,
            batch_tfms=[Normalize.from_stats([0.5] * 3, [std] * 3, cuda=False)],
        )
        lines = dict(epochs=2, precision='float32', progress=False, clip=0.0)
        torch.manual_seed(0)
        return snet_learner(dls, Tiny(3), 'smoke', run=tmp_path / 'run', **lines)

    stopped(scaled(0.5))
    with pytest.raises(BadSetting) as e:
        fit_recipe(scaled(0.25), resume=True)
    assert e.value.key == 'transforms'
    fit_recipe(scaled(0.5), resume=True)
