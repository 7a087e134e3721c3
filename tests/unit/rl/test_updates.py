"""The updates of an agent: shares of a batch, periods of the parts, losses that are reported."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from zprl.config import Rl
from zprl.rl.replay import Replay
from zprl.rl.sac import Batch
from zprl.rl.updates import Updates

BATCH = 10
CONFIG = Rl(updates={"batch_size": BATCH}, actor={"period": 2}, critics={"target_period": 3})


class Recorder:
    """An agent that learns nothing and notes what it is asked for."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.calls: list[str] = []

    def update_critics(
        self, batch: Batch, generator: torch.Generator
    ) -> Callable[[], dict[str, float]]:
        self.batches.append(batch)
        self.calls.append("critics")
        number = float(len(self.batches))
        return lambda: {"critic_loss": number}

    def update_actor(
        self, batch: Batch, generator: torch.Generator
    ) -> Callable[[], dict[str, float]]:
        self.calls.append("actor")
        number = float(len(self.batches))
        return lambda: {"actor_loss": number}

    def update_targets(self) -> None:
        self.calls.append("targets")


def memory(reward: float, rows: int = 50) -> Replay:
    """Rows that are known by their reward, each with a state of its own."""
    replay = Replay(max(rows, 1), 2, 1)
    if rows:
        states = torch.arange(2.0 * rows).view(rows, 2)
        replay.add(
            state=states,
            point=states[:, :1],
            reward=torch.full((rows,), reward),
            discount=torch.ones(rows),
            next_state=states,
        )
    return replay


def updates(*others: tuple[Replay, float], seed: int = 0) -> tuple[Updates, Recorder]:
    agent = Recorder()
    return Updates(agent, CONFIG, seed=seed, main=memory(0.0), others=others), agent


def test_each_memory_fills_its_share_of_the_batch() -> None:
    """Of ten rows 0.3 and 0.25 are three and two; the main memory fills what is left."""
    made, agent = updates((memory(1.0), 0.3), (memory(100.0), 0.25))
    made.step()
    (batch,) = agent.batches
    assert len(batch.reward) == BATCH
    assert batch.reward.sum() == 3 * 1.0 + 2 * 100.0


def test_memories_that_are_empty_or_without_a_share_are_left_out() -> None:
    made, agent = updates((memory(1.0, rows=0), 0.5), (memory(1.0), 0.0))
    made.step()
    assert made.others == []
    assert not agent.batches[0].reward.any()


def test_actor_and_targets_follow_their_periods() -> None:
    made, agent = updates()
    for _ in range(4):
        made.step()
    # Updates 0 and 2 are the actor's, 0 and 3 the targets'.
    every = [["critics", "actor", "targets"], ["critics"], ["critics", "actor"]]
    assert agent.calls == [call for calls in [*every, ["critics", "targets"]] for call in calls]
    assert made.done == 4


def test_the_actor_learns_from_its_first_update_on() -> None:
    made, agent = updates()
    assert made.run(2, actor_from=2) == {"critic_loss": 2.0}
    assert "actor" not in agent.calls
    # Update 2 is the actor's; it is the third batch.
    assert made.run(2, actor_from=2) == {"critic_loss": 4.0, "actor_loss": 3.0}


def test_losses_are_those_of_the_last_period_alone() -> None:
    """Five updates with an actor's period of two: the last two are computed, 4 is the actor's."""
    made, _ = updates()
    ticks: list[int] = []
    losses = made.run(5, tick=lambda: ticks.append(made.done))
    assert losses == {"critic_loss": 5.0, "actor_loss": 5.0}
    assert ticks == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("count", [0, -3])
def test_no_update_has_no_losses(count: int) -> None:
    made, agent = updates()
    assert made.run(count) == {}
    assert agent.calls == []


def test_batches_are_a_function_of_seed_and_number_of_the_update() -> None:
    whole, seen = updates((memory(1.0), 0.5))
    for _ in range(3):
        whole.step()

    resumed, late = updates((memory(1.0), 0.5))
    resumed.done = 2
    resumed.step()
    other, different = updates((memory(1.0), 0.5), seed=1)
    other.done = 2
    other.step()

    assert torch.equal(late.batches[0].inputs, seen.batches[2].inputs)
    assert not torch.equal(late.batches[0].inputs, seen.batches[1].inputs)
    assert not torch.equal(late.batches[0].inputs, different.batches[0].inputs)
