"""A world on any device, for tests that compute what they expect on the CPU."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch


def to_cpu(found: Any) -> Any:
    """The same with every tensor on the CPU: a tensor, a dict of them or a dataclass."""
    if isinstance(found, torch.Tensor):
        return found.cpu()
    if isinstance(found, dict):
        return {key: to_cpu(value) for key, value in found.items()}
    if dataclasses.is_dataclass(found) and not isinstance(found, type):
        return dataclasses.replace(
            found,
            **{
                field.name: to_cpu(getattr(found, field.name))
                for field in dataclasses.fields(found)
            },
        )
    return found


class HandedOver:
    """A world that takes actions from the CPU and gives what it finds back there; on the CPU it changes nothing."""

    def __init__(self, world: Any) -> None:
        self.world = world

    def step(self, action: torch.Tensor) -> Any:
        return to_cpu(self.world.step(action.to(self.world.spec.device)))

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.world, name)
        return (lambda *args: to_cpu(found(*args))) if name in ("reset", "hold", "scene") else found
