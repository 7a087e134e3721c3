"""Scripted operators with the failings of people: a wrong aim, tremor, slowness, another try.

Closed loop, vectorised, one state machine per environment.  Skill is drawn per episode; names are
robomimic's (better, okay, worse).  A task's operator is a subclass: its phases, when each ends,
where the tool goes in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field

from zprl import seeding
from zprl.envs.isaac.franka import WORKSPACE
from zprl.envs.rotation import DOWN_6D
from zprl.strict_model import StrictModel

if TYPE_CHECKING:
    from zprl.envs.base import Obs

ARRIVED = 0.012
"""The tool is where it was sent when it is that near [m]."""
PATIENCE = 80
"""Steps after which a phase ends although the tool has not arrived: no operator waits for ever."""
HOVER_HEIGHT = 0.12
"""Height of the tool over a thing before it descends [m]."""
GRIP_STEPS = 12
"""Steps that the fingers get to close or to open."""
_NEAR = 0.05
"""Within this distance of its goal the operator corrects what it sees missing [m]."""
_SLOW = 0.5
"""Share of the speed in slow phases."""


class Skill(StrictModel):
    """Skill of one grade of operator."""

    share: float = Field(ge=0, description="Relative frequency of this grade.")
    bias: float = Field(
        ge=0, description="Standard deviation of the aiming error per try, along x and y [m]."
    )
    jitter: float = Field(
        ge=0, description="Standard deviation of the tremor per step and axis [m]."
    )
    speed: float = Field(
        gt=0, description="Fastest motion of the reference [m per environment step]."
    )


class IsaacExpertSettings(StrictModel):
    """Grades of operators, recorded with the demonstrations.

    The defaults are measured on lift-cube (ours).
    """

    better: Skill = Skill(share=0.25, bias=0.004, jitter=0.001, speed=0.020)
    okay: Skill = Skill(share=0.35, bias=0.03, jitter=0.004, speed=0.016)
    worse: Skill = Skill(share=0.40, bias=0.06, jitter=0.008, speed=0.012)

    def grades(self) -> dict[str, Skill]:
        """Return grade name to skill, best first."""
        return {"better": self.better, "okay": self.okay, "worse": self.worse}


class IsaacExpert:
    """One episode's worth of operating N environments.

    All randomness is a pure function of (seed, step): two operators with equal seeds that see equal
    observations act equally.

    Args:
        num_envs: N.
        seed: Seed of grades, aim and tremor.
        settings: Grades of operators; by default the task's.

    Attributes:
        phases: Number of phases; the first is 0, and after the last comes the first: another try
            with a new aim.
        slow: Phases at half the speed.
        closed: Phases with the gripper closed.
        defaults: The task's grades.
    """

    phases: ClassVar[int]
    slow: ClassVar[tuple[int, ...]] = ()
    closed: ClassVar[tuple[int, ...]] = ()
    defaults: ClassVar[IsaacExpertSettings] = IsaacExpertSettings()

    def __init__(
        self, num_envs: int, seed: int, settings: IsaacExpertSettings | None = None
    ) -> None:
        self.settings = settings or self.defaults
        grades = self.settings.grades()
        shares = torch.tensor([skill.share for skill in grades.values()])
        draw = seeding.torch_generator(seed, "operator-grade")
        index = torch.multinomial(shares, num_envs, replacement=True, generator=draw)
        self.quality = [list(grades)[i] for i in index.tolist()]
        skills = torch.tensor([[s.bias, s.jitter, s.speed] for s in grades.values()])[index]
        self._bias, self._jitter, self._speed = skills.unsqueeze(2).unbind(1)

        self._seed = seed
        self._step = 0
        self._phase = torch.zeros(num_envs, dtype=torch.long)
        self._timer = torch.zeros(num_envs, dtype=torch.long)
        self._aim = torch.zeros(num_envs, 2)
        self._goal_xy = torch.zeros(num_envs, 2)
        self._reference: torch.Tensor | None = None

        self._down = torch.tensor(DOWN_6D).expand(num_envs, 6)
        self._low, self._high = torch.tensor(WORKSPACE)
        self._slow = torch.tensor([phase in self.slow for phase in range(self.phases)])
        self._closed = torch.tensor([phase in self.closed for phase in range(self.phases)])

    @classmethod
    def settings_of(cls, given: Mapping[str, Any]) -> IsaacExpertSettings:
        """Return the task's grades with those given in their place."""
        return IsaacExpertSettings.model_validate({**cls.defaults.model_dump(), **given})

    def act(self, obs: Obs) -> torch.Tensor:
        """Return the next action (N, 10) for observations (N, d), on the observations' device."""
        device = obs["robot0_eef_pos"].device
        seen = {key: value.cpu() for key, value in obs.items()}
        tool = seen["robot0_eef_pos"]
        draw = seeding.torch_generator(self._seed, "operator-step", self._step)
        noise = torch.randn(len(tool), 5, generator=draw)
        tremor, aiming = noise[:, :3], noise[:, 3:]

        if self._reference is None:
            self._reference = tool.clone()
            self._aim = self._bias * aiming
        self._advance(tool, seen, aiming)

        # The reference goes to the goal at the operator's speed.
        goal = self.goal(tool, seen)
        move = goal - self._reference
        distance = move.norm(dim=1, keepdim=True)
        speed = torch.where(self._slow[self._phase][:, None], _SLOW, 1.0) * self._speed
        self._reference = self._reference + move * (speed / torch.maximum(distance, speed))

        # The arm lags behind its target; near the goal people lead it by what they see missing.
        missing = goal[:, :2] - tool[:, :2]
        lead = torch.where(missing.norm(dim=1, keepdim=True) < _NEAR, missing, 0.0)
        target = self._reference + self._jitter * tremor
        target = torch.cat((target[:, :2] + lead, target[:, 2:]), 1).clamp(self._low, self._high)

        gripper = torch.where(self._closed[self._phase], -1.0, 1.0)[:, None]
        self._step += 1
        return torch.cat((target, self.turn(seen), gripper), 1).to(device)

    def goal(self, tool: torch.Tensor, seen: Obs) -> torch.Tensor:
        """Return the tool's goal in the present phases, (N, 3) [m]."""
        raise NotImplementedError

    def ends(self, tool: torch.Tensor, seen: Obs, late: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return for each phase whether it ends now, (N,) bool.

        ``late`` (N,) marks operators that have waited too long.
        """
        raise NotImplementedError

    def follows(self, tool: torch.Tensor, seen: Obs) -> torch.Tensor:
        """Return the phase that comes next, (N,)."""
        return (self._phase + 1) % self.phases

    def turn(self, seen: Obs) -> torch.Tensor:
        """Return the tool's rotation (N, 6), straight down."""
        return self._down

    def _advance(self, tool: torch.Tensor, seen: Obs, noise: torch.Tensor) -> None:
        """Move each state machine on by at most one phase."""
        self._timer += 1
        ends = torch.stack(self.ends(tool, seen, self._timer > PATIENCE))
        # No phase is left in its first step.
        go = ends[self._phase, torch.arange(len(tool))] & (self._timer > 1)
        self._phase = torch.where(go, self.follows(tool, seen), self._phase)
        self._aim = torch.where((go & (self._phase == 0))[:, None], self._bias * noise, self._aim)
        self._timer = torch.where(go, 0, self._timer)
