"""Contents of the operator's page follow from messages; a broken one only adds a line."""

from __future__ import annotations

from typing import Any

import pytest

from tests.session_messages import plan_of
from zprl.robot.events import Event, Level
from zprl.session.bus import Message
from zprl.session.contents import Contents
from zprl.session.messages import (
    Beat,
    EventMessage,
    LearningRow,
    RobotHealth,
    RobotState,
    Topic,
)
from zprl.session.process import Settings
from zprl.session.processes.console.snapshot_builder import Watch

LEARNED = LearningRow(
    episodes=2,
    chunk_steps=9,
    updates=18,
    version=3,
    success_rate=1.0,
    q_mean=0.5,
    critic_loss=0.25,
    actor_loss=0.0,
    alpha=0.0,
    entropy=-1.0,
)


class Shown:
    """A page's watch with clocks of the test's own."""

    def __init__(self, settings: Settings) -> None:
        self.time = 100.0
        self.watch = Watch(settings, clock=lambda: self.time, wall=lambda: self.time)

    def take(self, sender: str, contents: Contents) -> None:
        self.watch.take(Message(sender, Topic.of(contents), contents.body()))

    def follow(self, **changes: Any) -> None:
        digests = self.watch.conditions.digests
        self.take("supervisor", plan_of(digests=digests, at=self.time, **changes))


@pytest.fixture
def shown(settings: Settings) -> Shown:
    return Shown(settings)


def state(step: int, stamp: float, **changes: Any) -> RobotState:
    facts = {
        "number": 3,
        "step": step,
        "decision": 0,
        "clipped": False,
        "stamp": stamp,
        "host": stamp,
        "intervention": False,
        "limits": "l",
        "left": 2,
        "health": RobotHealth(mode="moving", errors=(), detail=""),
        "features": {"ee.fx": 3.0, "ee.fy": 4.0, "ee.fz": 0.0},
        "digests": {},
    }
    return RobotState(**facts | changes)


def test_nothing_is_shown_while_the_supervisor_is_silent(shown: Shown) -> None:
    assert shown.watch.snapshot() is None
    assert shown.watch.answers == ()
    shown.follow()
    assert shown.watch.snapshot() is not None
    shown.time += 10.0
    assert shown.watch.snapshot() is None


def test_a_plan_is_shown_with_its_answers(shown: Shown) -> None:
    answers = [{"nonce": "n-1", "refusal": "too late " * 100, "at": 1.0}]
    shown.follow(answers=answers, pending=[2], next=5, state="HOMING", paused=True)
    snapshot = shown.watch.snapshot()
    assert snapshot is not None
    assert (snapshot.episode, snapshot.label_episode, snapshot.paused) == (5, 2, True)
    assert (snapshot.seq, snapshot.state) == (7, "HOMING")
    assert snapshot.answers[0].nonce == "n-1"
    assert len(snapshot.answers[0].refusal) == 500


def test_the_arm_is_shown_while_the_policy_acts(shown: Shown) -> None:
    shown.follow()
    shown.take("driver", state(4, 1.0, clipped=True))
    shown.take("driver", state(5, 1.02, clipped=True))
    shown.take("driver", state(7, 1.10))
    snapshot = shown.watch.snapshot()
    assert snapshot is not None
    gauges = {gauge.name: gauge.value for gauge in snapshot.arms[0].gauges}
    assert (snapshot.step, snapshot.clips) == (7, 2)
    assert gauges["force"] == pytest.approx(5.0)
    assert gauges["longest control step"] == pytest.approx(40.0)
    assert snapshot.arms[0].ok

    shown.take("driver", state(0, 2.0, number=4))  # clips and steps are of one episode
    assert (shown.watch.clips, list(shown.watch.steps)) == (0, [])


def test_the_driver_is_shown_stopped_by_its_beat(shown: Shown) -> None:
    shown.follow(state="FAULT", reason="a joint's limit")
    shown.take("driver", Beat(stopped=True, digests={"limits": "7" * 64}))
    snapshot = shown.watch.snapshot()
    assert snapshot is not None
    assert (snapshot.arms[0].mode, snapshot.arms[0].ok) == ("stopped", False)
    assert snapshot.limits_digest == "7" * 64


@pytest.mark.parametrize(("version", "shown_version"), [(-1, None), (0, 0), (4, 4)])
def test_weights_out_of_simulation_have_no_number(
    shown: Shown, version: int, shown_version: int | None
) -> None:
    shown.follow()
    shown.take("actor", Beat(version=version))
    assert shown.watch.weights == shown_version


def test_the_event_that_stopped_the_arm_is_the_fault(shown: Shown) -> None:
    stop = Event("wrench", Level.SOFT_STOP, "the wrench is beyond its limit")
    other = Event("speed", Level.SOFT_STOP, "the arm is too fast")
    shown.take("driver", EventMessage.of(stop, number=3, step=4, fault=True))
    shown.take("driver", EventMessage.of(other, number=3, step=4, fault=False))
    assert shown.watch.fault == "the wrench is beyond its limit"
    assert [row.kind for row in shown.watch.events] == ["wrench", "speed"]
    shown.follow()
    assert shown.watch.fault == ""


def test_the_learning_curve_is_shown_by_episodes(shown: Shown) -> None:
    shown.follow()
    for _ in range(2):  # a learner that begins anew repeats its last row
        shown.take("learner", LEARNED)
    snapshot = shown.watch.snapshot()
    assert snapshot is not None
    curves = {curve.name: curve.points for curve in snapshot.curves}
    assert curves == {
        "mean Q": ((2.0, 0.5),),
        "critic loss": ((2.0, 0.25),),
        "entropy": ((2.0, -1.0),),
    }


def test_a_broken_message_is_one_line_and_changes_nothing(shown: Shown) -> None:
    shown.follow()
    before = shown.watch.plan
    for topic, body in (("plan", {"state": "NOWHERE"}), ("state", {}), ("event", {"kind": 3})):
        shown.watch.take(Message("supervisor", topic, body))
    assert shown.watch.plan is before
    rows = list(shown.watch.events)
    assert [(row.kind, row.level, row.count) for row in rows] == [("message_broken", "note", 3)]
    assert "'event' of 'supervisor' was not understood" in rows[0].reason
