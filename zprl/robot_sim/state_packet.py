"""The state packet of libfranka's protocol 10: one array of floats and a short tail.

It is filled in place once per millisecond.

The layout was taken from franky-sim's ``FrankaRobotState.pack_state`` and from there checked
against the unmodified client.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

_LAYOUT = (
    ("O_T_EE", 16),
    ("O_T_EE_d", 16),
    ("F_T_EE", 16),
    ("EE_T_K", 16),
    ("F_T_NE", 16),
    ("NE_T_EE", 16),
    ("m_ee", 1),
    ("I_ee", 9),
    ("F_x_Cee", 3),
    ("m_load", 1),
    ("I_load", 9),
    ("F_x_Cload", 3),
    ("elbow", 2),
    ("elbow_d", 2),
    ("tau_J", 7),
    ("tau_J_d", 7),
    ("dtau_J", 7),
    ("q", 7),
    ("q_d", 7),
    ("dq", 7),
    ("dq_d", 7),
    ("ddq_d", 7),
    ("joint_contact", 7),
    ("cartesian_contact", 6),
    ("joint_collision", 7),
    ("cartesian_collision", 6),
    ("tau_ext_hat_filtered", 7),
    ("O_F_ext_hat_K", 6),
    ("K_F_ext_hat_K", 6),
    ("O_dP_EE_d", 6),
    ("O_ddP_O", 3),
    ("elbow_c", 2),
    ("delbow_c", 2),
    ("ddelbow_c", 2),
    ("O_T_EE_c", 16),
    ("O_dP_EE_c", 6),
    ("O_ddP_EE_c", 6),
    ("theta", 7),
    ("dtheta", 7),
    ("accelerometer_top", 18),
    ("accelerometer_bottom", 18),
)

FLAGS = (
    "joint_position_limits_violation",
    "cartesian_position_limits_violation",
    "self_collision_avoidance_violation",
    "joint_velocity_violation",
    "cartesian_velocity_violation",
    "force_control_safety_violation",
    "joint_reflex",
    "cartesian_reflex",
    "max_goal_pose_deviation_violation",
    "max_path_pose_deviation_violation",
    "cartesian_velocity_profile_safety_violation",
    "joint_position_motion_generator_start_pose_invalid",
    "joint_motion_generator_position_limits_violation",
    "joint_motion_generator_velocity_limits_violation",
    "joint_motion_generator_velocity_discontinuity",
    "joint_motion_generator_acceleration_discontinuity",
    "cartesian_position_motion_generator_start_pose_invalid",
    "cartesian_motion_generator_elbow_limit_violation",
    "cartesian_motion_generator_velocity_limits_violation",
    "cartesian_motion_generator_velocity_discontinuity",
    "cartesian_motion_generator_acceleration_discontinuity",
    "cartesian_motion_generator_elbow_sign_inconsistent",
    "cartesian_motion_generator_start_elbow_invalid",
    "force_controller_desired_force_tolerance_violation",
    "start_elbow_sign_inconsistent",
    "communication_constraints_violation",
    "power_limit_violation",
    "cartesian_motion_generator_joint_position_limits_violation",
    "cartesian_motion_generator_joint_velocity_limits_violation",
    "cartesian_motion_generator_joint_velocity_discontinuity",
    "cartesian_motion_generator_joint_acceleration_discontinuity",
    "cartesian_position_motion_generator_invalid_frame",
    "controller_torque_discontinuity",
    "joint_p2p_insufficient_torque_for_planning",
    "tau_j_range_violation",
    "instability_detected",
    "joint_move_in_wrong_direction",
    "cartesian_spline_motion_generator_violation",
    "joint_via_motion_generator_planning_joint_limit_violation",
    "base_acceleration_initialization_timeout",
    "base_acceleration_invalid_reading",
)
"""Names of the error flags by their place on the wire, as the unmodified client (libfranka 0.21)
names them."""
FLAG_INDEX = {name: i for i, name in enumerate(FLAGS)}

_TAIL = struct.Struct("<BB41s41sBf")


class StatePacket:
    """Named views (float32) into one packet, and the tail's values."""

    def __init__(self) -> None:
        self.floats = np.zeros(sum(size for _, size in _LAYOUT), "<f4")
        start = 0
        for name, size in _LAYOUT:
            setattr(self, name, self.floats[start : start + size])
            start += size
        self.motion_generator_mode = 0
        self.controller_mode = 3
        self.errors = bytes(len(FLAGS))
        self.last_errors = bytes(len(FLAGS))
        self.robot_mode = 1
        self.success_rate = 1.0

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> np.ndarray: ...

    def pack(self) -> bytes:
        """Return the packet's bytes, without its number."""
        tail = (
            self.motion_generator_mode,
            self.controller_mode,
            self.errors,
            self.last_errors,
            self.robot_mode,
            self.success_rate,
        )
        return self.floats.tobytes() + _TAIL.pack(*tail)
