"""A Franka lifts a cube: Isaac Lab's own task.

Ours on top of ``IsaacContrib-Lift-Cube-Franka-IK-Abs``: success (cube above 0.15 m and within
0.06 m of the tool), see :mod:`zprl.envs.isaac.world`.  Aiming errors along x matter to the operator
(the fingers centre the cube along y), and beyond 0.02 m the grasp slips (measured on this task).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch

from zprl.envs.isaac.franka import ROBOT_DIMS
from zprl.envs.isaac.scenario import Scenario, local_pose, move
from zprl.envs.isaac.scripted_expert import ARRIVED, GRIP_STEPS, HOVER_HEIGHT, IsaacExpert
from zprl.envs.isaac.usd.table import CUBE_EDGE
from zprl.envs.isaac.world import IsaacWorld

if TYPE_CHECKING:
    from zprl.config import Task
    from zprl.envs.base import Obs

OBS_DIMS = {**ROBOT_DIMS, "object": 10}
SUCCESS_HEIGHT = 0.15
SUCCESS_DISTANCE = 0.06
CUBE_SPREAD = (0.1, 0.25)
"""The cube starts at (0.5, 0) plus or minus this in x and y [m] (Isaac Lab's lift task)."""

HOVER, DESCEND, GRIP, LIFT = range(4)
GRASP_HEIGHT = 0.018
"""Height of the tool over the table when it grips [m]; the resting cube's centre is higher."""
CUBE_HEIGHT = CUBE_EDGE / 2
"""Height of the resting cube's centre over the table [m]."""
LIFT_HEIGHT = 0.26


def make(task: Task, *, num_envs: int, device: str = "cpu") -> IsaacWorld:
    """Make the environment; entry point ``isaac/lift-cube``."""
    return IsaacWorld(task, LiftCube(), num_envs=num_envs, device=device)


class Lifter(IsaacExpert):
    """Operator that hovers over the cube, descends, grips, lifts; again if the cube stayed down."""

    phases, slow, closed = 4, (DESCEND,), (GRIP, LIFT)

    def goal(self, tool: torch.Tensor, seen: Obs) -> torch.Tensor:
        """Return a point over the cube, at the phase's height."""
        # Below the hover height the aim is committed to: people do not correct in the last
        # centimetres either.
        self._goal_xy = torch.where(
            (self._phase == HOVER)[:, None], seen["object"][:, :2] + self._aim, self._goal_xy
        )
        heights = torch.tensor(
            [CUBE_HEIGHT + HOVER_HEIGHT, GRASP_HEIGHT, GRASP_HEIGHT, LIFT_HEIGHT]
        )
        return torch.cat((self._goal_xy, heights[self._phase][:, None]), 1)

    def ends(self, tool: torch.Tensor, seen: Obs, late: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the ends: over the cube, down, gripped, and a cube that stayed down."""
        over = (tool[:, :2] - self._goal_xy).norm(dim=1) < ARRIVED
        over &= (tool[:, 2] - CUBE_HEIGHT - HOVER_HEIGHT).abs() < 2 * ARRIVED
        low = tool[:, 2] < GRASP_HEIGHT + ARRIVED
        missed = (tool[:, 2] > 0.10) & (seen["object"][:, 2] < 0.05)
        return over | late, low | late, self._timer > GRIP_STEPS, missed | late


class LiftCube(Scenario):
    """The task; ``object`` is the cube's position 3, quaternion xyzw 4, cube minus tool 3."""

    obs_dims: ClassVar = {"object": 10}
    start_draws, start_purpose = 2, "cube-start"
    operator = Lifter
    colliders = "primitives"
    """Colliders of the first recordings: demonstrations and policies belong to that world."""

    def place(self, env: Any, env_ids: Any, ids: torch.Tensor, draws: torch.Tensor) -> None:
        """Put the cube anywhere in its rectangle."""
        move(env, "object", env_ids, (2 * draws - 1) * torch.tensor(CUBE_SPREAD))

    def observe(self, env: Any, tool: torch.Tensor) -> torch.Tensor:
        """Return the cube, absolute and relative to the tool."""
        position, quat = local_pose(env, "object")
        return torch.cat((position, quat, position - tool), dim=1)

    def success(self, env: Any, tool: torch.Tensor, quat: torch.Tensor) -> torch.Tensor:
        """Return whether the cube is lifted, and held rather than thrown."""
        cube, _ = local_pose(env, "object")
        held: torch.Tensor = (cube - tool).norm(dim=1) < SUCCESS_DISTANCE
        return held & (cube[:, 2] > SUCCESS_HEIGHT)

    def poses(self, env: Any) -> dict[str, torch.Tensor]:
        """Return the pose of the cube."""
        return {"cube": torch.cat(local_pose(env, "object"), dim=1)}
