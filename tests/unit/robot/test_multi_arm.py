"""Two robots as one: all or none, the worst counts, one silent arm makes the state old."""

from __future__ import annotations

import math

import pytest

from zprl.errors import ConfigError
from zprl.robot import multi_arm as module
from zprl.robot.base import Health, Mode, Ranges, Robot, RobotError, StopLevel
from zprl.robot.multi_arm import MultiArm


class Arm:
    """A robot that records its calls."""

    simulated = True

    def __init__(self, name, calls, width=0.08):
        self.name, self.calls = name, calls
        self.limits = Ranges(
            speed=1.0 if name == "a" else 2.0,
            acceleration=1,
            jerk=1,
            gripper_width=width,
            reach=0.8,
        )
        self.observation_features = self.action_features = {"ee.x": float, "gripper.pos": float}
        self.is_connected, self.is_calibrated = False, True
        self.refuses, self.mode, self.stamp, self.recovers = "", Mode.IDLE, 1.0, True

    def _note(self, what):
        self.calls.append((self.name, what))
        if self.refuses == what:
            raise RobotError(f"{what} refused", remedy="try again")

    def connect(self, calibrate=True):
        self._note("connect")
        self.is_connected = True

    def disconnect(self):
        self._note("disconnect")
        self.is_connected = False

    def calibrate(self):
        self._note("calibrate")

    def configure(self):
        self._note("configure")

    def get_observation(self):
        self._note("observe")
        return {"ee.x": 0.1 if self.name == "a" else 0.2, "gripper.pos": 0.0}

    def send_action(self, action):
        self._note("send")
        self.sent = dict(action)
        return {key: min(value, 0.5) for key, value in action.items()}

    def now(self):
        return self.stamp

    def state_stamp(self):
        return self.stamp

    def stop(self, level):
        self.calls.append((self.name, level))

    def recover(self):
        self._note("recover")
        return self.recovers

    def health(self):
        return Health(self.mode, ("hot",) if self.mode is Mode.ERROR else ())


@pytest.fixture
def calls():
    return []


@pytest.fixture
def pair(calls):
    return MultiArm({"left.": Arm("a", calls, 0.085), "right.": Arm("b", calls)})


ACTION = {"left.ee.x": 0.3, "left.gripper.pos": 0.01, "right.ee.x": 0.9, "right.gripper.pos": 0.02}


def test_it_is_a_robot(pair):
    assert isinstance(pair, Robot)
    assert pair.name == "a+b" and pair.simulated
    assert list(pair.observation_features) == [
        "left.ee.x",
        "left.gripper.pos",
        "right.ee.x",
        "right.gripper.pos",
    ]
    assert pair.limits == Ranges(speed=1.0, acceleration=1, jerk=1, gripper_width=0.08, reach=0.8)
    assert pair.ranges["left."].gripper_width == 0.085


def test_a_prefix_ends_in_a_point(calls):
    with pytest.raises(ConfigError, match="no prefix"):
        MultiArm({"left": Arm("a", calls)})


def test_states_and_commands_are_prefixed(pair):
    pair.connect()
    assert pair.is_connected
    assert pair.get_observation() == {
        "left.ee.x": 0.1,
        "left.gripper.pos": 0.0,
        "right.ee.x": 0.2,
        "right.gripper.pos": 0.0,
    }
    assert pair.send_action({**ACTION, "elsewhere": 1.0}) == {**ACTION, "right.ee.x": 0.5}
    assert pair.robots["right."].sent == {"ee.x": 0.9, "gripper.pos": 0.02}


def test_both_connect_or_none(pair, calls):
    pair.robots["right."].refuses = "connect"
    with pytest.raises(RobotError, match="right: connect refused") as caught:
        pair.connect()
    assert caught.value.remedy == "try again"
    assert not pair.is_connected and not pair.robots["left."].is_connected
    assert calls == [("a", "connect"), ("b", "connect"), ("a", "disconnect"), ("b", "disconnect")]


def test_nothing_is_sent_to_anybody_when_an_arm_is_left_out(pair, calls):
    pair.connect()
    calls.clear()
    with pytest.raises(RobotError, match=r"lacks right\.ee\.x"):
        pair.send_action({key: value for key, value in ACTION.items() if key != "right.ee.x"})
    assert calls == []


def test_nothing_is_sent_to_anybody_when_a_number_is_none(pair, calls):
    pair.connect()
    calls.clear()
    with pytest.raises(RobotError, match="not finite"):
        pair.send_action({**ACTION, "right.ee.x": math.nan})
    assert calls == [] and pair.is_connected


@pytest.mark.parametrize("which", ["left.", "right."])
def test_when_one_refuses_all_are_stopped(pair, calls, which):
    pair.connect()
    pair.robots[which].refuses = "send"
    with pytest.raises(RobotError, match="send refused"):
        pair.send_action(ACTION)
    assert {("a", StopLevel.SOFT), ("b", StopLevel.SOFT)} <= set(calls)


def test_a_stop_reaches_all_even_if_one_fails(pair, calls, monkeypatch):
    def fail(level):
        raise RobotError("gone")

    monkeypatch.setattr(pair.robots["right."], "stop", fail)
    with pytest.raises(RobotError):
        pair.stop(StopLevel.HARD)
    assert calls == [("a", StopLevel.HARD)]


def test_all_are_disconnected_even_if_one_fails(pair, calls):
    pair.robots["right."].refuses = "disconnect"
    pair.connect()
    calls.clear()
    with pytest.raises(RobotError, match="disconnect refused"):
        pair.disconnect()
    assert set(calls) == {("a", "disconnect"), ("b", "disconnect")}


@pytest.mark.parametrize(
    ("left", "right", "worst"),
    [
        (Mode.IDLE, Mode.MOVING, Mode.MOVING),
        (Mode.REFLEX, Mode.MOVING, Mode.REFLEX),
        (Mode.REFLEX, Mode.USER_STOPPED, Mode.USER_STOPPED),
        (Mode.ERROR, Mode.USER_STOPPED, Mode.ERROR),
        (Mode.ERROR, Mode.DISCONNECTED, Mode.DISCONNECTED),
    ],
)
def test_the_worst_mode_counts(pair, left, right, worst):
    pair.robots["left."].mode, pair.robots["right."].mode = left, right
    result = pair.health()
    assert result.mode is worst
    assert result.errors == (("left.hot",) if left is Mode.ERROR else ())


def test_all_are_asked_to_recover(pair, calls):
    pair.robots["left."].recovers = False
    assert not pair.recover()
    assert calls == [("a", "recover"), ("b", "recover")]
    pair.robots["left."].recovers = True
    assert pair.recover()


def test_the_state_is_as_old_as_the_slowest_arms(pair, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    pair.connect()
    assert pair.state_stamp() == pair.now() == 100.0
    clock[0] = 101.0
    pair.robots["left."].stamp += 1e-3
    assert pair.state_stamp() == 100.0  # the right arm is silent
    clock[0] = 102.0
    pair.robots["right."].stamp += 50.0  # however fast its own clock runs
    assert pair.state_stamp() == 101.0 <= pair.now()
