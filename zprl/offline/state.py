"""State that offline training carries from step to step, and its way to disk and back.

Nothing random is in it: every draw is a pure function of (seed, step).  The learning rate and the
EMA decay are functions of the step as well, so weights, averages and Adam's moments are the whole
state.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor

from zprl.config import Pretrain
from zprl.models.ema import averaged_model
from zprl.models.policy import FlowPolicy
from zprl.offline.curves import Curves
from zprl.run_dir import Generation, RunDir

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""Tensors that Adam keeps for each parameter."""


def learning_rate(step: int, config: Pretrain) -> float:
    """Return the learning rate of update ``step`` (0 for the first).

    It rises linearly while warming up, then falls as half a cosine down to 0.  Official
    code (diffusers' cosine schedule), but the warm-up counts from 1, so that the first update moves
    (ours).
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))


class TrainState:
    """Policy, its average, its optimiser, the curves so far and the number of finished updates.

    Args:
        policy: The policy to train, already on its device.
        config: Section ``pretrain``.
        seed: Training seed.
    """

    def __init__(self, policy: FlowPolicy, config: Pretrain, *, seed: int) -> None:
        self.policy = policy
        self.config = config
        self.seed = seed
        self.step = 0
        self.curves = Curves()
        self.ema = averaged_model(policy, power=config.ema_power, maximum=config.ema_max)

        # One optimiser (official code).  Adam treats every weight on its own, so the bottleneck's
        # never touch the base's.
        self.optimizer = torch.optim.AdamW(
            policy.parameters(),
            lr=config.learning_rate,
            betas=config.betas,
            eps=1e-8,
            weight_decay=config.weight_decay,
            fused=True,
        )

    @property
    def averaged(self) -> FlowPolicy:
        """The policy with averaged weights, which training ships."""
        return cast(FlowPolicy, self.ema.module)

    def finish_update(self) -> None:
        """Average the weights and count the update that the optimiser just made."""
        self.ema.update_parameters(self.policy)
        self.step += 1

    def save(self, run_dir: RunDir) -> None:
        """Commit a generation: three safetensors files and a JSON."""
        groups = {
            "model": self.policy.state_dict(),
            "ema": {name: p.detach() for name, p in self.averaged.named_parameters()},
            "optimizer": self._moments(),
        }
        run_dir.save(self.step, {"curves": self.curves.state()}, groups)

    def restore(self, generation: Generation) -> None:
        """Continue from a generation of a policy with the same spec."""
        tensors = generation.tensors
        self.policy.load_state_dict(tensors["model"])
        self.averaged.load_state_dict({**tensors["model"], **tensors["ema"]})
        self.ema.n_averaged.fill_(generation.step)

        for name, p in self.policy.named_parameters():
            # Adam's step counts stay on the parameter's device because the fused kernel wants them
            # there.
            self.optimizer.state[p] = {
                field: tensors["optimizer"][f"{name}/{field}"].to(p.device) for field in MOMENTS
            }

        self.curves = Curves.of(generation.state["curves"])
        self.step = generation.step

    def _moments(self) -> dict[str, Tensor]:
        return {
            f"{name}/{field}": self.optimizer.state[p][field]
            for name, p in self.policy.named_parameters()
            for field in MOMENTS
        }
