"""Broken toy worlds: name of the rule to a world that breaks it and, as far as possible, nothing else."""

from __future__ import annotations

import dataclasses

import torch

from tests.unit.envs.toy import Toy
from zprl.envs.base import StepResult


class _Edited(Toy):
    """Lets a subclass edit what a good step returned."""

    def step(self, action: torch.Tensor) -> StepResult:
        return self.edit(super().step(action))

    def edit(self, result: StepResult) -> StepResult:
        raise NotImplementedError


class NoSize(Toy):
    def __init__(self) -> None:
        super().__init__()
        self.spec = dataclasses.replace(self.spec, control_hz=0.0)


class WrongKeys(Toy):
    def _obs(self):
        return dict(reversed(super()._obs().items()))


class WrongShape(Toy):
    def _obs(self):
        return {**super()._obs(), "age": self.age.float()}


class Doubles(Toy):
    def _obs(self):
        return {**super()._obs(), "age": self.age.double()[:, None]}


class IntegerFlags(_Edited):
    def edit(self, result):
        return dataclasses.replace(result, truncated=result.truncated.int())


class NotFinite(_Edited):
    def edit(self, result):
        return dataclasses.replace(result, reward=torch.full_like(result.reward, float("inf")))


class Unrepeatable(Toy):
    plays = 0

    def reset(self, seed):
        Unrepeatable.plays += 1
        super().reset(seed)
        self.position += 1e-6 * Unrepeatable.plays
        return self._obs()


class SeedBlind(Toy):
    def reset(self, seed):
        return super().reset(0)


class BothFlags(_Edited):
    def edit(self, result):
        return dataclasses.replace(result, terminated=result.truncated.clone())


class EarlySuccess(_Edited):
    def edit(self, result):
        return dataclasses.replace(result, success=~result.truncated)


class TooLong(Toy):
    def __init__(self) -> None:
        super().__init__(episode_steps=7)
        self.spec = dataclasses.replace(self.spec, episode_steps=6)
        self.limit = 7

    def step(self, action):
        spec, self.spec = self.spec, dataclasses.replace(self.spec, episode_steps=self.limit)
        try:
            return super().step(action)
        finally:
            self.spec = spec


class TooShort(TooLong):
    def __init__(self) -> None:
        super().__init__()
        self.limit = 5


class FinalIsFirst(_Edited):
    def edit(self, result):
        return dataclasses.replace(result, final_obs={k: v.clone() for k, v in result.obs.items()})


class FinalAlwaysOdd(_Edited):
    def edit(self, result):
        return dataclasses.replace(
            result, final_obs={k: v + 1 for k, v in result.final_obs.items()}
        )


class FirstIsFinal(_Edited):
    """The age does not tell the frames apart here, as in most real tasks."""

    def edit(self, result):
        return dataclasses.replace(result, obs={k: v.clone() for k, v in result.final_obs.items()})

    def _obs(self):
        return {**super()._obs(), "age": torch.zeros(self.spec.num_envs, 1)}


class SharedBuffer(Toy):
    def _obs(self):
        if not hasattr(self, "buffer"):
            self.buffer = torch.zeros(self.spec.num_envs, 3)
        self.buffer.copy_(self.position)
        return {**super()._obs(), "robot0_eef_pos": self.buffer}


class HoldWrongShape(Toy):
    def hold(self):
        return super().hold()[:, :2]


class Drifts(Toy):
    def hold(self):
        return super().hold() + torch.tensor([0.1, 0, 0, 0])


class TakesAnyShape(Toy):
    def step(self, action):
        return super().step(
            torch.nn.functional.pad(action, (0, self.spec.action_dim - action.shape[1]))
        )


class IndexErrorOnShape(Toy):
    def step(self, action):
        if action.shape[1] != self.spec.action_dim:
            raise IndexError("out of range")
        return super().step(action)


class SwallowsNan(Toy):
    def step(self, action):
        return super().step(action.nan_to_num())


class CloseOnce(Toy):
    def close(self):
        super().close()
        if self.closed > 1:
            raise RuntimeError("closed already")


ZOO: list[tuple[str, type[Toy]]] = [
    ("spec", NoSize),
    ("obs-keys", WrongKeys),
    ("obs-shape", WrongShape),
    ("dtype", Doubles),
    ("dtype", IntegerFlags),
    ("finite", NotFinite),
    ("seed-repeats", Unrepeatable),
    ("seed-differs", SeedBlind),
    ("flags-exclusive", BothFlags),
    ("success-is-end", EarlySuccess),
    ("time-out", TooLong),
    ("time-out", TooShort),
    ("final-obs", FinalIsFirst),
    ("final-obs", FinalAlwaysOdd),
    ("first-obs", FirstIsFinal),
    ("own-tensors", SharedBuffer),
    ("hold-shape", HoldWrongShape),
    ("hold-holds", Drifts),
    ("refuses-shape", TakesAnyShape),
    ("refuses-shape", IndexErrorOnShape),
    ("refuses-nan", SwallowsNan),
    ("close", CloseOnce),
]
