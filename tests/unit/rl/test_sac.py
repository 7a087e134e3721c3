"""The agent's targets by hand and its gradients against autograd."""

import math

import pytest
import torch

from zprl.config import Rl
from zprl.rl.sac import Batch, Sac

B, S, R = 6, 5, 2


def make(**options) -> tuple[Sac, Batch]:
    config = Rl(
        networks={"hidden": (8, 8), "activation": "relu"},
        actor={"log_std_min": -3.0, "log_std_max": 0.0},
    ).changed(**options)
    generator = torch.Generator().manual_seed(0)
    agent = Sac(S, torch.tensor([0.3, 0.7]), config, generator)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    state, nxt = draw(B, S), draw(B, S)
    reward, discount = torch.tensor([0.0, 1, 0, 0, 1, 0]), torch.tensor([0.9, 0, 0.9, 0.9, 0, 0.9])
    batch = Batch(
        torch.cat([state, state[:, -R:] + 0.1 * draw(B, R)], -1),
        reward,
        discount,
        torch.cat([nxt, torch.full((B, R), 99.0)], -1),
    )
    return agent, batch


def gen() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def plain_actor(agent: Sac, weights: list[torch.Tensor], state: torch.Tensor, noise: torch.Tensor):
    h = state
    for n, (w, b) in enumerate(zip(weights[::2], weights[1::2], strict=True)):
        h = h @ w[0] + b[0]
        h = torch.relu(h) if n < len(weights) // 2 - 1 else h
    mean, raw = h.split(R, -1)
    c = agent.config.actor
    log_std = c.log_std_min + 0.5 * (c.log_std_max - c.log_std_min) * (torch.tanh(raw) + 1)
    before = mean + log_std.exp() * noise
    residual = torch.tanh(before)
    log_prob = (
        torch.distributions.Normal(mean, log_std.exp()).log_prob(before)
        - torch.log(1 - residual**2)
    ).sum(-1)
    return residual, log_prob


def test_log_prob_equals_change_of_variables():
    agent, batch = make()
    noise = torch.randn(B, R, generator=gen())
    out, _ = agent.actor.sample(batch.inputs[:, :S], noise)
    weights = [t for pair in agent.actor.net._weights for t in pair]
    residual, log_prob = plain_actor(agent, weights, batch.inputs[:, :S], noise)
    torch.testing.assert_close(out.residual, residual)
    torch.testing.assert_close(agent.actor.log_prob(out), log_prob, rtol=1e-4, atol=1e-4)


def test_exploration_starts_at_the_middle_of_the_log_std_range():
    agent, batch = make(actor={"log_std_min": -10, "log_std_max": 2})
    out, _ = agent.actor.sample(batch.inputs[:, :S], torch.zeros(B, R))
    torch.testing.assert_close(out.std.log(), torch.full((B, R), -4.0), atol=0.1, rtol=0)


@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("entropy", [True, False])
def test_target_by_hand(bounded, entropy):
    agent, batch = make(
        critics={"bounded": bounded}, entropy={"in_target": entropy, "initial_alpha": 0.2}
    )
    y = agent.target(batch, gen())
    noise = torch.randn(B, R, generator=gen())
    out, _ = agent.actor.sample(batch.next_inputs[:, :S], noise)
    inputs = torch.cat(
        [
            batch.next_inputs[:, :S],
            batch.next_inputs[:, S - R : S] + torch.tensor([0.3, 0.7]) * out.residual,
        ],
        -1,
    )
    raw = agent.targets(inputs)[0].squeeze(-1)
    values = (torch.tanh(raw) + 1) / 2 if bounded else raw
    bonus = 0.2 * agent.actor.log_prob(out) if entropy else 0.0
    torch.testing.assert_close(y, batch.reward + batch.discount * (values.min(0).values - bonus))
    torch.testing.assert_close(y[[1, 4]], torch.ones(2))  # terminal rows: the reward alone


