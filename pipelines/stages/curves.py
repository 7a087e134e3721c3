"""Curves of a stage as CSV, which DVC plots."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

Row = Mapping[str, float]


def as_csv(rows: Sequence[Row]) -> str:
    """Return rows of equal keys as CSV text; floats are rounded to six decimals."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {
                key: round(value, 6) if isinstance(value, float) else value
                for key, value in row.items()
            }
        )
    return text.getvalue()
