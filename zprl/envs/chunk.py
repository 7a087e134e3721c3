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
    """Outcome of one chunk.

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
    """Execution of chunks (N, C, A) with observation histories (N, O, d).

    It is a context manager that closes its environment.

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
        self.env = env
        self.chunk_steps = chunk_steps
        self.obs_steps = obs_steps
        self.step_discount = step_discount
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
        self._check(chunk)
        spec = self.env.spec
        episode = _ChunkEpisode(spec.num_envs, chunk.device)

        # Poses to hold are asked for once, and again where an episode ended since.
        hold: torch.Tensor | None = None
        for i in range(self.chunk_steps):
            action = chunk[:, i]
            if episode.any_ended:
                hold = self.env.hold() if hold is None else hold
                action = torch.where(episode.alive[:, None], action, hold)

            # An image costs more than a step: only those are rendered that the policy will see.
            unseen = spec.image_sizes and i < self.chunk_steps - self.obs_steps
            result = self.env.step(action, **({"render": False} if unseen else {}))
            if on_step is not None:
                on_step(result, action)

            episode.length += episode.alive
            episode.reward += self.step_discount**i * result.reward * episode.alive
            history = self._history | self._pushed(result.obs)
            done = result.terminated | result.truncated
            if bool(done.any()):
                episode.end(result, self._pushed(result.final_obs))
                # The next episode's history is its first frame, repeated.
                history = {
                    k: torch.where(_rows(done, v), v[:, -1:].expand_as(v), v)
                    for k, v in history.items()
                }
                hold = None
            self._history = history

        return episode.result(self._history, spec.num_envs * self.chunk_steps)

    def _check(self, chunk: torch.Tensor) -> None:
        """Refuse a chunk of wrong shape, or one before the first reset."""
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

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _pushed(self, obs: Obs) -> Obs:
        """Return histories with ``obs`` as their newest frame.

        They are new tensors, for the old ones belong to the caller.
        """
        return {
            key: torch.cat((self._history[key][:, 1:], value.unsqueeze(1)), dim=1)
            for key, value in obs.items()
        }


class _ChunkEpisode:
    """The episode that each environment (N) is in when a chunk begins.

    Attributes:
        alive: (N,) bool, not ended yet.
        any_ended: True once one of them has.
        reward: (N,) discounted sum so far.
        length: (N,) int, steps so far.
    """

    def __init__(self, num_envs: int, device: torch.device) -> None:
        self.alive = torch.ones(num_envs, dtype=torch.bool, device=device)
        self.any_ended = False
        self.reward = torch.zeros(num_envs, device=device)
        self.length = torch.zeros(num_envs, dtype=torch.long, device=device)

        self._terminated = ~self.alive
        self._truncated = ~self.alive
        self._success = ~self.alive
        self._final: Obs = {}

    def end(self, result: StepResult, last: Obs) -> None:
        """Note the ends in one step's ``result``; ``last`` are the histories up to them."""
        done = result.terminated | result.truncated
        ended = done & self.alive
        self._final = {
            k: torch.where(_rows(ended, v), v, self._final[k]) if self._final else v
            for k, v in last.items()
        }

        self._terminated = self._terminated | (result.terminated & ended)
        self._truncated = self._truncated | (result.truncated & ended)
        self._success = self._success | (result.success & ended)
        self.alive = self.alive & ~done
        self.any_ended = True

    def result(self, obs: Obs, env_steps: int) -> ChunkResult:
        """Return the chunk's outcome; ``obs`` are the histories at its end."""
        if self.any_ended:
            final = {
                k: torch.where(_rows(self.alive, v), v, self._final[k]) for k, v in obs.items()
            }
        else:
            final = {k: v.clone() for k, v in obs.items()}

        return ChunkResult(
            obs=dict(obs),
            final_obs=final,
            reward=self.reward,
            terminated=self._terminated,
            truncated=self._truncated,
            success=self._success,
            length=self.length,
            env_steps=env_steps,
        )


def _rows(mask: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return a mask (N,) that broadcasts against ``like`` (N, ...)."""
    return mask.view(-1, *[1] * (like.dim() - 1))
