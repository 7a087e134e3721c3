"""What the episodes of a session came to: success with intervals, smoothness, and what it cost."""

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


def executed_path(stamps: np.ndarray, positions: np.ndarray, rate_hz: float) -> np.ndarray:
    """An executed path on an even grid, free of noise above :data:`CUT_OFF_HZ`.

    Args:
        stamps: (L,) robot time of each measurement [s].
        positions: (L, 3) measured tool positions [m].
        rate_hz: Rate of the grid.

    Returns:
        (K, 3) positions: cubic interpolation, then a Butterworth filter of order 4, forward and
        backward (no lag).
    """
    stamps, first = np.unique(stamps, return_index=True)  # a state can be read twice
    positions = positions[first]
    if len(stamps) < 4:
        return positions
    grid = np.arange(stamps[0], stamps[-1], 1 / rate_hz)
    even = interpolate.CubicSpline(stamps, positions)(grid)
    if rate_hz <= 2 * CUT_OFF_HZ:  # there is nothing above it
        return even
    sections = signal.butter(4, CUT_OFF_HZ, fs=rate_hz, output="sos")
    if len(even) <= 3 * (2 * len(sections) + 1):
        return even
    return signal.sosfiltfilt(sections, even, axis=0)


def evaluation(store: SessionStore, phase: str) -> Evaluation:
    """The labelled episodes of one phase as an evaluation; its name is ``real_<phase>``."""
    labels = store.labels.current()
    found = [
        e
        for e in store.episodes()
        if e.phase == phase and labels.get(e.number) in ("success", "failure")
    ]
    rate = store.header.rate_hz
    return Evaluation(
        policy=f"real_{phase}",
        task=store.header.task,
        seed=store.header.config.evaluation_seed if phase != "train" else store.header.seed,
        control_hz=rate,
        chunk_steps=store.header.chunk_steps,
        env_steps=sum(e.steps for e in found),
        success=tuple(labels[e.number] == "success" for e in found),
        length=tuple(e.steps for e in found),
        jerk_rms=tuple(
            smoothness.jerk_rms(executed_path(e.stamps, e.positions, rate), rate) for e in found
        ),
        total_variation=tuple(smoothness.total_variation(e.commanded[:, :3]) for e in found),
        chunk_jump=tuple(
            smoothness.chunk_jump(e.commanded[:, :3], store.header.chunk_steps) for e in found
        ),
    )


def clip_rate(episodes: Sequence[RecordedEpisode]) -> float | None:
    """Share of control steps whose target the safety filter changed beyond smoothing."""
    steps = sum(e.steps for e in episodes)
    return sum(int(e.clipped.sum()) for e in episodes) / steps if steps else None


def metrics(store: SessionStore, before: Evaluation, after: Evaluation) -> dict[str, Any]:
    """The numbers of ``metrics/real.json``."""
    episodes = list(store.episodes())
    labels = store.labels.current()
    trained = [
        e for e in episodes if e.phase == "train" and labels.get(e.number) in ("success", "failure")
    ]
    kinds = {"base": before.summary(), "": after.summary()}
    flat = {
        f"{kind}_{key}".lstrip("_"): value
        for kind, numbers in kinds.items()
        for key, value in numbers.items()
    }
    judged = [e for e in episodes if e.phase == "evaluate_after"]
    return {
        **flat,
        "session_episodes": len(trained),
        "training_success_rate": sum(labels[e.number] == "success" for e in trained) / len(trained)
        if trained
        else None,
        "robot_time_s": round(sum(e.robot_s for e in trained), 1),
        "wall_s": round(sum(e.wall_s for e in trained), 1),
        "clip_rate": clip_rate(judged),
        "space": store.header.config.space,
        "seed": store.header.seed,
        "session": store.header.id,
    }
