"""A scripted expert with the failings of people: a wrong idea of its hand, tremor, drift, pauses.

Skill is drawn per episode; the grades' names are robomimic's (better, okay, worse).  The numbers
are ours: at them the demonstrations' lengths and failures spread as those of people do, and a
policy trained on them succeeds in part.  The misjudgement leans one way: a policy can average out
random errors by drawing less noise, and needs no RL for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import Field

from zprl import seeding
from zprl.strict_model import StrictModel

if TYPE_CHECKING:
    from zprl.envs.base import Obs

DRIFT_STAY = 0.9
"""Share of the drift that is left after a step (Ornstein-Uhlenbeck)."""
PAUSE_STEPS = (3, 9)
"""A pause takes at least the first and less than the second number of steps."""


class Grade(StrictModel):
    """Skill of one grade of operator, in units of the action, which is bounded by 1."""

    share: float = Field(ge=0, description="Relative frequency of this grade.")
    lean: tuple[float, float, float] = Field(
        (0.0, 0.0, 0.0),
        description="Where all see the hand, from where it is: a camera misleads [m].",
    )
    aim: float = Field(
        0.0, ge=0, description="Standard deviation of what each episode adds to that, per axis [m]."
    )
    tremor: float = Field(
        ge=0, description="Standard deviation of white noise on each action dimension."
    )
    drift: float = Field(ge=0, description="Standard deviation of slow noise on the motion.")
    pause: float = Field(ge=0, le=1, description="Chance per step to stop for a while.")


class NoisyExpertSettings(StrictModel):
    """Grades of operators; recorded with the demonstrations."""

    better: Grade = Grade(share=0.2, tremor=0.05, drift=0.0, pause=0.0)
    okay: Grade = Grade(
        share=0.3, lean=(0.0, 0.0, 0.01), aim=0.006, tremor=0.15, drift=0.05, pause=0.02
    )
    worse: Grade = Grade(
        share=0.5, lean=(0.0, 0.0, 0.02), aim=0.01, tremor=0.2, drift=0.1, pause=0.05
    )

    def grades(self) -> dict[str, Grade]:
        """Return grade name to grade, best first."""
        return {"better": self.better, "okay": self.okay, "worse": self.worse}


class NoisyExpert:
    """One episode's worth of operating N environments.

    All randomness is a pure function of (seed, step).

    Args:
        advise: Returns the flawless expert's action in each environment, (N, A), if hands were off
            by (N, 3) [m].
        num_envs: N.
        seed: Seed of grades, aim, tremor, drift and pauses.
        settings: Grades of operators.
        still: Motion (M,) of a pause; the first M action dimensions are motion, the others (the
            gripper) go on as before.
        shake: Share of tremor and drift that each action dimension shows, (A,); 1 by default.
    """

    def __init__(
        self,
        advise: Callable[[np.ndarray], np.ndarray],
        num_envs: int,
        seed: int,
        settings: NoisyExpertSettings,
        *,
        still: np.ndarray,
        shake: np.ndarray | float = 1.0,
    ) -> None:
        grades = settings.grades()
        shares = np.array([grade.share for grade in grades.values()])
        index = seeding.numpy_generator(seed, "expert-grade").choice(
            len(grades), size=num_envs, p=shares / shares.sum()
        )
        self.quality = [list(grades)[i] for i in index]

        tremor, drift, pause, lean, aim = (
            np.array([getattr(grade, name) for grade in grades.values()])[index]
            for name in ("tremor", "drift", "pause", "lean", "aim")
        )
        self._tremor = tremor[:, None]
        self._drift_size = drift[:, None]
        self._pause = pause
        off = seeding.numpy_generator(seed, "expert-aim").standard_normal((num_envs, 3))
        self._aim = lean + aim[:, None] * off

        self._advise = advise
        self._seed = seed
        self._still = still
        self._shake = shake
        self._drift = np.zeros((num_envs, len(still)))
        self._waiting = np.zeros(num_envs, np.int64)
        self._step = 0

    def act(self, obs: Obs) -> torch.Tensor:
        """Return the next action (N, A).

        Of ``obs`` only the device counts: the expert sees the worlds themselves.
        """
        moves = len(self._still)
        action = np.clip(self._advise(self._aim), -1.0, 1.0)
        draw = seeding.numpy_generator(self._seed, "expert-step", self._step)

        # Tremor shows in all dimensions, drift in those of the motion.
        kick = draw.standard_normal(self._drift.shape)
        drawn = np.sqrt(1 - DRIFT_STAY**2) * self._drift_size * kick
        self._drift = DRIFT_STAY * self._drift + drawn
        shake = np.broadcast_to(self._shake, action.shape)
        action = action + shake * self._tremor * draw.standard_normal(action.shape)
        action[:, :moves] += shake[:, :moves] * self._drift

        stops = (draw.random(len(action)) < self._pause) & (self._waiting == 0)
        pauses = draw.integers(*PAUSE_STEPS, len(action))
        self._waiting = np.where(stops, pauses, np.maximum(self._waiting - 1, 0))
        action[self._waiting > 0, :moves] = self._still

        self._step += 1
        device = next(iter(obs.values())).device
        return torch.from_numpy(np.clip(action, -1.0, 1.0)).float().to(device)
