"""DSRL's noise-aliased agent: targets and losses by hand, gradients against autograd."""

from __future__ import annotations

import torch

from zprl.config import Rl
from zprl.rl.noise_aliasing import NoiseAliased
from zprl.rl.sac import Batch

S, R, A, B = 5, 3, 2, 7
OPTIONS = {
    "algorithm": "noise_aliasing",
    "steering": {"space": "noise"},
    "networks": {"hidden": (8,), "activation": "tanh"},
    "critics": {"count": 3, "bounded": False},
}


def chunk(state: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """A generator that looks at two noises of three and at the state."""
    return torch.tanh(noise[:, :A] + 0.1 * state[:, :A])


def agent(**more) -> NoiseAliased:
    config = Rl(**OPTIONS).changed(**more)
    generator = torch.Generator().manual_seed(0)
    return NoiseAliased(S, torch.full((R,), 1.5), config, generator, chunk=chunk, chunk_dim=A)


def batch() -> Batch:
    g = torch.Generator().manual_seed(1)
    return Batch(
        torch.randn(B, S + R, generator=g),
        torch.rand(B, generator=g),
        0.9 * torch.ones(B),
        torch.randn(B, S + R, generator=g),
    )


def q(net, state: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return net(torch.cat([state, x], -1))[0].squeeze(-1)


def test_the_target_is_the_next_chunk_s_least_value() -> None:
    it, rows = agent(), batch()
    found = it.target(rows, torch.Generator().manual_seed(2))
    g = torch.Generator().manual_seed(2)
    state = rows.next_inputs[:, :S]
    residual = it.actor.sample(state, torch.randn(B, R, generator=g))[0].residual
    subset = torch.randperm(3, generator=g)[:2]
    value = q(it.targets, state, chunk(state, 1.5 * residual))[subset].amin(0)
    torch.testing.assert_close(found, rows.reward + 0.9 * value)


def test_losses_and_gradients_are_those_of_the_formulas() -> None:
    it, rows = agent(), batch()
    state, noise = rows.inputs[:, :S].clone(), rows.inputs[:, S:].clone()
    y = it.target(batch(), torch.Generator().manual_seed(3))
    g = torch.Generator().manual_seed(3)
    torch.randn(B, R, generator=g), torch.randperm(3, generator=g)  # what the target draws
    fresh = torch.randn(B, R, generator=g).clamp(-1.5, 1.5)
    before = it.action_critics.flat.clone()
    error = q(it.action_critics, state, chunk(state, noise)) - y
    it_loss = error.square().mean(1).sum()
    report = it.update_critics(rows, torch.Generator().manual_seed(3))()
    assert abs(report["critic_loss"] - float(it_loss)) < 1e-6
    assert not torch.equal(before, it.action_critics.flat)
    # The noise critics were asked for what the action critics, one step on, say of the same noise's
    # chunk.
    it2 = agent()
    it2.action_critics.flat.copy_(it.action_critics.flat)
    gap = q(it2.critics, state, fresh) - q(it2.action_critics, state, chunk(state, fresh)).amin(0)
    assert abs(report["noise_critic_loss"] - float(gap.square().mean(1).sum())) < 1e-6


def test_noise_critics_learn_what_action_critics_know() -> None:
    it = agent(learning_rates={"critics": 3e-3}, networks={"hidden": (32, 32)})
    losses = []
    for step in range(400):
        rows = batch()
        rows.discount.zero_()
        losses.append(
            it.update_critics(rows, torch.Generator().manual_seed(step))()["noise_critic_loss"]
        )
    assert sum(losses[-20:]) < 0.2 * sum(losses[:20])
