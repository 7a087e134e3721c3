"""A world of one dimension in pure torch, and a small random policy for it."""

from __future__ import annotations

import torch

from zprl import config
from zprl.data.normalizer import Normalizer
from zprl.envs.base import StepResult, TaskSpec
from zprl.models.policy import FlowPolicy, PolicySpec


class ReachWorld:
    """A point starts near 0, moves by ``0.2 * action`` and succeeds beyond ``goal``; SAME_STEP auto-reset."""

    def __init__(
        self, num_envs: int = 8, *, episode_steps: int = 24, goal: float = 1.0, device: str = "cpu"
    ) -> None:
        self.spec = TaskSpec("toy/reach", num_envs, {"position": 1}, 1, 10.0, episode_steps, device)
        self.goal = goal
        self.generator = torch.Generator()

    def _start(self) -> torch.Tensor:
        return 0.1 * torch.rand(self.spec.num_envs, 1, generator=self.generator).to(
            self.spec.device
        )

    def reset(self, seed: int) -> dict[str, torch.Tensor]:
        self.generator.manual_seed(seed)
        self.position = self._start()
        self.age = torch.zeros(self.spec.num_envs, dtype=torch.long, device=self.spec.device)
        return {"position": self.position.clone()}

    def step(self, action: torch.Tensor) -> StepResult:
        self.position = self.position + 0.2 * action.clamp(-1, 1)
        self.age += 1
        success = self.position[:, 0] > self.goal
        truncated = (self.age >= self.spec.episode_steps) & ~success
        done = success | truncated
        final = {"position": self.position.clone()}
        self.position = torch.where(done[:, None], self._start(), self.position)
        self.age[done] = 0
        return StepResult(
            {"position": self.position.clone()},
            success.float(),
            success,
            truncated,
            success.clone(),
            final,
        )

    def hold(self) -> torch.Tensor:
        return torch.zeros(self.spec.num_envs, 1, device=self.spec.device)

    def scene(self) -> dict[str, torch.Tensor]:
        return {}

    def close(self) -> None:
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def toy_policy(store=None) -> FlowPolicy:
    """A small random policy for :class:`ReachWorld`, or for a store's observations; latent of 2, chunks of 4."""
    if store is None:
        normalizer = Normalizer.fit(
            {"position": torch.linspace(0, 1, 50)[:, None]}, torch.linspace(-1, 1, 50)[:, None]
        )
        dims, action_dim = {"position": 1}, 1
    else:
        normalizer, dims, action_dim = store.normalizer, dict(store.obs_dims), store.action_dim
    shape = config.Policy(
        horizon=4,
        chunk_steps=4,
        embedding_dim=6,
        encoder_hidden=(8,),
        mlp_hidden=(16,),
        time_embedding_dim=8,
        flow_steps=2,
    )
    spec = PolicySpec(
        obs_dims=dims,
        action_dim=action_dim,
        policy=shape,
        vib=config.VibConfig(latent_dim=2, hidden=(8,)),
    )
    return FlowPolicy(spec, normalizer).freeze()
