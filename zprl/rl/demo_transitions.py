"""Demonstrations as chunk transitions, for mixing into the agent's batches (as RLPD and DICE-RL do)."""

from __future__ import annotations

import torch
from torch import Tensor

from zprl import seeding
from zprl.data.store import EpisodeStore
from zprl.models.policy import FlowPolicy
from zprl.rl.replay import Replay
from zprl.rl.steering_spaces import SteeringSpace

PICTURES_AT_ONCE = 64
"""Rows embedded at a time where they hold pictures: more would fill the memory."""
FIT_STEPS = 40
"""Adam steps in which a residual is sought (ours: the error is 2 to 5 % above that of 100 on
Meta-World's box-close and push-wall)."""
FIT_STEP_SIZE = 0.05
FIT_ROWS = 512
"""Rows sought at a time: gradients go through every flow step of the generator."""


@torch.no_grad()
def embed_frames(policy: FlowPolicy, store: EpisodeStore, rows: torch.Tensor) -> torch.Tensor:
    """Embeddings (N, D), on the policy's device, of stored frames by number (N, O)."""
    device = policy.grid_features.device
    parts = rows.split(PICTURES_AT_ONCE) if policy.spec.images else (rows,)
    return torch.cat(
        [
            policy.embed({key: store.obs[key][part].to(device) for key in policy.spec.obs_keys})
            for part in parts
        ]
    )


@torch.no_grad()
def transitions(
    policy: FlowPolicy,
    interface: SteeringSpace,
    store: EpisodeStore,
    *,
    scale: torch.Tensor,
    step_discount: float,
    seed: int,
    chunk_penalty: float = 0.0,
    fitted: bool = False,
) -> Replay:
    """Turn every chunk-aligned stretch of every demo into a transition.

    A demo says what was done, not which point of a latent, noise or embedding space would do it:
    its residual there is zero, or with ``fitted`` the one that :func:`fit` finds.  For the action
    residual it is the difference to the base policy's own chunk, limited to [-1, 1].  A demo ends
    with its last frame: reward 1 there if it succeeded, and no value follows. ``chunk_penalty`` is
    subtracted from every reward.
    """
    spec = policy.spec
    chunk, history = spec.policy.chunk_steps, spec.policy.obs_steps
    starts, follows, rewards, discounts, actions = [], [], [], [], []
    for offset, length, success in zip(
        store.offsets.tolist(), store.lengths.tolist(), store.success.tolist(), strict=True
    ):
        for t in range(0, length, chunk):
            ends = t + chunk >= length
            last = min(t + chunk, length - 1)
            starts.append(offset + torch.arange(t - history + 1, t + 1).clamp(min=0))
            follows.append(offset + torch.arange(last - history + 1, last + 1).clamp(min=0))
            rewards.append(
                (step_discount ** (length - 1 - t) if ends and success else 0.0) - chunk_penalty
            )
            discounts.append(0.0 if ends else step_discount**chunk)
            actions.append(offset + torch.arange(t, t + chunk).clamp(max=length - 1))
    count = len(rewards)
    generator = seeding.torch_generator(seed, "demo-noise")
    device = policy.grid_features.device
    scale = scale.to(device)
    states = []
    for rows in (torch.stack(starts), torch.stack(follows)):
        draw = policy.draw_noise(count, generator).to(device)
        embedding = embed_frames(policy, store, rows)
        anchor = interface.anchor(policy, embedding, draw)
        states.append(torch.cat([embedding, anchor], -1))
    embedding, anchor = states[0].split((spec.policy.embedding_dim, len(scale)), -1)
    wanted = policy.normalizer.normalize_actions(
        store.actions[torch.stack(actions)].to(device)
    ).flatten(1)
    residual = torch.zeros_like(anchor)
    if interface.name == "action":
        residual = ((wanted - anchor) / scale).clamp(-1, 1)
    elif fitted:
        residual = fit(
            policy, interface, embedding, anchor, wanted, scale=scale, generator=generator
        )
    point = anchor + scale * residual
    replay = Replay(count, states[0].shape[1], len(scale), device=str(device))
    reward, discount = torch.tensor(rewards, device=device), torch.tensor(discounts, device=device)
    replay.add(state=states[0], point=point, reward=reward, discount=discount, next_state=states[1])
    return replay


def fit(
    policy: FlowPolicy,
    interface: SteeringSpace,
    embedding: Tensor,
    anchor: Tensor,
    wanted: Tensor,
    *,
    scale: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Residuals (N, R) in [-1, 1] with which the frozen policy comes nearest to the wanted chunks.

    Sought from zero by Adam on the squared error, through every flow step (ours; for images:
    projection onto a generator's manifold, arXiv 1609.03552).  Each step draws other flow noise, so
    that a residual does not lean on one draw.

    Args:
        policy: The frozen policy.
        interface: Where the residual enters.
        embedding: (N, D).
        anchor: (N, R).
        wanted: Normalised actions (N, C F) of the executed steps.
        scale: (R,).
        generator: Draws the flow noise.
    """
    found = []
    for condition, start, target in zip(
        *(each.split(FIT_ROWS) for each in (embedding, anchor, wanted)), strict=True
    ):
        residual = torch.zeros_like(start, requires_grad=True)
        adam = torch.optim.Adam([residual], lr=FIT_STEP_SIZE)
        for _ in range(FIT_STEPS):
            noise = policy.draw_noise(len(start), generator).to(start.device)
            with torch.enable_grad():
                made = interface.sequence(policy, condition, start + scale * residual, noise)[
                    :, policy.executed_slice
                ].flatten(1)
                # Summed over rows, so that each has a gradient of its own.
                (residual.grad,) = torch.autograd.grad(
                    (made - target).square().mean(1).sum(), residual
                )
            adam.step()
            residual.data.clamp_(-1, 1)
        found.append(residual.detach())
    return torch.cat(found)
