"""Averaged weights by hand."""

import pytest
import torch

from zprl.models.ema import averaged_model, ema_decay


def test_decay_schedule():
    assert ema_decay(0, power=0.8, maximum=0.9999) == 0
    assert ema_decay(1, power=0.8, maximum=0.9999) == pytest.approx(1 - 2**-0.8)
    assert ema_decay(10**9, power=0.8, maximum=0.9999) == 0.9999


def test_average_of_three_updates():
    module = torch.nn.Linear(1, 1, bias=False)
    ema = averaged_model(module, power=1.0, maximum=0.9)
    for value in (8.0, 4.0, 1.0):  # decays 0, 1/2, 2/3
        torch.nn.init.constant_(module.weight, value)
        ema.update_parameters(module)
    assert ema.module.weight.item() == pytest.approx(2 / 3 * 6 + 1 / 3)
    assert module.weight.item() == 1.0


def test_the_average_is_that_of_the_formula_to_the_bit():
    torch.manual_seed(0)
    module, by_hand = torch.nn.Linear(5, 7), None
    ema = averaged_model(module, power=0.8, maximum=0.9)
    for step in range(30):
        torch.nn.init.normal_(module.weight)
        ema.update_parameters(module)
        live = module.weight.detach()
        weight = 1.0 - ema_decay(step, power=0.8, maximum=0.9)
        by_hand = live.clone() if by_hand is None else torch.lerp(by_hand, live, weight)
        assert torch.equal(ema.module.weight, by_hand)


def test_buffers_are_copied():
    module = torch.nn.BatchNorm1d(2)
    ema = averaged_model(module, power=0.8, maximum=0.9)
    module.running_mean.fill_(3.0)
    ema.update_parameters(module)
    assert torch.equal(ema.module.running_mean, module.running_mean)
