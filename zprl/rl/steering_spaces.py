"""Where a bounded perturbation enters the frozen policy.

Every interface answers the same two questions, and that is all that distinguishes them:

* ``anchor``: which point of which space does the frozen policy take by itself?
* ``sequence``: which action sequence does the frozen policy make of a perturbed point?

In between, the agent adds ``residual_scale * residual`` with a residual in [-1, 1].  Agent, replay,
learner, evaluation and robot session are the same for all interfaces.

=================  ======================  =================================================================
class              perturbed point         published as
=================  ======================  =================================================================
LatentResidual     bottleneck latent z     ZPRL (arXiv 2605.19919)
ActionResidual     normalised chunk        Policy Decorator (arXiv 2412.13630)
FlowNoise          the sampler's noise     DSRL, SAC variant (arXiv 2506.15799)
EmbeddingResidual  embedding e             ZPRL's ablation without bottleneck (official code: ``cond_res``)
=================  ======================  =================================================================
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from zprl.models.policy import FlowPolicy


class SteeringSpace(Protocol):
    """A place where a residual of width R enters the frozen policy."""

    name: str

    def anchor(
        self, policy: FlowPolicy, embedding: Tensor, noise: Tensor, *, sample: Tensor | None = None
    ) -> Tensor:
        """The point the frozen policy takes by itself.

        Args:
            policy: The frozen policy.
            embedding: (B, D).
            noise: Flow noise (B, T, F) of this decision.
            sample: Standard normal draw (B, Z) where the policy is to draw its latent instead of
                taking the mean.

        Returns:
            (B, R).
        """

    def sequence(
        self, policy: FlowPolicy, embedding: Tensor, point: Tensor, noise: Tensor
    ) -> Tensor:
        """The normalised action sequence (B, T, F) made of the point (B, R)."""


def latent_of(policy: FlowPolicy, embedding: Tensor, sample: Tensor | None = None) -> Tensor:
    """Latent z (B, Z): the posterior's mean, or a draw from it."""
    mean, log_std = policy.posterior(embedding)
    return mean if sample is None else mean + log_std.exp() * sample


class LatentResidual:
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


class ActionResidual:
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


class FlowNoise:
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


class EmbeddingResidual:
    """A residual on the embedding, past the bottleneck: the ablation that shows what the bottleneck is for."""

    name = "embedding"

    def anchor(
        self, policy: FlowPolicy, embedding: Tensor, noise: Tensor, *, sample: Tensor | None = None
    ) -> Tensor:
        return embedding

    def sequence(
        self, policy: FlowPolicy, embedding: Tensor, point: Tensor, noise: Tensor
    ) -> Tensor:
        return policy.generate(point, noise)
