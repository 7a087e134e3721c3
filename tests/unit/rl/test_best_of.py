"""Best of K: the critics' favourite is taken, and a row's choice depends on that row alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.unit.rl.test_learner import CONFIG, make_env, make_learner
from zprl import durable
from zprl.config import Rl
from zprl.errors import ConfigError
from zprl.models.bundle import save_policy
from zprl.rl import steering_bundle
from zprl.rl.best_of import choose, draws_of
from zprl.rl.networks import EnsembleMLP
from zprl.rl.sac import Actor

S, R = 4, 2


def test_the_candidate_with_the_greatest_least_value_is_taken() -> None:
    actor = Actor(
        S,
        R,
        Rl(networks={"hidden": (8,)}, actor={"log_std_min": -2.0, "log_std_max": 0.0}),
        torch.Generator().manual_seed(0),
    )
    critics = EnsembleMLP((S + R, 8, 1), 3, generator=torch.Generator().manual_seed(1))
    g = torch.Generator().manual_seed(2)
    state, draws, scale = (
        torch.randn(6, S, generator=g),
        torch.randn(5, 6, R, generator=g),
        torch.tensor([0.5, 2.0]),
    )
    found = choose(actor, critics, scale, state, draws)
    for row in range(6):
        best, chosen = -float("inf"), None
        for k in range(5):
            residual = actor.sample(state[row : row + 1], draws[k, row : row + 1])[0].residual
            point = state[row : row + 1, -R:] + scale * residual
            value = float(critics(torch.cat([state[row : row + 1], point], -1))[0].amin())
            if value > best:
                best, chosen = value, residual[0]
        torch.testing.assert_close(found[row], chosen)


def test_draws_are_standard_normal_and_a_function_of_their_own_row() -> None:
    noise = torch.randn(4000, 8, 4, generator=torch.Generator().manual_seed(0))
    draws = draws_of(noise, 5, 3)
    assert draws.shape == (5, 4000, 3)
    assert torch.equal(draws[0], torch.zeros(4000, 3)), "the actor's mean is a candidate"
    torch.testing.assert_close(draws[1:].mean(1), torch.zeros(4, 3), atol=0.06, rtol=0)
    torch.testing.assert_close(draws[1:].std(1), torch.ones(4, 3), atol=0.04, rtol=0)
    torch.testing.assert_close(draws_of(noise[7:9], 5, 3), draws[:, 7:9])


def test_it_learns_is_saved_and_acts_as_it_did(tmp_path: Path) -> None:
    config = CONFIG.changed(steering={"best_of": 4})
    learner = make_learner(config=config)
    learner.run_segment(make_env)
    acting = learner.acting()
    save_policy(tmp_path / "base", learner.policy, {})
    about = {
        "space": learner.space,
        "config": config,
        "base_digest": durable.digest(tmp_path / "base"),
        "provenance": {},
    }
    steering_bundle.save_steering(
        tmp_path / "s", learner.agent.actor, learner.agent.scale, critics=acting.critics, **about
    )
    loaded = steering_bundle.load_steered(tmp_path / "s", tmp_path / "base")
    obs = make_env().reset(3)
    noise = learner.policy.draw_noise(8, torch.Generator().manual_seed(4))
    assert torch.equal(loaded.act(obs, noise), acting.act(obs, noise))
    with pytest.raises(ConfigError, match="best_of"):
        steering_bundle.save_steering(
            tmp_path / "t", learner.agent.actor, learner.agent.scale, **about
        )
