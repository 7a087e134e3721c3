"""Style of all figures: one palette, two themes, bytes that depend on the numbers alone."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

DPI = 144
"""Twice the page's resolution at its full width."""
COLOURS = 128
"""Colours of a figure's palette: no difference is seen, and the file is a quarter as large."""


@dataclass(frozen=True)
class Theme:
    """Colours for one background.

    Attributes:
        paper: Background.
        ink: Text.
        faint: Grid lines and axes.
        policies: Colour per policy.
        good: Success.
        bad: Failure.
    """

    paper: str
    ink: str
    faint: str
    policies: dict[str, str]
    good: str
    bad: str


LIGHT = Theme(
    paper="#ffffff",
    ink="#2b3440",
    faint="#d9dfe6",
    policies={
        "embedding": "#8792a0",
        "base": "#c9791a",
        "finetune_sim": "#2062c4",
        "action_residual": "#8a4fb8",
    },
    good="#1f8a5b",
    bad="#c0392f",
)
DARK = Theme(
    paper="#171c23",
    ink="#d5dce5",
    faint="#343d49",
    policies={
        "embedding": "#8d99a8",
        "base": "#e8a14c",
        "finetune_sim": "#6aa5ff",
        "action_residual": "#c08ee8",
    },
    good="#4cc38a",
    bad="#f0776c",
)


@dataclass(frozen=True)
class PageFigure:
    """One figure of the page.

    Attributes:
        name: Its file's name without the ending.
        title: Heading.
        caption: What to see, in sentences.
        light: PNG bytes for a light background.
        dark: PNG bytes for a dark one; the same as ``light`` where one image suits both.
    """

    name: str
    title: str
    caption: str
    light: bytes
    dark: bytes


def render_figure(
    name: str,
    title: str,
    caption: str,
    *,
    size: tuple[float, float],
    draw: Callable[[Figure, Theme], None],
) -> PageFigure:
    """Draw a figure in both themes.

    Args:
        name: See :class:`PageFigure`.
        title: See :class:`PageFigure`.
        caption: See :class:`PageFigure`.
        size: Width and height [inches].
        draw: Fills an empty figure.
    """
    return PageFigure(name, title, caption, _png(size, draw, LIGHT), _png(size, draw, DARK))


def _png(size: tuple[float, float], draw: Callable[[Figure, Theme], None], theme: Theme) -> bytes:
    settings = {
        "font.family": "DejaVu Sans",  # ships with matplotlib: the same everywhere
        "font.size": 9,
        "text.color": theme.ink,
        "axes.facecolor": theme.paper,
        "axes.edgecolor": theme.faint,
        "axes.labelcolor": theme.ink,
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": theme.faint,
        "grid.linewidth": 0.6,
        "xtick.color": theme.ink,
        "ytick.color": theme.ink,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "lines.linewidth": 1.8,
        "lines.solid_capstyle": "round",
        "legend.frameon": False,
        "figure.facecolor": theme.paper,
        "savefig.facecolor": theme.paper,
    }
    # after_reset: no matplotlibrc, of this user or of the working folder, changes the image.
    with style.context(settings, after_reset=True):
        # A bare Figure draws with Agg: no window system, no global state.
        figure = Figure(figsize=size, dpi=DPI, layout="constrained")
        draw(figure, theme)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
    return compact_png(buffer.getvalue())


def compact_png(data: bytes) -> bytes:
    """Return a PNG with a palette of :data:`COLOURS`, without metadata, for any opaque image."""
    drawn = Image.open(io.BytesIO(data)).convert("RGB")
    drawn = drawn.quantize(COLOURS, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    drawn.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def thousands(axes: Axes) -> None:
    """Write large numbers along x as 50k or 1.5M."""

    def short(value: float, _: object) -> str:
        if abs(value) >= 1e6:
            return f"{value / 1e6:g}M"
        return f"{value / 1e3:g}k" if abs(value) >= 1e3 else f"{value:g}"

    axes.xaxis.set_major_formatter(short)
