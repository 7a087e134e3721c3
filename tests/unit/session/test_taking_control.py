"""The driver takes control again after a stop, and notices a stop before and between attempts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.session_messages import DIGESTS, ESTOP, PLAN, FakeBus
from zprl.robot.base import Health, Mode, RobotError, StopLevel
from zprl.robot.multi_arm import MultiArm
from zprl.session import clock
from zprl.session.bus import Message
from zprl.session.control import recovery
from zprl.session.control.recovery import CALM_S, Recovery
from zprl.session.messages import EventMessage, Plan
from zprl.session.process import Heartbeat
from zprl.session.processes.driver import Driver


class Robot:
    """Recovers at once; remembers what was asked of it."""

    simulated = True

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.while_busy: list[Message] = []
        self.bus: FakeBus | None = None

    def recover(self) -> bool:
        self.asked.append("recover")
        self.bus.coming += self.while_busy  # pressed while the robot is busy
        return True

    def stop(self, level: StopLevel) -> None:
        self.asked.append(level)

    def health(self) -> Health:
        return Health(Mode.IDLE)


class Stopped:
    """A driver whose arm is stopped, and whose supervisor asks it to go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, pushed: bool) -> None:
        self.time, self.robot, self.bus, self.pushed = 100.0, Robot(), FakeBus(), pushed
        self.robot.bus = self.bus
        monkeypatch.setattr(recovery.time, "monotonic", lambda: self.time)
        monkeypatch.setattr(clock, "now", lambda: self.time)
        made = self.driver = Driver.__new__(Driver)
        made.robot, made.bus, made.digests = self.robot, self.bus, DIGESTS
        made.tick_clock = SimpleNamespace(restart=lambda: None, now=0.0)
        made.monitor = SimpleNamespace(calm=lambda features: not self.pushed, restart=lambda: None)
        made.arms = SimpleNamespace(restart=lambda features: None)
        made.episode = SimpleNamespace(number=3, step=0)
        made.heartbeat = Heartbeat(lambda: None)
        made.plan = Plan.parse(self.plan(recover=0))
        made.stopped, made.stop_seq, made.recover_seq = int(StopLevel.SOFT), 0, 0
        made.pressed, made.pressed_at = False, -1.0
        made.recovery = Recovery(
            self.robot,
            made.monitor,
            read=dict,
            listen=made._listen,
            report=made._report_recovery,
        )

    def plan(self, recover: int, state: str = "FAULT") -> dict[str, Any]:
        return PLAN | {
            "recover": recover,
            "recover_at": self.time,
            "at": self.time,
            "state": state,
        }

    def tick(self, *messages: Message) -> None:
        self.bus.coming += messages
        self.time += 0.02
        self.driver.tick(0)

    def ask(self, recover: int) -> None:
        self.tick(Message("supervisor", "plan", self.plan(recover)))


class OneOfTwo:
    """One arm of two: it takes control when it is asked to, or refuses."""

    def __init__(self, *, recovers: bool) -> None:
        self.recovers, self.in_control = recovers, False

    def recover(self) -> bool:
        self.in_control = self.recovers
        return self.recovers

    def stop(self, level: StopLevel) -> None:
        self.in_control = False

    def health(self) -> Health:
        return Health(Mode.IDLE if self.recovers else Mode.USER_STOPPED)


@pytest.fixture(autouse=True)
def _nothing_to_move(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Driver, "_run_tick", lambda self, count: None)


def test_a_calm_arm_goes_on_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    arm = Stopped(monkeypatch, pushed=False)
    arm.ask(1)
    assert arm.robot.asked == ["recover"]
    assert arm.driver.stopped == 0
    assert [(e.kind, e.recover) for e in arm.bus.of(EventMessage)] == [("recovered", 1)]


def test_a_pushed_arm_is_given_up_and_stays_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    arm = Stopped(monkeypatch, pushed=True)
    arm.ask(1)
    while arm.driver.recovery.active:
        arm.tick()
        assert arm.time < 100 + CALM_S + 1
    assert arm.bus.kinds() == ["recovery_refused"]
    assert arm.driver.stopped
    assert arm.robot.asked[-1] is StopLevel.HARD
    assert 10 < arm.robot.asked.count("recover") < 40


def test_a_stop_between_two_attempts_ends_them(monkeypatch: pytest.MonkeyPatch) -> None:
    arm = Stopped(monkeypatch, pushed=True)
    arm.ask(1)
    attempts = arm.robot.asked.count("recover")
    arm.tick(ESTOP)
    assert arm.bus.kinds() == ["recovery_refused", "estop"]
    for _ in range(20):
        arm.tick()
    assert arm.robot.asked.count("recover") == attempts
    assert arm.driver.stopped == int(StopLevel.HARD)


