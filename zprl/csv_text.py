"""CSV as the pipeline writes it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> str:
    """Return a header and rows as CSV text with line feeds; ``None`` is an empty cell.

    Args:
        columns: Names of the columns, in order.
        rows: Values by column.

    Raises:
        ValueError: a row has a value for no column.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
