"""Rotations and the inverse kinematics of the arm.

Joint targets come from damped least squares, dq = J^T (J J^T + damping^2 I)^-1 e (Wampler 1986;
Nakamura and Hanafusa 1986), on Gym's Jacobian tensor, the way that Preview 4's example
``franka_cube_ik_osc.py`` goes; that file's licence is NVIDIA's, and nothing is from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

DAMPING = 0.05


def rotate(quat: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """Rotate ``vector`` (N, 3) by unit quaternions (N, 4) xyzw."""
    import torch

    cross = 2.0 * torch.cross(quat[:, :3], vector, dim=1)
    return vector + quat[:, 3:] * cross + torch.cross(quat[:, :3], cross, dim=1)


def turn_between(wanted: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """Return the rotation vectors (N, 3) [rad] from one orientation to another, the short way.

    Args:
        wanted: Unit quaternions (N, 4) xyzw.
        present: Unit quaternions (N, 4) xyzw.
    """
    import torch

    a, b = wanted[:, :3], present[:, :3]
    axis = wanted[:, 3:] * -b + present[:, 3:] * a - torch.cross(a, b, dim=1)
    w = (wanted * present).sum(1, keepdim=True)
    axis = torch.where(w < 0, -axis, axis)

    sine = axis.norm(dim=1, keepdim=True)
    # Below 1e-6 rad the angle is twice the sine.
    return axis * torch.where(
        sine > 1e-6,
        2.0 * torch.atan2(sine, w.abs()) / sine.clamp(min=1e-6),
        torch.full_like(sine, 2.0),
    )


def least_squares_step(jacobian: torch.Tensor, error: torch.Tensor) -> torch.Tensor:
    """Return the joint motion (N, J) [rad] towards an error, by damped least squares.

    Args:
        jacobian: Jacobians (N, 6, J).
        error: (N, 6) [m, rad].
    """
    import torch

    transposed = jacobian.transpose(1, 2)
    damped = jacobian @ transposed + DAMPING**2 * torch.eye(6, device=jacobian.device)
    step: torch.Tensor = transposed @ torch.linalg.solve(damped, error.unsqueeze(-1))
    return step.squeeze(-1)
