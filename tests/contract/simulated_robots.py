"""Simulated robots against which every driver is checked.

A new one is one function and one line in SIMULATED_ROBOTS.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from zprl.robot.base import Robot


@dataclass(frozen=True)
class SimulatedRobot:
    """A simulated robot, by the name of its driver's entry point.

    ``start()`` is a context manager: the simulated robot runs inside, and what it yields makes a
    fresh, unconnected driver at each call.  Where one of the modules in ``needs`` is missing, the
    robot is skipped.
    """

    name: str
    start: Callable[[], contextlib.AbstractContextManager[Callable[[], Robot]]]
    needs: tuple[str, ...] = ()


@contextlib.contextmanager
def franka() -> Iterator[Callable[[], Robot]]:
    """libfranka's protocol, as fast as it goes."""
    from zprl.robot.franka import make
    from zprl.robot_sim import SimProcess

    with SimProcess("127.0.9.1", speed=0) as robot:
        yield lambda: make({"host": robot.host, "realtime": "ignore"})


SIMULATED_ROBOTS: list[SimulatedRobot] = [
    SimulatedRobot("franka", franka, needs=("franky", "franky_sim", "mujoco")),
]
