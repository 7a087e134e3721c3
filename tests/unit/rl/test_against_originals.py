"""Rivals' losses on the very transitions on which their released codes were run.

The numbers named ``theirs`` were printed by ``PPODiffusion.loss`` (DPPO) and
``PPOFlow.get_logprobs`` and ``PPOFlow.loss`` (ReinFlow) of https://github.com/ReinFlow/ReinFlow at
aed28193 (MIT), on the inputs made below, with both normalisations that its trainer sets, without
its clamps of log-probabilities and intermediate actions, which we do not have.  DSRL's SAC is
Stable-Baselines3's and is run here.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tests.toy_world import toy_policy
from zprl.config import PolicyGradient, Rl
from zprl.rl.policy_gradient import PolicyGradientLearner
from zprl.rl.sac import Batch, Sac

B, K, T, F = 6, 2, 4, 1


def wave(count: int, speed: float) -> torch.Tensor:
    return torch.sin(speed * torch.arange(1, count + 1, dtype=torch.float32))


class Velocity(nn.Module):
    """0.8 x + 0.1 (i + 1) at inner step i, told by the time's features."""

    def __init__(self, times: torch.Tensor) -> None:
        super().__init__()
        self.times, self.unused = times, nn.Parameter(torch.zeros(1))

    def forward(self, point, features, condition):
        step = torch.cdist(features, self.times).argmin(1)
        return 0.8 * point + 0.1 * (step + 1)[:, None, None]


def transitions(noise: str, **numbers):
    config = PolicyGradient(
        algorithm="ppo",
        chain={"noise": noise, "min_std": 0.1, "max_std": 0.1 + 1e-9},
        clip={"last": 0.01},
    ).changed(**numbers)
    learner = PolicyGradientLearner(toy_policy(), config, seed=0)
    learner.chain.velocity_net = Velocity(learner.chain.times)
    assert learner.chain.grid == (1.0, 0.5, 0.0)
    chain = torch.empty(B, K + 1, T, F)
    chain[:, 0] = 1.5 * wave(B * T * F, 1.7).view(B, T, F)
    draws = 1.2 * wave(B * K * T * F, 2.3).view(B, K, T, F)
    for i in range(K):
        chain[:, i + 1] = chain[:, i] - (0.8 * chain[:, i] + 0.1 * (i + 1)) / K + 0.1 * draws[:, i]
    gain = 3 * wave(B, 0.9) + 0.5
    condition = torch.zeros(B, learner.policy.spec.policy.embedding_dim)
    new, entropy = learner._chances(chain, condition)
    shift = 0.1 * wave(B * K, 1.1).view(B, K)
    normed = (gain - gain.mean()) / (gain.std() + 1e-8)
    loss, found = learner._policy_loss(chain, condition, (new - shift).detach(), normed)
    return float(loss), found, new, entropy


def test_dppo() -> None:
    theirs = {"loss": 0.021857521, "clipped": 1.0, "kl": 2.527241828e-03}
    loss, found, _, _ = transitions(
        "fixed",
        returns={"denoising_discount": 0.9},
        clip={"first": 0.001, "growth": 3.0},
        updates={"entropy_weight": 0.0},
    )
    assert loss == pytest.approx(theirs["loss"], abs=2e-7)
    assert found["clipped"] == pytest.approx(theirs["clipped"], abs=1e-6)
    assert found["kl"] == pytest.approx(theirs["kl"], abs=2e-7)


def test_reinflow() -> None:
    chance = [
        1.0308849811553955,
        1.0084205865859985,
        0.9974583387374878,
        1.0062777996063232,
        1.0282177925109863,
        1.0467047691345215,
    ]
    theirs = {
        "loss": 0.016946405,
        "entropy": -0.8836466073989868,
        "clipped": 0.833333,
        "kl": 1.868724823e-03,
    }
    loss, found, new, entropy = transitions("learned", updates={"entropy_weight": 0.0})
    assert new.mean(1).tolist() == pytest.approx(chance, abs=1e-5)
    assert float(entropy.mean()) == pytest.approx(theirs["entropy"], abs=1e-5)
    assert loss == pytest.approx(theirs["loss"], abs=2e-7)
    assert found["clipped"] == pytest.approx(theirs["clipped"], abs=1e-6)
    assert found["kl"] == pytest.approx(theirs["kl"], abs=2e-7)


S, R, N = 5, 3, 16  # of a state, of a residual, rows


