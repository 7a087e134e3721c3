"""The steered policy: the frozen base with a learned residual on one interface."""

from __future__ import annotations

import torch
from torch import Tensor

from zprl.models.policy import FlowPolicy
from zprl.rl.best_of import choose, draws_of
from zprl.rl.networks import EnsembleMLP
from zprl.rl.sac import Actor
from zprl.rl.steering_spaces import SteeringSpace


class SteeredPolicy:
    """Acts as the base policy would from a point moved by ``scale * residual``.

    With a residual of zero it is the base policy bit for bit: same anchor, same decoder, same
    generator.

    Args:
        policy: Frozen base policy.
        interface: Where the residual enters.
        actor: The learned residual.
        scale: (R,) residual scale.
        critics: What chooses between candidates, where there are several.
        best_of: Candidates per decision.
    """

    def __init__(
        self,
        policy: FlowPolicy,
        interface: SteeringSpace,
        actor: Actor,
        scale: Tensor,
        critics: EnsembleMLP | None = None,
        best_of: int = 1,
    ) -> None:
        self.policy, self.interface, self.actor, self.scale = policy, interface, actor, scale
        self.critics, self.best_of = critics, best_of

    @torch.no_grad()
    def act(self, obs: dict[str, Tensor], noise: Tensor) -> Tensor:
        """Action chunk (B, C, A) for observations {key: (B, O, d)} and flow noise (B, T, F).

        From the latent's mean, with the actor's mean or the critics' choice.
        """
        embedding = self.policy.embed(obs)
        anchor = self.interface.anchor(self.policy, embedding, noise)
        state = torch.cat([embedding, anchor], -1)
        if self.critics is not None and self.best_of > 1:
            residual = choose(
                self.actor,
                self.critics,
                self.scale,
                state,
                draws_of(noise, self.best_of, len(self.scale)),
            )
        else:
            residual = self.actor.mean(state)
        point = torch.addcmul(anchor, self.scale, residual)
        return self.policy.executed(self.interface.sequence(self.policy, embedding, point, noise))
