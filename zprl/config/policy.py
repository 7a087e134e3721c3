"""Sections ``policy``, ``vib``, ``images`` and ``pretrain``: the base policy and its training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from zprl.config.sections import Layers, Section, Steps, Width


class Policy(Section):
    """The frozen base: observation encoder and chunked flow-matching generator."""

    obs_steps: Steps = Field(1, description="Observation frames seen (paper: 1 in simulation).")
    horizon: Steps = Field(8, description="Length of the predicted action sequence.")
    chunk_steps: Steps = Field(
        8, description="Executed actions per prediction; one chunk is one RL step."
    )
    embedding_dim: Width = Field(128, description="Width of the observation embedding e.")
    encoder_hidden: Layers = Field((256,), description="Hidden layers of the state encoder (ours).")
    velocity_net: Literal["mlp", "unet"] = Field(
        "mlp", description="mlp: small and fast on a CPU; unet: the paper's 1-D UNet."
    )
    mlp_hidden: Layers = Field(
        (256, 256, 256), description="Hidden layers of the MLP velocity network (ours)."
    )
    unet_channels: Layers = Field(
        (128, 256, 512), description="Channels of the UNet levels (official code)."
    )
    unet_kernel: int = Field(
        5, ge=1, le=99, description="Kernel of the UNet convolutions (official code)."
    )
    unet_groups: Width = Field(
        8, description="Groups of the UNet's group normalisation (official code)."
    )
    time_embedding_dim: int = Field(
        64, ge=2, le=4096, multiple_of=2, description="Width of the sinusoidal flow-time embedding."
    )
    flow_steps: int = Field(
        5,
        ge=1,
        le=1000,
        description="Euler steps of the sampler (official code: 2 robomimic, 5 elsewhere).",
    )
    time_grid: Literal["uniform", "diffusers"] = Field(
        "uniform",
        description="uniform: 1, .8, ... 0; diffusers: spaced from 1 to .01, then 0, as the "
        "released code's scheduler has it.",
    )

    @model_validator(mode="after")
    def _fits(self) -> Policy:
        if self.obs_steps - 1 + self.chunk_steps > self.horizon:
            raise ValueError(
                f"chunk_steps ({self.chunk_steps}) + obs_steps - 1 must not exceed "
                f"horizon ({self.horizon})"
            )
        return self


class VibConfig(Section):
    """The variational information bottleneck on the embedding."""

    enabled: bool = Field(
        True,
        description="False trains the bare base policy; its weights are bit-identical either way.",
    )
    latent_dim: Width = Field(
        8,
        description="Width of the latent z (official code: 16 robomimic, 8 Adroit and MetaWorld).",
    )
    hidden: Layers = Field(
        (256, 256, 256), description="Hidden layers of encoder and decoder (official code)."
    )
    kl_weight: float = Field(
        2e-4,
        ge=0,
        description="beta; weighs the KL averaged over latent dimensions (official code).",
    )
    reconstruction_weight: float = Field(
        0.01, ge=0, description="rho; weighs the reconstruction of the embedding (official code)."
    )


class Images(Section):
    """The encoder of images, one per camera; without effect where the demos have none.

    The embedding's width follows from it.
    """

    crop: float = Field(
        0.9,
        gt=0,
        le=1,
        description="Share of height and width that is seen: anywhere in training, else the "
        "middle.",
    )
    features: int = Field(
        256, ge=1, le=8192, description="Numbers that a frame becomes (official code)."
    )
    channels: tuple[int, ...] = Field(
        (64, 128, 256, 512),
        min_length=1,
        max_length=6,
        description="Of the ResNet's stages (ResNet-18).",
    )
    spatial_blocks: int = Field(
        8, ge=1, le=64, description="Learned spatial weightings per channel (official code)."
    )


class Pretrain(Section):
    """Offline training of base policy and bottleneck."""

    steps: int = Field(4000, ge=1, description="Gradient steps.")
    batch_size: int = Field(256, ge=1, description="Chunks per step (official code: 256).")
    learning_rate: float = Field(
        1e-3, gt=0, description="AdamW (official code: 1e-4 for the UNet; 1e-3 for our small nets)."
    )
    betas: tuple[float, float] = Field((0.95, 0.999), description="AdamW (official code).")
    weight_decay: float = Field(1e-6, ge=0, description="AdamW (official code).")
    warmup_steps: int = Field(
        100, ge=0, description="Linear warm-up before the cosine schedule (official code)."
    )
    ema_power: float = Field(
        0.8, gt=0, description="EMA decay is 1 - (1 + step)^-power (official code)."
    )
    ema_max: float = Field(0.9999, ge=0, lt=1, description="Cap of the EMA decay (official code).")
    validation_fraction: float = Field(
        0.05, ge=0, lt=1, description="Share of episodes kept for the validation loss."
    )
    checkpoint_every: int = Field(500, ge=1, description="Steps between resume points.")
    log_every: int = Field(50, ge=1, description="Steps between logged metrics.")
