"""A toy world in pure torch: a point follows its target with a limited speed; each breakage is one wrong line."""

from __future__ import annotations

import torch

from zprl import seeding
from zprl.envs.base import StepResult, TaskSpec, check_action

SPEED = 0.05


class Toy:
    """A point in a box; success when it is above z = 0.5.  Observation: position 3 and the episode's age."""

    broken: str | None = None

    def __init__(self, num_envs: int = 3, episode_steps: int = 6) -> None:
        self.spec = TaskSpec(
            "toy", num_envs, {"robot0_eef_pos": 3, "age": 1}, 4, 10.0, episode_steps, "cpu"
        )
        self.closed = 0

    def reset(self, seed: int) -> dict[str, torch.Tensor]:
        self.seed = seed
        self.episode = torch.zeros(self.spec.num_envs, dtype=torch.long)
        self.age = torch.zeros(self.spec.num_envs, dtype=torch.long)
        self.position = torch.zeros(self.spec.num_envs, 3)
        self.start = torch.zeros(self.spec.num_envs, 3)
        self._begin(torch.ones(self.spec.num_envs, dtype=torch.bool))
        return self._obs()

    def step(self, action: torch.Tensor) -> StepResult:
        check_action(self.spec, action)
        move = action[:, :3] - self.position
        self.position = self.position + move * (
            SPEED / move.norm(dim=1, keepdim=True).clamp(min=SPEED)
        )
        self.age = self.age + 1
        terminated = self.position[:, 2] > 0.5
        truncated = (self.age >= self.spec.episode_steps) & ~terminated
        final = self._obs()
        self._begin(terminated | truncated)
        return StepResult(
            self._obs(), terminated.float(), terminated, truncated, terminated.clone(), final
        )

    def hold(self) -> torch.Tensor:
        return torch.cat((self.start, torch.ones(self.spec.num_envs, 1)), 1)

    def scene(self) -> dict[str, torch.Tensor]:
        return {}

    def close(self) -> None:
        self.closed += 1

    def __enter__(self) -> Toy:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _begin(self, which: torch.Tensor) -> None:
        for i in which.nonzero().flatten().tolist():
            draw = seeding.torch_generator(self.seed, "toy", i, int(self.episode[i]))
            self.position[i] = 0.002 * torch.rand(3, generator=draw)
            self.start[i] = self.position[i]
            self.age[i] = 0
            self.episode[i] += 1

    def _obs(self) -> dict[str, torch.Tensor]:
        return {"robot0_eef_pos": self.position.clone(), "age": self.age.float()[:, None].clone()}
