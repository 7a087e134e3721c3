"""The page's diagrams.  Each function takes numbers and returns a :class:`~zprl.report.style.PageFigure`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter, PercentFormatter

from zprl.errors import DataError
from zprl.evaluation.intervals import wilson
from zprl.evaluation.result import Evaluation
from zprl.report.inputs import POLICIES, REFERENCE, Curve
from zprl.report.style import PageFigure, Theme, render_figure, thousands

LEARNING_COLUMNS = (
    "env_steps",
    "success_rate",
    "episode_length",
    "latent_rms",
    "residual_rms",
    "residual_ratio",
    "q_mean",
)
PATHS = 10
"""Episodes whose paths are drawn: more hide one another."""
LOG_FROM = 5.0
"""A loss that falls by more than this factor is drawn over a logarithmic axis."""


def learning(curves: Mapping[str, Curve], evaluations: Mapping[str, Evaluation]) -> PageFigure:
    """Training success and episode length over environment steps, with what the evaluation found at the end."""

    def draw(figure: Figure, theme: Theme) -> None:
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        for place, (policy, curve) in enumerate(curves.items()):
            colour = theme.policies[policy]
            known = (
                curve["episode_length"] > 0
            )  # before the first finished episode there is nothing to average
            steps = curve["env_steps"][known]
            left.plot(
                steps,
                curve["success_rate"][known],
                color=colour,
                label=f"{POLICIES[policy][0]}, training",
            )
            right.plot(steps, curve["episode_length"][known], color=colour)
            if policy in evaluations:
                # Side by side where both learners took equally many steps: intervals must not hide
                # one another.
                _final(
                    left,
                    right,
                    curve["env_steps"][-1] * (1 + 0.015 * place),
                    evaluations[policy],
                    colour,
                )
        if REFERENCE in evaluations:
            found, colour = evaluations[REFERENCE], theme.policies[REFERENCE]
            low, high = wilson(sum(found.success), found.episodes)
            left.axhspan(low, high, color=colour, alpha=0.13, lw=0)
            left.axhline(
                np.mean(found.success),
                color=colour,
                ls=(0, (5, 3)),
                lw=1.4,
                label="Base, evaluation",
            )
            right.axhline(np.mean(found.length), color=colour, ls=(0, (5, 3)), lw=1.4)
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
        figure.legend(handles, labels, loc="outside lower left", ncols=4, fontsize=8.5)

    caption = (
        "Lines: mean of the last 100 finished training episodes, in which the learner explores. Dots: the final policy on the "
        "evaluation episodes, with its 95 % Wilson interval. Dashed: the base policy on the same episodes; band: its interval."
    )
    return render_figure("learning_curves", "Learning", caption, size=(9.4, 3.7), draw=draw)


def mark(axes: Axes, at: float, found: Evaluation, colour: str, label: str | None = None) -> None:
    """A dot for an evaluation's success, with its interval."""
    low, high = wilson(sum(found.success), found.episodes)
    rate = float(np.mean(found.success))
    bars = {
        "fmt": "o",
        "color": colour,
        "ms": 6,
        "capsize": 3,
        "lw": 1.6,
        "clip_on": False,
        "zorder": 5,
    }
    axes.errorbar([at], [rate], yerr=[[rate - low], [high - rate]], label=label, **bars)


def _final(left: Axes, right: Axes, at: float, found: Evaluation, colour: str) -> None:
    mark(left, at, found, colour)
    right.plot([at], [np.mean(found.length)], "o", color=colour, ms=6, clip_on=False, zorder=5)


def residuals(curves: Mapping[str, Curve]) -> PageFigure:
    """How large the learned correction is beside what it corrects, and what the critics expect."""

    def draw(figure: Figure, theme: Theme) -> None:
        ratio, sizes, value = figure.subplots(1, 3)
        for policy, curve in curves.items():
            colour, steps = theme.policies[policy], curve["env_steps"]
            ratio.plot(steps, curve["residual_ratio"], color=colour, label=POLICIES[policy][0])
            sizes.plot(steps, curve["residual_rms"], color=colour)
            sizes.plot(steps, curve["latent_rms"], color=colour, ls=":", lw=1.4)
            value.plot(steps, curve["q_mean"], color=colour)
        ratio.set(title="Residual / anchor", xlabel="environment steps", ylabel="RMS ratio")
        sizes.set(title="Residual and anchor", xlabel="environment steps", ylabel="RMS")
        value.set(title="Mean Q", xlabel="environment steps", ylabel="discounted success")
        for axes in (ratio, sizes, value):
            axes.set_xlim(left=0)
            axes.set_ylim(bottom=0)
            thousands(axes)
        handles, labels = ratio.get_legend_handles_labels()
        handles += [
            Line2D([], [], color=theme.ink),
            Line2D([], [], color=theme.ink, ls=":", lw=1.4),
        ]
        figure.legend(
            handles,
            [*labels, "residual", "anchor"],
            loc="outside lower left",
            ncols=4,
            fontsize=8.5,
        )

    caption = (
        "The anchor is what the residual is added to: the latent of the observation (ZPRL) or the base policy's action. Left: RMS of the "
        "bounded residual over RMS of the anchor; zero while the buffer fills. Middle: both. Right: the critics' mean estimate."
    )
    return render_figure("residuals", "Size of the residual", caption, size=(9.4, 3.2), draw=draw)


