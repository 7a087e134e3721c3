"""What is in recordings, in one pass and in little memory: counts, statistics per key, episodes that stand out, duplicates.

Reads a hundred gigabytes by looking at the first episodes of each source.
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
"""Episodes of each source that are looked at unless told otherwise."""


class FirstOnly(Reader):
    """A reader of the first episodes of each source; reads no more than it must."""

    def __init__(self, reader: Reader, most: int) -> None:
        super().__init__(obs_keys=reader.obs_keys)
        self._reader, self._most = reader, most
        self.name, self.suffixes = reader.name, reader.suffixes
        self.cut: set[Path] = set()
        """Sources that have more."""

    def owns(self, path: Path) -> bool:
        """As the reader itself."""
        return self._reader.owns(path)

    def facts(self, path: Path) -> dict[str, str]:
        """As the reader itself."""
        return self._reader.facts(path)

    def image_sizes(self, path: Path) -> dict[str, tuple[int, int]]:
        """As the reader itself."""
        return self._reader.image_sizes(path)

    def read_source(self, path: Path) -> Iterator[Episode | Finding]:
        """Yield the first items, findings among them, until so many episodes or defects have come."""
        self._reader.first = self._most + 1
        try:
            for number, item in enumerate(self._reader.read(path)):
                if number == self._most:
                    self.cut.add(path)
                    return
                yield item
        finally:
            self._reader.first = None  # others may use the same reader


def image_sizes(source: Source) -> dict[str, tuple[int, int]]:
    """Height and width of a source's pictures, by key, where its reader can tell without reading them."""
    return dict(source.reader.image_sizes(source.path))


def sampled(sources: Sequence[Source], most: int | None) -> list[Source]:
    """The sources, of each only the first ``most`` episodes; all for ``None``."""
    if most is None:
        return list(sources)
    return [Source(source.path, FirstOnly(source.reader, most)) for source in sources]


@dataclass
class SourceSummary:
    """What was read of one source; lengths in frames."""

    path: str
    format: str
    facts: dict[str, str]
    episodes: int = 0
    frames: int = 0
    more: bool = False
    """Whether it has episodes that were not looked at."""


@dataclass
class Inspection:
    """What is in recordings; filled by :func:`inspect`.

    Attributes:
        sources: One entry per source, in order.
        lengths: Frames of each good episode.
        seconds: Of the good episodes whose rate is known.
        timed: How many of them those are.
        rates_hz: Rates seen, each with its number of episodes.
        successes: Good episodes that achieved the task.
        qualities: Good episodes per grade.
        keys: Statistics of each observation, ``actions`` last.
        pictures: Height and width of each observation that is a picture, read or not.
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
    pictures: dict[str, tuple[int, int]] = field(default_factory=dict)
    outliers: list[Outlier] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)

    @property
    def episodes(self) -> int:
        """Good episodes."""
        return len(self.lengths)

    @property
    def complete(self) -> bool:
        """Whether every episode of every source was looked at."""
        return not any(source.more for source in self.sources)

    @property
    def duplicates(self) -> list[Finding]:
        """Episodes with the content of another."""
        return [finding for finding in self.findings if finding.code == "D13"]

    @property
    def success_share(self) -> float:
        """Successes as a share of the good episodes, 0 for none."""
        return self.successes / self.episodes if self.episodes else 0.0

    def as_json(self) -> dict[str, Any]:
        """JSON object; equal input gives an equal one.  ``format`` grows when a field changes its meaning."""
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
            "pictures": {
                key: {"height": height, "width": width}
                for key, (height, width) in self.pictures.items()
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
        sources: What is looked at.
        limits: What counts as a good episode; only those are in the statistics.
        sample: Episodes looked at of each source, the first ones; ``None`` for all.
        changes: Done to each episode first.
        watch: Wraps the sources as they are gone through, for a progress bar.
    """
    found = Inspection()
    seen: dict[Path, SourceSummary] = {}
    cut = sampled(sources, sample)
    for source in cut:
        facts = source.reader.facts(source.path) if safe_source(source) else {}
        seen[source.path] = SourceSummary(
            ascii(source.path.as_posix())[1:-1], source.reader.name, facts
        )
        found.pictures.update(image_sizes(source) if safe_source(source) else {})
    motions: dict[str, Mapping[str, float]] = {}
    for item in check(watch(cut), limits=limits, changes=changes):
        _take(found, seen, motions, item)
    for source in cut:
        seen[source.path].more = (
            isinstance(source.reader, FirstOnly) and source.path in source.reader.cut
        )
    found.sources = list(seen.values())
    found.outliers = find_outliers(motions)
    return found


def _take(
    found: Inspection,
    seen: Mapping[Path, SourceSummary],
    motions: dict[str, Mapping[str, float]],
    item: Item,
) -> None:
    found.tally.add(item)
    source, what = item
    if isinstance(what, Finding):
        found.findings.append(what)
        return
    assert source is not None
    seen[source.path].episodes += 1
    seen[source.path].frames += what.length
    found.lengths.append(what.length)
    found.successes += what.success
    found.qualities[what.quality] += 1
    if what.rate_hz:
        found.rates_hz[what.rate_hz] += 1
        found.seconds += what.length / what.rate_hz
        found.timed += 1
    motions[what.name] = motion(what)
    found.pictures.update(
        {
            key: (value.shape[1], value.shape[2])
            for key, value in what.obs.items()
            if is_image(value)
        }
    )
    states = {key: value for key, value in what.obs.items() if not is_image(value)}
    actions = found.keys.pop("actions", None)
    for key, value in states.items():
        _add(found.keys, key, value)
    if actions is not None:
        found.keys["actions"] = actions
    _add(found.keys, "actions", what.actions)


def _add(keys: dict[str, RunningStatistics], name: str, values: np.ndarray) -> None:
    # Another width under the same name is another thing: it gets a line of its own.
    name = (
        name
        if name not in keys or keys[name].width == values.shape[1]
        else f"{name} ({values.shape[1]} wide)"
    )
    keys.setdefault(name, RunningStatistics(values.shape[1])).add(values)
