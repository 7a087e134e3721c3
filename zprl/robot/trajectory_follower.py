"""Following a moving target with bounded speed, acceleration and jerk, always able to stop in time.

Every tick a time-optimal trajectory from the present state to the target is planned (Ruckig;
Berscheid and Kroeger 2021) and one period of it taken, *if* the stop from there stays where the
caller allows.  If it does not, or cannot be planned, one period of the stop that was found allowed
a tick ago is taken instead.  By induction everything sent lies on a trajectory that may be stopped
in allowed space, however the targets jump.

Positions are planned relative to where the axes are; that is why one algorithm serves positions and
orientations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from zprl.robot.limits import Motion
from zprl.robot.rotation import Floats, from_rotvec, inverse, product, shorter, to_rotvec, unit

ZERO: Floats = (0.0, 0.0, 0.0)
RESTING = 1e-6
"""Speed below which the follower is at rest [m/s, rad/s]."""


def add(a: Floats, b: Floats) -> Floats:
    """Their sum."""
    return (a[0] + b[0], a[1] + b[1], a[2] + b[2])


def subtract(a: Floats, b: Floats) -> Floats:
    """Their difference."""
    return (a[0] - b[0], a[1] - b[1], a[2] - b[2])


def scaled(a: Floats, factor: float) -> Floats:
    """``factor`` times it."""
    return (a[0] * factor, a[1] * factor, a[2] * factor)


def dot(a: Floats, b: Floats) -> float:
    """Their inner product."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def cross(a: Floats, b: Floats) -> Floats:
    """Their cross product."""
    return (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])


def rotated(q: Floats, v: Floats) -> Floats:
    """``v`` turned by ``q``."""
    axis = (q[0], q[1], q[2])
    twice = scaled(cross(axis, v), 2)
    return add(add(v, scaled(twice, q[3])), cross(axis, twice))


class Line:
    """Positions: the plain arithmetic of vectors."""

    @staticmethod
    def between(start: Floats, end: Floats) -> Floats:
        """What leads from one to the other."""
        return subtract(end, start)

    @staticmethod
    def moved(start: Floats, offset: Floats) -> Floats:
        """Where an offset leads to."""
        return add(start, offset)

    @staticmethod
    def carried(offset: Floats, rate: Floats) -> Floats:
        """A rate of change of the offset as a rate at the moved point."""
        return rate


class Turn:
    """Orientations: offsets are rotation vectors in the base frame, small within a tick, so that nothing is ever singular."""

    @staticmethod
    def between(start: Floats, end: Floats) -> Floats:
        """What leads from one to the other, the short way round."""
        return to_rotvec(shorter(product(end, inverse(start))))

    @staticmethod
    def moved(start: Floats, offset: Floats) -> Floats:
        """Where an offset leads to."""
        return unit(product(from_rotvec(offset), start))

    @staticmethod
    def carried(offset: Floats, rate: Floats) -> Floats:
        """Angular rate of a changing rotation vector: its left Jacobian times the rate (Sola et al. 2018, eq. 145)."""
        angle = math.hypot(*offset)
        if angle < 1e-6:
            return rate
        once = cross(offset, rate)
        first, second = (1 - math.cos(angle)) / angle**2, (angle - math.sin(angle)) / angle**3
        return add(rate, add(scaled(once, first), scaled(cross(offset, once), second)))


class TrajectoryFollower:
    """Three axes; see the module.

    Args:
        period: Of a tick [s].
        motion: Bounds on the vectors' lengths.
        space: :class:`Line` or :class:`Turn`.
        allowed: Whether a stop may be: called with the point it starts at, its bounding box as
            lowest and highest offset, and its last offset.
    """

    def __init__(
        self,
        period: float,
        motion: Motion,
        space: type,
        allowed: Callable[[Any, Floats, Floats, Floats], bool],
    ) -> None:
        from ruckig import ControlInterface, InputParameter, Ruckig, Synchronization

        self.period, self.space, self.allowed = period, space, allowed
        share = 1 / math.sqrt(3)
        self.top = motion.speed * share
        self._planner = Ruckig(3, period)
        self._way, self._halt = InputParameter(3), InputParameter(3)
        self._halt.control_interface = ControlInterface.Velocity
        self._way.synchronization = (
            Synchronization.Phase
        )  # straight from rest; as fast as the slowest axis otherwise
        self._halt.synchronization = Synchronization.No  # every axis as soon as it can
        for parameters in (self._way, self._halt):
            parameters.max_velocity = [self.top] * 3
            parameters.max_acceleration = [motion.acceleration * share] * 3
            parameters.max_jerk = [motion.jerk * share] * 3
            parameters.current_position = list(ZERO)
        self.point: Any = ZERO
        self.rate: Floats = ZERO
        self.second: Floats = ZERO
        self._stop: tuple[Any, Any, float] | None = None

    def reset(self, point: Any, rate: Floats = ZERO) -> None:
        """Go on from ``point``; with that rate, if a stop from there is allowed, else at rest."""
        self.point, self.second, self._stop = point, ZERO, None
        self.rate = tuple(min(max(v, -self.top), self.top) for v in rate)
        if self.rate != ZERO and (stop := self._plan_stop(point, self.rate, ZERO)) is not None:
            self._stop = (point, stop, 0.0)
        else:
            self.rate = ZERO

    @property
    def resting(self) -> bool:
        """Whether it has come to rest."""
        return max(map(abs, self.rate)) < RESTING

    def follow(self, target: Any) -> bool:
        """Take one tick towards ``target``; False when it had to brake instead."""
        way = self._plan(self._way, self.rate, self.second, self.space.between(self.point, target))
        if way is not None:
            point, rate, second = self._state(self.point, way, self.period)
            if (stop := self._plan_stop(point, rate, second)) is not None:
                self.point, self.rate, self.second, self._stop = (
                    point,
                    rate,
                    second,
                    (point, stop, 0.0),
                )
                return True
        self.brake()
        return False

    def brake(self) -> None:
        """Take one tick of the stop."""
        if self._stop is not None:
            start, stop, elapsed = self._stop
            self._stop = (start, stop, elapsed + self.period)
            self.point, self.rate, self.second = self._state(
                start, stop, min(elapsed + self.period, stop.duration)
            )

    def _state(self, start: Any, trajectory: Any, at: float) -> tuple[Any, Floats, Floats]:
        offset, rate, second = trajectory.at_time(at)
        return (
            self.space.moved(start, offset),
            self.space.carried(offset, rate),
            self.space.carried(offset, second),
        )

    def _plan(self, parameters: Any, rate: Floats, second: Floats, goal: Floats | None) -> Any:
        from ruckig import Result, RuckigError, Trajectory

        parameters.current_velocity, parameters.current_acceleration = rate, second
        if goal is not None:
            parameters.target_position = goal
        trajectory = Trajectory(3)
        try:
            found = self._planner.calculate(parameters, trajectory)
        except RuckigError:
            return None
        return trajectory if found in (Result.Working, Result.Finished) else None

    def _plan_stop(self, point: Any, rate: Floats, second: Floats) -> Any:
        """The fastest stop, or ``None`` where it is not allowed."""
        stop = self._plan(self._halt, rate, second, None)
        if stop is None:
            return None
        extrema = stop.position_extrema
        low, high = tuple(bound.min for bound in extrema), tuple(bound.max for bound in extrema)
        return stop if self.allowed(point, low, high, stop.at_time(stop.duration)[0]) else None
