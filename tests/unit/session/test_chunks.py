"""Chunks are requested in time, played in order, and dropped when they answer something old."""

from __future__ import annotations

import numpy as np

from tests.session_messages import FakeBus, plan_of
from zprl.session.control.chunks import ChunkPlayer

OBS = {"pose": np.zeros(3, np.float32)}


PLAN = plan_of()


def request(player: ChunkPlayer, step: int = 0) -> None:
    player.request(PLAN, [OBS, OBS], step=step, stamp=0.5)


def test_a_request_holds_what_the_actor_reads() -> None:
    bus = FakeBus()
    request(ChunkPlayer(bus))
    assert bus.sent[0].body() == {
        "number": 3,
        "start_number": 1,
        "evaluation": False,
        "explore": True,
        "weights": None,
        "decision": 0,
        "step": 0,
        "stamp": 0.5,
        "final": False,
    }
    assert {name: value.shape for name, value in bus.arrays[0].items()} == {"obs/pose": (2, 3)}


def test_the_next_chunk_is_due_when_few_actions_are_left() -> None:
    player = ChunkPlayer(FakeBus())
    assert player.due(lead_steps=2)
    request(player)
    assert not player.due(lead_steps=2)  # it is under way
    player.take(np.arange(4.0)[:, None])
    player.switch()
    actions = []
    while not player.due(lead_steps=2):
        actions.append(float(player.playing.next()[0]))
    assert actions == [0.0, 1.0]


def test_a_chunk_is_not_begun_before_the_last_one_is_used_up() -> None:
    player = ChunkPlayer(FakeBus())
    for step in range(2):
        request(player, step)
        assert player.awaits(step)
        player.take(np.full((2, 1), float(step)))
        player.switch()
    actions = [float(player.playing.next()[0]) for _ in range(2)]
    player.switch()
    actions += [float(player.playing.next()[0]) for _ in range(2)]
    assert actions == [0.0, 0.0, 1.0, 1.0]


def test_an_answer_to_what_was_seen_before_an_intervention_does_not_count() -> None:
    player = ChunkPlayer(FakeBus())
    request(player)
    player.abandon()
    assert not player.awaits(0)
    request(player)
    assert player.awaits(1)


def test_a_request_is_repeated_after_a_while() -> None:
    bus = FakeBus()
    player = ChunkPlayer(bus)
    request(player)
    player.repeat(60.0)
    assert len(bus.sent) == 1
    player.repeat(-1.0)
    assert len(bus.sent) == 2
