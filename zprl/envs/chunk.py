"""Chunks of actions over a vector environment: the step of the RL agent is the chunk.

The rest of a chunk is never executed in an episode it was not meant for: an environment that ends
in mid-chunk is auto-reset at once and then executes ``hold()`` until the chunk's end (measured
here: stale actions cost a base policy up to a third of its success).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch

from zprl.errors import ConfigError

if TYPE_CHECKING:
    from zprl.envs.base import Obs, StepResult, VectorEnv


@dataclass(frozen=True)
class ChunkResult:
    """What one chunk returns.

    Attributes:
        obs: Key to (N, O, d) history, oldest first; where an episode ended, the history of the next
            one at the chunk's end.
        final_obs: Key to (N, O, d); where an episode ended, its true last history, elsewhere equal
            to ``obs``.
        reward: (N,) sum of ``step_discount**i * reward_i`` over the steps of the chunk's own
            episode.
        terminated: (N,) bool, ended by the task within this chunk.
        truncated: (N,) bool, ended by the time-out within this chunk.
        success: (N,) bool, ended in success within this chunk.
        length: (N,) int, steps of the chunk executed in the episode it was meant for, 1 to C.
        env_steps: Environment steps consumed, holding included: num_envs x chunk_steps.
    """

    obs: Obs
    final_obs: Obs
    reward: torch.Tensor
    terminated: torch.Tensor
    truncated: torch.Tensor
    success: torch.Tensor
    length: torch.Tensor
    env_steps: int


class ChunkEnv:
    """Executes chunks (N, C, A) and keeps observation histories (N, O, d); a context manager that closes its environment.

    Args:
        env: The environment; this object owns it from now on.
        chunk_steps: Actions per chunk, C.
        obs_steps: Observation frames handed to the policy, O; the first frame is repeated at an
            episode's start.
        step_discount: Discount per environment step within a chunk.
    """

    def __init__(
        self, env: VectorEnv, chunk_steps: int, obs_steps: int = 1, step_discount: float = 1.0
    ) -> None:
        if chunk_steps < 1 or obs_steps < 1:
            raise ConfigError(
                f"chunk_steps ({chunk_steps}) and obs_steps ({obs_steps}) must be at least 1"
            )
        self.env, self.chunk_steps, self.obs_steps, self.step_discount = (
            env,
            chunk_steps,
            obs_steps,
            step_discount,
        )
        self._history: Obs = {}

    def reset(self, seed: int) -> Obs:
        """Start every episode anew and return histories (N, O, d)."""
        first = self.env.reset(seed)
        self._history = {
            key: torch.stack([value] * self.obs_steps, 1) for key, value in first.items()
        }
        return dict(self._history)

    @torch.no_grad()
    def step(
        self, chunk: torch.Tensor, on_step: Callable[[StepResult, torch.Tensor], None] | None = None
    ) -> ChunkResult:
        """Execute one chunk in every environment.

        Args:
            chunk: (N, C, A).
            on_step: Receives each environment step's result and the actions (N, A) that led to it.
        """
        spec = self.env.spec
        wanted = (spec.num_envs, self.chunk_steps, spec.action_dim)
        if tuple(chunk.shape) != wanted:
            raise ConfigError(
                f"{spec.name}: chunk has shape {tuple(chunk.shape)}, expected {wanted}",
                remedy="check chunk_steps",
            )
        if not self._history:
            raise ConfigError(
                f"{spec.name}: step() before the first reset()", remedy="call reset(seed) first"
            )
        alive = torch.ones(spec.num_envs, dtype=torch.bool, device=chunk.device)
        terminated, truncated, success = ~alive, ~alive, ~alive
        reward = torch.zeros(spec.num_envs, device=chunk.device)
        length = torch.zeros(spec.num_envs, dtype=torch.long, device=chunk.device)
        final: Obs = {}
        ended = False
        hold: torch.Tensor | None = None
        for i in range(self.chunk_steps):
            action = chunk[:, i]
            if ended:
                hold = self.env.hold() if hold is None else hold
                action = torch.where(alive[:, None], action, hold)
            # A picture costs more than a step: only those are drawn that the policy will see.
            unseen = (
                {"render": False}
                if spec.image_sizes and i < self.chunk_steps - self.obs_steps
                else {}
            )
            result = self.env.step(action, **unseen)
            if on_step is not None:
                on_step(result, action)
            length += alive
            reward += self.step_discount**i * result.reward * alive
            done = result.terminated | result.truncated
            history = self._history | self._pushed(result.obs)
            if bool(done.any()):
                mine = done & alive
                last = self._pushed(result.final_obs)
                final = {
                    k: torch.where(_rows(mine, v), v, final[k]) if final else v
                    for k, v in last.items()
                }
                history = {
                    k: torch.where(_rows(done, v), v[:, -1:].expand_as(v), v)
                    for k, v in history.items()
                }
                terminated = terminated | (result.terminated & mine)
                truncated = truncated | (result.truncated & mine)
                success = success | (result.success & mine)
                alive = alive & ~done
                ended, hold = True, None  # where a robot stands after its start is news
            self._history = history
        obs = self._history
        final = (
            {k: torch.where(_rows(alive, v), v, final[k]) for k, v in obs.items()}
            if ended
            else {k: v.clone() for k, v in obs.items()}
        )
        return ChunkResult(
            dict(obs),
            final,
            reward,
            terminated,
            truncated,
            success,
            length,
            spec.num_envs * self.chunk_steps,
        )

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _pushed(self, obs: Obs) -> Obs:
        """Histories with ``obs`` as their newest frame; new tensors, the old ones belong to the caller."""
        return {
            key: torch.cat((self._history[key][:, 1:], value.unsqueeze(1)), dim=1)
            for key, value in obs.items()
        }


def _rows(mask: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A mask (N,) that broadcasts against ``like`` (N, ...)."""
    return mask.view(-1, *[1] * (like.dim() - 1))
