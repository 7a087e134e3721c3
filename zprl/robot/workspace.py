"""Allowed positions and directions of a tool."""

from __future__ import annotations

import math

from zprl.robot.limits import ArmLimits, Cone
from zprl.robot.rotation import Floats, from_rotvec, product, unit
from zprl.robot.trajectory_follower import Turn, add, cross, dot, rotated, scaled

INSET = 1e-5
"""Targets keep this distance [m, rad] from every boundary, so that rounding in what leads there
stays within it."""
ROUNDING = 1e-7
"""Distance outside a boundary [m, rad] that counts as rounding."""
TRIES = 8
"""Rounds of projection onto all boundaries before a position counts as out of reach."""
PARALLEL = 1e-9
"""Length of a cross product below which two axes are parallel."""


class Workspace:
    """Workspace, keep-out boxes and half-spaces of one arm."""

    def __init__(self, limits: ArmLimits) -> None:
        self.low, self.high = limits.workspace.low, limits.workspace.high
        self.keep_out = [(box.low, box.high) for box in limits.keep_out]
        self.planes = [(plane.normal, plane.offset) for plane in limits.planes]

    def contains_box(self, low: Floats, high: Floats) -> bool:
        """Return True where a whole upright box lies inside."""
        if any(a < b - ROUNDING for a, b in zip(low, self.low, strict=True)):
            return False
        if any(a > b + ROUNDING for a, b in zip(high, self.high, strict=True)):
            return False

        for normal, offset in self.planes:
            # The corner that lies farthest on the forbidden side.
            corner = (a if n > 0 else b for n, a, b in zip(normal, low, high, strict=True))
            if sum(n * v for n, v in zip(normal, corner, strict=True)) < offset:
                return False

        return not any(_overlap(low, high, *box) for box in self.keep_out)

    def contains(self, point: Floats) -> bool:
        """Return True where a point lies inside."""
        return self.contains_box(point, point)

    def clamped(self, point: Floats, inset: float = 0.0) -> Floats:
        """Return the nearest point of the workspace box."""
        return tuple(
            min(max(v, low + inset), high - inset)
            for v, low, high in zip(point, self.low, self.high, strict=True)
        )

    def nearest(self, point: Floats) -> Floats | None:
        """Return a near allowed point, or ``None`` where the search ends without one.

        It is the nearest one where only one boundary is in the way.
        """
        if not all(map(math.isfinite, point)):
            return None

        for _ in range(TRIES):
            point = self.clamped(point, INSET)
            for normal, offset in self.planes:
                missing = offset + INSET - dot(normal, point)
                if missing > 0:
                    point = add(point, scaled(normal, missing))
            for low, high in self.keep_out:
                point = self._pushed_out(point, low, high)
            if self.contains(point):
                return point
        return None

    def _pushed_out(self, point: Floats, low: Floats, high: Floats) -> Floats:
        """Move a point through the nearest face that does not lead out of the workspace."""
        if not all(bottom < v < top for v, bottom, top in zip(point, low, high, strict=True)):
            return point

        ways = [
            (abs(value - point[axis]), axis, value)
            for axis in range(3)
            for value in (low[axis] - INSET, high[axis] + INSET)
            if self.low[axis] + INSET <= value <= self.high[axis] - INSET
        ]
        if not ways:
            return point

        _, axis, value = min(ways)
        return (*point[:axis], value, *point[axis + 1 :])


def _overlap(low: Floats, high: Floats, bottoms: Floats, tops: Floats) -> bool:
    """Return True where two upright boxes overlap."""
    return all(
        a < top and b > bottom for a, b, bottom, top in zip(low, high, bottoms, tops, strict=True)
    )


class Pointing:
    """Cone in which the tool's z axis may point; without one, every direction."""

    def __init__(self, cone: Cone | None) -> None:
        self.axis: Floats = cone.axis if cone else (0.0, 0.0, 1.0)
        self.angle = cone.angle if cone else math.pi

    def tilt(self, orientation: Floats) -> float:
        """Return the angle of the tool's z axis to the cone's axis [rad]."""
        z = rotated(orientation, (0.0, 0.0, 1.0))
        return math.atan2(math.hypot(*cross(self.axis, z)), dot(self.axis, z))

    def allows_stop(self, orientation: Floats, low: Floats, high: Floats, last: Floats) -> bool:
        """Return True where the tool points into the cone now and when it has stopped."""
        limit = self.angle + ROUNDING
        return self.angle >= math.pi or (
            self.tilt(orientation) <= limit and self.tilt(Turn.moved(orientation, last)) <= limit
        )

    def nearest(self, orientation: Floats, inset: float = 0.0) -> Floats:
        """Return the orientation turned back into the cone, the short way."""
        tilt = self.tilt(orientation)
        wanted = max(self.angle - inset, 0.0)
        if tilt <= wanted or self.angle >= math.pi:
            return orientation

        z = rotated(orientation, (0.0, 0.0, 1.0))
        turn = cross(z, self.axis)
        if math.hypot(*turn) < PARALLEL:  # opposite to the axis: any direction is as short
            turn = cross(z, (1.0, 0.0, 0.0) if abs(z[0]) < 0.9 else (0.0, 1.0, 0.0))
        back = from_rotvec(scaled(turn, (tilt - wanted) / math.hypot(*turn)))
        return unit(product(back, orientation))
