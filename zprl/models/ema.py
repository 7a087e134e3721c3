"""Averaged weights: what training ships and RL freezes (official code)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def ema_decay(step: int, *, power: float, maximum: float) -> float:
    """Decay of update ``step`` (0 for the first): ``min(maximum, 1 - (1 + step)^-power)`` (Diffusion Policy).

    The first update has decay 0, so the average starts as a copy.
    """
    return min(maximum, 1.0 - (1.0 + step) ** -power)


class Ema:
    """Exponential moving average of a module's parameters, the bottleneck's included.

    Each parameter is averaged on its own, so extra parameters never change the average of the
    others.

    Args:
        module: The module that is trained; the average starts as a copy of its parameters.
        power: Exponent of the decay schedule.
        maximum: Cap of the decay.
    """

    def __init__(self, module: nn.Module, *, power: float, maximum: float) -> None:
        self._live = dict(module.named_parameters())
        self.power, self.maximum = power, maximum
        self.average = {name: p.detach().clone() for name, p in self._live.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the parameters as they are after update ``step`` (0 for the first)."""
        weight = 1.0 - ema_decay(step, power=self.power, maximum=self.maximum)
        torch._foreach_lerp_(list(self.average.values()), list(self._live.values()), weight)

    @torch.no_grad()
    def load(self, average: Mapping[str, Tensor]) -> None:
        """Set the average."""
        for name, value in self.average.items():
            value.copy_(average[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average into the module for the time of the block."""
        live = {name: p.detach().clone() for name, p in self._live.items()}
        with torch.no_grad():
            for name, p in self._live.items():
                p.copy_(self.average[name])
            try:
                yield
            finally:
                for name, p in self._live.items():
                    p.copy_(live[name])
