"""Exploration without learning: the base policy with a residual drawn anew in every decision."""

from __future__ import annotations

import torch
from torch import Tensor

from zprl.models.policy import FlowPolicy
from zprl.rl.best_of import draws_of
from zprl.rl.steering_spaces import SteeringSpace


class RandomResidualPolicy:
    """Acts from a point moved by ``scale * residual``, the residual uniform on [-1, 1].

    Args:
        policy: Frozen base policy.
        interface: Where the residual enters.
        scale: (R,) residual scale.
    """

    def __init__(self, policy: FlowPolicy, interface: SteeringSpace, scale: Tensor) -> None:
        self.policy, self.interface, self.scale = policy, interface, scale

    @torch.no_grad()
    def act(self, obs: dict[str, Tensor], noise: Tensor) -> Tensor:
        """Action chunk (B, C, A) for observations {key: (B, O, d)} and flow noise (B, T, F), of which the residual is a function."""
        embedding = self.policy.embed(obs)
        anchor = self.interface.anchor(self.policy, embedding, noise)
        residual = torch.erf(
            draws_of(noise, 2, len(self.scale))[1] / 2**0.5
        )  # a normal number's rank, on [-1, 1]
        point = torch.addcmul(anchor, self.scale.to(anchor.device), residual)
        return self.policy.executed(self.interface.sequence(self.policy, embedding, point, noise))
