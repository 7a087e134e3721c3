"""How benchmarks' flat observations are sorted under robomimic's names, in worlds and in recordings of them alike."""

from __future__ import annotations

import re

import numpy as np

ADROIT_JOINTS = {"door": 27, "hammer": 26, "pen": 24, "relocate": 30}
"""So many of Adroit's numbers, its first, are angles of the hand and its arm."""
ADROIT_PALM = {"door": 29, "hammer": 33}
"""Where the palm's position begins in Adroit's numbers, if it is there."""


def adroit(task: str, width: int) -> dict[str, np.ndarray]:
    """Places of ``robot0_joint_pos``, ``robot0_eef_pos`` (where it is shown) and ``object``, the rest, in a vector of ``width`` numbers."""
    joints, palm = ADROIT_JOINTS[task], ADROIT_PALM.get(task)
    found = {"robot0_joint_pos": np.arange(joints)}
    if palm is None:
        return found | {"object": np.arange(joints, width)}
    rest = np.r_[joints:palm, palm + 3 : width]
    return found | {"robot0_eef_pos": np.arange(palm, palm + 3), "object": rest}


def layout(environment: str, width: int) -> dict[str, np.ndarray] | None:
    """Places of each key in the flat observation of a Gymnasium environment, by its id; ``None`` for one that is not known here."""
    known = re.fullmatch(r"AdroitHand(Door|Hammer|Pen|Relocate)(Sparse)?-v\d+", environment)
    return adroit(known[1].lower(), width) if known else None
