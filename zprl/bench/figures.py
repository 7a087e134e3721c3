"""The page's diagrams: curves per task, all tasks together, who beats whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from zprl import durable
from zprl.bench import statistics
from zprl.bench.results import Point
from zprl.bench.statistics import BASE, OURS
from zprl.report.style import Picture, Theme, picture, thousands

PALETTE = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#8a6d3b",
    "#7a5195",
    "#6b7785",
    "#b8a700",
    "#3f7f5f",
    "#a04040",
)
"""Okabe and Ito's colours for the colour-blind first; ours is always the first, drawn thicker."""
MARKERS = "osD^vP*Xhd<>"
COLUMNS = 3


def colours(methods: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Method to colour and marker; ours comes first, the others in their order."""
    order = sorted(methods, key=lambda m: m != OURS)
    return {method: (PALETTE[n % len(PALETTE)], MARKERS[n % len(MARKERS)]) for n, method in enumerate(order)}


def _series(points: Sequence[Point], task: str, method: str) -> tuple[list[int], list[statistics.Estimate]]:
    """Environment steps at which every run of a method was judged, and the mean over seeds there."""
    runs: dict[int, dict[int, tuple[float, int]]] = {}
    for point in points:
        if point.task == task and point.method == method:
            runs.setdefault(point.env_steps, {})[point.seed] = (point.success_rate, point.episodes)
    most = max((len(seeds) for seeds in runs.values()), default=0)
    steps = sorted(step for step, seeds in runs.items() if len(seeds) == most)
    return steps, [statistics.mean(runs[step]) for step in steps]


def _task(axes: Axes, points: Sequence[Point], task: str, methods: Sequence[str], theme: Theme) -> None:
    base = statistics.finals(points).get((task, BASE))
    if base:
        axes.axhline(statistics.mean(statistics.rates(base)).value, color=theme.ink, ls=(0, (4, 3)), lw=1.1)
    for method, (colour, mark) in colours(methods).items():
        steps, means = _series(points, task, method)
        if not steps:
            continue
        thick = method == OURS
        style = {"color": colour, "marker": mark, "ms": 4.5 if thick else 3.2, "lw": 2.6 if thick else 1.3, "zorder": 4 if thick else 2}
        axes.plot(steps, [m.value for m in means], **style)
        axes.fill_between(steps, [m.low for m in means], [m.high for m in means], color=colour, alpha=0.16 if thick else 0.05, lw=0)
    axes.set(ylim=(-0.02, 1.03), title=task, xlabel="environment steps")
    axes.set_xlim(left=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    thousands(axes)


def curves(points: Sequence[Point], labels: Mapping[str, str]) -> Picture:
    """Success over environment steps, a diagram per task."""
    tasks = sorted({point.task for point in points})
    methods = [method for method in labels if any(point.method == method for point in points)]
    wide = min(COLUMNS, len(tasks))
    rows = -(-len(tasks) // wide)

    def draw(figure: Figure, theme: Theme) -> None:
        grid = figure.subplots(rows, wide, squeeze=False, sharey=True).flatten()
        for axes, task in zip(grid, tasks, strict=False):
            _task(axes, points, task, methods, theme)
        for axes in grid[len(tasks) :]:
            axes.set_visible(False)
        grid[0].set_ylabel("success")
        lines = [
            figure.axes[0].plot([], [], color=c, marker=m, ms=4.5, lw=2.6 if name == OURS else 1.3, label=labels[name])[0]
            for name, (c, m) in colours(methods).items()
        ]
        lines.append(figure.axes[0].plot([], [], color=theme.ink, ls=(0, (4, 3)), lw=1.1, label="base policy")[0])
        figure.legend(handles=lines, loc="outside lower left", ncols=5, fontsize=8)

    caption = (
        "Mean over seeds of the deterministic policy's success; band: 95 % interval. The points between are judged by fewer episodes than "
        "the first and the last, on other starts."
    )
    size = (9.4, 3.1 * rows + 0.35 * -(-(len(methods) + 1) // 5))
    return picture("curves", "Learning", caption, size=size, draw=draw)


def together(points: Sequence[Point], labels: Mapping[str, str]) -> Picture | None:
    """Interquartile mean over tasks, and the chance that ours beats each other; ``None`` while no method has every task."""
    finals = statistics.finals(points)
    tasks = sorted({point.task for point in points})
    full = [m for m in labels if all((task, m) in finals for task in tasks)]
    if not full:
        return None
    middle = {m: statistics.interquartile_mean([statistics.rates(finals[task, m]) for task in tasks]) for m in full}
    order = sorted(full, key=lambda m: middle[m].value)
    better = {}
    if OURS in full:
        mine = [statistics.rates(finals[task, OURS]) for task in tasks]
        for m in order:
            if m != OURS:
                theirs = [statistics.rates(finals[task, m]) for task in tasks]
                better[m] = statistics.improvement(list(zip(mine, theirs, strict=True)))
    paint = colours([m for m in labels if any(point.method == m for point in points)])

    def bars(axes: Axes, estimates: Mapping[str, statistics.Estimate]) -> None:
        for row, (method, e) in enumerate(estimates.items()):
            axes.plot([e.low, e.high], [row, row], color=paint[method][0], lw=7, alpha=0.35, solid_capstyle="butt")
            axes.plot([e.value], [row], "|", color=paint[method][0], ms=13, mew=2.5)
        axes.set_yticks(np.arange(len(estimates)), [labels[m] for m in estimates])
        axes.set(xlim=(0, 1.01), ylim=(-0.6, len(estimates) - 0.4))
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))

    def draw(figure: Figure, theme: Theme) -> None:
        left, right = figure.subplots(1, 2) if better else (figure.subplots(), None)
        bars(left, {m: middle[m] for m in order})
        left.set(title="Final success, interquartile mean")
        if right is not None:
            bars(right, {m: better[m] for m in order if m in better})
            right.axvline(0.5, color=theme.ink, lw=1, ls=(0, (4, 3)))
            right.set(title=f"Probability that {labels[OURS]} beats it")

    caption = "All tasks and seeds together; bars: 95 % intervals, stratified by task. Right of the dashed line: more often than not."
    return picture("together", "All tasks together", caption, size=(9.4, 0.9 + 0.3 * len(order)), draw=draw)


def save(shown: Picture, path: Path) -> None:
    """Write a picture's light version as PNG."""
    durable.write_bytes(path, shown.light)
