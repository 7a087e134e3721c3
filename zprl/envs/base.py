"""The contract of a simulated task: a vector environment with same-step auto-reset.

Actions of the project's own worlds are absolute end-effector targets in the environment's own
frame: position 3 [m], rotation 6-D (the first two columns of the rotation matrix, Zhou et al. 2019,
arXiv 1812.07035), gripper 1 (+1 open, -1 closed).  Quaternions are xyzw.  A benchmark's worlds take
the actions that the benchmark defines, and report the position that these command.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, Self, runtime_checkable

import torch

from zprl.errors import ConfigError, DataError

Obs = dict[str, torch.Tensor]
"""Observation key to a value for every environment, (N, ...)."""


@dataclass(frozen=True)
class TaskSpec:
    """Fixed facts of one environment.

    Attributes:
        name: Registered task name.
        num_envs: Environments stepped side by side, N.
        obs_dims: Width of each observation key, in order; images apart.
        action_dim: Width of an action, A.
        control_hz: Environment steps per second of simulated or real time.
        episode_steps: Environment steps after which an episode is truncated.
        device: Torch device of every tensor that goes in or comes out.
        image_sizes: Height and width of each image among the observations; they are (N, H, W, 3)
            uint8.
    """

    name: str
    num_envs: int
    obs_dims: Mapping[str, int]
    action_dim: int
    control_hz: float
    episode_steps: int
    device: str
    image_sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class StepResult:
    """Outcome of one environment step; every tensor is the caller's own.

    Attributes:
        obs: Key to (N, d); where an episode ended, the first observation of the next one.
        reward: (N,) float.
        terminated: (N,) bool, ended by the task; never true together with ``truncated``.
        truncated: (N,) bool, ended by the time-out alone.
        success: (N,) bool, ended in success.
        final_obs: Key to (N, d); where an episode ended, its true last observation, elsewhere equal
            to ``obs``.
        target: (N, 3) end-effector position that the action commanded [m]; ``None`` where it is the
            action's first three numbers.
    """

    obs: Obs
    reward: torch.Tensor
    terminated: torch.Tensor
    truncated: torch.Tensor
    success: torch.Tensor
    final_obs: Obs
    target: torch.Tensor | None = None


@runtime_checkable
class VectorEnv(Protocol):
    """N copies of one task, stepped together; a context manager that closes itself."""

    @property
    def spec(self) -> TaskSpec:
        """Fixed facts of this environment."""
        ...

    def reset(self, seed: int) -> Obs:
        """Start every episode anew.

        Start states are a pure function of (seed, environment, episode number).
        """
        ...

    def step(self, action: torch.Tensor) -> StepResult:
        """Execute one action (N, A) in every environment for ``1 / control_hz`` seconds.

        Where there are images, ``render=False`` asks for none: ``obs`` has none then, and
        ``final_obs`` those of ended episodes, black elsewhere, if there are any.
        """
        ...

    def hold(self) -> torch.Tensor:
        """Return the action (N, A) that keeps each robot where it starts an episode."""
        ...

    def scene(self) -> dict[str, torch.Tensor]:
        """Return poses of the bodies that a report draws.

        They are (N, 7), position and quaternion xyzw in the environment's frame, by name.
        """
        ...

    def close(self) -> None:
        """Free the simulator; calling it twice is harmless."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


def check_action(spec: TaskSpec, action: torch.Tensor) -> None:
    """Refuse an action that no environment may execute.

    Raises:
        ConfigError: the shape is not (num_envs, action_dim).
        DataError: it holds NaN or infinity, which a simulator would swallow and a robot must never
            see.
    """
    wanted = (spec.num_envs, spec.action_dim)
    if tuple(action.shape) != wanted:
        raise ConfigError(
            f"{spec.name}: action has shape {tuple(action.shape)}, expected {wanted}",
            remedy="check action_dim and num_envs",
        )

    # One sum instead of isfinite().all(): any NaN or infinity makes it non-finite, and float32
    # actions cannot overflow in float64.
    if not bool(action.to(torch.float64).sum().isfinite()):
        bad = (~action.isfinite()).any(dim=1).nonzero().flatten().tolist()
        raise DataError(
            f"{spec.name}: action of environment(s) {bad[:8]} is not finite",
            remedy="look for a diverged policy or learner",
        )
