"""The variational information bottleneck between observation encoder and flow network.

The official code has it at the same place, in the same shape.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zprl.models.obs_encoder import mlp


class Vib(nn.Module):
    """Posterior q(z | e) and decoder z -> e~.

    Encoder and decoder are GELU networks (official code: 3 x 256); mean and log-variance have
    linear heads; the decoded embedding is linear, not squashed; there is no way around the
    bottleneck.

    Args:
        embedding_dim: Width of the embedding D.
        latent_dim: Width of the latent Z.
        hidden: Widths of the hidden layers of encoder and decoder.
    """

    def __init__(self, embedding_dim: int, latent_dim: int, *, hidden: Sequence[int]) -> None:
        super().__init__()
        self.encoder = mlp((embedding_dim, *hidden), nn.GELU, head=False)
        width = hidden[-1] if hidden else embedding_dim
        self.mean = nn.Linear(width, latent_dim)
        self.log_variance = nn.Linear(width, latent_dim)
        self.decoder = mlp((latent_dim, *reversed(hidden), embedding_dim), nn.GELU)

    def posterior(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log standard deviation (B, Z) of the latent for an embedding (B, D)."""
        features = self.encoder(embedding)
        return self.mean(features), 0.5 * self.log_variance(features)

    def decode(self, latent: Tensor) -> Tensor:
        """Return the decoded embedding (B, D) of a latent (B, Z)."""
        decoded: Tensor = self.decoder(latent)
        return decoded


def sample_posterior(mean: Tensor, log_std: Tensor, noise: Tensor) -> Tensor:
    """Return ``mean + std * noise`` (B, Z), the reparametrised draw."""
    return mean + torch.exp(log_std) * noise


def kl_divergence(mean: Tensor, log_std: Tensor) -> Tensor:
    """Return KL(q || N(0, I)) of Gaussians (B, Z), **averaged over batch and latent dimensions**.

    Official code.  The usual convention sums over dimensions and is Z times larger, so kl_weight
    depends on this.
    """
    log_variance = 2.0 * log_std
    return -0.5 * (1.0 + log_variance - mean.square() - log_variance.exp()).mean()
