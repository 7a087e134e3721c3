"""A Franka brings its tool to a pose that it is shown: the smallest task, good for trials.

Success is Isaac Lab's idea of a reached pose with the position asked for more strictly.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from zprl.envs import rotation
from zprl.envs.isaac.scenario import Scenario
from zprl.envs.isaac.scripted_expert import IsaacExpert, IsaacExpertSettings, Skill
from zprl.envs.isaac.world import IsaacWorld

if TYPE_CHECKING:
    from zprl.config import Task
    from zprl.envs.base import Obs

SUCCESS_DISTANCE = 0.02
SUCCESS_ANGLE = 0.2
"""Largest angle between tool and goal [rad]; Isaac Lab's reach task has the same."""
GOALS = ((0.35, -0.30, 0.08), (0.65, 0.30, 0.28))
"""Box of goal positions [m].  The tool starts above it, 0.1 m or more from every goal."""
MAX_YAW = math.pi / 4
"""The goal's tool points down and is turned about the vertical by up to this much."""
LOOK_AGAIN = 40
"""Steps after which the operator notices that it aimed beside the goal."""


def make(task: Task, *, num_envs: int, device: str = "cpu") -> IsaacWorld:
    """Make the environment; entry point ``isaac/reach``."""
    return IsaacWorld(task, Reach(), num_envs=num_envs, device=device)


class Reacher(IsaacExpert):
    """Operator that goes straight to its idea of the goal, and corrects it from time to time."""

    phases = 1
    defaults = IsaacExpertSettings(
        better=Skill(share=0.25, bias=0.002, jitter=0.001, speed=0.020),
        okay=Skill(share=0.35, bias=0.04, jitter=0.004, speed=0.012),
        worse=Skill(share=0.40, bias=0.08, jitter=0.008, speed=0.006),
    )

    def goal(self, tool: torch.Tensor, seen: Obs) -> torch.Tensor:
        """Return the goal, off by the present aim."""
        goal = seen["goal"][:, :3]
        return torch.cat((goal[:, :2] + self._aim, goal[:, 2:]), 1)

    def ends(self, tool: torch.Tensor, seen: Obs, late: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the end of the only phase, after a while."""
        return (self._timer > LOOK_AGAIN,)

    def turn(self, seen: Obs) -> torch.Tensor:
        """Return the goal's rotation."""
        return rotation.quat_to_6d(seen["goal"][:, 3:7])


class Reach(Scenario):
    """The task; ``goal`` is its position 3, quaternion xyzw 4, goal minus tool 3."""

    obs_dims: ClassVar = {"goal": 10}
    start_draws, start_purpose = 4, "reach-goal"
    things = cubes = ()
    operator = Reacher

    def __init__(self) -> None:
        self._goal: torch.Tensor | None = None

    def configure(self, config: Any) -> None:
        """Remove the cube from the scene."""
        config.scene.object = None
        config.terminations.object_dropping = None

    def place(self, env: Any, env_ids: Any, ids: torch.Tensor, draws: torch.Tensor) -> None:
        """Draw a goal anywhere in its box, turned either way."""
        goals = self._goals(env)
        low, high = torch.tensor(GOALS)
        half = (2 * draws[:, 3:] - 1) * (MAX_YAW / 2)
        # Half a turn about x (straight down) followed by the yaw.
        pose = torch.cat(
            (low + (high - low) * draws[:, :3], half.cos(), half.sin(), torch.zeros(len(ids), 2)),
            dim=1,
        )
        goals[ids.to(goals.device)] = pose.to(goals.device)

    def observe(self, env: Any, tool: torch.Tensor) -> torch.Tensor:
        """Return the goal, absolute and relative to the tool."""
        goal = self._goals(env)
        return torch.cat((goal, goal[:, :3] - tool), dim=1)

    def success(self, env: Any, tool: torch.Tensor, quat: torch.Tensor) -> torch.Tensor:
        """Return whether the tool is near the goal, and turned like it."""
        goal = self._goals(env)
        near: torch.Tensor = (goal[:, :3] - tool).norm(dim=1) < SUCCESS_DISTANCE
        # The angle between two unit quaternions is 2 acos |p . q|.
        return near & ((goal[:, 3:] * quat).sum(1).abs() > math.cos(SUCCESS_ANGLE / 2))

    def poses(self, env: Any) -> dict[str, torch.Tensor]:
        """Return the pose of the goal."""
        return {"goal": self._goals(env).clone()}

    def _goals(self, env: Any) -> torch.Tensor:
        if self._goal is None:
            self._goal = torch.zeros(env.num_envs, 7, device=env.device)
        return self._goal
