"""Isaac Gym's worlds over a stand-in for Preview 4 (``tests/fake_isaacgym``), in a child interpreter as the real one would be."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from zprl import envs, seeding
from zprl.config import Task
from zprl.envs.check import check_env
from zprl.envs.isaacgym import client
from zprl.envs.isaacgym.worker import kinematics, wire
from zprl.envs.rotation import DOWN_6D
from zprl.errors import ConfigError, DataError, EnvironmentProblem

FAKE = Path(__file__).parents[1] / "fake_isaacgym"
N, STEPS = 4, 130


@pytest.fixture(autouse=True)
def lab(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A lab's settings; this very Python stands in for 3.8."""
    monkeypatch.setenv(client.PYTHON_VARIABLE, sys.executable)
    monkeypatch.setenv(client.ANY_PYTHON_VARIABLE, "1")
    monkeypatch.setenv(client.ASSETS_VARIABLE, str(FAKE / "assets"))
    monkeypatch.setenv("PYTHONPATH", str(FAKE))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv(client.TASKS_VARIABLE, raising=False)
    monkeypatch.delenv("FAKE_ISAACGYM", raising=False)
    return monkeypatch


def make(num_envs: int = 2, **task: object) -> client.IsaacGymWorlds:
    return envs.make(
        Task.model_validate({"name": "isaacgym/lift-cube", "episode_steps": 12} | task),
        num_envs=num_envs,
    )


def test_it_keeps_the_contract() -> None:
    check_env(lambda: make(3))


@pytest.mark.parametrize("frame", ["world", "local"])
def test_a_scripted_pick_lifts_every_cube(lab: pytest.MonkeyPatch, frame: str) -> None:
    """Inverse kinematics, frames (whichever Gym's tensors count from), gripping, success, auto-reset."""
    lab.setenv("FAKE_ISAACGYM", frame)
    with make(N, episode_steps=STEPS) as env:
        obs = env.reset(5)
        # Isaac Lab's Franka with these joints has its tool at (0.463, 0, 0.385): two descriptions
        # of one robot.
        assert torch.allclose(
            obs["robot0_eef_pos"], torch.tensor([0.463, 0.0, 0.385]).expand(N, 3), atol=1e-3
        )
        cube = obs["object"][:, :3]
        assert torch.allclose(cube[:, 2], torch.full((N,), 0.024), atol=1e-6)
        assert (
            (cube[:, :2] - torch.tensor([0.5, 0.0])).abs() <= torch.tensor([0.1, 0.25]) + 1e-6
        ).all()
        won, down = torch.zeros(N, dtype=torch.bool), torch.tensor(DOWN_6D).expand(N, 6)
        for step in range(110):
            height = 0.15 if step < 40 else 0.024 if step < 75 else 0.3
            target = torch.cat((cube[:, :2], torch.full((N, 1), height)), 1)
            grip = torch.full((N, 1), 1.0 if step < 60 else -1.0)
            result = env.step(torch.cat((target, down, grip), 1))
            if step == 39:
                assert torch.allclose(result.obs["robot0_eef_pos"], target, atol=1e-3)
                assert (result.obs["robot0_eef_quat"][:, 0].abs() > 0.9999).all()  # straight down
            if step == 74:
                assert torch.allclose(
                    result.obs["robot0_gripper_qpos"], torch.full((N, 2), 0.024), atol=1e-4
                )  # half the cube
                assert (result.obs["robot0_gripper_command"] == -1).all()
            fresh = result.success & ~won
            assert torch.equal(result.terminated, result.success)
            assert (result.final_obs["object"][fresh, 2] > 0.15).all()
            assert torch.allclose(result.obs["object"][fresh, 2], torch.tensor(0.024), atol=1e-6)
            assert (result.obs["robot0_gripper_command"][fresh] == 1).all()
            # What Gym has not computed yet: the next episode's tool is where all begin, not where
            # this one's ended.
            assert torch.allclose(
                result.obs["robot0_eef_pos"][fresh], env.hold()[fresh, :3], atol=1e-6
            )
            assert (
                (result.final_obs["robot0_eef_pos"] - env.hold()[:, :3])[fresh].norm(dim=1) > 0.1
            ).all()
            won |= result.success
            if won.all():
                break
        assert won.all()


