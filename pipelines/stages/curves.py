"""Curves of a stage as CSV, which DVC plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from zprl.csv_text import csv_text

Row = Mapping[str, float]


def as_csv(rows: Sequence[Row]) -> str:
    """Return rows of equal keys as CSV text; floats are rounded to six decimals."""
    return csv_text(
        list(rows[0]),
        (
            {
                key: round(value, 6) if isinstance(value, float) else value
                for key, value in row.items()
            }
            for row in rows
        ),
    )
