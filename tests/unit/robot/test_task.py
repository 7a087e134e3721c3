"""Task files: mistakes are named, cross checks hold.

Drivers are replaced by a small one: nothing is imported or connected.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from zprl import plugins, strict_yaml
from zprl.errors import ConfigError
from zprl.robot import task as module
from zprl.robot.base import GRIPPER, POSE, Ranges
from zprl.robot.task import BUILT_IN, RealTask, built_in


class Arm:
    """Part of a driver that a task uses before anything is connected."""

    name = "arm"
    simulated = True
    limits = Ranges(speed=1.7, acceleration=13, jerk=6500, gripper_width=0.08, reach=0.855)
    observation_features = dict.fromkeys((*POSE, GRIPPER), float)
    action_features = dict.fromkeys((*POSE, GRIPPER), float)

    def __init__(self, config):
        self.config = config


@pytest.fixture
def made(monkeypatch):
    """Sensors and robots are made by this list's entries instead of drivers."""
    seen = []

    def load(group, name):
        def make(config):
            seen.append((group, name, dict(config)))
            return Arm(config) if group == "robots" else object()

        return make

    monkeypatch.setattr(plugins, "load", load)
    return seen


@pytest.fixture
def edited(tmp_path):
    """Writes lift_cube with changes beside its limits and returns the path."""
    shutil.copy(BUILT_IN / "lift_cube.limits.yaml", tmp_path)

    def write(change=lambda value: None, limits=None):
        value = yaml.safe_load((BUILT_IN / "lift_cube.yaml").read_text())
        change(value)
        path = tmp_path / "task.yaml"
        path.write_text(strict_yaml.dump(value))
        if limits:
            file = tmp_path / "lift_cube.limits.yaml"
            result = yaml.safe_load(file.read_text())
            limits(result)
            file.write_text(strict_yaml.dump(result))
        return path

    return write


def refused(path):
    with pytest.raises(ConfigError) as caught:
        RealTask.load(path)
    assert caught.value.remedy
    return caught.value.message


def test_the_cube_is_lifted_as_in_the_simulation():
    task = RealTask.load("lift_cube")
    assert (task.rate_hz, task.episode_steps, task.chunk_steps, task.obs_steps) == (50, 200, 8, 1)
    assert task.prefixes == ("",)
    assert list(task.observation) == [
        "robot0_eef_pos",
        "robot0_gripper_qpos",
        "robot0_gripper_command",
        "object",
    ]
    assert task.home[""].quaternion.tolist() == [1, 0, 0, 0]
    assert task.sensor_features == tuple(
        f"object.{k}" for k in ("x", "y", "z", "qx", "qy", "qz", "qw")
    )
    assert task.limits_path.name == "lift_cube.limits.yaml"


def test_loading_imports_no_driver():
    before = set(sys.modules)
    RealTask.load("open_box")
    assert not {
        name
        for name in set(sys.modules) - before
        if name.startswith(("franky", "xarm", "zprl.robot.franka", "zprl.robot.xarm"))
    }


def test_five_tasks_come_along():
    assert built_in() == ["flip_egg", "insert_bills", "lift_cube", "open_box", "place_orange"]


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(ConfigError, match="did you mean 'lift_cube'"):
        RealTask.load("lift_cup")
    with pytest.raises(ConfigError, match="does not exist"):
        RealTask.load("./lift_cube.yaml")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: v.update(rate=50), r"rate: unknown key, did you mean 'rate_hz'\?"),
        (
            lambda v: v["arms"][""].update(drivr="x"),
            r"arms\.\.drivr: unknown key, did you mean 'driver'\?",
        ),
        (
            lambda v: v["label"].update(timeout="ask"),
            r"label\.timeout: unknown key, did you mean 'time_out'\?",
        ),
        (lambda v: v["arms"][""]["home"].update(quaternion=[1, 1, 0, 0]), "length 1"),
        (lambda v: v["action"]["arms"][""].update(kind="absolute"), "absolute_6d"),
        (lambda v: v.update(tick_hz=120), "no multiple of rate_hz"),
        (lambda v: v.update(chunk_steps=201), "chunk_steps \\(201\\) exceed"),
        (lambda v: v.update(lead_steps=8), "must be below chunk_steps"),
        (lambda v: v["arms"].update({"left.": v["arms"][""]}), "one has no prefix"),
        (
            lambda v: v["action"].update(arms={"left.": {"kind": "absolute_6d"}}),
            "the action has the arms",
        ),
        (lambda v: v["observation"].update(object=["object.x+1"]), "not a term"),
        (lambda v: v["arms"][""]["home"].update(position=[0.4, 0, 0.9]), "outside its workspace"),
        (lambda v: v.update(limits="../limits.yaml"), "limits"),
        (lambda v: v.update(recipe={"finetune_real": {"speeed": 1}}), "did you mean 'speed'"),
        (
            lambda v: v.update(recipe={"policy": {"horizon": 8, "chunk_steps": 4}}),
            "other obs_steps or chunk_steps",
        ),
        (
            lambda v: v["sensors"].update(ee={"kind": "robot_sim_tracker"}),
            "named as a part of the robot",
        ),
        (
            lambda v: v["sensors"].update(
                cam={"kind": "x", "image": {"key": "object", "size": [8, 8]}}
            ),
            "both an image and",
        ),
        (lambda v: v.pop("hardware"), "hardware: Field required"),
    ],
)
def test_mistakes_are_named(edited, change, said):
    assert re.search(said, refused(edited(change)))


