"""A person leads an arm: the gripper moves when its button is pressed, and not before."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from zprl.robot.base import GRIPPER
from zprl.session.control.arms import Arms
from zprl.session.spacemouse import InterventionCommand

WIDTH = 0.08
HELD = 0.02
POSE = {
    "ee.x": 0.5,
    "ee.y": 0.0,
    "ee.z": 0.3,
    "ee.qx": 1.0,
    "ee.qy": 0.0,
    "ee.qz": 0.0,
    "ee.qw": 0.0,
}


@pytest.fixture
def arms() -> Arms:
    """An arm that holds something 2 cm wide, after homing, with no robot behind it."""
    arms = object.__new__(Arms)
    arms.prefixes = ("",)
    arms.ranges = {"": SimpleNamespace(gripper_width=WIDTH)}
    arms.layout = SimpleNamespace(encode=lambda target, before: None)
    arms.target = {**POSE, GRIPPER: HELD}
    arms.forget_gripper_commands()
    return arms


def test_taking_over_lets_nothing_fall(arms: Arms) -> None:
    arms.lead("", InterventionCommand(engaged=True))
    assert arms.target[GRIPPER] == HELD


def test_each_press_of_the_button_closes_or_opens_the_gripper(arms: Arms) -> None:
    openings = []
    for pressed in (True, False, True, False):
        arms.lead("", InterventionCommand(engaged=True, toggle_gripper=pressed))
        openings.append(arms.target[GRIPPER])
    assert openings == [0.0, 0.0, WIDTH, WIDTH]
