"""The page's diagrams: functions from numbers to a :class:`~zprl.report.style.PageFigure`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter, PercentFormatter

from zprl.errors import DataError
from zprl.evaluation.intervals import wilson
from zprl.evaluation.result import Evaluation
from zprl.report.inputs import POLICIES, RECORD_REMEDY, REFERENCE, Curve
from zprl.report.style import PageFigure, Theme, render_figure, thousands

LEARNING_COLUMNS = (
    "env_steps",
    "success_rate",
    "episode_length",
    "anchor_rms",
    "residual_rms",
    "residual_ratio",
    "q_mean",
)
PATHS = 10
"""Episodes whose paths are drawn: more hide one another."""
LOG_FROM = 5.0
"""A loss that falls by more than this factor is drawn over a logarithmic axis."""
VIEWS = (("from above", 1, "y [m]"), ("from the side", 2, "z [m]"))
"""Views of a path: name, axis drawn upwards, its label."""
WIDTH = 9.4
"""Width of a figure [inches]."""
LEGEND: dict[str, Any] = {"loc": "outside lower left", "fontsize": 8.5}
REFERENCE_DASHES = (0, (5, 3))
HELD_OUT_DASHES = (0, (5, 2))
BESIDE = 0.015
"""Shift of a final policy's dot, as a share of the steps: intervals must not hide one another."""
LEARNING_CAPTION = (
    "Lines: mean of the last 100 finished training episodes, in which the learner explores. "
    "Dots: the final policy on the evaluation episodes, with its 95 % Wilson interval. "
    "Dashed: the base policy on the same episodes; band: its interval."
)
RESIDUALS_CAPTION = (
    "The anchor is what the residual is added to: the latent of the observation (ZPRL) or the base "
    "policy's action. Left: RMS of the bounded residual over RMS of the anchor; zero while the "
    "buffer fills. Middle: both. Right: the critics' mean estimate."
)
PRETRAINING_CAPTION = (
    "Mean loss over each logging interval; held-out episodes are judged with the averaged weights, "
    "which are the ones shipped."
)


def learning(curves: Mapping[str, Curve], evaluations: Mapping[str, Evaluation]) -> PageFigure:
    """Draw training success and episode length over environment steps.

    The evaluations show as dots at the end; the base policy's as a dashed line.
    """

    def draw(figure: Figure, theme: Theme) -> None:
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        for place, (policy, curve) in enumerate(curves.items()):
            colour = theme.policies[policy]
            _training(left, right, policy, curve, colour)
            if policy in evaluations:
                at = curve["env_steps"][-1] * (1 + BESIDE * place)
                _final(left, right, at, evaluations[policy], colour)
        if REFERENCE in evaluations:
            _reference(left, right, evaluations[REFERENCE], theme.policies[REFERENCE])

        left.set(ylim=(-0.02, 1.03), xlabel="environment steps", ylabel="success", title="Success")
        left.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        right.set(xlabel="environment steps", ylabel="environment steps", title="Episode length")
        right.set_ylim(bottom=0)
        for axes in (left, right):
            axes.set_xlim(left=0)
            thousands(axes)

        handles, labels = left.get_legend_handles_labels()
        if any(policy in evaluations for policy in curves):
            handles.append(Line2D([], [], color=theme.ink, marker="o", ls="none", ms=5))
            labels.append("final policy, evaluation")
        figure.legend(handles, labels, ncols=4, **LEGEND)

    size = (WIDTH, 3.7)
    return render_figure("learning_curves", "Learning", LEARNING_CAPTION, size=size, draw=draw)


def _training(left: Axes, right: Axes, policy: str, curve: Curve, colour: str) -> None:
    """Draw a learner's success and episode length."""
    # Before the first finished episode there is nothing to average.
    known = curve["episode_length"] > 0
    steps = curve["env_steps"][known]
    label = f"{POLICIES[policy][0]}, training"
    left.plot(steps, curve["success_rate"][known], color=colour, label=label)
    right.plot(steps, curve["episode_length"][known], color=colour)


