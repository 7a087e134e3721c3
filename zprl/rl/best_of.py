"""Best of K: the critics choose one of several residuals of the actor.

Source: DICE-RL (arXiv 2603.10263).  The critics' least value over the ensemble decides, while
exploring and when judged.  All candidates share the decision's flow noise.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from zprl import seeding
from zprl.rl.networks import EnsembleMLP
from zprl.rl.sac import Actor


def choose(
    actor: Actor, critics: EnsembleMLP, scale: Tensor, state: Tensor, draws: Tensor
) -> Tensor:
    """Return the best residual (B, R) of the actor's candidates.

    Args:
        actor: Makes a candidate of each draw.
        critics: Judge the candidates.
        scale: (R,) residual scale.
        state: (B, S).
        draws: Standard normal (K, B, R).
    """
    count, rows, width = draws.shape
    many = state.expand(count, *state.shape).flatten(0, 1)
    residuals = actor.sample(many, draws.flatten(0, 1))[0].residual
    points = many[:, -width:] + scale * residuals

    # A bound on Q would not change the order of the candidates.
    values = critics(torch.cat([many, points], -1))[0].squeeze(-1).amin(0)
    best = values.view(count, rows).argmax(0)
    return residuals.view(count, rows, width)[best, torch.arange(rows, device=state.device)]


def draws_of(noise: Tensor, count: int, width: int) -> Tensor:
    """Return standard normal draws (K, B, R), a function of flow noise (B, T, F) row by row.

    Candidate 0 is the actor's mean (zeros); every other number is the projection of a row's noise
    on a fixed unit vector, which is standard normal, too.  So a policy needs no noise beside the
    one it is given, and a row's choice does not depend on its neighbours.
    """
    flat = noise.flatten(1)
    projected = flat @ _directions(count - 1, width, flat.shape[1]).to(flat.device)
    return torch.cat([torch.zeros(1, len(flat), width, device=flat.device), projected])


@functools.cache
def _directions(count: int, width: int, of: int) -> Tensor:
    """Unit vectors (K, T * F, R), the same everywhere and always."""
    raw = torch.randn(count, of, width, generator=seeding.torch_generator(0, "best-of-directions"))
    lengths: Tensor = raw.norm(dim=1, keepdim=True)
    return raw / lengths
