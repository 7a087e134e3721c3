"""Training curves: means over each logging interval, kept through interruptions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zprl.csv_text import csv_text
from zprl.offline.losses import Losses

COLUMNS = {
    "total": "loss",
    "base": "base_loss",
    "vib": "vib_loss",
    "kl": "kl",
    "reconstruction": "reconstruction",
}
"""Losses that are reported, under the names of the metrics."""


class Curves:
    """Rows of metrics and the sums of the interval under way.

    Attributes:
        rows: One mapping per logging interval: ``step`` and metrics.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self._sums: Tensor = torch.zeros(len(Losses.names()), dtype=torch.float64)
        self._count = 0

    def add(self, losses: Tensor) -> None:
        """Add one step's :meth:`Losses.stacked`."""
        self._sums = self._sums.to(losses.device) + losses.to(torch.float64)
        self._count += 1

    def close_row(self, step: int, **more: float) -> dict[str, float]:
        """End the interval: append and return the row of its means, with ``more`` columns."""
        means = dict(zip(Losses.names(), (self._sums / self._count).tolist(), strict=True))
        row = {"step": step, **{column: means[name] for name, column in COLUMNS.items()}, **more}
        self.rows.append(row)
        self._sums, self._count = torch.zeros_like(self._sums), 0
        return row

    def csv(self) -> str:
        """Return the rows as CSV, six significant digits: a DVC plot."""
        columns = list(self.rows[0]) if self.rows else ["step"]
        return csv_text(
            columns,
            ({k: v if k == "step" else f"{v:.6g}" for k, v in row.items()} for row in self.rows),
        )

    def state(self) -> dict[str, Any]:
        """Return a JSON value; Python writes floats so that they read back exactly."""
        return {"rows": self.rows, "sums": self._sums.tolist(), "count": self._count}

    @classmethod
    def of(cls, state: dict[str, Any]) -> Curves:
        """Rebuild from :meth:`state`."""
        curves = cls()
        # JSON objects come back with sorted keys; the columns' order is fixed here.
        order = ["step", *COLUMNS.values()]
        curves.rows = [
            {k: row[k] for k in (*order, *sorted(row.keys() - set(order)))} for row in state["rows"]
        ]

        curves._sums = torch.tensor(state["sums"], dtype=torch.float64)
        curves._count = int(state["count"])
        return curves
