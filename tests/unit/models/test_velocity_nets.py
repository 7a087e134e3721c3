"""Both velocity networks: shapes, what they depend on, sizes that do not fit."""

import pytest
import torch

from tests.small_policy import small_policy
from zprl.errors import ConfigError
from zprl.models.velocity_mlp import VelocityMlp
from zprl.models.velocity_unet import VelocityUnet


def unet(horizon=8, channels=(8, 16, 32), kernel=5, groups=4, features=3):
    return VelocityUnet(
        features,
        horizon=horizon,
        time_dim=8,
        condition_dim=6,
        channels=channels,
        kernel=kernel,
        groups=groups,
    )


def mlp(features=3, horizon=8):
    return VelocityMlp(features, horizon=horizon, time_dim=8, condition_dim=6, hidden=(16,))


@pytest.mark.parametrize(
    ("net", "horizon", "features"),
    [
        (unet(), 8, 3),
        (unet(horizon=16), 16, 3),
        (unet(channels=(8,), horizon=5), 5, 3),
        (unet(channels=(8, 16), features=1, horizon=2), 2, 1),
        (mlp(), 8, 3),
        (mlp(1, 1), 1, 1),
    ],
)
@pytest.mark.parametrize("rows", [1, 5])
def test_shape_is_kept(net, horizon, features, rows):
    noisy = torch.randn(rows, horizon, features)
    assert net(noisy, torch.randn(rows, 8), torch.randn(rows, 6)).shape == noisy.shape


@pytest.mark.parametrize("net", [unet(), mlp()])
def test_every_input_and_every_weight_matters(net):
    inputs = [torch.randn(4, 8, 3), torch.randn(4, 8), torch.randn(4, 6)]
    for t in inputs:
        t.requires_grad_()
    net(*inputs).square().sum().backward()
    assert all(t.grad.abs().sum() > 0 for t in inputs)
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("net", [unet(), mlp()])
def test_rows_do_not_see_each_other(net):
    noisy, times, condition = torch.randn(4, 8, 3), torch.randn(4, 8), torch.randn(4, 6)
    together = net(noisy, times, condition)
    alone = net(noisy[2:3], times[2:3], condition[2:3])
    assert torch.allclose(together[2:3], alone, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"horizon": 10}, "multiple of 4"),
        ({"kernel": 4}, "even"),
        ({"groups": 3}, "does not divide"),
        ({"channels": ()}, "empty"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_with_a_remedy(changes, words):
    with pytest.raises(ConfigError, match=words) as caught:
        unet(**changes)
    assert caught.value.remedy


def test_the_remedy_for_the_horizon_works():
    with pytest.raises(ConfigError, match=r"horizon to 12"):
        small_policy(velocity_net="unet", horizon=10, unet_channels=(8, 16, 32))
    small_policy(velocity_net="unet", horizon=12, unet_channels=(8, 16, 32))
