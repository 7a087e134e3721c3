"""Batches by step number, for Lightning."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, IterableDataset

from zprl import seeding
from zprl.data.windows import ChunkWindows

Batch = tuple[int, dict[str, Any]]


def split_episodes(count: int, fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Return the numbers of training and validation episodes, split by episode.

    The split is a pure function of the arguments.  At least one episode is held out when
    ``fraction`` is above 0, and at least one is kept for training.
    """
    held = min(max(1, round(fraction * count)), count - 1) if fraction > 0 else 0
    order = torch.randperm(
        count, generator=seeding.torch_generator(seed, "validation-split")
    ).tolist()
    return sorted(order[held:]), sorted(order[:held])


class StepBatches(IterableDataset[Batch]):
    """Pairs ``(step, batch)`` of the gradient steps from ``start`` to ``stop``.

    Resuming means starting at another number.
    """

    def __init__(
        self, windows: ChunkWindows, *, seed: int, start: int, stop: int, size: int
    ) -> None:
        super().__init__()
        self.windows = windows
        self.seed = seed
        self.steps = range(start, stop)
        self.size = size

    def __iter__(self) -> Iterator[Batch]:
        for step in self.steps:
            yield step, self.windows.batch(self.seed, step, self.size)


class WindowData(LightningDataModule):
    """Batches of steps ``start`` to ``stop``, for Lightning.

    Batches are indexed in memory, so worker processes would only cost time.
    """

    def __init__(
        self, windows: ChunkWindows, *, seed: int, start: int, stop: int, size: int
    ) -> None:
        super().__init__()
        self.batches = StepBatches(windows, seed=seed, start=start, stop=stop, size=size)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return a loader of whole batches, as they come."""
        return DataLoader(self.batches, batch_size=None, collate_fn=_same)


def _same(batch: Any) -> Any:
    return batch
