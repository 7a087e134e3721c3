"""Quaternions (xyzw) and the 6-D rotation of actions, batched and differentiable."""

from __future__ import annotations

import torch

DOWN_6D = (1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
"""A tool that points straight down: half a turn about x, quaternion (1, 0, 0, 0)."""


def rotate(quat: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """Rotate ``vector`` (..., 3) by unit quaternions (..., 4) xyzw."""
    axis, w = quat[..., :3], quat[..., 3:]
    cross = 2.0 * torch.linalg.cross(axis, vector)
    rotated: torch.Tensor = vector + w * cross + torch.linalg.cross(axis, cross)
    return rotated


def quat_to_6d(quat: torch.Tensor) -> torch.Tensor:
    """Return the first two columns of the rotation matrix, one after the other.

    Args:
        quat: Unit quaternions (..., 4) xyzw.

    Returns:
        The columns (..., 6).
    """
    x, y, z, w = quat.unbind(-1)
    first = (1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y))
    second = (2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x))
    return torch.stack((*first, *second), dim=-1)


def quat_from_6d(columns: torch.Tensor) -> torch.Tensor:
    """Return the unit quaternions of 6-D rotations.

    The columns are made orthonormal by Gram-Schmidt (Zhou et al. 2019).  The result is the largest
    of the four candidate quaternions, each proportional to a row of the matrix q q^T, so no angle
    is near a division by zero.

    Args:
        columns: First two columns of the rotation matrix (..., 6), of any length.

    Returns:
        Quaternions (..., 4) xyzw.
    """
    a = torch.nn.functional.normalize(columns[..., :3], dim=-1)
    b = columns[..., 3:6]
    b = torch.nn.functional.normalize(b - (a * b).sum(-1, keepdim=True) * a, dim=-1)
    c = torch.linalg.cross(a, b)

    (m00, m10, m20), (m01, m11, m21), (m02, m12, m22) = a.unbind(-1), b.unbind(-1), c.unbind(-1)
    candidates = torch.stack(
        (
            torch.stack((1 + m00 - m11 - m22, m01 + m10, m02 + m20, m21 - m12), -1),
            torch.stack((m01 + m10, 1 - m00 + m11 - m22, m12 + m21, m02 - m20), -1),
            torch.stack((m02 + m20, m12 + m21, 1 - m00 - m11 + m22, m10 - m01), -1),
            torch.stack((m21 - m12, m02 - m20, m10 - m01, 1 + m00 + m11 + m22), -1),
        ),
        -2,
    )

    best = candidates.diagonal(dim1=-2, dim2=-1).argmax(-1)
    picked = torch.take_along_dim(candidates, best[..., None, None], -2).squeeze(-2)
    return torch.nn.functional.normalize(picked, dim=-1)
