"""A Franka puts one cube on another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch

from zprl.envs.isaac.scenario import Scenario, local_pose, move
from zprl.envs.isaac.scripted_expert import (
    ARRIVED,
    GRIP_STEPS,
    HOVER_HEIGHT,
    IsaacExpert,
    IsaacExpertSettings,
    Skill,
)
from zprl.envs.isaac.usd import table
from zprl.envs.isaac.usd.table import CUBE_EDGE
from zprl.envs.isaac.world import IsaacWorld

if TYPE_CHECKING:
    from zprl.config import Task
    from zprl.envs.base import Obs

SUCCESS_OFFSET = 0.02
"""Largest distance of the upper cube's centre from the lower one's, along x and along y [m]."""
SUCCESS_HEIGHT_ERROR = 0.006
"""Largest error of the upper cube's height over the lower one's [m]."""
RESTING = 0.05
"""Speed below which the upper cube rests [m/s]."""
FINGER_OPEN = 0.03
"""Opening of each finger beyond which the gripper is open [m]: it holds nothing."""
SPREAD_X, NEAR_Y, FAR_Y = 0.1, 0.07, 0.22
"""The cubes start at 0.5 plus or minus ``SPREAD_X``, one on each side of the middle, between
``NEAR_Y`` and ``FAR_Y`` [m]."""

HOVER, DESCEND, GRIP, RAISE, CARRY, LOWER, RELEASE, LEAVE = range(8)
CARRY_HEIGHT, CLEAR_HEIGHT = 0.17, 0.22
"""Heights of the tool over the table, with the cube in hand and when it leaves [m]."""
LOST = 0.05
"""Farther from the tool than this the cube is no longer in the hand [m]."""
GRASP_DEPTH = 0.006
"""The tool grips so far below the cube's centre [m]."""


def make(task: Task, *, num_envs: int, device: str = "cpu") -> IsaacWorld:
    """Make the environment; entry point ``isaac/stack``."""
    return IsaacWorld(task, Stack(), num_envs=num_envs, device=device)


