"""Findings and inspections on a terminal; foreign text is shown as plain text."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from zprl import terminal
from zprl.data.episode_checks import Tally
from zprl.data.findings import CODES, Finding
from zprl.data.inspection.dataset_card import (
    LISTED,
    SOURCE_COLUMNS,
    grades,
    numbers,
    rates,
    source_cells,
)
from zprl.data.inspection.inspection import Inspection
from zprl.data.inspection.outliers import LIMIT, Outlier
from zprl.terminal import plain

COLOURS = {"error": "bold red", "warning": "yellow", "note": "dim"}
PIPE_WIDTH = 160
"""Columns of what is not written to a terminal."""
WIDE = 6
"""Dimensions listed one by one."""


def console() -> Console:
    """Return standard output, of a fixed width where it is no terminal."""
    screen = terminal.console(highlight=False, markup=False, emoji=False)
    if not screen.is_terminal:
        screen.width = PIPE_WIDTH
    return screen


def finding_line(finding: Finding) -> Text:
    """Return one finding as a line: severity, code, place, message; remedy."""
    line = Text(f"{finding.severity:8}", style=COLOURS[finding.severity])
    line.append(f"{finding.code} ", style="bold")
    line.append(plain(f"{finding.where}: {finding.message}; {finding.remedy}"), style="")
    return line


def tally_table(tally: Tally, sources: int) -> Table:
    """Return a table of sources, episodes and findings by code."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("what")
    table.add_column("how many", justify="right")
    table.add_row("sources", str(sources))
    table.add_row("good episodes", str(tally.passed))
    table.add_row("with errors (kept out)", str(len(tally.bad)), style="red" if tally.bad else "")
    for code, number in sorted(tally.codes.items()):
        table.add_row(f"{code} {CODES.get(code, '')}", str(number))
    return table


def inspection_tables(inspection: Inspection) -> Iterable[Table | Text]:
    """Yield all parts of an inspection, the most important first."""
    yield _summary(inspection)
    yield _sources(inspection)
    if not inspection.complete:
        more = sum(source.more for source in inspection.sources)
        yield Text(
            f"sampled: {more} source(s) have more episodes than were looked at; "
            "--all reads them, --sample N more of them",
            "yellow",
        )
    yield _keys(inspection)
    yield from _outliers(inspection.outliers)
    yield from _duplicates(inspection.duplicates)

    codes = inspection.tally.codes
    if codes:
        counts = ", ".join(
            f"{number} x {code} ({CODES.get(code, '')})" for code, number in sorted(codes.items())
        )
        yield Text(f"\nfindings: {counts}; `zprl demos check` says where")


def _summary(inspection: Inspection) -> Table:
    lengths = inspection.lengths or [0]
    median = statistics.median(lengths)
    spread = f"per episode {min(lengths)} to {max(lengths)}, median {median:g}"
    return _pairs(
        {
            "sources": str(len(inspection.sources)),
            "episodes": f"{inspection.episodes} good, {len(inspection.tally.bad)} with errors",
            "frames": f"{sum(inspection.lengths)}; {spread}",
            "time": rates(inspection),
            "success": f"{inspection.success_share:.0%}",
            "quality": grades(inspection),
        }
    )


def _outliers(outliers: Sequence[Outlier]) -> Iterable[Text]:
    if outliers:
        rule = f"modified z-score beyond {LIMIT}: Iglewicz and Hoaglin 1993"
        yield Text(f"\nepisodes that stand out ({rule})", "bold")
    for outlier in outliers[:LISTED]:
        yield Text(plain(f"  {outlier}"))
    if len(outliers) > LISTED:
        yield Text(f"  and {len(outliers) - LISTED} more; --json has all")


def _duplicates(duplicates: Sequence[Finding]) -> Iterable[Text]:
    if duplicates:
        yield Text("\nduplicated episodes", "bold")
    for finding in duplicates[:LISTED]:
        yield Text(plain(f"  {finding.where}: {finding.message}"))


def _pairs(values: Mapping[str, str]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in values.items():
        if value:
            table.add_row(Text(name, "bold"), Text(value))
    return table


def _sources(inspection: Inspection) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in SOURCE_COLUMNS:
        is_count = name in ("episodes", "frames")
        table.add_column(name, justify="right" if is_count else "left", overflow="fold")

    for source in inspection.sources[:LISTED]:
        path, *counts, facts = source_cells(source)
        table.add_row(Text(plain(path)), *counts, Text(plain(facts)))
    if len(inspection.sources) > LISTED:
        table.add_row(f"and {len(inspection.sources) - LISTED} more")
    return table


def _keys(inspection: Inspection) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("key", "type", "width", "min", "max", "mean", "deviation"):
        table.add_column(name, overflow="fold")
    for key, moments in inspection.keys.items():
        cells = numbers(moments, wide=WIDE, to="..")
        table.add_row(Text(plain(key)), "float32", str(moments.width), *cells)
    for key, (height, width) in inspection.images.items():
        table.add_row(Text(plain(key)), "uint8", f"{height} x {width}")
    return table
