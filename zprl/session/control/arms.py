"""The arms of a robot behind their safety filters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from zprl.recordings.conditions import Conditions
from zprl.robot.base import GRIPPER, POSE, Pose, Robot, Values
from zprl.robot.events import Event
from zprl.robot.feature_mapping import ActionLayout
from zprl.robot.safety import SafetyFilter
from zprl.robot.sensors.base import LatestReader
from zprl.session.spacemouse import InterventionCommand

GRIPPER_COMMAND = "gripper.command"
"""The last commanded gripper state as an observation: +1 open, -1 closed, as the policies were
trained with."""
OPEN, CLOSED = 1.0, -1.0


class Arms:
    """State, target and filters of all arms.

    Args:
        robot: The robot, connected.
        sensors: Latest readings beside the robot's own state, by name.
        in_force: The task and the limits that the session runs under.

    Attributes:
        target: Where the arms are to go.
        sent: The action that was sent last, as the robot has taken it.
        gripper: Prefix of each arm to the last commanded gripper state.
        clipped: Whether a filter has changed a target since the last control step.
    """

    def __init__(
        self, robot: Robot, sensors: Mapping[str, LatestReader], in_force: Conditions
    ) -> None:
        task, limits = in_force.task, in_force.limits
        self.robot, self.sensors = robot, sensors
        self.max_age_s = limits.sensor_age_s
        self.prefixes = tuple(task.prefixes)
        self.ranges = task.ranges(robot)
        self.layout = ActionLayout(task.action, self.ranges)

        period, ticks_per_step = 1 / task.tick_hz, round(task.tick_hz / task.rate_hz)
        self.filters = {
            prefix: SafetyFilter(limits.arms[prefix], period, ticks_per_step)
            for prefix in self.prefixes
        }
        self.target: Values = {}
        self.sent: Values = {}
        self.clipped = False
        self.forget_gripper_commands()
        self.restart(self.read(sensors=False))

    def forget_gripper_commands(self) -> None:
        """Let the next press of a person's gripper button close the gripper."""
        self.gripper = dict.fromkeys(self.prefixes, OPEN)

    def restart(self, features: Values) -> None:
        """Start from where the arms are, at rest."""
        for prefix, safety in self.filters.items():
            pose, opening = Pose.read(features, prefix), features[prefix + GRIPPER]
            safety.reset(pose, opening)
            self.target |= pose.features(prefix) | {prefix + GRIPPER: opening}
        self.sent = dict(self.target)

    def read(self, *, sensors: bool) -> Values:
        """Return the robot's features, the last gripper commands, and the sensors' poses.

        Args:
            sensors: Whether to read the sensors, which matter only while the policy acts.

        Raises:
            RobotError: the robot does not answer.
            StaleSensor: a sensor shows nothing new.
        """
        features = self.robot.get_observation()
        for name, reader in self.sensors.items() if sensors else ():
            reading = reader.latest(self.max_age_s)
            for key, value in zip(POSE, reading.value, strict=True):
                features[f"{name}.{key.removeprefix('ee.')}"] = float(value)
        for prefix in self.prefixes:
            features[prefix + GRIPPER_COMMAND] = self.gripper[prefix]
        return features

    def hold(self) -> None:
        """Stay where the last action led."""
        self.target = dict(self.sent)

    def play(self, action: np.ndarray) -> None:
        """Take an action of the policy (A,) as the target."""
        self.target = self.layout.features(action, self.target)
        self.gripper = {
            prefix: OPEN if self.layout.opens(action, prefix) else CLOSED
            for prefix in self.prefixes
        }

    def lead(self, prefix: str, command: InterventionCommand) -> np.ndarray:
        """Take a person's command as the target of one arm; return it as an action (A,)."""
        before = self.target
        opening = before[prefix + GRIPPER]  # what the arm holds stays held without a press
        if command.toggle_gripper:
            self.gripper[prefix] = -self.gripper[prefix]
            opening = self.ranges[prefix].gripper_width if self.gripper[prefix] > 0 else 0.0

        pose = command.target(Pose.read(before, prefix))
        self.target = before | pose.features(prefix) | {prefix + GRIPPER: opening}
        return self.layout.encode(self.target, before)

    def filter(self, features: Values) -> Iterator[tuple[Values, Sequence[Event]]]:
        """Filter the target arm by arm.

        Args:
            features: The robot's features by name.

        Yields:
            What is safe to send to an arm, and what its filter reports.
        """
        for prefix, safety in self.filters.items():
            result = safety.apply(
                Pose.read(self.target, prefix),
                self.target[prefix + GRIPPER],
                Pose.read(features, prefix),
            )
            self.clipped |= result.clipped
            yield result.pose.features(prefix) | {prefix + GRIPPER: result.gripper}, result.events

    def send(self, action: Values) -> None:
        """Send an action, which has gone through the filters."""
        self.sent = self.robot.send_action(action)
