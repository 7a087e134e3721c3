"""Following a moving target with bounded speed, acceleration and jerk, always able to stop in time.

Every tick a time-optimal trajectory from the present state to the target is planned (Ruckig;
Berscheid and Kroeger 2021) and one period of it taken, *if* the stop from there stays where the
caller allows.  If it does not, or cannot be planned, one period of the stop that was allowed a
tick ago is taken instead.  By induction everything sent lies on a trajectory that may be stopped
in allowed space, however the targets jump.

Positions are planned relative to where the axes are; that is why one algorithm serves positions and
orientations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

from zprl.robot.limits import Motion
from zprl.robot.rotation import Floats, from_rotvec, inverse, product, shorter, to_rotvec, unit

ZERO: Floats = (0.0, 0.0, 0.0)
AXES = 3
RESTING = 1e-6
"""Speed below which the follower is at rest [m/s, rad/s]."""
NO_ANGLE = 1e-6
"""Angle below which a rotation changes no rate [rad]."""


def add(a: Floats, b: Floats) -> Floats:
    """Return the sum of two vectors."""
    return (a[0] + b[0], a[1] + b[1], a[2] + b[2])


def subtract(a: Floats, b: Floats) -> Floats:
    """Return the difference of two vectors."""
    return (a[0] - b[0], a[1] - b[1], a[2] - b[2])


def scaled(a: Floats, factor: float) -> Floats:
    """Return ``factor`` times a vector."""
    return (a[0] * factor, a[1] * factor, a[2] * factor)


def dot(a: Floats, b: Floats) -> float:
    """Return the inner product of two vectors."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def cross(a: Floats, b: Floats) -> Floats:
    """Return the cross product of two vectors."""
    return (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])


def rotated(q: Floats, v: Floats) -> Floats:
    """Return ``v`` turned by ``q``."""
    axis = (q[0], q[1], q[2])
    twice = scaled(cross(axis, v), 2)
    return add(add(v, scaled(twice, q[3])), cross(axis, twice))


class Space(Protocol):
    """Arithmetic of one kind of points: :class:`Line` or :class:`Turn`."""

    @staticmethod
    def between(start: Floats, end: Floats) -> Floats:
        """Return the offset from one point to another."""
        ...

    @staticmethod
    def moved(start: Floats, offset: Floats) -> Floats:
        """Return the point to which an offset leads."""
        ...

    @staticmethod
    def carried(offset: Floats, rate: Floats) -> Floats:
        """Return a rate of change of the offset as a rate at the moved point."""
        ...


class Line:
    """Positions: the plain arithmetic of vectors."""

    @staticmethod
    def between(start: Floats, end: Floats) -> Floats:
        """Return the offset from one to the other."""
        return subtract(end, start)

    @staticmethod
    def moved(start: Floats, offset: Floats) -> Floats:
        """Return the point to which an offset leads."""
        return add(start, offset)

    @staticmethod
    def carried(offset: Floats, rate: Floats) -> Floats:
        """Return the rate as it is."""
        return rate


class Turn:
    """Orientations: offsets are rotation vectors in the base frame.

    They are small within a tick, so that nothing is ever singular.
    """

    @staticmethod
    def between(start: Floats, end: Floats) -> Floats:
        """Return the offset from one to the other, the short way round."""
        return to_rotvec(shorter(product(end, inverse(start))))

    @staticmethod
    def moved(start: Floats, offset: Floats) -> Floats:
        """Return the point to which an offset leads."""
        return unit(product(from_rotvec(offset), start))

    @staticmethod
    def carried(offset: Floats, rate: Floats) -> Floats:
        """Return the angular rate of a changing rotation vector.

        It is the vector's left Jacobian times the rate (Sola et al. 2018, eq. 145).
        """
        angle = math.hypot(*offset)
        if angle < NO_ANGLE:
            return rate

        once = cross(offset, rate)
        first = (1 - math.cos(angle)) / angle**2
        second = (angle - math.sin(angle)) / angle**3
        return add(rate, add(scaled(once, first), scaled(cross(offset, once), second)))


