"""Averaged weights: training ships them and RL freezes them (official code)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def ema_decay(step: int, *, power: float, maximum: float) -> float:
    """Return the decay of update ``step`` (0 for the first) (Diffusion Policy).

    It is ``min(maximum, 1 - (1 + step)^-power)``: the first update has decay 0, so the average
    starts as a copy.
    """
    decay: float = 1.0 - (1.0 + step) ** -power
    return min(maximum, decay)


def averaged_model(module: nn.Module, *, power: float, maximum: float) -> AveragedModel:
    """Return a copy of a module that holds an exponential moving average of its parameters.

    Each parameter is averaged on its own, so extra parameters never change the average of the
    others.  Buffers are copied, not averaged.

    Args:
        module: The module that is trained.
        power: Exponent of the decay schedule.
        maximum: Cap of the decay.
    """

    def average(
        averages: Sequence[Tensor], current: Sequence[Tensor], updates: Tensor | int
    ) -> None:
        weight = 1.0 - ema_decay(int(updates), power=power, maximum=maximum)
        torch._foreach_lerp_(list(averages), list(current), weight)

    return AveragedModel(module, multi_avg_fn=average)
