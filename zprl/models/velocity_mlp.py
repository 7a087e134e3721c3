"""A small MLP velocity network (ours).

It is fast on one CPU core and enough for low-dimensional observations.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zprl.models.obs_encoder import mlp


class VelocityMlp(nn.Module):
    """Velocity of a noisy chunk: flattened and concatenated with flow-time features and condition.

    Args:
        num_features: Varying action features F.
        horizon: Length of the sequence T.
        time_dim: Width of the flow-time features.
        condition_dim: Width of the condition D.
        hidden: Widths of the hidden layers.
    """

    def __init__(
        self,
        num_features: int,
        *,
        horizon: int,
        time_dim: int,
        condition_dim: int,
        hidden: Sequence[int],
    ) -> None:
        super().__init__()
        width = horizon * num_features
        self.body = mlp((width + time_dim + condition_dim, *hidden, width), nn.SiLU)

    def forward(self, noisy: Tensor, time_features: Tensor, condition: Tensor) -> Tensor:
        """Return the velocity (B, T, F) at ``noisy`` (B, T, F).

        Args:
            noisy: Noisy chunk.
            time_features: Flow-time features (B, E).
            condition: (B, D).
        """
        flat = torch.cat([noisy.flatten(start_dim=1), time_features, condition], dim=-1)
        velocity: Tensor = self.body(flat)
        return velocity.view_as(noisy)
