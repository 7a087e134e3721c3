"""Spaces in which a bounded perturbation enters the frozen policy.

Two methods distinguish the spaces:

* ``anchor``: the point of the space that the frozen policy takes by itself;
* ``sequence``: the action sequence that the frozen policy makes of a perturbed point.

In between, the agent adds ``residual_scale * residual`` with a residual in [-1, 1]
(:func:`zprl.rl.steering.steer`).  Agent, replay, learner, evaluation and robot session are the same
for all spaces; what only some have (a posterior, a known residual) is ``None`` in the others.

=================  ====================  =======================================================
class              perturbed point       published as
=================  ====================  =======================================================
LatentResidual     bottleneck latent z   ZPRL (arXiv 2605.19919)
ActionResidual     normalised chunk      Policy Decorator (arXiv 2412.13630)
FlowNoise          the sampler's noise   DSRL, SAC variant (arXiv 2506.15799)
EmbeddingResidual  embedding e           ZPRL's ablation without bottleneck (official code:
                                         ``cond_res``)
=================  ====================  =======================================================
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from zprl.models.policy import FlowPolicy


class SteeringSpace(Protocol):
    """A place where a residual of width R enters the frozen policy; base class of every space."""

    name: str

    def anchor(
        self, policy: FlowPolicy, embedding: Tensor, noise: Tensor, *, sample: Tensor | None = None
    ) -> Tensor:
        """Return the point (B, R) from which the residual counts.

        Args:
            policy: The frozen policy.
            embedding: (B, D).
            noise: Flow noise (B, T, F) of this decision.
            sample: Standard normal draw (B, Z) where the policy is to draw its latent instead of
                taking the mean.
        """
        ...

    def sequence(
        self, policy: FlowPolicy, embedding: Tensor, point: Tensor, noise: Tensor
    ) -> Tensor:
        """Return the normalised action sequence (B, T, F) made of the point (B, R)."""
        ...

    def condition(self, policy: FlowPolicy, point: Tensor) -> Tensor | None:
        """Return the generator's condition (B, D) at a point (B, R); ``None``: it has no part."""
        return None

    def posterior(self, policy: FlowPolicy, embedding: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return mean and log standard deviation (B, R) of the anchor; ``None``: it has none."""
        return None

    def residual_of(self, chunk: Tensor, anchor: Tensor, scale: Tensor) -> Tensor | None:
        """Return the residual (B, R) in [-1, 1] that comes nearest to a chunk.

        ``None``: the space has no closed form for it.

        Args:
            chunk: Normalised, (B, C * F).
            anchor: (B, R).
            scale: (R,).
        """
        return None


def latent_of(policy: FlowPolicy, embedding: Tensor, sample: Tensor | None = None) -> Tensor:
    """Return the latent z (B, Z): the posterior's mean, or a draw from it."""
    mean, log_std = policy.posterior(embedding)
    return mean if sample is None else mean + log_std.exp() * sample


class LatentResidual(SteeringSpace):
    """ZPRL: z + lambda dz, decoded, conditions the frozen generator (paper)."""

    name = "latent"

    def anchor(
        self, policy: FlowPolicy, embedding: Tensor, noise: Tensor, *, sample: Tensor | None = None
    ) -> Tensor:
        return latent_of(policy, embedding, sample)

    def sequence(
        self, policy: FlowPolicy, embedding: Tensor, point: Tensor, noise: Tensor
    ) -> Tensor:
        return policy.generate(policy.decode(point), noise)

    def condition(self, policy: FlowPolicy, point: Tensor) -> Tensor:
        return policy.decode(point)

    def posterior(self, policy: FlowPolicy, embedding: Tensor) -> tuple[Tensor, Tensor]:
        return policy.posterior(embedding)


class ActionResidual(SteeringSpace):
    """A residual on the executed part of the base policy's normalised chunk (Policy Decorator)."""

    name = "action"

    def anchor(
        self, policy: FlowPolicy, embedding: Tensor, noise: Tensor, *, sample: Tensor | None = None
    ) -> Tensor:
        base = policy.generate(policy.decode(latent_of(policy, embedding, sample)), noise)
        return base[:, policy.executed_slice].flatten(1)

    def sequence(
        self, policy: FlowPolicy, embedding: Tensor, point: Tensor, noise: Tensor
    ) -> Tensor:
        sequence = torch.zeros_like(noise)
        sequence[:, policy.executed_slice] = point.view(len(point), -1, policy.num_features)
        return sequence

    def residual_of(self, chunk: Tensor, anchor: Tensor, scale: Tensor) -> Tensor:
        return ((chunk - anchor) / scale).clamp(-1, 1)


class FlowNoise(SteeringSpace):
    """The residual is the generator's initial noise itself, so the anchor is zero (DSRL)."""

    name = "noise"

    def anchor(
        self, policy: FlowPolicy, embedding: Tensor, noise: Tensor, *, sample: Tensor | None = None
    ) -> Tensor:
        return torch.zeros_like(noise).flatten(1)

    def sequence(
        self, policy: FlowPolicy, embedding: Tensor, point: Tensor, noise: Tensor
    ) -> Tensor:
        return policy.generate(policy.decode(latent_of(policy, embedding)), point.view_as(noise))


class EmbeddingResidual(SteeringSpace):
    """A residual on the embedding, past the bottleneck.

    The ablation that shows the bottleneck's effect (official code).
    """

    name = "embedding"

    def anchor(
        self, policy: FlowPolicy, embedding: Tensor, noise: Tensor, *, sample: Tensor | None = None
    ) -> Tensor:
        return embedding

    def sequence(
        self, policy: FlowPolicy, embedding: Tensor, point: Tensor, noise: Tensor
    ) -> Tensor:
        return policy.generate(point, noise)

    def condition(self, policy: FlowPolicy, point: Tensor) -> Tensor:
        return point
