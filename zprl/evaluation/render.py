"""A small ray caster: images of a scene from its poses, without a GPU, a window or a simulator.

Boxes and capsules are intersected analytically, lit by one sun with hard shadows and a soft sky,
and averaged over 2 x 2 samples per pixel.  Equal poses give equal pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float32]
Colour = tuple[float, float, float]

SUN = np.array([0.35, -0.55, 0.85], np.float32) / np.float32(math.sqrt(0.35**2 + 0.55**2 + 0.85**2))
SKY_TOP, SKY_BOTTOM = (0.50, 0.62, 0.78), (0.90, 0.93, 0.96)
FLOOR_HEIGHT, FLOOR = -1.05, (0.62, 0.66, 0.70)
FOG_START, FOG_END = 1.9, 4.5
HALF = np.float32(0.5)
EPSILON = np.float32(1e-4)
FAR = np.float32(1e9)


@dataclass(frozen=True)
class Camera:
    """Pose and field of view [deg] of a camera; positions in the environment's frame [m]."""

    eye: tuple[float, float, float] = (1.50, -0.92, 0.72)
    target: tuple[float, float, float] = (0.32, 0.03, 0.30)
    field_of_view: float = 34.0

    def axes(self) -> Array:
        """Return unit vectors as rows (3, 3): right, down, forward."""
        forward = np.subtract(self.target, self.eye)
        forward = forward / np.linalg.norm(forward)
        right = np.cross(forward, (0.0, 0.0, 1.0))
        right = right / np.linalg.norm(right)
        return np.stack((right, np.cross(forward, right), forward)).astype(np.float32)


@dataclass(frozen=True)
class SolidCapsule:
    """All points within ``radius`` of the segment from ``a`` to ``b`` [m]."""

    a: Array
    b: Array
    radius: float
    colour: Colour
    gloss: float = 0.25

    def bound(self) -> tuple[Array, np.float32]:
        """Return centre and radius of a sphere around it."""
        return (self.a + self.b) * HALF, np.float32(
            np.linalg.norm(self.b - self.a) / 2 + self.radius
        )

    def hit(self, origin: Array, direction: Array) -> tuple[Array, Array]:
        """Return distances and normals of rays (Quilez, "capsule intersection").

        Args:
            origin: (n, 3).
            direction: Unit vectors (n, 3).

        Returns:
            Distance (n,), ``FAR`` where missed, and outward normal (n, 3).
        """
        ba = self.b - self.a
        oa = origin - self.a
        length2 = np.float32(max(float(ba @ ba), 1e-12))
        along_d = direction @ ba
        along_o = oa @ ba
        dot = np.einsum("ij,ij->i", direction, oa)
        oa2 = np.einsum("ij,ij->i", oa, oa)
        r2 = np.float32(self.radius**2)

        # The infinite cylinder around the axis: a quadratic equation.
        a = length2 - along_d * along_d
        b = length2 * dot - along_o * along_d
        c = length2 * oa2 - along_o * along_o - r2 * length2
        h = b * b - a * c
        with np.errstate(invalid="ignore", divide="ignore"):
            side = np.where(a > 1e-9 * length2, (-b - np.sqrt(np.maximum(h, 0))) / a, -FAR)
        at = along_o + side * along_d
        on_side = (h >= 0) & (at > 0) & (at < length2)

        # Else the sphere around the nearer end.
        end = np.where((at <= 0)[:, None], oa, origin - self.b)
        b2 = np.einsum("ij,ij->i", direction, end)
        h2 = b2 * b2 - (np.einsum("ij,ij->i", end, end) - r2)
        cap = -b2 - np.sqrt(np.maximum(h2, 0))
        distance = np.where(on_side, side, np.where((h >= 0) & (h2 >= 0), cap, FAR))
        distance = np.where(distance > EPSILON, distance, FAR)

        # The normal points away from the nearest point of the axis.
        point = oa + np.where(distance < FAR, distance, 0)[:, None] * direction
        nearest = np.clip(point @ ba / length2, 0, 1)
        normal = (point - nearest[:, None] * ba) / np.float32(self.radius)
        return distance, np.asarray(normal, np.float32)


