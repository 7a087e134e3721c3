"""A dataset card: what recordings are, in Markdown that git can show the changes of.  Equal recordings give equal bytes: no dates in it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from zprl.data.episode import QUALITIES
from zprl.data.findings import CODES
from zprl.data.inspection.inspection import Inspection, SourceSummary
from zprl.data.inspection.outliers import LIMIT
from zprl.data.running_statistics import RunningStatistics

CARD = "DATASET.md"
LISTED = 50
"""Rows of a table; of more the first are listed."""
WIDE = 8
"""Dimensions whose numbers are listed; of wider keys the extremes over all."""

SOURCE_COLUMNS = ["source", "format", "episodes", "frames", "says of itself"]

CONVENTIONS = """Expected here, unless a source's own words say otherwise: positions in metres in the robot's base frame, quaternions xyzw
in keys that end in `quat`, and actions commanded after the frame they belong to was observed."""


def card(found: Inspection, *, title: str, actions: str | None = None) -> str:
    """The card's text.

    Args:
        found: What was seen.
        title: Heading.
        actions: One sentence on the layout of the actions, where it is known.
    """
    parts = [
        f"# {title}",
        "Written by `zprl demos` from the recordings; changes by hand are lost.",
        _summary(found),
        "## Sources",
        _table(
            ["source", "format", "episodes", "frames", "says of itself"],
            [_source(row) for row in found.sources[:LISTED]],
            len(found.sources),
        ),
        "## Conventions",
        CONVENTIONS + (f" {actions}" if actions else ""),
        "## Statistics",
        f"Over the {found.episodes} good episodes that were looked at, per dimension.",
        _statistics(found),
        "## Findings",
        _findings(found),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _summary(found: Inspection) -> str:
    lengths = found.lengths or [0]
    lines = [
        f"{found.episodes} good episodes, {len(found.tally.bad)} with errors, from {len(found.sources)} sources",
        f"{sum(found.lengths)} frames; {min(lengths)} to {max(lengths)} per episode, median {statistics.median(lengths):g}",
        rates(found),
        f"{found.success_share:.0%} of the episodes are successes",
        "quality: "
        + ", ".join(
            f"{found.qualities[quality]} {quality}"
            for quality in QUALITIES
            if found.qualities[quality]
        ),
        ""
        if found.complete
        else f"sampled: {sum(source.more for source in found.sources)} sources have more episodes than were looked at",
    ]
    return "\n".join(f"- {line}" for line in lines if not line.endswith(": ") and line)


def rates(found: Inspection) -> str:
    """Rates and time in one phrase."""
    if not found.timed:
        return "rate: not recorded"
    said = ", ".join(
        f"{rate:g} Hz ({number})" if len(found.rates_hz) > 1 else f"{rate:g} Hz"
        for rate, number in sorted(found.rates_hz.items())
    )
    missing = found.episodes - found.timed
    return f"rate {said}; {found.seconds:.1f} s" + (
        f" in the {found.timed} episodes whose rate is known" if missing else ""
    )


def _source(source: SourceSummary) -> list[str]:
    said = "; ".join(f"{name}: {text}" for name, text in source.facts.items())
    return [
        f"`{source.path}`",
        source.format,
        f"{source.episodes}{'+' if source.more else ''}",
        str(source.frames),
        said,
    ]


def _statistics(found: Inspection) -> str:
    rows = [[key, str(moments.width), *_numbers(moments)] for key, moments in found.keys.items()]
    rows += [
        [key, f"{height} x {width} pixels", "", "", "", ""]
        for key, (height, width) in found.pictures.items()
    ]
    return _table(["key", "width", "min", "max", "mean", "deviation"], rows, len(rows))


def _numbers(moments: RunningStatistics) -> list[str]:
    columns = (moments.low, moments.high, moments.mean, moments.std)
    if moments.width <= WIDE:
        return [" ".join(f"{value:.3g}" for value in column) for column in columns]
    low, high, mean, std = columns
    return [
        f"{low.min():.3g}",
        f"{high.max():.3g}",
        f"{mean.min():.3g} to {mean.max():.3g}",
        f"{std.min():.3g} to {std.max():.3g}",
    ]


def _findings(found: Inspection) -> str:
    if not found.findings and not found.outliers:
        return "None: every episode passed every check."
    rows = [
        [code, CODES.get(code, ""), str(number)]
        for code, number in sorted(found.tally.codes.items())
    ]
    parts = [_table(["code", "what", "how many"], rows, len(rows))] if rows else []
    if found.outliers:
        parts.append(
            f"Episodes that stand out (modified z-score beyond {LIMIT}, Iglewicz and Hoaglin 1993); worth a look, no defect by itself:"
        )
        parts.append("\n".join(f"- {_safe(str(outlier))}" for outlier in found.outliers[:LISTED]))
        if len(found.outliers) > LISTED:
            parts.append(f"and {len(found.outliers) - LISTED} more")
    return "\n\n".join(parts)


def _table(head: list[str], rows: list[list[str]], count: int) -> str:
    lines = [head, ["---"] * len(head), *rows]
    text = "\n".join("| " + " | ".join(_safe(cell) for cell in line) + " |" for line in lines)
    return text if count <= len(rows) else f"{text}\n\nand {count - len(rows)} more"


def _safe(text: str) -> str:
    """A stranger's words in a cell: one line, no table, no HTML, no links, nothing that a terminal obeys."""
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    swaps: Mapping[str, str] = {"|": "\\|", "<": "&lt;", ">": "&gt;", "[": "\\[", "]": "\\]"}
    return "".join(swaps.get(letter, letter) for letter in plain)
