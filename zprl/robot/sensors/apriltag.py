"""The pose of an object that carries an AprilTag or ArUco marker, seen by one calibrated camera.

The marker's frame: origin in its middle, x to its right, y up, z out of it towards the
camera.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, field_validator

from zprl.robot.sensors.base import Kind, Reading, Sensor, SensorConfig, parse
from zprl.robot.sensors.pose import pose_array

Finite = Annotated[float, Field(allow_inf_nan=False)]
Seven = tuple[Finite, Finite, Finite, Finite, Finite, Finite, Finite]
IDENTITY: Seven = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
HALF_PIXEL = 0.5
"""AprilTag's corner refinement counts from the edge of the first pixel, OpenCV's camera model from
its middle (measured: OpenCV 4.14).

That refinement fits lines to the edges; on made images it was ten times as exact as the others in
depth.
"""
WORST_PIXELS = 2.0
"""A pose whose corners project farther than this (RMS) from where they were seen is not believed
(ours)."""
MARGIN = 0.25
"""Room around the rough corners, as a share of the marker's size in the image."""


class AprilTagConfig(SensorConfig):
    """Camera, marker and frames; poses are position [m] and quaternion xyzw."""

    camera: Kind = Field(description="The camera.")
    dictionary: Literal[
        "APRILTAG_36h11", "APRILTAG_25h9", "APRILTAG_16h5", "4X4_50", "5X5_100", "6X6_250"
    ] = "APRILTAG_36h11"
    marker: int = Field(ge=0, description="Its number in the dictionary.")
    size_m: float = Field(gt=0, le=2, description="Edge of the black square [m].")
    intrinsics: tuple[Finite, Finite, Finite, Finite] = Field(
        description="fx, fy, cx, cy [pixels]."
    )
    distortion: tuple[Finite, Finite, Finite, Finite, Finite] = Field(
        (0.0, 0.0, 0.0, 0.0, 0.0), description="k1, k2, p1, p2, k3 (OpenCV)."
    )
    camera_pose: Seven = Field(
        description="Of the camera in the base frame; z looks, x to its right, y down (OpenCV)."
    )
    object_in_marker: Seven = Field(IDENTITY, description="Of the object in the marker's frame.")

    @field_validator("camera_pose", "object_in_marker")
    @classmethod
    def _unit(cls, value: Seven) -> Seven:
        pose_array(value)
        return value


def make(config: Mapping[str, Any]) -> AprilTag:
    """Make the sensor; entry point ``apriltag``."""
    parsed = parse(AprilTagConfig, config)
    return AprilTag(parsed, parsed.camera.make(parsed.name))


class AprilTag:
    """Poses (7,) in the base frame, with the images' stamps and numbers.

    An image without the marker gives none.
    """

    def __init__(self, config: AprilTagConfig, camera: Sensor) -> None:
        import cv2

        self.name = config.name
        self.config = config
        self._camera = camera
        fx, fy, cx, cy = config.intrinsics
        self._intrinsics = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
        self._distortion = np.array(config.distortion)

        half = config.size_m / 2
        self._corners = np.array(
            [(-half, half, 0), (half, half, 0), (half, -half, 0), (-half, -half, 0)]
        )
        self._camera_pose = matrix(config.camera_pose)
        self._object = matrix(config.object_in_marker)

        dictionary = cv2.aruco.getPredefinedDictionary(
            getattr(cv2.aruco, f"DICT_{config.dictionary}")
        )
        exact = cv2.aruco.DetectorParameters()
        exact.cornerRefinementMethod = cv2.aruco.CORNER_REFINE_APRILTAG
        self._rough = cv2.aruco.ArucoDetector(dictionary)
        self._exact = cv2.aruco.ArucoDetector(dictionary, exact)

    def open(self) -> None:
        """Open the camera that sees the marker."""
        self._camera.open()

    def read(self) -> Reading | None:
        """Look for the marker in the next image."""
        image = self._camera.read()
        if image is None:
            return None
        pose = self.locate(image.value)
        return None if pose is None else Reading(pose, image.stamp, image.host, image.seq)

    def close(self) -> None:
        """Close the camera again."""
        self._camera.close()

    def locate(self, image: np.ndarray) -> np.ndarray | None:
        """Return the object's pose (7,) in the base frame, ``None`` without the marker.

        Args:
            image: RGB, (H, W, 3) uint8.
        """
        import cv2

        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        rough = self._corners_in(grey, self._rough)
        if rough is None:
            return None

        # The exact corners are slow to find in a whole image.
        margin = MARGIN * np.ptp(rough, axis=0).max()
        low = np.maximum(rough.min(0) - margin, 0).astype(int)
        high = np.ceil(rough.max(0) + margin).astype(int) + 1
        corners = self._corners_in(
            np.ascontiguousarray(grey[low[1] : high[1], low[0] : high[0]]), self._exact
        )
        if corners is None:
            return None

        # A square has two poses that look nearly alike; the first returned is the one that fits
        # better.
        count, turns, shifts, errors = cv2.solvePnPGeneric(
            self._corners,
            corners + low - HALF_PIXEL,
            self._intrinsics,
            self._distortion,
            flags=cv2.SOLVEPNP_IPPE_SQUARE,
        )
        if not count or not errors[0].item() <= WORST_PIXELS:
            return None

        marker = np.eye(4)
        marker[:3, :3] = cv2.Rodrigues(turns[0])[0]
        marker[:3, 3] = shifts[0].ravel()
        return seven(self._camera_pose @ marker @ self._object)

    def _corners_in(self, grey: np.ndarray, detector: Any) -> np.ndarray | None:
        """Return the marker's corners (4, 2) [pixels], if it is there exactly once."""
        corners, numbers, _ = detector.detectMarkers(grey)
        seen_numbers = [] if numbers is None else numbers.ravel()
        seen = [c for c, n in zip(corners, seen_numbers, strict=True) if n == self.config.marker]
        return seen[0].reshape(4, 2).astype(np.float64) if len(seen) == 1 else None


def matrix(pose: Seven) -> np.ndarray:
    """Return the homogeneous matrix (4, 4) of position and quaternion."""
    from scipy.spatial.transform import Rotation

    out = np.eye(4)
    out[:3, :3] = Rotation.from_quat(pose[3:]).as_matrix()
    out[:3, 3] = pose[:3]
    return out


def seven(transform: np.ndarray) -> np.ndarray:
    """Return position and quaternion (7,) of a homogeneous matrix (4, 4); w is not negative."""
    from scipy.spatial.transform import Rotation

    return np.concatenate(
        [transform[:3, 3], Rotation.from_matrix(transform[:3, :3]).as_quat(canonical=True)]
    )