def test_target_uses_a_subset_of_critics():
    agent, batch = make(critics={"count": 5, "target_subset": 2})
    noise_generator = gen()
    y = agent.target(batch, gen())
    noise = torch.randn(B, R, generator=noise_generator)
    pick = torch.randperm(5, generator=noise_generator)[:2]
    out, _ = agent.actor.sample(batch.next_inputs[:, :S], noise)
    inputs = torch.cat(
        [batch.next_inputs[:, :S], batch.next_inputs[:, S - R : S] + agent.scale * out.residual], -1
    )
    values = (torch.tanh(agent.targets(inputs)[0].squeeze(-1)) + 1) / 2
    torch.testing.assert_close(y, batch.reward + batch.discount * values[pick].min(0).values)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"critics": {"bounded": False}},
        {"networks": {"critic_layer_norm": True}},
        {"critics": {"count": 4}},
    ],
)
def test_critic_gradient_equals_autograd(options):
    agent, batch = make(**options)
    y = agent.target(batch, gen())
    flat = agent.critics.flat.clone().requires_grad_()
    shapes = [t.shape for pair in agent.critics._weights for t in pair]
    weights = [
        p.view(s) for p, s in zip(flat.split([math.prod(s) for s in shapes]), shapes, strict=True)
    ]
    h = batch.inputs.expand(agent.config.critics.count, -1, -1)
    for n, (w, b) in enumerate(zip(weights[::2], weights[1::2], strict=True)):
        h = h @ w + b
        if n < len(weights) // 2 - 1:
            h = torch.relu(
                torch.nn.functional.layer_norm(h, h.shape[-1:])
                if agent.config.networks.critic_layer_norm
                else h
            )
    q = h.squeeze(-1)
    q = (torch.tanh(q) + 1) / 2 if agent.config.critics.bounded else q
    (expected,) = torch.autograd.grad((q - y).square().mean(1).sum(), flat)
    losses = agent.update_critics(batch, gen())
    torch.testing.assert_close(agent.critics.grad, expected, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(losses()["critic_loss"], float((q - y).square().mean(1).sum()))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"actor": {"uses_min": True}},
        {"actor": {"trust_weight": 0.3}},
        {"critics": {"bounded": False}},
        {"critics": {"count": 4}},
    ],
)
def test_actor_gradient_equals_autograd(options):
    agent, batch = make(entropy={"initial_alpha": 0.1}, **options)
    anchor = batch.inputs[:, S - R : S]
    noise = torch.randn(B, R, generator=gen())
    weights = [t.clone().requires_grad_() for pair in agent.actor.net._weights for t in pair]
    residual, log_prob = plain_actor(agent, weights, batch.inputs[:, :S], noise)
    h = torch.cat([batch.inputs[:, :S], anchor + agent.scale * residual], -1).expand(
        agent.config.critics.count, -1, -1
    )
    pairs = agent.critics._weights
    for n, (w, b) in enumerate(pairs):
        h = h @ w + b
        h = torch.relu(h) if n < len(pairs) - 1 else h
    q = h.squeeze(-1)
    q = (torch.tanh(q) + 1) / 2 if agent.config.critics.bounded else q
    value = q.min(0).values if agent.config.actor.uses_min else q.mean(0)
    loss = (
        0.1 * log_prob - value
    ).mean() + agent.config.actor.trust_weight * residual.square().mean()
    expected = torch.autograd.grad(loss, weights)
    critics_before = agent.critics.flat.clone()
    agent.update_actor(batch, gen())
    for (w, b), gw, gb in zip(agent.actor.net._grads, expected[::2], expected[1::2], strict=True):
        torch.testing.assert_close(w, gw, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(b, gb, rtol=1e-3, atol=1e-6)
    assert torch.equal(agent.critics.flat, critics_before)


def test_entropy_weight_rises_when_entropy_is_too_low():
    agent, batch = make(actor={"log_std_min": -9.0, "log_std_max": -7.0})
    before = float(agent.log_alpha)
    agent.update_actor(batch, gen())
    assert float(agent.log_alpha) > before


def test_targets_move_by_tau():
    agent, _ = make(critics={"tau": 0.25})
    agent.targets.flat.zero_()
    agent.critics.flat.fill_(4.0)
    agent.update_targets()
    assert bool((agent.targets.flat == 1.0).all())


def test_state_round_trip_continues_exactly():
    def step(agent, batch, n):
        g = torch.Generator().manual_seed(n)
        agent.update_critics(batch, g)
        agent.update_actor(batch, g)
        agent.update_targets()

    one, _ = make()
    for n in range(6):
        step(one, make()[1], n)
    half, _ = make()
    for n in range(3):
        step(half, make()[1], n)
    state = {k: v.clone() for k, v in half.state().items()}
    other, _ = make()
    other.restore(state)
    for n in range(3, 6):
        step(other, make()[1], n)
    for name, value in one.state().items():
        assert torch.equal(value, other.state()[name]), name
