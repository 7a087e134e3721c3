"""Episodes that one process reads for another: names as JSON, arrays as places in files.

HDF5 stores a dataset as one run of plain numbers unless its writer asks for chunks or compression.
Such an array stays in the source, and only its place is passed on; every other array is written to
a scratch file.  The second process reads runs of plain numbers from the two, so that the source's
bytes meet no library there.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from zprl import durable
from zprl.data.episode import Episode
from zprl.data.episode_buffer import PARTS
from zprl.data.findings import Finding
from zprl.data.readers.hdf5_guard import RefusedError
from zprl.data.readers.sandbox import DAMAGED

SOURCE, SCRATCH = 0, 1
"""In which of the two files an array lies."""

Identity = tuple[int, int, int, int]
"""Device, number, size and time of the last change of a file."""


class _Window(mmap.mmap):
    """A mapped part of a file.

    Attributes:
        first: Offset in the file at which it begins [bytes].
    """

    first = 0


_source: ContextVar[int | None] = ContextVar("source", default=None)


@contextmanager
def source(path: Path) -> Iterator[None]:
    """Make :func:`view` look into the file ``path`` while this is open."""
    with path.open("rb") as file:
        token = _source.set(file.fileno())
        try:
            yield
        finally:
            _source.reset(token)


def view(dataset: h5py.Dataset) -> np.ndarray | None:
    """Return a dataset's numbers as they lie in the :func:`source`; ``None`` if they are encoded.

    A number is read when it is looked at.  Only for the child of
    :mod:`zprl.data.readers.sandbox`: a file that is cut short meanwhile ends the process.
    """
    number = _source.get()
    offset = dataset.id.get_offset()  # none: in chunks, in the header, or never written
    if number is None or offset is None:
        return None
    dtype, shape, size = dataset.dtype, dataset.shape, dataset.id.get_storage_size()
    if not dtype.isnative or not size or size != dtype.itemsize * math.prod(shape):
        return None
    if offset + size > os.fstat(number).st_size:
        raise ValueError(f"{dataset.name} lies beyond the end of the file")

    # A map begins at a page, the numbers may begin inside it.
    first = offset - offset % mmap.ALLOCATIONGRANULARITY
    try:
        window = _Window(number, offset + size - first, access=mmap.ACCESS_READ, offset=first)
    except OSError:  # not every file system has maps
        return None
    window.first = first
    return np.ndarray(shape, dtype, window, offset - first)


def place(value: np.ndarray) -> int | None:
    """Return the offset in its file of a contiguous part of a :func:`view` [bytes].

    ``None`` for any other array.
    """
    owner = value
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    if not isinstance(owner.base, _Window) or not value.flags.c_contiguous:
        return None
    start = np.frombuffer(owner.base, np.uint8).__array_interface__["data"][0]
    return int(owner.base.first + value.__array_interface__["data"][0] - start)


def read_array(number: int, dtype: str, shape: Sequence[int], offset: int) -> np.ndarray:
    """Read an array from an open file, read-only.

    Args:
        number: The file's descriptor.
        dtype: Type of the numbers, in NumPy's notation.
        shape: Shape of the array.
        offset: Where it begins [bytes].

    Raises:
        EOFError: the file ends before the array does.
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
    """Return what tells an open file from another one, and from itself after a change."""
    status = os.fstat(number)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def hand_over(items: Iterable[Episode | Finding], file: BinaryIO, source: Path) -> dict[str, Any]:
    """Write the arrays of episodes to ``file``; return the rest for :class:`Handed`.

    Args:
        items: What a reader yields for ``source``.
        file: An empty file, for the arrays that do not lie in the source as they are wanted.
        source: The file that is read.

    Raises:
        RefusedError: a part is damaged (D01), which puts the whole source in doubt.
        EnvironmentProblem: there is no room for the arrays, or the source cannot be opened.
    """
    rows: list[Any] = []
    size = 0
    with durable.explained(source), source.open("rb") as opened:
        before = identity(opened.fileno())

    for item in items:
        if isinstance(item, Finding):
            if item.code == "D01":
                raise RefusedError("D01", item.message, DAMAGED)
            rows.append(item.as_json())
            continue

        places = []
        for value in (*item.obs.values(), item.actions, item.rewards, item.dones):
            where, offset = SOURCE, place(value)
            if offset is None:
                where, offset = SCRATCH, size
                with durable.explained(Path(str(file.name))):
                    size += file.write(np.ascontiguousarray(value).data)
            places.append((value.dtype.str, value.shape, where, offset))
        success = bool(item.success)
        rows.append([item.name, success, item.quality, item.rate_hz, list(item.obs), places])

    with durable.explained(Path(str(file.name))):
        file.flush()
    return {"items": rows, "identity": before}


class Handed:
    """Episodes and findings that another process has read.

    An episode's arrays are read when its turn comes.

    Args:
        file: The file given to :func:`hand_over`.
        answer: What that returned.
    """

    def __init__(self, file: BinaryIO, answer: dict[str, Any]) -> None:
        self._file = file
        self._rows = answer["items"]
        self._identity = tuple(answer["identity"])

    def items(self, path: Path) -> Iterator[Episode | Finding]:
        """Yield them in the order they were read in; findings name the source ``path``.

        The last one is D01 if the source has changed meanwhile.
        """
        try:
            with path.open("rb") as source:
                numbers = {SOURCE: source.fileno(), SCRATCH: self._file.fileno()}
                if identity(source.fileno()) != self._identity:
                    raise EOFError("it changed while it was read")
                for row in self._rows:
                    if isinstance(row, dict):
                        yield replace(Finding(**row), file=path.as_posix())
                    else:
                        yield _episode(row, numbers)
        except (OSError, EOFError) as error:
            yield Finding("D01", "error", path.as_posix(), str(error), DAMAGED)


def _episode(row: Sequence[Any], numbers: dict[int, int]) -> Episode:
    """Read one episode from the two open files."""
    name, success, quality, rate_hz, keys, places = row
    arrays = [
        read_array(numbers[where], dtype, shape, offset) for dtype, shape, where, offset in places
    ]
    parts = dict(zip(PARTS, arrays[len(keys) :], strict=True))
    return Episode(
        name=name,
        obs=dict(zip(keys, arrays, strict=False)),
        **parts,
        success=success,
        quality=quality,
        rate_hz=rate_hz,
    )
