"""Observations to one embedding.

Every observation key has its part in the embedding's input.  Low-dimensional keys are concatenated,
all frames of the history together, and go through one small network; policies with images have
:class:`zprl.models.image_encoder.ImageObsEncoder` instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


def mlp(widths: Sequence[int], activation: type[nn.Module], *, head: bool = True) -> nn.Sequential:
    """Return linear layers of ``widths`` (input first) with ``activation`` between them.

    With ``head`` the last layer stays linear, else it has an activation, too.
    """
    layers: list[nn.Module] = []
    for i, (fan_in, fan_out) in enumerate(pairwise(widths)):
        layers.append(nn.Linear(fan_in, fan_out))
        if not head or i < len(widths) - 2:
            layers.append(activation())
    return nn.Sequential(*layers)


class ObsEncoder(nn.Module):
    """Encoder of normalised low-dimensional observations to the embedding e in (-1, 1).

    Linear -> LayerNorm -> Tanh at the end is what the official code's image encoder has; the
    official code itself concatenates low-dimensional keys raw (the network for them is ours).

    Args:
        obs_dims: Width of each key, in the order in which they are concatenated.
        obs_steps: Frames of history O.
        hidden: Widths of the hidden layers.
        embedding_dim: Width of the embedding D.
    """

    def __init__(
        self,
        obs_dims: Mapping[str, int],
        *,
        obs_steps: int,
        hidden: Sequence[int],
        embedding_dim: int,
    ) -> None:
        super().__init__()
        self.keys = tuple(obs_dims)
        self.body = mlp((obs_steps * sum(obs_dims.values()), *hidden, embedding_dim), nn.GELU)
        self.norm = nn.LayerNorm(embedding_dim)

    def forward(self, obs: Mapping[str, Tensor], augment: torch.Generator | None = None) -> Tensor:
        """Return the embedding (B, D) of normalised observations {key: (B, O, d)}.

        There is no image to ``augment``.
        """
        flat = torch.cat([obs[key].flatten(start_dim=1) for key in self.keys], dim=-1)
        return torch.tanh(self.norm(self.body(flat)))
