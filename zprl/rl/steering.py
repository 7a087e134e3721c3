"""The steering decision: a bounded residual moves the point from which the frozen policy acts.

    observation -> embedding e -> anchor x0 -> residual d -> point x0 + scale * d -> action chunk

The first half (:func:`decision_inputs`) is separate from the second (:func:`steer`) because a
learner needs the state that follows a chunk before it decides there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from zprl.models.policy import FlowPolicy
from zprl.rl.steering_spaces import SteeringSpace


@dataclass(frozen=True)
class DecisionInputs:
    """The inputs of one decision.

    Attributes:
        embedding: (B, D).
        anchor: (B, R), the point from which the residual counts.
        state: RL state (B, D + R), embedding and anchor side by side.
        noise: Flow noise (B, T, F).
    """

    embedding: Tensor
    anchor: Tensor
    state: Tensor
    noise: Tensor


@dataclass(frozen=True)
class SteeringDecision:
    """The results of one decision.

    Attributes:
        embedding: (B, D).
        anchor: (B, R).
        residual: (B, R) in [-1, 1].
        point: (B, R), ``anchor + scale * residual``.
        chunk: Action chunk (B, C, A) in physical units.
    """

    embedding: Tensor
    anchor: Tensor
    residual: Tensor
    point: Tensor
    chunk: Tensor


ChooseResidual = Callable[[DecisionInputs], Tensor]
"""Residual (B, R) in [-1, 1] for the inputs of a decision."""


def decision_inputs(
    policy: FlowPolicy,
    space: SteeringSpace,
    embedding: Tensor,
    noise: Tensor,
    *,
    latent_sample: Tensor | None = None,
) -> DecisionInputs:
    """Return the inputs from which the agent decides.

    Args:
        policy: The frozen policy.
        space: Where the residual enters.
        embedding: (B, D).
        noise: Flow noise (B, T, F) of this decision.
        latent_sample: Standard normal draw (B, Z) that makes the latent a sample; its mean without.
    """
    anchor = space.anchor(policy, embedding, noise, sample=latent_sample)
    return DecisionInputs(embedding, anchor, torch.cat([embedding, anchor], -1), noise)


def steer(
    policy: FlowPolicy,
    space: SteeringSpace,
    scale: Tensor,
    inputs: DecisionInputs,
    choose_residual: ChooseResidual,
) -> SteeringDecision:
    """Choose a residual, move the anchor by it and make the chunk from there.

    With a residual of zero the chunk is made from the anchor.  For the latent (at its mean) and
    the action chunk that is the base policy's chunk, bit for bit; for the embedding its chunk
    without bottleneck; for the flow noise its chunk from zero noise.

    Args:
        policy: The frozen policy.
        space: Where the residual enters.
        scale: (R,) residual scale.
        inputs: The result of :func:`decision_inputs`.
        choose_residual: The agent, exploring or not.
    """
    residual = choose_residual(inputs)
    point = move(inputs.anchor, scale, residual)
    sequence = space.sequence(policy, inputs.embedding, point, inputs.noise)
    return SteeringDecision(
        embedding=inputs.embedding,
        anchor=inputs.anchor,
        residual=residual,
        point=point,
        chunk=policy.executed(sequence),
    )


def move(anchor: Tensor, scale: Tensor, residual: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Return ``anchor + scale * residual`` (B, R), written into ``out`` where that is given."""
    return torch.addcmul(anchor, scale, residual, out=out)


def normalized_chunk(
    policy: FlowPolicy, space: SteeringSpace, embedding: Tensor, point: Tensor, noise: Tensor
) -> Tensor:
    """Return the executed part (B, C * F) of the normalised sequence made of a point (B, R)."""
    return space.sequence(policy, embedding, point, noise)[:, policy.executed_slice].flatten(1)
