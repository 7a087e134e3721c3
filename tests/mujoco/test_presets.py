"""Every preset of a MuJoCo world names a world, cameras and observations that are there, and its policy can act in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from zprl import config, envs, presets
from zprl.data.episode import Episode
from zprl.data.store import EpisodeStore, fit_normalizer
from zprl.envs.chunk import ChunkEnv
from zprl.models.policy import FlowPolicy, PolicySpec

SIMULATORS = ("metaworld/", "robosuite/", "adroit/")


def merged(name: str) -> config.Params:
    return config.parse(presets.read(name))


WORLDS = [name for name in presets.names() if merged(name).task.name.startswith(SIMULATORS)]


def test_the_paper_s_eight_tasks_have_presets() -> None:
    names = {merged(name).task.name for name in WORLDS}
    paper = {"robosuite/can-absolute", "robosuite/square-absolute", "robosuite/transport-absolute"}
    paper |= {
        "adroit/door",
        "adroit/hammer",
        "adroit/pen",
        "metaworld/box-close-v3",
        "metaworld/push-wall-v3",
    }
    assert names >= paper


@pytest.mark.parametrize("name", WORLDS)
def test_a_policy_of_the_preset_s_shape_acts_in_its_world(name: str, tmp_path: Path) -> None:
    params = merged(name)
    narrow = {
        "encoder_hidden": (8,),
        "mlp_hidden": (8,),
        "unet_channels": (16, 16, 16),
        "flow_steps": 1,
    }
    images = params.images.model_copy(update={"channels": (16, 16, 16, 16), "features": 16})
    params = params.model_copy(
        update={"policy": params.policy.model_copy(update=narrow), "images": images}
    )
    with ChunkEnv(
        envs.make(params.task, num_envs=2), params.policy.chunk_steps, params.policy.obs_steps
    ) as env:
        obs, width = env.reset(0), env.env.spec.action_dim
        assert set(params.ingest.obs_keys) <= obs.keys(), f"observed are {', '.join(obs)}"
        seen = {key.removesuffix("_image") for key in params.ingest.obs_keys if obs[key].ndim == 5}
        assert seen == set(params.task.cameras), (
            "a camera that nobody looks at, or none where one is wanted"
        )
        episode = Episode(
            name="made/demo_0",
            obs={
                key: np.concatenate([obs[key][n].numpy() for n in (0, 1)] * 10)
                for key in params.ingest.obs_keys
            },
            actions=np.linspace(
                -0.5, 0.5, 20 * params.policy.obs_steps * width, dtype=np.float32
            ).reshape(-1, width),
            rewards=np.zeros(20 * params.policy.obs_steps, np.float32),
            dones=np.zeros(20 * params.policy.obs_steps, bool),
            success=False,
            quality="unknown",
        )
        EpisodeStore.write(tmp_path / "store", [episode], fit_normalizer([episode]))
        store = EpisodeStore.open(tmp_path / "store")
        policy = FlowPolicy(PolicySpec.of(store, params), store.normalizer).freeze()
        chunk = policy.act(
            obs,
            policy.draw_noise(2, torch.Generator().manual_seed(0)),
            bottleneck=params.vib.enabled,
        )
        assert chunk.shape == (2, params.policy.chunk_steps, width) and chunk.isfinite().all()
        env.step(chunk)