def pretraining(curve: Curve) -> PageFigure:
    """Losses of base policy and bottleneck; dashed where they were measured on held-out episodes."""
    steps = curve["step"]
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
        for axes, (title, column, held_out) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
        ):
            axes.plot(steps, curve[column], color=theme.policies["latent"])
            shown = curve[column]
            if held_out is not None and held_out in curve:
                axes.plot(steps, curve[held_out], color=theme.policies["base"], ls=(0, (5, 2)))
                shown = np.concatenate([shown, curve[held_out]])
            if 0 < LOG_FROM * np.nanmin(shown) < np.nanmax(shown):
                axes.set_yscale("log")
                axes.yaxis.set_minor_formatter(NullFormatter())
            axes.set(title=title, xlabel="gradient steps")
            axes.set_xlim(left=0)
            thousands(axes)
        handles = [
            Line2D([], [], color=theme.policies["latent"]),
            Line2D([], [], color=theme.policies["base"], ls=(0, (5, 2))),
        ]
        figure.legend(
            handles,
            ["training", "held-out episodes"],
            loc="outside lower left",
            ncols=2,
            fontsize=8.5,
        )

    caption = "Mean loss over each logging interval; held-out episodes are judged with the averaged weights, which are the ones shipped."
    return render_figure("pretraining", "Pretraining", caption, size=(9.4, 2.9), draw=draw)


def paths(first: Evaluation, second: Evaluation) -> PageFigure:
    """Executed end-effector paths of the same episodes under two policies, from above and from the side."""
    tracks = [found.tracks.get("position") for found in (first, second)]
    if any(track is None or not len(track) for track in tracks):
        raise DataError(
            "the evaluations kept no end-effector positions",
            remedy="set evaluate.film_episodes above 0 and run them again",
        )
    positions = [track.numpy().astype(float) for track in tracks if track is not None]
    count = min(len(track) for track in positions)
    chosen = np.unique(np.linspace(0, count - 1, PATHS).astype(int))
    views = (("from above", 1, "y [m]"), ("from the side", 2, "z [m]"))
    sides = tuple(zip((first, second), positions, strict=True))

    def draw(figure: Figure, theme: Theme) -> None:
        grid = figure.subplots(1, 4).reshape(2, 2)  # per view: first, second
        for panels, (view, axis, label) in zip(grid, views, strict=True):
            panels[1].sharex(panels[0])
            panels[1].sharey(panels[0])
            panels[1].tick_params(labelleft=False)
            panels[0].set_ylabel(label)
            for axes, (found, track) in zip(panels, sides, strict=True):
                for episode in chosen:
                    _path(axes, track[episode], axis, found.success[episode], theme)
                axes.set(title=f"{POLICIES[found.policy][0]},\n{view}", xlabel="x [m]")
                axes.set_aspect("equal", adjustable="box", anchor="N")
        marks = [
            Line2D([], [], color=theme.ink, marker="o", mfc=theme.paper, ls="none", ms=4),
            Line2D([], [], color=theme.good, marker="o", ms=5),
            Line2D([], [], color=theme.bad, marker="X", ms=6),
        ]
        figure.legend(
            marks, ["start", "succeeds", "fails"], loc="outside lower left", ncols=3, fontsize=8.5
        )

    won = [sum(found.success[episode] for episode in chosen) for found, _ in sides]
    caption = (
        f"{'All' if len(chosen) == count else f'{len(chosen)} of the'} {count} filmed episodes; both policies meet the same starts and the "
        f"same noise. Of these the base masters {won[0]} and the steered policy {won[1]}."
    )
    return render_figure("paths", "End-effector paths", caption, size=(9.4, 4.0), draw=draw)


def _path(axes: Axes, track: np.ndarray, axis: int, success: bool, theme: Theme) -> None:
    """One episode: (S + 1, 3) with NaN after its end."""
    track = track[np.isfinite(track).all(axis=1)]
    if not len(track):
        return
    colour = theme.good if success else theme.bad
    x, y = track[:, 0], track[:, axis]
    axes.plot(x, y, color=colour, lw=1.2, alpha=0.7)
    axes.plot(x[:1], y[:1], "o", color=theme.ink, mfc=theme.paper, ms=3.5, mew=0.9, zorder=4)
    axes.plot(
        x[-1:],
        y[-1:],
        "o" if success else "X",
        color=colour,
        ms=5 if success else 6.5,
        mec=theme.paper,
        mew=0.6,
        zorder=5,
    )
