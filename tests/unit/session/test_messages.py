"""Contents of messages: what is sent is what is read, in the same JSON, and nothing else is."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace
from typing import Any

import pytest

from tests.session_messages import DIGESTS, PLAN, plan_of
from zprl.errors import DataError
from zprl.rl.session_learner import SessionLearner
from zprl.robot.events import MAX_TEXT, Event, Level
from zprl.session.bus import Message
from zprl.session.inputs import OperatorInput
from zprl.session.messages import (
    Beat,
    ChunkAnswer,
    ControlRow,
    EpisodeCommitted,
    EventMessage,
    LastEmbedding,
    LastObservation,
    LearningRow,
    RobotHealth,
    RobotState,
    Topic,
    notice,
)

ROW = {
    "number": 3,
    "step": 7,
    "decision": -1,
    "clipped": False,
    "stamp": 1.5,
    "host": 2.5,
    "intervention": True,
    "limits": "l",
}
STATE = ROW | {
    "left": 2,
    "health": {"mode": "idle", "errors": ["joint_reflex"], "detail": ""},
    "features": {"ee.z": 0.25, "ee.x": 0.5},
    "digests": DIGESTS,
}
LAST = {
    "number": 3,
    "step": 7,
    "features": ["ee.x"],
    "sent": ["ee.x"],
    "stamp": 1.5,
    "host": 2.5,
    "tick_p50": 1.0,
    "tick_p99": 1.1,
    "tick_max": 1.5,
    "limits": "l",
}
ANSWER = {
    "number": 3,
    "decision": 4,
    "version": 2,
    "digest": "d",
    "limits": "l",
    "step": 7,
    "stamp": 1.5,
}
LEARNING = {
    "episodes": 1,
    "chunk_steps": 9,
    "updates": 18,
    "version": 3,
    "success_rate": 1.0,
    "q_mean": 0.0,
    "critic_loss": 0.0,
    "actor_loss": 0.0,
    "alpha": 0.0,
    "entropy": 0.0,
}
EVENT = {
    "kind": "workspace",
    "level": "clip",
    "reason": "outside",
    "value": 2.0,
    "limit": 1.0,
    "stamp": None,
    "recoverable": False,
    "number": 3,
    "step": 7,
    "fault": False,
}
PRESS = {
    "kind": "pause",
    "episode": None,
    "nonce": "n-1",
    "source": "pedal",
    "seq": 7,
    "at": 1.5,
    "author": None,
}
BODIES = {
    Topic.PLAN: PLAN,
    Topic.INPUT: PRESS,
    Topic.BEAT: {"stopped": True, "digests": DIGESTS},
    Topic.EVENT: EVENT,
    Topic.STATE: STATE,
    Topic.TWIST: {"twist": [0.0, 0.5, 0.0, 0.0, 0.0, -1.0], "buttons": 1, "at": 1.5},
    Topic.CHUNK_REQUEST: {
        "number": 3,
        "start_number": 1,
        "evaluation": False,
        "explore": True,
        "weights": None,
        "decision": 4,
        "step": 7,
        "stamp": 1.5,
        "final": False,
    },
    Topic.CHUNK: ANSWER,
    Topic.LAST_EMBEDDING: {name: ANSWER[name] for name in LastEmbedding.model_fields},
    Topic.CONTROL_ROW: ROW,
    Topic.LAST_OBSERVATION: LAST,
    Topic.WEIGHTS: {"version": 3},
    Topic.LEARNING: LEARNING,
    Topic.COMMITTED: {"number": 3, "digest": "d"},
    Topic.LABELLED: {"episode": 3, "nonce": "n-1", "seq": 9, "label": "success"},
    Topic.LOST: {"number": 3},
}


def of(topic: str, body: dict[str, Any], sender: str = "driver") -> Message:
    return Message(sender, topic, body)


@pytest.mark.parametrize("topic", Topic)
def test_contents_are_written_as_they_were_read(topic: Topic) -> None:
    """The same keys in the same order: recorded files and other processes depend on it."""
    contents = of(topic, BODIES[topic]).contents
    assert type(contents) is topic.contents
    assert Topic.of(contents) is topic
    assert json.dumps(contents.body()) == json.dumps(BODIES[topic])


@pytest.mark.parametrize("topic", Topic)
def test_an_unknown_key_is_refused_in_one_sentence(topic: Topic) -> None:
    with pytest.raises(DataError, match="malformed message, more") as refused:
        _ = of(topic, BODIES[topic] | {"more": 1}).contents
    assert "\n" not in refused.value.message


@pytest.mark.parametrize(
    ("topic", "change"),
    [
        ("plan", {"state": "NOWHERE"}),
        ("twist", {"twist": [2.0, 0.0, 0.0, 0.0, 0.0, 0.0]}),
        ("twist", {"twist": [0.0] * 5}),
        ("twist", {"at": float("nan")}),
        ("state", {"features": {"ee.x": "left"}}),
        ("event", {"level": "worst"}),
        ("event", {"recoverable": "yes"}),
        ("event", {"reason": "x" * (MAX_TEXT + 1)}),
        ("chunk", {"decision": None}),
        ("labelled", {"label": "perfect"}),
        ("input", {"nonce": "two words"}),
    ],
)
def test_a_fact_of_another_form_is_refused(topic: str, change: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=f"malformed message, {next(iter(change))}"):
        _ = of(topic, BODIES[Topic(topic)] | change).contents


def test_a_topic_that_nobody_knows_is_refused() -> None:
    with pytest.raises(DataError, match="no known topic 'weather'"):
        _ = of("weather", {}).contents


def test_facts_that_were_not_given_are_left_out() -> None:
    assert Beat().body() == {}
    assert Beat(pages=0).body() == {"pages": 0}
    assert EpisodeCommitted(number=3).body() == {"number": 3}
    assert notice("homed", 3).body() == {
        "kind": "homed",
        "level": "note",
        "reason": "",
        "number": 3,
    }
    assert list(notice("recovered", 3, recover=2).body())[-1] == "recover"


def test_a_press_names_its_nonce_even_where_it_was_made_here() -> None:
    press = OperatorInput(kind="pause", source="pedal", seq=7, at=1.5)
    assert list(press.body()) == list(PRESS)
    assert press.body()["nonce"] == press.nonce


def test_an_event_of_the_safety_layer_survives_the_message() -> None:
    event = Event("workspace", Level.CLIP, "outside", 2.0, 1.0, None)
    message = EventMessage.of(event, number=3, step=7, fault=False)
    assert message.body() == EVENT
    assert message.event() == event
    assert not EventMessage.of(event).stops
    long = Event("workspace", Level.SOFT_STOP, "x" * 1000)
    assert EventMessage.of(long).reason == "x" * MAX_TEXT


@pytest.mark.parametrize(
    ("level", "fault", "stops"),
    [
        (Level.SOFT_STOP, None, True),
        (Level.HOLD, None, False),
        (Level.SOFT_STOP, False, False),
        (Level.HOLD, True, True),
    ],
)
def test_of_several_events_the_fault_stops(level: Level, fault: bool | None, stops: bool) -> None:
    more = {} if fault is None else {"fault": fault}
    assert EventMessage.of(Event("wrench", level, "too much"), **more).stops is stops


def test_a_state_is_a_row_with_more() -> None:
    health = RobotHealth(mode="idle", errors=("joint_reflex",), detail="")
    row = ControlRow(**ROW)
    state = RobotState(
        **dict(row), left=2, health=health, features=STATE["features"], digests=DIGESTS
    )
    assert json.dumps(state.body()) == json.dumps(STATE)
    assert Topic.of(row) is Topic.CONTROL_ROW
    chunk = ChunkAnswer(**ANSWER)
    assert Topic.of(chunk) is Topic.CHUNK


def test_intervals_that_are_not_known_have_no_name() -> None:
    untimed = {name: value for name, value in LAST.items() if not name.startswith("tick")}
    assert LastObservation.parse(untimed).timing == {}
    timed = LastObservation.parse(untimed).model_copy(update={"tick_p50": 1.0, "tick_p99": 1.1})
    assert timed.timing == {"tick_p50": 1.0, "tick_p99": 1.1}
    assert list(timed.body()) == [name for name in LAST if name != "tick_max"]


def test_the_learner_keeps_rows_that_can_be_sent() -> None:
    learner = SimpleNamespace(
        episodes={1: (0, 9, True)},
        replay=SimpleNamespace(added=9),
        updates=SimpleNamespace(done=18),
        version=3,
    )
    row = SessionLearner._row(learner, {})
    assert json.dumps(LearningRow.parse(row).body()) == json.dumps(row) == json.dumps(LEARNING)


def test_a_plan_is_the_same_after_it_was_sent() -> None:
    plan = plan_of(reset={"episode": 4, "evaluation": True, "start_number": 1}, weights=-1)
    assert of("plan", json.loads(json.dumps(plan.body()))).contents == plan


@pytest.mark.realtime
@pytest.mark.parametrize("topic", Topic)
def test_a_message_is_checked_in_less_than_a_hundred_microseconds(topic: Topic) -> None:
    """The driver does so at every control step, beside the robot's state of 50 Hz."""
    spent = []
    for _ in range(1000):
        begin = time.perf_counter()
        of(topic, BODIES[topic]).contents.body()
        spent.append(time.perf_counter() - begin)
    assert sorted(spent)[len(spent) // 2] < 100e-6
