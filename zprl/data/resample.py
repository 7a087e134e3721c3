"""Resampling to another number of frames per second.

Positions are interpolated on a line and rotations by slerp; images and flags come from the nearest
frame.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy.spatial.transform import Slerp

from zprl.config import RotationForm
from zprl.data import rotations

How = Literal["linear", "nearest"] | RotationForm
"""How one array is resampled; a form of rotation means slerp."""

_ROUNDING = 1e-9


def places(length: int, rate_hz: float, wanted_hz: float) -> np.ndarray:
    """Return the new frames' places (n,), counted in old frames: from 0 on, none after the last."""
    count = int(np.floor((length - 1) * wanted_hz / rate_hz + _ROUNDING)) + 1
    at: np.ndarray = np.minimum(np.arange(count) * (rate_hz / wanted_hz), length - 1)
    return at


def resample(values: np.ndarray, at: np.ndarray, how: How) -> np.ndarray:
    """Return values (n, ...) at the :func:`places` ``at``.

    Args:
        values: (L, ...).
        at: (n,).
        how: Nearest takes the later of two frames that are equally near.
    """
    last = len(values) - 1
    resampled: np.ndarray
    if how == "nearest" or last == 0:
        resampled = values[np.minimum(np.floor(at + 0.5 + _ROUNDING).astype(int), last)]
        return resampled
    if how == "linear":
        low = np.minimum(np.floor(at).astype(int), last - 1)
        share = (at - low)[:, None]
        resampled = values[low] * (1 - share) + values[low + 1] * share
        return resampled

    turns = Slerp(np.arange(len(values)), rotations.read(values, how))
    return rotations.write(turns(at), how)


def events(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Return rewards or flags (n,) at ``at``.

    Each is the largest of the frames that a new one stands for, so that no success is lost.
    """
    return np.maximum.reduceat(values, np.floor(at + _ROUNDING).astype(int))
