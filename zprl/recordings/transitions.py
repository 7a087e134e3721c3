"""The decisions of a recorded episode, as reinforcement learning needs them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class EpisodeTransitions:
    """The decisions of one episode, M chunks; R residual, D embedding.

    Attributes:
        number: The episode's number in its session.
        embedding: (M, D) of the observation each was made from.
        anchor: (M, R) the point the frozen policy would have taken.
        point: (M, R) the point that was taken.
        steps: (M,) control steps executed of each chunk.
        intervened: (M,) bool: a person moved the robot during this chunk; it is not learned from.
        final_embedding: (D,) after the last step.
        final_anchor: (R,) the frozen policy's point there.
    """

    number: int
    embedding: Tensor
    anchor: Tensor
    point: Tensor
    steps: Tensor
    intervened: Tensor
    final_embedding: Tensor
    final_anchor: Tensor
