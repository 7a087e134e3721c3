"""Episodes on disk instead of in memory: appended one by one, read back lazily.

The file has no name, so nothing is left to clean up however the process ends.  Arrays read back are
views of the mapped file: the pages of an episode are read when its numbers are looked at, and given
back soon after.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from zprl import durable
from zprl.data.episode import Episode

ALIGN = 8
RESIDENT_BYTES = 32 * 2**20
"""Bytes of episodes handed out before their pages are given back."""

Layout = tuple[tuple[str, str, tuple[int, ...]], ...]
"""Key, type and shape of a frame of each array in the file; episodes of one robot share it."""

PARTS = ("actions", "rewards", "dones")
"""Arrays behind the observations."""


class EpisodeBuffer(Sequence[Episode]):
    """A growing sequence of episodes in a file; those read back have read-only arrays.

    Args:
        folder: The file lies on its disk; ``None`` for that of temporary files.

    Example:
        >>> column = np.zeros((3, 1), np.float32)
        >>> buffer = EpisodeBuffer()
        >>> ends = column[:, 0] > 0
        >>> buffer.append(Episode("a/demo_0", {"x": column}, column, column[:, 0], ends, True))
        >>> len(buffer), buffer[0].name, buffer[-1].obs["x"].shape
        (1, 'a/demo_0', (3, 1))
    """

    def __init__(self, folder: Path | str | None = None) -> None:
        self._file = durable.scratch(folder)
        self._layouts: dict[Layout, Layout] = {}
        self._rows: list[tuple[str, bool, str, float | None, int, int, Layout]] = []
        self._map: mmap.mmap | None = None
        self._handed = 0
        self._size = 0

    def append(self, episode: Episode) -> None:
        """Write one episode.

        Raises:
            EnvironmentProblem: the disk is full.
        """
        parts = (episode.actions, episode.rewards, episode.dones)
        arrays = {**episode.obs, **{f"\0{n}": v for n, v in zip(PARTS, parts, strict=True)}}
        layout = [(key, value.dtype.str, value.shape[1:]) for key, value in arrays.items()]
        start = self._size
        with durable.explained(Path(str(self._file.name))):
            for value in arrays.values():
                self._size += self._file.write(np.ascontiguousarray(value).data)
                self._size += self._file.write(bytes(-self._size % ALIGN))
        facts = (
            episode.name,
            bool(episode.success),
            episode.quality,
            episode.rate_hz,
            episode.length,
            start,
        )
        self._rows.append((*facts, self._shared(layout)))

    def _shared(self, layout: Sequence[Sequence[Any]]) -> Layout:
        """Return one object for all episodes that are alike."""
        wanted = tuple(
            (str(key), str(dtype), tuple(map(int, shape))) for key, dtype, shape in layout
        )
        return self._layouts.setdefault(wanted, wanted)

    def _mapped(self) -> mmap.mmap | bytes:
        """Return all bytes written so far, as a map of the file."""
        if self._size == 0:
            return b""  # a file of nothing cannot be mapped
        if self._map is None or len(self._map) < self._size:
            with durable.explained(Path(str(self._file.name))):
                self._file.flush()
            self._map = mmap.mmap(self._file.fileno(), self._size, access=mmap.ACCESS_READ)
        if self._handed > RESIDENT_BYTES and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)  # a page that is looked at again is read again
            self._handed = 0
        return self._map

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Episode: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Episode]: ...
    def __getitem__(self, index: int | slice) -> Episode | Sequence[Episode]:
        if isinstance(index, slice):
            return BufferSubset(self, range(len(self))[index])
        name, success, quality, rate_hz, length, start, layout = self._rows[index]

        source = self._mapped()
        arrays = {}
        for key, dtype, shape in layout:
            arrays[key] = np.ndarray((length, *shape), dtype, source, start)
            size = arrays[key].nbytes
            start += size + -size % ALIGN
            self._handed += size
        parts = {part: arrays.pop(f"\0{part}") for part in PARTS}
        return Episode(
            name=name, obs=arrays, **parts, success=success, quality=quality, rate_hz=rate_hz
        )


class BufferSubset(Sequence[Episode]):
    """Some episodes of a sequence by their numbers, read as lazily as the sequence itself."""

    def __init__(self, episodes: Sequence[Episode], numbers: Sequence[int]) -> None:
        self._episodes = episodes
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> Episode: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Episode]: ...
    def __getitem__(self, index: int | slice) -> Episode | Sequence[Episode]:
        if isinstance(index, slice):
            return BufferSubset(self._episodes, self._numbers[index])
        return self._episodes[self._numbers[index]]

    def __iter__(self) -> Iterator[Episode]:
        return (self._episodes[number] for number in self._numbers)
