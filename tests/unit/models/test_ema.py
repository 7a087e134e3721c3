"""Averaged weights by hand."""

import pytest
import torch

from zprl.models.ema import Ema, ema_decay


def test_decay_schedule():
    assert ema_decay(0, power=0.8, maximum=0.9999) == 0
    assert ema_decay(1, power=0.8, maximum=0.9999) == pytest.approx(1 - 2**-0.8)
    assert ema_decay(10**9, power=0.8, maximum=0.9999) == 0.9999


def test_average_of_three_updates():
    module = torch.nn.Linear(1, 1, bias=False)
    ema = Ema(module, power=1.0, maximum=0.9)
    for step, value in enumerate([8.0, 4.0, 1.0]):  # decays 0, 1/2, 2/3
        torch.nn.init.constant_(module.weight, value)
        ema.update(step)
    assert ema.average["weight"].item() == pytest.approx(2 / 3 * 6 + 1 / 3)


def test_applied_puts_the_live_weights_back_even_after_an_error():
    module = torch.nn.Linear(2, 2)
    ema = Ema(module, power=0.8, maximum=0.9)
    torch.nn.init.constant_(module.weight, 5.0)
    with pytest.raises(RuntimeError), ema.applied():
        assert torch.equal(module.weight, ema.average["weight"])
        raise RuntimeError
    assert torch.equal(module.weight, torch.full((2, 2), 5.0))
