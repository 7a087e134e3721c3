"""The slots of the control loop on the robot's clock."""

from __future__ import annotations

import contextlib
import time
from collections import deque

import numpy as np

from zprl.robot.base import Robot, RobotError

POLL_S = 0.0002
KEPT_INTERVALS = 5000


class TickClock:
    """Slots on the robot's clock, and the host's view of whether that clock still moves.

    Args:
        robot: The robot, connected.
        period: Robot time between two slots [s].
        age_s: Age of the robot's state from which its clock counts as standing still [s].
    """

    slot: float
    _now: float
    _last: float | None
    _stamp: float
    _moved: float

    def __init__(self, robot: Robot, period: float, age_s: float) -> None:
        self.robot, self.period, self.age_s = robot, period, age_s
        self.intervals: deque[float] = deque(maxlen=KEPT_INTERVALS)
        self.restart()

    @property
    def now(self) -> float:
        """Return the robot's time; the last one known, when the robot is gone."""
        with contextlib.suppress(RobotError):
            self._now = self.robot.now()
        return self._now

    @property
    def age(self) -> float:
        """Return the host seconds since the robot's state stamp last moved."""
        with contextlib.suppress(RobotError):
            stamp = self.robot.state_stamp()
            if stamp != self._stamp:
                self._stamp = stamp
                self._moved = time.monotonic()
        return time.monotonic() - self._moved

    def wait(self) -> bool:
        """Sleep until the next slot.

        Returns:
            False, after a period of the host's clock, when the robot's stands still or is gone.
        """
        self.slot += self.period
        while (now := self.now) < self.slot:
            if self.age > self.age_s:
                self.slot -= self.period  # it is still to come
                time.sleep(self.period)
                return False
            time.sleep(POLL_S)

        # After a stall, the slots that were missed are gone: there is no burst.
        if now - self.slot > self.period:
            self.slot += ((now - self.slot) // self.period) * self.period
        if self._last is not None:
            self.intervals.append(now - self._last)
        self._last = now
        return True

    def restart(self) -> None:
        """Begin anew after the robot was away."""
        self.slot = self._now = self.robot.now()
        self._last = None
        self._stamp = self.robot.state_stamp()
        self._moved = time.monotonic()

    def timing(self) -> dict[str, float]:
        """Return median, 99th percentile and maximum of the intervals, in periods of robot time."""
        intervals = np.array(self.intervals) / self.period
        if not len(intervals):
            return {}
        return {
            "tick_p50": float(np.percentile(intervals, 50)),
            "tick_p99": float(np.percentile(intervals, 99)),
            "tick_max": float(intervals.max()),
        }
