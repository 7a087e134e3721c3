"""The ray caster: rays hit what stands in their way, where they should, and images repeat."""

from __future__ import annotations

import math

import numpy as np
import pytest

from zprl.evaluation import scene_solids
from zprl.evaluation.render import FAR, Camera, SolidBox, SolidCapsule, render, rotation_matrix

RED = (0.9, 0.02, 0.02)
LOOK_DOWN_X = Camera(eye=(2.0, 0.0, 0.5), target=(0.0, 0.0, 0.5), field_of_view=40.0)


def ray(*values: float) -> np.ndarray:
    return np.array([values], np.float32)


def vector(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def cube(
    centre: tuple[float, float, float], edge: float = 0.2, rotation: np.ndarray | None = None
) -> SolidBox:
    return SolidBox(
        vector(*centre),
        np.eye(3, dtype=np.float32) if rotation is None else rotation,
        vector(edge, edge, edge),
        RED,
    )


def is_red(pixel: np.ndarray) -> bool:
    return int(pixel[0]) > 2 * int(pixel[1])


def test_a_box_is_hit_on_its_near_face() -> None:
    distance, normal = cube((0, 0, 0)).hit(ray(2, 0, 0), ray(-1, 0, 0))
    assert distance[0] == pytest.approx(1.9, abs=1e-5)
    assert normal[0].tolist() == pytest.approx([1, 0, 0])


def test_a_turned_box_shows_its_edge() -> None:
    turned = rotation_matrix(
        (0, 0, math.sin(math.pi / 8), math.cos(math.pi / 8))
    )  # 45 degrees about z
    distance, _ = cube((0, 0, 0), rotation=turned).hit(ray(2, 1e-4, 0), ray(-1, 0, 0))
    assert distance[0] == pytest.approx(2 - 0.1 * math.sqrt(2), abs=1e-3)


def test_a_capsule_is_hit_on_side_and_cap() -> None:
    capsule = SolidCapsule(vector(0, 0, 0), vector(0, 0, 1), 0.25, RED)
    side, normal = capsule.hit(ray(2, 0, 0.5), ray(-1, 0, 0))
    assert side[0] == pytest.approx(1.75, abs=1e-5)
    assert normal[0].tolist() == pytest.approx([1, 0, 0], abs=1e-5)
    cap, normal = capsule.hit(ray(0, 0, 3), ray(0, 0, -1))  # along its axis
    assert cap[0] == pytest.approx(1.75, abs=1e-5)
    assert normal[0].tolist() == pytest.approx([0, 0, 1], abs=1e-5)


@pytest.mark.parametrize(
    "solid", [cube((0, 0, 0)), SolidCapsule(vector(0, 0, 0), vector(0, 0, 1), 0.25, RED)]
)
def test_misses_and_what_lies_behind_are_far(solid) -> None:
    assert solid.hit(ray(2, 1, 0), ray(-1, 0, 0))[0][0] == FAR
    assert solid.hit(ray(2, 0, 0), ray(1, 0, 0))[0][0] == FAR


def test_a_box_is_seen_at_the_known_pixels() -> None:
    # Its near face is 1.9 away and 0.1 to each side; focal length in pixels is 60 / tan 20 deg =
    # 164.85: 8.68 pixels to each side.
    image = render([cube((0, 0, 0.5))], camera=LOOK_DOWN_X, width=160, height=120)
    # From 71.32 to 88.68: pixels 72 to 87 are covered, of 71 and 88 one sample of two (at .75 and
    # .25) hits.
    row = [is_red(pixel) for pixel in image[60]]
    assert [column for column, red in enumerate(row) if red] == list(range(72, 88))
    assert np.array_equal(image[60, 70], image[60, 0]), "the next pixel sees nothing but sky"
    assert int(image[60, 71, 1]) < int(image[60, 70, 1]), "the edge's pixel is mixed"


def test_left_is_left_and_up_is_up() -> None:
    # Looking along -x with z up, +y lies on the right.
    image = render([cube((0, 0.3, 0.7), 0.1)], camera=LOOK_DOWN_X, width=160, height=120)
    rows, columns = np.nonzero(image[..., 0].astype(int) > 2 * image[..., 1].astype(int))
    assert columns.mean() > 80
    assert rows.mean() < 60


def test_the_nearer_solid_hides_the_farther() -> None:
    green = SolidBox(
        vector(0.5, 0, 0.5), np.eye(3, dtype=np.float32), vector(0.3, 0.3, 0.3), (0.02, 0.9, 0.02)
    )
    for solids in ([cube((0, 0, 0.5)), green], [green, cube((0, 0, 0.5))]):
        middle = render(solids, camera=LOOK_DOWN_X, width=80, height=60)[30, 40]
        assert int(middle[1]) > 2 * int(middle[0])


def test_a_shadow_falls_away_from_the_sun() -> None:
    ground = SolidBox(
        vector(0, 0, -0.05), np.eye(3, dtype=np.float32), vector(2, 2, 0.1), (0.5, 0.5, 0.5)
    )
    above = Camera(eye=(0.0, -0.01, 2.2), target=(0.0, 0.0, 0.0), field_of_view=40.0)
    bare = render([ground], camera=above, width=160, height=120).astype(int)[..., 0]
    shaded = render([ground, cube((0, 0, 0.5), 0.1)], camera=above, width=160, height=120)
    darker = (bare - shaded.astype(int)[..., 0] > 25) & ~(
        shaded[..., 0].astype(int) > 2 * shaded[..., 1].astype(int)
    )
    rows, columns = np.nonzero(darker)
    # The sun stands at +x, -y: the shadow lies at -x (left) and +y (up in this image).
    assert len(rows) > 20
    assert columns.mean() < 80
    assert rows.mean() < 60


def test_images_repeat_and_are_not_blank() -> None:
    poses = {
        "panda_link0": (0, 0, 0, 0, 0, 0, 1),
        "panda_hand": (0.5, 0, 0.4, 1, 0, 0, 0),
        "cube": (0.5, 0.1, 0.024, 0, 0, 0, 1),
    }
    one, two = (render(scene_solids.solids(poses), width=96, height=72) for _ in range(2))
    assert np.array_equal(one, two)
    assert one.shape == (72, 96, 3)
    assert one.dtype == np.uint8
    assert one.std() > 20


def test_the_cube_is_where_its_pose_says() -> None:
    moved = [
        render(scene_solids.solids({"cube": (0.5, y, 0.024, 0, 0, 0, 1)}), width=96, height=72)
        for y in (-0.2, 0.2)
    ]
    columns = [
        np.nonzero(p[..., 0].astype(int) > 2 * p[..., 2].astype(int))[1].mean() for p in moved
    ]
    assert columns[0] < columns[1]


def test_unknown_bodies_have_images_too() -> None:
    assert len(scene_solids.solids({"drawer": (0.5, 0, 0.3, 0, 0, 0, 1)})) == 1


def test_rotation_matrix_of_half_a_turn() -> None:
    np.testing.assert_allclose(rotation_matrix((1, 0, 0, 0)), np.diag([1, -1, -1]), atol=1e-7)
