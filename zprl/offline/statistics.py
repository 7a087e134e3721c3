"""Statistics of embedding and latent on the demonstrations.

They are the yardstick for residual scales and a check on the bottleneck.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zprl import seeding
from zprl.data.windows import ChunkWindows
from zprl.models.policy import FlowPolicy

SAMPLE = 4096
"""Windows that are measured at most."""


@torch.no_grad()
def latent_stats(policy: FlowPolicy, windows: ChunkWindows, *, seed: int) -> dict[str, Any]:
    """Measure embedding and posterior on up to 4,096 windows of the demonstrations.

    Returns:
        ``anchor_rms``: RMS of the posterior mean over windows and dimensions, what RMS(lambda dz)
            is compared with;
        ``mean_rms`` (Z,): the same per dimension; ``posterior_std`` (Z,): mean standard deviation
            per dimension; ``embedding_rms``; ``windows``: number of windows measured.  Without a
            bottleneck only the last two.
    """
    rows = min(SAMPLE, len(windows))
    batch: dict[str, Any] = windows.batch(seeding.derive(seed, "latent-stats"), 0, rows)
    device = next(policy.parameters()).device
    embedding = policy.embed({key: value.to(device) for key, value in batch["obs"].items()})

    stats: dict[str, Any] = {
        "windows": rows,
        "embedding_rms": _round(embedding.square().mean().sqrt()),
    }
    if policy.vib is not None:
        mean, log_std = policy.posterior(embedding)
        stats["anchor_rms"] = _round(mean.square().mean().sqrt())
        stats["mean_rms"] = [_round(x) for x in mean.square().mean(0).sqrt()]
        stats["posterior_std"] = [_round(x) for x in log_std.exp().mean(0)]
    return stats


def _round(value: Tensor) -> float:
    return float(f"{value.item():.6g}")
