"""Chunks are requested in time, played in order, and dropped when they answer something old."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from zprl.session.control.chunks import ChunkPlayer
from zprl.session.messages import Plan

OBS = {"pose": np.zeros(3, np.float32)}


class Bus:
    """Keeps what is published."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any], dict[str, np.ndarray]]] = []

    def publish(self, topic: str, body: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        self.sent.append((topic, body, arrays))


@pytest.fixture
def plan() -> Plan:
    return Plan.model_construct(
        number=3, start_number=1, evaluation=False, explore=True, weights=None
    )


def request(player: ChunkPlayer, plan: Plan, step: int = 0) -> None:
    player.request(plan, [OBS, OBS], step=step, stamp=0.5)


def test_a_request_holds_what_the_actor_reads(plan: Plan) -> None:
    bus = Bus()
    request(ChunkPlayer(bus), plan)
    topic, body, arrays = bus.sent[0]
    assert topic == "chunk_request"
    assert body == {
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
    assert {name: value.shape for name, value in arrays.items()} == {"obs/pose": (2, 3)}


def test_the_next_chunk_is_due_when_few_actions_are_left(plan: Plan) -> None:
    player = ChunkPlayer(Bus())
    assert player.due(lead_steps=2)
    request(player, plan)
    assert not player.due(lead_steps=2)  # it is under way
    player.take(np.arange(4.0)[:, None])
    player.switch()
    actions = []
    while not player.due(lead_steps=2):
        actions.append(float(player.playing.next()[0]))
    assert actions == [0.0, 1.0]


def test_a_chunk_is_not_begun_before_the_last_one_is_used_up(plan: Plan) -> None:
    player = ChunkPlayer(Bus())
    for step in range(2):
        request(player, plan, step)
        assert player.awaits(step)
        player.take(np.full((2, 1), float(step)))
        player.switch()
    actions = [float(player.playing.next()[0]) for _ in range(2)]
    player.switch()
    actions += [float(player.playing.next()[0]) for _ in range(2)]
    assert actions == [0.0, 0.0, 1.0, 1.0]


def test_an_answer_to_what_was_seen_before_an_intervention_does_not_count(plan: Plan) -> None:
    player = ChunkPlayer(Bus())
    request(player, plan)
    player.abandon()
    assert not player.awaits(0)
    request(player, plan)
    assert player.awaits(1)


def test_a_request_is_repeated_after_a_while(plan: Plan) -> None:
    bus = Bus()
    player = ChunkPlayer(bus)
    request(player, plan)
    player.repeat(60.0)
    assert len(bus.sent) == 1
    player.repeat(-1.0)
    assert len(bus.sent) == 2
