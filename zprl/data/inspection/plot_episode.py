"""Plots of single episodes over time: states and actions, a column per episode, as PNG bytes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from zprl.data.episode import Episode, is_image
from zprl.data.inspection.dataset_plots import FAILURE, SUCCESS, png

ROWS = 16
"""Observations drawn: more do not fit on a screen; the plot says how many are left out."""
LEGEND = 12
"""Dimensions with a line in the legend."""


def plot(episodes: Sequence[Episode]) -> bytes:
    """Draw actions and states of these episodes over time.

    Time is in seconds where the rate is known, else in frames.

    Args:
        episodes: One to about six; a column each.

    Raises:
        ValueError: there are none.
    """
    if not episodes:
        raise ValueError("no episode to plot")

    states = [
        key for episode in episodes for key, value in episode.obs.items() if not is_image(value)
    ]
    keys = list(dict.fromkeys(states))
    names = ["actions", *keys[:ROWS]]
    settings = {"axes.spines.top": False, "axes.spines.right": False, "font.size": 8}
    # after_reset: no matplotlibrc, of this user or of the working folder, changes the image.
    with style.context(settings, after_reset=True):
        size = (1.5 + 4.2 * len(episodes), 0.8 + 1.7 * len(names))
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(len(names), len(episodes), squeeze=False, sharey="row", sharex="col")
        for column, episode in enumerate(episodes):
            _column(grid[:, column], episode, names)
        for row, name in enumerate(names):
            _row(grid[row], name)
        if len(keys) > ROWS:
            figure.supxlabel(f"{len(keys) - ROWS} more observations are not drawn", fontsize=7)
        return png(figure)


def _column(panels: np.ndarray, episode: Episode, names: Sequence[str]) -> None:
    """Draw one episode into its panels (rows,)."""
    for axes, name in zip(panels, names, strict=True):
        _lines(axes, episode, name)
    _label(panels[0], episode)
    panels[-1].set_xlabel("time, s" if episode.rate_hz else "frame")


def _row(panels: np.ndarray, name: str) -> None:
    """Name a row of panels (columns,) and give it a legend."""
    # Names come from foreign files: a $ would start a formula, and a broken formula raises.
    panels[0].set_ylabel(_short(name), parse_math=False)
    if panels[-1].get_lines():
        panels[-1].legend(
            loc="center left",
            bbox_to_anchor=(1.0, 0.5),
            frameon=False,
            fontsize=6,
            labelspacing=0.2,
        )


def title(episode: Episode) -> str:
    """Return name, success and quality in one line."""
    grade = "" if episode.quality == "unknown" else f", {episode.quality}"
    return f"{episode.name}: {'success' if episode.success else 'failure'}{grade}"


def _label(axes: Axes, episode: Episode) -> None:
    axes.set_title(
        _short(title(episode), 60), parse_math=False, color=SUCCESS if episode.success else FAILURE
    )


def _lines(axes: Axes, episode: Episode, name: str) -> None:
    values = episode.actions if name == "actions" else episode.obs.get(name)
    axes.grid(alpha=0.3)
    if values is None:
        axes.text(0.5, 0.5, "not recorded", ha="center", va="center", transform=axes.transAxes)
        return

    time = np.arange(len(values)) / (episode.rate_hz or 1.0)
    for dimension in range(values.shape[1]):
        # matplotlib leaves "_" out of the legend.
        label = str(dimension) if dimension < LEGEND else "_"
        axes.plot(
            time,
            values[:, dimension],
            lw=1,
            label=label,
            drawstyle="steps-post" if name == "actions" else "default",
        )


def _short(text: str, most: int = 24) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
