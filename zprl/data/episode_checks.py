"""Checks of episodes one after another, as they are read.

Of each episode only its name, hash and shape are kept, so that a hundred gigabytes need no more
memory than one recording.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from zprl.data.episode import Episode, is_image
from zprl.data.findings import Finding
from zprl.data.readers.hdf5_guard import safe_name
from zprl.data.sources import Source
from zprl.data.validation import (
    DuplicateCheck,
    Shape,
    ValidationLimits,
    check_episode,
    check_set,
    check_shapes,
    shape_of,
)

Item = tuple[Source | None, Episode | Finding]
"""An episode without an error of its own, or a finding, and where it was read; ``None`` for
findings on the whole set."""


class Change(ABC):
    """A transform of episodes, done before they are checked.

    It may convert an episode, cut it in pieces, join it with others or leave it out.

    Attributes:
        facts: Names and sentences that the data report shows with each source.
    """

    facts: Mapping[str, str] = MappingProxyType({})

    @abstractmethod
    def __call__(self, source: Source, episode: Episode) -> Iterator[Episode | Finding]:
        """Yield the episodes that take the place of this one, and findings."""

    def end_of_source(self, source: Source) -> Iterator[Episode | Finding]:
        """Yield episodes that were held back until the end of their source, and findings."""
        return iter(())

    def findings(self) -> Iterator[Finding]:
        """Yield findings on all sources, when all were read."""
        return iter(())


class FunctionChange(Change):
    """A change that is one function of a source and an episode."""

    def __init__(self, function: Callable[[Source, Episode], Iterator[Episode | Finding]]) -> None:
        self._function = function

    def __call__(self, source: Source, episode: Episode) -> Iterator[Episode | Finding]:
        """Yield what the function yields."""
        return self._function(source, episode)


def check(
    sources: Iterable[Source],
    *,
    limits: ValidationLimits,
    changes: Sequence[Change] = (),
    beside: Iterable[Source] = (),
) -> Iterator[Item]:
    """Read, change and check every episode of every source; memory holds one episode at a time.

    An episode is yielded as soon as it has no error of its own.  What only the whole set shows
    comes last: episodes whose dimensions differ from those of most (D05; they were yielded before),
    dimensions that never change (D14), no success at all (D21).

    Args:
        sources: Sources to check.
        limits: Limits of what counts as good.
        changes: Done to each episode first, in this order.
        beside: Sources that these would join: episodes are compared with theirs for duplicates and
            dimensions, and their own defects are not reported.
    """
    duplicates = DuplicateCheck()
    outlines = _Outlines()
    for source in beside:
        for item in _checked(source, limits, changes, duplicates):
            if isinstance(item, Episode):
                outlines.add(source.path.as_posix(), item, known=True)

    for source in sources:
        for item in _checked(source, limits, changes, duplicates):
            if isinstance(item, Episode):
                outlines.add(source.path.as_posix(), item)
            yield source, item

    yield from ((None, finding) for finding in outlines.findings())
    yield from ((None, finding) for change in changes for finding in change.findings())


def safe_source(source: Source) -> bool:
    """Tell whether the names along its path can be printed and written without harm."""
    return all(safe_name(part) for part in source.path.parts if part != source.path.anchor)


def _checked(
    source: Source, limits: ValidationLimits, changes: Sequence[Change], duplicates: DuplicateCheck
) -> Iterator[Episode | Finding]:
    """Read, change and check the episodes of one source."""
    file = source.path.as_posix()
    if not safe_source(source):
        yield Finding(
            "D18",
            "error",
            ascii(file),
            "the file's name has control characters or is over-long",
            "rename it",
        )
        return

    for item in _changed(source, source.reader.read(source.path), changes):
        if isinstance(item, Finding):
            yield item
            continue
        findings = check_episode(item, file=file, limits=limits)
        # Only whole episodes can be duplicates of one another.
        if not _any_error(findings):
            findings += duplicates.check(item, file=file)
        yield from findings
        if not _any_error(findings):
            yield item


def _any_error(findings: Sequence[Finding]) -> bool:
    return any(finding.severity == "error" for finding in findings)


def _changed(
    source: Source, items: Iterator[Episode | Finding], changes: Sequence[Change]
) -> Iterator[Episode | Finding]:
    for change in changes:
        items = _through(source, items, change)
    return items


def _through(
    source: Source, items: Iterator[Episode | Finding], change: Change
) -> Iterator[Episode | Finding]:
    """Put the episodes of a source through one change."""
    for item in items:
        if isinstance(item, Finding):
            yield item
        else:
            yield from change(source, item)
    yield from change.end_of_source(source)


class _Extremes:
    """Smallest and largest number of each dimension over all episodes of one shape."""

    def __init__(self, episode: Episode) -> None:
        self._image_stubs = {
            key: value[:0].copy() for key, value in episode.obs.items() if is_image(value)
        }
        self._ranges: dict[str, np.ndarray] = {}

    def add(self, episode: Episode) -> None:
        states = {key: value for key, value in episode.obs.items() if not is_image(value)}
        for key, value in {**states, "": episode.actions}.items():
            seen = [value] if key not in self._ranges else [value, self._ranges[key]]
            self._ranges[key] = np.stack(
                [np.min([v.min(0) for v in seen], axis=0), np.max([v.max(0) for v in seen], axis=0)]
            )

    def arrays(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Return observations and actions of two frames that span all numbers; no images."""
        ranges = {key: value for key, value in self._ranges.items() if key}
        return {**ranges, **self._image_stubs}, self._ranges[""]


