"""A task of Isaac Gym in one file: a Franka lifts a cube.

Copy it, change it, and put it into the folder of ZPRL_ISAACGYM_TASKS.

The worker (:mod:`zprl.envs.isaacgym.worker`) runs this file in Python 3.8, so nothing newer may
stand here.  The robot stands at the origin on the ground plane, whose height is 0; positions [m]
and quaternions (xyzw) are in that frame.  Names of links and joints are those of the robot's
description in Preview 4; the task is the one of ``isaac/lift-cube``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Mapping

if TYPE_CHECKING:
    import torch

CONTROL_HZ = 50.0
PHYSICS_STEPS = 2  # per control step

URDF = "urdf/franka_description/robots/franka_panda.urdf"  # below the folder of assets
FLIP_VISUALS = True  # the Franka's meshes have y upwards
HAND = "panda_hand"
TOOL_OFFSET = (0.0, 0.0, 0.1034)  # tool centre point in the hand's frame [m]
# Joint name to position at an episode's start [rad], stiffness [N m / rad] and damping [N m s /
# rad] of its drive.
ARM = {
    "panda_joint1": (0.0, 400.0, 80.0),
    "panda_joint2": (-0.569, 400.0, 80.0),
    "panda_joint3": (0.0, 400.0, 80.0),
    "panda_joint4": (-2.810, 400.0, 80.0),
    "panda_joint5": (0.0, 400.0, 80.0),
    "panda_joint6": (3.037, 400.0, 80.0),
    "panda_joint7": (0.741, 400.0, 80.0),
}
FINGERS = {
    "panda_finger_joint1": (0.04, 2000.0, 100.0),
    "panda_finger_joint2": (0.04, 2000.0, 100.0),
}  # open at the start [m], N/m, N s/m
FINGERS_CLOSED = 0.0
SCENE = (
    *(f"panda_link{number}" for number in range(8)),
    HAND,
    "panda_leftfinger",
    "panda_rightfinger",
)  # links that images show

WORKSPACE = ((0.25, -0.40, 0.012), (0.75, 0.40, 0.60))  # targets of the tool are clamped to it [m]
# And pulled in to this distance from the tool [m], so that no policy can whip the arm.
MAX_REACH = 0.10

# Box name to edges [m], density [kg / m^3], friction, and where its centre starts: middle of an
# area, and half its edges [m].
BOXES = {
    "cube": {
        "edges": (0.048, 0.048, 0.048),
        "density": 400.0,
        "friction": 1.0,
        "middle": (0.5, 0.0),
        "spread": (0.1, 0.25),
    }
}

OBS_DIMS = {"object": 10}  # beside what every task observes of its robot
SUCCESS_HEIGHT = 0.15
SUCCESS_DISTANCE = 0.06


def observe(tool: torch.Tensor, boxes: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return observations (N, d) by key, from the poses (N, 7) of the tool and of each box."""
    import torch

    cube = boxes["cube"]
    return {"object": torch.cat((cube, cube[:, :3] - tool[:, :3]), 1)}


def success(tool: torch.Tensor, boxes: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return whether the cube is lifted, and held rather than thrown, (N,) bool."""
    cube = boxes["cube"][:, :3]
    held: torch.Tensor = (cube - tool[:, :3]).norm(dim=1) < SUCCESS_DISTANCE
    return held & (cube[:, 2] > SUCCESS_HEIGHT)
