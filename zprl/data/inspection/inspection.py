"""Inspection of recordings: counts, statistics per key, outliers and duplicates.

One pass in little memory; a hundred gigabytes are read by looking at the first episodes of each
source.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from zprl.data.episode import QUALITIES, Episode, is_image
from zprl.data.episode_checks import Change, Item, Tally, check, safe_source
from zprl.data.findings import Finding
from zprl.data.inspection.outliers import Outlier, find_outliers, motion
from zprl.data.running_statistics import RunningStatistics
from zprl.data.sources import Reader, Source
from zprl.data.validation import ValidationLimits

JSON_FORMAT = 1
SAMPLE = 50
"""Episodes of each source that are looked at by default."""


class FirstOnly(Reader):
    """A reader of the first episodes of each source; reads no more than it must."""

    def __init__(self, reader: Reader, most: int) -> None:
        super().__init__(obs_keys=reader.obs_keys)
        self._reader = reader
        self._most = most
        self.name = reader.name
        self.suffixes = reader.suffixes
        self.cut: set[Path] = set()
        """Sources that have more."""

    def owns(self, path: Path) -> bool:
        """Answer as the reader itself."""
        return self._reader.owns(path)

    def facts(self, path: Path) -> dict[str, str]:
        """Answer as the reader itself."""
        return self._reader.facts(path)

    def image_sizes(self, path: Path) -> dict[str, tuple[int, int]]:
        """Answer as the reader itself."""
        return self._reader.image_sizes(path)

    def read_source(self, path: Path) -> Iterator[Episode | Finding]:
        """Yield the first items, findings among them."""
        reader = self._reader
        reader.first = self._most + 1
        try:
            for number, item in enumerate(reader.read(path)):
                if number == self._most:
                    self.cut.add(path)
                    return
                yield item
        finally:
            reader.first = None  # others may use the same reader


def image_sizes(source: Source) -> dict[str, tuple[int, int]]:
    """Return height and width of a source's images, by key.

    Empty where the reader does not know them without reading the images.
    """
    return dict(source.reader.image_sizes(source.path))


def sampled(sources: Sequence[Source], most: int | None) -> list[Source]:
    """Return the sources, of each only the first ``most`` episodes; all for ``None``."""
    if most is None:
        return list(sources)
    return [Source(source.path, FirstOnly(source.reader, most)) for source in sources]


@dataclass
class SourceSummary:
    """Summary of what was read of one source; lengths in frames."""

    path: str
    format: str
    facts: dict[str, str]
    episodes: int = 0
    frames: int = 0
    more: bool = False
    """True where it has episodes that were not looked at."""


@dataclass
class Inspection:
    """Contents of recordings; filled by :func:`inspect`.

    Attributes:
        sources: One entry per source, in order.
        lengths: Frames of each good episode.
        seconds: Of the good episodes whose rate is known.
        timed: How many of them those are.
        rates_hz: Rates seen, each with its number of episodes.
        successes: Good episodes that achieved the task.
        qualities: Good episodes per grade.
        keys: Statistics of each observation, ``actions`` last.
        images: Height and width of each observation that is an image, read or not.
        outliers: Episodes that stand out, see :mod:`zprl.data.inspection.outliers`.
        findings: Every finding.
        tally: Good and bad episodes, findings per code.
    """

    sources: list[SourceSummary] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    seconds: float = 0.0
    timed: int = 0
    rates_hz: Counter[float] = field(default_factory=Counter)
    successes: int = 0
    qualities: Counter[str] = field(default_factory=Counter)
    keys: dict[str, RunningStatistics] = field(default_factory=dict)
    images: dict[str, tuple[int, int]] = field(default_factory=dict)
    outliers: list[Outlier] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)

    @property
    def episodes(self) -> int:
        """Return the number of good episodes."""
        return len(self.lengths)

    @property
    def complete(self) -> bool:
        """Return whether every episode of every source was looked at."""
        return not any(source.more for source in self.sources)

    @property
    def duplicates(self) -> list[Finding]:
        """Return findings of episodes with the content of another."""
        return [finding for finding in self.findings if finding.code == "D13"]

    @property
    def success_share(self) -> float:
        """Return successes as a share of the good episodes, 0 for none."""
        return self.successes / self.episodes if self.episodes else 0.0

    def as_json(self) -> dict[str, Any]:
        """Return a JSON object; equal input gives an equal one.

        ``format`` grows when a field changes its meaning.
        """
        lengths = self.lengths or [0]
        return {
            "format": JSON_FORMAT,
            "complete": self.complete,
            "sources": [dict(vars(source)) for source in self.sources],
            "episodes": self.episodes,
            "bad": len(self.tally.bad),
            "frames": sum(self.lengths),
            "seconds": self.seconds,
            "episodes_with_rate": self.timed,
            "rates_hz": {f"{rate:g}": number for rate, number in sorted(self.rates_hz.items())},
            "success_share": self.success_share,
            "qualities": {
                quality: self.qualities[quality] for quality in QUALITIES if self.qualities[quality]
            },
            "length": {
                "min": min(lengths),
                "median": float(statistics.median(lengths)),
                "max": max(lengths),
            },
            "keys": {key: moments.as_json() for key, moments in self.keys.items()},
            "images": {
                key: {"height": height, "width": width}
                for key, (height, width) in self.images.items()
            },
            "outliers": [outlier.as_json() for outlier in self.outliers],
            "duplicates": [finding.as_json() for finding in self.duplicates],
            "findings": dict(sorted(self.tally.codes.items())),
        }


def inspect(
    sources: Sequence[Source],
    *,
    limits: ValidationLimits,
    sample: int | None = SAMPLE,
    changes: Sequence[Change] = (),
    watch: Callable[[Iterable[Source]], Iterable[Source]] = iter,
) -> Inspection:
    """Look at every source.

    Args:
        sources: Sources to look at.
        limits: Limits of a good episode; only those are in the statistics.
        sample: Episodes looked at of each source, the first ones; ``None`` for all.
        changes: Done to each episode first.
        watch: Wraps the sources as they are gone through, for a progress bar.
    """
    inspection = Inspection()
    summaries: dict[Path, SourceSummary] = {}
    cut = sampled(sources, sample)
    for source in cut:
        safe = safe_source(source)
        facts = source.reader.facts(source.path) if safe else {}
        plain_path = ascii(source.path.as_posix())[1:-1]
        summaries[source.path] = SourceSummary(plain_path, source.reader.name, facts)
        inspection.images.update(image_sizes(source) if safe else {})

    motions: dict[str, Mapping[str, float]] = {}
    for item in check(watch(cut), limits=limits, changes=changes):
        _take(inspection, summaries, motions, item)

    for source in cut:
        summaries[source.path].more = (
            isinstance(source.reader, FirstOnly) and source.path in source.reader.cut
        )
    inspection.sources = list(summaries.values())
    inspection.outliers = find_outliers(motions)
    return inspection


def _take(
    inspection: Inspection,
    summaries: Mapping[Path, SourceSummary],
    motions: dict[str, Mapping[str, float]],
    item: Item,
) -> None:
    """Add one episode or finding."""
    inspection.tally.add(item)
    source, content = item
    if isinstance(content, Finding):
        inspection.findings.append(content)
        return

    assert source is not None
    summaries[source.path].episodes += 1
    summaries[source.path].frames += content.length
    motions[content.name] = motion(content)
    _count(inspection, content)
    _add_keys(inspection, content)


def _count(inspection: Inspection, episode: Episode) -> None:
    inspection.lengths.append(episode.length)
    inspection.successes += episode.success
    inspection.qualities[episode.quality] += 1
    if episode.rate_hz:
        inspection.rates_hz[episode.rate_hz] += 1
        inspection.seconds += episode.length / episode.rate_hz
        inspection.timed += 1


def _add_keys(inspection: Inspection, episode: Episode) -> None:
    """Add an episode's numbers, keeping ``actions`` the last key."""
    actions = inspection.keys.pop("actions", None)
    for key, value in episode.obs.items():
        if is_image(value):
            inspection.images[key] = (value.shape[1], value.shape[2])
        else:
            _add(inspection.keys, key, value)
    if actions is not None:
        inspection.keys["actions"] = actions
    _add(inspection.keys, "actions", episode.actions)


def _add(keys: dict[str, RunningStatistics], name: str, values: np.ndarray) -> None:
    width = values.shape[1]
    if name in keys and keys[name].width != width:
        # Another width under the same name is another key: it gets a line of its own.
        name = f"{name} ({width} wide)"
    keys.setdefault(name, RunningStatistics(width)).add(values)
