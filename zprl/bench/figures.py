"""The page's diagrams: success while training, and all tasks together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from zprl import durable
from zprl.bench import statistics
from zprl.bench.results import BASE, Point
from zprl.bench.statistics import OURS, Estimate, Seeds
from zprl.errors import DataError
from zprl.report.style import DARK, LIGHT, PageFigure, Theme, render_figure, thousands

COLOURS = (
    LIGHT.policies["finetune_sim"],
    "#e69f00",
    "#009e73",
    "#d55e00",
    "#6a3d9a",
    "#50d0b0",
    "#901070",
    "#8c510a",
    "#ad88c6",
    "#00796b",
    "#a0a0f0",
    "#c7a76c",
)
"""Ours first.  Chosen (ours) from named colour-blind safe palettes so that any two, and the grey of
the base, are at least 13 apart (CIE76) to the normal, the protanope and the deuteranope eye
(matrices of Machado et al. 2009)."""
SMALL = "P*X"
"""Markers that look smaller than others of their size."""
MARKS = {
    "o": "●",
    "s": "■",
    "^": "▲",
    "D": "◆",
    "v": "▼",
    "P": "✚",
    "*": "★",
    "X": "✖",
    "h": "⬢",
    "<": "◀",
    "p": "⬟",
}
"""Matplotlib's marker to the sign that looks like it.  The first is ours alone, as is the first
colour; the number of the others has no factor in common with that of the other colours, so pairs
repeat late."""
LIGHTEN = 0.15
"""Share of white in a colour on a dark background: any two are 11 apart there."""
GROUPS = {
    "latent": "On the latent",
    "none": "On the latent",  # what a method on the latent starts from, with nothing learnt
    "action": "On actions",
    "noise": "On the flow noise and on the embedding",
    "embedding": "On the flow noise and on the embedding",
    "weights": "On the policy's weights",
}
"""Where a method acts to the heading of those that are drawn together."""
TOGETHER = "All tasks"
CROWD = 7
"""Most methods (ours) whose lines can be kept apart in one diagram."""
MARKED_POINTS = 8
"""Markers on one line; a marker at each of many points would hide the line."""
DASHES = (0, (4, 3))
FIGURE_WIDTH = 9.4
"""Width of a figure [inches]."""
CURVES_CAPTION = (
    "Mean over seeds of the deterministic policy's success; bands: 95 % bootstrap intervals, "
    "point by point, none where there is one seed. The points between are judged by fewer episodes "
    "than the first and the last, of other start states."
)
TOGETHER_CAPTION = (
    " All tasks: interquartile mean of methods that have runs on every task, up to the smallest "
    "budget, each run interpolated between its judged points."
)


@dataclass(frozen=True)
class LineStyle:
    """Colour and marker of a method, wherever it appears.

    Attributes:
        light: Colour on a light background.
        dark: Colour on a dark one.
        marker: Matplotlib's marker.
    """

    light: str
    dark: str
    marker: str

    @property
    def sign(self) -> str:
        """Return the marker as text; the selector keeps telephones from drawing an emoji."""
        return MARKS[self.marker] + "\N{VARIATION SELECTOR-15}"

    def colour(self, theme: Theme) -> str:
        """Return the colour in a theme."""
        return self.dark if theme is DARK else self.light


def looks(spaces: Mapping[str, str]) -> dict[str, LineStyle]:
    """Choose the style of each method of a suite, done or not.

    No method changes its colour when results come in.

    Args:
        spaces: Every method of the suite to where it acts; those that are drawn together get their
            colours one after the other.
    """
    headings = list(GROUPS.values())
    order = sorted(
        (m for m in spaces if m not in (BASE, OURS)),
        key=lambda m: headings.index(GROUPS[spaces[m]]),
    )
    our_colour, *colours = COLOURS
    our_marker, *markers = MARKS

    styles = {OURS: LineStyle(our_colour, _lightened(our_colour), our_marker)}
    for number, method in enumerate(order):
        colour = colours[number % len(colours)]
        marker = markers[number % len(markers)]
        styles[method] = LineStyle(colour, _lightened(colour), marker)
    grey = "embedding"
    styles[BASE] = LineStyle(LIGHT.policies[grey], DARK.policies[grey], our_marker)
    return styles


def _lightened(colour: str) -> str:
    parts = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return "#" + "".join(f"{round(part + (255 - part) * LIGHTEN):02x}" for part in parts)


def complete(
    runs: Mapping[tuple[str, str], Seeds], methods: Sequence[str]
) -> dict[str, dict[str, Seeds]]:
    """Return the methods that have a run on every task, each with task to runs.

    Only they can be compared over all tasks.
    """
    tasks = sorted({task for task, _ in runs})
    return {
        m: {task: runs[task, m] for task in tasks}
        for m in methods
        if tasks and all((task, m) in runs for task in tasks)
    }


def curves(
    points: Sequence[Point], labels: Mapping[str, str], spaces: Mapping[str, str]
) -> PageFigure:
    """Draw success against environment steps, a diagram per task.

    There is one more for all tasks together where there are several.  Where methods are too many
    for one diagram there is a row of diagrams for each group of them, ours in every one.

    Args:
        points: All rows.
        labels: Every method of the suite to its name for people, in order.
        spaces: The same to where it acts, a key of :data:`GROUPS`.

    Raises:
        DataError: there is nothing to draw.
    """
    runs = statistics.runs(points)
    if not runs:
        raise DataError("the suite has no results to draw", remedy="run it")

    panels = _panels(runs, labels)
    drawn = [m for m in labels if any(m in methods for methods in panels.values())]
    blocks = groups(drawn, spaces)
    layout = _Layout.of(len(blocks), len(panels))
    look = looks(spaces)

    def draw(figure: Figure, theme: Theme) -> None:
        figure.set_layout_engine("constrained", hspace=0.08, wspace=0.04)
        parts = figure.subfigures(len(blocks), squeeze=False).flatten()
        for part, (heading, shown) in zip(parts, blocks.items(), strict=True):
            if heading:
                part.suptitle(heading, x=0.008, ha="left", weight="bold", size=11)
            _block(part, panels, shown, look, layout, theme, headed=bool(heading))
            with_base = any(BASE in methods for methods in panels.values())
            part.legend(
                handles=_legend(shown, labels, look, theme, with_base=with_base),
                loc="outside lower left",
                ncols=layout.legend,
                fontsize=8.5,
                columnspacing=1.4,
                handletextpad=0.6,
            )

    caption = CURVES_CAPTION
    if TOGETHER in panels:
        caption += TOGETHER_CAPTION
    size = (FIGURE_WIDTH, layout.height(blocks))
    return render_figure("curves", "Learning", caption, size=size, draw=draw)


def _panels(
    runs: Mapping[tuple[str, str], Seeds], labels: Mapping[str, str]
) -> dict[str, dict[str, Mapping[str, Seeds]]]:
    """Return the diagrams' titles, each to method to task to runs."""
    tasks = sorted({task for task, _ in runs})
    panels: dict[str, dict[str, Mapping[str, Seeds]]] = {
        task: {m: {task: runs[task, m]} for m in (BASE, *labels) if (task, m) in runs}
        for task in tasks
    }
    on_every_task = complete(runs, [BASE, *labels])
    if len(tasks) > 1 and on_every_task.keys() - {BASE}:
        panels[TOGETHER] = dict(on_every_task)
    return panels


