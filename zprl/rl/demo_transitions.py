"""Demonstrations as transitions, a part of the agent's batches (as in RLPD and DICE-RL)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from zprl import seeding
from zprl.data.store import EpisodeStore
from zprl.models.policy import FlowPolicy, PolicySpec
from zprl.rl.replay import Replay
from zprl.rl.steering import decision_inputs, normalized_chunk
from zprl.rl.steering_spaces import SteeringSpace

IMAGE_ROWS_AT_ONCE = 64
"""Rows embedded at a time where they hold images: more would fill the memory."""
FIT_STEPS = 40
"""Adam steps in which a residual is sought (ours: the error is 2 to 5 % above that of 100 on
Meta-World's box-close and push-wall)."""
FIT_STEP_SIZE = 0.05
FIT_ROWS = 512
"""Rows sought at a time: gradients go through every flow step of the generator."""


@dataclass
class Stretches:
    """Chunk-aligned stretches of demonstrations, as numbers of stored frames.

    Attributes:
        starts: Observation frames (O,) from which each chunk was decided.
        follows: Observation frames (O,) after it.
        actions: Frames (C,) whose actions are the chunk.
        rewards: Discounted within the chunk.
        discounts: Of the value that follows; 0 at a demo's end.
    """

    starts: list[Tensor] = field(default_factory=list)
    follows: list[Tensor] = field(default_factory=list)
    actions: list[Tensor] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    discounts: list[float] = field(default_factory=list)


@torch.no_grad()
def embed_frames(policy: FlowPolicy, store: EpisodeStore, rows: Tensor) -> Tensor:
    """Return embeddings (N, D), on the policy's device, of stored frames by number (N, O)."""
    device = policy.grid_features.device
    parts = rows.split(IMAGE_ROWS_AT_ONCE) if policy.spec.images else (rows,)
    return torch.cat(
        [
            policy.embed({key: store.obs[key][part].to(device) for key in policy.spec.obs_keys})
            for part in parts
        ]
    )


@torch.no_grad()
def transitions(
    policy: FlowPolicy,
    space: SteeringSpace,
    store: EpisodeStore,
    *,
    scale: Tensor,
    step_discount: float,
    seed: int,
    chunk_penalty: float = 0.0,
    fitted: bool = False,
) -> Replay:
    """Turn every chunk-aligned stretch of every demo into a transition.

    A demo shows a chunk, not its point: its residual is the space's own answer
    (:meth:`SteeringSpace.residual_of`), else zero, or with ``fitted`` that of :func:`fit`.  Its end
    earns 1 if it succeeded, and no value follows; every reward is reduced by ``chunk_penalty``.
    """
    stretches = _stretches(policy.spec, store, step_discount, chunk_penalty)
    count, device = len(stretches.rewards), policy.grid_features.device
    scale = scale.to(device)

    # RL states where a stretch begins and where the next would.
    generator = seeding.torch_generator(seed, "demo-noise")
    states = []
    for rows in (torch.stack(stretches.starts), torch.stack(stretches.follows)):
        noise = policy.draw_noise(count, generator).to(device)
        inputs = decision_inputs(policy, space, embed_frames(policy, store, rows), noise)
        states.append(inputs.state)

    # The residual with which the policy would have done what the demo shows.
    embedding, anchor = states[0].split((policy.spec.policy.embedding_dim, len(scale)), -1)
    actions = store.actions[torch.stack(stretches.actions)].to(device)
    wanted = policy.normalizer.normalize_actions(actions).flatten(1)
    residual = space.residual_of(wanted, anchor, scale)
    if residual is None and fitted:
        shown = (embedding, anchor, wanted)
        residual = fit(policy, space, *shown, scale=scale, generator=generator)
    elif residual is None:
        residual = torch.zeros_like(anchor)

    # A plain sum rounds as in the memories on disk; the fused one of `steering.move` would not.
    replay = Replay(count, states[0].shape[1], len(scale), device=str(device))
    replay.add(
        state=states[0],
        point=anchor + scale * residual,
        reward=torch.tensor(stretches.rewards, device=device),
        discount=torch.tensor(stretches.discounts, device=device),
        next_state=states[1],
    )
    return replay


def _stretches(
    spec: PolicySpec, store: EpisodeStore, step_discount: float, chunk_penalty: float
) -> Stretches:
    chunk = spec.policy.chunk_steps
    history = torch.arange(1 - spec.policy.obs_steps, 1)
    made = Stretches()
    episodes = zip(
        store.offsets.tolist(), store.lengths.tolist(), store.success.tolist(), strict=True
    )
    for offset, length, success in episodes:
        for start in range(0, length, chunk):
            ends = start + chunk >= length
            following = min(start + chunk, length - 1)

            # The first frame is repeated before an episode's start, the last action after its end.
            made.starts.append(offset + (start + history).clamp(min=0))
            made.follows.append(offset + (following + history).clamp(min=0))
            made.actions.append(offset + torch.arange(start, start + chunk).clamp(max=length - 1))

            reward = step_discount ** (length - 1 - start) if ends and success else 0.0
            made.rewards.append(reward - chunk_penalty)
            made.discounts.append(0.0 if ends else step_discount**chunk)
    return made


def fit(
    policy: FlowPolicy,
    space: SteeringSpace,
    embedding: Tensor,
    anchor: Tensor,
    wanted: Tensor,
    *,
    scale: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Return residuals (N, R) in [-1, 1] that bring the frozen policy nearest to wanted chunks.

    Sought from zero by Adam on the squared error, through every flow step (ours; for images:
    projection onto a generator's manifold, arXiv 1609.03552).  Each step draws other flow noise, so
    that a residual does not lean on one draw.

    Args:
        policy: The frozen policy.
        space: Where the residual enters.
        embedding: (N, D).
        anchor: (N, R).
        wanted: Normalised actions (N, C F) of the executed steps.
        scale: (R,).
        generator: Draws the flow noise.
    """
    residuals = []
    parts = zip(*(each.split(FIT_ROWS) for each in (embedding, anchor, wanted)), strict=True)
    for condition, start, target in parts:
        residual = torch.zeros_like(start, requires_grad=True)
        adam = torch.optim.Adam([residual], lr=FIT_STEP_SIZE)

        for _ in range(FIT_STEPS):
            noise = policy.draw_noise(len(start), generator).to(start.device)
            with torch.enable_grad():
                point = start + scale * residual
                made = normalized_chunk(policy, space, condition, point, noise)
                # Summed over rows, so that each has a gradient of its own.
                error = (made - target).square().mean(1).sum()
                (residual.grad,) = torch.autograd.grad(error, residual)
            adam.step()
            residual.data.clamp_(-1, 1)

        residuals.append(residual.detach())
    return torch.cat(residuals)
