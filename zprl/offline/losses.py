"""Losses of offline training, and the weights that each may move.

==============  ==========================================  ===================================
loss            is                                          trains
==============  ==========================================  ===================================
base            L_IL: velocity error conditioned on the     observation encoder and velocity
                embedding                                   network
vib             L_VIBIL: velocity error conditioned on the  bottleneck only: the embedding is
                decoded embedding of a drawn latent         detached and the velocity network's
                                                            weights are frozen
kl              L_KL: to N(0, I), mean over batch *and*     bottleneck only
                dimensions
reconstruction  L_rec: decoded embedding against the        bottleneck only
                embedding
==============  ==========================================  ===================================

total = base + vib + kl_weight * kl + reconstruction_weight * reconstruction (official code).  No
weight is reached from both sides, so the base policy is exactly what it would be without a
bottleneck.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import mse_loss

from zprl import seeding
from zprl.models.flow_matching import draw_flow_time, interpolate, target_velocity, time_embedding
from zprl.models.policy import FlowPolicy
from zprl.models.vib import kl_divergence, sample_posterior


@dataclass(frozen=True)
class Draws:
    """Random numbers of one gradient step.

    Attributes:
        noise: Flow noise (B, T, F).
        flow_time: Flow times (B,).
        latent_noise: (B, Z).
        augment: Source of random crops; ``None`` for policies without images.
    """

    noise: Tensor
    flow_time: Tensor
    latent_noise: Tensor
    augment: torch.Generator | None = None

    @classmethod
    def at(
        cls,
        policy: FlowPolicy,
        rows: int,
        seed: int,
        step: int,
        *,
        device: torch.device | str = "cpu",
    ) -> Draws:
        """Draw the numbers as a pure function of (seed, step).

        Each purpose has a generator of its own, so that none shifts another.
        """
        noise = policy.draw_noise(rows, seeding.torch_generator(seed, "flow-noise", step))
        flow_time = draw_flow_time(rows, seeding.torch_generator(seed, "flow-time", step))
        latent = torch.randn(
            rows,
            policy.spec.vib.latent_dim,
            generator=seeding.torch_generator(seed, "latent-noise", step),
        )
        augment = seeding.torch_generator(seed, "crop", step) if policy.spec.images else None
        return cls(noise.to(device), flow_time.to(device), latent.to(device), augment)


@dataclass(frozen=True)
class Losses:
    """Scalar losses; ``total`` is minimised, the others are unweighted."""

    total: Tensor
    base: Tensor
    vib: Tensor
    kl: Tensor
    reconstruction: Tensor

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names in order."""
        return tuple(field.name for field in fields(cls))

    def stacked(self) -> Tensor:
        """Return all losses, detached, as (5,) in the order of :meth:`names`."""
        return torch.stack([getattr(self, name).detach() for name in self.names()])


def offline_losses(
    policy: FlowPolicy, obs: Mapping[str, Tensor], actions: Tensor, draws: Draws
) -> Losses:
    """Return the losses of one batch.

    Both velocity errors share noise and flow time (official code).

    Args:
        policy: The policy in training.
        obs: {key: (B, O, d)} in physical units.
        actions: (B, T, A) in physical units.
        draws: This step's random numbers.
    """
    clean = policy.normalizer.normalize_actions(actions)
    noisy = interpolate(clean, draws.noise, draws.flow_time)
    target = target_velocity(clean, draws.noise)
    times = time_embedding(draws.flow_time, policy.spec.policy.time_embedding_dim)

    embedding = policy.embed(obs, draws.augment)
    base = mse_loss(policy.velocity_net(noisy, times, embedding), target)
    if policy.vib is None:
        zero = torch.zeros_like(base)
        return Losses(base, base, zero, zero, zero)

    # Nothing of the bottleneck's losses may reach encoder or velocity network.
    seen = embedding.detach()
    mean, log_std = policy.posterior(seen)
    decoded = policy.decode(sample_posterior(mean, log_std, draws.latent_noise))
    frozen = {name: p.detach() for name, p in policy.velocity_net.named_parameters()}
    vib = mse_loss(functional_call(policy.velocity_net, frozen, (noisy, times, decoded)), target)
    kl = kl_divergence(mean, log_std)
    reconstruction = mse_loss(decoded, seen)

    weights = policy.spec.vib
    total = base + vib + weights.kl_weight * kl + weights.reconstruction_weight * reconstruction
    return Losses(total, base, vib, kl, reconstruction)
