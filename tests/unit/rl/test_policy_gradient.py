"""Policy gradients through the sampling chain, against sums by hand and torch.distributions."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch.distributions import Normal

from tests.toy_world import ReachWorld, toy_policy
from zprl import durable
from zprl.config import PolicyGradient
from zprl.envs.chunk import ChunkEnv
from zprl.errors import DataError
from zprl.models.bundle import save_policy
from zprl.rl import steering_bundle
from zprl.rl.policy_gradient import Chain, PolicyGradientLearner, advantages

SIZE = {"num_envs": 8, "segments": 3, "chunk_steps_per_segment": 6}


def configured(noise: str = "fixed", **more) -> PolicyGradient:
    return PolicyGradient(
        algorithm="ppo",
        budget=SIZE,
        chain={"noise": noise},
        rollouts={"steps": 4, "epochs": 2},
        updates={"batch_size": 16},
    ).changed(**more)


def make_env() -> ChunkEnv:
    return ChunkEnv(ReachWorld(SIZE["num_envs"]), 4, 1, 0.99)


def learner(config: PolicyGradient | None = None) -> PolicyGradientLearner:
    return PolicyGradientLearner(toy_policy(), config or configured(), seed=0)


def test_log_probability_of_an_inner_step_is_that_of_a_gaussian_around_the_euler_step() -> None:
    policy = toy_policy()
    chain = Chain(policy, configured(chain={"min_std": 0.25}), seed=0)
    generator = torch.Generator().manual_seed(0)
    condition = torch.randn(5, policy.spec.policy.embedding_dim, generator=generator)
    before, after = torch.randn(
        2, 5, policy.spec.policy.horizon, policy.num_features, generator=generator
    )
    step = torch.tensor([0, 1, 0, 1, 1]).clamp(max=chain.steps - 1)
    found, entropy = chain.log_prob(before, after, step, condition)
    for row in range(5):
        i = int(step[row])
        velocity = policy.velocity_net(
            before[row : row + 1], chain.times[i : i + 1], condition[row : row + 1]
        )
        mean = before[row : row + 1] + (policy.grid[i + 1] - policy.grid[i]) * velocity
        wanted = Normal(mean, 0.25).log_prob(after[row : row + 1])[:, policy.executed_slice].mean()
        torch.testing.assert_close(found[row], wanted)
    torch.testing.assert_close(
        entropy, torch.full((5,), math.log(0.25) + 0.5 + 0.5 * math.log(2 * math.pi))
    )


def test_learned_noise_stays_within_its_bounds_and_moves() -> None:
    policy = toy_policy()
    chain = Chain(policy, configured("learned", chain={"min_std": 0.1, "max_std": 0.3}), seed=0)
    condition = 50 * torch.randn(
        64, policy.spec.policy.embedding_dim, generator=torch.Generator().manual_seed(1)
    )
    point = torch.zeros(64, policy.spec.policy.horizon, policy.num_features)
    std = chain.decide(point, torch.zeros(64, dtype=torch.long), condition)[1].detach()
    assert float(std.min()) >= 0.1 - 1e-6
    assert float(std.max()) <= 0.3 + 1e-6
    assert float(std.max() - std.min()) > 0.01


def test_a_chain_without_noise_is_the_base_policy_s_own_sample() -> None:
    policy = toy_policy()
    chain = Chain(policy, configured(chain={"min_std": 1e-12, "max_std": 1.0}), seed=0)
    condition = torch.randn(
        3, policy.spec.policy.embedding_dim, generator=torch.Generator().manual_seed(2)
    )
    noise = policy.draw_noise(3, torch.Generator().manual_seed(3))
    found = chain.sample(condition, noise, torch.Generator().manual_seed(4))
    assert found.shape[1] == chain.steps + 1
    torch.testing.assert_close(found[:, -1], policy.generate(condition, noise), rtol=0, atol=1e-5)


def test_advantages_by_hand() -> None:
    # One environment, three rows; the second ends an episode in success, the third goes on.
    # discount 0.5, lambda 0.5.
    reward, value, follow = (
        torch.tensor([[0.0], [1.0], [0.0]]),
        torch.tensor([[0.2], [0.4], [0.6]]),
        torch.tensor([[0.4], [9.0], [0.8]]),
    )
    over, ended = torch.tensor([[False], [True], [False]]), torch.tensor([[False], [True], [False]])
    found = advantages(reward, value, follow, over, ended, discount=0.5, gae_lambda=0.5)
    # delta: 0 + .5*.4 - .2 = 0; 1 - .4 = .6; .5*.8 - .6 = -.2.  A: 0 + .25*.6 = .15; .6; -.2
    torch.testing.assert_close(found[:, 0], torch.tensor([0.15, 0.6, -0.2]))


def test_a_time_out_cuts_the_sum_but_keeps_the_value() -> None:
    reward, value, follow = torch.zeros(2, 1), torch.zeros(2, 1), torch.tensor([[2.0], [4.0]])
    over, ended = torch.zeros(2, 1, dtype=torch.bool), torch.tensor([[True], [False]])
    found = advantages(reward, value, follow, over, ended, discount=0.5, gae_lambda=1.0)
    torch.testing.assert_close(found[:, 0], torch.tensor([1.0, 2.0]))


def _batch(it: PolicyGradientLearner, rows: int = 6) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    policy = it.policy
    condition = torch.randn(rows, policy.spec.policy.embedding_dim, generator=generator)
    chain = it.chain.sample(condition, policy.draw_noise(rows, generator), generator)
    return {
        "chain": chain,
        "condition": condition,
        "advantage": torch.randn(rows, generator=generator),
    }


def test_the_loss_of_an_unchanged_policy_is_the_mean_discounted_advantage() -> None:
    it = learner(configured(returns={"denoising_discount": 0.5}))
    batch = _batch(it)
    old = it._chances(batch["chain"], batch["condition"])[0].detach()
    loss, found = it._policy_loss(old=old, **batch)
    later = torch.arange(it.chain.steps - 1, -1, -1)
    wanted = -(batch["advantage"][:, None] * 0.5**later).mean()
    torch.testing.assert_close(loss, wanted)
    assert found["clipped"] == 0
    assert found["kl"] == pytest.approx(0, abs=1e-6)


def test_the_ratio_is_clipped_less_at_the_first_inner_step_than_at_the_last() -> None:
    it = learner(configured(clip={"last": 0.2, "first": 0.01}, returns={"denoising_discount": 1.0}))
    batch = _batch(it) | {"advantage": torch.ones(6)}
    now = it._chances(batch["chain"], batch["condition"])[0].detach()
    loss, found = it._policy_loss(old=now - math.log(1.5), **batch)  # every ratio is 1.5
    assert found["clipped"] == 1
    k = it.chain.steps
    shares = [i / (k - 1) for i in range(k)]
    limits = [1 + 0.01 + 0.19 * (math.exp(3 * s) - 1) / (math.exp(3) - 1) for s in shares]
    assert float(loss) == pytest.approx(-sum(limits) / k, rel=1e-5)


def test_reinflow_s_ratio_is_one_for_the_whole_chain() -> None:
    it = learner(configured("learned", clip={"last": 10.0}))
    batch = _batch(it) | {"advantage": torch.ones(6)}
    now = it._chances(batch["chain"], batch["condition"])[0].detach()
    shift = torch.linspace(-0.3, 0.5, it.chain.steps)
    loss, _ = it._policy_loss(old=now - shift, **batch)
    assert float(loss) == pytest.approx(-math.exp(float(shift.mean())), rel=1e-5)


@pytest.mark.parametrize("noise", ["fixed", "learned"])
def test_it_changes_the_generator_alone_and_a_resumed_run_is_the_same(
    noise: str, tmp_path: Path
) -> None:
    whole = learner(configured(noise))
    before = {name: value.clone() for name, value in whole.policy.state_dict().items()}
    for _ in range(3):
        whole.run_segment(make_env)
    assert all(
        torch.equal(value, before[name]) for name, value in whole.policy.state_dict().items()
    )
    changed = {
        name
        for name, value in whole.acting().state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert changed
    assert all(name.startswith("velocity_net") for name in changed)
    assert (whole.decisions, whole.env_steps) == (3 * 6 * 8, 3 * 6 * 8 * 4)

    half = learner(configured(noise))
    half.run_segment(make_env)
    half.save_checkpoint(tmp_path / "learner")
    files = sorted((tmp_path / "learner").iterdir())
    assert [file.name for file in files] == ["chain.safetensors", "value.safetensors"]
    rest = learner(configured(noise))
    rest.restore(half.state()[0], {file.stem: durable.read_tensors(file) for file in files})
    rest.run_segment(make_env)
    rest.run_segment(make_env)
    for group, values in whole.state()[1].items():
        for name, value in values.items():
            assert torch.equal(value, rest.state()[1][group][name]), (group, name)
    assert rest.curve == whole.curve


def test_it_learns_what_the_toy_world_rewards() -> None:
    it = learner(
        configured(
            budget={"segments": 12},
            rollouts={"steps": 6, "epochs": 6},
            learning_rates={"actor": 3e-3},
            clip={"last": 0.2, "first": 0.2},
            chain={"min_std": 0.3, "max_std": 0.3},
        )
    )
    for _ in range(12):
        it.run_segment(make_env)
    first, last = it.curve[0], it.curve[-1]
    assert (
        last["episode_length"] < first["episode_length"]
        or last["success_rate"] > first["success_rate"]
    )


def test_a_saved_generator_acts_as_it_did(tmp_path: Path) -> None:
    it = learner()
    it.run_segment(make_env)
    save_policy(tmp_path / "base", it.policy, {})
    digest = durable.digest(tmp_path / "base")
    steering_bundle.save_generator(
        tmp_path / "g", it.acting(), config=it.config, base_digest=digest, provenance={}
    )
    loaded = steering_bundle.load_steered(tmp_path / "g", tmp_path / "base")
    obs = make_env().reset(1)
    noise = it.policy.draw_noise(8, torch.Generator().manual_seed(1))
    assert torch.equal(loaded.act(obs, noise), it.acting().act(obs, noise))
    save_policy(tmp_path / "base", it.policy, {"changed": True})
    with pytest.raises(DataError, match="another base policy"):
        steering_bundle.load_steered(tmp_path / "g", tmp_path / "base")
