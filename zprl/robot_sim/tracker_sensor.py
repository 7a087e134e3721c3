"""The simulated tracker as a sensor: the cube's pose (7,) with a real one's noise and delay."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zprl.errors import ConfigError
from zprl.robot.sensors.base import Reading
from zprl.robot_sim.control import TrackerFeed

READ_S = 0.1
"""Longest wait of one read [s]."""


def make(config: Mapping[str, Any]) -> SimulatedPose:
    """Make the sensor; entry point ``robot_sim_tracker``."""
    if "robot_sim" not in config:
        raise ConfigError(
            "the sensor 'robot_sim_tracker' needs a running simulated robot",
            remedy="on hardware use a tracker of the world, e.g. 'apriltag'",
        )
    return SimulatedPose(str(config["name"]), Path(config["robot_sim"]))


class SimulatedPose:
    """Sensor of the simulated cube's pose.

    Args:
        name: Of the sensor.
        folder: The simulated robot's folder.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self._feed: TrackerFeed | None = None

    def open(self) -> None:
        """Subscribe to the tracker."""
        self._feed = TrackerFeed(self.folder)

    def read(self) -> Reading | None:
        """Return the newest pose, waiting up to a tenth of a second for one."""
        if self._feed is None or not self._feed.poll(READ_S):
            return None
        return Reading(self._feed.pose.copy(), self._feed.stamp, time.monotonic(), self._feed.seq)

    def close(self) -> None:
        """Unsubscribe; harmless when not open."""
        if self._feed is not None:
            self._feed.close()
            self._feed = None
