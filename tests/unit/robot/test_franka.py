"""The Franka driver without a robot: its configuration, its features, and when the hand moves."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import pytest

from zprl.errors import ConfigError
from zprl.robot.base import GRIPPER, POSE, WRENCH, Mode, Robot, RobotError, StopLevel
from zprl.robot.franka import make
from zprl.robot.franka_config import FrankaConfig
from zprl.robot.franka_gripper import FrankaGripper


def test_real_robots_need_real_time() -> None:
    assert make({"host": "172.16.0.2"}).simulated is False
    assert make({"host": "127.0.0.7", "realtime": "ignore"}).simulated is True
    for host in ("172.16.0.2", "localhost", "127.0.0.1.example.com"):
        with pytest.raises(ConfigError, match="PREEMPT_RT"):
            make({"host": host, "realtime": "ignore"})


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"host": "127.0.0.7", "stiffness": 100},
        {"host": "127.0.0.7", "translational_stiffness": 1e5},
        {"host": "127.0.0.7", "translational_clip": float("nan")},
        {"host": "127.0.0.7", "load": {"mass": -1}},
        {"host": "127.0.0.7", "realtime": "perhaps"},
    ],
)
def test_bad_config_is_a_config_error(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        make(config)


def test_everything_promised_unconnected() -> None:
    robot = make({"host": "172.16.0.2"})
    assert isinstance(robot, Robot)
    assert list(robot.action_features) == [*POSE, GRIPPER]
    joints = [f"joint_{i}.{what}" for what in ("pos", "vel") for i in range(1, 8)]
    assert list(robot.observation_features) == [*POSE, *WRENCH, GRIPPER, *joints]

    assert robot.health().mode is Mode.DISCONNECTED
    assert not robot.is_connected
    assert robot.is_calibrated
    assert not robot.recover()
    for level in StopLevel:
        robot.stop(level)
    robot.disconnect()

    for call in (
        robot.get_observation,
        robot.now,
        robot.configure,
        lambda: robot.send_action(dict.fromkeys([*POSE, GRIPPER], 1.0)),
    ):
        with pytest.raises(RobotError):
            call()


def test_driver_is_imported_without_its_client() -> None:
    heavy = ("franky", "mujoco", "torch", "zmq")
    code = (
        "import sys, zprl.robot.franka, zprl.robot_sim; "
        f"sys.exit(any(m in sys.modules for m in {heavy}))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class FakeFuture:
    """A future that ends when its event is set, with a result or an error."""

    def __init__(self, result: bool | Exception = True, *, done: bool = True) -> None:
        self.done = threading.Event()
        self.result = result
        if done:
            self.done.set()

    def wait(self, timeout: float) -> bool:
        return self.done.wait(timeout)

    def get(self) -> bool:
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


class FakeGripper:
    """Remembers its commands; the next future is ``self.future``."""

    def __init__(self, host: str) -> None:
        self.width = 0.04
        self.commands: list[tuple[Any, ...]] = []
        self.called = threading.Semaphore(0)
        self.future = FakeFuture()
        FakeGripper.made = self

    @property
    def state(self) -> FakeGripper:
        return self

    def _command(self, *command: Any) -> FakeFuture:
        self.commands.append(command)
        self.called.release()
        return self.future

    def move_async(self, width: float, speed: float) -> FakeFuture:
        return self._command("move", width, speed)

    def grasp_async(
        self, width: float, speed: float, force: float, inner: float, outer: float
    ) -> FakeFuture:
        return self._command("grasp", width, speed, force, inner, outer)

    def stop(self) -> None:
        self._command("stop")
        self.future.result = RuntimeError("command aborted")
        done, self.future = self.future.done, FakeFuture()
        done.set()


@pytest.fixture
def hand(monkeypatch: pytest.MonkeyPatch) -> Any:
    franky = pytest.importorskip("franky")
    monkeypatch.setattr(franky, "Gripper", FakeGripper)
    hand = FrankaGripper(FrankaConfig(host="127.0.0.7", gripper_speed=0.05, gripper_force=15.0))
    hand.start()
    assert hand.ready.wait(5)
    yield hand
    hand.close()


def command(gripper: FakeGripper) -> tuple[Any, ...]:
    assert gripper.called.acquire(timeout=5)
    return gripper.commands[-1]


def test_opening_moves_and_closing_grasps(hand: Any) -> None:
    gripper = FakeGripper.made
    hand.want(0.08)
    assert command(gripper) == ("move", 0.08, 0.05)
    hand.want(0.0)
    assert command(gripper) == ("grasp", 0.0, 0.05, 15.0, 0.08, 0.08)


def test_only_material_changes_are_sent(hand: Any) -> None:
    gripper = FakeGripper.made
    for opening in (0.0449, 0.0351, 0.044, 0.04):  # around 0.04 m, where it was
        hand.want(opening)
    hand.want(0.0455)
    assert command(gripper) == ("move", 0.0455, 0.05)
    assert len(gripper.commands) == 1


def test_a_new_request_ends_the_command_under_way(hand: Any) -> None:
    gripper = FakeGripper.made
    gripper.future = FakeFuture(done=False)
    hand.want(0.08)
    assert command(gripper)[0] == "move"
    hand.want(0.0)
    assert gripper.called.acquire(timeout=5)
    assert gripper.called.acquire(timeout=5)
    assert [entry[0] for entry in gripper.commands] == ["move", "stop", "grasp"]
    assert hand.error == ""  # it failed because we stopped it


def test_a_failure_is_reported_and_not_repeated(hand: Any) -> None:
    gripper = FakeGripper.made
    gripper.future = FakeFuture(RuntimeError("command failed\nlong story"))
    hand.want(0.08)
    command(gripper)
    hand.want(0.079)  # not another request
    gripper.future = FakeFuture()
    hand.want(0.0)
    assert command(gripper)[0] == "grasp"
    assert [entry[0] for entry in gripper.commands] == ["move", "grasp"]
