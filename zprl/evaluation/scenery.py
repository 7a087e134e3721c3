"""From the poses that an environment reports to solids a picture can show.

The arm is drawn from the very primitives that the physics uses, plus a few that only please the eye: colliders leave gaps
where links meet.  Bodies that are in no table appear as small spheres, so a new world has pictures from the first day.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from zprl.envs.isaac import assets
from zprl.evaluation.render import Array, Box, Capsule, Colour, Solid, rotation_matrix

SHELL: Colour = (0.84, 0.84, 0.83)
JOINT: Colour = (0.16, 0.18, 0.21)
HAND: Colour = (0.24, 0.26, 0.30)
FINGER: Colour = (0.08, 0.09, 0.10)
CUBE: Colour = (0.95, 0.22, 0.03)
WOOD: Colour = (0.075, 0.115, 0.165)
MARK: Colour = (0.13, 0.19, 0.26)
OTHER: Colour = (0.45, 0.50, 0.56)

DARK = {"panda_link2", "panda_link4", "panda_link6"}
"""Links whose capsule lies along a hinge: drawn dark, they read as joints."""
CONNECTORS: dict[str, tuple[tuple[tuple[float, float, float], tuple[float, float, float], float], ...]] = {
    "panda_link3": (((0, 0, -0.05), (0.0825, 0, 0), 0.055),),
    "panda_link4": (((0, 0, 0), (-0.0825, 0.08, 0), 0.055),),
    "panda_link5": (((0, 0.0, -0.22), (0, 0.03, -0.03), 0.047),),
    "panda_link6": (((0, 0, 0), (0.088, 0, 0), 0.045),),
    "panda_link7": (((0, 0, 0.04), (0, 0, 0.085), 0.036),),
}
"""For the eye only: link to (end, end, radius) [m] in the link's frame."""
PEDESTAL = ((0.24, 0.20, 0.05), (-0.04, 0.0, 0.025))
TABLE_THICKNESS = 0.045
TABLE_CENTRE = (0.5, 0.0)
MARK_HEIGHT = 0.001
"""The marked area lies so much above the table [m]."""


def solids(poses: Mapping[str, ArrayLike]) -> list[Solid]:
    """Everything there is to see, for one environment's poses (7,), position [m] and quaternion xyzw, by body name."""
    found: list[Solid] = _table() if any(name.startswith("panda_") for name in poses) else []
    for name, pose in poses.items():
        pose = np.asarray(pose, np.float32)
        found += _body(name, pose[:3], rotation_matrix(pose[3:]))
    return found


def _body(name: str, position: Array, rotation: Array) -> list[Solid]:
    def world(local: ArrayLike) -> Array:
        return position + rotation @ np.asarray(local, np.float32)

    if name == "cube":
        return [Box(position, rotation, np.full(3, assets.CUBE_EDGE, np.float32), CUBE, gloss=0.3)]
    found: list[Solid] = []
    if name in assets.CAPSULES:
        for capsule in assets.CAPSULES[name]:
            half = np.array([0, 0, capsule.height / 2], np.float32)
            colour = JOINT if name in DARK else SHELL
            found.append(Capsule(world(capsule.centre - half), world(capsule.centre + half), capsule.radius, colour))
    for box in assets.BOXES.get(name, ()):
        colour = HAND if name == "panda_hand" else FINGER
        found.append(Box(world(box.centre), rotation, np.array(box.size, np.float32), colour))
    found += [Capsule(world(a), world(b), radius, SHELL) for a, b, radius in CONNECTORS.get(name, ())]
    if name == "panda_link0":
        found.append(Box(world(PEDESTAL[1]), rotation, np.array(PEDESTAL[0], np.float32), JOINT))
    return found or [Capsule(position, position + np.float32(1e-3), 0.02, OTHER)]


def _table() -> list[Solid]:
    """The table's top, extended below the robot's base: the physics has nothing there, the eye wants something."""
    turn = rotation_matrix(assets.TABLE_POSE[3:])
    reach = np.abs(turn @ np.array(assets.TABLE.size, np.float32))
    low, high = assets.TABLE_POSE[0] - reach[0] / 2 - 0.30, assets.TABLE_POSE[0] + reach[0] / 2
    top = ((low + high) / 2, 0, -TABLE_THICKNESS / 2), (high - low, reach[1], TABLE_THICKNESS)
    # The area in which the cube starts.
    marked = (TABLE_CENTRE[0], TABLE_CENTRE[1], MARK_HEIGHT / 2 - 0.05), (0.26, 0.56, 0.1)
    return [_upright(*top, WOOD), _upright(*marked, MARK)]


def _upright(centre: ArrayLike, size: ArrayLike, colour: Colour) -> Box:
    return Box(np.asarray(centre, np.float32), np.eye(3, dtype=np.float32), np.asarray(size, np.float32), colour, gloss=0.05)
