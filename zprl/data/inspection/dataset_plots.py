"""Plots of a set of demonstrations, as PNG bytes without dates or versions in them."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from zprl.data.episode import QUALITIES, Episode, is_image

COLOURS = {"better": "#2a9d6f", "okay": "#3b7dd8", "worse": "#e08a1e", "unknown": "#7c8794"}
SUCCESS = "#2a9d6f"
FAILURE = "#c8453b"
COLUMNS = 3
"""Ranges beside one another."""
TRACKS = 12
"""End-effector paths drawn: more than a dozen hide one another."""
DRAWN_FRAMES = 200_000
"""Frames whose ranges are drawn; of more, evenly spaced ones, so that memory does not grow with the
recordings."""


@dataclass(frozen=True)
class Plot:
    """One image with its heading and its sentence."""

    title: str
    caption: str
    png: bytes


def draw(episodes: Sequence[Episode]) -> list[Plot]:
    """Draw all plots these episodes have the keys for; none for no episodes."""
    if not episodes:
        return []
    # after_reset: no matplotlibrc, of this user or of the working folder, changes the image.
    with style.context(
        {"axes.spines.top": False, "axes.spines.right": False, "font.size": 9}, after_reset=True
    ):
        return list(_draw(episodes))


def _draw(episodes: Sequence[Episode]) -> Iterator[Plot]:
    # Only these facts are kept: the episodes may lie on disk.
    outlines = [_Outline(e.length, e.success, e.quality) for e in episodes]
    yield _draw_lengths(outlines)
    yield _draw_ranges(episodes, sum(outline.length for outline in outlines))
    space = _draw_space(episodes)
    if space is not None:
        yield space


def _draw_lengths(outlines: Sequence[_Outline]) -> Plot:
    grades = [quality for quality in QUALITIES if any(e.quality == quality for e in outlines)]
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    _lengths(left, outlines, grades)
    _success(right, outlines, grades)
    caption = "Frames per episode and share of successes, by the operator's grade."
    return _plot(figure, "Length and success", caption)


def _draw_ranges(episodes: Sequence[Episode], frames: int) -> Plot:
    names = [*(key for key, value in episodes[0].obs.items() if not is_image(value)), "actions"]
    every = -(-frames // DRAWN_FRAMES)
    rows = -(-len(names) // COLUMNS)
    figure = Figure(figsize=(9, 2.1 * rows), layout="constrained")
    grid = figure.subplots(rows, COLUMNS, squeeze=False).flat
    for axes, name in zip(grid, names, strict=False):
        _ranges(axes, name, _frames(episodes, name, every))
    for axes in figure.axes[len(names) :]:
        axes.set_visible(False)

    which = "All frames" if every == 1 else f"Every {every}th frame"
    caption = (
        f"{which} per dimension in physical units: box from quartile to quartile, "
        "whiskers from minimum to maximum."
    )
    return _plot(figure, "Ranges", caption)


def _draw_space(episodes: Sequence[Episode]) -> Plot | None:
    """Draw where objects start and end effectors move, ``None`` where neither is known."""
    obs = episodes[0].obs
    eef = next((key for key in obs if key.endswith("eef_pos") and obs[key].shape[1] == 3), None)
    has_object = "object" in obs and obs["object"].shape[1] >= 3
    if not (eef or has_object):
        return None

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    if has_object:
        _starts(figure.add_subplot(1, 2, 1), episodes)
    if eef:
        _tracks(figure, episodes, eef)
    caption = (
        "Left: where the object starts, from above. Right: paths of the end effector (dot: start)."
    )
    return _plot(figure, "Space", caption)


def _frames(episodes: Sequence[Episode], name: str, every: int) -> np.ndarray:
    """Return every ``every``-th frame of one key (M, d), counted over all episodes."""
    parts = []
    start = 0
    for episode in episodes:
        value = episode.actions if name == "actions" else episode.obs[name]
        parts.append(value[start::every].copy())
        start = (start - len(value)) % every
    return np.concatenate(parts)


class _Outline(NamedTuple):
    length: int
    success: bool
    quality: str


def _lengths(axes: Axes, episodes: Sequence[_Outline], grades: Sequence[str]) -> None:
    lengths = [[e.length for e in episodes if e.quality == quality] for quality in grades]
    bins = np.histogram_bin_edges(np.concatenate(lengths), bins=min(24, max(5, len(episodes) // 4)))
    axes.hist(
        lengths,
        bins=bins.tolist(),
        stacked=True,
        label=list(grades),
        color=[COLOURS[quality] for quality in grades],
    )
    axes.set(xlabel="frames", ylabel="episodes", title="Episode length")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _success(axes: Axes, episodes: Sequence[_Outline], grades: Sequence[str]) -> None:
    groups = [[e.success for e in episodes if e.quality == quality] for quality in grades]
    bars = axes.bar(
        list(grades),
        [100 * sum(g) / len(g) for g in groups],
        color=[COLOURS[quality] for quality in grades],
    )
    axes.bar_label(bars, [f"{sum(g)}/{len(g)}" for g in groups])
    axes.set(ylim=(0, 112), ylabel="success, %", title="Success")


def _ranges(axes: Axes, name: str, values: np.ndarray) -> None:
    axes.boxplot(
        values,
        whis=(0, 100),
        widths=0.6,
        patch_artist=True,
        boxprops={"facecolor": "#cfe0f5"},
        medianprops={"color": "#1d2733"},
    )
    axes.set_title(name)
    axes.set_xticks(range(1, values.shape[1] + 1), [str(i) for i in range(values.shape[1])])
    axes.set_xlim(0.3, max(4, values.shape[1]) + 0.7)  # a lone dimension would fill the panel
    axes.grid(axis="y", alpha=0.3)


def _starts(axes: Axes, episodes: Sequence[Episode]) -> None:
    for success, colour, marker, label in (
        (True, SUCCESS, "o", "success"),
        (False, FAILURE, "x", "failure"),
    ):
        points = np.array(
            [e.obs["object"][0, :2].tolist() for e in episodes if e.success == success], np.float32
        ).reshape(-1, 2)
        if len(points):
            axes.scatter(
                points[:, 0],
                points[:, 1],
                s=14,
                color=colour,
                marker=marker,
                alpha=0.8,
                label=label,
            )
    axes.set(xlabel="x, m", ylabel="y, m", title="Object at the start, from above")
    axes.set_aspect("equal", adjustable="datalim")
    axes.legend(frameon=False)


def _tracks(figure: Figure, episodes: Sequence[Episode], key: str) -> None:
    axes = figure.add_subplot(1, 2, 2, projection="3d")
    for number in np.unique(np.linspace(0, len(episodes) - 1, TRACKS).astype(int)):
        x, y, z = episodes[number].obs[key].T
        axes.plot(x, y, z, lw=1, alpha=0.8, color=SUCCESS if episodes[number].success else FAILURE)
        axes.scatter(x[:1], y[:1], z[:1], s=8, color="#1d2733")
    axes.set_box_aspect(None, zoom=0.88)  # room for the z label
    axes.set(xlabel="x, m", ylabel="y, m", zlabel="z, m", title="End effector")
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.set_major_locator(MaxNLocator(4))


def _plot(figure: Figure, title: str, caption: str) -> Plot:
    return Plot(title, caption, png(figure))


def png(figure: Figure) -> bytes:
    """Return a figure as PNG bytes, which depend on what it shows alone."""
    buffer = io.BytesIO()
    # Without the name of matplotlib, whose version would change the bytes.
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
