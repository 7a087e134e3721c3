"""Arrays that lie in a file just as they are wanted: the process that tries the file need not read them, only say where they lie.

HDF5 stores a dataset as one run of plain numbers unless it is told to cut or compress it.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import h5py
import numpy as np

Identity = tuple[int, int, int, int]
"""Device, number, size and time of the last change of a file."""


class _Window(mmap.mmap):
    """A mapped part of a file.

    Attributes:
        first: Where in the file it begins.
    """

    first = 0


_source: ContextVar[int | None] = ContextVar("source", default=None)


@contextmanager
def source(path: Path) -> Iterator[None]:
    """While this is open :func:`view` looks into the file ``path``."""
    with path.open("rb") as file:
        token = _source.set(file.fileno())
        try:
            yield
        finally:
            _source.reset(token)


def view(dataset: h5py.Dataset) -> np.ndarray | None:
    """The numbers of a dataset of the :func:`source` as they lie there, read when they are looked at; ``None`` if they must be decoded.

    To be looked at only in the child of :mod:`zprl.data.readers.sandbox`: a file that is cut short
    meanwhile ends the process.
    """
    number, offset = (
        _source.get(),
        dataset.id.get_offset(),
    )  # no offset: in chunks, in the header, or never written
    if number is None or offset is None:
        return None
    dtype, shape, size = dataset.dtype, dataset.shape, dataset.id.get_storage_size()
    if not dtype.isnative or not size or size != dtype.itemsize * math.prod(shape):
        return None
    first = offset - offset % mmap.ALLOCATIONGRANULARITY
    if offset + size > os.fstat(number).st_size:
        raise ValueError(f"{dataset.name} lies beyond the end of the file")
    try:
        window = _Window(number, offset + size - first, access=mmap.ACCESS_READ, offset=first)
    except OSError:  # not every file system has maps
        return None
    window.first = first
    return np.ndarray(shape, dtype, window, offset - first)


def place(value: np.ndarray) -> int | None:
    """Where in its file a contiguous part of a :func:`view` lies, ``None`` for any other array."""
    owner = value
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    if not isinstance(owner.base, _Window) or not value.flags.c_contiguous:
        return None
    start = np.frombuffer(owner.base, np.uint8).__array_interface__["data"][0]
    return owner.base.first + value.__array_interface__["data"][0] - start


def read(number: int, dtype: str, shape: Sequence[int], offset: int) -> np.ndarray:
    """Read an array from an open file, read-only.

    Raises:
        EOFError: the file ends before.
    """
    value = np.empty(tuple(shape), dtype)
    rest = memoryview(value).cast("B") if value.size else memoryview(b"")
    while rest:
        count = os.preadv(number, [rest], offset)
        if count == 0:
            raise EOFError("the file ends before its numbers do")
        rest, offset = rest[count:], offset + count
    value.flags.writeable = False
    return value


def identity(number: int) -> Identity:
    """What tells an open file from another one, and from itself after a change."""
    found = os.fstat(number)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
