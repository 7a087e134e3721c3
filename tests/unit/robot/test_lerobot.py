"""The adapter against a fake with LeRobot's semantics: names, units, a slow and failing bus.

And the way back: one of ours for LeRobot's scripts.
"""

from __future__ import annotations

import math
import threading
import time

import pytest

from zprl.errors import ConfigError, EnvironmentProblem
from zprl.robot.base import GRIPPER, POSE, Mode, Ranges, Robot, RobotError, StopLevel
from zprl.robot.lerobot import FAILURES, LeRobotConfig, LeRobotRobot, make, to_lerobot

RANGES = {"speed": 1.0, "acceleration": 10.0, "jerk": 100.0, "gripper_width": 0.07, "reach": 0.45}
TURN = ("ee.wx", "ee.wy", "ee.wz")


class FakeConfig:
    def __init__(self, port, start=0.3):
        self.port, self.start = port, start


class Fake:
    """A follower as LeRobot has them: connects once, and raises when not connected.

    An image is among its features, and the gripper is in per cent.
    """

    name = "fake_follower"

    def __init__(self, config=None):
        self.config = config or FakeConfig("/dev/null")
        self.is_connected, self.is_calibrated, self.calibrated = False, False, 0
        self.state = {
            "ee.x": self.config.start,
            "ee.y": 0.0,
            "ee.z": 0.2,
            "ee.wx": math.pi,
            "ee.wy": 0.0,
            "ee.wz": 0.0,
            "grip": 100.0,
        }
        self.observed, self.sent = threading.Semaphore(0), []
        self.gate, self.at_gate, self.fails = threading.Event(), threading.Event(), False
        self.gate.set()

    @property
    def observation_features(self):
        return {**dict.fromkeys(self.state, float), "front": (480, 640, 3)}

    @property
    def action_features(self):
        return dict.fromkeys(self.state, float)

    def connect(self, calibrate=True):
        if self.is_connected:
            raise RuntimeError("already connected")
        self.is_connected = True
        if calibrate and not self.is_calibrated:
            self.calibrate()
        self.configure()

    def disconnect(self):
        if not self.is_connected:
            raise RuntimeError("not connected")
        self.is_connected = False

    def calibrate(self):
        self.is_calibrated, self.calibrated = True, self.calibrated + 1

    def configure(self):
        pass

    def get_observation(self):
        if not self.gate.is_set():
            self.at_gate.set()
            self.gate.wait(10)
        if self.fails or not self.is_connected:
            raise ConnectionError("no status packet")
        self.observed.release()
        return {**self.state, "front": object()}

    def send_action(self, action):
        self.sent.append(dict(action))
        self.state |= action
        return action


@pytest.fixture
def fake():
    return Fake()


@pytest.fixture
def robot(fake):
    config = LeRobotConfig.model_validate(
        {
            "import": "x:Y",
            "ranges": RANGES,
            "names": {GRIPPER: "grip"},
            "scale": {GRIPPER: 0.0007},
            "rotvec": TURN,
            "rate_hz": 500,
        }
    )
    result = LeRobotRobot(fake, config)
    yield result
    fake.gate.set()
    fake.fails = False
    result.disconnect()


def observed(fake, times=2):
    """Wait for so many more readings of the bus; after two, an action left before was sent."""
    while fake.observed.acquire(blocking=False):
        pass
    for _ in range(times):
        assert fake.observed.acquire(timeout=5)


def until(condition):
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_it_is_a_robot_and_its_features_are_known_unconnected(robot):
    assert isinstance(robot, Robot)
    assert set(robot.observation_features) == set(robot.action_features) == {*POSE, GRIPPER}
    assert robot.limits == Ranges(**RANGES)
    assert not robot.is_connected and robot.health().mode is Mode.DISCONNECTED


def test_names_and_units_are_mapped_both_ways(robot, fake):
    robot.connect()
    assert fake.calibrated == 1
    seen = robot.get_observation()
    assert seen["ee.x"] == 0.3 and seen[GRIPPER] == pytest.approx(0.07)
    assert [seen[key] for key in POSE[3:]] == pytest.approx([1, 0, 0, 0], abs=1e-12)
    action = {
        **seen,
        "ee.x": 0.35,
        GRIPPER: 0.035,
        "ee.qx": 0.0,
        "ee.qz": math.sqrt(0.5),
        "ee.qw": math.sqrt(0.5),
    }
    assert robot.send_action(action) == action
    until(lambda: fake.sent)
    assert fake.sent[0] == pytest.approx(
        {
            "ee.x": 0.35,
            "ee.y": 0.0,
            "ee.z": 0.2,
            "ee.wx": 0.0,
            "ee.wy": 0.0,
            "ee.wz": math.pi / 2,
            "grip": 50.0,
        },
        abs=1e-12,
    )


def test_each_action_is_sent_once_and_only_the_newest(robot, fake):
    robot.connect()
    action = robot.get_observation()
    fake.gate.clear()
    assert fake.at_gate.wait(5)
    for x in (0.31, 0.32, 0.33):
        robot.send_action({**action, "ee.x": x})
    fake.gate.set()
    observed(fake, 3)
    assert fake.sent[-1]["ee.x"] == 0.33
    assert [a["ee.x"] for a in fake.sent].count(0.33) == 1


