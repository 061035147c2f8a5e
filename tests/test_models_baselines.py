"The baselines keep the same contract, and are the papers' rows."

import pytest
import torch

from snetlib.core import SnetError
from snetlib.models.registry import MODELS, count_parameters, create_model, list_models

# ---- baselines
LIGHT = ['unet_tiny', 'vnet', 'hrnet_w18', 'swin_unetr', 'r50_deeplabv3plus']


@pytest.mark.parametrize('name', LIGHT)
@pytest.mark.parametrize('shape', [(1, 3, 65, 97), (1, 1, 32, 32)], ids=str)
def test_baselines_keep_the_contract(name, shape):
    net = create_model(name, c_in=shape[1], n_out=4)
    for mode in (
        (False,) if name == 'r50_deeplabv3plus' else (True, False)
    ):  # its image pooling cannot train on a batch of one
        assert net.train(mode)(torch.rand(shape)).shape == (1, 4, *shape[2:])
    with pytest.raises(SnetError):
        net(torch.rand(1, shape[1] + 1, 64, 64))


@pytest.mark.parametrize('name', list_models(tag='baseline'))
def test_every_baseline_builds(name):
    with torch.device('cpu' if name == 'swin_unetr' else 'meta'):
        net = create_model(name, c_in=1, n_out=2)  # swin_unetr computes while it is built
    assert count_parameters(net) > 2e6 and MODELS[name].__doc__


@pytest.mark.parametrize('name', ['r50_unet', 'r50_deeplabv3plus'])
def test_a_keyword_that_a_library_would_drop_is_refused(name):
    with pytest.raises(SnetError, match='drop_rate'):
        create_model(name, c_in=1, n_out=2, drop_rate=0.1)


def test_rows_of_the_papers_point_at_models():
    from snetlib.reproduce.our_experiments import EXPERIMENTS

    named = {row.model for e in EXPERIMENTS.values() for row in e.rows if row.model}
    ours = {*list_models(tag='snet'), *list_models(tag='sosegformer')}
    assert named - ours and named - ours <= set(list_models(tag='baseline'))


def test_table_4_prints_these_parameters():
    import csv
    from importlib.resources import files

    lines = (
        (files('snetlib.reproduce') / 'papers' / 'snet_table4.csv').read_text(encoding='utf-8').splitlines()
    )
    millions = {float(row['params_million']) for row in csv.DictReader(lines)}
    assert millions == {7.2, 19.8, 488.25, 105.3, 41.4, 40.5, 29.52, 38.7}
