"""Every driver keeps every rule of the contract; the checker notices when one does not."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping

import pytest

from tests.contract.simulated_robots import SIMULATED_ROBOTS, SimulatedRobot
from zprl.robot.base import GRIPPER, POSE, Health, Mode, Ranges, RobotError, StopLevel, Values
from zprl.robot.check import RULES, RobotRuleError, check_robot

pytestmark = pytest.mark.realtime


@pytest.mark.parametrize("robot", SIMULATED_ROBOTS, ids=lambda d: d.name)
def test_driver_keeps_the_contract(robot: SimulatedRobot) -> None:
    for module in robot.needs:
        pytest.importorskip(module, reason=f"the simulated {robot.name} needs it")
    with robot.start() as factory:
        check_robot(factory)


class Good:
    """The smallest robot that keeps the rules: it goes at once where it is sent."""

    name, simulated = "good", True
    limits = Ranges(1.0, 10.0, 100.0, 0.08, 0.8)

    def __init__(self) -> None:
        self.values: Values = dict.fromkeys((*POSE, GRIPPER), 0.0) | {"ee.qw": 1.0}
        self.open = self.controls = False
        self.connects = 0

    @property
    def observation_features(self) -> dict[str, type]:
        return dict.fromkeys(self.values, float)

    @property
    def action_features(self) -> dict[str, type]:
        return dict.fromkeys((*POSE, GRIPPER), float)

    @property
    def is_connected(self) -> bool:
        return self.open and self.controls

    is_calibrated = True

    def calibrate(self) -> None: ...

    def configure(self) -> None: ...

    def connect(self, calibrate: bool = True) -> None:
        self.connects += 1
        self.open = self.controls = True

    def disconnect(self) -> None:
        self.open = self.controls = False

    def get_observation(self) -> Values:
        if not self.open:
            raise RobotError("not connected", remedy="")
        return dict(self.values)

    def send_action(self, action: Mapping[str, float]) -> Values:
        if (
            not self.is_connected
            or set(action) != set(self.action_features)
            or not all(map(math.isfinite, action.values()))
        ):
            raise RobotError("no", remedy="")
        self.values |= action
        return dict(action)

    def now(self) -> float:
        return time.monotonic()

    def state_stamp(self) -> float:
        return time.monotonic()

    def stop(self, level: StopLevel) -> None:
        if level is not StopLevel.HOLD:
            self.controls = False

    def recover(self) -> bool:
        self.controls = self.open
        return self.open

    def health(self) -> Health:
        return Health(
            Mode.DISCONNECTED if not self.open else Mode.MOVING if self.controls else Mode.IDLE
        )


def test_good_robot_passes() -> None:
    check_robot(Good, steps=3)


class MissingWidth(Good):
    limits = Ranges(1.0, 10.0, 100.0, 0.0, 0.8)


class IntegerFeature(Good):
    @property
    def action_features(self) -> dict[str, type]:
        return dict.fromkeys((*POSE, GRIPPER), int)


class ObservesUnconnected(Good):
    def get_observation(self) -> Values:
        return dict(self.values)


class NeverConnected(Good):
    is_connected = False


class RealTimeCaller(Good):
    def connect(self, calibrate: bool = True) -> None:
        super().connect()
        os.sched_setscheduler(
            0, os.SCHED_BATCH, os.sched_param(0)
        )  # needs no rights, unlike SCHED_FIFO


class ExtraKey(Good):
    def get_observation(self) -> Values:
        return super().get_observation() | {"surprise": 1.0}


class NanForce(Good):
    def __init__(self) -> None:
        super().__init__()
        self.values["ee.fz"] = math.nan


class LongQuaternion(Good):
    def __init__(self) -> None:
        super().__init__()
        self.values["ee.qw"] = 1.1


class ClockGoesBack(Good):
    def now(self) -> float:
        return -time.monotonic()


class StateFromTheFuture(Good):
    def state_stamp(self) -> float:
        return time.monotonic() + 1.0


class Sleeps(Good):
    def send_action(self, action: Mapping[str, float]) -> Values:
        time.sleep(0.03 if self.is_connected else 0.0)
        return super().send_action(action)


class Clips(Good):
    def send_action(self, action: Mapping[str, float]) -> Values:
        return super().send_action(action) | {"ee.x": 0.5}


class TakesNan(Good):
    def send_action(self, action: Mapping[str, float]) -> Values:
        return super().send_action(
            {key: 0.0 if math.isnan(value) else value for key, value in action.items()}
        )


class TakesPartial(Good):
    def send_action(self, action: Mapping[str, float]) -> Values:
        return super().send_action(
            {key: self.values[key] for key in self.action_features} | dict(action)
        )


class Drifts(Good):
    def get_observation(self) -> Values:
        self.values["ee.z"] -= 0.008
        return super().get_observation()

    def send_action(self, action: Mapping[str, float]) -> Values:
        super().send_action({**action, "ee.z": self.values["ee.z"]})
        return dict(action)


class StuckHand(Good):
    def now(self) -> float:
        return 100 * time.monotonic()  # a fast robot: five of its seconds are soon over

    def send_action(self, action: Mapping[str, float]) -> Values:
        sent = super().send_action(action)
        self.values[GRIPPER] = 0.0
        return sent


class HoldLetsGo(Good):
    def stop(self, level: StopLevel) -> None:
        self.controls = False


class NeverRecovers(Good):
    def recover(self) -> bool:
        return False


class ActsAfterStop(Good):
    def send_action(self, action: Mapping[str, float]) -> Values:
        was, self.controls = self.controls, self.open
        try:
            return super().send_action(action)
        finally:
            self.controls = was


class StaysOpen(Good):
    def disconnect(self) -> None: ...


class ConnectsOnce(Good):
    def connect(self, calibrate: bool = True) -> None:
        if self.connects:
            raise RobotError("once is enough", remedy="")
        super().connect()


BROKEN = {
    "features": IntegerFeature,
    "limits": MissingWidth,
    "unconnected": ObservesUnconnected,
    "connect": NeverConnected,
    "no-realtime": RealTimeCaller,
    "obs-keys": ExtraKey,
    "finite": NanForce,
    "quaternion": LongQuaternion,
    "clock": ClockGoesBack,
    "fast": Sleeps,
    "returns-sent": Clips,
    "refuses-nan": TakesNan,
    "refuses-missing": TakesPartial,
    "hold": Drifts,
    "gripper": StuckHand,
    "stop-hold": HoldLetsGo,
    "stop": ActsAfterStop,
    "recover": NeverRecovers,
    "disconnect": StaysOpen,
    "reconnect": ConnectsOnce,
}


def test_every_rule_has_a_robot_that_breaks_it() -> None:
    assert set(BROKEN) == set(RULES)


@pytest.mark.parametrize("rule", BROKEN)
def test_checker_names_the_broken_rule(rule: str) -> None:
    policy = os.sched_getscheduler(0)
    try:
        with pytest.raises(RobotRuleError) as caught:
            check_robot(BROKEN[rule], steps=3)
    finally:
        os.sched_setscheduler(0, policy, os.sched_param(0))
    assert caught.value.rule == rule
    assert caught.value.remedy == RULES[rule]


def test_a_state_from_the_future_breaks_the_clock() -> None:
    with pytest.raises(RobotRuleError) as caught:
        check_robot(StateFromTheFuture, steps=3)
    assert caught.value.rule == "clock"
