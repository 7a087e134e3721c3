"""Reader of LeRobot datasets, formats v2.1 and v3.0, with plain Arrow, without LeRobot and with no trust in the files.

A source is the dataset's folder.  What is read as what:

- The feature ``observation.<key>`` is the key ``<key>``.  Where the names of ``observation.state`` are all ``<key>.<index>``, it is taken
  apart into these keys (:mod:`zprl.data.writers.lerobot` joins them so).
- Pictures, videos too, are read when ``obs_keys`` names them: ``observation.images.<key>`` is the key ``<key>`` (or ``images.<key>``).
- ``action``, ``next.reward`` and ``next.done`` are actions, rewards and dones.
- Success is what the episode's row in ``meta/episodes`` says (``success``), else whether ``next.success`` is ever set, else whether
  ``next.reward`` ever reaches 1.  Where a dataset has none of them, every episode counts as a
  success, and a warning says so.
- Quality is the row's ``quality``.

Files are read one after the other, in batches, so that one episode is in memory at a time.  Damage
stays with the file it is in.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from zprl.data.episode import Episode
from zprl.data.findings import Finding
from zprl.data.readers.hdf5_guard import RefusedError
from zprl.data.readers.hdf5_reader import short
from zprl.data.readers.lerobot_episode import OffBeatError, read_episode, split_rows
from zprl.data.readers.lerobot_keys import (
    Parts,
    camera_of,
    columns_of,
    image_keys,
    state_parts,
    success_source,
    wanted,
)
from zprl.data.readers.lerobot_meta import (
    INFO,
    WHOLE,
    EpisodeMetadata,
    Info,
    inside,
    read_episodes,
    read_info,
    read_tasks,
)

MANY = 100
"""Findings of one kind that are told one by one: a stranger may list any number of episodes that
are not there."""


class LeRobotReader:
    """Yields an :class:`Episode` per good episode and a :class:`Finding` per defect; never raises for what a dataset holds.

    Args:
        obs_keys: Observation keys to read, in order, pictures too; ``None`` reads every key of
            state (pictures are skipped).

    Attributes:
        first: Read only so many episodes or defects; ``None`` for all.

    Example::

        for item in LeRobotReader(obs_keys=("state", "wrist")).read("data/demos/pusht"):
            print(item.length if isinstance(item, Episode) else item)
    """

    name = "lerobot"
    suffixes: tuple[str, ...] = ()

    def __init__(self, *, obs_keys: Sequence[str] | None = None) -> None:
        self.obs_keys = None if obs_keys is None else tuple(obs_keys)
        self.first: int | None = None

    def owns(self, path: Path) -> bool:
        """Whether a folder holds ``meta/info.json``; it may be damaged, which :meth:`read` says aloud."""
        try:
            return path.is_dir() and (path / INFO).is_file()
        except (OSError, ValueError):
            return False

    def facts(self, path: Path) -> dict[str, str]:
        """Format, rate, robot, the first tasks, cameras, and where success is read from."""
        found: dict[str, str] = {}
        try:
            info = read_info(path)
            found |= {"format": f"LeRobot {info.version}", "rate": f"{info.rate_hz:g} Hz"}
            found |= {"robot": ascii(info.robot)[1:-1]} if info.robot else {}
            found |= {"pictures": ", ".join(image_keys(info))} if info.cameras else {}
            found["success"] = (
                success_source(info, read_episodes(info)[1])
                or "not labelled: every episode counts as a success"
            )
            found["tasks"] = "; ".join(_shortened(task) for task in read_tasks(info))
        except Exception:  # what is wrong is said by `read`; the rest stands
            return found
        return found

    def image_sizes(self, path: Path) -> dict[str, tuple[int, int]]:
        """Height and width of the pictures, by key; empty where none can be told."""
        try:
            info = read_info(path)
        except Exception:  # what is wrong is said by `read`
            return {}
        shapes = {key: info.features[name].shape for key, name in image_keys(info).items()}
        return {key: (shape[0], shape[1]) for key, shape in shapes.items() if len(shape) == 3}

    def read(self, path: Path | str) -> Iterator[Episode | Finding]:
        """Read one dataset, episodes in the order of their numbers as far as each file has them so."""
        yield from itertools.islice(self._read(Path(path)), self.first)

    def _read(self, path: Path) -> Iterator[Episode | Finding]:
        try:
            info = read_info(path)
            parts = state_parts(info)
            keys = wanted(info, parts, self.obs_keys)
            rows, labelled = read_episodes(
                info, [camera_of(info, key) for key in keys if key not in parts]
            )
            columns = columns_of(
                info, [parts[key][0] if key in parts else camera_of(info, key) for key in keys]
            )
        except Exception as error:
            yield _refusal(path, error)
            return
        yield from _count(path, info, rows)
        if success_source(info, labelled) is None:
            text = "the dataset has no label of success: every episode counts as one"
            remedy = "take failures out, or write a column `success` into meta/episodes"
            yield _finding(path, "D02", text, remedy, severity="warning")
        files: dict[str, list[EpisodeMetadata]] = defaultdict(list)
        for row in rows:
            files[row.data].append(row)
        missing = [file for file in files if not (path / file).is_file()]
        lost = [row for file in missing[MANY:] for row in files.pop(file)]
        for file, some in files.items():
            yield from self._read_file(path, info, file, some, (keys, parts, columns))
        if lost:
            yield _finding(
                path,
                "D02",
                f"the data files of {len(lost)} more episodes are missing, e.g. {lost[0].data}",
                WHOLE,
            )

    def _read_file(
        self,
        path: Path,
        info: Info,
        file: str,
        rows: Sequence[EpisodeMetadata],
        what: tuple[list[str], Parts, list[str]],
    ) -> Iterator[Episode | Finding]:
        """The episodes of one Parquet file."""
        keys, parts, columns = what
        left = {row.index: row for row in rows}
        strangers = set()
        try:
            place = inside(info.root, file)
            for index, table in split_rows(place, columns):
                row = left.pop(index, None)
                if row is None:
                    strangers.add(index)
                    continue
                try:
                    found: Episode | Finding = read_episode(
                        _name(path, row), info, row, table, keys, parts
                    )
                except Exception as error:
                    found = _refusal(path, error, row)
                yield found
        except Exception as error:
            why = error
            yield from _of_each(left.values(), lambda row: _refusal(path, why, row, place=file))
            return
        text, remedy = (
            f"{file} has none of the frames that meta/episodes lists there",
            "check that data and metadata are of one set",
        )
        yield from _of_each(left.values(), lambda row: _finding(path, "D03", text, remedy, row))
        if strangers:
            text = f"{file} has frames of {len(strangers)} episodes that meta/episodes does not list there, e.g. {min(strangers)}"
            yield _finding(
                path, "D03", text, "check that data and metadata are of one set", severity="warning"
            )


def _of_each(
    rows: Collection[EpisodeMetadata], tell: Callable[[EpisodeMetadata], Finding]
) -> Iterator[Finding]:
    """A finding for each of some rows; of many for the first ones, and how many more there are."""
    for number, row in enumerate(rows):
        if number == MANY:
            found = tell(row)
            yield replace(
                found, episode=None, message=f"{len(rows) - MANY} more episodes: {found.message}"
            )
            return
        yield tell(row)


def _count(path: Path, info: Info, rows: Sequence[EpisodeMetadata]) -> Iterator[Finding]:
    frames = sum(row.length for row in rows)
    for said, there, what in (
        (info.episodes, len(rows), "episodes"),
        (info.frames, frames, "frames"),
    ):
        if said is not None and said != there:
            text = f"{INFO} says {said} {what}, meta/episodes lists {there}"
            yield _finding(
                path,
                "D03",
                text,
                "check whether episodes were lost when the dataset was copied",
                severity="warning",
            )


def _shortened(text: str, width: int = 80) -> str:
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    return plain if len(plain) <= width else plain[: width - 1] + "…"


def _name(path: Path, row: EpisodeMetadata) -> str:
    stem = path.resolve().name if path.name in ("", "..") else path.name
    return f"{stem}/episode_{row.index}"


def _refusal(
    path: Path, error: Exception, row: EpisodeMetadata | None = None, *, place: str = ""
) -> Finding:
    """An error while reading as a finding."""
    before = f"{place}: " if place and place not in str(error) else ""
    if isinstance(error, RefusedError):
        found = _finding(path, error.code, before + str(error), error.remedy, row)
        return replace(found, frame=error.frame) if isinstance(error, OffBeatError) else found
    return _finding(
        path,
        "D01",
        f"{before}damaged content: {short(error)}",
        "copy the dataset again from its source",
        row,
    )


def _finding(
    path: Path,
    code: str,
    message: str,
    remedy: str,
    row: EpisodeMetadata | None = None,
    *,
    severity: Literal["error", "warning"] = "error",
) -> Finding:
    return Finding(
        code, severity, path.as_posix(), message, remedy, None if row is None else _name(path, row)
    )
