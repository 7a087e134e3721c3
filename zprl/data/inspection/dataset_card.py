"""The dataset card: a description of recordings in Markdown.

Equal recordings give equal bytes, without dates, so that git shows the changes.
"""

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

CONVENTIONS = (
    "Expected here, unless a source's own words say otherwise: "
    "positions in metres in the robot's base frame, quaternions xyzw\n"
    "in keys that end in `quat`, "
    "and actions commanded after the frame they belong to was observed."
)


def card(inspection: Inspection, *, title: str, actions: str | None = None) -> str:
    """Return the card's text.

    Args:
        inspection: Result of an inspection.
        title: Heading.
        actions: One sentence on the layout of the actions, where it is known.
    """
    parts = [
        f"# {title}",
        "Written by `zprl demos` from the recordings; changes by hand are lost.",
        _summary(inspection),
        "## Sources",
        _table(
            SOURCE_COLUMNS,
            [_source(row) for row in inspection.sources[:LISTED]],
            len(inspection.sources),
        ),
        "## Conventions",
        CONVENTIONS + (f" {actions}" if actions else ""),
        "## Statistics",
        f"Over the {inspection.episodes} good episodes that were looked at, per dimension.",
        _statistics(inspection),
        "## Findings",
        _findings(inspection),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _summary(inspection: Inspection) -> str:
    lengths = inspection.lengths or [0]
    bad = len(inspection.tally.bad)
    spread = f"{min(lengths)} to {max(lengths)} per episode, median {statistics.median(lengths):g}"
    lines = [
        f"{inspection.episodes} good episodes, {bad} with errors, "
        f"from {len(inspection.sources)} sources",
        f"{sum(inspection.lengths)} frames; {spread}",
        rates(inspection),
        f"{inspection.success_share:.0%} of the episodes are successes",
    ]
    if text := grades(inspection):
        lines.append(f"quality: {text}")
    if not inspection.complete:
        more = sum(source.more for source in inspection.sources)
        lines.append(f"sampled: {more} sources have more episodes than were looked at")
    return "\n".join(f"- {line}" for line in lines)


def grades(inspection: Inspection) -> str:
    """Return the number of episodes of each quality that there is, as one phrase."""
    counts = {quality: inspection.qualities[quality] for quality in QUALITIES}
    return ", ".join(f"{count} {quality}" for quality, count in counts.items() if count)


def rates(inspection: Inspection) -> str:
    """Return rates and time in one phrase."""
    if not inspection.timed:
        return "rate: not recorded"

    known = ", ".join(
        f"{rate:g} Hz ({number})" if len(inspection.rates_hz) > 1 else f"{rate:g} Hz"
        for rate, number in sorted(inspection.rates_hz.items())
    )
    text = f"rate {known}; {inspection.seconds:.1f} s"
    if inspection.timed < inspection.episodes:
        text += f" in the {inspection.timed} episodes whose rate is known"
    return text


def source_cells(source: SourceSummary) -> list[str]:
    """Return a source's row under :data:`SOURCE_COLUMNS`, foreign text as it is."""
    return [
        source.path,
        source.format,
        f"{source.episodes}{'+' if source.more else ''}",
        str(source.frames),
        "; ".join(f"{name}: {text}" for name, text in source.facts.items()),
    ]


def _source(source: SourceSummary) -> list[str]:
    path, *others = source_cells(source)
    return [f"`{path}`", *others]


def _statistics(inspection: Inspection) -> str:
    rows = [
        [key, str(moments.width), *numbers(moments, wide=WIDE, to="to")]
        for key, moments in inspection.keys.items()
    ]
    rows += [
        [key, f"{height} x {width} pixels", "", "", "", ""]
        for key, (height, width) in inspection.images.items()
    ]
    return _table(["key", "width", "min", "max", "mean", "deviation"], rows, len(rows))


def numbers(moments: RunningStatistics, *, wide: int, to: str) -> list[str]:
    """Return min, max, mean and deviation per dimension, or of wide keys over all of them.

    Args:
        moments: Statistics of one key.
        wide: Most dimensions that are listed.
        to: Word between the ends of a range.
    """
    columns = (moments.low, moments.high, moments.mean, moments.std)
    if moments.width <= wide:
        return [" ".join(f"{value:.3g}" for value in column) for column in columns]
    low, high, mean, std = columns
    return [
        f"{low.min():.3g}",
        f"{high.max():.3g}",
        f"{mean.min():.3g} {to} {mean.max():.3g}",
        f"{std.min():.3g} {to} {std.max():.3g}",
    ]


def _findings(inspection: Inspection) -> str:
    if not inspection.findings and not inspection.outliers:
        return "None: every episode passed every check."

    rows = [
        [code, CODES.get(code, ""), str(number)]
        for code, number in sorted(inspection.tally.codes.items())
    ]
    parts = [_table(["code", "what", "how many"], rows, len(rows))] if rows else []
    if inspection.outliers:
        parts.append(
            f"Episodes that stand out (modified z-score beyond {LIMIT}, "
            "Iglewicz and Hoaglin 1993); worth a look, no defect by itself:"
        )
        parts.append(
            "\n".join(f"- {_safe(str(outlier))}" for outlier in inspection.outliers[:LISTED])
        )
        if len(inspection.outliers) > LISTED:
            parts.append(f"and {len(inspection.outliers) - LISTED} more")
    return "\n\n".join(parts)


def _table(head: list[str], rows: list[list[str]], count: int) -> str:
    lines = [head, ["---"] * len(head), *rows]
    text = "\n".join("| " + " | ".join(_safe(cell) for cell in line) + " |" for line in lines)
    return text if count <= len(rows) else f"{text}\n\nand {count - len(rows)} more"


def _safe(text: str) -> str:
    """Return foreign text for a cell: no line feeds, tables, HTML, links or control characters."""
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    swaps: Mapping[str, str] = {"|": "\\|", "<": "&lt;", ">": "&gt;", "[": "\\[", "]": "\\]"}
    return "".join(swaps.get(letter, letter) for letter in plain)
