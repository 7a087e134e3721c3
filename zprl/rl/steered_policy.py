"""The steered policy: the frozen base with a learned residual on one space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from zprl.models.policy import FlowPolicy, PolicySpec
from zprl.rl.best_of import choose, draws_of
from zprl.rl.networks import EnsembleMLP
from zprl.rl.sac import Actor
from zprl.rl.steering import DecisionInputs, decision_inputs, steer
from zprl.rl.steering_spaces import SteeringSpace


class ActingPolicy(Protocol):
    """A policy that acts in a world, steered or not."""

    @property
    def spec(self) -> PolicySpec:
        """Shapes of its observations and chunks."""
        ...

    @property
    def num_features(self) -> int:
        """Width F of a normalised action."""
        ...

    def act(self, obs: dict[str, Tensor], noise: Tensor) -> Tensor:
        """Return the chunk (B, C, A) for observations {key: (B, O, d)} and flow noise (B, T, F)."""
        ...


class SteeredPolicy:
    """Acts as the base policy would from a point moved by ``scale * residual``.

    With a residual of zero it acts from the anchor: see :func:`zprl.rl.steering.steer`.

    Args:
        policy: Frozen base policy.
        space: Where the residual enters.
        actor: The learned residual.
        scale: (R,) residual scale.
        critics: Judges of the candidates, where there are several.
        best_of: Candidates per decision.
    """

    def __init__(
        self,
        policy: FlowPolicy,
        space: SteeringSpace,
        actor: Actor,
        scale: Tensor,
        critics: EnsembleMLP | None = None,
        best_of: int = 1,
    ) -> None:
        self.policy = policy
        self.space = space
        self.actor = actor
        self.scale = scale
        self.critics = critics
        self.best_of = best_of

    @property
    def spec(self) -> PolicySpec:
        """Shapes of the base policy."""
        return self.policy.spec

    @property
    def num_features(self) -> int:
        """Width F of a normalised action."""
        return self.policy.num_features

    @torch.no_grad()
    def act(self, obs: Mapping[str, Tensor], noise: Tensor) -> Tensor:
        """Return the chunk (B, C, A) for observations {key: (B, O, d)} and flow noise (B, T, F).

        From the latent's mean, with the actor's mean or the critics' choice.
        """
        inputs = decision_inputs(self.policy, self.space, self.policy.embed(obs), noise)
        return steer(self.policy, self.space, self.scale, inputs, self._residual).chunk

    def _residual(self, inputs: DecisionInputs) -> Tensor:
        if self.critics is None or self.best_of <= 1:
            return self.actor.mean(inputs.state)
        draws = draws_of(inputs.noise, self.best_of, len(self.scale))
        return choose(self.actor, self.critics, self.scale, inputs.state, draws)
