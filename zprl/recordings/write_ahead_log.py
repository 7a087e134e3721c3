"""The write-ahead file of an open episode: rows of arrays, readable up to the last whole one.

A record is a kind (one letter), the length and CRC-32 of what follows, and a safetensors document
of the row's arrays.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zprl.errors import DataError

HEAD = struct.Struct("<cII")
MAX_ROW_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Row:
    """One record: a letter and arrays by name."""

    kind: str
    arrays: dict[str, np.ndarray]


def encode(kind: str, arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return a row as bytes."""
    from safetensors.numpy import save

    data = save({name: np.asarray(value, order="C") for name, value in arrays.items()})
    return HEAD.pack(kind.encode(), len(data), zlib.crc32(data)) + data


def read(path: Path) -> tuple[list[Row], int]:
    """Return all whole rows of a file, and their size in bytes; a kill tore what follows.

    Raises:
        DataError: a row is whole and no row of an episode.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    data = path.read_bytes()
    rows: list[Row] = []
    place = 0

    while place + HEAD.size <= len(data):
        kind, size, check = HEAD.unpack_from(data, place)
        body = data[place + HEAD.size : place + HEAD.size + size]
        if size > MAX_ROW_BYTES or len(body) < size or zlib.crc32(body) != check:
            break

        try:
            rows.append(Row(kind.decode("ascii"), load(body)))
        except (SafetensorError, UnicodeDecodeError, KeyError) as error:
            raise DataError(
                f"{path}, row {len(rows) + 1} is damaged: {error}",
                remedy="discard the open episode",
            ) from error
        place += HEAD.size + size
    return rows, place
