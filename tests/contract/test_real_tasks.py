"""Every task that comes with the package fits its robots, its limits and itself."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from zprl.robot.base import GRIPPER, Pose, Robot
from zprl.robot.feature_mapping import ActionLayout, ObsLayout
from zprl.robot.limits import Limits
from zprl.robot.task import GRIPPER_COMMAND, RealTask, built_in

PAPER = {  # zprl-method.md 6.4: rate, steps, cameras, numbers of the observation, of the action
    "place_orange": (30, 450, {"front": (110, 280)}, 7, 8),
    "flip_egg": (10, 250, {"front": (128, 128)}, 7, 6),
    "open_box": (
        20,
        400,
        dict.fromkeys(("global", "wrist_left", "wrist_right"), (128, 128)),
        16,
        16,
    ),
    "insert_bills": (
        20,
        1000,
        dict.fromkeys(("global", "wrist_left", "wrist_right"), (120, 160)),
        16,
        16,
    ),
}


@pytest.fixture(params=built_in())
def task(request):
    return RealTask.load(request.param)


def test_its_robot_is_made_and_fits(task):
    robot = task.make_robot()
    assert isinstance(robot, Robot)
    assert robot.simulated and not robot.is_connected
    assert set(task.ranges(robot)) == set(task.prefixes)


def test_home_survives_the_action_layout(task):
    robot = task.make_robot()
    layout = ActionLayout(task.action, task.ranges(robot))
    home = {}
    for prefix, pose in task.home.items():
        home |= pose.features(prefix) | {prefix + GRIPPER: task.ranges(robot)[prefix].gripper_width}
    found = layout.features(layout.encode(home, home), home)
    for prefix, pose in task.home.items():
        read = Pose.read(found, prefix)
        np.testing.assert_allclose(read.position, pose.position, atol=1e-6)
        assert abs(read.quaternion @ pose.quaternion) == pytest.approx(1, abs=1e-9)
        assert found[prefix + GRIPPER] == pytest.approx(home[prefix + GRIPPER])


def test_its_observation_is_read_from_what_robot_and_sensors_have(task):
    robot = task.make_robot()
    features = dict.fromkeys(
        (
            *robot.observation_features,
            *task.sensor_features,
            *(p + GRIPPER_COMMAND for p in task.prefixes),
        ),
        0.5,
    )
    layout = ObsLayout(task.observation)
    obs = layout.read(features)
    assert {key: len(value) for key, value in obs.items()} == layout.widths


def test_homes_lie_inside_the_limits_and_arms_stop_short_of_the_table(task):
    limits = Limits.load(task.limits_path)
    for prefix in task.prefixes:
        arm = limits.arms[prefix]
        assert arm.workspace.low[2] >= 0.01
        # One action may not ask for more than the arm is allowed to do in it, ten times over.
        assert arm.max_step <= 10 * arm.translation.speed / task.rate_hz


def test_it_says_what_was_never_tried(task):
    assert not task.hardware
    assert "hardware" in task.untried.lower()
    assert task.label.rule.endswith(".") and task.reset.endswith(".")


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_numbers(name):
    rate, steps, cameras, observed, acted = PAPER[name]
    task = RealTask.load(name)
    robot = task.make_robot()
    assert (task.rate_hz, task.episode_steps, task.chunk_steps) == (rate, steps, 16)
    assert {camera: image.size for camera, image in task.images.items()} == cameras
    assert sum(ObsLayout(task.observation).widths.values()) == observed
    assert ActionLayout(task.action, task.ranges(robot)).width == acted
    assert (task.obs_steps == 3) == (name == "flip_egg")
    assert bool(task.action.smoothing) == (len(task.arms) == 2)
    assert task.action.done == (name == "place_orange")


@pytest.mark.parametrize(
    ("name", "scale", "warm", "discount"),
    [("flip_egg", 0.15, 300, 0.8515), ("insert_bills", 0.2, 1000, 0.9685)],
)
def test_the_papers_recipes(name, scale, warm, discount):
    recipe = RealTask.load(name).recipe
    agent = recipe["finetune_sim"]
    assert (
        agent["steering"]["scale"],
        agent["exploration"]["warmup_chunks"],
        agent["updates"]["buffer_size"],
        agent["actor"]["log_std_min"],
    ) == (scale, warm, 50_000, -8.0)
    assert agent["returns"]["step_discount"] ** 16 == pytest.approx(discount, abs=5e-5)


def test_only_the_wallet_has_a_hard_floor_and_only_the_xarm_there():
    found = {name: Limits.load(RealTask.load(name).limits_path) for name in PAPER}
    floors = {
        (name, prefix)
        for name, limits in found.items()
        for prefix, arm in limits.arms.items()
        if arm.planes
    }
    assert floors == {("insert_bills", "left.")}
    assert RealTask.load("insert_bills").arms["left."].driver == "xarm"


def test_a_spatula_stays_in_the_hand():
    assert RealTask.load("flip_egg").arms[""].home.gripper == "keep"


def test_files_are_short_enough_to_read(task):
    for path in (task.path, task.limits_path):
        text = path.read_text()
        assert max(map(len, text.splitlines())) <= 140
        assert isinstance(yaml.safe_load(text), dict)
