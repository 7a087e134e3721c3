"""One demonstration in memory, whatever file it came from, and the rules on its arrays.

Without torch, which takes seconds to import.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

QUALITIES = ("better", "okay", "worse", "unknown")
"""Operator grades; the first three are robomimic's names for its multi-human subsets."""
CONSTANT_RANGE = 1e-5
"""A dimension whose range is at most this (times its magnitude, when above 1) counts as constant.

Ours.  Diffusion Policy uses 1e-7, which the float32 rounding of a constant near 1 (1.2e-7) already
exceeds and so would be blown up to [-1, 1]; 1e-5 is 10 micrometres or 10 microradians, far below
what a robot arm can repeat."""


def is_image(value: np.ndarray) -> bool:
    """Tell whether an observation is a series of images."""
    return value.dtype == np.uint8 and value.ndim == 4


def is_quaternion(key: str) -> bool:
    """Tell whether an observation key holds quaternions, which are passed on as they are."""
    return key.endswith("quat")


@dataclass(frozen=True, eq=False)
class Episode:
    """A demonstration of L frames; all arrays float32 except ``dones`` (bool) and images (uint8).

    Attributes:
        name: ``<file stem>/<demo_i>``.
        obs: Observation per key, each (L, d), in physical units; images (L, H, W, 3) uint8.
        actions: (L, A); frame t's action is what was commanded after frame t was observed.
        rewards: (L,).
        dones: (L,).
        success: True if the task was achieved.
        quality: One of :data:`QUALITIES`.
        rate_hz: Frames per second, where the recording says so.

    Example:
        >>> zeros = np.zeros(3, np.float32)
        >>> obs = {"x": zeros[:, None]}
        >>> Episode("a/demo_0", obs, zeros[:, None], zeros, zeros.astype(bool), True).length
        3
    """

    name: str
    obs: dict[str, np.ndarray]
    actions: np.ndarray
    rewards: np.ndarray
    dones: np.ndarray
    success: bool
    quality: str = "unknown"
    rate_hz: float | None = None

    @property
    def length(self) -> int:
        """Number of frames L."""
        return len(self.actions)

    def content_hash(self) -> str:
        """Return the SHA-256 of observations and actions: equal motion, equal hash.

        Name, labels and the order of keys do not count.
        """
        total = hashlib.sha256()
        for key, value in [*sorted(self.obs.items()), ("actions", self.actions)]:
            array = np.ascontiguousarray(value, dtype=np.uint8 if is_image(value) else "<f4")
            total.update(f"{key}{array.shape}".encode() + array.tobytes())
        return total.hexdigest()
