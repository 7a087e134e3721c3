"""Sources of recordings: files or whole folders, each read by the reader of its format.

A source is one file (robomimic, Minari, Isaac Lab) or one folder (a LeRobot dataset, a robot
session).  ``auto`` looks at each and picks the reader; a named reader takes everything that could
be its own, so that a damaged file is refused with a sentence and never passed over.
"""

from __future__ import annotations

import itertools
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from zprl import plugins
from zprl.data.episode import Episode
from zprl.data.findings import Finding
from zprl.errors import ConfigError

AUTO = "auto"
ACTIONS = "actions"
"""Dataset of actions that a reader reads unless another one is chosen."""
FALLBACK = "robomimic"
"""Reads a file that no reader recognises: its findings say what is wrong with it."""


class Reader(ABC):
    """Base class of the readers that are registered under ``zprl.readers``.

    A reader of a format gives it a ``name`` and ``suffixes``, and implements :meth:`owns`,
    :meth:`facts` and :meth:`read_source`.

    Args:
        obs_keys: Observation keys to read, in order, images too; ``None`` for all keys of state.

    Attributes:
        name: Name under which it is registered.
        suffixes: Endings of files that may be its own; empty where a source is a folder.
        actions_key: Dataset of actions to read; ``None`` for a format with one kind of actions.
        first: Read only so many episodes or findings of each source; ``None`` for all.
    """

    name: str
    suffixes: tuple[str, ...] = ()
    actions_key: str | None = None

    def __init__(self, *, obs_keys: Sequence[str] | None = None) -> None:
        self.obs_keys = None if obs_keys is None else tuple(obs_keys)
        self.first: int | None = None

    @abstractmethod
    def owns(self, path: Path) -> bool:
        """Tell whether a file, or a folder, looks like a source of this format; never raise."""

    @abstractmethod
    def facts(self, path: Path) -> dict[str, str]:
        """Return what a source says of itself: format, rate, robot, simulator; never raise.

        They name what the reader converts, too.
        """

    @abstractmethod
    def read_source(self, path: Path) -> Iterator[Episode | Finding]:
        """Yield all episodes and findings; never raise for what a source holds."""

    def image_sizes(self, path: Path) -> dict[str, tuple[int, int]]:
        """Return height and width of a source's images, by key, without reading them.

        Empty where there are none, or where the format does not say it.
        """
        return {}

    def read(self, path: Path | str) -> Iterator[Episode | Finding]:
        """Yield the episodes and findings of a source, as far as :attr:`first` goes."""
        yield from itertools.islice(self.read_source(Path(path)), self.first)


@dataclass(frozen=True)
class Source:
    """One file or folder and its reader."""

    path: Path
    reader: Reader


def find_sources(
    root: Path | str,
    *,
    reader: str = AUTO,
    obs_keys: Sequence[str] | None = None,
    actions: str = ACTIONS,
) -> list[Source]:
    """Return every source at or below ``root``, in a fixed order.

    Args:
        root: A source, or a folder of any depth; hidden folders are left out.
        reader: A registered reader, or ``auto``.
        obs_keys: Observation keys to read, in order; ``None`` for all keys of state.
        actions: Dataset of actions to read, for readers with an ``actions_key``.

    Raises:
        ConfigError: no reader has this name, or other actions are asked of a reader that has one
            kind only.
    """
    names = plugins.names("readers") if reader == AUTO else [reader]
    readers: list[Reader] = [plugins.load("readers", name)(obs_keys=obs_keys) for name in names]
    sources = [
        Source(path, owner)
        for path in _walk(Path(root), readers)
        if (owner := _owner(path, readers, reader, obs_keys))
    ]

    if actions != ACTIONS:
        for source in sources:
            if source.reader.actions_key is None:
                raise ConfigError(
                    f"ingest.actions is '{actions}', but the reader {source.reader.name} of "
                    f"{source.path} knows one kind of actions",
                    remedy=f"set ingest.actions to {ACTIONS}, or keep this source elsewhere",
                )
            source.reader.actions_key = actions
    return sorted(sources, key=lambda source: source.path.as_posix())


def _walk(root: Path, readers: Sequence[Reader]) -> Iterator[Path]:
    """Yield files with a known ending and folders that are a source, whose inside is left out."""
    if root.is_file():
        yield root
        return

    suffixes = {suffix for reader in readers for suffix in reader.suffixes}
    folder_readers = [reader for reader in readers if not reader.suffixes]
    for place, inner, files in os.walk(root):
        here = Path(place)
        if any(reader.owns(here) for reader in folder_readers):
            inner.clear()
            yield here
            continue
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        yield from (here / name for name in files if Path(name).suffix in suffixes)


def _owner(
    path: Path, readers: Sequence[Reader], asked: str, obs_keys: Sequence[str] | None
) -> Reader | None:
    """Return the reader of a path; ``None`` for a path that is no source."""
    fitting = [reader for reader in readers if bool(reader.suffixes) == path.is_file()]
    if asked != AUTO:
        return fitting[0] if fitting else None

    owner = next((reader for reader in fitting if reader.owns(path)), None)
    if owner is None and path.is_file():
        fallback: Reader = plugins.load("readers", FALLBACK)(obs_keys=obs_keys)
        return fallback
    return owner
