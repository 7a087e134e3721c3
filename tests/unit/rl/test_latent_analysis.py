"""Departures by hand, maps that repeat, and residuals that do nothing where they are nothing."""

from __future__ import annotations

import math

import pytest
import torch

from tests.factories import make_store
from tests.toy_world import toy_policy
from zprl import config
from zprl.errors import DataError
from zprl.rl import latent_analysis
from zprl.rl.random_residual import RandomResidualPolicy
from zprl.rl.sac import Actor
from zprl.rl.steered_policy import SteeredPolicy
from zprl.rl.steering_spaces import LatentResidual


def line(*at: float) -> torch.Tensor:
    return torch.tensor(at)[:, None]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    store = make_store(tmp_path_factory.mktemp("explain") / "store")
    policy = toy_policy(store)
    return policy, store, latent_analysis.draw(policy, store, seed=3, count=60)


def test_departure_is_in_units_of_the_known_points_distances() -> None:
    known = line(0.0, 2.0, 4.0, 6.0)  # each two from its nearest
    assert latent_analysis.departure(line(7.0, 9.0, 12.0), known) == pytest.approx(
        1.5
    )  # 1, 3 and 6 away: median 3
    assert latent_analysis.departure(known, known) == 0.0
    assert latent_analysis.departure(line(3.0), known) == pytest.approx(0.5)
    assert math.isinf(latent_analysis.departure(line(1.0), line(0.0, 0.0)))


def test_frames_are_drawn_once_each(world) -> None:
    policy, store, frames = world
    assert frames.embedding.shape == (60, 6) and frames.noise.shape == (60, 4, policy.num_features)
    everything = latent_analysis.draw(policy, store, seed=3, count=10_000)
    assert len(everything.noise) == len(store.actions)
    assert torch.equal(
        latent_analysis.draw(policy, store, seed=3, count=60).embedding, frames.embedding
    )
    assert not torch.equal(
        latent_analysis.draw(policy, store, seed=4, count=60).embedding, frames.embedding
    )


def test_two_frames_are_too_few(tmp_path) -> None:
    store = make_store(tmp_path / "store")
    policy = toy_policy(store)
    store.actions = store.actions[:2]
    with pytest.raises(DataError, match="2 frames"):
        latent_analysis.draw(policy, store, seed=0)


def test_a_residual_of_nothing_moves_nothing(world) -> None:
    policy, _, frames = world
    actor = Actor(8, 2, config.Rl(networks={"hidden": (8,)}), torch.Generator().manual_seed(0))
    still = SteeredPolicy(policy, LatentResidual(), actor, torch.zeros(2))
    base = latent_analysis.conditions(policy, frames)
    assert torch.equal(latent_analysis.conditions(policy, frames, still), base)
    moved = latent_analysis.conditions(
        policy, frames, SteeredPolicy(policy, LatentResidual(), actor, torch.full((2,), 2.0))
    )
    assert not torch.equal(moved, base)
    mean, _ = policy.posterior(frames.embedding)
    residual = actor.mean(torch.cat([frames.embedding, mean], -1))
    assert torch.allclose(moved, policy.decode(mean + 2.0 * residual), atol=1e-6)


def test_the_sweep_asks_each_space_for_every_size(world) -> None:
    policy, _, frames = world
    rows = latent_analysis.sweep(policy, frames, seed=3)
    assert [(row["space"], row["ratio"]) for row in rows] == [
        (space, ratio) for space in latent_analysis.SPACES for ratio in latent_analysis.RATIOS
    ]
    for row in rows:
        # what is moved and the move are independent: RMS^2 adds up, but for chance
        assert row["rms"] == pytest.approx(math.sqrt(1 + row["ratio"] ** 2), rel=0.25)
        assert ("condition_departure" in row) == (row["space"] != "action")
    by_space = {
        space: [row["action_departure"] for row in rows if row["space"] == space]
        for space in latent_analysis.SPACES
    }
    assert all(found[-1] > found[0] for found in by_space.values())


@pytest.mark.exhaustive
def test_maps_repeat() -> None:
    cloud = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    first = latent_analysis.flatten(cloud, seed=1)
    assert first.shape == (40, 2) and first.isfinite().all()
    assert torch.equal(first, latent_analysis.flatten(cloud, seed=1))


@pytest.mark.parametrize("name", latent_analysis.SPACES)
def test_a_random_residual_stays_within_its_scale(world, name: str) -> None:
    policy, _, _ = world
    space = latent_analysis.SPACES[name]
    obs = {key: torch.zeros(50, 1, dim) for key, dim in policy.spec.obs_dims.items()}
    noise = policy.draw_noise(50, torch.Generator().manual_seed(2))
    width = space.anchor(policy, policy.embed(obs), noise).shape[1]
    still = RandomResidualPolicy(policy, space, torch.zeros(width)).act(obs, noise)
    expected = policy.act(obs, noise, bottleneck=name != "embedding")
    assert torch.allclose(still, expected, atol=1e-6)
    wandering = RandomResidualPolicy(policy, space, torch.full((width,), 0.3))
    assert torch.equal(wandering.act(obs, noise), wandering.act(obs, noise))  # of the noise alone
    if name == "action":
        shift = policy.normalizer.normalize_actions(
            wandering.act(obs, noise)
        ) - policy.normalizer.normalize_actions(still)
        assert 0.25 < shift.abs().max() <= 0.3 + 1e-5
        assert shift.std() == pytest.approx(0.3 * 3**-0.5, rel=0.15)  # uniform
