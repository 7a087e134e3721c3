"""Demonstrations for a task on simulated robots: a program leads the arms to where their operator wants a tool, cameras and all.

It drives what a session drives (driver, safety filter, layouts), so that policies trained on it see
what they will see.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from pathlib import Path

import numpy as np

from zprl.data.episode import Episode
from zprl.data.writers.robomimic import RobomimicWriter
from zprl.robot.base import GRIPPER, Pose, Values
from zprl.robot.feature_mapping import ActionLayout, ObsLayout
from zprl.robot.limits import Limits
from zprl.robot.safety import SafetyFilter
from zprl.robot.sensors.image_crop import view
from zprl.robot.sensors.synthetic import image as synthetic_image
from zprl.robot.task import GoalPosition, RealTask
from zprl.session.run import with_simulated_robot

HOMING_S = 60.0
SHARE = 0.6
"""Of the fastest that limits allow."""


def record(task: RealTask, path: Path, *, count: int, seed: int = 0) -> Path:
    """Record ``count`` demonstrations into a robomimic file."""
    goal = task.label.simulated
    assert isinstance(goal, GoalPosition)
    with with_simulated_robot(task):
        robot = task.make_robot()
        robot.connect()
        try:
            arms = _Arms(task, robot)
            with RobomimicWriter(
                path, {"env_name": task.name, "env_type": 1, "env_kwargs": {}}
            ) as writer:
                draw = np.random.default_rng(seed)
                for number in range(count):
                    arms.go_home()
                    aim = np.array(goal.position) + draw.uniform(-0.01, 0.01, 3)
                    writer.write(_one(task, arms, goal.arm, aim, number))
        finally:
            robot.disconnect()
    return path


class _Arms:
    """The robot behind its safety filters, one tick after the other."""

    def __init__(self, task: RealTask, robot) -> None:
        self.task, self.robot = task, robot
        limits = Limits.load(task.limits_path)
        self.period, self.ticks = 1 / task.tick_hz, round(task.tick_hz / task.rate_hz)
        self.filters = {
            p: SafetyFilter(limits.arms[p], self.period, self.ticks) for p in task.prefixes
        }
        self.slot = robot.now()
        self.features = robot.get_observation()
        for prefix, safety in self.filters.items():
            safety.reset(Pose.read(self.features, prefix), self.features[prefix + GRIPPER])

    def tick(self, target: Values) -> None:
        sent: Values = {}
        for prefix, safety in self.filters.items():
            out = safety.apply(
                Pose.read(target, prefix),
                target[prefix + GRIPPER],
                Pose.read(self.features, prefix),
            )
            sent |= out.pose.features(prefix) | {prefix + GRIPPER: out.gripper}
        self.robot.send_action(sent)
        self.slot += self.period
        while (now := self.robot.now()) < self.slot:
            time.sleep(0.0002)
        self.slot = max(self.slot, now - self.period)
        self.features = self.robot.get_observation()

    def home(self) -> Values:
        """The target at home; grippers as they are."""
        found: Values = {}
        for prefix, pose in self.task.home.items():
            found |= pose.features(prefix) | {prefix + GRIPPER: self.features[prefix + GRIPPER]}
        return found

    def go_home(self) -> None:
        target, end = self.home(), time.monotonic() + HOMING_S
        while any(
            np.linalg.norm(Pose.read(self.features, p).position - pose.position)
            > self.task.home_tolerance / 2
            for p, pose in self.task.home.items()
        ):
            assert time.monotonic() < end, self.features
            self.tick(target)


def _one(task: RealTask, arms: _Arms, prefix: str, aim: np.ndarray, number: int) -> Episode:
    """Lead one tool in a straight line to ``aim``, the others stand."""
    limits = Limits.load(task.limits_path).arms[prefix]
    obs_layout, action_layout = (
        ObsLayout(task.observation),
        ActionLayout(task.action, task.ranges(arms.robot)),
    )
    keys = [prefix + f"ee.{axis}" for axis in "xyz"]
    before = arms.home()
    start = np.array([before[key] for key in keys])
    stride = SHARE * min(limits.translation.speed / task.rate_hz, limits.max_step)
    steps = int(np.ceil(np.linalg.norm(aim - start) / stride))
    rest = (
        2 * task.chunk_steps - steps % task.chunk_steps
    )  # stay there for a while: chunks are long
    frames, actions = deque(), []
    for step in itertools.chain(range(1, steps + 1), [steps] * rest):
        images = {
            image.key: view(
                synthetic_image(number + len(actions), 480, 640), image.crop, image.size
            )
            for image in task.images.values()
        }  # as the simulated camera
        frames.append(obs_layout.read(arms.features) | images)
        target = before | dict(
            zip(keys, (start + (aim - start) * step / steps).tolist(), strict=True)
        )
        actions.append(
            action_layout.encode(target, before, done=step == steps and len(actions) >= steps)
        )
        before = target
        for _ in range(arms.ticks):
            arms.tick(target)
    rewards = np.zeros(len(actions), np.float32)
    rewards[-1] = 1.0
    return Episode(
        f"simulated/demo_{number}",
        {key: np.stack([frame[key] for frame in frames]) for key in frames[0]},
        np.stack(actions),
        rewards,
        rewards > 0,
        success=True,
    )
