"""Minimum, maximum, mean and deviation of numbers that are seen piece by piece."""

from __future__ import annotations

from typing import Any

import numpy as np


class RunningStatistics:
    """Statistics per dimension of rows (L, width), which need not be kept.

    Pieces are merged after Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for
    computing sample variances" (1979), in float64: no sum of squares, so nothing cancels.

    Attributes:
        width: Numbers per row.
        count: Rows seen.
        low: Smallest number of each dimension.
        high: Largest number of each.
        mean: Mean of each.

    Example:
        >>> moments = RunningStatistics(1)
        >>> for piece in ([[1.0], [2.0]], [[3.0], [6.0]]):
        ...     moments.add(np.array(piece))
        >>> moments.mean.tolist(), moments.std.tolist()
        ([3.0], [1.8708286933869707])
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.count = 0
        self.low = np.full(width, np.inf)
        self.high = np.full(width, -np.inf)
        self.mean = np.zeros(width)
        self._squares = np.zeros(width)

    @property
    def std(self) -> np.ndarray:
        """Deviation of each dimension (population: divided by the number of rows)."""
        return np.sqrt(self._squares / max(1, self.count))

    def add(self, rows: np.ndarray) -> None:
        """Add rows (L, width); L of 0 changes nothing."""
        if not len(rows):
            return

        values = rows.astype(np.float64)
        mean = values.mean(0)
        total = self.count + len(values)
        delta = mean - self.mean
        self._squares += ((values - mean) ** 2).sum(0) + delta**2 * self.count * len(values) / total
        self.mean = self.mean + delta * len(values) / total
        self.count = total
        self.low = np.minimum(self.low, values.min(0))
        self.high = np.maximum(self.high, values.max(0))

    def as_json(self) -> dict[str, Any]:
        """Return a JSON object; only after rows were added."""
        lists = {"min": self.low, "max": self.high, "mean": self.mean, "std": self.std}
        return {
            "width": self.width,
            "frames": self.count,
            **{name: value.tolist() for name, value in lists.items()},
        }
