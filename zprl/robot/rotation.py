"""Rotations in plain floats for the control path.

There one array call costs more than the whole formula.

Quaternions are xyzw and of unit length unless said; rotation vectors [rad]; the 6-D rotation of
actions is the first two columns of the rotation matrix.  The batched, differentiable version
of this module is :mod:`zprl.envs.rotation`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Floats = tuple[float, ...]

IDENTITY: Floats = (0.0, 0.0, 0.0, 1.0)
_TINY = 1e-9
"""Length below which a vector has no direction."""
_PARALLEL = 1e-12
"""Distance of a cosine from 1 below which two columns are parallel."""
_SERIES = 1e-6
"""Angle below which sin(a/2)/a is taken from its series [rad]."""


def unit(vector: Sequence[float]) -> Floats:
    """Return a vector scaled to length 1.

    Raises:
        ValueError: too short to have a direction.
    """
    length = math.hypot(*vector)
    if not length > _TINY:
        raise ValueError("no direction")
    return tuple(float(v) / length for v in vector)


def product(a: Sequence[float], b: Sequence[float]) -> Floats:
    """Return the Hamilton product: first ``b``, then ``a``, both about fixed axes."""
    ax, ay, az, aw = a
    bx, by, bz, bw = b
    return (
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
        aw * bw - ax * bx - ay * by - az * bz,
    )


def inverse(q: Sequence[float]) -> Floats:
    """Return the inverse of a unit quaternion."""
    return (-q[0], -q[1], -q[2], q[3])


def from_rotvec(vector: Sequence[float]) -> Floats:
    """Return the unit quaternion of a rotation vector (3,) of any length."""
    angle = math.hypot(*vector)
    # sin(a/2)/a, by its series where the quotient would lose digits
    scale = math.sin(angle / 2) / angle if angle > _SERIES else 0.5 - angle * angle / 48
    return (vector[0] * scale, vector[1] * scale, vector[2] * scale, math.cos(angle / 2))


def shorter(q: Sequence[float]) -> Floats:
    """Return the same rotation with w >= 0: an angle of at most half a turn."""
    return tuple(q) if q[3] >= 0 else (-q[0], -q[1], -q[2], -q[3])


def steady(q: Sequence[float]) -> Floats:
    """Return the same rotation with a sign that does not jump where tools point down.

    A tool that points down is half a turn away from the base frame, exactly where the usual choice
    (w >= 0) changes with the noise of a measurement.  Beyond 120 degrees the side with x >= 0 is
    taken instead, with angles of up to 240 degrees: steady for every tilt of up to 60 degrees from
    straight down and every yaw within half a turn of the pose (1, 0, 0, 0).
    """
    x, y, z, w = q
    beyond_120_degrees = abs(w) < 0.5
    negate = x < 0 if beyond_120_degrees else w < 0
    return (-x, -y, -z, -w) if negate else (x, y, z, w)


def to_rotvec(q: Sequence[float]) -> Floats:
    """Return the rotation vector (3,) of this very quaternion: an angle of up to a whole turn.

    :func:`shorter` and :func:`steady` choose between a quaternion and its negative.
    """
    x, y, z, w = q
    sine = math.hypot(x, y, z)
    scale = 2 * math.atan2(sine, w) / sine if sine > _TINY else 2.0
    return (x * scale, y * scale, z * scale)


def to_6d(q: Sequence[float]) -> Floats:
    """Return the first two columns of the rotation matrix, column after column, (6,)."""
    x, y, z, w = q
    return (
        1 - 2 * (y * y + z * z),
        2 * (x * y + w * z),
        2 * (x * z - w * y),
        2 * (x * y - w * z),
        1 - 2 * (x * x + z * z),
        2 * (y * z + w * x),
    )


def from_6d(columns: Sequence[float]) -> Floats:
    """Return the quaternion of a 6-D rotation, orthonormal by Gram-Schmidt (Zhou et al. 2019).

    Raises:
        ValueError: a column is zero or both are parallel.
    """
    a = ax, ay, az = unit(columns[:3])
    b = unit(columns[3:6])
    along = sum(p * q for p, q in zip(a, b, strict=True))

    if abs(along) > 1 - _PARALLEL:
        raise ValueError("parallel columns")
    bx, by, bz = unit([q - along * p for p, q in zip(a, b, strict=True)])
    cx = ay * bz - az * by
    cy = az * bx - ax * bz
    cz = ax * by - ay * bx

    # The largest of the four squared components is at least 1/4: no angle is near a division by
    # zero (Shepperd 1978).
    squares = (1 + ax - by - cz, 1 - ax + by - cz, 1 - ax - by + cz, 1 + ax + by + cz)
    best = max(range(4), key=squares.__getitem__)
    rows = (
        (squares[0], ay + bx, az + cx, bz - cy),
        (ay + bx, squares[1], bz + cy, cx - az),
        (az + cx, bz + cy, squares[2], ay - bx),
        (bz - cy, cx - az, ay - bx, squares[3]),
    )
    return unit(rows[best])


def slerp(a: Sequence[float], b: Sequence[float], share: float) -> Floats:
    """Interpolate from ``a`` (share 0) to ``b`` (share 1) along the shorter arc."""
    turn = to_rotvec(shorter(product(b, inverse(a))))
    return unit(product(from_rotvec([share * v for v in turn]), a))