@dataclass(frozen=True)
class SolidBox:
    """A box of edge lengths ``size`` about ``centre``, turned by ``rotation`` (3, 3) [m]."""

    centre: Array
    rotation: Array
    size: Array
    colour: Colour
    gloss: float = 0.15

    def bound(self) -> tuple[Array, np.float32]:
        """Return centre and radius of a sphere around it."""
        return self.centre, np.float32(np.linalg.norm(self.size) / 2)

    def hit(self, origin: Array, direction: Array) -> tuple[Array, Array]:
        """Return distances and normals of rays: the slab method.

        Args:
            origin: (n, 3).
            direction: Unit vectors (n, 3).

        Returns:
            Distance (n,), ``FAR`` where missed, and outward normal (n, 3).
        """
        o = (origin - self.centre) @ self.rotation
        d = direction @ self.rotation
        d = np.where(np.abs(d) < 1e-9, np.float32(1e-9), d)
        middle = -o / d
        reach = np.abs(self.size / 2 / d)

        # A ray is inside where it has entered all three slabs and left none.
        enter = middle - reach
        axis = enter.argmax(axis=1)
        near = np.take_along_axis(enter, axis[:, None], 1)[:, 0]
        far = (middle + reach).min(axis=1)
        distance = np.where((near <= far) & (near > EPSILON), near, FAR)
        sign = -np.sign(np.take_along_axis(d, axis[:, None], 1))
        return distance, sign * self.rotation.T[axis]


Solid = SolidCapsule | SolidBox


def rotation_matrix(quat: ArrayLike) -> Array:
    """Return the rotation matrix (3, 3) of a unit quaternion xyzw."""
    x, y, z, w = np.asarray(quat, np.float64) / np.linalg.norm(quat)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return np.array(rows, np.float32)


def render(
    solids: Sequence[Solid],
    *,
    camera: Camera | None = None,
    width: int = 320,
    height: int = 240,
    samples: int = 2,
) -> NDArray[np.uint8]:
    """Return an image (height, width, 3) uint8, sRGB, of solids over a floor and under a sky."""
    camera = camera or Camera()
    w, h = width * samples, height * samples
    axes = camera.axes()
    eye = np.asarray(camera.eye, np.float32)
    focal = h / 2 / math.tan(math.radians(camera.field_of_view) / 2)
    x, y = np.meshgrid((np.arange(w) + 0.5 - w / 2) / focal, (np.arange(h) + 0.5 - h / 2) / focal)
    rays = np.stack((x, y, np.ones_like(x)), -1).reshape(-1, 3).astype(np.float32) @ axes
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)

    # The nearest solid of each ray.
    depth, normal = _floor(eye, rays)
    owner = np.where(depth < FAR, len(solids), -1)
    for index, solid in enumerate(solids):
        pixels = _pixels(solid, eye, axes, focal, w, h)
        if pixels is None:
            continue
        distance, facing = solid.hit(np.broadcast_to(eye, (len(pixels), 3)), rays[pixels])
        closer = distance < depth[pixels]
        hit = pixels[closer]
        depth[hit], normal[hit], owner[hit] = distance[closer], facing[closer], index

    sky = _sky(np.linspace(0, 1, h, dtype=np.float32))[:, None].repeat(w, 1).reshape(-1, 3)
    image = sky.copy()

    # Light what was hit, and is not lost in fog.
    seen = np.flatnonzero((owner >= 0) & (depth < FOG_END))
    palette = np.array([*(solid.colour for solid in solids), FLOOR], np.float32)
    gloss = np.array([*(solid.gloss for solid in solids), 0.0], np.float32)[owner[seen]]
    point = eye + depth[seen, None] * rays[seen]
    light = _light(solids, point, normal[seen], rays[seen], gloss)
    lit = palette[owner[seen]] * light[:, :1] + light[:, 1:]

    # Far away everything melts into the sky, so that the floor has no hard horizon.
    haze = np.clip((depth[seen] - FOG_START) / (FOG_END - FOG_START), 0, 1)[:, None]
    fog = haze ** np.float32(0.8)
    image[seen] = lit * (1 - fog) + sky[seen] * fog
    image = image.reshape(height, samples, width, samples, 3).mean(axis=(1, 3))
    return (np.clip(image, 0, 1) ** np.float32(1 / 2.2) * 255 + np.float32(0.5)).astype(np.uint8)


def _sky(down: Array) -> Array:
    """Return the linear colour from the image's top (0) to its bottom (1)."""
    top = np.array(SKY_TOP, np.float32)
    bottom = np.array(SKY_BOTTOM, np.float32)
    share: Array = np.minimum(1, down * np.float32(1.6))[:, None] ** np.float32(0.7)
    return top + (bottom - top) * share


