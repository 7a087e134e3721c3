"""Where recordings lie: files or whole folders, each read by the reader of its format.

A source is one file (robomimic, Minari, Isaac Lab) or one folder (a LeRobot dataset, a robot
session).  ``auto`` looks at each and picks the reader; a named reader takes everything that could
be its own, so that a damaged file is refused aloud and never passed over.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from zprl import plugins
from zprl.data.episode import Episode
from zprl.data.findings import Finding
from zprl.errors import ConfigError

AUTO = "auto"
ACTIONS = "actions"
"""Dataset of actions that a reader reads unless told otherwise."""
FALLBACK = "robomimic"
"""Reads a file that no reader recognises: it says what is wrong with it."""


class Reader(Protocol):
    """What a class registered under ``zprl.readers`` looks like; it is made with ``obs_keys`` (or ``None`` for all keys of state).

    Attributes:
        name: Under which it is registered.
        suffixes: Of files that may be its own; empty where a source is a folder.

    Two things more make large recordings pleasant, where a reader has them: an attribute ``first``
        (read only so many episodes or defects; ``None`` for all) and a method
        ``image_sizes(path)`` (height and width of the pictures, by key, without reading them).
    """

    name: str
    suffixes: tuple[str, ...]

    def __init__(self, *, obs_keys: Sequence[str] | None = None) -> None: ...

    def owns(self, path: Path) -> bool:
        """Whether a file, or a folder, looks like a source of this format; never raises."""
        ...

    def facts(self, path: Path) -> dict[str, str]:
        """What a source says of itself (format, rate, robot, simulator), and what was converted at the door; never raises."""
        ...

    def read(self, path: Path | str) -> Iterator[Episode | Finding]:
        """Yield episodes and findings; never raise for what a source holds."""
        ...


@dataclass(frozen=True)
class Source:
    """One file or folder and who reads it."""

    path: Path
    reader: Reader


def find_sources(
    root: Path | str,
    *,
    reader: str = AUTO,
    obs_keys: Sequence[str] | None = None,
    actions: str = ACTIONS,
) -> list[Source]:
    """Every source at or below ``root``, in a fixed order.

    Args:
        root: A source, or a folder of any depth; hidden folders are left out.
        reader: A registered reader, or ``auto``.
        obs_keys: Observation keys to read, in order; ``None`` for all keys of state.
        actions: Dataset of actions to read, for readers with an attribute ``actions_key``.

    Raises:
        ConfigError: no reader has this name, or other actions are asked of a reader that has one
            kind only.
    """
    names = plugins.names("readers") if reader == AUTO else [reader]
    readers = [plugins.load("readers", name)(obs_keys=obs_keys) for name in names]
    found = [
        Source(path, owner)
        for path in _walk(Path(root), readers)
        if (owner := _owner(path, readers, reader, obs_keys))
    ]
    if actions != ACTIONS:
        for source in found:
            if not hasattr(source.reader, "actions_key"):
                raise ConfigError(
                    f"ingest.actions is '{actions}', but the reader {source.reader.name} of {source.path} knows one kind of actions",
                    remedy=f"set ingest.actions to {ACTIONS}, or keep this source elsewhere",
                )
            source.reader.actions_key = actions
    return sorted(found, key=lambda source: source.path.as_posix())


def _walk(root: Path, readers: Sequence[Reader]) -> Iterator[Path]:
    """Files with a known ending, and folders that are a source, whose inside is not looked into."""
    if root.is_file():
        yield root
        return
    suffixes = {suffix for reader in readers for suffix in reader.suffixes}
    folders = [reader for reader in readers if not reader.suffixes]
    for place, inner, files in os.walk(root):
        here = Path(place)
        if any(reader.owns(here) for reader in folders):
            inner.clear()
            yield here
            continue
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        yield from (here / name for name in files if Path(name).suffix in suffixes)


def _owner(
    path: Path, readers: Sequence[Reader], asked: str, obs_keys: Sequence[str] | None
) -> Reader | None:
    fitting = [reader for reader in readers if bool(reader.suffixes) == path.is_file()]
    if asked != AUTO:
        return fitting[0] if fitting else None
    owner = next((reader for reader in fitting if reader.owns(path)), None)
    return owner or (
        plugins.load("readers", FALLBACK)(obs_keys=obs_keys) if path.is_file() else None
    )
