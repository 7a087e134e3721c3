"""Images to features: the encoder of the paper's code, written out.

Per camera and frame: uint8 -> [-1, 1] -> crop -> ImageNet normalisation on top -> a ResNet-18 of
its own, never pretrained, with group instead of batch normalisation -> spatial learned embeddings
-> Linear -> LayerNorm -> Tanh.  Low-dimensional keys go in beside that as they are (normalised to
their range).  The embedding is that of all frames, one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from zprl.errors import DataError
from zprl.strict_model import StrictModel

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
GROUP = 16
"""Channels per group (Diffusion Policy)."""

Side = Annotated[int, Field(ge=1, le=2048)]
Channels = Annotated[int, Field(ge=GROUP, le=2048, multiple_of=GROUP)]


class ImageSpec(StrictModel):
    """One camera's images and their encoder; defaults are the official code's."""

    key: str = Field(min_length=1, description="Observation key.")
    size: tuple[Side, Side] = Field(description="Height and width.")
    crop: tuple[Side, Side] = Field(
        description="Height and width of the part that is used: anywhere while training, "
        "else the middle."
    )
    features: int = Field(256, ge=1, le=8192, description="Width F of what it becomes.")
    channels: tuple[Channels, ...] = Field(
        (64, 128, 256, 512), min_length=1, max_length=6, description="Of the ResNet's stages."
    )
    spatial_blocks: int = Field(
        8, ge=1, le=64, description="Learned spatial weightings per channel."
    )

    @model_validator(mode="after")
    def _fits(self) -> ImageSpec:
        if self.crop[0] > self.size[0] or self.crop[1] > self.size[1]:
            raise ValueError(
                f"the crop {self.crop} of '{self.key}' is larger than its images {self.size}"
            )
        return self


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut (He et al. 2016)."""

    def __init__(self, fan_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(fan_in, channels, 3, stride, padding=1, bias=False)
        self.norm1 = group_norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = group_norm(channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or fan_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(fan_in, channels, 1, stride, bias=False), group_norm(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c, h, w) to (B, C, h / stride, w / stride)."""
        y = functional.relu(self.norm1(self.conv1(x)), inplace=True)
        return functional.relu(self.norm2(self.conv2(y)) + self.shortcut(x), inplace=True)


class ResNet18(nn.Sequential):
    """ResNet-18 up to its last feature map: without average pooling and classifier.

    With the default channels 11,176,512 weights, as published; each stage but the first halves
    height and width, the stem quarters them.
    """

    def __init__(self, channels: Sequence[int] = (64, 128, 256, 512)) -> None:
        stem = channels[0]
        stages = [
            nn.Sequential(
                BasicBlock(fan_in, width, 1 if i == 0 else 2), BasicBlock(width, width, 1)
            )
            for i, (fan_in, width) in enumerate(zip((stem, *channels), channels, strict=False))
        ]
        first = [
            nn.Conv2d(3, stem, 7, stride=2, padding=3, bias=False),
            group_norm(stem),
            nn.ReLU(inplace=True),
        ]
        super().__init__(*first, nn.MaxPool2d(3, stride=2, padding=1), *stages)

        # As torchvision does.
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def shrunk(side: int, stages: int) -> int:
        """Return height or width of the last map for an image's ``side``.

        Stem, pooling and each stage but the first halve it, rounding up.
        """
        for _ in range(stages + 1):
            side = -(-side // 2)
        return side


class SpatialEmbeddings(nn.Module):
    """Learned weightings of the positions at which each channel counts, instead of an average.

    HIL-SERL's encoder has them, too.
    """

    def __init__(self, channels: int, height: int, width: int, blocks: int) -> None:
        super().__init__()
        # Variance 1 / (positions): sums over the map keep the map's size.
        self.weight = nn.Parameter(
            torch.randn(channels, blocks, height * width) * (height * width) ** -0.5
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C * blocks)."""
        return torch.einsum("bcp,ckp->bck", maps.flatten(2), self.weight).flatten(1)


class CameraEncoder(nn.Module):
    """Encoder of one camera's images to features in (-1, 1)."""

    mean: Tensor
    std: Tensor

    def __init__(self, spec: ImageSpec) -> None:
        super().__init__()
        self.spec = spec
        height, width = (ResNet18.shrunk(side, len(spec.channels)) for side in spec.crop)
        last = spec.channels[-1]
        self.maps = ResNet18(spec.channels)
        self.pool = SpatialEmbeddings(last, height, width, spec.spatial_blocks)
        self.head = nn.Sequential(
            nn.Linear(last * spec.spatial_blocks, spec.features),
            nn.LayerNorm(spec.features),
            nn.Tanh(),
        )
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor, augment: torch.Generator | None = None) -> Tensor:
        """Return the features (B, O, F) of images.

        Args:
            images: (B, O, H, W, 3) uint8; the frames of one history are cropped alike.
            augment: Source of random crops; ``None`` crops the middle.

        Raises:
            DataError: images of another size or type.
        """
        rows, frames = images.shape[:2]
        if images.dtype != torch.uint8 or images.shape[2:] != (*self.spec.size, 3):
            raise DataError(
                f"'{self.spec.key}' wants images of uint8 {(*self.spec.size, 3)}, "
                f"not {images.dtype} {tuple(images.shape[2:])}",
                remedy="scale the camera's images to what the policy was trained on",
            )

        seen = crop(images, self.spec.crop, augment).flatten(0, 1).movedim(-1, 1)
        seen = (seen.to(self.mean.dtype) / 127.5 - 1 - self.mean) / self.std
        features: Tensor = self.head(self.pool(self.maps(seen)))
        return features.view(rows, frames, -1)


class ImageObsEncoder(nn.Module):
    """Encoder of observations with images to the embedding e.

    Its width is O * (sum of features + sum of low-dimensional widths).

    Args:
        obs_dims: Width of each low-dimensional key, in order.
        images: The cameras, in order.
        obs_steps: Frames of history O.
    """

    def __init__(
        self, obs_dims: Mapping[str, int], images: Sequence[ImageSpec], *, obs_steps: int
    ) -> None:
        super().__init__()
        self._states = tuple(obs_dims)
        self._images = tuple(spec.key for spec in images)
        # A list: a camera's key may hold a point, a module's name must not.
        self.cameras = nn.ModuleList(CameraEncoder(spec) for spec in images)
        self.embedding_dim = embedding_dim(obs_dims, images, obs_steps)

    def forward(self, obs: Mapping[str, Tensor], augment: torch.Generator | None = None) -> Tensor:
        """Return the embedding (B, D) of observations.

        Args:
            obs: Images (B, O, H, W, 3) uint8 and normalised states (B, O, d) by key.
            augment: See :class:`CameraEncoder`.
        """
        features = [
            camera(obs[key], augment)
            for key, camera in zip(self._images, self.cameras, strict=True)
        ]
        return torch.cat([*features, *(obs[key] for key in self._states)], dim=-1).flatten(1)


def embedding_dim(obs_dims: Mapping[str, int], images: Sequence[ImageSpec], obs_steps: int) -> int:
    """Return the width D of the embedding of observations with images."""
    return obs_steps * (sum(spec.features for spec in images) + sum(obs_dims.values()))


def crop(images: Tensor, size: tuple[int, int], augment: torch.Generator | None) -> Tensor:
    """Cut (B, O, h, w, 3) out of (B, O, H, W, 3).

    Args:
        images: (B, O, H, W, 3).
        size: Height h and width w of the crop.
        augment: Draws a place for each row; ``None`` takes the middle.
    """
    height, width = size
    spare = (images.shape[2] - height, images.shape[3] - width)
    if augment is None:
        top, left = spare[0] // 2, spare[1] // 2
        return images[:, :, top : top + height, left : left + width]

    rows = len(images)
    tops, lefts = (
        torch.randint(room + 1, (rows, 1), generator=augment, device=augment.device).to(
            images.device
        )
        for room in spare
    )

    # Rows of pixels (B, h) and columns (B, w) of each crop, gathered at once.
    down, across = (
        first + torch.arange(side, device=images.device)
        for first, side in ((tops, height), (lefts, width))
    )
    return images[
        torch.arange(rows, device=images.device)[:, None, None],
        :,
        down[:, :, None],
        across[:, None, :],
    ].movedim(3, 1)


def group_norm(channels: int) -> nn.GroupNorm:
    """Return group normalisation, in place of batch normalisation.

    It has no statistics to carry, and averages of weights stay meaningful.
    """
    return nn.GroupNorm(channels // GROUP, channels)
