"""Smoothness of an episode.  All definitions are ours: the paper shows traces, not numbers.

Every function takes one episode's frames up to its end and nothing after it.  Too few frames give
NaN, which :func:`mean` leaves out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def jerk_rms(positions: ArrayLike, rate_hz: float) -> float:
    """Return the root mean square of the jerk of an executed path [m/s^3].

    The third finite difference of consecutive positions times rate^3, its norm squared, mean over
    the frames, root.

    Args:
        positions: (L + 1, 3) executed end-effector positions [m]: the start and one after each
            step.
        rate_hz: Frames per second.
    """
    path = np.asarray(positions, np.float64)
    if len(path) < 4:
        return math.nan
    jerk = np.diff(path, n=3, axis=0) * rate_hz**3
    return float(np.sqrt((jerk**2).sum(axis=1).mean()))


def total_variation(targets: ArrayLike) -> float:
    """Return the mean distance between consecutive commanded positions [m per step].

    Args:
        targets: (L, 3) commanded end-effector positions [m], before any clamp of the world.
    """
    commanded = np.asarray(targets, np.float64)
    if len(commanded) < 2:
        return math.nan
    return float(np.linalg.norm(np.diff(commanded, axis=0), axis=1).mean())


def chunk_jump(targets: ArrayLike, chunk_steps: int) -> float:
    """Return the mean distance from a chunk's last commanded position to the next one's first [m].

    Args:
        targets: (L, 3) commanded end-effector positions [m]; chunks start at step 0, C, 2C, ...
        chunk_steps: C.
    """
    commanded = np.asarray(targets, np.float64)
    first = np.arange(chunk_steps, len(commanded), chunk_steps)
    if not len(first):
        return math.nan
    return float(np.linalg.norm(commanded[first] - commanded[first - 1], axis=1).mean())


def mean(values: Sequence[float]) -> float | None:
    """Return the mean of the finite values, or ``None`` (JSON has no NaN)."""
    known = [value for value in values if math.isfinite(value)]
    return math.fsum(known) / len(known) if known else None