@dataclass(frozen=True)
class _Layout:
    """Places of the diagrams of a block.

    Attributes:
        wide: Diagrams beside one another.
        rows: Rows of diagrams.
        legend: Columns of the legend.
    """

    wide: int
    rows: int
    legend: int

    @classmethod
    def of(cls, blocks: int, panels: int) -> _Layout:
        """Choose the layout of so many blocks of so many diagrams each."""
        wide = 4 if blocks > 1 else 2 if panels == 4 else 3
        wide = min(wide, panels)
        return cls(wide, rows=-(-panels // wide), legend=4 if blocks == 1 else 6)

    def height(self, blocks: Mapping[str, Sequence[str]]) -> float:
        """Return the height of the figure [inches]: legends, headings and diagrams."""
        tall = sum(
            0.25 * -(-(len(shown) + 1) // self.legend) + 0.25 * bool(heading)
            for heading, shown in blocks.items()
        )
        return tall + len(blocks) * self.rows * {2: 3.5, 4: 2.1}.get(self.wide, 3.1)


def _block(
    part: SubFigure,
    panels: Mapping[str, Mapping[str, Mapping[str, Seeds]]],
    shown: Sequence[str],
    look: Mapping[str, LineStyle],
    layout: _Layout,
    theme: Theme,
    *,
    headed: bool,
) -> None:
    """Draw all diagrams with the methods of one group."""
    grid = part.subplots(layout.rows, layout.wide, squeeze=False, sharey=True).flatten()
    for axes, (title, methods) in zip(grid, panels.items(), strict=False):
        _panel(axes, {m: methods[m] for m in (BASE, *shown) if m in methods}, look, theme)
        axes.set_title(title, weight="normal" if headed else "bold")
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for axes in grid[:: layout.wide]:
        axes.set_ylabel("success")


def _legend(
    shown: Sequence[str],
    labels: Mapping[str, str],
    look: Mapping[str, LineStyle],
    theme: Theme,
    *,
    with_base: bool,
) -> list[Line2D]:
    handles = [
        Line2D([], [], label=labels[m], **_line(m, look[m].colour(theme), look[m].marker))
        for m in shown
    ]
    if with_base:
        handles.append(Line2D([], [], color=theme.ink, ls=DASHES, lw=1.2, label="frozen base"))
    return handles


def groups(methods: Sequence[str], spaces: Mapping[str, str]) -> dict[str, list[str]]:
    """Return heading to the methods that are drawn together.

    There is one group without a heading where they are few or all of a kind.
    """
    if len(methods) <= CROWD or len({GROUPS[spaces[m]] for m in methods}) == 1:
        return {"": list(methods)}
    grouped = {
        heading: [m for m in methods if m == OURS or GROUPS[spaces[m]] == heading]
        for heading in dict.fromkeys(GROUPS.values())
    }
    return {heading: shown for heading, shown in grouped.items() if set(shown) - {OURS}}


def _line(method: str, colour: str, marker: str) -> dict[str, Any]:
    """Return matplotlib's settings of a line; ours is the thickest and on top."""
    if method == OURS:
        return {"color": colour, "marker": marker, "ms": 5, "lw": 2.8, "zorder": 5}
    return {
        "color": colour,
        "marker": marker,
        "ms": 5.5 if marker in SMALL else 4,
        "lw": 1.4,
        "zorder": 3,
        "mew": 0,
    }


def _panel(
    axes: Axes,
    methods: Mapping[str, Mapping[str, Seeds]],
    look: Mapping[str, LineStyle],
    theme: Theme,
) -> None:
    """Draw one diagram of methods, each with task to runs."""
    for method, tasks in methods.items():
        curve = statistics.curve(tasks)
        colour = look[method].colour(theme)
        if method == BASE:
            axes.axhline(curve.values[0], color=theme.ink, ls=DASHES, lw=1.2, zorder=4)
            continue

        if curve.low is not None and curve.high is not None:
            alpha = 0.20 if method == OURS else 0.10
            axes.fill_between(
                curve.steps, curve.low, curve.high, color=colour, alpha=alpha, lw=0, zorder=2
            )
        axes.plot(
            curve.steps,
            curve.values,
            markevery=max(1, len(curve.steps) // MARKED_POINTS),
            **_line(method, colour, look[method].marker),
        )

    axes.set(ylim=(-0.02, 1.03), xlabel="environment steps")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    thousands(axes)


def together(
    middle: Mapping[str, Estimate],
    better: Mapping[str, Estimate],
    labels: Mapping[str, str],
    spaces: Mapping[str, str],
) -> PageFigure:
    """Draw one number per method over all tasks, and the probability that ours is better.

    Args:
        middle: Method to the interquartile mean of its final success, best first.
        better: Method to the probability that ours improves on it; empty where ours is not there.
        labels: Every method of the suite to its name for people, in order.
        spaces: The same to where it acts.
    """
    look = looks(spaces)
    names = {**labels, BASE: "Frozen base"}
    order = list(middle)[::-1]  # upwards, as the axis goes

    def draw(figure: Figure, theme: Theme) -> None:
        left, right = figure.subplots(1, 2, sharey=True) if better else (figure.subplots(), None)
        figure.set_layout_engine("constrained", wspace=0.06)

        _bars(left, [middle[m] for m in order], [look[m] for m in order], theme)
        left.set_yticks(range(len(order)), [names[m] for m in order])
        left.set(title="Final success, interquartile mean", xlabel="success")
        for label, method in zip(left.get_yticklabels(), order, strict=True):
            label.set_fontweight("bold" if method == OURS else "normal")

        if right is not None:
            _bars(right, [better.get(m) for m in order], [look[m] for m in order], theme)
            right.set_yticks(range(len(order)), [names[m] for m in order])
            right.axvline(0.5, color=theme.ink, lw=1.2, ls=DASHES)
            right.set(
                title=f"Probability that {labels[OURS]} is better",
                xlabel="probability of improvement",
            )

    caption = "Bars: 95 % bootstrap intervals, stratified by task; none where a task has one seed."
    if better:
        caption += (
            f" Right of the dashed line {labels[OURS]} beats the method more often than not; "
            "a tie counts one half."
        )
    size = (FIGURE_WIDTH, 1.1 + 0.29 * len(order))
    return render_figure("together", "All tasks together", caption, size=size, draw=draw)


def _bars(
    axes: Axes, estimates: Sequence[Estimate | None], styles: Sequence[LineStyle], theme: Theme
) -> None:
    """Draw estimates with their intervals, one a row; a row without one stays empty."""
    for row, (estimate, style) in enumerate(zip(estimates, styles, strict=True)):
        if estimate is None:
            continue
        colour = style.colour(theme)
        if estimate.low is not None and estimate.high is not None:
            axes.plot(
                [estimate.low, estimate.high],
                [row, row],
                color=colour,
                lw=6,
                alpha=0.35,
                solid_capstyle="butt",
            )
        axes.plot(
            [estimate.value],
            [row],
            style.marker,
            color=colour,
            ms=10 if style.marker in SMALL else 7,
            mec=theme.paper,
            mew=0.6,
            clip_on=False,
            zorder=5,
        )

    axes.set(xlim=(0, 1), ylim=(-0.6, len(estimates) - 0.4))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(visible=False, axis="y")


def save(shown: PageFigure, path: Path) -> None:
    """Write a figure's light version as PNG."""
    durable.write_bytes(path, shown.light)
