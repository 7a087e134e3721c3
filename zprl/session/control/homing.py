"""The way to the task's home pose."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from zprl.robot.base import GRIPPER, Pose, Ranges, RobotError, Values
from zprl.robot.safety import SafetyFilter
from zprl.robot.task import RealTask

HOMING_S = 30.0
"""Robot seconds after which an arm that is not at home is stuck."""
GRIPPER_TOLERANCE = 0.01
"""How near the gripper has to come to its opening at home [m]."""


class Homing:
    """Targets at the task's home pose, and whether the arms have come to rest there.

    Args:
        task: The task.
        ranges: Prefix of each arm to the ranges of its machine.
    """

    def __init__(self, task: RealTask, ranges: Mapping[str, Ranges]) -> None:
        self.task, self.ranges = task, ranges
        self.since: float | None = None

    def cancel(self) -> None:
        """Forget when the way home began."""
        self.since = None

    def target(self, features: Values) -> Values:
        """Return pose and gripper opening of every arm at home.

        Args:
            features: The robot's features by name.
        """
        target: Values = {}
        for prefix, pose in self.task.home.items():
            opening = self._opening(prefix, features)
            target |= pose.features(prefix) | {prefix + GRIPPER: opening}
        return target

    def _opening(self, prefix: str, features: Values) -> float:
        match self.task.arms[prefix].home.gripper:
            case "open":
                return self.ranges[prefix].gripper_width
            case "closed":
                return 0.0
            case _:
                return features[prefix + GRIPPER]

    def arrived(self, features: Values, filters: Mapping[str, SafetyFilter], now: float) -> bool:
        """Return whether all arms are at home and at rest.

        Args:
            features: The robot's features by name.
            filters: Prefix of each arm to its filter.
            now: Time on the robot's clock [s].

        Raises:
            RobotError: it takes longer than :data:`HOMING_S`.
        """
        if self.since is None:
            self.since = now
        elif now - self.since > HOMING_S:
            raise RobotError(
                "the arm or its gripper does not come home",
                remedy="look at the robot: something holds it",
            )
        if not all(self._at_home(prefix, features, filters[prefix]) for prefix in filters):
            return False
        self.since = None
        return True

    def _at_home(self, prefix: str, features: Values, safety: SafetyFilter) -> bool:
        offset = Pose.read(features, prefix).position - self.task.home[prefix].position
        gap = abs(features[prefix + GRIPPER] - self._opening(prefix, features))
        near = bool(np.linalg.norm(offset) < self.task.home_tolerance)
        return near and safety.resting and gap < GRIPPER_TOLERANCE