class TrajectoryFollower:
    """Follower of a target in three axes; see the module.

    Args:
        period: Of a tick [s].
        motion: Bounds on the vectors' lengths.
        space: :class:`Line` or :class:`Turn`.
        allowed: Judges a stop: called with the point it starts at, its bounding box as
            lowest and highest offset, and its last offset.
    """

    def __init__(
        self,
        period: float,
        motion: Motion,
        space: type[Space],
        allowed: Callable[[Any, Floats, Floats, Floats], bool],
    ) -> None:
        from ruckig import ControlInterface, InputParameter, Ruckig, Synchronization

        self.period = period
        self.space = space
        self.allowed = allowed
        share = 1 / math.sqrt(AXES)
        self.top = motion.speed * share

        self._planner = Ruckig(AXES, period)
        self._way = InputParameter(AXES)
        self._halt = InputParameter(AXES)
        self._halt.control_interface = ControlInterface.Velocity
        # Straight from rest; as fast as the slowest axis otherwise.
        self._way.synchronization = Synchronization.Phase
        # Every axis as soon as it can.
        self._halt.synchronization = Synchronization.No
        for parameters in (self._way, self._halt):
            parameters.max_velocity = [self.top] * AXES
            parameters.max_acceleration = [motion.acceleration * share] * AXES
            parameters.max_jerk = [motion.jerk * share] * AXES
            parameters.current_position = list(ZERO)

        self.point: Any = ZERO
        self.rate: Floats = ZERO
        self.second: Floats = ZERO
        self._stop: tuple[Any, Any, float] | None = None

    def reset(self, point: Any, rate: Floats = ZERO) -> None:
        """Go on from ``point``; with that rate, if a stop from there is allowed, else at rest."""
        self.point = point
        self.second = ZERO
        self._stop = None
        self.rate = tuple(min(max(v, -self.top), self.top) for v in rate)
        if self.rate == ZERO:
            return

        stop = self._plan_stop(point, self.rate, ZERO)
        if stop is None:
            self.rate = ZERO
        else:
            self._stop = (point, stop, 0.0)

    @property
    def resting(self) -> bool:
        """True once it has come to rest."""
        return max(map(abs, self.rate)) < RESTING

    def follow(self, target: Any) -> bool:
        """Take one tick towards ``target``; False when it had to brake instead."""
        way = self._plan(self._way, self.rate, self.second, self.space.between(self.point, target))
        if way is not None:
            point, rate, second = self._state(self.point, way, self.period)
            stop = self._plan_stop(point, rate, second)
            if stop is not None:
                self.point = point
                self.rate = rate
                self.second = second
                self._stop = (point, stop, 0.0)
                return True

        self.brake()
        return False

    def brake(self) -> None:
        """Take one tick of the stop."""
        if self._stop is None:
            return

        start, stop, elapsed = self._stop
        elapsed += self.period
        self._stop = (start, stop, elapsed)
        self.point, self.rate, self.second = self._state(start, stop, min(elapsed, stop.duration))

    def _state(self, start: Any, trajectory: Any, at: float) -> tuple[Any, Floats, Floats]:
        offset, rate, second = trajectory.at_time(at)
        return (
            self.space.moved(start, offset),
            self.space.carried(offset, rate),
            self.space.carried(offset, second),
        )

    def _plan(self, parameters: Any, rate: Floats, second: Floats, goal: Floats | None) -> Any:
        from ruckig import Result, RuckigError, Trajectory

        parameters.current_velocity = rate
        parameters.current_acceleration = second
        if goal is not None:
            parameters.target_position = goal

        trajectory = Trajectory(AXES)
        try:
            result = self._planner.calculate(parameters, trajectory)
        except RuckigError:
            return None
        return trajectory if result in (Result.Working, Result.Finished) else None

    def _plan_stop(self, point: Any, rate: Floats, second: Floats) -> Any:
        """Return the fastest stop, or ``None`` where it is not allowed."""
        stop = self._plan(self._halt, rate, second, None)
        if stop is None:
            return None

        extrema = stop.position_extrema
        low = tuple(bound.min for bound in extrema)
        high = tuple(bound.max for bound in extrema)
        last = stop.at_time(stop.duration)[0]
        return stop if self.allowed(point, low, high, last) else None
