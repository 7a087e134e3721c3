"""Base of the readers of HDF5 files: reading in a child process, checked arrays, findings."""

from __future__ import annotations

import itertools
import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

import h5py
import numpy as np

from zprl import durable, plugins
from zprl.data.episode import Episode
from zprl.data.findings import Finding
from zprl.data.readers import handover, sandbox
from zprl.data.readers.hdf5_guard import RefusedError, check_dataset, member
from zprl.data.sources import ACTIONS, Reader
from zprl.errors import EnvironmentProblem
from zprl.suggestions import did_you_mean

IMAGE_RANK = 4
"""Dimensions of a series of images: frames, height, width, colours."""


class Hdf5Reader(Reader):
    """Yields an :class:`Episode` per good demo and a :class:`Finding` per defect.

    It never raises for what a file holds.  A reader of a format gives it a ``name``, under which
    it is registered, and implements :meth:`owns_file`, :meth:`facts_of` and :meth:`read_file`.

    Args:
        obs_keys: Observation keys to read, in order, images too; ``None`` reads every key of
            state (images are skipped).
        actions_key: Dataset of actions to read.
    """

    suffixes = (".hdf5", ".h5")
    actions_key: str

    def __init__(
        self, *, obs_keys: Sequence[str] | None = None, actions_key: str = ACTIONS
    ) -> None:
        super().__init__(obs_keys=obs_keys)
        self.actions_key = actions_key

    def owns(self, path: Path) -> bool:
        """Tell whether a file looks like this format.

        A child process looks at it, because damaged bytes may hang.
        """
        return (
            path.suffix in self.suffixes
            and path.is_file()
            and self._ask_child("owns_in_child", path) is True
        )

    def facts(self, path: Path) -> dict[str, str]:
        """Return what the file says of itself, and which actions are read if others than usual."""
        facts = self._ask_child("facts_in_child", path)
        chosen = {} if self.actions_key == ACTIONS else {"actions read": self.actions_key}
        return (facts if isinstance(facts, dict) else {}) | chosen

    def image_sizes(self, path: Path) -> dict[str, tuple[int, int]]:
        """Return height and width of the images of the first recording, by key.

        Empty where the file cannot be read.
        """
        try:
            sizes = sandbox.PROBE.call(
                "zprl.data.readers.hdf5_cameras:hdf5_image_sizes",
                limit_s=sandbox.BASE_S,
                path=str(path.absolute()),
            )
        except RefusedError:  # `read` says what is wrong
            return {}
        return {key: (height, width) for key, (height, width) in sizes.items()}

    def read_source(self, path: Path) -> Iterator[Episode | Finding]:
        """Read one file in a child process; episodes in their natural order (demo_2, demo_10)."""
        if not path.exists():
            yield self.finding(path, "D01", "the file does not exist", sandbox.DAMAGED)
            return

        file = durable.scratch()
        try:
            answer = sandbox.PROBE.call(
                f"{__name__}:read_in_child",
                limit_s=sandbox.limit_for(path),
                file=file,
                path=str(path.absolute()),
                reader=self.name,
                obs_keys=self.obs_keys,
                actions_key=self.actions_key,
                first=self.first,
            )
        except RefusedError as error:
            yield self.refusal(path, error)
            return
        yield from handover.Handed(file, answer).items(path)

    def read_here(self, path: Path) -> Iterator[Episode | Finding]:
        """Read in this very process, which damaged bytes may hang or end: for the child."""
        try:
            file = h5py.File(path, "r")
        except Exception as error:  # noqa: BLE001 - damaged bytes raise almost any type
            size = path.stat().st_size
            yield self.finding(
                path,
                "D01",
                f"not a readable HDF5 file ({size} bytes): {short(error)}",
                "copy it again from its source",
            )
            return
        with file, handover.source(path):
            yield from itertools.islice(self.read_file(file, path), self.first)

    @abstractmethod
    def owns_file(self, file: h5py.File) -> bool:
        """Tell whether an open file looks like this format."""

    def facts_of(self, file: h5py.File) -> dict[str, str]:
        """Return what an open file says of itself."""
        return {}

    @abstractmethod
    def read_file(self, file: h5py.File, path: Path) -> Iterator[Episode | Finding]:
        """Read an open file."""

    def wanted(self, available: Sequence[str], states: Sequence[str]) -> list[str]:
        """Return the keys to read: those asked for, else all ``states``.

        Raises:
            RefusedError: one is not among the ``available`` (D22).
        """
        if self.obs_keys is None:
            return list(states)
        missing = [key for key in self.obs_keys if key not in available]
        if missing:
            hint = did_you_mean(missing[0], available) or "correct ingest.obs_keys"
            raise RefusedError(
                "D22",
                f"observation '{missing[0]}' is missing; there are {', '.join(available)}",
                hint,
            )
        return list(self.obs_keys)

    def refusal(self, path: Path, error: Exception, *, episode: str | None = None) -> Finding:
        """Return an error while reading as a finding."""
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
        """Return one finding in this file."""
        return Finding(code, severity, path.as_posix(), message, remedy, episode)

    def _ask_child(self, function: str, path: Path) -> Any:
        """Return a function's answer for a file; ``None`` where looking at it does not end well."""
        try:
            return sandbox.PROBE.call(
                f"{__name__}:{function}",
                limit_s=sandbox.BASE_S,
                path=str(path.absolute()),
                reader=self.name,
            )
        except (RefusedError, EnvironmentProblem):
            return None


