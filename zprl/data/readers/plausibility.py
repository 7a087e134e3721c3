"""Warnings where the actions of a robosuite recording do not look like what it declares.

Careful by intent: a warning that is often wrong is not read.
"""

from __future__ import annotations

import numpy as np

from zprl.data.readers.env_args import EnvArgs

SLACK = 1e-3
"""Beyond a bound by less is rounding."""
MOSTLY = 0.5
"""Share of frames beyond the bounds of deltas from which on they are no deltas."""
CENTRED = 0.2
"""Absolute poses do not have all six means so near to 0: a tool that points down has a rotation
vector of length pi."""
ABSOLUTE = "actions_abs"
"""Dataset of absolute actions, as robomimic's converted files have it beside ``actions``."""

Doubt = tuple[str, str, str, int | None]
"""Code, message, remedy and frame."""


def doubt(actions: np.ndarray, declared: EnvArgs, key: str) -> Doubt | None:
    """Return what is odd about the actions (L, A) of the dataset ``key``, if anything is."""
    if not np.isfinite(actions).all() or not len(actions):
        return None  # other checks report these
    if key != ABSOLUTE and declared.delta and declared.bounds is not None:
        return _not_deltas(actions, *declared.bounds)
    if (key == ABSOLUTE or declared.delta is False) and declared.of_poses and actions.shape[1] >= 6:
        return _not_absolute(actions[:, :6])
    return None


def _not_deltas(actions: np.ndarray, low: float, high: float) -> Doubt | None:
    """Doubt actions outside the declared bounds of deltas."""
    beyond = np.maximum(actions - high, low - actions)
    frames = (beyond > SLACK).any(1)
    if not frames.any():
        return None

    first = int(frames.argmax())
    dim = int(beyond.max(0).argmax())
    worst = actions[int(beyond[:, dim].argmax()), dim]
    where = (
        f"{int(frames.sum())} of {len(actions)} frames, the worst is {worst:.3f} in dimension {dim}"
    )
    if frames.mean() > MOSTLY:
        text = (
            f"env_args declares deltas within [{low:g}, {high:g}], but actions are beyond that "
            f"in {where}: they look absolute"
        )
        remedy = (
            "if they are absolute poses, declare control_delta false in env_args; "
            "see also ingest.conventions"
        )
        return "D07", text, remedy, first
    return (
        "D06",
        f"actions leave the declared bounds [{low:g}, {high:g}] in {where}",
        "clip them, or check how they were recorded",
        first,
    )


def _not_absolute(pose: np.ndarray) -> Doubt | None:
    """Doubt poses (L, 6) that lie about 0 as deltas do."""
    largest = float(np.abs(pose).max())
    mean = float(np.abs(pose.mean(0)).max())
    if largest > 1 or mean > CENTRED:
        return None
    seen = f"actions[0:6] lie within {largest:.3f} of 0, their means within {mean:.3f}"
    text = f"absolute poses are declared, but {seen}: they look like deltas"
    return (
        "D07",
        text,
        "say delta and of in ingest.conventions.actions, or read other actions with ingest.actions",
        None,
    )
