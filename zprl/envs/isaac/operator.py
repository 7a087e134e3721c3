"""A scripted operator that lifts the cube, with the failings of people: aims beside it, trembles, takes its time, tries again.

Closed loop, vectorised, one state machine per environment: hover over the cube, descend, grip, lift; back to hover if the cube
stayed down.  Skill is drawn per episode; names are robomimic's (better, okay, worse).  The numbers are ours, measured on this task:
aiming errors along x matter (the fingers centre the cube along y), and beyond 0.02 m the grasp slips.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from pydantic import BaseModel, ConfigDict, Field

from zprl import seeding
from zprl.envs.isaac.lift_cube import WORKSPACE
from zprl.envs.rotation import DOWN_6D

if TYPE_CHECKING:
    from zprl.envs.base import Obs

HOVER, DESCEND, GRIP, LIFT = range(4)
HOVER_HEIGHT = 0.12
"""Height of the tool over the cube's centre before it descends [m]."""
GRASP_HEIGHT = 0.018
"""Height of the tool over the table when it grips [m]; the resting cube's centre is at 0.024 m."""
LIFT_HEIGHT = 0.26
GRIP_STEPS = 12
_ARRIVED = 0.012
_NEAR = 0.05
_PATIENCE = 80
"""Steps after which a phase ends although the tool has not arrived: no operator waits for ever."""


class Skill(BaseModel):
    """How well one grade of operator works."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    share: float = Field(ge=0, description="Relative frequency of this grade.")
    bias: float = Field(ge=0, description="Standard deviation of the aiming error per try, along x and y [m].")
    jitter: float = Field(ge=0, description="Standard deviation of the tremor per step and axis [m].")
    speed: float = Field(gt=0, description="Fastest motion of the reference [m per environment step].")


class OperatorSettings(BaseModel):
    """Grades of operators; recorded with the demonstrations."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    better: Skill = Skill(share=0.25, bias=0.004, jitter=0.001, speed=0.020)
    okay: Skill = Skill(share=0.35, bias=0.03, jitter=0.004, speed=0.016)
    worse: Skill = Skill(share=0.40, bias=0.06, jitter=0.008, speed=0.012)

    def grades(self) -> dict[str, Skill]:
        """Grade name to skill, best first."""
        return {"better": self.better, "okay": self.okay, "worse": self.worse}


class Operator:
    """One episode's worth of operating N environments.

    All randomness is a pure function of (seed, step): two operators with equal seeds that see equal observations act equally.

    Args:
        num_envs: N.
        seed: Seed of grades, aim and tremor.
        settings: Grades of operators.
    """

    def __init__(self, num_envs: int, seed: int, settings: OperatorSettings | None = None) -> None:
        self.settings = settings or OperatorSettings()
        grades = self.settings.grades()
        shares = torch.tensor([skill.share for skill in grades.values()])
        draw = seeding.torch_generator(seed, "operator-grade")
        index = torch.multinomial(shares, num_envs, replacement=True, generator=draw)
        self.quality = [list(grades)[i] for i in index.tolist()]
        skills = torch.tensor([[s.bias, s.jitter, s.speed] for s in grades.values()])[index]
        self._bias, self._jitter, self._speed = skills.unsqueeze(2).unbind(1)
        self._seed, self._step = seed, 0
        self._phase = torch.full((num_envs,), HOVER)
        self._timer = torch.zeros(num_envs, dtype=torch.long)
        self._aim = torch.zeros(num_envs, 2)
        self._goal_xy = torch.zeros(num_envs, 2)
        self._reference: torch.Tensor | None = None
        self._down = torch.tensor(DOWN_6D).expand(num_envs, 6)
        self._low, self._high = torch.tensor(WORKSPACE)

    def act(self, obs: Obs) -> torch.Tensor:
        """Return the next action (N, 10) for observations (N, d), on the observations' device."""
        device = obs["object"].device
        tool, cube = obs["robot0_eef_pos"].cpu(), obs["object"][:, :3].cpu()
        draw = seeding.torch_generator(self._seed, "operator-step", self._step)
        noise = torch.randn(len(tool), 5, generator=draw)
        if self._reference is None:
            self._reference = tool.clone()
            self._aim = self._bias * noise[:, 3:]
        self._advance(tool, cube, noise[:, 3:])
        # Below the hover height the aim is committed to: people do not correct in the last centimetres either.
        self._goal_xy = torch.where((self._phase == HOVER)[:, None], cube[:, :2] + self._aim, self._goal_xy)
        heights = torch.tensor([0.024 + HOVER_HEIGHT, GRASP_HEIGHT, GRASP_HEIGHT, LIFT_HEIGHT])
        goal = torch.cat((self._goal_xy, heights[self._phase][:, None]), 1)
        move = goal - self._reference
        distance = move.norm(dim=1, keepdim=True)
        speed = torch.where((self._phase == DESCEND)[:, None], 0.5, 1.0) * self._speed
        self._reference = self._reference + move * (speed / torch.maximum(distance, speed))
        # The arm lags behind its target; near the goal people lead it by what they see missing.
        missing = goal[:, :2] - tool[:, :2]
        lead = torch.where(missing.norm(dim=1, keepdim=True) < _NEAR, missing, 0.0)
        target = self._reference + self._jitter * noise[:, :3]
        target = torch.cat((target[:, :2] + lead, target[:, 2:]), 1).clamp(self._low, self._high)
        gripper = torch.where(self._phase >= GRIP, -1.0, 1.0)[:, None]
        self._step += 1
        return torch.cat((target, self._down, gripper), 1).to(device)

    def _advance(self, tool: torch.Tensor, cube: torch.Tensor, noise: torch.Tensor) -> None:
        """Move each state machine on by at most one phase."""
        self._timer += 1
        late = self._timer > _PATIENCE
        over = (tool[:, :2] - self._goal_xy).norm(dim=1) < _ARRIVED
        over &= (tool[:, 2] - 0.024 - HOVER_HEIGHT).abs() < 2 * _ARRIVED
        low = tool[:, 2] < GRASP_HEIGHT + _ARRIVED
        missed = (tool[:, 2] > 0.10) & (cube[:, 2] < 0.05)
        phase = self._phase
        follow = torch.stack((over | late, low | late, self._timer > GRIP_STEPS, missed | late))
        go = follow[phase, torch.arange(len(phase))] & (self._timer > 1)
        retry = go & (phase == LIFT)
        self._aim = torch.where(retry[:, None], self._bias * noise, self._aim)
        self._phase = torch.where(go, (phase + 1) % 4, phase)
        self._timer = torch.where(go, 0, self._timer)
