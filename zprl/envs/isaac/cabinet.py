"""A Franka draws the drawer of a cabinet open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch

from zprl.envs import rotation
from zprl.envs.isaac import launch
from zprl.envs.isaac.scenario import Scenario, move
from zprl.envs.isaac.scripted_expert import (
    ARRIVED,
    GRIP_STEPS,
    HOVER_HEIGHT,
    IsaacExpert,
    IsaacExpertSettings,
    Skill,
)
from zprl.envs.isaac.usd import cabinet
from zprl.envs.isaac.world import IsaacWorld

if TYPE_CHECKING:
    from zprl.config import Task
    from zprl.envs.base import Obs

SUCCESS_OPENING = 0.20
"""The drawer is open when it has come out so far [m]; it can come out by ``usd.cabinet.TRAVEL``."""
PLACE = (0.68, 0.0, 0.0)
"""The middle of the cabinet's front in the environment's frame [m]."""
SPREAD = (0.03, 0.15)
"""It stands there plus or minus this in x and y [m]."""

HOVER, DESCEND, GRIP, PULL = range(4)
PULL_BY = 0.27
"""The hand goes back by so much when it pulls [m]."""
SLIPPED = 0.08
"""Farther from the handle than this the hand has slipped off it [m]."""


def make(task: Task, *, num_envs: int, device: str = "cpu") -> IsaacWorld:
    """Make the environment; entry point ``isaac/cabinet``."""
    return IsaacWorld(task, Cabinet(), num_envs=num_envs, device=device)


class Drawer(IsaacExpert):
    """Operator that hovers over the handle, descends, grips, pulls; again if the hand slips off."""

    phases, slow, closed = 4, (DESCEND, PULL), (GRIP, PULL)
    defaults = IsaacExpertSettings(
        better=Skill(share=0.25, bias=0.004, jitter=0.001, speed=0.020),
        okay=Skill(share=0.35, bias=0.05, jitter=0.004, speed=0.016),
        worse=Skill(share=0.40, bias=0.09, jitter=0.008, speed=0.012),
    )

    def goal(self, tool: torch.Tensor, seen: Obs) -> torch.Tensor:
        """Return a point at the handle, or far in front of it."""
        handle = seen["object"][:, :3]
        hover, pull = self._phase == HOVER, self._phase == PULL
        self._goal_xy = torch.where(hover[:, None], handle[:, :2] + self._aim, self._goal_xy)
        back = self._goal_xy - torch.tensor([PULL_BY, 0.0])
        z = handle[:, 2] + torch.where(hover, HOVER_HEIGHT, 0.0)
        return torch.cat((torch.where(pull[:, None], back, self._goal_xy), z[:, None]), 1)

    def ends(self, tool: torch.Tensor, seen: Obs, late: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the ends: over the handle, down, gripped, and a hand that slipped."""
        handle = seen["object"][:, :3]
        over = (tool[:, :2] - self._goal_xy).norm(dim=1) < ARRIVED
        over &= (tool[:, 2] - handle[:, 2] - HOVER_HEIGHT).abs() < 2 * ARRIVED
        low = tool[:, 2] < handle[:, 2] + ARRIVED
        slipped = (tool - handle)[:, :2].norm(dim=1) > SLIPPED
        return over | late, low | late, self._timer > GRIP_STEPS, slipped | late


class Cabinet(Scenario):
    """The task; ``object`` is the handle's position 3, handle minus tool 3, opening [m] 1."""

    obs_dims: ClassVar = {"object": 7}
    start_draws, start_purpose = 2, "cabinet-start"
    things, cubes = ("cabinet",), ()
    operator = Drawer

    def configure(self, config: Any) -> None:
        """Put a cabinet on the table instead of the cube."""
        from isaaclab.actuators import ImplicitActuatorCfg
        from isaaclab.assets import ArticulationCfg
        from isaaclab.sim import UsdFileCfg

        config.scene.object = None
        config.terminations.object_dropping = None
        config.scene.cabinet = ArticulationCfg(
            prim_path="{ENV_REGEX_NS}/Cabinet",
            spawn=UsdFileCfg(usd_path=str(launch.authored() / cabinet.PATH)),
            init_state=ArticulationCfg.InitialStateCfg(pos=PLACE, joint_pos={"drawer_joint": 0.0}),
            actuators={
                "drawer": ImplicitActuatorCfg(
                    joint_names_expr=["drawer_joint"], stiffness=0.0, damping=5.0
                )
            },
        )

    def place(self, env: Any, env_ids: Any, ids: torch.Tensor, draws: torch.Tensor) -> None:
        """Put the cabinet somewhere in its rectangle."""
        move(env, "cabinet", env_ids, (2 * draws - 1) * torch.tensor(SPREAD))

    def observe(self, env: Any, tool: torch.Tensor) -> torch.Tensor:
        """Return the handle, absolute and relative to the tool, and the opening."""
        position, quat = self._link(env, "cabinet_drawer")
        handle = position + rotation.rotate(
            quat, quat.new_tensor(cabinet.HANDLE).expand(len(quat), 3)
        )
        return torch.cat((handle, handle - tool, self._opening(env)[:, None]), dim=1)

    def success(self, env: Any, tool: torch.Tensor, quat: torch.Tensor) -> torch.Tensor:
        """Return whether the drawer is open."""
        return self._opening(env) > SUCCESS_OPENING

    def poses(self, env: Any) -> dict[str, torch.Tensor]:
        """Return poses of the links in ``usd.cabinet.BOXES``."""
        return {name: torch.cat(self._link(env, name), dim=1) for name in cabinet.BOXES}

    @staticmethod
    def _link(env: Any, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        thing = env.scene["cabinet"]
        i = thing.body_names.index(name)
        position = thing.data.body_pos_w.torch[:, i] - env.scene.env_origins
        return position, thing.data.body_quat_w.torch[:, i]

    @staticmethod
    def _opening(env: Any) -> torch.Tensor:
        opening: torch.Tensor = env.scene["cabinet"].data.joint_pos.torch[:, 0]
        return opening
