"""What readers of HDF5 files share: a first look in a child process, arrays that are checked before they are read, findings."""

from __future__ import annotations

import difflib
import itertools
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import h5py
import numpy as np

from zprl.data.episode import Episode
from zprl.data.findings import Finding
from zprl.data.readers.handed import items
from zprl.data.readers.hdf5_guard import RefusedError, check_dataset, member
from zprl.data.readers.sandbox import BASE_S, PROBE
from zprl.data.readers.stored import source, view

Node = h5py.Group | h5py.Dataset


class Hdf5Reader(ABC):
    """Yields an :class:`Episode` per good demo and a :class:`Finding` per defect; never raises for what a file holds.

    A reader of a format gives it a ``name``, under which it is registered, and a ``read_file``.

    Args:
        obs_keys: Observation keys to read, in order, pictures too; ``None`` reads every key of
            state (pictures are skipped).
        actions_key: Dataset of actions to read.

    Attributes:
        first: Read only so many episodes or defects of each file; ``None`` for all.
    """

    name: str
    suffixes = (".hdf5", ".h5")

    def __init__(
        self, *, obs_keys: Sequence[str] | None = None, actions_key: str = "actions"
    ) -> None:
        self.obs_keys = None if obs_keys is None else tuple(obs_keys)
        self.actions_key = actions_key
        self.first: int | None = None

    def owns(self, path: Path) -> bool:
        """Whether a file looks like this format; looked at in a child process, because damaged bytes may hang."""
        return (
            path.suffix in self.suffixes
            and path.is_file()
            and PROBE.ask("owns", path, self.name) is True
        )

    def facts(self, path: Path) -> dict[str, str]:
        """What the file says of itself."""
        found = PROBE.ask("facts", path, self.name)
        chosen = {} if self.actions_key == "actions" else {"actions read": self.actions_key}
        return (found if isinstance(found, dict) else {}) | chosen

    def image_sizes(self, path: Path) -> dict[str, tuple[int, int]]:
        """Height and width of the pictures of the first recording, by key; empty where none can be told."""
        try:
            found = PROBE.call(
                "zprl.data.readers.hdf5_cameras:hdf5_image_sizes",
                limit_s=BASE_S,
                path=str(path.absolute()),
            )
        except RefusedError:  # what is wrong is said by `read`
            return {}
        return {key: (height, width) for key, (height, width) in found.items()}

    @abstractmethod
    def owns_file(self, file: h5py.File) -> bool:
        """Whether an open file looks like this format."""

    def facts_of(self, file: h5py.File) -> dict[str, str]:
        """What an open file says of itself."""
        return {}

    def read(self, path: Path | str) -> Iterator[Episode | Finding]:
        """Read one file, demos in the order of their numbers.  A damaged file is refused as a whole (D01)."""
        path = Path(path)
        yield from items(PROBE.read_as(self, path), path)

    def read_here(self, path: Path) -> Iterator[Episode | Finding]:
        """Read in this very process, which damaged bytes may hang or end: for the child of :mod:`zprl.data.readers.sandbox`."""
        try:
            file = h5py.File(path, "r")
        except Exception as error:  # h5py turns damaged bytes into almost any exception type
            size = path.stat().st_size
            yield self.finding(
                path,
                "D01",
                f"not a readable HDF5 file ({size} bytes): {short(error)}",
                "copy it again from its source",
            )
            return
        with file, source(path):
            yield from itertools.islice(self.read_file(file, path), self.first)

    @abstractmethod
    def read_file(self, file: h5py.File, path: Path) -> Iterator[Episode | Finding]:
        """Read an open file."""

    def wanted(self, available: Sequence[str], states: Sequence[str]) -> list[str]:
        """The keys to read: those asked for, else all ``states``.

        Raises:
            RefusedError: one is not among the ``available`` (D22).
        """
        if self.obs_keys is None:
            return list(states)
        missing = [key for key in self.obs_keys if key not in available]
        if missing:
            near = difflib.get_close_matches(missing[0], available, n=1)
            hint = f"did you mean '{near[0]}'?" if near else "correct ingest.obs_keys"
            raise RefusedError(
                "D22",
                f"observation '{missing[0]}' is missing; there are {', '.join(available)}",
                hint,
            )
        return list(self.obs_keys)

    def refusal(self, path: Path, error: Exception, *, episode: str | None = None) -> Finding:
        """An error while reading as a finding."""
        if isinstance(error, RefusedError):
            return self.finding(path, error.code, str(error), error.remedy, episode=episode)
        return self.finding(
            path,
            "D01",
            f"damaged HDF5 content: {short(error)}",
            "copy the file again from its source",
            episode=episode,
        )

    @staticmethod
    def finding(
        path: Path,
        code: str,
        message: str,
        remedy: str,
        *,
        episode: str | None = None,
        severity: Literal["error", "warning", "note"] = "error",
    ) -> Finding:
        """One finding in this file."""
        return Finding(code, severity, path.as_posix(), message, remedy, episode)


