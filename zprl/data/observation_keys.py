"""Rules on names and ranges of observations; without torch, which takes seconds to import."""

from __future__ import annotations

CONSTANT_RANGE = 1e-5
"""A dimension whose range is at most this (times its magnitude, when above 1) counts as constant.

Ours.  Diffusion Policy uses 1e-7, which the float32 rounding of a constant near 1 (1.2e-7) already
exceeds and so would be blown up to [-1, 1]; 1e-5 is 10 micrometres or 10 microradians, far below
what a robot arm can repeat."""


def is_quaternion(key: str) -> bool:
    """Tell whether an observation key holds quaternions, which are passed on as they are."""
    return key.endswith("quat")
