"""Transitions in flat arrays, with embeddings: nothing is encoded twice."""

from __future__ import annotations

import torch
from torch import Tensor

from zprl.errors import ConfigError
from zprl.rl.sac import Batch


class Replay:
    """Ring of transitions, stored as :class:`zprl.rl.sac.Batch` lays them out.

    Args:
        capacity: Rows kept; the oldest are overwritten.
        state_dim: S, where the last R columns of a state are its anchor.
        residual_dim: R.
    """

    def __init__(
        self, capacity: int, state_dim: int, residual_dim: int, *, device: str = "cpu"
    ) -> None:
        if capacity < 1:
            raise ConfigError(
                f"replay capacity must be positive, got {capacity}", remedy="raise buffer_size"
            )
        self.capacity = capacity
        self.added = 0
        width = state_dim + residual_dim
        shapes = {
            "inputs": (capacity, width),
            "reward": (capacity,),
            "discount": (capacity,),
            "next_inputs": (capacity, width),
        }
        self.data = {name: torch.zeros(shape, device=device) for name, shape in shapes.items()}
        self._state_dim = state_dim

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    def add(
        self, *, state: Tensor, point: Tensor, reward: Tensor, discount: Tensor, next_state: Tensor
    ) -> None:
        """Append rows.

        Args:
            state: (B, S).
            point: Executed points (B, R).
            reward: (B,).
            discount: Of the value that follows, (B,).
            next_state: (B, S).
        """
        rows = (torch.arange(len(reward), device=reward.device) + self.added) % self.capacity
        self.data["inputs"][rows] = torch.cat([state, point], -1)
        self.data["reward"][rows] = reward
        self.data["discount"][rows] = discount
        self.data["next_inputs"][rows, : self._state_dim] = next_state
        self.added += len(reward)

    def sample(self, size: int, generator: torch.Generator) -> Batch:
        """Draw rows uniformly with replacement; the batch is the caller's own."""
        index = torch.randint(len(self), (size,), generator=generator, device=generator.device)
        return Batch(**{name: value.index_select(0, index) for name, value in self.data.items()})

    def state(self) -> dict[str, Tensor]:
        """Return the rows in use and the count of all rows ever added."""
        return {
            "added": torch.tensor(self.added),
            **{name: value[: len(self)] for name, value in self.data.items()},
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from :meth:`state`."""
        self.added = int(state["added"])
        for name, value in self.data.items():
            value[: len(self)] = state[name]


def join(first: Batch, second: Batch) -> Batch:
    """Concatenate two batches row-wise."""
    return Batch(
        *(
            torch.cat([getattr(first, name), getattr(second, name)])
            for name in Batch.__dataclass_fields__
        )
    )
