"""The Franka driver through the unmodified client against the simulated robot: streaming, every fault, and a cube lifted."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from zprl.robot.base import GRIPPER, POSE, Mode, Pose, RobotError, StopLevel

pytest.importorskip("franky", reason="the Franka needs franky-control")
pytest.importorskip("franky_sim", reason="the simulated Franka needs franky-sim")

from zprl.robot.franka import Franka, make
from zprl.robot.rotation import slerp
from zprl.robot_sim import SimProcess
from zprl.robot_sim.faults import (
    BadGripper,
    Freeze,
    LoseStates,
    Push,
    Reflex,
    RefuseRecovery,
    UserStop,
)

pytestmark = pytest.mark.realtime

HOST = "127.0.9.2"
DOWN = (1.0, 0.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def simulated() -> Iterator[SimProcess]:
    with SimProcess(HOST, speed=0, seed=3) as simulated:
        yield simulated


@pytest.fixture
def connect(simulated: SimProcess) -> Iterator[Callable[..., Franka]]:
    """Makes connected drivers and lets go of them."""
    made: list[Franka] = []

    def connect(**config: float) -> Franka:
        made.append(make({"host": simulated.host, "realtime": "ignore", **config}))
        made[-1].connect()
        return made[-1]

    simulated.control.place((0.75, 0.35, 0.022))  # out of the way
    yield connect
    simulated.control.clear()
    for robot in made:
        if not robot.is_connected:
            robot.recover()
        robot.disconnect()


def until(holds: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for something, by the host's clock."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.0005)


def wait(robot: Franka, slot: float) -> float:
    """Wait for a moment of the robot's clock; the time it really is."""
    until(lambda: robot.now() >= slot)
    return robot.now()


def hold_action(robot: Franka) -> dict[str, float]:
    observation = robot.get_observation()
    return {key: observation[key] for key in (*POSE, GRIPPER)}


def tool(robot: Franka) -> np.ndarray:
    return Pose.read(robot.get_observation()).position


@pytest.fixture(scope="module")
def real_time() -> Iterator[SimProcess]:
    """A simulated robot at the speed of the real one, for what is said about gaps."""
    with SimProcess("127.0.9.4", speed=1) as simulated:
        yield simulated


@pytest.mark.parametrize("rate", [10, 20, 50])
def test_streams_at_every_rate(real_time: SimProcess, rate: int) -> None:
    robot = make({"host": real_time.host, "realtime": "ignore"})
    robot.connect()
    before = real_time.control.state().counters
    action, start = hold_action(robot), tool(robot)
    period, slot = 1 / rate, robot.now()
    times, rows = [], []
    for step in range(rate):
        slot += period
        times.append(wait(robot, slot))
        target = action | {"ee.y": start[1] + 0.03 * math.sin(math.pi * step * period)}
        rows.append((target, robot.send_action(target), robot.get_observation()))
    after = real_time.control.state().counters
    robot.disconnect()
    assert max(np.diff(times)) < 2 * period
    for target, sent, observation in rows:
        assert sent == pytest.approx(target, abs=1e-9)
        assert all(map(math.isfinite, observation.values()))
    errors = [
        math.dist([observation[key] for key in POSE[:3]], [target[key] for key in POSE[:3]])
        for target, _, observation in rows
    ]
    assert np.sqrt(np.mean(np.square(errors))) < 0.012
    assert after["reflexes"] == before["reflexes"]
    assert (
        after["answers"] - before["answers"] > 850
    )  # of about 1,000 states: those before the first answer do not count


def test_reads_are_cheap(connect: Callable[..., Franka]) -> None:
    robot = connect()
    times = []
    for _ in range(300):
        start = time.perf_counter()
        robot.get_observation()
        times.append(time.perf_counter() - start)
    assert np.median(times) < 2e-4  # 40 us on an idle machine


