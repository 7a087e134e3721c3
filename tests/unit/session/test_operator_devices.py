"""The process of the devices beside the robot."""

from __future__ import annotations

from tests.session_messages import FakeBus, plan_of
from zprl.session.inputs import Moment
from zprl.session.messages import Twist
from zprl.session.processes.operator_devices import TwistPublisher, moment
from zprl.session.spacemouse import REST, MouseState


def test_a_push_is_published_all_the_time_and_its_end_once():
    bus = FakeBus()
    twists = TwistPublisher(bus)
    push = MouseState((0.0, 0.0, 0.5, 0.0, 0.0, 0.0), 1)
    for state in (REST, push, push, REST, REST):
        twists.publish(state)
    assert [sent.twist[2] for sent in bus.of(Twist)] == [0.5, 0.5, 0.0]
    assert [sent.buttons for sent in bus.of(Twist)] == [1, 1, 0]


def test_a_label_is_about_the_episode_that_runs_or_waits_longest():
    assert moment(plan_of()) == Moment(episode=3, label_episode=3, seq=7, at=1.5)
    assert moment(plan_of(pending=[1, 2])).label_episode == 1
    assert moment(plan_of(state="HOMING")).label_episode is None
    assert moment(plan_of(state="AWAIT_RESET", paused=True)) == Moment(
        episode=4, label_episode=None, paused=True, seq=7, at=1.5
    )
