"""The doubles that every driver is checked against.  A new one is one function and one line in DOUBLES."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from zprl.robot.base import Robot


@dataclass(frozen=True)
class Double:
    """A robot by the name of its entry point, and how to get a driver that talks to its double.

    ``start()`` is a context manager: the double runs inside, and what it yields makes a fresh,
    unconnected driver at each call. Where one of the modules in ``needs`` is missing, the robot is
    skipped.
    """

    name: str
    start: Callable[[], contextlib.AbstractContextManager[Callable[[], Robot]]]
    needs: tuple[str, ...] = ()


@contextlib.contextmanager
def franka() -> Iterator[Callable[[], Robot]]:
    """libfranka's protocol, as fast as it goes."""
    from zprl.robot.franka import make
    from zprl.robot_sim import SimProcess

    with SimProcess("127.0.9.1", speed=0) as twin:
        yield lambda: make({"host": twin.host, "realtime": "ignore"})


DOUBLES: list[Double] = [
    Double("franka", franka, needs=("franky", "franky_sim", "mujoco")),
]