def test_limits_have_to_be_there_and_to_fit(edited, tmp_path):
    path = edited(limits=lambda result: result.update(arms={"left.": result["arms"][""]}))
    assert "has limits for the arms ['left.']" in refused(path)
    (tmp_path / "lift_cube.limits.yaml").unlink()
    assert "does not exist" in refused(path)


def test_a_session_calls_its_copy_of_the_limits_limits_yaml(edited, tmp_path):
    path = edited()
    (tmp_path / "lift_cube.limits.yaml").rename(tmp_path / "limits.yaml")
    assert RealTask.load(path).limits_path == tmp_path / "limits.yaml"


@pytest.mark.parametrize("text", ["", "[]", "a: [", "\x00", "name: !!python/object:os.system {}"])
def test_what_is_no_task_file(tmp_path, text):
    path = tmp_path / "task.yaml"
    path.write_text(text)
    assert str(path) in refused(path)


def test_a_huge_file_is_not_even_parsed(tmp_path):
    path = tmp_path / "task.yaml"
    path.write_text("a: 1\n" * 100_000)
    assert "longer than" in refused(path)


def test_the_robot_is_made_by_its_driver_and_checked(made):
    task = RealTask.load("lift_cube")
    assert isinstance(task.make_robot(), Arm)
    assert made == [("robots", "franka", task.arms[""].config)]


def test_a_feature_without_a_source_is_named(made, edited):
    task = RealTask.load(
        edited(lambda v: v["observation"].update(robot0_eef_pos=["ee.x", "ee.xx"]))
    )
    with pytest.raises(
        ConfigError, match=r"there is no source of the observation's ee\.xx; did you mean 'ee\.x'"
    ):
        task.make_robot()


def test_limits_beyond_the_robot_are_refused(made, edited):
    task = RealTask.load(
        edited(limits=lambda result: result["arms"][""]["translation"].update(speed=2.0))
    )
    with pytest.raises(ConfigError, match=r"translation\.speed is 2"):
        task.make_robot()


def test_a_robot_without_pose_targets_is_refused(made, monkeypatch):
    monkeypatch.setattr(Arm, "action_features", {"joint_1.pos": float})
    with pytest.raises(ConfigError, match=r"does not take ee\.qw"):
        RealTask.load("lift_cube").make_robot()


def test_sensors_of_a_simulated_robot_get_its_folder(made):
    task = RealTask.load("lift_cube")
    assert list(task.make_sensors(Path("/tmp/sim"))) == ["object"]
    assert made == [("sensors", "robot_sim_tracker", {"name": "object", "robot_sim": "/tmp/sim"})]


def test_cameras_are_replaced_where_the_robot_is_simulated(made):
    task = RealTask.load("place_orange")
    assert task.make_sensors() == {} and list(task.make_cameras()) == ["front"]
    task.make_cameras(Path("/tmp/sim"))
    assert [(group, kind) for group, kind, _ in made] == [
        ("sensors", "realsense"),
        ("sensors", "synthetic"),
    ]


def test_every_field_says_what_it_is_for():
    own = {name for name, field in RealTask.model_fields.items() if field.description is None}
    assert own <= {"name", "description", "action", "label"}
    for section in (module.Home, module.Arm, module.Image, module.SensorKind, module.LabelRule):
        assert all(field.description for field in section.model_fields.values())
