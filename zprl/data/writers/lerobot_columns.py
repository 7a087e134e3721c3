"""Columns of a LeRobot dataset: their types in Parquet, their statistics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

Columns = Mapping[str, np.ndarray]
"""Per feature one row per frame: (L,) or (L, d)."""

Feature = dict[str, Any]
"""``dtype``, ``shape`` and ``names``, as in ``info.json``."""

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
"""LeRobot's."""


def stats_of(columns: Columns) -> dict[str, dict[str, list[float]]]:
    """Return extremes, mean, deviation, count and quantiles by column.

    Each is a list of the column's width.
    """
    stats = {}
    for column, value in columns.items():
        rows = value.astype(np.float64).reshape(len(value), -1)
        numbers = {
            "min": rows.min(0),
            "max": rows.max(0),
            "mean": rows.mean(0),
            "std": rows.std(0),
            "count": np.array([len(rows)]),
        }
        numbers |= {name: np.quantile(rows, q, axis=0) for name, q in QUANTILES.items()}
        stats[column] = {key: number.tolist() for key, number in numbers.items()}
    return stats


def flat(value: np.ndarray) -> np.ndarray:
    """Return a vector of one number as a number, as LeRobot stores it."""
    return value[:, 0] if value.ndim == 2 and value.shape[1] == 1 else value


def arrow_type(feature: Feature) -> pa.DataType:
    """Return the Arrow type that stores a feature."""
    import pyarrow as pa

    if feature["dtype"] == "image":
        return pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    kind = pa.bool_() if feature["dtype"] == "bool" else pa.type_for_alias(feature["dtype"])
    return kind if feature["shape"] == [1] else pa.list_(kind, feature["shape"][0])


def arrow_array(value: np.ndarray, kind: pa.DataType) -> pa.Array:
    """Return values (L,) or (L, d) as a column."""
    import pyarrow as pa

    if value.ndim == 1:
        return pa.array(value, kind)
    numbers = pa.array(np.ascontiguousarray(value).reshape(-1), kind.value_type)
    return pa.FixedSizeListArray.from_arrays(numbers, type=kind)


def numpy_array(column: pa.ChunkedArray) -> np.ndarray:
    """Return a column as values (L, d): the opposite of :func:`arrow_array`."""
    array = column.combine_chunks()
    flat = array.flatten() if hasattr(array.type, "list_size") else array
    numbers: np.ndarray = flat.to_numpy(zero_copy_only=False)
    return numbers.reshape(len(array), -1)