class _Outlines:
    """Names, shapes and success of all episodes, and the ranges of each shape.

    This is all that the checks of the whole set need.
    """

    def __init__(self) -> None:
        self._episodes: list[tuple[str, str, bool, Shape, bool]] = []
        self._shapes: dict[Shape, tuple[Shape, _Extremes]] = {}

    def add(self, file: str, episode: Episode, *, known: bool = False) -> None:
        # Of equal shapes one object is kept.
        own = shape_of(episode)
        shape, extremes = self._shapes.setdefault(own, (own, _Extremes(episode)))
        extremes.add(episode)
        self._episodes.append((file, episode.name, episode.success, shape, known))

    def findings(self) -> list[Finding]:
        none = np.zeros(0, np.float32)
        arrays = {shape: self._ordered(shape) for shape in self._shapes}
        pairs = [
            (file, Episode(name, *arrays[shape], none, none.astype(bool), success), known)
            for file, name, success, shape, known in self._episodes
        ]

        # Sources beside are the measure; without them, the shape of most episodes is.
        known_shapes = Counter(shape for *_, shape, known in self._episodes if known).most_common(1)
        expected = known_shapes[0][0] if known_shapes else None
        odd = check_shapes(
            [(file, outline) for file, outline, known in pairs if not known], expected=expected
        )

        odd_ones = {(finding.file, finding.episode) for finding in odd}
        measure = [outline for file, outline, _ in pairs if (file, outline.name) not in odd_ones]
        return odd + check_set(
            [outline for outline in measure if expected is None or shape_of(outline) == expected]
        )

    def _ordered(self, shape: Shape) -> tuple[dict[str, np.ndarray], np.ndarray]:
        obs, actions = self._shapes[shape][1].arrays()
        return {key: obs[key] for key, _ in shape[0]}, actions


@dataclass
class Tally:
    """Counts of what :func:`check` yields.

    Attributes:
        passed: Episodes without an error.
        bad: Names of those with one, in order; a source that cannot be read at all counts as one.
        codes: Findings per code.
        severities: Findings per severity.
    """

    passed: int = 0
    bad: dict[str, None] = field(default_factory=dict)
    codes: Counter[str] = field(default_factory=Counter)
    severities: Counter[str] = field(default_factory=Counter)

    def add(self, item: Item) -> None:
        """Count one item."""
        source, what = item
        if isinstance(what, Episode):
            self.passed += 1
            return
        self.codes[what.code] += 1
        self.severities[what.severity] += 1
        if what.severity == "error" and (what.episode or what.file):
            self.bad[what.episode or what.file] = None
            self.passed -= source is None  # it had passed, until all others were seen

    def as_json(self) -> dict[str, object]:
        """Return a JSON object; equal input gives equal counts."""
        return {
            "good": self.passed,
            "bad": len(self.bad),
            "findings": dict(sorted(self.codes.items())),
            "severities": {name: self.severities[name] for name in ("error", "warning", "note")},
        }
