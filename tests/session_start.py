"""A session's ``start`` folder made of a toy policy, and episodes that could have been lived with it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from tests.toy_world import toy_policy
from zprl import config, durable, seeding
from zprl.models.bundle import save_policy
from zprl.recordings.transitions import EpisodeTransitions
from zprl.rl import learner_checkpoint
from zprl.rl.replay import Replay
from zprl.rl.sac import Sac
from zprl.rl.session_learner import BASE, DEMOS, STEERING
from zprl.rl.steering_bundle import save_steering
from zprl.rl.steering_spaces import LatentResidual

DIM = 2
RL = config.Rl(networks={"hidden": (8,)}, updates={"batch_size": 8})


def make_start(folder: Path, *, seed: int = 0) -> Path:
    """Write base, steering, agent, replay and demos."""
    policy = toy_policy()
    save_policy(folder / BASE, policy, {})
    state_dim = policy.spec.policy.embedding_dim + DIM
    agent = Sac(state_dim, torch.full((DIM,), 0.5), RL, seeding.torch_generator(seed, "test-agent"))
    save_steering(
        folder / STEERING,
        agent.actor,
        agent.scale,
        space=LatentResidual(),
        config=RL,
        base_digest=durable.digest(folder / BASE),
        provenance={},
    )
    learner_checkpoint.save_checkpoint(folder / "learner", agent, memory(20, state_dim, seed))
    for name in (learner_checkpoint.AGENT, learner_checkpoint.REPLAY):
        (folder / "learner" / name).rename(folder / name)
    (folder / "learner").rmdir()
    durable.write_tensors(folder / DEMOS, memory(12, state_dim, seed + 1).data)
    return folder


def memory(rows: int, state_dim: int, seed: int) -> Replay:
    """A full replay of random transitions."""
    draw = torch.Generator().manual_seed(seed)
    replay = Replay(rows, state_dim, DIM)
    state, follow = torch.randn(2, rows, state_dim, generator=draw)
    reward = (torch.rand(rows, generator=draw) < 0.2).float()
    replay.add(
        state=state,
        point=torch.randn(rows, DIM, generator=draw),
        reward=reward,
        discount=torch.full((rows,), 0.9),
        next_state=follow,
    )
    return replay


def lived(
    number: int,
    chunks: int = 5,
    *,
    embedding_dim: int = 8,
    intervened: tuple[int, ...] = (),
    last_steps: int = 3,
) -> EpisodeTransitions:
    """Random decisions that depend on the episode's number alone."""
    draw = torch.Generator().manual_seed(1000 + number)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    steps = torch.full((chunks,), 4)
    steps[-1] = last_steps
    marks = torch.zeros(chunks, dtype=torch.bool)
    marks[list(intervened)] = True
    return EpisodeTransitions(
        number,
        normal(chunks, embedding_dim),
        normal(chunks, DIM),
        normal(chunks, DIM),
        steps,
        marks,
        normal(embedding_dim),
        normal(DIM),
    )
