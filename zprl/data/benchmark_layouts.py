"""Layouts of benchmarks' flat observations under robomimic's names, for worlds and recordings."""

from __future__ import annotations

import re

import numpy as np

ADROIT_JOINTS = {"door": 27, "hammer": 26, "pen": 24, "relocate": 30}
"""So many of Adroit's numbers, its first, are angles of the hand and its arm."""
ADROIT_PALM = {"door": 29, "hammer": 33}
"""Index at which the palm's position begins in Adroit's numbers, if it is there."""


def adroit(task: str, width: int) -> dict[str, np.ndarray]:
    """Return the places of each key in an Adroit task's vector of ``width`` numbers.

    The keys are ``robot0_joint_pos``, ``robot0_eef_pos`` (where it is shown) and ``object``, the
    rest.
    """
    joints, palm = ADROIT_JOINTS[task], ADROIT_PALM.get(task)
    places = {"robot0_joint_pos": np.arange(joints)}
    if palm is None:
        return places | {"object": np.arange(joints, width)}
    rest = np.r_[joints:palm, palm + 3 : width]
    return places | {"robot0_eef_pos": np.arange(palm, palm + 3), "object": rest}


def layout(environment: str, width: int) -> dict[str, np.ndarray] | None:
    """Return the places of each key in the flat observation of a Gymnasium environment, by its id.

    ``None`` for an environment that is not known here.
    """
    known = re.fullmatch(r"AdroitHand(Door|Hammer|Pen|Relocate)(Sparse)?-v\d+", environment)
    return adroit(known[1].lower(), width) if known else None
