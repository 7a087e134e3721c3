"""Pace of a simulation, relative to the wall clock."""

from __future__ import annotations

import time

from zprl.robot_sim.franka_scene import STEP


class Pace:
    """Clock that keeps robot time at ``speed`` times wall time.

    Time lost in a stall is not made up for in a burst.

    Args:
        speed: 1 is real time; 0 as fast as it goes.
    """

    _BEHIND = 0.02
    """Longest stall that is made up for [s]."""
    _SHORTEST = 5e-5
    """Shortest sleep [s]: shorter ones take longer than they should."""

    def __init__(self, speed: float) -> None:
        self._period = STEP / speed if speed > 0 else 0.0
        self._next = time.perf_counter()

    def wait(self) -> None:
        """Wait until the next step is due."""
        if not self._period:
            return

        now = time.perf_counter()
        self._next = max(self._next + self._period, now - self._BEHIND)
        if self._next > now + self._SHORTEST:
            time.sleep(self._next - now)