def test_starts_are_a_function_of_seed_environment_and_episode() -> None:
    with make(3, episode_steps=10) as env:

        def starts(seed: int) -> list[torch.Tensor]:
            found = [env.reset(seed)["object"][:, :2]]
            for _ in range(20):
                result = env.step(env.hold())
                if result.truncated.any():
                    found.append(result.obs["object"][:, :2])
            return found

        one, other, again = starts(1), starts(2), starts(1)
        assert len(one) == 3
        assert not torch.equal(one[0], one[1]) and not torch.equal(one[0], other[0])
        assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
        # The third episodes' starts by hand: middle (0.5, 0), up to 0.1 and 0.25 m beside it.
        draws = torch.rand(3, 2, generator=seeding.torch_generator(1, "isaacgym-start", 2))
        assert torch.allclose(
            one[2],
            torch.tensor([0.5, 0.0]) + (2 * draws - 1) * torch.tensor([0.1, 0.25]),
            atol=1e-6,
        )


def test_first_steps_know_nothing_of_the_episode_before() -> None:
    """Gym's poses and Jacobians are the last episode's until it simulates; the stand-in has no other memory, so all bits are equal."""
    target = torch.tensor([[0.45, 0.1, 0.3, *DOWN_6D, 1.0]]).repeat(2, 1)
    with make(2, episode_steps=60) as env:
        env.reset(5)
        fresh = env.step(target).obs
        for _ in range(30):
            env.step(torch.tensor([[0.6, -0.3, 0.1, *DOWN_6D, -1.0]]).repeat(2, 1))
        env.reset(5)
        again = env.step(target).obs
    assert all(torch.equal(fresh[key], again[key]) for key in fresh)


def test_no_target_can_whip_the_arm_or_leave_the_workspace() -> None:
    with make(2, episode_steps=60) as env:
        tool = env.reset(0)["robot0_eef_pos"]
        for _ in range(59):
            result = env.step(torch.tensor([[0.5, 9.0, -9.0, *DOWN_6D, 1.0]]).repeat(2, 1))
            assert (result.obs["robot0_eef_pos"] - tool).norm(dim=1).max() < 0.1
            tool = result.obs["robot0_eef_pos"]
        assert (tool[:, 1] < 0.41).all() and (tool[:, 2] > 0.0).all()


def test_scene_and_refusals() -> None:
    with make(2) as env:
        with pytest.raises(EnvironmentProblem, match=r"before the first reset"):
            env.step(env.hold())
        obs = env.reset(0)
        poses = env.scene()
        assert set(poses) >= {
            "panda_link0",
            "panda_link7",
            "panda_hand",
            "panda_leftfinger",
            "cube",
        }
        assert torch.equal(poses["cube"], obs["object"][:, :7])
        with pytest.raises(DataError, match=r"environment\(s\) \[1\]"):
            env.step(env.hold().index_fill(0, torch.tensor([1]), float("nan")))
    with pytest.raises(EnvironmentProblem, match="closed"):
        env.reset(0)
    with pytest.raises(ConfigError, match="cameras"):
        make(cameras=("front",))


