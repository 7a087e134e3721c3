"""The steered policy: the frozen base with a learned residual on one interface."""

from __future__ import annotations

import torch
from torch import Tensor

from zprl.models.policy import FlowPolicy
from zprl.rl.interfaces import Interface
from zprl.rl.sac import Actor


class SteeredPolicy:
    """Acts as the base policy would from a point moved by ``scale * residual``.

    With a residual of zero it is the base policy bit for bit: same anchor, same decoder, same generator.
    """

    def __init__(self, policy: FlowPolicy, interface: Interface, actor: Actor, scale: Tensor) -> None:
        self.policy, self.interface, self.actor, self.scale = policy, interface, actor, scale

    @torch.no_grad()
    def act(self, obs: dict[str, Tensor], noise: Tensor) -> Tensor:
        """Action chunk (B, C, A) for observations {key: (B, O, d)} and flow noise (B, T, F): latent mean, actor mean."""
        embedding = self.policy.embed(obs)
        anchor = self.interface.anchor(self.policy, embedding, noise)
        residual = self.actor.mean(torch.cat([embedding, anchor], -1))
        point = torch.addcmul(anchor, self.scale, residual)
        return self.policy.executed(self.interface.sequence(self.policy, embedding, point, noise))
