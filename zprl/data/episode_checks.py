"""Checks episodes one after another as they are read: a hundred gigabytes need no more memory than one recording.

Of each episode only its name, hash and shape are kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

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

Change = Callable[[Source, Episode], Iterator[Episode | Finding]]
"""What is done to an episode at the door, before it is checked: converted, cut in pieces, left out.

Where it has an attribute ``facts``, names and sentences, the data report shows them with each
source.  A method ``end_of_source(source)`` may yield what was held back when a source ends, a
method ``findings()`` what is to be said when all were read.
"""

Item = tuple[Source | None, Episode | Finding]
"""An episode without an error of its own, or a finding, and where it was read; ``None`` for
findings on the whole set."""


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
        sources: What is checked.
        limits: What still counts as good.
        changes: Done to each episode first.
        beside: What the sources would join: duplicates of it are found and its dimensions are the
            measure, its own defects are not told.
    """
    duplicates, outlines = DuplicateCheck(), _Outlines()
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
    yield from (
        (None, finding)
        for change in changes
        if hasattr(change, "findings")
        for finding in change.findings()
    )


def safe_source(source: Source) -> bool:
    """Whether the names along its path can be printed and written without harm."""
    return all(safe_name(part) for part in source.path.parts if part != source.path.anchor)


def _checked(
    source: Source, limits: ValidationLimits, changes: Sequence[Change], duplicates: DuplicateCheck
) -> Iterator[Episode | Finding]:
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
        found = check_episode(item, file=file, limits=limits)
        # Only whole episodes can be duplicates of one another.
        found += [] if _any_error(found) else duplicates.check(item, file=file)
        yield from found
        if not _any_error(found):
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
    for item in items:
        if isinstance(item, Finding):
            yield item
        else:
            yield from change(source, item)
    if hasattr(change, "end_of_source"):
        yield from change.end_of_source(source)


class _Extremes:
    """Smallest and largest number of each dimension over all episodes of one shape."""

    def __init__(self, episode: Episode) -> None:
        self._images = {
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
        """Observations and actions of two frames that span what was seen; images of none."""
        ranges = {key: value for key, value in self._ranges.items() if key}
        return {**ranges, **self._images}, self._ranges[""]


class _Outlines:
    """What the checks of the whole set need of each episode: its name, shape and success, and the ranges of its shape."""

    def __init__(self) -> None:
        self._episodes: list[tuple[str, str, bool, Shape, bool]] = []
        self._shapes: dict[Shape, tuple[Shape, _Extremes]] = {}

    def add(self, file: str, episode: Episode, *, known: bool = False) -> None:
        shape, extremes = self._shapes.setdefault(
            found := shape_of(episode), (found, _Extremes(episode))
        )
        extremes.add(episode)
        self._episodes.append((file, episode.name, episode.success, shape, known))

    def findings(self) -> list[Finding]:
        none = np.zeros(0, np.float32)
        arrays = {shape: self._ordered(shape) for shape in self._shapes}
        pairs = [
            (file, Episode(name, *arrays[shape], none, none.astype(bool), success), known)
            for file, name, success, shape, known in self._episodes
        ]
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
        """JSON object; equal input gives equal counts."""
        return {
            "good": self.passed,
            "bad": len(self.bad),
            "findings": dict(sorted(self.codes.items())),
            "severities": {name: self.severities[name] for name in ("error", "warning", "note")},
        }
