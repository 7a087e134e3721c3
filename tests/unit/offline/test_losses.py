"""The offline losses by hand, and who is trained by which."""

import pytest
import torch

from tests.small_policy import ACTION_DIM, small_obs, small_policy
from zprl.config import VibConfig
from zprl.models.flow_matching import interpolate, target_velocity
from zprl.offline.losses import Draws, Losses, offline_losses

ROWS = 6


def batch(policy, seed=0):
    actions = torch.randn(ROWS, 8, ACTION_DIM, generator=torch.Generator().manual_seed(seed))
    return small_obs(policy, ROWS, seed), actions, Draws.at(policy, ROWS, seed, 0)


def zero(*layers):
    for layer in layers:
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)


def trained_by(policy, loss):
    policy.zero_grad()
    loss.backward(retain_graph=True)
    return {
        name.split(".")[0]
        for name, p in policy.named_parameters()
        if p.grad is not None and p.grad.abs().sum() > 0
    }


def test_losses_of_networks_that_answer_zero():
    policy = small_policy()
    # velocity 0; posterior N(1, 2^2): KL = (1 + 4 - 1 - ln 4) / 2 per dimension; decoded embedding
    # 0
    zero(
        policy.velocity_net.body[-1],
        policy.vib.mean,
        policy.vib.log_variance,
        policy.vib.decoder[-1],
    )
    torch.nn.init.constant_(policy.vib.mean.bias, 1.0)
    torch.nn.init.constant_(policy.vib.log_variance.bias, 2 * torch.log(torch.tensor(2.0)).item())
    obs, actions, draws = batch(policy)
    losses = offline_losses(policy, obs, actions, draws)
    velocity = (draws.noise - policy.normalizer.normalize_actions(actions)).square().mean()
    assert losses.base.item() == pytest.approx(velocity.item(), rel=1e-6)
    assert losses.vib.item() == pytest.approx(velocity.item(), rel=1e-6)
    assert losses.kl.item() == pytest.approx(
        (4 - torch.log(torch.tensor(4.0)).item()) / 2, rel=1e-5
    )
    assert losses.reconstruction.item() == pytest.approx(
        policy.embed(obs).square().mean().item(), rel=1e-6
    )
    expected = losses.base + losses.vib + 2e-4 * losses.kl + 0.01 * losses.reconstruction
    assert losses.total.item() == pytest.approx(expected.item(), rel=1e-6)


def test_base_loss_is_the_velocity_error_of_the_embedding():
    policy = small_policy()
    obs, actions, draws = batch(policy)
    clean = policy.normalizer.normalize_actions(actions)
    predicted = policy.velocity(
        interpolate(clean, draws.noise, draws.flow_time), draws.flow_time, policy.embed(obs)
    )
    by_hand = (predicted - target_velocity(clean, draws.noise)).square().mean()
    assert offline_losses(policy, obs, actions, draws).base.item() == pytest.approx(
        by_hand.item(), rel=1e-6
    )


@pytest.mark.parametrize("net", ["mlp", "unet"])
def test_gradient_routing(net):
    policy = small_policy(velocity_net=net)
    losses = offline_losses(policy, *batch(policy))
    assert trained_by(policy, losses.base) == {"encoder", "velocity_net"}
    assert trained_by(policy, losses.vib) == {"vib"}
    assert trained_by(policy, losses.kl) == {"vib"}
    assert trained_by(policy, losses.reconstruction) == {"vib"}


@pytest.mark.parametrize("net", ["mlp", "unet"])
def test_base_gradients_are_those_of_a_policy_without_bottleneck_bit_for_bit(net):
    policy, bare = (
        small_policy(velocity_net=net),
        small_policy(velocity_net=net, vib=VibConfig(enabled=False, latent_dim=2)),
    )
    for each in (policy, bare):
        offline_losses(each, *batch(each)).total.backward()
    for name, p in bare.named_parameters():
        assert torch.equal(p.grad, policy.get_parameter(name).grad), name


def test_draws_depend_on_seed_and_step_and_not_on_the_latent():
    policy, wide = small_policy(), small_policy(vib=VibConfig(latent_dim=9, hidden=(8,)))
    a, b = Draws.at(policy, ROWS, 0, 5), Draws.at(wide, ROWS, 0, 5)
    assert torch.equal(a.noise, b.noise)
    assert torch.equal(a.flow_time, b.flow_time)
    for seed, step in ((0, 6), (1, 5)):
        other = Draws.at(policy, ROWS, seed, step)
        assert not torch.equal(a.noise, other.noise)
        assert not torch.equal(a.flow_time, other.flow_time)
        assert not torch.equal(a.latent_noise, other.latent_noise)
    assert a.noise.shape == (ROWS, 8, ACTION_DIM - 1)  # one action dimension is constant
    assert Losses.names() == ("total", "base", "vib", "kl", "reconstruction")
