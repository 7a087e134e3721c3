"""Exploration without learning: the base policy with a residual drawn anew in every decision."""

from __future__ import annotations

import torch
from torch import Tensor

from zprl.models.policy import FlowPolicy
from zprl.rl.best_of import draws_of
from zprl.rl.steering import DecisionInputs, decision_inputs, steer
from zprl.rl.steering_spaces import SteeringSpace


class RandomResidualPolicy:
    """Acts from a point moved by ``scale * residual``, the residual uniform on [-1, 1].

    Args:
        policy: Frozen base policy.
        space: Where the residual enters.
        scale: (R,) residual scale.
    """

    def __init__(self, policy: FlowPolicy, space: SteeringSpace, scale: Tensor) -> None:
        self.policy = policy
        self.space = space
        self.scale = scale

    @torch.no_grad()
    def act(self, obs: dict[str, Tensor], noise: Tensor) -> Tensor:
        """Return the chunk (B, C, A) for observations {key: (B, O, d)} and flow noise (B, T, F).

        The residual is a function of the noise.
        """
        inputs = decision_inputs(self.policy, self.space, self.policy.embed(obs), noise)
        scale = self.scale.to(noise.device)
        return steer(self.policy, self.space, scale, inputs, self._residual).chunk

    def _residual(self, inputs: DecisionInputs) -> Tensor:
        # Row 0 of the draws is zero.  The error function makes a normal number its rank on [-1, 1].
        normal = draws_of(inputs.noise, 2, len(self.scale))[1]
        return torch.erf(normal / 2**0.5)
