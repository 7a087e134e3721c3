"""Solids to draw, from the poses that an environment reports.

The arm is drawn from the very primitives that the physics uses, plus a few that only please the
eye: colliders leave gaps where links meet.  Bodies that are in no table appear as small spheres, so
a new world has images from the first day.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from zprl.envs.isaac import assets
from zprl.envs.isaac.usd import panda
from zprl.evaluation.render import Array, Colour, Solid, SolidBox, SolidCapsule, rotation_matrix

MARK: Colour = (0.13, 0.19, 0.26)
OTHER: Colour = (0.45, 0.50, 0.56)

CONNECTORS: dict[
    str, tuple[tuple[tuple[float, float, float], tuple[float, float, float], float], ...]
] = {
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
    """Return all solids of one environment.

    Args:
        poses: Poses (7,) by body name: position [m] and quaternion xyzw.
    """
    scene: list[Solid] = _table() if any(name.startswith("panda_") for name in poses) else []
    for name, pose in poses.items():
        pose = np.asarray(pose, np.float32)
        scene += _body(name, pose[:3], rotation_matrix(pose[3:]))
    return scene


def _body(name: str, position: Array, rotation: Array) -> list[Solid]:
    def world(local: ArrayLike) -> Array:
        return position + rotation @ np.asarray(local, np.float32)

    if name == "cube":
        return [
            SolidBox(
                position,
                rotation,
                np.full(3, assets.CUBE_EDGE, np.float32),
                assets.COLOURS[name],
                gloss=0.3,
            )
        ]

    # Colliders first, then connectors, which only please the eye.
    shapes: list[Solid] = []
    for capsule in assets.CAPSULES.get(name, ()):
        half = np.array([0, 0, capsule.height / 2], np.float32)
        ends = world(capsule.centre - half), world(capsule.centre + half)
        shapes.append(SolidCapsule(*ends, capsule.radius, assets.COLOURS[name]))
    shapes += [
        SolidBox(world(box.centre), rotation, np.array(box.size, np.float32), assets.COLOURS[name])
        for box in assets.BOXES.get(name, ())
    ]
    shapes += [
        SolidCapsule(world(a), world(b), radius, panda.SHELL)
        for a, b, radius in CONNECTORS.get(name, ())
    ]
    if name == "panda_link0":
        size = np.array(PEDESTAL[0], np.float32)
        shapes.append(SolidBox(world(PEDESTAL[1]), rotation, size, panda.JOINT))
    return shapes or [SolidCapsule(position, position + np.float32(1e-3), 0.02, OTHER)]


def _table() -> list[Solid]:
    """Return the table's top, extended below the robot's base, where the physics has nothing."""
    turn = rotation_matrix(assets.TABLE_POSE[3:])
    reach = np.abs(turn @ np.array(assets.TABLE.size, np.float32))
    low = assets.TABLE_POSE[0] - reach[0] / 2 - 0.30
    high = assets.TABLE_POSE[0] + reach[0] / 2
    top = ((low + high) / 2, 0, -TABLE_THICKNESS / 2), (high - low, reach[1], TABLE_THICKNESS)
    # The area in which the cube starts.
    marked = (TABLE_CENTRE[0], TABLE_CENTRE[1], MARK_HEIGHT / 2 - 0.05), (0.26, 0.56, 0.1)
    return [_upright(*top, assets.COLOURS["table"]), _upright(*marked, MARK)]


def _upright(centre: ArrayLike, size: ArrayLike, colour: Colour) -> SolidBox:
    return SolidBox(
        np.asarray(centre, np.float32),
        np.eye(3, dtype=np.float32),
        np.asarray(size, np.float32),
        colour,
        gloss=0.05,
    )
