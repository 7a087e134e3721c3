"""All demo files of a folder into checked episodes: what is used, what is in quarantine, and why."""

from __future__ import annotations

import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from zprl.data.episode import QUALITIES, Episode
from zprl.data.findings import Finding
from zprl.data.readers.hdf5_guard import safe_name
from zprl.data.sources import Source
from zprl.data.validate import DuplicateCheck, Limits, check_episode, check_set, check_shapes
from zprl.errors import DataError


@dataclass(frozen=True)
class Ingested:
    """Result of reading and checking.

    Attributes:
        files: All sources read, files or folders.
        good: Episodes without an error, in file and demo order.
        findings: Every finding.
        quarantine: Names of the bad episodes; a file that cannot be read at all counts as one bad episode.
        facts: What each source says of itself, see :meth:`zprl.data.sources.Reader.facts`.
    """

    files: tuple[str, ...]
    good: tuple[Episode, ...]
    findings: tuple[Finding, ...]
    quarantine: tuple[str, ...]
    facts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def bad_fraction(self) -> float:
        """Bad episodes as a share of all."""
        return len(self.quarantine) / max(1, len(self.good) + len(self.quarantine))

    @property
    def errors(self) -> list[Finding]:
        """Findings of severity ``error``."""
        return [finding for finding in self.findings if finding.severity == "error"]


Change = Callable[[Source, Episode], Iterator[Episode | Finding]]
"""What is done to an episode at the door, before it is checked: converted, cut in pieces, left out."""


def read_all(sources: Sequence[Source], *, limits: Limits, changes: Sequence[Change] = ()) -> Ingested:
    """Read, change and check every episode of every source; shows a progress bar on a terminal."""
    findings: list[Finding] = []
    bad: dict[str, None] = {}  # ordered set
    passed: list[tuple[str, Episode]] = []
    duplicates = DuplicateCheck()
    facts: dict[str, dict[str, str]] = {}
    for source in _progress(sources):
        path = source.path
        file = path.as_posix()
        if not all(safe_name(part) for part in path.parts if part != path.anchor):
            text = "the file's name has control characters or is over-long"
            findings.append(Finding("D18", "error", ascii(file), text, "rename it"))
            bad[ascii(file)] = None
            continue
        facts[file] = source.reader.facts(path)
        for item in _changed(source, source.reader.read(path), changes):
            if isinstance(item, Finding):
                found = [item]
            else:
                found = check_episode(item, file=file, limits=limits)
                # Only whole episodes can be duplicates of one another.
                found += [] if any(f.severity == "error" for f in found) else duplicates.check(item, file=file)
                if all(f.severity != "error" for f in found):
                    passed.append((file, item))
            findings += found
            bad |= {f.episode or f.file: None for f in found if f.severity == "error"}
    odd = check_shapes(passed)
    findings += odd
    bad |= {f.episode or f.file: None for f in odd}
    odd_ones = {(f.file, f.episode) for f in odd}
    good = tuple(episode for file, episode in passed if (file, episode.name) not in odd_ones)
    findings += check_set(good)
    return Ingested(tuple(source.path.as_posix() for source in sources), good, tuple(findings), tuple(bad), facts)


def _changed(source: Source, items: Iterator[Episode | Finding], changes: Sequence[Change]) -> Iterator[Episode | Finding]:
    if not changes:
        yield from items
        return
    first, *others = changes
    for item in items:
        yield from _changed(source, iter([item]) if isinstance(item, Finding) else first(source, item), others)


def choose(good: Sequence[Episode], *, exclude_failures: bool, max_episodes: int | None) -> list[Episode]:
    """The good episodes that ``params.yaml`` asks for."""
    return [episode for episode in good if episode.success or not exclude_failures][:max_episodes]


def require(result: Ingested, used: Sequence[Episode], *, max_bad_fraction: float, report: str) -> None:
    """Raise :class:`DataError` unless the data are good enough, naming the first bad places.

    Args:
        result: What was read.
        used: The episodes that would be stored.
        max_bad_fraction: ``ingest.max_bad_fraction``.
        report: Where the full report lies.
    """
    errors = result.errors
    count = len(result.good) + len(result.quarantine)
    if not used:
        why = f"no usable episode is left of {count}"
    elif result.bad_fraction > max_bad_fraction:
        why = f"{len(result.quarantine)} of {count} episodes are bad, more than ingest.max_bad_fraction ({max_bad_fraction:g}) allows"
    elif any(finding.episode is None and not finding.file for finding in errors):
        why = "the demonstrations as a whole cannot be used"
    else:
        return
    shown = [f"\n  {finding}" for finding in errors[:5]]
    more = f"\n  and {len(errors) - 5} more" if len(errors) > 5 else ""
    raise DataError(f"{why}{''.join(shown)}{more}", remedy=f"see {report}; repair or delete the demos, then run again")


def summarise(result: Ingested, used: Sequence[Episode]) -> dict[str, Any]:
    """Counts as JSON; equal input gives an equal summary."""
    lengths = [episode.length for episode in used]
    return {
        "files": len(result.files),
        "episodes": len(used),
        "frames": sum(lengths),
        "good": len(result.good),
        "bad": len(result.quarantine),
        "bad_fraction": result.bad_fraction,
        "success_share": _share(used),
        "length_min": min(lengths, default=0),
        "length_median": float(statistics.median(lengths)) if lengths else 0.0,
        "length_max": max(lengths, default=0),
        "by_quality": {
            quality: {"episodes": len(some), "frames": sum(e.length for e in some), "success_share": _share(some)}
            for quality in QUALITIES
            if (some := [e for e in used if e.quality == quality])
        },
        "findings": dict(sorted(Counter(finding.code for finding in result.findings).items())),
    }


def _share(episodes: Sequence[Episode]) -> float:
    return sum(episode.success for episode in episodes) / len(episodes) if episodes else 0.0


def _progress(files: Sequence[Source]) -> Iterator[Source]:
    from rich.console import Console
    from rich.progress import track

    yield from track(files, "reading", console=Console(stderr=True), disable=len(files) < 2 or not sys.stderr.isatty())