def numbers(
    parent: h5py.Group,
    name: str,
    *,
    rank: int,
    length: object,
    said: str = "num_samples",
    node: Node | None = None,
) -> np.ndarray | None:
    """A dataset as float32 of the given rank and length, ``None`` if it is missing, else :class:`RefusedError`.

    ``node`` is what :func:`zprl.data.readers.hdf5_guard.member` found, where the caller has looked
    already.
    """
    node = member(parent, name) if node is None else node
    if node is None:
        return None
    path = f"{parent.name}/{name}"
    dataset = check_dataset(node, path)
    shape, dtype = dataset.shape, dataset.dtype
    wanted = "(frames, width)" if rank == 2 else "(frames,)"
    single = (
        rank == 2 and shape is not None and len(shape) == 1
    )  # one number per frame, stored without its width of 1
    if (
        shape is None
        or dtype.kind not in "fiub"
        or not (len(shape) == rank or single)
        or 0 in shape[1:]
    ):
        remedy = (
            "store state as numbers (frames, width), pictures as uint8 (frames, height, width, 3)"
        )
        raise RefusedError("D05", f"{path} is {dtype} {shape}, expected numbers {wanted}", remedy)
    _same_length(path, shape[0], length, said)
    with np.errstate(
        over="ignore", invalid="ignore"
    ):  # what overflows float32 becomes infinity and is found as D04
        value = _all(dataset).astype(np.float32, copy=False)
    return value[:, None] if single else value


def pictures(
    parent: h5py.Group,
    name: str,
    *,
    length: object,
    said: str = "num_samples",
    node: Node | None = None,
) -> np.ndarray | None:
    """A dataset of pictures, (L, H, W, 3) uint8; ``None`` if it holds none.  ``node`` as for :func:`numbers`."""
    node = member(parent, name) if node is None else node
    shape = node.shape if isinstance(node, h5py.Dataset) else None
    if (
        shape is None
        or len(shape) != 4
        or shape[3] != 3
        or 0 in shape[1:]
        or node.dtype != np.uint8
    ):
        return None
    path = f"{parent.name}/{name}"
    check_dataset(node, path)
    _same_length(path, shape[0], length, said)
    return _all(node)


def _all(dataset: h5py.Dataset) -> np.ndarray:
    found = view(dataset)
    return np.asarray(dataset[()]) if found is None else found


def _same_length(path: str, frames: int, length: object, said: str) -> None:
    if frames != length:
        raise RefusedError(
            "D03",
            f"{path} has {frames} frames, {said} says {length}",
            "repair or re-record the demo",
        )


def natural(name: str) -> tuple[int, str]:
    """demo_2 before demo_10."""
    number = re.search(r"(\d{1,18})$", name)
    return (int(number.group(1)) if number else -1, name)


def short(error: Exception) -> str:
    """Its first line."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
