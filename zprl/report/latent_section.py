"""The page's part about steering: moved embeddings and actions, residual sizes, exploration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from zprl import durable
from zprl.errors import DataError
from zprl.evaluation.result import Evaluation
from zprl.report.figures import LEGEND, PATHS, WIDTH
from zprl.report.inputs import Sources
from zprl.report.style import PageFigure, Theme, render_figure

FOLDER = Path("explain")
LABELS = {"latent": "on the latent", "embedding": "on the embedding", "action": "on the action"}
COLOURS = {"latent": "finetune_sim", "embedding": "embedding", "action": "action_residual"}
WANDERERS = {"still": "Base", "latent": "Noise on the latent", "action": "Noise on the actions"}
SWEEP_PANELS = (
    ("rms", "RMS of the moved point"),
    ("condition_departure", "Departure of what conditions"),
    ("action_departure", "Departure of the actions"),
)
SWEEP_CAPTION = (
    "A random residual of growing size in three spaces. Left: RMS of the moved point over the "
    "anchor's. Middle and right: median distance to the nearest known embedding and action chunk, "
    "in units of the distances the known ones have among each other. While these stay small, the "
    "residual explores what the policy can do already."
)
RUN_DASHES = (0, (2, 2))


def document(sources: Sources) -> dict[str, Any]:
    """Read the result of the stage ``explain``."""
    return sources.document(str(FOLDER / "explain.json"), "frames", "ratio", "departure", "sweep")


def maps(sources: Sources) -> PageFigure:
    """Draw decoded embeddings and action chunks of the demonstrations' states, base and steered.

    Raises:
        DataError: the maps are missing or damaged.
    """
    numbers = document(sources)
    tensors = durable.read_tensors(sources.artifacts / FOLDER / "maps.safetensors")
    panels = (("conditions", "Decoded embeddings"), ("actions", "Action chunks"))
    if any(
        name not in tensors or tensors[name].shape[0] != 2 or tensors[name].shape[-1] != 2
        for name, _ in panels
    ):
        raise DataError(
            "the maps are not as the stage explain writes them", remedy="run it again (dvc repro)"
        )

    def draw(figure: Figure, theme: Theme) -> None:
        for axes, (name, title) in zip(figure.subplots(1, 2), panels, strict=True):
            base, steered = tensors[name].numpy()
            axes.scatter(*base.T, s=7, lw=0, alpha=0.55, color=theme.policies["base"])
            axes.scatter(*steered.T, s=7, lw=0, alpha=0.55, color=theme.policies["finetune_sim"])
            axes.set(title=title, xticks=[], yticks=[])
            axes.grid(visible=False)
        marks = [
            Line2D([], [], color=theme.policies[name], marker="o", ls="none", ms=4)
            for name in ("base", "finetune_sim")
        ]
        figure.legend(marks, ["base", "steered (ZPRL)"], ncols=2, **LEGEND)

    far = numbers["departure"]
    caption = (
        f"{int(numbers['frames']):,} frames of the demonstrations, laid out by UMAP: neighbours "
        "stay neighbours, distances mean little. Where the colours mix, steering chooses among "
        "what the base does somewhere. As a number: the median distance of steered points to the "
        "nearest of the base's, in units of the distance the base's have among each other, is "
        f"{float(far['conditions']):.2f} for embeddings and {float(far['actions']):.2f} for "
        "actions."
    )
    title = "Known embeddings, known actions"
    return render_figure("maps", title, caption, size=(WIDTH, 4.4), draw=draw)


def sweep(sources: Sources) -> PageFigure:
    """Draw size and departure of randomly moved points over the residual's relative size."""
    numbers = document(sources)
    ratios = sorted({row["ratio"] for row in numbers["sweep"]})
    rows = {name: [row for row in numbers["sweep"] if row["space"] == name] for name in LABELS}

    def draw(figure: Figure, theme: Theme) -> None:
        for axes, (column, title) in zip(figure.subplots(1, 3), SWEEP_PANELS, strict=True):
            for name, points in rows.items():
                known = [(row["ratio"], row[column]) for row in points if column in row]
                if known:
                    colour = theme.policies[COLOURS[name]]
                    axes.plot(*np.array(known).T, marker="o", ms=3.5, color=colour)
            axes.axvline(numbers["ratio"], color=theme.ink, lw=1, ls=RUN_DASHES)
            axes.set(title=title, xlabel="RMS of residual / anchor", xscale="log")
            axes.set_xticks(ratios, [f"{ratio:g}" for ratio in ratios])
            axes.set_xticks([], minor=True)
            axes.set_ylim(bottom=0)

        handles = [
            Line2D([], [], color=theme.policies[COLOURS[name]], marker="o", ms=3.5)
            for name in LABELS
        ]
        handles.append(Line2D([], [], color=theme.ink, lw=1, ls=RUN_DASHES))
        figure.legend(handles, [*LABELS.values(), "this run"], ncols=4, **LEGEND)

    title = "How large may the residual be?"
    return render_figure("sweep", title, SWEEP_CAPTION, size=(WIDTH, 3.3), draw=draw)


def traces(sources: Sources) -> PageFigure:
    """Draw paths from the same starts under the base policy and under random residuals.

    Raises:
        DataError: an exploration is missing, or kept no positions.
    """
    evaluations = {name: Evaluation.read(sources.artifacts / FOLDER / name) for name in WANDERERS}
    if any("position" not in evaluation.tracks for evaluation in evaluations.values()):
        raise DataError(
            "the explorations kept no end-effector positions",
            remedy="run the stage explain again (dvc repro)",
        )

    def draw(figure: Figure, theme: Theme) -> None:
        panels = figure.subplots(1, 3, sharex=True, sharey=True)
        for axes, (name, evaluation) in zip(panels, evaluations.items(), strict=True):
            colour = theme.policies["base" if name == "still" else COLOURS[name]]
            for track in evaluation.tracks["position"].numpy()[:PATHS]:
                _trace(axes, track, colour)
            axes.set(title=WANDERERS[name], xlabel="x [m]")
            axes.set_aspect("equal", adjustable="box", anchor="N")
        panels[0].set_ylabel("z [m]")

    ratio = float(document(sources)["ratio"])
    results = "; ".join(_result(name, evaluation) for name, evaluation in evaluations.items())
    caption = (
        "Executed end-effector paths from the side, nothing learnt: in each decision a residual is "
        f"drawn uniformly, its RMS {ratio:.2f} of the anchor's in either space. "
        f"{results[0].upper()}{results[1:]}."
    )
    return render_figure("traces", "How it explores", caption, size=(WIDTH, 4.2), draw=draw)


def _result(name: str, evaluation: Evaluation) -> str:
    jerk = evaluation.summary()["jerk_rms"] or 0
    count = f"{sum(evaluation.success)} of {evaluation.episodes}"
    return f"{WANDERERS[name].lower()}: {count} succeed, jerk {jerk:,.0f} m/s³"


def _trace(axes: Axes, track: np.ndarray, colour: str) -> None:
    track = track[np.isfinite(track).all(axis=1)]
    axes.plot(track[:, 0], track[:, 2], color=colour, lw=0.9, alpha=0.75)
