"""Small untrained policies of every kind, for tests of models and training."""

from __future__ import annotations

import torch

from zprl import config
from zprl.data.normalizer import Normalizer
from zprl.models.policy import FlowPolicy, PolicySpec

OBS_DIMS = {"position": 3, "gripper": 1}
ACTION_DIM = 5
CONSTANT_ACTION = 2  # this dimension never varies in the demonstrations


def small_config(**changes) -> config.Policy:
    sizes = {
        "horizon": 8,
        "chunk_steps": 4,
        "embedding_dim": 6,
        "encoder_hidden": (8,),
        "mlp_hidden": (16, 16),
        "time_embedding_dim": 8,
    }
    return config.Policy.model_validate(
        {**sizes, "unet_channels": (8, 16), "unet_groups": 4, "unet_kernel": 3, **changes}
    )


def small_normalizer() -> Normalizer:
    generator = torch.Generator().manual_seed(3)
    obs = {key: torch.randn(50, dim, generator=generator) for key, dim in OBS_DIMS.items()}
    actions = torch.randn(50, ACTION_DIM, generator=generator)
    actions[:, CONSTANT_ACTION] = 0.25
    return Normalizer.fit(obs, actions)


def small_policy(*, seed: int = 0, vib: config.VibConfig | None = None, **changes) -> FlowPolicy:
    spec = PolicySpec(
        obs_dims=OBS_DIMS,
        action_dim=ACTION_DIM,
        policy=small_config(**changes),
        vib=vib or config.VibConfig(latent_dim=2, hidden=(8,)),
    )
    return FlowPolicy(spec, small_normalizer(), seed=seed)


def small_obs(policy: FlowPolicy, rows: int, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.randn(rows, policy.spec.policy.obs_steps, dim, generator=generator)
        for key, dim in policy.spec.obs_dims.items()
    }
