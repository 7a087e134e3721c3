"""Reader of LeRobot datasets, formats v2.1 and v3.0.

They are read with plain Arrow, without LeRobot and with no trust in the files.  A source is the
dataset's folder.

- The feature ``observation.<key>`` is the key ``<key>``.  Where the names of
  ``observation.state`` are all ``<key>.<index>``, it is taken apart into these keys
  (:mod:`zprl.data.writers.lerobot` joins them so).
- Images, videos too, are read when ``obs_keys`` names them: ``observation.images.<key>`` is the
  key ``<key>`` (or ``images.<key>``).
- ``action``, ``next.reward`` and ``next.done`` are actions, rewards and dones.
- Success is what the episode's row in ``meta/episodes`` says (``success``), else whether
  ``next.success`` is ever set, else whether ``next.reward`` ever reaches 1.  Where a dataset has
  none of them, every episode counts as a success, and a warning says so.
- Quality is the row's ``quality``.

Files are read one after the other, in batches, so that one episode is in memory at a time.  Damage
stays with the file it is in.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
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
from zprl.data.readers.lerobot_lists import EpisodeMetadata, read_episodes, read_tasks
from zprl.data.readers.lerobot_meta import INFO, WHOLE, Info, inside, read_info
from zprl.data.sources import Reader

MANY = 100
"""Findings of one kind that are listed one by one: a foreign dataset may list any number of
episodes that are not there."""
MAX_TASK = 80
"""Letters of a task in the data report."""
ONE_SET = "check that data and metadata are of one set"


@dataclass(frozen=True)
class _Plan:
    """Everything that reading one dataset needs besides its files.

    Attributes:
        info: Content of ``meta/info.json``.
        keys: Observations to read, in order.
        parts: Feature and place of each key of state.
        columns: Columns of the Parquet files.
        rows: All listed episodes.
        labelled: True if they have labels of success.
    """

    info: Info
    keys: list[str]
    parts: Parts
    columns: list[str]
    rows: list[EpisodeMetadata]
    labelled: bool


class LeRobotReader(Reader):
    """Yields an :class:`Episode` per good episode and a :class:`Finding` per defect.

    It never raises for what a dataset holds.

    Args:
        obs_keys: Observation keys to read, in order, images too; ``None`` reads every key of
            state (images are skipped).

    Example::

        for item in LeRobotReader(obs_keys=("state", "wrist")).read("data/demos/pusht"):
            print(item.length if isinstance(item, Episode) else item)
    """

    name = "lerobot"

    def owns(self, path: Path) -> bool:
        """Tell whether a folder holds ``meta/info.json``; :meth:`read` says if that is damaged."""
        try:
            return path.is_dir() and (path / INFO).is_file()
        except (OSError, ValueError):
            return False

    def facts(self, path: Path) -> dict[str, str]:
        """Return format, rate, robot, first tasks, cameras, and where success is read from."""
        facts: dict[str, str] = {}
        try:
            info = read_info(path)
            facts |= {"format": f"LeRobot {info.version}", "rate": f"{info.rate_hz:g} Hz"}
            facts |= {"robot": ascii(info.robot)[1:-1]} if info.robot else {}
            facts |= {"images": ", ".join(image_keys(info))} if info.cameras else {}
            _, labelled = read_episodes(info)
            facts["success"] = (
                success_source(info, labelled=labelled)
                or "not labelled: every episode counts as a success"
            )
            facts["tasks"] = "; ".join(_shortened(task) for task in read_tasks(info))
        except Exception:  # noqa: BLE001 - `read` says what is wrong; the other facts stand
            return facts
        return facts

    def image_sizes(self, path: Path) -> dict[str, tuple[int, int]]:
        """Return height and width of the images, by key; empty where the metadata are damaged."""
        try:
            info = read_info(path)
        except Exception:  # noqa: BLE001 - `read` says what is wrong
            return {}
        shapes = {key: info.features[name].shape for key, name in image_keys(info).items()}
        return {key: (shape[0], shape[1]) for key, shape in shapes.items() if len(shape) == 3}

    def read_source(self, path: Path) -> Iterator[Episode | Finding]:
        """Read one dataset, episodes in the order of their numbers if each file has them so."""
        try:
            plan = self._plan(path)
        except Exception as error:  # noqa: BLE001 - damaged bytes raise almost any type
            yield _refusal(path, error)
            return

        yield from _count(path, plan.info, plan.rows)
        if success_source(plan.info, labelled=plan.labelled) is None:
            text = "the dataset has no label of success: every episode counts as one"
            remedy = "take failures out, or write a column `success` into meta/episodes"
            yield _finding(path, "D02", text, remedy, severity="warning")

        files: dict[str, list[EpisodeMetadata]] = defaultdict(list)
        for row in plan.rows:
            files[row.data].append(row)
        missing = [file for file in files if not (path / file).is_file()]
        lost = [row for file in missing[MANY:] for row in files.pop(file)]
        for file, rows in files.items():
            yield from _read_file(path, plan, file, rows)
        if lost:
            text = f"the data files of {len(lost)} more episodes are missing, e.g. {lost[0].data}"
            yield _finding(path, "D02", text, WHOLE)

    def _plan(self, path: Path) -> _Plan:
        info = read_info(path)
        parts = state_parts(info)
        keys = wanted(info, parts, self.obs_keys)
        cameras = [camera_of(info, key) for key in keys if key not in parts]
        rows, labelled = read_episodes(info, cameras)
        features = [parts[key][0] if key in parts else camera_of(info, key) for key in keys]
        return _Plan(info, keys, parts, columns_of(info, features), rows, labelled)


def _read_file(
    path: Path, plan: _Plan, file: str, rows: Sequence[EpisodeMetadata]
) -> Iterator[Episode | Finding]:
    """Read the episodes of one Parquet file, which ``rows`` lists."""
    left = {row.index: row for row in rows}
    unlisted = set()
    try:
        for index, table in split_rows(inside(plan.info.root, file), plan.columns):
            row = left.pop(index, None)
            if row is None:
                unlisted.add(index)
                continue
            try:
                item: Episode | Finding = read_episode(
                    _name(path, row), plan.info, row, table, plan.keys, plan.parts
                )
            except Exception as error:  # noqa: BLE001 - damaged bytes raise almost any type
                item = _refusal(path, error, row)
            yield item
    except Exception as error:  # noqa: BLE001 - damaged bytes raise almost any type
        why = error
        yield from _of_each(left.values(), lambda row: _refusal(path, why, row, place=file))
        return

    text = f"{file} has none of the frames that meta/episodes lists there"
    yield from _of_each(left.values(), lambda row: _finding(path, "D03", text, ONE_SET, row))
    if unlisted:
        text = (
            f"{file} has frames of {len(unlisted)} episodes that meta/episodes does not list "
            f"there, e.g. {min(unlisted)}"
        )
        yield _finding(path, "D03", text, ONE_SET, severity="warning")


def _of_each(
    rows: Collection[EpisodeMetadata], finding_of: Callable[[EpisodeMetadata], Finding]
) -> Iterator[Finding]:
    """Yield a finding for each row; of many for the first ones, and how many more there are."""
    for number, row in enumerate(rows):
        finding = finding_of(row)
        if number == MANY:
            text = f"{len(rows) - MANY} more episodes: {finding.message}"
            yield replace(finding, episode=None, message=text)
            return
        yield finding


def _count(path: Path, info: Info, rows: Sequence[EpisodeMetadata]) -> Iterator[Finding]:
    """Compare the numbers of episodes and frames with what the metadata declare (D03)."""
    frames = sum(row.length for row in rows)
    for declared, listed, what in (
        (info.episodes, len(rows), "episodes"),
        (info.frames, frames, "frames"),
    ):
        if declared is not None and declared != listed:
            text = f"{INFO} says {declared} {what}, meta/episodes lists {listed}"
            remedy = "check whether episodes were lost when the dataset was copied"
            yield _finding(path, "D03", text, remedy, severity="warning")


def _shortened(text: str, width: int = MAX_TASK) -> str:
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    return plain if len(plain) <= width else plain[: width - 1] + "…"


def _name(path: Path, row: EpisodeMetadata) -> str:
    stem = path.resolve().name if path.name in ("", "..") else path.name
    return f"{stem}/episode_{row.index}"


def _refusal(
    path: Path, error: Exception, row: EpisodeMetadata | None = None, *, place: str = ""
) -> Finding:
    """Return an error while reading as a finding."""
    before = f"{place}: " if place and place not in str(error) else ""
    if isinstance(error, RefusedError):
        finding = _finding(path, error.code, before + str(error), error.remedy, row)
        return replace(finding, frame=error.frame) if isinstance(error, OffBeatError) else finding
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
    episode = None if row is None else _name(path, row)
    return Finding(code, severity, path.as_posix(), message, remedy, episode)
