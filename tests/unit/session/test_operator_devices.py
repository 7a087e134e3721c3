"""The process of the devices beside the robot."""

from __future__ import annotations

from zprl.session.inputs import Moment
from zprl.session.processes.operator_devices import TwistPublisher, moment
from zprl.session.spacemouse import REST, MouseState

PLAN = {
    "state": "RUNNING",
    "number": 4,
    "next": 5,
    "pending": [],
    "paused": False,
    "seq": 7,
    "at": 1.5,
}


class FakeBus:
    def __init__(self):
        self.published = []

    def publish(self, topic, body):
        self.published.append((topic, body))


def test_a_push_is_published_all_the_time_and_its_end_once():
    bus = FakeBus()
    twists = TwistPublisher(bus)
    push = MouseState((0.0, 0.0, 0.5, 0.0, 0.0, 0.0), 1)
    for state in (REST, push, push, REST, REST):
        twists.publish(state)
    assert [topic for topic, _ in bus.published] == ["twist"] * 3
    assert [body["twist"][2] for _, body in bus.published] == [0.5, 0.5, 0.0]
    assert [body["buttons"] for _, body in bus.published] == [1, 1, 0]


def test_a_label_is_about_the_episode_that_runs_or_waits_longest():
    assert moment(PLAN) == Moment(episode=4, label_episode=4, seq=7, at=1.5)
    assert moment(PLAN | {"pending": [2, 3]}).label_episode == 2
    assert moment(PLAN | {"state": "HOMING"}).label_episode is None
    assert moment(PLAN | {"state": "AWAIT_RESET", "paused": True}) == Moment(
        episode=5, label_episode=None, paused=True, seq=7, at=1.5
    )
