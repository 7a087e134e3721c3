"""The steering decision and the answers by which spaces differ."""

from __future__ import annotations

import pytest
import torch

from tests.toy_world import toy_policy
from zprl import plugins
from zprl.rl.steering import DecisionInputs, decision_inputs, move, normalized_chunk, steer
from zprl.rl.steering_spaces import SteeringSpace

SPACES = ("latent", "action", "noise", "embedding")
ROWS = 5


def inputs_of(space: SteeringSpace) -> DecisionInputs:
    policy = toy_policy()
    embedding = policy.embed({"position": torch.linspace(0, 1, ROWS)[:, None, None]})
    noise = policy.draw_noise(ROWS, torch.Generator().manual_seed(0))
    return decision_inputs(policy, space, embedding, noise)


@pytest.mark.parametrize("name", SPACES)
def test_a_decision_holds_every_step_of_the_chain(name: str) -> None:
    policy, space = toy_policy(), plugins.load("spaces", name)()
    at = inputs_of(space)
    width = at.anchor.shape[1]
    scale, residual = torch.full((width,), 0.25), torch.full((ROWS, width), -0.5)
    asked: list[DecisionInputs] = []

    def choose_residual(inputs: DecisionInputs) -> torch.Tensor:
        asked.append(inputs)
        return residual

    decision = steer(policy, space, scale, at, choose_residual)
    assert asked == [at], "the agent is asked once, about these inputs"
    assert torch.equal(at.state, torch.cat([at.embedding, at.anchor], -1))
    assert decision.embedding is at.embedding
    assert decision.anchor is at.anchor
    assert torch.equal(decision.point, move(at.anchor, scale, residual))
    torch.testing.assert_close(decision.point, at.anchor - 0.125)
    chunk = policy.executed(space.sequence(policy, at.embedding, decision.point, at.noise))
    assert torch.equal(decision.chunk, chunk)


@pytest.mark.parametrize("name", SPACES)
def test_only_the_latent_has_a_posterior_and_only_actions_a_known_residual(name: str) -> None:
    policy, space = toy_policy(), plugins.load("spaces", name)()
    at = inputs_of(space)
    assert (space.posterior(policy, at.embedding) is not None) == (name == "latent")
    known = space.residual_of(at.anchor, at.anchor, torch.ones(at.anchor.shape[1]))
    assert (known is not None) == (name == "action")


def test_the_residual_of_a_chunk_makes_that_chunk_within_the_bounds() -> None:
    policy, space = toy_policy(), plugins.load("spaces", "action")()
    at = inputs_of(space)
    scale = torch.full((at.anchor.shape[1],), 0.5)
    near, far = at.anchor + 0.3, at.anchor + 9.0
    residual = space.residual_of(near, at.anchor, scale)
    point = move(at.anchor, scale, residual)
    made = normalized_chunk(policy, space, at.embedding, point, at.noise)
    torch.testing.assert_close(made, near)
    assert torch.equal(space.residual_of(far, at.anchor, scale), torch.ones_like(far))


@pytest.mark.parametrize("name", ["latent", "embedding"])
def test_a_space_that_conditions_the_generator_says_by_what(name: str) -> None:
    policy, space = toy_policy(), plugins.load("spaces", name)()
    at = inputs_of(space)
    condition = space.condition(policy, at.anchor)
    sequence = space.sequence(policy, at.embedding, at.anchor, at.noise)
    assert torch.equal(policy.generate(condition, at.noise), sequence)


@pytest.mark.parametrize("name", ["action", "noise"])
def test_the_other_spaces_have_no_part_in_the_condition(name: str) -> None:
    space = plugins.load("spaces", name)()
    assert space.condition(toy_policy(), inputs_of(space).anchor) is None
