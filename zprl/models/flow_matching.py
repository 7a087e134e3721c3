"""Flow matching: noise becomes actions along straight lines.

Convention, said once: ``flow_time`` runs from **1 = noise** to **0 = action**, and ``velocity =
noise - action`` (official code, openpi and diffusers agree; LeRobot's multi-task DiT has it the
other way round).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from zprl.errors import ConfigError

TIME_SCALE = 100.0
"""The network sees ``100 * flow_time`` (official code: 100 training time steps of its
scheduler)."""

LAST_SIGMA = 0.01
"""Smallest noise level of the official code's scheduler before the appended zero."""


def draw_flow_time(rows: int, generator: torch.Generator) -> Tensor:
    """Draw training flow times (B,), uniform on (0, 1].

    Continuous times are ours (and the official repository's later choice); its release drew from
    {0.01, 0.02, ..., 1}.
    """
    return 1.0 - torch.rand(rows, generator=generator)  # rand is in [0, 1)


def interpolate(actions: Tensor, noise: Tensor, flow_time: Tensor) -> Tensor:
    """Return the point (B, T, F) at ``flow_time`` between ``actions`` at 0 and ``noise`` at 1.

    Args:
        actions: (B, T, F).
        noise: (B, T, F).
        flow_time: (B,).
    """
    s = flow_time[:, None, None]
    return (1.0 - s) * actions + s * noise


def target_velocity(actions: Tensor, noise: Tensor) -> Tensor:
    """Return d(point)/d(flow_time) of that line: ``noise - actions`` (B, T, F)."""
    return noise - actions


def time_grid(kind: Literal["uniform", "diffusers"], flow_steps: int) -> tuple[float, ...]:
    """Return the ``flow_steps + 1`` flow times of the sampler, from 1 down to 0.

    Args:
        kind: ``uniform`` has equal steps.  ``diffusers`` spaces ``flow_steps`` times from 1 to 0.01
            and appends 0: what the official release gets from diffusers'
            ``FlowMatchEulerDiscreteScheduler`` (its two steps are 0.99 and 0.01 long).
        flow_steps: Number of Euler steps.

    >>> time_grid("uniform", 4)
    (1.0, 0.75, 0.5, 0.25, 0.0)
    >>> time_grid("diffusers", 2)
    (1.0, 0.01, 0.0)
    """
    if flow_steps < 1:
        raise ConfigError(f"flow_steps is {flow_steps}", remedy="take at least one Euler step")

    if kind == "uniform":
        return (*(1.0 - i / flow_steps for i in range(flow_steps)), 0.0)
    if flow_steps == 1:
        return (1.0, 0.0)

    spacing = (1.0 - LAST_SIGMA) / (flow_steps - 1)
    return (*(1.0 - i * spacing for i in range(flow_steps - 1)), LAST_SIGMA, 0.0)


def euler(
    velocity: Callable[[Tensor, int], Tensor], noise: Tensor, grid: Sequence[float]
) -> Tensor:
    """Integrate from ``noise`` (B, T, F) at flow time 1 to actions (B, T, F) at 0.

    Args:
        velocity: Called with the current point (B, T, F) and the index of its flow time in
            ``grid``.
        noise: Start, standard normal.
        grid: Flow times, decreasing.
    """
    point = noise
    for i, (now, after) in enumerate(pairwise(grid)):
        point = point + (after - now) * velocity(point, i)
    return point


def time_embedding(flow_time: Tensor, dim: int) -> Tensor:
    """Return sinusoidal features (B, dim) of ``flow_time`` (B,), scaled by 100 first.

    Half sines, half cosines, wavelengths geometric from 2 pi to 20,000 pi (Diffusion Policy).
    Unscaled times in [0, 1] would leave all but the fastest sines unused.
    """
    half = dim // 2
    rates = torch.exp(
        torch.arange(half, dtype=torch.float32, device=flow_time.device)
        * (-math.log(10_000.0) / max(half - 1, 1))
    )
    angles = TIME_SCALE * flow_time[:, None].float() * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
