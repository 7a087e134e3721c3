"""The policy's promises: plain steps equal the whole, the executed part, independent initial weights."""

import pytest
import torch

from tests.small_policy import CONSTANT_ACTION, small_obs, small_policy
from zprl.config import VibConfig
from zprl.errors import ConfigError
from zprl.models.flow_matching import euler


def noise_for(policy, rows=5, seed=0):
    return policy.draw_noise(rows, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "changes", [{}, {"velocity_net": "unet"}, {"obs_steps": 3}, {"time_grid": "diffusers"}]
)
def test_zero_residual_on_the_mean_is_the_base_policy_bit_for_bit(changes):
    policy = small_policy(**changes).freeze()
    obs, noise = small_obs(policy, 5), noise_for(policy)
    mean, _ = policy.posterior(policy.embed(obs))
    steered = policy.executed(
        policy.generate(policy.decode(mean + 0.2 * torch.zeros_like(mean)), noise)
    )
    assert torch.equal(steered, policy.act(obs, noise))
    other = policy.executed(
        policy.generate(policy.decode(mean + 0.2 * torch.ones_like(mean)), noise)
    )
    assert not torch.equal(other, policy.act(obs, noise))


def test_without_bottleneck_the_embedding_is_the_condition():
    policy = small_policy().freeze()
    obs, noise = small_obs(policy, 5), noise_for(policy)
    plain = policy.executed(policy.generate(policy.embed(obs), noise))
    assert torch.equal(plain, policy.act(obs, noise, bottleneck=False))
    assert not torch.equal(plain, policy.act(obs, noise))


def test_generate_integrates_velocity():
    policy = small_policy(time_grid="diffusers", flow_steps=3).freeze()
    condition, noise = torch.randn(4, 6), noise_for(policy, 4)
    by_hand = euler(
        lambda x, i: policy.velocity(x, torch.full((4,), policy.grid[i]), condition),
        noise,
        policy.grid,
    )
    assert torch.allclose(by_hand, policy.generate(condition, noise), atol=1e-6)


def test_less_noise_is_the_same_noise_made_smaller():
    policy = small_policy().freeze()
    condition, noise = torch.randn(4, 6), noise_for(policy, 4)
    expected = {scale: policy.generate(condition, scale * noise) for scale in (1.0, 0.5, 0.0)}
    for scale, sequence in expected.items():
        policy.noise_scale = scale
        assert torch.equal(policy.generate(condition, noise), sequence)
    assert not torch.allclose(expected[0.5], expected[1.0])


def test_executed_part_starts_at_the_newest_observation_and_is_physical():
    policy = small_policy(obs_steps=3, chunk_steps=4)
    sequence = torch.arange(8.0)[None, :, None].expand(2, 8, policy.num_features)
    chunk = policy.executed(sequence)
    assert chunk.shape == (2, 4, 5)
    assert torch.equal(chunk, policy.normalizer.denormalize_actions(sequence)[:, 2:6])
    assert torch.equal(chunk[..., CONSTANT_ACTION], torch.full((2, 4), 0.25))


def test_observations_are_physical_and_only_the_known_keys_count():
    policy = small_policy()
    obs = small_obs(policy, 3)
    normalised = policy.normalizer.normalize_obs(obs)
    assert torch.equal(policy.embed({**obs, "image": torch.zeros(1)}), policy.encoder(normalised))
    assert policy.embed({k: 1000 * v for k, v in obs.items()}).abs().max() <= 1  # tanh


def test_initial_weights_depend_on_the_seed_and_on_nothing_else():
    before = torch.get_rng_state()
    policy, again, other = small_policy(), small_policy(), small_policy(seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    bigger = small_policy(vib=VibConfig(latent_dim=7, hidden=(9, 9)))
    bare = small_policy(vib=VibConfig(enabled=False))
    for name, value in policy.named_parameters():
        assert torch.equal(value, again.get_parameter(name))
        if not name.startswith("vib."):
            assert torch.equal(value, bigger.get_parameter(name))
            assert torch.equal(value, bare.get_parameter(name))
    assert not torch.equal(policy.velocity_net.body[0].weight, other.velocity_net.body[0].weight)


def test_policy_without_bottleneck_says_so():
    policy = small_policy(vib=VibConfig(enabled=False))
    assert policy.vib is None
    with pytest.raises(ConfigError, match="without a bottleneck"):
        policy.act(small_obs(policy, 1), noise_for(policy, 1))
    policy.act(small_obs(policy, 1), noise_for(policy, 1), bottleneck=False)


def test_frozen_means_no_gradients():
    policy = small_policy().freeze()
    assert not policy.training
    assert not any(p.requires_grad for p in policy.parameters())
    latent = torch.zeros(
        2, 2, requires_grad=True
    )  # but gradients still flow through it, to a residual
    policy.generate(policy.decode(latent), noise_for(policy, 2)).sum().backward()
    assert latent.grad.abs().sum() > 0