def _floor(eye: Array, rays: Array) -> tuple[Array, Array]:
    with np.errstate(divide="ignore"):
        distance = (np.float32(FLOOR_HEIGHT) - eye[2]) / rays[:, 2]
    normal = np.zeros_like(rays)
    normal[:, 2] = 1
    return np.where((rays[:, 2] < -1e-6), distance, FAR).astype(np.float32), normal


def _pixels(
    solid: Solid, eye: Array, axes: Array, focal: float, w: int, h: int
) -> NDArray[np.int64] | None:
    """Return flat indices of the pixels that can see the solid, or ``None``.

    They are those of the projected cube around its bounding sphere.
    """
    centre, radius = solid.bound()
    seen = axes @ (centre - eye)
    corners = seen + radius * (np.array(np.meshgrid((-1, 1), (-1, 1), (-1, 1))).reshape(3, 8).T)

    # Behind the camera, or around it.
    if corners[:, 2].max() <= 0:
        return None
    if corners[:, 2].min() <= 1e-3:
        return np.arange(w * h)

    projected = corners[:, :2] / corners[:, 2:] * focal + np.array((w / 2, h / 2))
    low, high = np.floor(projected.min(0)), np.ceil(projected.max(0))
    x0, y0 = np.maximum(low, 0).astype(int)
    x1, y1 = np.minimum(high, (w, h)).astype(int)
    if x0 >= x1 or y0 >= y1:
        return None
    return (np.arange(y0, y1)[:, None] * w + np.arange(x0, x1)).ravel()


def _light(
    solids: Sequence[Solid], point: Array, normal: Array, rays: Array, gloss: Array
) -> Array:
    """Return the factor of each point's colour, and its white highlight, as (n, 2)."""
    facing = np.maximum(normal @ SUN, 0)
    bounds = [solid.bound() for solid in solids]

    # Squared distances |c - p|^2 to all spheres at once, by matrix products: the only part that
    # grows with points x solids.
    centres = np.array([centre for centre, _ in bounds], np.float32).reshape(-1, 3)
    radii = np.array([radius for _, radius in bounds], np.float32)
    squared = (
        np.einsum("ij,ij->i", point, point)[:, None] - 2 * (point @ centres.T) + (centres**2).sum(1)
    )
    along = centres @ SUN - (point @ SUN)[:, None]
    reached = (squared - along * along < radii**2) & (along > -radii) & (facing > 0)[:, None]
    blocked = np.zeros(len(point), bool)
    for number, solid in enumerate(solids):
        index = np.flatnonzero(reached[:, number] & ~blocked)
        if len(index):
            start = point[index] + normal[index] * np.float32(2e-3)
            distance, _ = solid.hit(start, np.broadcast_to(SUN, (len(index), 3)))
            blocked[index] |= distance < FAR
    facing[blocked] = 0

    # The sun's highlight (Blinn and Phong).
    half = SUN - rays
    half /= np.linalg.norm(half, axis=1, keepdims=True)
    shine = (
        gloss * np.maximum(np.einsum("ij,ij->i", normal, half), 0) ** np.float32(40) * (facing > 0)
    )

    # Large solids, such as the table, would take the whole sky.
    small = radii < 0.2
    lifted = (normal @ centres[small].T) - np.einsum("ij,ij->i", normal, point)[:, None]
    ambient = (np.float32(0.30) + np.float32(0.16) * normal[:, 2]) * _open_sky(
        squared[:, small], lifted, radii[small]
    )
    return np.stack((ambient + np.float32(0.78) * facing, shine), 1)


def _open_sky(squared: Array, lifted: Array, radii: Array) -> Array:
    """Return the share of the sky (n,) that spheres leave to points.

    Each takes cosine x solid angle (Quilez, "sphere ambient occlusion").  The spheres are the
    solids' bounding spheres at 0.55 of their radius: soft contact shadows need no more.

    Args:
        squared: (n, K) squared distances to the centres.
        lifted: (n, K) heights of the centres over the points' tangent planes.
        radii: (K,) bounding radii.
    """
    size = (np.float32(0.55) * radii) ** 2
    wide = np.maximum(squared, np.maximum(size, np.float32(1e-6)))
    taken = np.maximum(lifted, 0) / np.sqrt(wide) * size / wide
    return np.prod(1 - np.minimum(np.float32(0.85), taken), axis=1)