def _reference(left: Axes, right: Axes, evaluation: Evaluation, colour: str) -> None:
    """Draw the base policy's success with its interval, and its episode length."""
    low, high = wilson(sum(evaluation.success), evaluation.episodes)
    rate = np.mean(evaluation.success)
    line: dict[str, Any] = {"color": colour, "ls": REFERENCE_DASHES, "lw": 1.4}
    left.axhspan(low, high, color=colour, alpha=0.13, lw=0)
    left.axhline(rate, label="Base, evaluation", **line)
    right.axhline(np.mean(evaluation.length), **line)


def mark(
    axes: Axes, at: float, evaluation: Evaluation, colour: str, label: str | None = None
) -> None:
    """Draw a dot for an evaluation's success, with its interval."""
    low, high = wilson(sum(evaluation.success), evaluation.episodes)
    rate = float(np.mean(evaluation.success))
    axes.errorbar(
        [at],
        [rate],
        yerr=[[rate - low], [high - rate]],
        label=label,
        fmt="o",
        color=colour,
        ms=6,
        capsize=3,
        lw=1.6,
        clip_on=False,
        zorder=5,
    )


def _final(left: Axes, right: Axes, at: float, evaluation: Evaluation, colour: str) -> None:
    mark(left, at, evaluation, colour)
    length = np.mean(evaluation.length)
    right.plot([at], [length], "o", color=colour, ms=6, clip_on=False, zorder=5)


def residuals(curves: Mapping[str, Curve]) -> PageFigure:
    """Draw the size of the learned correction beside its anchor, and the critics' estimate."""

    def draw(figure: Figure, theme: Theme) -> None:
        ratio, sizes, value = figure.subplots(1, 3)
        for policy, curve in curves.items():
            colour, steps = theme.policies[policy], curve["env_steps"]
            ratio.plot(steps, curve["residual_ratio"], color=colour, label=POLICIES[policy][0])
            sizes.plot(steps, curve["residual_rms"], color=colour)
            sizes.plot(steps, curve["anchor_rms"], color=colour, ls=":", lw=1.4)
            value.plot(steps, curve["q_mean"], color=colour)

        ratio.set(title="Residual / anchor", xlabel="environment steps", ylabel="RMS ratio")
        sizes.set(title="Residual and anchor", xlabel="environment steps", ylabel="RMS")
        value.set(title="Mean Q", xlabel="environment steps", ylabel="discounted success")
        for axes in (ratio, sizes, value):
            axes.set_xlim(left=0)
            axes.set_ylim(bottom=0)
            thousands(axes)

        handles, labels = ratio.get_legend_handles_labels()
        handles.append(Line2D([], [], color=theme.ink))
        handles.append(Line2D([], [], color=theme.ink, ls=":", lw=1.4))
        figure.legend(handles, [*labels, "residual", "anchor"], ncols=4, **LEGEND)

    size = (WIDTH, 3.2)
    return render_figure(
        "residuals", "Size of the residual", RESIDUALS_CAPTION, size=size, draw=draw
    )


def pretraining(curve: Curve) -> PageFigure:
    """Draw losses of base policy and bottleneck, dashed those of held-out episodes.

    Raises:
        DataError: no loss is a number.
    """
    panels = [
        ("Flow matching", "base_loss", "val_base_loss"),
        ("Bottleneck (VIB)", "vib_loss", "val_vib_loss"),
        ("Reconstruction", "reconstruction", None),
        ("KL of the posterior", "kl", None),
    ]
    panels = [panel for panel in panels if panel[1] in curve and np.isfinite(curve[panel[1]]).any()]
    if not panels:
        raise DataError(
            "the pretraining curve has no loss that is a number",
            remedy="run pretrain again (dvc repro)",
        )

    def draw(figure: Figure, theme: Theme) -> None:
        grid = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, (title, column, held_out) in zip(grid, panels, strict=True):
            _losses(axes, curve, column, held_out, theme)
            axes.set(title=title, xlabel="gradient steps")
            axes.set_xlim(left=0)
            thousands(axes)
        handles = [
            Line2D([], [], color=theme.policies["finetune_sim"]),
            Line2D([], [], color=theme.policies["base"], ls=HELD_OUT_DASHES),
        ]
        figure.legend(handles, ["training", "held-out episodes"], ncols=2, **LEGEND)

    size = (WIDTH, 2.9)
    return render_figure("pretraining", "Pretraining", PRETRAINING_CAPTION, size=size, draw=draw)


