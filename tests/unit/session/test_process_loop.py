"""The loop of a process: a turn, then a beat when one is due, until it is asked to stop."""

from __future__ import annotations

from itertools import pairwise

import pytest

from zprl.session import process
from zprl.session.process import BEAT_S, Heartbeat, turns


class Stopping:
    """True after so many turns."""

    def __init__(self, turns: int) -> None:
        self.left = turns

    def __bool__(self) -> bool:
        self.left -= 1
        return self.left < 0


def test_a_beat_comes_at_once_and_then_on_its_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    now, beats = [0.0], []
    monkeypatch.setattr(process.time, "monotonic", lambda: now[0])
    heartbeat = Heartbeat(lambda: beats.append(now[0]))
    for turn in range(50):
        now[0] = 0.03 * turn
        heartbeat.tick()
    assert beats[0] == 0.0
    gaps = [later - earlier for earlier, later in pairwise(beats)]
    assert all(BEAT_S < gap < BEAT_S + 0.04 for gap in gaps)


def test_the_loop_turns_until_it_is_asked_to_stop() -> None:
    done: list[str] = []
    loop = turns(Stopping(3), lambda: done.append("beat"))
    done.extend("turn" for _ in loop)
    assert done == ["turn", "beat", "turn", "turn"]


def test_a_loop_that_is_asked_to_stop_at_once_does_nothing() -> None:
    beats: list[str] = []
    assert list(turns(Stopping(0), lambda: beats.append("beat"))) == []
    assert not beats
