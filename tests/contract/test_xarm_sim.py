"""The driver and the unmodified SDK against the simulated robot: streaming, stops, errors, silence.  Ports 502 and 503 need root."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import threading
import time

import pytest

from zprl.errors import DataError
from zprl.robot.base import GRIPPER, Mode, RobotError, StopLevel
from zprl.robot.check import check_robot
from zprl.robot.lerobot import LeRobotConfig, LeRobotRobot, to_lerobot
from zprl.robot.multi_arm import MultiArm
from zprl.robot.xarm import make
from zprl.robot_sim.xarm_box import HOME, MAX_STEP_M
from zprl.robot_sim.xarm_server import SimulatedXArm

pytest.importorskip("xarm", reason="needs xarm-python-sdk")

HOST = "127.0.0.59"


def _may_listen() -> bool:
    try:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((HOST, 502))
    except OSError:
        return False
    return True


pytestmark = [
    pytest.mark.skipif(
        not _may_listen(), reason="the SDK knows no other port than 502, which needs root"
    ),
    pytest.mark.realtime,
]


@pytest.fixture(scope="module")
def process():
    with SimulatedXArm(HOST) as found:
        yield found


@pytest.fixture
def simulated(process):
    process.change(
        error=0,
        latched=False,
        muted=False,
        deaf=False,
        line_s=0.01,
        late_s=0,
        gripper_fault=0,
        object_m=-1,
    )
    return process


@pytest.fixture
def robot(simulated):
    found = make({"host": HOST})
    found.connect()
    yield found
    found.disconnect()


def until(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def goal(robot, **change):
    return {
        **{key: robot.get_observation()[key] for key in robot.action_features},
        **{k.replace("_", "."): v for k, v in change.items()},
    }


def test_it_connects_holding_its_pose(robot, simulated):
    state = simulated.change()
    assert (state.mode, state.state, state.enabled, state.activated) == (1, 2, True, True)
    assert robot.is_connected and robot.health().mode is Mode.IDLE
    assert state.counters["unknown"] == 0
    seen = robot.get_observation()
    assert [seen[k] for k in ("ee.x", "ee.y", "ee.z")] == pytest.approx(state.pose[:3], abs=1e-6)
    assert abs(seen["ee.qx"]) == pytest.approx(1)
    assert seen[GRIPPER] == pytest.approx(state.opening, abs=0.085 / 255)
    assert robot.name == "xarm" and set(seen) == set(robot.observation_features)


def test_the_driver_keeps_every_rule_of_the_contract(simulated):
    check_robot(lambda: make({"host": HOST}))


def test_so_does_a_pair_of_them(simulated):
    with SimulatedXArm("127.0.0.58") as other:
        check_robot(
            lambda: MultiArm({"left.": make({"host": HOST}), "right.": make({"host": other.host})}),
            prefix="right.",
        )


def test_so_does_it_as_a_robot_of_lerobots(simulated):
    ranges = {
        "speed": 1.0,
        "acceleration": 10.0,
        "jerk": 100.0,
        "gripper_width": 0.085,
        "reach": 0.7,
    }
    config = LeRobotConfig.model_validate({"import": "zprl.robot.xarm:XArm", "ranges": ranges})
    check_robot(lambda: LeRobotRobot(to_lerobot(make({"host": HOST})), config))


def test_it_streams_at_100_hz_and_the_arm_follows(robot, simulated):
    before = simulated.change()
    start = robot.get_observation()
    slowest, slot = 0.0, time.monotonic()
    for i in range(1, 101):
        action = goal(robot) | {"ee.x": start["ee.x"], "ee.y": 0.04 * math.sin(i / 16), "ee.z": 0.2}
        began = time.perf_counter()
        assert robot.send_action(action) == pytest.approx(action)
        slowest = max(slowest, time.perf_counter() - began)
        slot += 0.01
        time.sleep(max(0.0, slot - time.monotonic()))
    assert slowest < 0.05  # a tick at most, with room for a busy machine
    until(lambda: abs(robot.get_observation()["ee.y"] - action["ee.y"]) < 2e-4)
    after = simulated.change()
    assert after.counters["ignored"] == before.counters["ignored"]
    assert after.counters["poses"] - before.counters["poses"] >= 50


def test_states_keep_coming_with_stamps_that_never_lie_ahead(robot):
    stamps = []
    for _ in range(20):
        stamp = robot.state_stamp()
        assert stamp <= robot.now()
        until(lambda stamp=stamp: robot.state_stamp() > stamp, 1.0)
        stamps.append(stamp)
    assert stamps == sorted(stamps)


def test_a_far_target_is_reached_without_a_step_that_would_be_ignored(robot, simulated):
    before = simulated.change()
    to = robot.get_observation()["ee.x"] + 12 * MAX_STEP_M
    robot.send_action(goal(robot) | {"ee.x": to})
    assert robot.health().mode is Mode.MOVING
    until(lambda: abs(robot.get_observation()["ee.x"] - to) < 1e-4)
    until(lambda: robot.health().mode is Mode.IDLE)
    after = simulated.change()
    assert after.counters["ignored"] == before.counters["ignored"]
    assert after.counters["poses"] - before.counters["poses"] >= 13
    robot.send_action(goal(robot) | {"ee.x": HOME[0]})
    until(lambda: abs(robot.get_observation()["ee.x"] - HOME[0]) < 1e-4)


def test_orientation_arrives_turned_as_asked(robot):
    half = 0.3
    robot.send_action(
        goal(robot) | {"ee.qx": math.cos(half), "ee.qy": math.sin(half), "ee.qz": 0.0, "ee.qw": 0.0}
    )  # a yaw of 0.6
    until(lambda: abs(robot.get_observation()["ee.qy"] - math.sin(half)) < 1e-4)
    assert robot.get_observation()["ee.qx"] == pytest.approx(math.cos(half), abs=1e-4)
    robot.send_action(goal(robot) | {"ee.qx": 1.0, "ee.qy": 0.0, "ee.qz": 0.0, "ee.qw": 0.0})
    until(lambda: abs(robot.get_observation()["ee.qy"]) < 1e-4)


def test_the_gripper_closes_on_an_object_and_opens(robot, simulated):
    robot.send_action(goal(robot) | {GRIPPER: 0.085})
    until(lambda: robot.get_observation()[GRIPPER] > 0.084)
    simulated.change(object_m=0.04)
    robot.send_action(goal(robot) | {GRIPPER: 0.0})
    until(lambda: abs(robot.get_observation()[GRIPPER] - 0.04) < 4e-4)
    simulated.change(object_m=-1)
    robot.send_action(goal(robot) | {GRIPPER: 0.06})
    until(lambda: abs(robot.get_observation()[GRIPPER] - 0.06) < 4e-4)


def test_a_slow_gripper_delays_nobody(robot, simulated):
    simulated.change(line_s=0.3)
    time.sleep(0.05)  # lets an exchange begin
    moved, began, count = (
        robot.state_stamp(),
        time.monotonic(),
        simulated.change().counters["poses"],
    )
    x, slowest = robot.get_observation()["ee.x"], 0.0
    for i in range(40):
        before = time.perf_counter()
        robot.send_action(goal(robot) | {"ee.x": x + 0.001 * (i % 5), GRIPPER: 0.02 + 0.001 * i})
        slowest = max(slowest, time.perf_counter() - before)
        time.sleep(0.01)
    assert slowest < 0.05
    assert robot.state_stamp() > moved
    assert simulated.change().counters["poses"] - count >= 0.3 * (time.monotonic() - began) / 0.01


def test_a_gripper_fault_is_told_and_the_arm_stays_usable(robot, simulated):
    simulated.change(gripper_fault=14)
    until(lambda: robot.health().detail == "gripper: fault 14")
    assert robot.is_connected


@pytest.mark.parametrize("late_s", [0.0, 0.4])
@pytest.mark.parametrize("level", [StopLevel.SOFT, StopLevel.HARD])
def test_a_stop_stops_and_recover_takes_control_again(robot, simulated, level, late_s):
    simulated.change(late_s=late_s)
    robot.send_action(goal(robot) | {"ee.x": HOME[0] + 0.2})
    until(lambda: simulated.change().pose[0] > HOME[0] + 0.03)
    began = time.monotonic()
    robot.stop(level)
    assert time.monotonic() - began < 0.1
    until(lambda: simulated.change().state == 4)
    at = simulated.change().pose[0]
    assert HOME[0] + 0.03 < at < HOME[0] + 0.15 and not robot.is_connected
    with pytest.raises(RobotError, match="takes no commands"):
        robot.send_action(goal(robot))
    assert robot.recover() and robot.is_connected
    assert simulated.change().pose[0] == pytest.approx(
        at, abs=1e-4
    )  # holds: the old target is forgotten
    robot.send_action(goal(robot) | {"ee.x": HOME[0]})
    until(lambda: abs(simulated.change().pose[0] - HOME[0]) < 1e-4)
    until(lambda: abs(robot.get_observation()["ee.x"] - HOME[0]) < 1e-4)
    assert robot.is_connected


def test_hold_keeps_control(robot, simulated):
    robot.send_action(goal(robot) | {"ee.x": HOME[0] + 0.2})
    robot.stop(StopLevel.HOLD)
    until(lambda: robot.health().mode is Mode.IDLE)
    assert robot.is_connected and simulated.change().pose[0] < HOME[0] + 0.1


def test_a_collision_is_a_reflex_that_recover_clears(robot, simulated):
    robot.send_action(goal(robot) | {"ee.x": HOME[0] + 0.1})
    simulated.change(error=31)
    until(lambda: robot.health().mode is Mode.REFLEX, 1.0)
    assert robot.health().errors == ("collision",) and not robot.is_connected
    with pytest.raises(RobotError, match="collision"):
        robot.send_action(goal(robot))
    assert robot.recover()
    assert robot.health().mode is Mode.IDLE and simulated.change().error == 0


def test_a_pressed_emergency_stop_is_a_persons_to_release(robot, simulated):
    simulated.change(error=2, latched=True)
    until(lambda: robot.health().mode is Mode.USER_STOPPED, 1.0)
    assert robot.health().errors == ("emergency_stop_input",)
    assert not robot.recover()
    simulated.change(error=0, latched=False)  # released, and cleared at the console
    assert robot.recover() and robot.is_connected


def test_a_servo_error_is_not_cleared_by_a_program(robot, simulated):
    simulated.change(error=11)
    until(lambda: robot.health().mode is Mode.ERROR, 1.0)
    assert not robot.recover() and simulated.change().error == 11


def test_an_error_that_comes_back_is_not_recovered(robot, simulated):
    simulated.change(error=31, latched=True)
    until(lambda: robot.health().mode is Mode.REFLEX, 1.0)
    assert not robot.recover() and not robot.is_connected


def test_a_pause_at_the_console_is_the_users(robot, simulated):
    simulated.change(state=3)
    until(lambda: robot.health().mode is Mode.USER_STOPPED and not robot.is_connected, 1.0)
    assert not robot.recover()


def test_muted_states_make_the_stamp_stand_still(robot, simulated):
    simulated.change(muted=True)
    time.sleep(0.05)
    stamp = robot.state_stamp()
    time.sleep(0.15)
    assert robot.state_stamp() == stamp
    simulated.change(muted=False)
    until(lambda: robot.state_stamp() > stamp)


def test_a_deaf_control_box_is_noticed_and_blocks_nobody(robot, simulated):
    simulated.change(deaf=True)
    robot.send_action(goal(robot) | {"ee.x": HOME[0] + 0.01})
    began = time.monotonic()
    robot.stop(StopLevel.HARD)
    robot.health()
    assert time.monotonic() - began < 0.1
    until(lambda: robot.health().mode is Mode.DISCONNECTED, 3.0)
    with pytest.raises(RobotError, match="not connected"):
        robot.get_observation()
    simulated.change(deaf=False)
    robot.connect()
    assert robot.is_connected


def test_a_frozen_one_goes_stale_and_a_dead_one_is_lost(simulated):
    with SimulatedXArm("127.0.0.58") as other:
        robot = make({"host": "127.0.0.58", "gripper": "none"})
        robot.connect()
        os.kill(other.pid, signal.SIGSTOP)
        time.sleep(0.05)
        stamp = robot.state_stamp()
        time.sleep(0.1)
        assert robot.state_stamp() == stamp
        os.kill(other.pid, signal.SIGCONT)
        until(lambda: robot.state_stamp() > stamp)
        os.kill(other.pid, signal.SIGKILL)
        until(lambda: robot.health().mode is Mode.DISCONNECTED, 3.0)
        robot.disconnect()
    with pytest.raises(RobotError, match="does not answer"):
        robot.connect()


def test_settings_are_written_in_the_sdks_units(simulated):
    tool = {
        "offset": [0.0, 0.001, 0.174],
        "turn": [0.0, 0.0, 0.5],
        "mass": 0.925,
        "centre": [0.0, 0.0, 0.06],
    }
    robot = make({"host": HOST, "tool": tool, "collision_sensitivity": 4})
    robot.connect()
    state = simulated.change()
    robot.disconnect()
    assert state.tool_offset == pytest.approx((0, 1, 174, 0, 0, 0.5))
    assert state.load == pytest.approx((0.925, 0, 0, 60))
    assert state.sensitivity == 4 and state.mode == 1


def test_another_arm_than_configured_is_refused(simulated):
    with pytest.raises(RobotError, match="has 7 joints, not 6"):
        make({"host": HOST, "axes": 6}).connect()


def test_connecting_and_leaving_leaves_nothing_behind(simulated):
    robot = make({"host": HOST})
    for _ in range(2):
        robot.connect()
        robot.disconnect()
        assert simulated.change().state == 4
        assert not robot.is_connected and robot.health().mode is Mode.DISCONNECTED
    assert socket.getdefaulttimeout() is None
    assert not [
        thread for thread in threading.enumerate() if thread.name in ("xarm-servo", "xarm-gripper")
    ]


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\x01\x00\x02\xff\xff",
        b"\x00" * 64,
        b"\x00\x01\x00\x02\x00\x02\x5d\x00",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_nonsense_on_the_wire_does_not_end_the_simulated_robot(simulated, sent):
    with socket.create_connection((HOST, 502), timeout=2) as sock:
        sock.sendall(sent)
    assert simulated.change().enabled in (True, False)


def test_the_control_socket_takes_known_changes_only(simulated):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(2)
        sock.connect(str(simulated.folder / "control"))
        sock.sendall(b'{"errror": 1}\n')
        assert "error" in json.loads(sock.makefile().readline())
    with pytest.raises((DataError, ValueError)):
        simulated.change(error=300)
