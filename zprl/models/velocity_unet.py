"""The paper's velocity network: a 1-D UNet over the horizon, modulated by flow time and condition.

Architecture after Diffusion Policy's conditional 1-D UNet (written afresh): two FiLM residual
blocks per level, strided convolutions between levels, skips, two blocks in the middle, a last block
and a 1x1 convolution. GroupNorm, not BatchNorm, because averaged weights need it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from zprl.errors import ConfigError


def _conv_block(fan_in: int, fan_out: int, kernel: int, groups: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv1d(fan_in, fan_out, kernel, padding=kernel // 2),
        nn.GroupNorm(groups, fan_out),
        nn.Mish(),
    )


class FilmBlock(nn.Module):
    """Two convolutions with a residual path.

    Between them each channel is scaled and shifted by the condition.
    """

    def __init__(
        self, fan_in: int, fan_out: int, *, condition_dim: int, kernel: int, groups: int
    ) -> None:
        super().__init__()
        self.first = _conv_block(fan_in, fan_out, kernel, groups)
        self.film = nn.Sequential(nn.Mish(), nn.Linear(condition_dim, 2 * fan_out))
        self.second = _conv_block(fan_out, fan_out, kernel, groups)
        self.skip = nn.Conv1d(fan_in, fan_out, 1) if fan_in != fan_out else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map (B, fan_in, T) and (B, condition_dim) to (B, fan_out, T)."""
        scale, bias = self.film(condition)[:, :, None].chunk(2, dim=1)
        mapped: Tensor = self.second(scale * self.first(x) + bias) + self.skip(x)
        return mapped


class VelocityUnet(nn.Module):
    """Velocity of a noisy chunk.

    Args:
        num_features: Varying action features F.
        horizon: Length of the sequence T; must be a multiple of 2^(levels - 1).
        time_dim: Width of the flow-time features.
        condition_dim: Width of the condition D.
        channels: Channels of each level (official code: 128, 256, 512).
        kernel: Odd kernel size (official code: 5).
        groups: Groups of the GroupNorm; must divide all channels (official code: 8).

    Raises:
        ConfigError: when the sizes do not fit together.
    """

    def __init__(
        self,
        num_features: int,
        *,
        horizon: int,
        time_dim: int,
        condition_dim: int,
        channels: Sequence[int],
        kernel: int,
        groups: int,
    ) -> None:
        super().__init__()
        _check(horizon, channels, kernel, groups)

        # Flow time gets a small network of its own, four times as wide inside (Diffusion Policy).
        self.time = nn.Sequential(
            nn.Linear(time_dim, 4 * time_dim), nn.Mish(), nn.Linear(4 * time_dim, time_dim)
        )

        def block(fan_in: int, fan_out: int) -> FilmBlock:
            return FilmBlock(
                fan_in,
                fan_out,
                condition_dim=time_dim + condition_dim,
                kernel=kernel,
                groups=groups,
            )

        pairs = list(zip((num_features, *channels[:-1]), channels, strict=True))
        self.down = nn.ModuleList(nn.ModuleList([block(a, b), block(b, b)]) for a, b in pairs)
        self.shrink = nn.ModuleList(nn.Conv1d(c, c, 3, stride=2, padding=1) for c in channels[:-1])
        self.middle = nn.ModuleList(
            [block(channels[-1], channels[-1]), block(channels[-1], channels[-1])]
        )
        self.up = nn.ModuleList(
            nn.ModuleList([block(2 * b, a), block(a, a)]) for a, b in reversed(pairs[1:])
        )
        self.grow = nn.ModuleList(
            nn.ConvTranspose1d(c, c, 4, stride=2, padding=1) for c in reversed(channels[:-1])
        )
        self.last = nn.Sequential(
            _conv_block(channels[0], channels[0], kernel, groups),
            nn.Conv1d(channels[0], num_features, 1),
        )

    def forward(self, noisy: Tensor, time_features: Tensor, condition: Tensor) -> Tensor:
        """Return the velocity (B, T, F) at ``noisy`` (B, T, F).

        Args:
            noisy: Noisy chunk.
            time_features: Flow-time features (B, E).
            condition: (B, D).
        """
        modulation = torch.cat([self.time(time_features), condition], dim=-1)
        x = noisy.transpose(1, 2)

        # Down: two blocks per level, whose result is also handed to the way up.
        skips = []
        for i, blocks in enumerate(self.down):
            x = _through(blocks, x, modulation)
            skips.append(x)
            if i < len(self.shrink):
                x = self.shrink[i](x)

        x = _through(self.middle, x, modulation)

        # Up, to the horizon's full length.
        for blocks, grow in zip(self.up, self.grow, strict=True):
            # As in Diffusion Policy, the first level's skip is not used: the last upsampling leads
            # straight to the output.
            x = torch.cat([x, skips.pop()], dim=1)
            x = grow(_through(blocks, x, modulation))

        velocity: Tensor = self.last(x)
        return velocity.transpose(1, 2)


def _through(blocks: nn.Module, x: Tensor, modulation: Tensor) -> Tensor:
    """Pass (B, channels, T) through blocks in a row."""
    for block in cast(nn.ModuleList, blocks):
        x = block(x, modulation)
    return x


def _check(horizon: int, channels: Sequence[int], kernel: int, groups: int) -> None:
    if not channels:
        raise ConfigError(
            "policy.unet_channels is empty", remedy="name at least one level, e.g. [128, 256, 512]"
        )
    factor = 2 ** (len(channels) - 1)
    if horizon % factor:
        raise ConfigError(
            f"policy.horizon ({horizon}) is not a multiple of {factor}, "
            f"which {len(channels)} UNet levels need",
            remedy=f"set policy.horizon to {-(-horizon // factor) * factor} "
            "or use fewer policy.unet_channels",
        )
    if kernel % 2 == 0:
        raise ConfigError(
            f"policy.unet_kernel ({kernel}) is even", remedy="use an odd kernel, e.g. 5"
        )
    if any(c % groups for c in channels):
        raise ConfigError(
            f"policy.unet_groups ({groups}) does not divide all of "
            f"policy.unet_channels {tuple(channels)}",
            remedy="use 8 groups",
        )