# -- called by the sandbox, in the child -----------------------------------------------------------


def owns_in_child(path: str, reader: str) -> bool:
    """Tell whether a file looks like the format of a registered reader."""
    made: Hdf5Reader = plugins.load("readers", reader)()
    with h5py.File(path, "r") as file:
        return made.owns_file(file)


def facts_in_child(path: str, reader: str) -> dict[str, str]:
    """Return what a file says of itself to a registered reader."""
    made: Hdf5Reader = plugins.load("readers", reader)()
    with h5py.File(path, "r") as file:
        return made.facts_of(file)


def read_in_child(
    path: str,
    reader: str,
    obs_keys: Sequence[str] | None,
    actions_key: str,
    first: int | None,
    file: BinaryIO,
) -> dict[str, Any]:
    """Read a file with a registered reader and hand its episodes over, see :mod:`handover`."""
    made: Hdf5Reader = plugins.load("readers", reader)(obs_keys=obs_keys)
    made.actions_key = actions_key
    made.first = first
    return handover.hand_over(made.read_here(Path(path)), file, Path(path))


# -- checked arrays --------------------------------------------------------------------------------


def numbers(
    parent: h5py.Group,
    name: str,
    *,
    rank: int,
    length: object,
    length_source: str = "num_samples",
    node: h5py.Group | h5py.Dataset | None = None,
) -> np.ndarray | None:
    """Read a dataset as float32 of the given rank and length; ``None`` if it is missing.

    Args:
        parent: The group that holds it.
        name: Its name there.
        rank: 2 for vectors (L, d), 1 for single numbers (L,).
        length: L.
        length_source: What says so, for the message.
        node: What :func:`zprl.data.readers.hdf5_guard.member` returned, where the caller has
            looked already.

    Raises:
        RefusedError: D03, D05, D16, D17 or D19.
    """
    node = member(parent, name) if node is None else node
    if node is None:
        return None

    path = f"{parent.name}/{name}"
    dataset = check_dataset(node, path)
    shape, dtype = dataset.shape, dataset.dtype
    # One number per frame may be stored without its width of 1.
    single = rank == 2 and shape is not None and len(shape) == 1
    if (
        shape is None
        or dtype.kind not in "fiub"
        or not (len(shape) == rank or single)
        or 0 in shape[1:]
    ):
        wanted = "(frames, width)" if rank == 2 else "(frames,)"
        remedy = (
            "store state as numbers (frames, width), images as uint8 (frames, height, width, 3)"
        )
        raise RefusedError("D05", f"{path} is {dtype} {shape}, expected numbers {wanted}", remedy)
    _check_length(path, shape[0], length, length_source)

    # A number beyond float32 becomes infinity, which the checks report as D04.
    with np.errstate(over="ignore", invalid="ignore"):
        value = _all(dataset).astype(np.float32, copy=False)
    return value[:, None] if single else value


def images(
    parent: h5py.Group,
    name: str,
    *,
    length: object,
    length_source: str = "num_samples",
    node: h5py.Group | h5py.Dataset | None = None,
) -> np.ndarray | None:
    """Read a dataset of images, (L, H, W, 3) uint8; ``None`` if it holds none.

    The arguments are those of :func:`numbers`.
    """
    node = member(parent, name) if node is None else node
    if not isinstance(node, h5py.Dataset):
        return None
    shape = node.shape
    if (
        shape is None
        or len(shape) != IMAGE_RANK
        or shape[3] != 3
        or 0 in shape[1:]
        or node.dtype != np.uint8
    ):
        return None
    path = f"{parent.name}/{name}"
    check_dataset(node, path)
    _check_length(path, shape[0], length, length_source)
    return _all(node)


def _all(dataset: h5py.Dataset) -> np.ndarray:
    value = handover.view(dataset)
    return np.asarray(dataset[()]) if value is None else value


def _check_length(path: str, frames: int, length: object, length_source: str) -> None:
    if frames != length:
        raise RefusedError(
            "D03",
            f"{path} has {frames} frames, {length_source} says {length}",
            "repair or re-record the demo",
        )


def natural(name: str) -> tuple[int, str]:
    """Return a sort key that puts demo_2 before demo_10."""
    number = re.search(r"(\d{1,18})$", name)
    return (int(number.group(1)) if number else -1, name)


def short(error: Exception) -> str:
    """Return the first line of an error's message, or its type."""
    return (str(error).splitlines() or [type(error).__name__])[0][: sandbox.MAX_SENTENCE]
