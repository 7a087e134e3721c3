"""All demo files of a folder into checked episodes: those to use, and those in quarantine."""

from __future__ import annotations

import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from zprl import terminal
from zprl.data.episode import QUALITIES, Episode
from zprl.data.episode_buffer import BufferSubset, EpisodeBuffer
from zprl.data.episode_checks import Change, Tally, check, safe_source
from zprl.data.findings import Finding
from zprl.data.sources import Source
from zprl.data.validation import ValidationLimits, check_versions
from zprl.errors import DataError

SHOWN = 5
"""Findings that an error message repeats."""


@dataclass(frozen=True)
class Ingested:
    """Result of reading and checking.

    Attributes:
        files: All sources read, files or folders.
        good: Episodes without an error, in file and demo order; read from disk when they are looked
            at.
        findings: Every finding.
        quarantine: Names of the bad episodes; a file that cannot be read at all counts as one bad
            episode.
        facts: Facts of each source, see :meth:`zprl.data.sources.Reader.facts`.
    """

    files: tuple[str, ...]
    good: Sequence[Episode]
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


def read_all(
    sources: Sequence[Source],
    *,
    limits: ValidationLimits,
    changes: Sequence[Change] = (),
    folder: Path | None = None,
) -> Ingested:
    """Read, change and check every episode of every source; one at a time is in memory.

    On a terminal a progress bar is shown.

    Args:
        sources: Files and folders.
        limits: Limits of what counts as good.
        changes: Done to each episode first.
        folder: Its disk keeps the good episodes meanwhile; ``None`` for that of temporary files.
    """
    findings: list[Finding] = []
    passed: list[tuple[str, str]] = []
    buffer = EpisodeBuffer(folder)
    # Episodes whose dimensions differ, which shows only when all were read.
    odd_ones: set[tuple[str, str | None]] = set()
    tally = Tally()
    for source, item in check(_progress(sources), limits=limits, changes=changes):
        tally.add((source, item))
        if isinstance(item, Finding):
            findings.append(item)
            if source is None:
                odd_ones.add((item.file, item.episode))
        elif source is not None:
            passed.append((source.path.as_posix(), item.name))
            buffer.append(item)

    good = BufferSubset(
        buffer, [number for number, place in enumerate(passed) if place not in odd_ones]
    )

    done = {name: text for change in changes for name, text in change.facts.items()}
    facts = {
        source.path.as_posix(): source.reader.facts(source.path) | done
        for source in sources
        if safe_source(source)
    }
    findings += check_versions(facts)
    files = tuple(source.path.as_posix() for source in sources)
    return Ingested(files, good, tuple(findings), tuple(tally.bad), facts)


def choose(
    good: Sequence[Episode], *, exclude_failures: bool, max_episodes: int | None
) -> Sequence[Episode]:
    """Return the good episodes that ``params.yaml`` asks for, read as lazily as ``good``."""
    if not exclude_failures and max_episodes is None:
        return good
    numbers = [
        number for number, episode in enumerate(good) if episode.success or not exclude_failures
    ]
    return BufferSubset(good, numbers[:max_episodes])


def require(
    result: Ingested, used: Sequence[Episode], *, max_bad_fraction: float, report: str
) -> None:
    """Raise :class:`DataError` unless the data are good enough, naming the first bad places.

    Args:
        result: Result of reading and checking.
        used: The episodes that would be stored.
        max_bad_fraction: ``ingest.max_bad_fraction``.
        report: Path of the full report.
    """
    errors = result.errors
    count = len(result.good) + len(result.quarantine)
    if not used:
        why = f"no usable episode is left of {count}"
    elif result.bad_fraction > max_bad_fraction:
        why = (
            f"{len(result.quarantine)} of {count} episodes are bad, more than "
            f"ingest.max_bad_fraction ({max_bad_fraction:g}) allows"
        )
    elif any(finding.episode is None and not finding.file for finding in errors):
        why = "the demonstrations as a whole cannot be used"
    else:
        return

    shown = [f"\n  {finding}" for finding in errors[:SHOWN]]
    more = f"\n  and {len(errors) - SHOWN} more" if len(errors) > SHOWN else ""
    raise DataError(
        f"{why}{''.join(shown)}{more}",
        remedy=f"see {report}; repair or delete the demos, then run again",
    )


def summarise(result: Ingested, used: Sequence[Episode]) -> dict[str, Any]:
    """Return counts as JSON; equal input gives an equal summary."""
    outlines = [_Outline(episode.length, episode.success, episode.quality) for episode in used]
    lengths = [outline.length for outline in outlines]
    return {
        "files": len(result.files),
        "episodes": len(used),
        "frames": sum(lengths),
        "good": len(result.good),
        "bad": len(result.quarantine),
        "bad_fraction": result.bad_fraction,
        "success_share": _share(outlines),
        "length_min": min(lengths, default=0),
        "length_median": float(statistics.median(lengths)) if lengths else 0.0,
        "length_max": max(lengths, default=0),
        "by_quality": {
            quality: {
                "episodes": len(some),
                "frames": sum(e.length for e in some),
                "success_share": _share(some),
            }
            for quality in QUALITIES
            if (some := [e for e in outlines if e.quality == quality])
        },
        "findings": dict(sorted(Counter(finding.code for finding in result.findings).items())),
    }


class _Outline(NamedTuple):
    """Facts of an episode that are counted."""

    length: int
    success: bool
    quality: str


def _share(episodes: Sequence[_Outline]) -> float:
    return sum(episode.success for episode in episodes) / len(episodes) if episodes else 0.0


def _progress(sources: Sequence[Source]) -> Iterator[Source]:
    from rich.progress import track

    yield from track(
        sources,
        "reading",
        console=terminal.console(stderr=True),
        disable=len(sources) < 2 or not sys.stderr.isatty(),
    )
