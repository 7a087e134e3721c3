"""The stage ``explain`` in an empty project folder, with a toy world in place of the simulator."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import yaml

from pipelines.stages import explain as stage_module
from pipelines.stages import stage as stages
from pipelines.stages.explain import WANDERERS, explain
from tests.factories import make_episode, read_json
from tests.toy_world import ReachWorld, toy_policy
from zprl import config, durable, envs
from zprl.data.store import EpisodeStore, fit_normalizer
from zprl.errors import ConfigError
from zprl.evaluation.result import Evaluation
from zprl.models.bundle import save_policy
from zprl.rl import latent_analysis
from zprl.rl.sac import Actor
from zprl.rl.steering_bundle import save_steering
from zprl.rl.steering_spaces import ActionResidual, LatentResidual


class World(ReachWorld):
    """The toy world with the observations of the demonstrations; the end effector moves as the point does."""

    def __init__(self, num_envs: int, dims: dict[str, int], action_dim: int) -> None:
        super().__init__(num_envs)
        self.spec = dataclasses.replace(self.spec, obs_dims=dims, action_dim=action_dim)

    def _all(self, obs):
        return {key: obs["position"].repeat(1, dim) for key, dim in self.spec.obs_dims.items()}

    def reset(self, seed):
        return self._all(super().reset(seed))

    def step(self, action):
        result = super().step(action[:, :1])
        return dataclasses.replace(
            result, obs=self._all(result.obs), final_obs=self._all(result.final_obs)
        )

    def hold(self):
        return torch.zeros(self.spec.num_envs, self.spec.action_dim)


def steer(policy, space, dim: int, scale: float) -> None:
    rl = config.Rl(steering={"space": space.name}, networks={"hidden": (8,)})
    actor = Actor(
        policy.spec.policy.embedding_dim + dim, dim, rl, torch.Generator().manual_seed(0), "cpu"
    )
    facts = {
        "space": space,
        "config": rl,
        "base_digest": durable.digest(stages.BASE),
        "provenance": {},
    }
    save_steering(stages.STEERING / "finetune_sim", actor, torch.full((dim,), scale), **facts)


@pytest.fixture
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZPRL_TRACKING", "off")
    monkeypatch.setattr(latent_analysis, "FRAMES", 50)
    monkeypatch.setattr(stage_module, "EPISODES_EACH", 4)
    params = {
        "run": {"seed": 4},
        "task": {"episode_steps": 24},
        "evaluate": {"episodes": 6, "seed": 11},
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    episodes = [make_episode(number) for number in range(4)]
    EpisodeStore.write(stages.EPISODES, episodes, fit_normalizer(episodes))
    store = EpisodeStore.open(stages.EPISODES)
    made = toy_policy(store)
    save_policy(stages.BASE, made, {})
    dims, action_dim = dict(store.obs_dims), store.action_dim
    monkeypatch.setattr(
        envs, "make", lambda task, *, num_envs, device: World(num_envs, dims, action_dim)
    )
    return made


def run() -> None:
    inputs = (stages.EPISODES, stages.BASE, stages.STEERING / "finetune_sim")
    stages.execute("explain", explain, sections=("run", "task", "evaluate"), inputs=inputs)


def test_what_it_leaves(policy, monkeypatch) -> None:
    monkeypatch.setattr(
        latent_analysis, "flatten", lambda cloud, *, seed: cloud[:, :2].clone()
    )  # the map itself has a test of its own
    steer(policy, LatentResidual(), 2, 0.5)
    run()
    found = read_json(stages.EXPLAIN / "explain.json")
    assert found["frames"] == 50
    assert found["departure"].keys() == {"conditions", "actions"}
    assert len(found["sweep"]) == len(latent_analysis.SPACES) * len(latent_analysis.RATIOS)
    frames = latent_analysis.draw(policy, EpisodeStore.open(stages.EPISODES), seed=4, count=50)
    mean, _ = policy.posterior(frames.embedding)
    assert found["ratio"] == pytest.approx(
        0.5 / 3**0.5 / float(mean.square().mean().sqrt()), rel=1e-5
    )
    maps = durable.read_tensors(stages.EXPLAIN / "maps.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in maps.items()} == {
        "conditions": (2, 50, 2),
        "actions": (2, 50, 2),
    }
    walks = {name: Evaluation.read(stages.EXPLAIN / name) for name in WANDERERS}
    assert all(
        walk.episodes == 4 and walk.tracks["position"].shape[0] == 4 for walk in walks.values()
    )
    starts = [walk.tracks["position"][:, 0] for walk in walks.values()]
    assert torch.equal(starts[0], starts[1]) and torch.equal(starts[0], starts[2])
    targets = [walk.tracks["target"].nan_to_num() for walk in walks.values()]
    assert not any(
        a.shape == b.shape and torch.equal(a, b)
        for a, b in ((targets[0], targets[1]), (targets[0], targets[2]))
    )


def test_a_residual_in_another_space_is_refused(policy) -> None:
    steer(policy, ActionResidual(), 4 * policy.num_features, 0.1)
    with pytest.raises(ConfigError, match="residual on the latent"):
        run()
