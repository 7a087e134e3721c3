"""Findings and inspections on a terminal; what strangers' files say is shown as plain text, never obeyed."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from zprl import terminal
from zprl.data.episode import QUALITIES
from zprl.data.episode_checks import Tally
from zprl.data.findings import CODES, Finding
from zprl.data.inspection.dataset_card import LISTED, rates
from zprl.data.inspection.inspection import Inspection
from zprl.data.inspection.outliers import LIMIT
from zprl.data.running_statistics import RunningStatistics
from zprl.terminal import plain

COLOURS = {"error": "bold red", "warning": "yellow", "note": "dim"}
PIPE_WIDTH = 160
"""Columns of what is not written to a terminal."""
WIDE = 6
"""Dimensions listed one by one."""


def console() -> Console:
    """Standard output; wide where nobody looks at it."""
    found = terminal.console(highlight=False, markup=False, emoji=False)
    if not found.is_terminal:
        found.width = PIPE_WIDTH
    return found


def finding_line(finding: Finding) -> Text:
    """One finding: severity, code, place, message; remedy."""
    line = Text(f"{finding.severity:8}", style=COLOURS[finding.severity])
    line.append(f"{finding.code} ", style="bold")
    line.append(plain(f"{finding.where}: {finding.message}; {finding.remedy}"), style="")
    return line


def tally_table(tally: Tally, sources: int) -> Table:
    """Sources, episodes and findings by code."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("what")
    table.add_column("how many", justify="right")
    table.add_row("sources", str(sources))
    table.add_row("good episodes", str(tally.passed))
    table.add_row("with errors (kept out)", str(len(tally.bad)), style="red" if tally.bad else "")
    for code, number in sorted(tally.codes.items()):
        table.add_row(f"{code} {CODES.get(code, '')}", str(number))
    return table


def inspection_tables(found: Inspection) -> Iterable[Table | Text]:
    """All that is known, the most important first."""
    lengths = found.lengths or [0]
    yield _pairs(
        {
            "sources": str(len(found.sources)),
            "episodes": f"{found.episodes} good, {len(found.tally.bad)} with errors",
            "frames": f"{sum(found.lengths)}; per episode {min(lengths)} to {max(lengths)}, median {statistics.median(lengths):g}",
            "time": rates(found),
            "success": f"{found.success_share:.0%}",
            "quality": ", ".join(
                f"{found.qualities[quality]} {quality}"
                for quality in QUALITIES
                if found.qualities[quality]
            ),
        }
    )
    yield _sources(found)
    if not found.complete:
        more = sum(source.more for source in found.sources)
        yield Text(
            f"sampled: {more} source(s) have more episodes than were looked at; --all reads them, --sample N more of them",
            "yellow",
        )
    yield _keys(found)
    if found.outliers:
        yield Text(
            f"\nepisodes that stand out (modified z-score beyond {LIMIT}: Iglewicz and Hoaglin 1993)",
            "bold",
        )
    yield from (Text(plain(f"  {outlier}")) for outlier in found.outliers[:LISTED])
    if len(found.outliers) > LISTED:
        yield Text(f"  and {len(found.outliers) - LISTED} more; --json has all")
    if found.duplicates:
        yield Text("\nduplicated episodes", "bold")
    yield from (
        Text(plain(f"  {finding.where}: {finding.message}"))
        for finding in found.duplicates[:LISTED]
    )
    if found.tally.codes:
        told = ", ".join(
            f"{number} x {code} ({CODES.get(code, '')})"
            for code, number in sorted(found.tally.codes.items())
        )
        yield Text(f"\nfindings: {told}; `zprl demos check` says where")


def _pairs(values: Mapping[str, str]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in values.items():
        if value:
            table.add_row(Text(name, "bold"), Text(value))
    return table


def _sources(found: Inspection) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("source", "format", "episodes", "frames", "says of itself"):
        table.add_column(
            name, justify="right" if name in ("episodes", "frames") else "left", overflow="fold"
        )
    for source in found.sources[:LISTED]:
        said = plain("; ".join(f"{name}: {text}" for name, text in source.facts.items()))
        episodes = f"{source.episodes}{'+' if source.more else ''}"
        table.add_row(
            Text(plain(source.path)), source.format, episodes, str(source.frames), Text(said)
        )
    if len(found.sources) > LISTED:
        table.add_row(f"and {len(found.sources) - LISTED} more")
    return table


def _keys(found: Inspection) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("key", "type", "width", "min", "max", "mean", "deviation"):
        table.add_column(name, overflow="fold")
    for key, moments in found.keys.items():
        table.add_row(Text(plain(key)), "float32", str(moments.width), *numbers(moments))
    for key, (height, width) in found.pictures.items():
        table.add_row(Text(plain(key)), "uint8", f"{height} x {width}")
    return table


def numbers(moments: RunningStatistics) -> list[str]:
    """Min, max, mean and deviation, per dimension or, of wide keys, over all of them."""
    columns = (moments.low, moments.high, moments.mean, moments.std)
    if moments.width <= WIDE:
        return [" ".join(f"{value:.3g}" for value in column) for column in columns]
    low, high, mean, std = columns
    return [
        f"{low.min():.3g}",
        f"{high.max():.3g}",
        f"{mean.min():.3g} .. {mean.max():.3g}",
        f"{std.min():.3g} .. {std.max():.3g}",
    ]
