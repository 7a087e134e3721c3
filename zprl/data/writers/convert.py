"""Conversion of recordings of any known format to robomimic's or LeRobot's.

One episode is in memory at a time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from zprl.data.writers.lerobot_files import ImageStore
from zprl.data.writers.robomimic import RobomimicWriter
from zprl.errors import ConfigError, DataError

Format = Literal["robomimic", "lerobot"]
Writer = RobomimicWriter | LeRobotWriter

SHOWN = 5
"""Findings in the message about recordings without a good episode."""
GYM = 2
"""robomimic's number for an environment that is none of the simulators it knows."""


@dataclass(frozen=True)
class Converted:
    """Result of a conversion.

    Attributes:
        path: File or folder that was written.
        sources: Number of files or folders that were read.
        episodes: Number of episodes it holds.
        frames: Number of their frames.
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


def convert(  # noqa: PLR0913 - one argument for each option of ``zprl demos convert``
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
    images: ImageStore = "video",
    limits: ValidationLimits | None = None,
) -> Converted:
    """Write every good episode of ``source`` to ``dest``, which appears when it is complete.

    Observations, actions, rewards, ends, success, grade and rate are kept, number for number;
    images too, unless they become videos.  Names of episodes are not kept.

    Args:
        source: File or folder, of any format that is read here.
        dest: ``*.hdf5`` for robomimic, a folder for LeRobot.
        to: The format to write.
        reader: A registered reader, or ``auto``.
        obs_keys: Observations to keep, in order; ``None``: all of the first source, images last.
        rate_hz: Frames per second of recordings that do not say it.
        task: The task in one sentence; empty: what the source calls it.
        robot: Kind of robot; empty: what the source says.
        overwrite: Replace what lies at ``dest``.
        images: LeRobot only: ``video`` (lossy) or ``png``.
        limits: Limits of a good episode; ``None``: the defaults of :class:`ValidationLimits`.

    Raises:
        ConfigError: an unknown format or reader.
        DataError: no source, no good episode, an unfit rate, or something lies at ``dest``.
    """
    source, dest = Path(source), Path(dest)
    sources = _sources(source, dest, to, reader, obs_keys)
    facts = _facts(sources)
    sorting = _Sorting(rate_hz)
    good = sorting.good(sources, limits or ValidationLimits())
    first = sorting.first(good, source)

    task = task or _task(facts) or source.stem
    robot = robot or facts.get("robot", "")
    writer = _writer(dest, to, first.rate_hz, task, robot, images, overwrite=overwrite)
    episodes, frames = _write(writer, itertools.chain([first], good))
    return sorting.result(dest, len(sources), episodes, frames, first.rate_hz)


def _sources(
    source: Path, dest: Path, to: str, reader: str, obs_keys: Sequence[str] | None
) -> list[Source]:
    """Return the sources to read, whose readers read the observations to keep."""
    if to not in ("robomimic", "lerobot"):
        raise ConfigError(f"there is no format '{to}' to write", remedy="use robomimic or lerobot")
    if dest.resolve() == source.resolve():
        raise DataError(f"{dest} is what is to be read", remedy="choose another name")

    def read(keys: Sequence[str] | None) -> list[Source]:
        return [
            item
            for item in find_sources(source, reader=reader, obs_keys=keys)
            if item.path.resolve() != dest.resolve()
        ]

    sources = read(obs_keys)
    if not sources:
        raise DataError(
            f"there are no recordings at {source}", remedy="name a file or folder of demonstrations"
        )
    return read(_all_keys(sources[0])) if obs_keys is None else sources


def _write(writer: Writer, episodes: Iterable[Episode]) -> tuple[int, int]:
    """Write the episodes and return their number and that of their frames."""
    count = 0
    frames = 0
    with writer:
        for episode in episodes:
            writer.write(episode)
            count += 1
            frames += episode.length
    return count, frames


def _all_keys(source: Source) -> tuple[str, ...] | None:
    """Return every observation of a source, images last.

    ``None`` where it has no images: readers then take all there is.
    """
    images = image_sizes(source)
    if not images:
        return None

    for most in (3, None):  # the first few items may all be defects
        source.reader.first = most
        items = source.reader.read(source.path)
        episode = next((item for item in items if isinstance(item, Episode)), None)
        if episode is not None:
            return (*episode.obs, *images)
    return tuple(images)  # no state at all, or nothing can be read, which is reported later


class _Sorting:
    """Filter of good episodes: without defects, and with rate, keys and widths of the first."""

    def __init__(self, rate_hz: float | None) -> None:
        self.findings: list[Finding] = []
        self.left_out: dict[str, None] = {}
        self._rate = rate_hz

    def first(self, good: Iterator[Episode], source: Path) -> Episode:
        """Take the first good episode.

        Raises:
            DataError: there is none.
        """
        episode = next(good, None)
        if episode is None:
            shown = "".join(f"\n  {finding}" for finding in self.findings[:SHOWN])
            raise DataError(
                f"no episode of {source} can be converted{shown}",
                remedy="repair the recordings, or name another reader",
            )
        return episode

    def good(self, sources: Sequence[Source], limits: ValidationLimits) -> Iterator[Episode]:
        """Yield the good episodes; what is left out is noted with its findings."""
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
            findings = check_shapes([(file, episode)], expected=shape)
            findings += _check_rate(file, episode, rate)
            for finding in findings:
                self._note(finding)
            if not findings:
                yield episode

    def result(
        self, path: Path, sources: int, episodes: int, frames: int, rate_hz: float | None
    ) -> Converted:
        """Return the conversion's result, with what was left out."""
        left_out = tuple(self.left_out)
        return Converted(path, sources, episodes, frames, rate_hz, left_out, tuple(self.findings))

    def _note(self, finding: Finding) -> None:
        self.findings.append(finding)
        if finding.severity == "error" and (finding.episode or finding.file):
            self.left_out[finding.episode or finding.file] = None


