"""Demonstrations as chunk transitions, for mixing into the agent's batches (as RLPD and DICE-RL do)."""

from __future__ import annotations

import torch

from zprl import seeding
from zprl.data.store import EpisodeStore
from zprl.models.policy import FlowPolicy
from zprl.rl.interfaces import Interface
from zprl.rl.replay import Replay

PICTURES_AT_ONCE = 64
"""Rows embedded at a time where they hold pictures: more would fill the memory."""


@torch.no_grad()
def embed_frames(policy: FlowPolicy, store: EpisodeStore, rows: torch.Tensor) -> torch.Tensor:
    """Embeddings (N, D), on the policy's device, of stored frames by number (N, O)."""
    device = policy.grid_features.device
    parts = rows.split(PICTURES_AT_ONCE) if policy.spec.images else (rows,)
    return torch.cat([policy.embed({key: store.obs[key][part].to(device) for key in policy.spec.obs_keys}) for part in parts])


@torch.no_grad()
def transitions(
    policy: FlowPolicy,
    interface: Interface,
    store: EpisodeStore,
    *,
    scale: torch.Tensor,
    step_discount: float,
    seed: int,
    chunk_penalty: float = 0.0,
) -> Replay:
    """Turn every chunk-aligned stretch of every demo into a transition.

    The residual of a demo step is zero for a latent, noise or embedding interface (the demo says what was done, not which
    residual would do it), and for the action residual the difference to the base policy's own chunk, limited to [-1, 1].
    A demo ends with its last frame: reward 1 there if it succeeded, and no value follows.
    ``chunk_penalty`` is subtracted from every reward.
    """
    spec = policy.spec
    chunk, history = spec.policy.chunk_steps, spec.policy.obs_steps
    starts, follows, rewards, discounts, actions = [], [], [], [], []
    for offset, length, success in zip(store.offsets.tolist(), store.lengths.tolist(), store.success.tolist(), strict=True):
        for t in range(0, length, chunk):
            ends = t + chunk >= length
            last = min(t + chunk, length - 1)
            starts.append(offset + torch.arange(t - history + 1, t + 1).clamp(min=0))
            follows.append(offset + torch.arange(last - history + 1, last + 1).clamp(min=0))
            rewards.append((step_discount ** (length - 1 - t) if ends and success else 0.0) - chunk_penalty)
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
    point = anchor = states[0][:, -len(scale) :]
    if interface.name == "action":
        wanted = policy.normalizer.normalize_actions(store.actions[torch.stack(actions)].to(device)).flatten(1)
        point = anchor + scale * ((wanted - anchor) / scale).clamp(-1, 1)
    replay = Replay(count, states[0].shape[1], len(scale), device=str(device))
    reward, discount = torch.tensor(rewards, device=device), torch.tensor(discounts, device=device)
    replay.add(state=states[0], point=point, reward=reward, discount=discount, next_state=states[1])
    return replay