def _losses(axes: Axes, curve: Curve, column: str, held_out: str | None, theme: Theme) -> None:
    """Draw a loss, and that of held-out episodes where there is one."""
    steps = curve["step"]
    axes.plot(steps, curve[column], color=theme.policies["finetune_sim"])
    shown = curve[column]
    if held_out is not None and held_out in curve:
        axes.plot(steps, curve[held_out], color=theme.policies["base"], ls=HELD_OUT_DASHES)
        shown = np.concatenate([shown, curve[held_out]])
    if 0 < LOG_FROM * np.nanmin(shown) < np.nanmax(shown):
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())


def paths(first: Evaluation, second: Evaluation) -> PageFigure:
    """Draw end-effector paths of the same episodes under two policies, from above and the side.

    Raises:
        DataError: an evaluation kept no positions.
    """
    tracks = [evaluation.tracks.get("position") for evaluation in (first, second)]
    if any(track is None or not len(track) for track in tracks):
        raise DataError("the evaluations kept no end-effector positions", remedy=RECORD_REMEDY)

    positions = [track.numpy().astype(float) for track in tracks if track is not None]
    count = min(len(track) for track in positions)
    chosen = np.unique(np.linspace(0, count - 1, PATHS).astype(int))
    sides = tuple(zip((first, second), positions, strict=True))

    def draw(figure: Figure, theme: Theme) -> None:
        grid = figure.subplots(1, 4).reshape(2, 2)  # per view: first, second
        for panels, (view, axis, label) in zip(grid, VIEWS, strict=True):
            panels[1].sharex(panels[0])
            panels[1].sharey(panels[0])
            panels[1].tick_params(labelleft=False)
            panels[0].set_ylabel(label)
            for axes, (evaluation, track) in zip(panels, sides, strict=True):
                for episode in chosen:
                    succeeded = evaluation.success[episode]
                    _path(axes, track[episode], axis, theme, success=succeeded)
                axes.set(title=f"{POLICIES[evaluation.policy][0]},\n{view}", xlabel="x [m]")
                axes.set_aspect("equal", adjustable="box", anchor="N")

        marks = [
            Line2D([], [], color=theme.ink, marker="o", mfc=theme.paper, ls="none", ms=4),
            Line2D([], [], color=theme.good, marker="o", ms=5),
            Line2D([], [], color=theme.bad, marker="X", ms=6),
        ]
        figure.legend(marks, ["start", "succeeds", "fails"], ncols=3, **LEGEND)

    won = [sum(evaluation.success[episode] for episode in chosen) for evaluation, _ in sides]
    which = "All" if len(chosen) == count else f"{len(chosen)} of the"
    caption = (
        f"{which} {count} recorded episodes; both policies meet the same starts and the same "
        f"noise. Of these the base masters {won[0]} and the steered policy {won[1]}."
    )
    return render_figure("paths", "End-effector paths", caption, size=(WIDTH, 4.0), draw=draw)


def _path(axes: Axes, track: np.ndarray, axis: int, theme: Theme, *, success: bool) -> None:
    """Draw one episode's path (S + 1, 3), NaN after its end, over x and ``axis``."""
    track = track[np.isfinite(track).all(axis=1)]
    if not len(track):
        return

    colour = theme.good if success else theme.bad
    x, y = track[:, 0], track[:, axis]
    axes.plot(x, y, color=colour, lw=1.2, alpha=0.7)
    axes.plot(x[:1], y[:1], "o", color=theme.ink, mfc=theme.paper, ms=3.5, mew=0.9, zorder=4)
    marker, size = ("o", 5) if success else ("X", 6.5)
    axes.plot(x[-1:], y[-1:], marker, color=colour, ms=size, mec=theme.paper, mew=0.6, zorder=5)
