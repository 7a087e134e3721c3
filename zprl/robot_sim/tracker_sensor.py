"""The double's tracker as a sense: the cube's pose (7,) with the noise, delay and rate of a real tracker."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zprl.errors import ConfigError
from zprl.robot.sensors.base import Reading
from zprl.robot_sim.control import TrackerFeed


def make(config: Mapping[str, Any]) -> SimulatedPose:
    """Make the sense; entry point ``twin_pose``."""
    if "twin" not in config:
        raise ConfigError(
            "the sense 'twin_pose' needs a running double",
            remedy="on hardware use a tracker of the world, e.g. 'apriltag'",
        )
    return SimulatedPose(str(config["name"]), Path(config["twin"]))


class SimulatedPose:
    """See the module."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self._feed: TrackerFeed | None = None

    def open(self) -> None:
        """Subscribe."""
        self._feed = TrackerFeed(self.folder)

    def read(self) -> Reading | None:
        """The newest pose, waiting up to a tenth of a second for one."""
        if self._feed is None or not self._feed.poll(0.1):
            return None
        return Reading(self._feed.pose.copy(), self._feed.stamp, time.monotonic(), self._feed.seq)

    def close(self) -> None:
        """Unsubscribe."""
        if self._feed is not None:
            self._feed.close()
            self._feed = None