def test_the_sac_of_dsrl_is_stable_baselines3_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """One update of both on one batch with the same draws: same losses, same weights afterwards."""
    from gymnasium import Env, spaces
    from stable_baselines3 import SAC
    from stable_baselines3.common.logger import configure
    from stable_baselines3.common.type_aliases import ReplayBufferSamples

    class Dummy(Env):
        observation_space = spaces.Box(-np.inf, np.inf, (S + R,), np.float32)
        action_space = spaces.Box(-1, 1, (R,), np.float32)

    config = Rl(
        networks={"hidden": (8, 8), "activation": "relu", "critic_layer_norm": False},
        critics={"count": 2, "target_subset": 2, "tau": 0.005, "bounded": False},
        actor={"log_std_min": -3.0, "log_std_max": 1.0, "uses_min": True},
        entropy={"in_target": True, "target_per_dim": -1.0, "initial_alpha": 0.2},
        learning_rates={"actor": 3e-4, "critics": 3e-4, "alpha": 3e-4},
    )
    ours = Sac(S + R, torch.ones(R), config, torch.Generator().manual_seed(0))
    theirs = SAC(
        "MlpPolicy",
        Dummy(),
        policy_kwargs={"net_arch": [8, 8]},
        ent_coef="auto_0.2",
        target_entropy=-R,
        device="cpu",
    )
    theirs.set_logger(configure(None, []))
    ours.targets.flat.add_(0.1 * wave(len(ours.targets.flat), 0.7))  # targets of their own
    for nets, ensemble in ((theirs.critic, ours.critics), (theirs.critic_target, ours.targets)):
        for member, net in enumerate(nets.q_networks):
            copy(linears(net), ensemble, member)
    # Log standard deviations are bounded in different ways: put both where they say -1 and do not
    # depend on the state.
    *hidden, head = ours.actor.net._weights
    head[0][..., R:] = 0
    head[1][..., R:] = 0
    actor = theirs.actor
    copy([*linears(actor.latent_pi)], ours.actor.net, 0)
    with torch.no_grad():
        actor.mu.weight.copy_(head[0][0, :, :R].T), actor.mu.bias.copy_(head[1][0, 0, :R])
        actor.log_std.weight.zero_(), actor.log_std.bias.fill_(-1.0)

    states, follow = (
        torch.randn(N, S + R, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)
    )
    for rows in (states, follow):
        rows[:, S:] = 0  # the anchor of noise is zero
    action = 2 * torch.rand(N, R, generator=torch.Generator().manual_seed(3)) - 1
    reward, gamma = -torch.ones(N), 0.9
    samples = ReplayBufferSamples(
        states, action, follow, torch.zeros(N, 1), reward[:, None], torch.full((N, 1), gamma)
    )
    monkeypatch.setattr(theirs.replay_buffer, "sample", lambda *_, **__: samples)
    draw = torch.randn(N, R, generator=torch.Generator().manual_seed(9))
    monkeypatch.setattr(
        torch.distributions.Normal, "rsample", lambda self, shape=(): self.loc + self.scale * draw
    )
    theirs.train(gradient_steps=1, batch_size=N)
    said = theirs.logger.name_to_value

    free = torch.empty(N, R)
    batch = Batch(
        torch.cat([states, action], 1),
        reward,
        torch.full((N,), gamma),
        torch.cat([follow, free], 1),
    )
    critics = ours.update_critics(batch, torch.Generator().manual_seed(9))()
    policy = ours.update_actor(batch, torch.Generator().manual_seed(9))()
    ours.update_targets()

    assert critics["critic_loss"] / 2 == pytest.approx(
        said["train/critic_loss"], rel=1e-4
    )  # theirs takes half of each square
    assert policy["actor_loss"] == pytest.approx(said["train/actor_loss"], rel=1e-4)
    assert float(ours.log_alpha) == pytest.approx(float(theirs.log_ent_coef.detach()), abs=1e-6)
    for nets, ensemble in ((theirs.critic, ours.critics), (theirs.critic_target, ours.targets)):
        for member, net in enumerate(nets.q_networks):
            agree(linears(net), ensemble._weights, member)
    agree(linears(actor.latent_pi), hidden, 0)
    torch.testing.assert_close(actor.mu.weight.detach(), head[0][0, :, :R].T, rtol=0, atol=2e-6)


def linears(net: nn.Module) -> list[nn.Linear]:
    return [layer for layer in net if isinstance(layer, nn.Linear)]


def copy(layers: list[nn.Linear], ensemble, member: int) -> None:
    with torch.no_grad():
        for layer, (weight, bias) in zip(layers, ensemble._weights, strict=False):
            layer.weight.copy_(weight[member].T), layer.bias.copy_(bias[member, 0])


def agree(layers: list[nn.Linear], weights, member: int) -> None:
    for layer, (weight, bias) in zip(layers, weights, strict=True):
        torch.testing.assert_close(layer.weight.detach(), weight[member].T, rtol=0, atol=2e-6)
        torch.testing.assert_close(layer.bias.detach(), bias[member, 0], rtol=0, atol=2e-6)
