"""Chunk transitions in flat arrays, embeddings instead of observations: nothing is encoded twice."""

from __future__ import annotations

import torch
from torch import Tensor

from zprl.errors import ConfigError
from zprl.rl.sac import Batch


class Replay:
    """Ring of transitions.

    Args:
        capacity: Rows kept; the oldest are overwritten.
        state_dim: S, where the last R columns of a state are its anchor.
        residual_dim: R.
    """

    COLUMNS = ("state", "point", "reward", "discount", "next_state")

    def __init__(self, capacity: int, state_dim: int, residual_dim: int, *, device: str = "cpu") -> None:
        if capacity < 1:
            raise ConfigError(f"replay capacity must be positive, got {capacity}", remedy="raise buffer_size")
        self.capacity = capacity
        self.residual_dim = residual_dim
        self.added = 0
        widths = {"state": state_dim, "point": residual_dim, "reward": 0, "discount": 0, "next_state": state_dim}
        self.data = {name: torch.zeros((capacity, width) if width else capacity, device=device) for name, width in widths.items()}

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    def add(self, *, state: Tensor, point: Tensor, reward: Tensor, discount: Tensor, next_state: Tensor) -> None:
        """Append rows (B, ...)."""
        rows = (torch.arange(len(reward), device=reward.device) + self.added) % self.capacity
        for name, value in zip(self.COLUMNS, (state, point, reward, discount, next_state), strict=True):
            self.data[name][rows] = value
        self.added += len(reward)

    def sample(self, size: int, generator: torch.Generator) -> Batch:
        """Rows drawn uniformly with replacement."""
        return self.rows(torch.randint(len(self), (size,), generator=generator, device=generator.device))

    def rows(self, index: Tensor) -> Batch:
        """The named rows."""
        picked = {name: value.index_select(0, index) for name, value in self.data.items()}
        return Batch(**picked, next_anchor=picked["next_state"][:, -self.residual_dim :])

    def state(self) -> dict[str, Tensor]:
        """Rows in use and the count of all rows ever added."""
        return {"added": torch.tensor(self.added), **{name: value[: len(self)] for name, value in self.data.items()}}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from :meth:`state`."""
        self.added = int(state["added"])
        for name in self.COLUMNS:
            self.data[name][: len(self)] = state[name]


def join(first: Batch, second: Batch) -> Batch:
    """Concatenate two batches row-wise."""
    return Batch(*(torch.cat([getattr(first, name), getattr(second, name)]) for name in Batch.__dataclass_fields__))