class Stacker(IsaacExpert):
    """Operator that picks a cube up, carries it over the other, lowers it, lets go and leaves.

    It begins again whenever the cube is not in the hand.
    """

    phases, slow, closed = 8, (DESCEND, LOWER), (GRIP, RAISE, CARRY, LOWER)
    defaults = IsaacExpertSettings(
        better=Skill(share=0.25, bias=0.003, jitter=0.001, speed=0.020),
        okay=Skill(share=0.35, bias=0.025, jitter=0.004, speed=0.016),
        worse=Skill(share=0.40, bias=0.045, jitter=0.008, speed=0.012),
    )

    def __init__(
        self, num_envs: int, seed: int, settings: IsaacExpertSettings | None = None
    ) -> None:
        super().__init__(num_envs, seed, settings)
        self._goal_z = torch.zeros(num_envs)

    def goal(self, tool: torch.Tensor, seen: Obs) -> torch.Tensor:
        """Return a point over the one cube or the other, at the phase's height."""
        upper, lower = seen["object"][:, :3], seen["object"][:, 10:13]
        phase = self._phase
        self._goal_xy = torch.where(
            (phase == HOVER)[:, None], upper[:, :2] + self._aim, self._goal_xy
        )
        # What counts is where the cube is, not the hand that holds it somewhere.
        held = lower[:, :2] + self._aim + (tool - upper)[:, :2]
        self._goal_xy = torch.where((phase == CARRY)[:, None], held, self._goal_xy)

        fixed = torch.zeros(len(tool))
        on_top = lower[:, 2] + CUBE_EDGE + (tool - upper)[:, 2]
        grasp = upper[:, 2] - GRASP_DEPTH
        heights = torch.stack(
            (
                upper[:, 2] + HOVER_HEIGHT,
                grasp,
                grasp,
                fixed + CARRY_HEIGHT,
                fixed + CARRY_HEIGHT,
                on_top,
                on_top,
                fixed + CLEAR_HEIGHT,
            )
        )
        z = heights[phase, torch.arange(len(tool))]

        # While it grips or lets go the hand keeps its height: it must not follow the cube that it
        # moves.
        self._goal_z = torch.where((phase == GRIP) | (phase == RELEASE), self._goal_z, z)
        return torch.cat((self._goal_xy, self._goal_z[:, None]), 1)

    def ends(self, tool: torch.Tensor, seen: Obs, late: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the ends of the phases in their order.

        Over the cube, down, gripped, up, over the other, down, let go, and away without success.
        """
        upper, lower = seen["object"][:, :3], seen["object"][:, 10:13]
        over = (tool[:, :2] - self._goal_xy).norm(dim=1) < ARRIVED
        over &= (tool[:, 2] - upper[:, 2] - HOVER_HEIGHT).abs() < 2 * ARRIVED
        low = tool[:, 2] < upper[:, 2] - GRASP_DEPTH + ARRIVED

        waited = self._timer > GRIP_STEPS
        high = tool[:, 2] > CARRY_HEIGHT - ARRIVED
        there = (upper[:, :2] - lower[:, :2] - self._aim).norm(dim=1) < 0.4 * ARRIVED
        lost = self._lost(tool, upper)

        down = upper[:, 2] - lower[:, 2] < CUBE_EDGE + 0.003
        away = tool[:, 2] > CLEAR_HEIGHT - ARRIVED

        return (
            over | late,
            low | late,
            waited,
            high | late,
            there | lost | late,
            down | lost | late,
            waited,
            away | late,
        )

    def follows(self, tool: torch.Tensor, seen: Obs) -> torch.Tensor:
        """Return the next phase; the first one if the cube is not in the hand that carries it."""
        carries = (self._phase >= RAISE) & (self._phase <= LOWER)
        back = carries & self._lost(tool, seen["object"][:, :3])
        return torch.where(back, HOVER, (self._phase + 1) % self.phases)

    @staticmethod
    def _lost(tool: torch.Tensor, upper: torch.Tensor) -> torch.Tensor:
        distance: torch.Tensor = (tool - upper).norm(dim=1)
        return distance > LOST


class Stack(Scenario):
    """The task with two cubes.

    ``object`` is the upper cube's position 3, quaternion xyzw 4, it minus tool 3; then the lower
    cube's position 3, it minus the upper 3.
    """

    obs_dims: ClassVar = {"object": 16}
    start_draws, start_purpose = 5, "stack-start"
    things = cubes = ("object", "lower")
    operator = Stacker

    def configure(self, config: Any) -> None:
        """Add a second cube like the first, called ``lower``."""
        from isaaclab.managers import TerminationTermCfg
        from isaaclab.utils import clone

        lower = clone(config.scene.object)
        lower.prim_path = "{ENV_REGEX_NS}/Lower"
        lower.spawn.variants = {table.LOOK: "lower"}
        config.scene.lower = lower
        config.terminations.object_dropping = TerminationTermCfg(func=self.dropped)

    def place(self, env: Any, env_ids: Any, ids: torch.Tensor, draws: torch.Tensor) -> None:
        """Put each cube on a side that a toss of a coin decides."""
        side = torch.where(draws[:, 4] < 0.5, -1.0, 1.0)
        for name, number, sign in (("object", 0, side), ("lower", 2, -side)):
            x = (2 * draws[:, number] - 1) * SPREAD_X
            y = sign * (NEAR_Y + (FAR_Y - NEAR_Y) * draws[:, number + 1])
            move(env, name, env_ids, torch.stack((x, y), dim=1))

    def observe(self, env: Any, tool: torch.Tensor) -> torch.Tensor:
        """Return both cubes, absolute and relative."""
        upper, quat = local_pose(env, "object")
        lower, _ = local_pose(env, "lower")
        return torch.cat((upper, quat, upper - tool, lower, lower - upper), dim=1)

    def success(self, env: Any, tool: torch.Tensor, quat: torch.Tensor) -> torch.Tensor:
        """Return whether the upper cube rests on the lower one without being held."""
        apart = local_pose(env, "object")[0] - local_pose(env, "lower")[0]
        on = (apart[:, :2].abs() < SUCCESS_OFFSET).all(1)
        on &= (apart[:, 2] - self.edge).abs() < SUCCESS_HEIGHT_ERROR
        rests: torch.Tensor = env.scene["object"].data.root_lin_vel_w.torch.norm(dim=1) < RESTING
        fingers: torch.Tensor = env.scene["robot"].data.joint_pos.torch[:, -2:]
        return on & rests & (fingers > FINGER_OPEN).all(1)

    def dropped(self, env: Any) -> torch.Tensor:
        """Return whether a cube fell off the table, (N,) bool."""
        return torch.stack(
            [local_pose(env, name)[0][:, 2] < -0.05 for name in ("object", "lower")]
        ).any(0)

    def poses(self, env: Any) -> dict[str, torch.Tensor]:
        """Return the poses of both cubes."""
        return {
            "cube": torch.cat(local_pose(env, "object"), dim=1),
            "lower": torch.cat(local_pose(env, "lower"), dim=1),
        }