def test_a_labs_own_task_is_a_file_in_its_folder(lab: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shipped = Path(client.__file__).with_name("lift_cube.py").read_text()
    second = """
BOXES["tray"] = {
    "edges": (0.1, 0.1, 0.02),
    "density": 100.0,
    "friction": 1.0,
    "middle": (0.5, 0.3),
    "spread": (0.0, 0.0),
}
"""
    own = shipped.replace("CONTROL_HZ = 50.0", "CONTROL_HZ = 20.0") + second
    (tmp_path / "cube_and_tray.py").write_text(own)
    (tmp_path / "half.py").write_text("CONTROL_HZ = 50.0\n")
    lab.setenv(client.TASKS_VARIABLE, str(tmp_path))
    with make(2, name="isaacgym/cube-and-tray") as env:
        assert env.spec.control_hz == 20.0
        env.reset(0)
        assert torch.allclose(
            env.scene()["tray"], torch.tensor([0.5, 0.3, 0.01, 0, 0, 0, 1]).expand(2, 7), atol=1e-6
        )
    with pytest.raises(EnvironmentProblem, match=r"half\.py has no PHYSICS_STEPS"):
        make(name="isaacgym/half")
    with pytest.raises(
        ConfigError,
        match=r"no task is named 'isaacgym/nothing'(?s:.*)isaacgym/lift-cube, isaacgym/cube-and-tray",
    ):
        make(name="isaacgym/nothing")


# -- what a lab must put right: exit code 4 and a remedy -------------------------------------------


def problem(**task: object) -> EnvironmentProblem:
    with pytest.raises(EnvironmentProblem) as caught, make(**task):  # type: ignore[arg-type]
        pass
    assert caught.value.exit_code == 4 and caught.value.remedy
    return caught.value


def test_no_python_is_named(lab: pytest.MonkeyPatch) -> None:
    lab.delenv(client.PYTHON_VARIABLE)
    found = problem()
    assert "ZPRL_ISAACGYM_PYTHON is not set" in found.message
    assert "Python 3.8" in (found.remedy or "")


def test_another_python_is_named(lab: pytest.MonkeyPatch) -> None:
    lab.delenv(client.ANY_PYTHON_VARIABLE)
    assert f"is Python 3.{sys.version_info.minor}, and Preview 4 needs 3.8" in problem().message


@pytest.mark.parametrize("path", ["/nowhere/python", "/bin/echo", "/bin/false"])
def test_what_is_named_is_no_python(lab: pytest.MonkeyPatch, path: str) -> None:
    lab.setenv(client.PYTHON_VARIABLE, path)
    assert "does not run as Python" in problem().message


def test_isaac_gym_is_not_there(lab: pytest.MonkeyPatch) -> None:
    lab.delenv("PYTHONPATH")
    found = problem()
    assert "cannot import Isaac Gym: No module named 'isaacgym'" in found.message
    assert "Preview 4" in (found.remedy or "")


def test_the_robot_is_not_there(lab: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lab.setenv(client.ASSETS_VARIABLE, str(tmp_path))
    found = problem()
    assert (
        f"there is no {tmp_path}/urdf/franka_description/robots/franka_panda.urdf" in found.message
    )
    assert client.ASSETS_VARIABLE in (found.remedy or "")


def test_gym_does_not_start(lab: pytest.MonkeyPatch) -> None:
    lab.setenv("FAKE_ISAACGYM", "nosim")
    assert "could not start on 'cpu'" in problem().message


def broken(lab: pytest.MonkeyPatch, mode: str) -> EnvironmentProblem:
    lab.setenv("FAKE_ISAACGYM", mode)
    with make() as env:
        env.reset(0)
        with pytest.raises(EnvironmentProblem) as caught:
            for _ in range(12):
                env.step(env.hold())
        with pytest.raises(EnvironmentProblem, match="closed"):
            env.reset(0)
    assert caught.value.exit_code == 4 and caught.value.remedy
    return caught.value


def test_the_worker_dies_and_its_last_words_are_told(lab: pytest.MonkeyPatch) -> None:
    assert (
        "ended by SIGKILL, saying 'PxGpuDynamicsMemoryConfig: out of memory'"
        in broken(lab, "die").message
    )


def test_the_worker_hangs(lab: pytest.MonkeyPatch) -> None:
    lab.setattr(client, "STEP_S", 1.0)
    lab.setattr(client, "CLOSE_S", 0.5)
    assert "did not answer for 1 s" in broken(lab, "hang").message


def test_the_worker_sends_nonsense(lab: pytest.MonkeyPatch) -> None:
    assert (
        "sent what it should not: a message of 4294967295 + 4294967295 bytes"
        in broken(lab, "nonsense").message
    )


@pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere it ends with its socket, after the step"
)
def test_the_worker_dies_with_its_parent(lab: pytest.MonkeyPatch) -> None:
    """Even where it hangs in a step and its parent was killed."""
    lab.setenv("FAKE_ISAACGYM", "hang")
    program = (
        "from zprl import envs; from zprl.config import Task\n"
        "env = envs.make(Task(name='isaacgym/lift-cube', episode_steps=12), num_envs=1)\n"
        "env.reset(0); print(env._worker._process.pid, flush=True)\n"
        "while True: env.step(env.hold())"
    )
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(FAKE), root))}
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    time.sleep(1.0)
    parent.kill()
    parent.wait()
    child.wait(10)  # raises where it lives on


