"""Large arrays to disk piece by piece, as safetensors and ``.npy`` files.

The safetensors library serialises from memory only.  Its format is an 8-byte length, a JSON header
padded with spaces to a multiple of 8 bytes, and the tensors' bytes, wide types first and then by
name (https://huggingface.co/docs/safetensors): these are the bytes it would write itself.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from zprl import durable

ALIGN = 8
"""The header ends at a multiple of so many bytes."""
TYPES = {"float32": "F32", "uint8": "U8", "bool": "BOOL"}
"""Names of the types that are stored, in the library's order."""


@dataclass(frozen=True)
class ArrayWriter:
    """An array that comes in parts, joined along the first dimension.

    Attributes:
        dtype: ``float32``, ``uint8`` or ``bool``.
        shape: Shape of the whole.
        parts: Each with the shape of the whole but for its first dimension; read once.
    """

    dtype: str
    shape: tuple[int, ...]
    parts: Iterable[np.ndarray]

    def write(self, file: BinaryIO) -> None:
        """Write all bytes, or raise :class:`ValueError` when the parts do not make up the whole."""
        rows = 0
        for part in self.parts:
            if part.shape[1:] != self.shape[1:]:
                raise ValueError(f"a part of shape {part.shape} in an array of shape {self.shape}")
            rows += len(part)
            file.write(np.ascontiguousarray(part, dtype=self.dtype).data)
        if rows != self.shape[0]:
            raise ValueError(f"{rows} rows in an array of shape {self.shape}")


def write_safetensors(path: Path | str, stacks: Mapping[str, ArrayWriter]) -> None:
    """Replace ``path`` with a safetensors file, piece by piece.

    The bytes are those that :func:`zprl.durable.write_tensors` makes of the same arrays.
    """
    ranks = list(TYPES)
    ordered = sorted(stacks, key=lambda name: (ranks.index(stacks[name].dtype), name.encode()))

    header = {}
    start = 0
    for name in ordered:
        stack = stacks[name]
        stop = start + math.prod(stack.shape) * np.dtype(stack.dtype).itemsize
        header[name] = {
            "dtype": TYPES[stack.dtype],
            "shape": list(stack.shape),
            "data_offsets": [start, stop],
        }
        start = stop

    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGN)
    with durable.replacing(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in ordered:
            stacks[name].write(file)


def write_npy(path: Path | str, stack: ArrayWriter) -> None:
    """Replace ``path`` with a ``.npy`` file; the bytes are those that :func:`numpy.save` makes."""
    with durable.replacing(path) as file:
        descr = np.lib.format.dtype_to_descr(np.dtype(stack.dtype))
        np.lib.format.write_array_header_1_0(
            file, {"descr": descr, "fortran_order": False, "shape": stack.shape}
        )
        stack.write(file)
