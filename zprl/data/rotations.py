"""Forms in which recordings store rotations, and conversions between them, with scipy.

==================  ======  ====================================================================
form                 width  meaning
==================  ======  ====================================================================
quaternion_xyzw           4  unit quaternion, its real part last
quaternion_wxyz           4  unit quaternion, its real part first
rotation_vector           3  axis times angle [rad]
euler_xyz                 3  angles [rad] about the **fixed** axes x, then y, then z:
                             R = Rz Ry Rx (roll, pitch, yaw)
matrix                    9  rotation matrix, row after row
rotation_6d               6  its first two columns, column after column
                             (Zhou et al. 2019, arXiv 1812.07035)
==================  ======  ====================================================================
"""

from __future__ import annotations

import warnings

import numpy as np
from scipy.spatial.transform import Rotation

from zprl.config import ROTATION_WIDTHS, RotationForm

TOLERANCE = 1e-2
"""Deviation from a unit quaternion or from orthonormal columns that still counts as rounding."""

IN_WORDS: dict[str, str] = {
    "quaternion_xyzw": "quaternion (xyzw)",
    "quaternion_wxyz": "quaternion (wxyz)",
    "rotation_vector": "rotation vector",
    "euler_xyz": "angles about the fixed axes x, y, z",
    "matrix": "rotation matrix (row after row)",
    "rotation_6d": "6-D rotation (first two columns of the matrix)",
}
"""Each form in words."""


class NotARotationError(ValueError):
    """Numbers that are no rotation of their form.

    Args:
        message: What is wrong with them.
        frame: The first of them.
    """

    def __init__(self, message: str, frame: int) -> None:
        super().__init__(message)
        self.frame = frame


def read(values: np.ndarray, form: RotationForm) -> Rotation:
    """Return the rotations of L frames.

    Args:
        values: (L, width), finite.
        form: What they are.

    Raises:
        NotARotationError: too far from one to be rounding.
    """
    wide = np.asarray(values, np.float64)
    if form.startswith("quaternion"):
        _check(np.abs(np.linalg.norm(wide, axis=1) - 1), "a unit quaternion")
        return Rotation.from_quat(wide if form == "quaternion_xyzw" else wide[:, [1, 2, 3, 0]])
    if form == "rotation_vector":
        return Rotation.from_rotvec(wide)
    if form == "euler_xyz":
        return Rotation.from_euler("xyz", wide)  # small letters: fixed axes

    columns = (
        wide.reshape(-1, 3, 3).transpose(0, 2, 1) if form == "matrix" else wide.reshape(-1, 2, 3)
    )  # (L, columns, 3)
    gram = columns @ columns.transpose(0, 2, 1) - np.eye(columns.shape[1])
    # Squared lengths: to first order twice the deviation of the lengths.
    _check(np.abs(gram).max((1, 2)) / 2, IN_WORDS[form])

    first = columns[:, 0] / np.linalg.norm(columns[:, 0], axis=1, keepdims=True)
    second = columns[:, 1] - (first * columns[:, 1]).sum(1, keepdims=True) * first
    second /= np.linalg.norm(second, axis=1, keepdims=True)
    third = np.cross(first, second)
    if form == "matrix":
        _check(np.abs(columns[:, 2] - third).max(1) / 2, "a rotation matrix but a reflection")
    return Rotation.from_matrix(np.stack([first, second, third], 2))


def write(rotation: Rotation, form: RotationForm) -> np.ndarray:
    """Return the numbers (L, width) float64 of L rotations.

    Quaternions have a continuous sign, see :func:`continuous`.
    """
    if form.startswith("quaternion"):
        quaternion = continuous(rotation.as_quat())
        return quaternion if form == "quaternion_xyzw" else quaternion[:, [3, 0, 1, 2]]

    numbers: np.ndarray
    if form == "rotation_vector":
        numbers = rotation.as_rotvec()
    elif form == "euler_xyz":
        with warnings.catch_warnings():
            # At a pitch of 90 degrees two of the angles are not unique; any of them will do.
            warnings.simplefilter("ignore", UserWarning)
            numbers = rotation.as_euler("xyz")
    elif form == "matrix":
        numbers = rotation.as_matrix().reshape(-1, 9)
    else:
        columns = rotation.as_matrix()[:, :, :2]
        numbers = columns.transpose(0, 2, 1).reshape(-1, 6)
    return numbers


def continuous(quaternions: np.ndarray) -> np.ndarray:
    """Return the same rotations (L, 4) xyzw, each with the sign nearer to the one before.

    The first frame has the sign with which robots here report a pose: w >= 0, or x >= 0 beyond 120
    degrees, where w >= 0 would change with the noise of a tool that points down.
    """
    x, _, _, w = quaternions[0]
    start = -1.0 if ((x < 0) if abs(w) < 0.5 else (w < 0)) else 1.0
    flips = np.where((quaternions[1:] * quaternions[:-1]).sum(1) < 0, -1.0, 1.0)
    return quaternions * np.cumprod(np.concatenate([[start], flips]))[:, None]


def width(form: RotationForm) -> int:
    """Return the number of columns of a form."""
    return ROTATION_WIDTHS[form]


def _check(off: np.ndarray, what: str) -> None:
    if off.max(initial=0.0) > TOLERANCE:
        frame = int((off > TOLERANCE).argmax())
        raise NotARotationError(f"not {what} (off by {off[frame]:.3f})", frame)
