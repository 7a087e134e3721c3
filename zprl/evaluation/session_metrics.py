"""Metrics of a robot session: success with intervals, smoothness, and cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import interpolate, signal

from zprl.evaluation import metrics as smoothness
from zprl.evaluation.result import Evaluation
from zprl.recordings.store import RecordedEpisode, SessionStore

CUT_OFF_HZ = 10.0
"""Low-pass before differentiating three times: above it an arm's path is measurement noise
(ours)."""
JUDGED = ("success", "failure")
"""Labels that count; others are discarded episodes."""


def executed_path(stamps: np.ndarray, positions: np.ndarray, rate_hz: float) -> np.ndarray:
    """Return an executed path on an even grid, free of noise above :data:`CUT_OFF_HZ`.

    Args:
        stamps: (L,) robot time of each measurement [s].
        positions: (L, 3) measured tool positions [m].
        rate_hz: Rate of the grid.

    Returns:
        (K, 3) positions: cubic interpolation, then a Butterworth filter of order 4, forward and
        backward (no lag).
    """
    # A state can be read twice.
    stamps, first = np.unique(stamps, return_index=True)
    positions = positions[first]
    if len(stamps) < 4:
        return positions

    grid = np.arange(stamps[0], stamps[-1], 1 / rate_hz)
    even: np.ndarray = interpolate.CubicSpline(stamps, positions)(grid)
    # At such a rate there is nothing above the cut-off.
    if rate_hz <= 2 * CUT_OFF_HZ:
        return even

    sections = signal.butter(4, CUT_OFF_HZ, fs=rate_hz, output="sos")
    # SciPy pads both ends by so many samples.
    if len(even) <= 3 * (2 * len(sections) + 1):
        return even
    smooth: np.ndarray = signal.sosfiltfilt(sections, even, axis=0)
    return smooth


def evaluation(store: SessionStore, phase: str) -> Evaluation:
    """Return the labelled episodes of one phase as an evaluation named ``real_<phase>``."""
    labels = store.labels.current()
    episodes = _judged(store, phase)
    rate = store.header.rate_hz
    chunk_steps = store.header.chunk_steps
    commanded = [e.commanded[:, :3] for e in episodes]
    paths = [executed_path(e.stamps, e.positions, rate) for e in episodes]
    return Evaluation(
        policy=f"real_{phase}",
        task=store.header.task,
        seed=store.header.config.evaluation_seed if phase != "train" else store.header.seed,
        control_hz=rate,
        chunk_steps=chunk_steps,
        env_steps=sum(e.steps for e in episodes),
        success=tuple(labels[e.number] == "success" for e in episodes),
        length=tuple(e.steps for e in episodes),
        jerk_rms=tuple(smoothness.jerk_rms(path, rate) for path in paths),
        total_variation=tuple(smoothness.total_variation(targets) for targets in commanded),
        chunk_jump=tuple(smoothness.chunk_jump(targets, chunk_steps) for targets in commanded),
    )


def _judged(store: SessionStore, phase: str) -> list[RecordedEpisode]:
    """Return the episodes of a phase that are labelled as success or failure."""
    labels = store.labels.current()
    return [e for e in store.episodes() if e.phase == phase and labels.get(e.number) in JUDGED]


def clip_rate(episodes: Sequence[RecordedEpisode]) -> float | None:
    """Return the share of control steps whose target the safety filter changed beyond smoothing."""
    steps = sum(e.steps for e in episodes)
    return sum(int(e.clipped.sum()) for e in episodes) / steps if steps else None


def metrics(store: SessionStore, before: Evaluation, after: Evaluation) -> dict[str, Any]:
    """Return the numbers of ``metrics/real.json``."""
    labels = store.labels.current()
    trained = _judged(store, "train")
    successes = sum(labels[e.number] == "success" for e in trained)
    evaluated = [e for e in store.episodes() if e.phase == "evaluate_after"]
    return {
        **{f"base_{key}": value for key, value in before.summary().items()},
        **after.summary(),
        "session_episodes": len(trained),
        "training_success_rate": successes / len(trained) if trained else None,
        "robot_time_s": round(sum(e.robot_s for e in trained), 1),
        "wall_s": round(sum(e.wall_s for e in trained), 1),
        "clip_rate": clip_rate(evaluated),
        "space": store.header.config.space,
        "seed": store.header.seed,
        "session": store.header.id,
    }
