"""Every driver keeps every rule of the contract, against its double; and the checker notices when one does not."""

from __future__ import annotations

import math

import pytest

from tests.contract.doubles import DOUBLES, Double
from zprl.robot.base import POSE, Health, Mode, Ranges, Robot, RobotError, StopLevel
from zprl.robot.check import RULES, RuleError, check_robot

pytest.importorskip("mujoco", reason="the doubles need mujoco")


@pytest.mark.parametrize("double", DOUBLES, ids=lambda d: d.name)
def test_driver_keeps_the_contract(double: Double) -> None:
    with double.start() as factory:
        check_robot(factory)
