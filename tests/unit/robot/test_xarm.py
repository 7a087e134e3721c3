"""The xArm driver without a control box: steps, angles, errors, order of commands."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from zprl.errors import ConfigError
from zprl.robot import rotation
from zprl.robot.base import GRIPPER, POSE, Mode, Robot, RobotError, StopLevel
from zprl.robot.xarm import from_rpy, make
from zprl.robot.xarm_servo import STEP_M, STEP_RAD, ServoThread, step_towards
from zprl.robot_sim.xarm_box import rpy

DOWN = (1.0, 0.0, 0.0, 0.0)


def test_it_is_a_robot_and_has_its_features_unconnected():
    robot = make({"host": "127.0.0.9", "axes": 6})
    assert isinstance(robot, Robot) and robot.simulated
    assert set(robot.action_features) == {*POSE, GRIPPER}
    assert set(robot.observation_features) == {
        *POSE,
        GRIPPER,
        *(f"joint_{i}.pos" for i in range(1, 7)),
    }
    assert robot.limits.gripper_width == 0.085

    assert not robot.is_connected and robot.health().mode is Mode.DISCONNECTED
    robot.stop(StopLevel.HARD)
    robot.disconnect()
    assert not robot.recover()
    for call in (
        robot.get_observation,
        lambda: robot.send_action(dict.fromkeys((*POSE, GRIPPER), 0.5)),
    ):
        with pytest.raises(RobotError):
            call()


def test_a_tool_reaches_further():
    tool = {"offset": [0, 0, 0.174], "mass": 0.9, "centre": [0, 0, 0.06]}
    assert make({"host": "192.168.1.226", "tool": tool}).limits.reach == pytest.approx(0.874)
    assert not make({"host": "192.168.1.226"}).simulated


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"host": "x", "axes": 5},
        {"host": "x", "speed": 1},
        {"host": "x", "collision_sensitivity": 0},
    ],
)
def test_wrong_configs_are_refused(config):
    with pytest.raises(ConfigError, match="robot config"):
        make(config)


@pytest.mark.parametrize("angles", [(0, 0, 0), (math.pi, 0, 0), (0.3, -0.4, 0.5), (-2.9, 1.2, 3.0)])
def test_the_controllers_angles_are_about_fixed_axes(angles):
    quaternion = from_rpy(*angles)
    wanted = Rotation.from_euler("xyz", angles).as_quat()
    assert abs(np.dot(quaternion, wanted)) == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(rpy(quaternion), angles, atol=1e-9)


def test_far_targets_are_reached_in_steps_that_the_controller_takes():
    pose, target = (0.3, 0.0, 0.2, *DOWN), (0.36, 0.08, 0.2, *DOWN)
    steps = 0
    while pose != target:
        following = step_towards(pose, target)
        assert math.dist(pose[:3], following[:3]) <= STEP_M * (1 + 1e-9) < 0.010
        pose, steps = following, steps + 1
    assert steps == math.ceil(0.1 / STEP_M)


def test_far_turns_too():
    turned = rotation.product(rotation.from_rotvec((0, 0, 0.1)), DOWN)
    first = step_towards((0, 0, 0, *DOWN), (0.001, 0, 0, *turned))
    turn = rotation.product(first[3:], rotation.inverse(DOWN))
    np.testing.assert_allclose(rotation.to_rotvec(turn), [0, 0, STEP_RAD], atol=1e-9)
    assert first[0] == pytest.approx(0.001 * STEP_RAD / 0.1)


def test_the_negative_of_a_quaternion_is_no_turn():
    near = (0.001, 0, 0, -1.0, 0.0, 0.0, 0.0)
    assert step_towards((0, 0, 0, *DOWN), near) == near


class Arm:
    """The SDK as the servo thread calls it."""

    connected = True

    def __init__(self):
        self.calls, self.state, self.code, self.error = [], 2, 0, 0

    def set_servo_cartesian_aa(self, pose, is_radian):
        self.calls.append(("pose", *pose[:3]))
        return self.code

    def set_state(self, state):
        self.calls.append(("state", state))
        self.state = 4
        return 0

    def get_err_warn_code(self):
        self.calls.append(("errors",))
        return 0, [self.error, 0]


@pytest.fixture
def arm():
    return Arm()


@pytest.fixture
def servo(arm):
    thread = ServoThread(arm)
    thread.begin((0.3, 0.0, 0.2, *DOWN))
    yield thread
    thread.close()


def until(condition):
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_it_steps_to_the_target_in_millimetres_and_then_is_silent(servo, arm):
    servo.go((0.32, 0.0, 0.2, *DOWN))
    servo.start()
    until(lambda: servo.there)
    poses = [call[1:] for call in arm.calls if call[0] == "pose"]
    assert poses[-1] == pytest.approx((320, 0, 200))
    assert len(poses) >= 3 and max(np.diff([300, *(x for x, _, _ in poses)])) <= 1000 * STEP_M * (
        1 + 1e-9
    )
    until(lambda: arm.calls[-1] == ("errors",))
    assert servo.in_control and len([c for c in arm.calls if c[0] == "pose"]) == len(poses)


@pytest.mark.parametrize(("level", "state"), [(StopLevel.SOFT, 6), (StopLevel.HARD, 4)])
def test_a_stop_goes_before_everything_else_and_nothing_follows(servo, arm, level, state):
    servo.go((0.6, 0.0, 0.2, *DOWN))
    servo.stop(level)  # before the thread even runs: it must be its first call
    servo.start()
    until(lambda: ("errors",) in arm.calls)
    assert arm.calls[0] == ("state", state)
    assert not any(call[0] == "pose" for call in arm.calls)
    assert not servo.in_control


def test_a_stop_is_sent_again_as_often_as_it_is_asked_for(servo, arm):
    servo.start()
    for _ in range(3):
        servo.stop(StopLevel.HARD)
    until(lambda: arm.calls.count(("state", 4)) == 3)
    assert not servo.in_control and not servo.lost


def test_hold_forgets_the_rest_of_the_way(servo, arm):
    servo.go((0.6, 0.0, 0.2, *DOWN))
    servo.stop(StopLevel.HOLD)
    servo.start()
    until(lambda: ("errors",) in arm.calls)
    assert servo.in_control and not any(call[0] == "pose" for call in arm.calls)


def test_soft_becomes_hard_where_the_firmware_has_no_deceleration(servo, arm, monkeypatch):
    monkeypatch.setattr(
        arm,
        "set_state",
        lambda state: (arm.calls.append(("state", state)), 12 if state == 6 else 0)[1],
    )
    servo.stop(StopLevel.SOFT)
    servo.start()
    until(lambda: ("state", 4) in arm.calls)
    assert not servo.lost


@pytest.mark.parametrize("code", [1, 9])
def test_a_refused_pose_ends_control_and_asks_why(servo, arm, code):
    arm.code, arm.error = code, 31
    servo.go((0.32, 0.0, 0.2, *DOWN))
    servo.start()
    until(lambda: servo.error == 31)
    assert not servo.in_control and not servo.lost
    assert len([call for call in arm.calls if call[0] == "pose"]) == 1


@pytest.mark.parametrize(("code", "lost"), [(3, True), (-1, True), (8, True), (11, False)])
def test_no_answer_is_a_lost_connection(servo, arm, code, lost):
    arm.code = code
    servo.go((0.32, 0.0, 0.2, *DOWN))
    servo.start()
    until(lambda: not servo.in_control)
    assert servo.lost == lost


def test_a_stop_from_outside_is_noticed_without_a_command(servo, arm):
    servo.start()
    arm.state = 4
    until(lambda: not servo.in_control)
    assert "stopped from outside" in servo.detail