def test_a_hanging_bus_blocks_nobody_and_makes_the_state_old(robot, fake):
    robot.connect()
    fake.gate.clear()
    assert fake.at_gate.wait(5)

    stamp = robot.state_stamp()
    began = time.monotonic()
    for _ in range(100):
        robot.get_observation()
        robot.send_action({**robot.get_observation(), "ee.x": 0.31})
        robot.health()
        robot.stop(StopLevel.HOLD)
    assert time.monotonic() - began < 0.5
    assert robot.state_stamp() == stamp <= began

    fake.gate.set()
    until(lambda: robot.state_stamp() > stamp)
    assert robot.state_stamp() <= robot.now()


def test_failures_are_reported_and_too_many_are_a_lost_connection(robot, fake):
    robot.connect()
    fake.fails = True
    until(lambda: robot.health().mode is Mode.DISCONNECTED)
    assert robot.health().detail == "no status packet"
    assert not robot.is_connected and not robot.recover()
    for call in (
        robot.get_observation,
        lambda: robot.send_action(dict.fromkeys((*POSE, GRIPPER), 0.5)),
    ):
        with pytest.raises(RobotError, match="no status packet"):
            call()
    fake.fails = False
    robot.connect()
    assert robot.is_connected and robot.get_observation()["ee.x"] == 0.3


def test_fewer_failures_are_forgiven(robot, fake, monkeypatch):
    robot.connect()
    real, left = fake.get_observation, [FAILURES - 1]

    def flaky():
        if left[0]:
            left[0] -= 1
            raise ConnectionError("once more")
        return real()

    monkeypatch.setattr(fake, "get_observation", flaky)
    until(lambda: not left[0])
    observed(fake)
    assert robot.is_connected and robot.health().mode is Mode.IDLE


def test_a_stop_commands_the_measured_pose_and_gives_up_control(robot, fake):
    robot.connect()
    robot.send_action({**robot.get_observation(), "ee.x": 0.4})
    until(lambda: robot.get_observation()["ee.x"] == 0.4)
    robot.stop(StopLevel.SOFT)
    until(lambda: len(fake.sent) == 2)
    robot.stop(StopLevel.HARD)
    robot.stop(StopLevel.HARD)
    assert fake.sent[1]["ee.x"] == 0.4
    assert not robot.is_connected
    with pytest.raises(RobotError, match="was stopped"):
        robot.send_action(robot.get_observation())
    assert len(fake.sent) == 2  # what is stopped already is not commanded again
    assert robot.recover() and robot.is_connected


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ee.x": math.nan}, "not finite"),
        ({"ee.qx": 0.0}, "no direction"),
        ({"ee.y": None}, "lacks 'ee.y'"),
    ],
)
def test_broken_actions_are_refused(robot, fake, change, said):
    robot.connect()
    action = {
        key: value
        for key, value in {
            **robot.get_observation(),
            "ee.qy": 0.0,
            "ee.qz": 0.0,
            "ee.qw": 0.0,
            **change,
        }.items()
        if value is not None
    }
    with pytest.raises(RobotError, match=said):
        robot.send_action(action)
    observed(fake)
    assert fake.sent == []


def test_connecting_that_fails_is_one_sentence(fake, robot, monkeypatch):
    def fail(calibrate=True):
        raise OSError("could not open port /dev/ttyACM0")

    monkeypatch.setattr(fake, "connect", fail)
    with pytest.raises(RobotError, match=r"fake_follower does not connect: could not open port"):
        robot.connect()
    assert not robot.is_connected


def test_a_robot_made_from_a_config():
    here = "tests.unit.robot.test_lerobot"
    config = {
        "import": f"{here}:Fake",
        "config": f"{here}:FakeConfig",
        "kwargs": {"port": "/dev/ttyACM0", "start": 0.25},
        "ranges": RANGES,
        "names": {GRIPPER: "grip"},
        "rotvec": list(TURN),
    }
    robot = make(config)
    assert robot.inner.config.port == "/dev/ttyACM0" and not robot.inner.is_connected

    with pytest.raises(ConfigError, match=r"does not take gripper\.pos"):
        make({**config, "names": {}})
    with pytest.raises(ConfigError, match="has no 'Nobody'"):
        make({**config, "import": f"{here}:Nobody"})
    with pytest.raises(EnvironmentProblem, match="no module 'nowhere'"):
        make({**config, "import": "nowhere:Fake"})
    with pytest.raises(ConfigError, match="import"):
        make({**config, "import": "os.system('true')"})


def test_the_way_back(robot, fake):
    view = to_lerobot(robot)
    assert (
        view.name == "fake_follower"
        and view.cameras == {}
        and set(view.action_features) == {*POSE, GRIPPER}
    )
    with view:
        assert view.is_connected and view.is_calibrated
        seen = view.get_observation()
        assert view.send_action({**seen, "ee.x": 0.32})["ee.x"] == 0.32
        until(lambda: fake.state["ee.x"] == 0.32)
    assert not fake.is_connected


def test_ours_may_be_wrapped_as_theirs_and_wrapped_again(robot):
    again = LeRobotRobot(
        to_lerobot(robot), LeRobotConfig.model_validate({"import": "x:Y", "ranges": RANGES})
    )
    again.connect()
    assert again.get_observation() == pytest.approx(robot.get_observation())
    again.disconnect()
    assert not robot.is_connected


def test_lerobot_itself_finds_everything_it_calls(robot):
    theirs = pytest.importorskip("lerobot.robots.robot", reason="lerobot is not installed")
    assert set(theirs.Robot.__abstractmethods__) <= set(dir(to_lerobot(robot)))
