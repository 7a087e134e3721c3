"""Recordings of any format that is read here, written anew as robomimic's or LeRobot's: one episode in memory at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from zprl.data.episode import Episode
from zprl.data.episode_checks import check
from zprl.data.findings import Finding
from zprl.data.inspection.inspection import image_sizes
from zprl.data.sources import AUTO, Source, find_sources
from zprl.data.validation import Shape, ValidationLimits, check_shapes, shape_of
from zprl.data.writers.lerobot import LeRobotWriter
from zprl.data.writers.lerobot_files import PictureStore
from zprl.data.writers.robomimic import RobomimicWriter
from zprl.errors import ConfigError, DataError

Format = Literal["robomimic", "lerobot"]
Writer = RobomimicWriter | LeRobotWriter

GYM = 2
"""robomimic's number for an environment that is none of the simulators it knows."""


@dataclass(frozen=True)
class Converted:
    """What became of the recordings.

    Attributes:
        path: What was written.
        sources: How many files or folders were read.
        episodes: How many it holds.
        frames: Of all of them.
        rate_hz: Frames per second, ``None`` where nobody knew (robomimic only).
        left_out: Names of the episodes, and of the files that cannot be read at all, that it does
            not hold; ``findings`` say why.
        findings: All findings.
    """

    path: Path
    sources: int
    episodes: int
    frames: int
    rate_hz: float | None
    left_out: tuple[str, ...]
    findings: tuple[Finding, ...]


def convert(
    source: Path | str,
    dest: Path | str,
    *,
    to: Format,
    reader: str = AUTO,
    obs_keys: Sequence[str] | None = None,
    rate_hz: float | None = None,
    task: str = "",
    robot: str = "",
    overwrite: bool = False,
    pictures: PictureStore = "video",
    limits: ValidationLimits | None = None,
) -> Converted:
    """Write every good episode of ``source`` to ``dest``, which appears when it is complete.

    Observations, actions, rewards, ends, success, grade and rate are kept in both formats, number
    for number; pictures too, unless they become films.  Names of episodes are not kept.

    Args:
        source: File or folder, of any format that is read here.
        dest: ``*.hdf5`` for robomimic, a folder for LeRobot.
        to: The format to write.
        reader: A registered reader, or ``auto``.
        obs_keys: Observations to keep, in order, pictures too; ``None``: all of the first source,
            pictures last.
        rate_hz: Frames per second of recordings that do not say it.
        task: The task in one sentence; empty: what the source calls it.
        robot: Kind of robot; empty: what the source says.
        overwrite: Replace what lies at ``dest``.
        pictures: LeRobot only: ``video`` (lossy) or ``png``.
        limits: What counts as good; ``None``: the defaults of :class:`ValidationLimits`.

    Raises:
        ConfigError: an unknown format or reader.
        DataError: no source, no good episode, LeRobot's rate unknown or no whole number, or
            something lies at ``dest``.
    """
    source, dest = Path(source), Path(dest)
    if to not in ("robomimic", "lerobot"):
        raise ConfigError(f"there is no format '{to}' to write", remedy="use robomimic or lerobot")
    if dest.resolve() == source.resolve():
        raise DataError(f"{dest} is what is to be read", remedy="choose another name")

    def sources(keys: Sequence[str] | None) -> list[Source]:
        return [
            item
            for item in find_sources(source, reader=reader, obs_keys=keys)
            if item.path.resolve() != dest.resolve()
        ]

    found = sources(obs_keys)
    if not found:
        raise DataError(
            f"there are no recordings at {source}", remedy="name a file or folder of demonstrations"
        )
    if obs_keys is None:
        found = sources(_all_keys(found[0]))
    facts = _facts(found)
    sorting = _Sorting(rate_hz)
    good = sorting.good(found, limits or ValidationLimits())
    first = next(good, None)
    if first is None:
        shown = "".join(f"\n  {finding}" for finding in sorting.findings[:5])
        raise DataError(
            f"no episode of {source} can be converted{shown}",
            remedy="repair the recordings, or name another reader",
        )
    rate = first.rate_hz
    task, robot = task or _task(facts) or source.stem, robot or facts.get("robot", "")
    count = frames = 0
    with _writer(
        dest, to, rate, task=task, robot=robot, overwrite=overwrite, pictures=pictures
    ) as writer:
        for episode in itertools.chain([first], good):
            writer.write(episode)
            count += 1
            frames += episode.length
    return Converted(
        dest, len(found), count, frames, rate, tuple(sorting.left_out), tuple(sorting.findings)
    )


