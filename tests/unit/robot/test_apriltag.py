"""Poses of markers in rendered images."""

from __future__ import annotations

import numpy as np
import pytest

from tests.unit.robot.scripted_sensor import Scripted
from zprl.errors import ConfigError
from zprl.robot.sensors import (
    apriltag,
)
from zprl.robot.sensors.base import (
    Reading,
)

pytestmark = pytest.mark.realtime

IDENTITY = (0.0, 0.0, 0.0, 1.0)
FOCAL, WIDTH, HEIGHT, TAG = 600.0, 640, 480, 0.06


def show_tag(marker_in_camera, number=3):
    """Render the image of a tag at a pose (4, 4).

    Each pixel's ray meets the tag's plane; four rays a side for each pixel.
    """
    import cv2

    dictionary = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_APRILTAG_36h11)
    fine, quiet = 512, 96
    tag = cv2.copyMakeBorder(
        cv2.aruco.generateImageMarker(dictionary, number, fine),
        *[quiet] * 4,
        cv2.BORDER_CONSTANT,
        value=255,
    )
    over = 4
    v, u = np.meshgrid(
        (np.arange(HEIGHT * over) + 0.5) / over - 0.5,
        (np.arange(WIDTH * over) + 0.5) / over - 0.5,
        indexing="ij",
    )
    x, y = (u - WIDTH / 2) / FOCAL, (v - HEIGHT / 2) / FOCAL
    # On the plane z = 0 of the tag, a point (X, Y) is seen along r1 X + r2 Y + t.
    plane = np.linalg.inv(
        np.stack([marker_in_camera[:3, 0], marker_in_camera[:3, 1], marker_in_camera[:3, 3]], 1)
    )
    hit = np.stack([x, y, np.ones_like(x)], -1) @ plane.T
    across, up = hit[..., 0] / hit[..., 2], hit[..., 1] / hit[..., 2]
    column, row = (across / TAG + 0.5) * fine + quiet - 0.5, (0.5 - up / TAG) * fine + quiet - 0.5
    seen = cv2.remap(
        tag, column.astype(np.float32), row.astype(np.float32), cv2.INTER_LINEAR, borderValue=170
    )
    grey = cv2.resize(seen, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    noise = np.random.default_rng(0).normal(0, 2, grey.shape)
    return np.repeat(np.clip(grey + noise, 0, 255).astype(np.uint8)[..., None], 3, -1)


def locator(**changes):
    config = {
        "camera": {"kind": "synthetic"},
        "marker": 3,
        "size_m": TAG,
        "intrinsics": (FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2),
    }
    camera_pose = (0.5, 0.0, 0.6, 1.0, 0.0, 0.0, 0.0)  # above the table, looking down
    parsed = apriltag.AprilTagConfig(
        name="object", **{**config, "camera_pose": camera_pose, **changes}
    )
    return apriltag.AprilTag(parsed, Scripted())


@pytest.mark.parametrize(
    ("position", "turn"),
    [((0.5, 0.0, 0.02), 0.0), ((0.56, -0.08, 0.05), 0.7), ((0.42, 0.10, 0.15), -2.0)],
)
def test_a_tag_is_located_within_millimetres(position, turn):
    from scipy.spatial.transform import Rotation

    truth = np.array([*position, *Rotation.from_euler("zx", [turn, 0.2]).as_quat()])
    one = locator()
    in_camera = np.linalg.inv(apriltag.matrix(one.config.camera_pose)) @ apriltag.matrix(
        tuple(truth)
    )
    result = one.locate(show_tag(in_camera))
    assert np.abs(result[:2] - truth[:2]).max() < 0.0004, "sideways: 0.4 mm, half a pixel"
    assert abs(result[2] - truth[2]) < 0.0006, "along the view: 0.6 mm at half a metre"
    angle = (Rotation.from_quat(result[3:]) * Rotation.from_quat(truth[3:]).inv()).magnitude()
    assert angle < np.radians(1.5), "worst where edges lie along the rows of pixels"
    assert np.linalg.norm(result[3:]) == pytest.approx(1)


def test_the_object_may_lie_beside_its_tag():
    tag = (0.5, 0.0, 0.02, *IDENTITY)
    one = locator(object_in_marker=(0.0, 0.03, -0.02, *IDENTITY))
    image = show_tag(np.linalg.inv(apriltag.matrix(one.config.camera_pose)) @ apriltag.matrix(tag))
    np.testing.assert_allclose(one.locate(image)[:3], [0.5, 0.03, 0.0], atol=0.001)
    assert locator(marker=4).locate(image) is None, "another tag"
    assert one.locate(np.full((HEIGHT, WIDTH, 3), 128, np.uint8)) is None, "no tag"


def test_a_tag_reading_has_the_images_stamps():
    one = locator()
    image = show_tag(
        np.linalg.inv(apriltag.matrix(one.config.camera_pose))
        @ apriltag.matrix((0.5, 0, 0.02, *IDENTITY))
    )
    one._camera = Scripted(
        Reading(image, 1.5, 99.0, 42), Reading(np.zeros_like(image), 1.6, 99.1, 43)
    )
    reading = one.read()
    assert (reading.stamp, reading.host, reading.seq, reading.value.shape) == (1.5, 99.0, 42, (7,))
    assert one.read() is None


def test_a_camera_pose_needs_a_quaternion():
    with pytest.raises(ConfigError, match="camera_pose"):
        apriltag.make(
            {
                "name": "o",
                "camera": {"kind": "synthetic"},
                "marker": 0,
                "size_m": 0.1,
                "intrinsics": (1, 1, 0, 0),
                "camera_pose": [0] * 7,
            }
        )
