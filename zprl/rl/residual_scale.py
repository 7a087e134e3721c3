"""Size of the residual: proposed from the demonstrations, always logged."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from zprl import seeding
from zprl.config import Rl
from zprl.data.store import EpisodeStore
from zprl.errors import ConfigError
from zprl.models.policy import FlowPolicy
from zprl.rl.demo_transitions import embed_frames
from zprl.rl.steering_spaces import SteeringSpace

UNIFORM_RMS = 3**-0.5
"""RMS of a residual uniform on [-1, 1]."""
SAMPLE = 4096
"""Frames of the demonstrations that are measured, at most."""
NOISE_SCALE = 1.5
"""Scale where the anchor is zero: flow noise (DSRL)."""


@dataclass(frozen=True)
class Spread:
    """Extent of a steering space on the demonstrations.

    Attributes:
        anchor_rms: RMS (R,) of the anchor.
        posterior_std: Mean standard deviation (R,) of the anchor's posterior; ``None``: it has
            none.
    """

    anchor_rms: Tensor
    posterior_std: Tensor | None


@torch.no_grad()
def measure(policy: FlowPolicy, space: SteeringSpace, store: EpisodeStore, *, seed: int) -> Spread:
    """Measure a steering space on frames drawn from the demonstrations."""
    generator = seeding.torch_generator(seed, "spread")
    rows = torch.randint(
        len(store.actions), (min(SAMPLE, len(store.actions)),), generator=generator
    )
    device = policy.grid_features.device
    noise = policy.draw_noise(len(rows), generator).to(device)
    embedding = embed_frames(policy, store, rows[:, None].expand(-1, policy.spec.policy.obs_steps))

    anchor = space.anchor(policy, embedding, noise)
    posterior = space.posterior(policy, embedding)
    std = None if posterior is None else posterior[1].exp().mean(0).cpu()
    return Spread(anchor.square().mean(0).sqrt().cpu(), std)


def propose(config: Rl, spread: Spread) -> Tensor:
    """Return the residual scale (R,) per dimension.

    With ``steering.scale: auto``, lambda is chosen so that a residual uniform on [-1, 1] has
    RMS(lambda unit dz) = ratio * RMS(anchor), the rule of the official README (with ratio
    0.1).  An anchor that is zero by definition (flow noise) has no such ratio: there lambda is 1.5
    (DSRL).

    Raises:
        ConfigError: the space has no such unit: no posterior, or an anchor that is zero.
    """
    unit = {
        "absolute": torch.ones_like(spread.anchor_rms),
        "anchor_rms": spread.anchor_rms,
        "posterior_std": spread.posterior_std,
    }[config.steering.units]
    if unit is None or not unit.any():
        raise ConfigError(
            f"space {config.steering.space} has no residual scale in units of "
            f"{config.steering.units}",
            remedy="set steering.units: absolute",
        )

    if config.steering.scale != "auto":
        return unit * config.steering.scale

    rms = spread.anchor_rms.square().mean().sqrt()
    if rms == 0:
        return unit * NOISE_SCALE
    return unit * (config.steering.ratio * rms / (UNIFORM_RMS * unit.square().mean().sqrt()))