def _all_keys(source: Source) -> tuple[str, ...] | None:
    """Every observation of a source; ``None`` where it has no pictures: readers then take all there is."""
    pictures = image_sizes(source)
    if not pictures:
        return None
    for most in (3, None):  # the first few items may all be defects
        source.reader.first = most
        episode = next(
            (item for item in source.reader.read(source.path) if isinstance(item, Episode)), None
        )
        if episode is not None:
            return (*episode.obs, *pictures)
    return tuple(pictures)  # no state at all, or nothing can be read, which is then found


class _Sorting:
    """Tells good episodes from bad ones: no defects of their own, and rate, keys and widths those of the first."""

    def __init__(self, rate_hz: float | None) -> None:
        self.findings: list[Finding] = []
        self.left_out: dict[str, None] = {}
        self._rate = rate_hz

    def good(self, sources: Sequence[Source], limits: ValidationLimits) -> Iterator[Episode]:
        first: tuple[Shape, float | None] | None = None
        for source, item in check(sources, limits=limits):
            if isinstance(item, Finding):
                # Dimensions are compared with the first episode's here, and not with those of most:
                # what is written cannot be taken back.
                if source is not None or item.code != "D05":
                    self._note(item)
                continue
            episode = item if item.rate_hz is not None else replace(item, rate_hz=self._rate)
            shape, rate = (shape_of(episode), episode.rate_hz) if first is None else first
            first = shape, rate
            file = source.path.as_posix() if source is not None else ""
            odd = check_shapes([(file, episode)], expected=shape) + _check_rate(file, episode, rate)
            for finding in odd:
                self._note(finding)
            if not odd:
                yield episode

    def _note(self, finding: Finding) -> None:
        self.findings.append(finding)
        if finding.severity == "error" and (finding.episode or finding.file):
            self.left_out[finding.episode or finding.file] = None


def _check_rate(file: str, episode: Episode, rate: float | None) -> list[Finding]:
    if episode.rate_hz == rate:
        return []
    text = f"{_say(episode.rate_hz)}, the first episode {_say(rate)}"
    return [
        Finding(
            "D05", "error", file, text, "convert recordings of one rate at a time", episode.name
        )
    ]


def _say(rate: float | None) -> str:
    return "has an unknown rate" if rate is None else f"has {rate:g} frames per second"


def _facts(sources: Sequence[Source]) -> dict[str, str]:
    """What all sources say alike."""
    said = [source.reader.facts(source.path) for source in sources]
    return {
        key: value
        for key, value in said[0].items()
        if all(other.get(key) == value for other in said[1:])
    }


def _task(facts: Mapping[str, str]) -> str:
    """A sentence, else a name; what was shortened for the report is no sentence."""
    said = [facts.get(name, "") for name in ("task", "tasks", "environment")]
    return next((text for text in said if text and not text.endswith("…")), "")


def _writer(
    dest: Path,
    to: Format,
    rate: float | None,
    *,
    task: str,
    robot: str,
    overwrite: bool,
    pictures: PictureStore,
) -> Writer:
    if to == "lerobot":
        if rate is None:
            raise DataError(
                "the recordings do not say how many frames they have per second",
                remedy="say it: --rate HZ",
            )
        return LeRobotWriter(
            dest, rate_hz=rate, task=task, robot=robot, overwrite=overwrite, pictures=pictures
        )
    kwargs: dict[str, Any] = (
        {} if rate is None else {"control_freq": rate}
    )  # robosuite's word, which readers of robomimic look for
    kwargs |= {"robots": robot} if robot else {}
    return RobomimicWriter(
        dest, {"env_name": task, "env_type": GYM, "env_kwargs": kwargs}, overwrite=overwrite
    )