def test_scheduling_stays_normal(connect: Callable[..., Franka]) -> None:
    connect()
    found = [os.sched_getscheduler(0)]
    thread = threading.Thread(target=lambda: found.append(os.sched_getscheduler(0)))
    thread.start()
    thread.join()
    child = subprocess.run(
        [sys.executable, "-c", "import os; print(os.sched_getscheduler(0))"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert [*found, int(child.stdout)] == [os.SCHED_OTHER] * 3


def test_reflex_is_named_and_recovered_from(
    connect: Callable[..., Franka], simulated: SimProcess
) -> None:
    robot = connect()
    action, start = hold_action(robot), tool(robot)
    simulated.control.inject(Reflex(flag="joint_velocity_violation"))
    until(lambda: robot.health().mode is Mode.REFLEX)
    assert robot.health().errors == ("joint_velocity_violation",)
    assert not robot.is_connected
    with pytest.raises(RobotError, match="joint_velocity_violation"):
        robot.send_action(action)
    robot.get_observation()  # still there
    assert robot.recover()
    assert robot.health().ok
    assert robot.health().errors == ()
    robot.send_action(action)
    wait(robot, robot.now() + 0.2)
    assert np.linalg.norm(tool(robot) - start) < 0.005


def test_user_stop_waits_for_the_person(
    connect: Callable[..., Franka], simulated: SimProcess
) -> None:
    robot = connect()
    simulated.control.inject(UserStop(pressed=True))
    until(lambda: robot.health().mode is Mode.USER_STOPPED)
    assert not robot.recover()
    with pytest.raises(RobotError, match="user_stopped"):
        make({"host": simulated.host, "realtime": "ignore"}) and robot.send_action(
            hold_action(robot)
        )
    simulated.control.inject(UserStop(pressed=False))
    until(lambda: robot.health().mode is Mode.IDLE)
    assert robot.recover()
    assert robot.is_connected


def test_refused_recovery_says_false(connect: Callable[..., Franka], simulated: SimProcess) -> None:
    robot = connect()
    simulated.control.inject(RefuseRecovery())
    simulated.control.inject(Reflex(flag="cartesian_reflex"))
    until(lambda: robot.health().mode is Mode.REFLEX)
    assert not robot.recover()
    assert robot.health().mode is Mode.REFLEX
    simulated.control.inject(RefuseRecovery(on=False))
    assert robot.recover()


def test_connect_to_a_robot_in_reflex_says_so(simulated: SimProcess) -> None:
    simulated.control.inject(Reflex(flag="power_limit_violation"))
    robot = make({"host": simulated.host, "realtime": "ignore"})
    try:
        with pytest.raises(RobotError, match="power_limit_violation"):
            robot.connect()
        assert robot.health().mode is Mode.REFLEX
        assert robot.recover()
        assert robot.is_connected
    finally:
        robot.disconnect()


def test_muted_states_show_as_a_stamp_that_stands(
    connect: Callable[..., Franka], simulated: SimProcess
) -> None:
    robot = connect()
    before = simulated.control.state().counters["lost_states"]
    start = robot.state_stamp()
    simulated.control.inject(LoseStates(share=1.0, seconds=0.2))
    stamps = [start]
    while stamps[-1] < start + 1.0:
        stamps.append(robot.state_stamp())
    assert max(np.diff(stamps)) >= 0.19  # the client itself notices nothing
    assert simulated.control.state().counters["lost_states"] - before in range(190, 211)
    assert robot.is_connected
    assert robot.health().ok


def test_a_tenth_of_lost_states_is_survived(
    connect: Callable[..., Franka], simulated: SimProcess
) -> None:
    robot = connect()
    before = simulated.control.state().counters["lost_states"]
    end = robot.now() + 1.0
    simulated.control.inject(LoseStates(share=0.1, seconds=1.0))
    wait(robot, end + 0.1)
    assert (
        60 < simulated.control.state().counters["lost_states"] - before < 140
    )  # 100 +- 4 standard deviations of 9.5
    assert robot.is_connected


def test_frozen_robot_never_blocks_and_is_rebuilt(
    connect: Callable[..., Franka], simulated: SimProcess
) -> None:
    robot = connect()
    simulated.control.inject(Freeze(seconds=1.6))
    begin = time.monotonic()
    slowest, stood, lost = 0.0, 0.0, None
    while time.monotonic() - begin < 1.5:
        start = time.monotonic()
        try:
            stamp = robot.state_stamp()
            robot.get_observation()
        except RobotError:
            lost = lost or time.monotonic() - begin
        health = robot.health()
        slowest = max(slowest, time.monotonic() - start)
        if lost is None:
            stood = time.monotonic() - begin
        time.sleep(0.005)
    assert stood > 0.3  # long enough for a session's own stale check, which must fire first
    assert lost is not None
    assert health.mode is Mode.DISCONNECTED
    assert slowest < 0.2
    assert not robot.recover()
    until(lambda: simulated.control.state().time > stamp + 0.01)
    robot.connect()
    assert robot.is_connected
    robot.send_action(hold_action(robot))


def test_absent_robot_is_an_error_at_once() -> None:
    robot = make({"host": "127.0.9.99", "realtime": "ignore"})
    with pytest.raises(RobotError, match=r"127\.0\.9\.99"):
        robot.connect()
    assert robot.health().mode is Mode.DISCONNECTED


def test_push_is_measured_and_moves_the_arm(
    connect: Callable[..., Franka], simulated: SimProcess
) -> None:
    robot = connect()
    start, begin = tool(robot), robot.now()
    simulated.control.inject(Push(force=(0.0, 0.0, -16.0), ramp=0.4, seconds=0.6))
    seen = []
    while (now := robot.now()) < begin + 0.95:
        seen.append((now - begin, robot.get_observation()["ee.fz"]))
        wait(robot, now + 0.01)
    times, forces = np.array(seen).T
    assert min(forces) == pytest.approx(-16.0, abs=0.5)
    halfway = forces[np.argmin(abs(times - 0.2))]
    assert -13.0 < halfway < -4.0  # the ramp: -8 N, however late the request arrived
    # 16 N on a spring of 2,000 N/m give 8 mm, less what dry friction in the joints holds back.
    assert -0.009 < tool(robot)[2] - start[2] < -0.004
    wait(robot, begin + 1.6)
    assert abs(robot.get_observation()["ee.fz"]) < 0.1


def test_a_push_ends_when_it_is_cleared(
    connect: Callable[..., Franka], simulated: SimProcess
) -> None:
    robot = connect()
    simulated.control.inject(Push(force=(0.0, 0.0, -16.0), seconds=60.0))
    wait(robot, robot.now() + 0.3)
    assert robot.get_observation()["ee.fz"] == pytest.approx(-16.0, abs=0.5)
    simulated.control.clear()
    wait(robot, robot.now() + 0.5)
    assert abs(robot.get_observation()["ee.fz"]) < 0.1


def test_collision_threshold_of_the_client_makes_a_reflex(
    connect: Callable[..., Franka], simulated: SimProcess
) -> None:
    robot = connect(collision_force=15.0)
    simulated.control.inject(Push(force=(25.0, 0.0, 0.0), seconds=0.3))
    until(lambda: robot.health().mode is Mode.REFLEX)
    assert robot.health().errors == ("cartesian_reflex",)
    until(lambda: robot.now() > 0 and abs(robot.get_observation()["ee.fx"]) < 1.0)
    assert robot.recover()


def test_slow_gripper_does_not_block(connect: Callable[..., Franka], simulated: SimProcess) -> None:
    robot = connect()
    simulated.control.inject(BadGripper(delay=1.0))
    opening = robot.get_observation()[GRIPPER]
    wanted = 0.07 if opening < 0.05 else 0.03
    action, begin, slowest = hold_action(robot) | {GRIPPER: wanted}, robot.now(), 0.0
    while (now := robot.now()) < begin + 0.8:
        start = time.monotonic()
        robot.send_action(action)
        assert robot.get_observation()[GRIPPER] == pytest.approx(opening, abs=1e-3)
        slowest = max(slowest, time.monotonic() - start)
        wait(robot, now + 0.02)
    assert slowest < 0.1
    until(lambda: abs(robot.get_observation()[GRIPPER] - opening) > 0.01)


def test_failing_gripper_is_told_and_not_repeated(
    connect: Callable[..., Franka], simulated: SimProcess
) -> None:
    robot = connect()
    simulated.control.inject(BadGripper(fail=True))
    before = simulated.control.state().counters["gripper_commands"]
    wanted = 0.07 if robot.get_observation()[GRIPPER] < 0.05 else 0.03
    action = hold_action(robot) | {GRIPPER: wanted}
    robot.send_action(action)
    until(lambda: robot.health().detail.startswith("hand:"))
    assert robot.health().ok
    for _ in range(20):
        wait(robot, robot.now() + 0.02)
        robot.send_action(action)
    assert simulated.control.state().counters["gripper_commands"] == before + 1
    simulated.control.clear()
    robot.send_action(action | {GRIPPER: 0.1 - wanted})
    until(lambda: robot.health().detail == "")


def test_small_changes_do_not_reach_the_gripper(
    connect: Callable[..., Franka], simulated: SimProcess
) -> None:
    robot = connect()
    before = simulated.control.state().counters["gripper_commands"]
    action = hold_action(robot)
    for i in range(30):
        robot.send_action(action | {GRIPPER: action[GRIPPER] + 0.004 * (-1) ** i})
        wait(robot, robot.now() + 0.02)
    assert simulated.control.state().counters["gripper_commands"] == before


_CLIENT = """
import sys, time
from zprl.robot.franka import make
robot = make({"host": sys.argv[1], "realtime": "ignore"})
robot.connect()
action = {k: v for k, v in robot.get_observation().items() if k in robot.action_features}
print("streaming", flush=True)
while True:
    robot.send_action(action)
    time.sleep(0.005)
"""


@pytest.fixture
def client(simulated: SimProcess) -> Iterator[subprocess.Popen[str]]:
    """Another process that streams."""
    process = subprocess.Popen(
        [sys.executable, "-c", _CLIENT, simulated.host], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "streaming\n"
    yield process
    process.kill()
    process.wait()


def test_killed_client_leaves_a_robot_that_holds(
    simulated: SimProcess, client: subprocess.Popen[str], connect: Callable[..., Franka]
) -> None:
    start = np.array(simulated.control.state().tool[:3])
    client.send_signal(signal.SIGKILL)
    until(lambda: not simulated.control.state().connected)
    end = simulated.control.state().time + 0.3
    until(lambda: simulated.control.state().time > end)
    assert np.linalg.norm(np.array(simulated.control.state().tool[:3]) - start) < 0.005
    assert connect().is_connected


def test_stopped_client_is_a_communication_error(
    simulated: SimProcess, client: subprocess.Popen[str], connect: Callable[..., Franka]
) -> None:
    client.send_signal(signal.SIGSTOP)  # 20 answers missing, 20 ms of patience each
    until(lambda: simulated.control.state().mode == "reflex")
    assert simulated.control.state().counters["missed"] >= 20
    client.kill()
    until(lambda: not simulated.control.state().connected)
    robot = make({"host": simulated.host, "realtime": "ignore"})
    try:
        with pytest.raises(RobotError, match="communication_constraints_violation"):
            robot.connect()
        assert robot.recover()
    finally:
        robot.disconnect()


def test_process_that_forgets_to_disconnect_ends_well(simulated: SimProcess) -> None:
    code = "import sys; from zprl.robot.franka import make; make({'host': sys.argv[1], 'realtime': 'ignore'}).connect()"
    ended = subprocess.run(
        [sys.executable, "-c", code, simulated.host],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    until(lambda: not simulated.control.state().connected)
    assert simulated.control.state().mode == "idle"


def test_stops_many_times(connect: Callable[..., Franka]) -> None:
    """A stop right after control was taken, again and again: libfranka's threads must not cross each other."""
    robot = connect()
    for level in (StopLevel.SOFT, StopLevel.HARD) * 8:
        robot.stop(level)
        robot.stop(level)
        with pytest.raises(RobotError):
            robot.send_action(hold_action(robot))
        wait(robot, robot.now() + 0.05)
        assert robot.recover(), level


def test_lifts_the_cube(connect: Callable[..., Franka], simulated: SimProcess) -> None:
    robot = connect()
    cube = np.array(simulated.control.reset(seed=0, number=1).cube[:3])
    feed = simulated.tracker()
    start = Pose.read(robot.get_observation())
    reference, slot, turned, errors = start.position.copy(), robot.now(), 0.0, []
    above = cube[:2]
    for target, opening, steps in (
        ((*above, 0.14), 0.08, 110),
        ((*above, 0.02), 0.08, 50),
        ((*above, 0.02), 0.0, 50),
        ((*above, 0.28), 0.0, 80),
    ):
        for _ in range(steps):
            slot += 0.02
            wait(robot, slot)
            way = np.array(target) - reference
            reference = reference + way * min(1.0, 0.005 / max(np.linalg.norm(way), 1e-9))
            turned = min(1.0, turned + 0.015)
            quaternion = slerp(tuple(start.quaternion), DOWN, turned)
            robot.send_action(Pose(reference, np.array(quaternion)).features() | {GRIPPER: opening})
            errors.append(np.linalg.norm(tool(robot) - reference))
    state = simulated.control.state()
    assert state.lifted
    assert state.cube[2] > 0.25
    assert robot.get_observation()[GRIPPER] == pytest.approx(0.044, abs=0.003)
    assert robot.get_observation()["ee.fz"] == pytest.approx(
        -0.06 * 9.81, abs=0.1
    )  # it hangs on the tool
    assert np.sqrt(np.mean(np.square(errors))) < 0.015
    assert feed.poll(1.0)
    assert np.linalg.norm(feed.pose[:3] - state.cube[:3]) < 0.02
    feed.close()


def test_double_dies_with_its_parent() -> None:
    code = """
import time
from zprl.robot_sim import SimProcess
with SimProcess("127.0.9.3") as simulated:
    print(simulated.pid, flush=True)
    time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    os.kill(pid, 0)
    parent.kill()
    parent.wait()

    def gone() -> bool:
        try:
            return open(f"/proc/{pid}/stat").read().split()[2] == "Z"
        except FileNotFoundError:
            return True

    until(gone, 5.0)