def _check_rate(file: str, episode: Episode, rate: float | None) -> list[Finding]:
    if episode.rate_hz == rate:
        return []
    text = f"{_rate_text(episode.rate_hz)}, the first episode {_rate_text(rate)}"
    remedy = "convert recordings of one rate at a time"
    return [Finding("D05", "error", file, text, remedy, episode.name)]


def _rate_text(rate: float | None) -> str:
    return "has an unknown rate" if rate is None else f"has {rate:g} frames per second"


def _facts(sources: Sequence[Source]) -> dict[str, str]:
    """Return the facts that all sources have in common."""
    first, *others = [source.reader.facts(source.path) for source in sources]
    return {
        key: value
        for key, value in first.items()
        if all(other.get(key) == value for other in others)
    }


def _task(facts: Mapping[str, str]) -> str:
    """Return the task's sentence, else a name; a text shortened for the report is no sentence."""
    texts = [facts.get(name, "") for name in ("task", "tasks", "environment")]
    return next((text for text in texts if text and not text.endswith("…")), "")


def _writer(
    dest: Path,
    to: Format,
    rate: float | None,
    task: str,
    robot: str,
    images: ImageStore,
    *,
    overwrite: bool,
) -> Writer:
    if to == "lerobot":
        if rate is None:
            raise DataError(
                "the recordings do not say how many frames they have per second",
                remedy="say it: --rate HZ",
            )
        return LeRobotWriter(
            dest, rate_hz=rate, task=task, robot=robot, overwrite=overwrite, images=images
        )
    kwargs: dict[str, Any] = {}
    if rate is not None:
        kwargs["control_freq"] = rate  # robosuite's word, which readers of robomimic look for
    if robot:
        kwargs["robots"] = robot
    env_args = {"env_name": task, "env_type": GYM, "env_kwargs": kwargs}
    return RobomimicWriter(dest, env_args, overwrite=overwrite)