# -- the protocol ----------------------------------------------------------------------------------


def through(raw: bytes) -> tuple[dict, dict]:
    one, other = socket.socketpair()
    with one, other:
        one.sendall(raw)
        one.shutdown(socket.SHUT_WR)
        return wire.receive(other)


def message(header: bytes, body: bytes = b"", announced: int | None = None) -> bytes:
    return (
        wire.LENGTHS.pack(len(header), len(body) if announced is None else announced)
        + header
        + body
    )


def test_arrays_arrive_as_they_were_sent() -> None:
    one, other = socket.socketpair()
    sent = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "none": np.zeros((0, 4), np.float32),
        "one": np.float32([7.5]),
    }
    with one, other:
        wire.send(one, {"do": "step"}, sent)
        header, found = wire.receive(other)
    assert header == {"do": "step"}
    assert all(
        np.array_equal(found[name], array) and found[name].dtype == np.float32
        for name, array in sent.items()
    )
    # By hand: 2 lengths of 4 bytes, little-endian; then JSON; then IEEE floats, 1.0 = 00 00 80 3f.
    raw = b"\x1b\x00\x00\x00\x04\x00\x00\x00" + b'{"arrays": [["x", [1, 1]]]}' + b"\x00\x00\x80\x3f"
    assert through(raw)[1]["x"].tolist() == [[1.0]]


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        (b"\xff" * 8, "was announced"),
        (message(b"not json"), "cannot be read"),
        (message(b"[]"), "cannot be read"),
        (message(b"{}"), "cannot be read"),
        (
            message(b'{"arrays": [["a", [2]]]}', b"1234"),
            "arrays of 2 numbers were announced in 4 bytes",
        ),
        (message(b'{"arrays": [["a", [-1, -1]]]}', b"1234"), "has shape"),
        (message(b'{"arrays": [["a", [true]]]}', b"1234"), "has shape"),
        (message(b'{"arrays": [["a", [1e9]]]}', b"1234"), "has shape"),
        (message(b'{"arrays": [["a", [1000000000000]]]}', b"1234"), "were announced"),
    ],
)
def test_what_is_no_message_is_refused(raw: bytes, complaint: str) -> None:
    with pytest.raises(wire.BadMessage, match=complaint):
        through(raw)


def test_half_a_message_is_an_end() -> None:
    with pytest.raises(EOFError):
        through(message(b'{"arrays": [["a", [2]]]}', b"1234", announced=8))


def test_an_array_of_another_shape_is_refused() -> None:
    with pytest.raises(wire.BadMessage, match=r"expected \(2, 8\)"):
        wire.taken({"action": np.zeros((2, 7), np.float32)}, "action", (2, 8))


# -- geometry --------------------------------------------------------------------------------------


def test_turn_between_two_orientations() -> None:
    """A right angle about z, by hand; and the short way round where a quaternion has the other sign."""
    half = 0.5**0.5
    identity, quarter = torch.tensor([[0.0, 0, 0, 1]]), torch.tensor([[0.0, 0, half, half]])
    expected = torch.tensor([[0.0, 0, np.pi / 2]], dtype=torch.float32)
    assert torch.allclose(kinematics.turn_between(quarter, identity), expected, atol=1e-6)
    assert torch.allclose(kinematics.turn_between(-quarter, identity), expected, atol=1e-6)
    assert torch.allclose(kinematics.turn_between(identity, quarter), -expected, atol=1e-6)
    assert torch.equal(kinematics.turn_between(quarter, quarter), torch.zeros(1, 3))


def test_least_squares_step_by_hand() -> None:
    """Of an orthonormal Jacobian it is e / (1 + damping^2); a direction that no joint moves costs nothing."""
    error = torch.tensor([[0.1, 0.0, -0.2, 0.0, 0.3, 0.0]])
    step = kinematics.least_squares_step(torch.eye(6)[None], error)
    assert torch.allclose(step, error / (1 + 0.05**2))
    still = kinematics.least_squares_step(torch.zeros(1, 6, 7), error)
    assert torch.equal(still, torch.zeros(1, 7))