def test_a_stop_while_the_robot_is_busy_with_recovering_stops_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arm = Stopped(monkeypatch, pushed=False)
    arm.robot.while_busy = [ESTOP]
    arm.ask(1)
    assert arm.robot.asked[-1] is StopLevel.HARD
    assert arm.driver.stopped == int(StopLevel.HARD)
    assert "recovered" not in arm.bus.kinds()


@pytest.mark.parametrize("pressed", [-0.3, 0.0, 0.3])
def test_a_request_at_the_moment_of_a_stop_does_not_count(
    monkeypatch: pytest.MonkeyPatch, pressed: float
) -> None:
    arm = Stopped(monkeypatch, pushed=False)
    arm.driver.pressed_at = arm.time + pressed
    arm.ask(1)
    assert arm.robot.asked == []
    assert arm.bus.kinds() == ["recovery_refused"]


def test_a_stop_is_heard_before_the_plan_that_came_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    arm = Stopped(monkeypatch, pushed=False)
    arm.tick(Message("supervisor", "plan", arm.plan(1)), ESTOP)
    assert arm.robot.asked == [StopLevel.HARD]
    assert arm.bus.kinds() == ["estop", "recovery_refused"]


def test_an_old_request_and_an_old_plan_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    arm = Stopped(monkeypatch, pushed=False)
    arm.tick(
        Message(
            "supervisor", "plan", arm.plan(1) | {"at": arm.time - 1.5, "recover_at": arm.time - 1.5}
        )
    )
    assert arm.robot.asked == []
    arm.tick(Message("supervisor", "plan", arm.plan(1) | {"recover_at": arm.time - 2.5}))
    assert arm.robot.asked == []
    assert arm.bus.kinds() == ["recovery_refused"]


@pytest.mark.parametrize("level", [StopLevel.SOFT, StopLevel.HARD])
def test_an_arm_whose_state_cannot_be_read_after_it_took_control_is_stopped(
    monkeypatch: pytest.MonkeyPatch, level: StopLevel
) -> None:
    def unreadable() -> dict[str, float]:
        raise RobotError("the state cannot be read", remedy="look at the robot")

    arm = Stopped(monkeypatch, pushed=False)
    arm.driver.stopped, arm.driver.recovery.read = int(level), unreadable
    arm.ask(1)
    assert arm.robot.asked == ["recover", StopLevel.HARD]
    assert arm.bus.kinds() == ["recovery_refused"]
    assert arm.driver.stopped


def test_every_e_stop_reaches_an_arm_that_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    arm = Stopped(monkeypatch, pushed=False)
    for _ in range(3):
        arm.tick(ESTOP)
    assert arm.robot.asked == 3 * [StopLevel.HARD]


def test_a_plan_that_says_e_stop_stops_once(monkeypatch: pytest.MonkeyPatch) -> None:
    arm = Stopped(monkeypatch, pushed=False)
    for _ in range(3):  # a person may be freeing the arm by the maker's own tool meanwhile
        arm.tick(Message("supervisor", "plan", arm.plan(0, "ESTOP")))
    assert arm.robot.asked == [StopLevel.HARD]


def test_an_arm_that_took_control_is_stopped_when_the_other_refuses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arm = Stopped(monkeypatch, pushed=False)
    left, right = OneOfTwo(recovers=True), OneOfTwo(recovers=False)
    two = MultiArm.__new__(MultiArm)
    two.robots, two.simulated = {"left.": left, "right.": right}, True
    arm.driver.robot = arm.driver.recovery.robot = two
    arm.driver.stopped = int(StopLevel.HARD)
    arm.ask(1)
    assert arm.bus.kinds() == ["recovery_refused"]
    assert not left.in_control

    left.in_control = True
    arm.tick(ESTOP)
    assert not left.in_control


@pytest.mark.parametrize(
    ("topic", "body", "place"),
    [
        ("twist", {"twist": [0.0] * 6, "buttons": 0}, "at"),
        ("beat", {"pages": "many"}, "pages"),
        ("plan", PLAN | {"state": "NOWHERE"}, "state"),
        ("chunk", {}, "number"),
    ],
)
def test_a_message_of_another_form_stops_a_moving_arm(
    monkeypatch: pytest.MonkeyPatch, topic: str, body: dict[str, Any], place: str
) -> None:
    arm = Stopped(monkeypatch, pushed=False)
    arm.driver.stopped = 0
    arm.tick(Message("console", topic, body))
    assert arm.robot.asked == [StopLevel.SOFT]
    assert arm.bus.kinds() == ["message_broken"]
    assert f"'{topic}' of 'console': a malformed message, {place}" in arm.bus.sent[0].reason


def test_a_press_that_is_no_stop_is_not_read_by_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    arm = Stopped(monkeypatch, pushed=False)
    arm.driver.stopped = 0
    arm.tick(Message("console", "input", {"kind": "pause", "more": 1}))
    assert arm.robot.asked == []
    assert arm.bus.sent == []
