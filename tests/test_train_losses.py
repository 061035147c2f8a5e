"Losses against MONAI and finite differences, unknown pixels, labels that do not fit."

import pytest
import torch

from snetlib.core import SnetError
from snetlib.train.losses import CrossEntropy, SNetLoss, dice_loss


def test_dice_loss_equals_monai():
    from monai.losses import DiceLoss

    x, t = (
        torch.randn(3, 4, 9, 8, generator=torch.Generator().manual_seed(0)),
        torch.randint(0, 4, (3, 9, 8), generator=torch.Generator().manual_seed(1)),
    )
    for squared in (True, False):
        for background in (True, False):
            theirs = DiceLoss(
                softmax=True,
                to_onehot_y=True,
                batch=True,
                squared_pred=squared,
                include_background=background,
                smooth_nr=1e-5,
                smooth_dr=1e-5,
            )(x, t[:, None])
            torch.testing.assert_close(
                dice_loss(x.softmax(1), t, squared=squared, background=background), theirs
            )


@pytest.mark.parametrize(
    'loss', [SNetLoss(), SNetLoss(pixel='sigmoid'), SNetLoss(ignore_index=255), CrossEntropy()], ids=str
)
def test_gradient_is_that_of_finite_differences(loss):
    torch.manual_seed(0)
    t = torch.randint(0, 3, (2, 3, 4))
    t[0, 0, 0] = 255 if getattr(loss, 'ignore_index', None) else 0
    x = torch.randn(2, 3, 3, 4, requires_grad=True)
    loss(x, t).backward()
    for i in ((0, 0, 0, 0), (1, 2, 2, 3), (0, 1, 1, 1)):
        h = torch.zeros_like(x)
        h[i] = 1e-2
        assert x.grad[i].item() == pytest.approx(((loss(x + h, t) - loss(x - h, t)) / 2e-2).item(), abs=2e-4)


def test_unknown_pixels_change_nothing():
    torch.manual_seed(0)
    x, t = torch.randn(2, 3, 8, 8), torch.randint(0, 3, (2, 8, 8))
    t[:, :3] = 255
    for loss in (SNetLoss(ignore_index=255), SNetLoss(ignore_index=255, pixel='sigmoid'), CrossEntropy(255)):
        y = x.clone()
        y[:, :, :3] = 50 * torch.randn(2, 3, 3, 8)
        torch.testing.assert_close(loss(x, t), loss(y, t))


def test_a_label_outside_the_classes_names_it_and_the_cure():
    x, t = torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
    t[0, 1, 1] = 7
    for loss in (SNetLoss(), CrossEntropy()):
        with pytest.raises(SnetError, match=r'class 7.*n_out=3.*n_out=8'):
            loss((x, x), t)
    with pytest.raises((RuntimeError, IndexError)):
        torch.nn.functional.cross_entropy(x, t)


def test_bfloat16_sums_do_not_saturate():
    torch.manual_seed(0)
    x, t = torch.randn(2, 3, 224, 224), torch.randint(0, 3, (2, 224, 224))
    for loss in (SNetLoss(), SNetLoss(pixel='sigmoid'), CrossEntropy()):
        with torch.autocast('cpu', dtype=torch.bfloat16):
            low = loss(x.bfloat16(), t)
        assert low.dtype == torch.float32
        torch.testing.assert_close(low, loss(x, t), rtol=2e-3, atol=0)
        plain = loss(x.bfloat16(), t)
        assert plain.dtype == torch.float32
        torch.testing.assert_close(plain, loss(x.bfloat16().float(), t), rtol=1e-5, atol=0)
