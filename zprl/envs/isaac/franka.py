"""The Franka of every world here: its observations, its actions, and where it may go."""

from __future__ import annotations

CONTROL_HZ = 50.0
ROBOT_DIMS = {
    "robot0_eef_pos": 3,
    "robot0_eef_quat": 4,
    "robot0_gripper_qpos": 2,
    "robot0_gripper_command": 1,
}
"""Observation keys of the robot and their widths; a task's own follow."""
ACTION_DIM = 10

TOOL_OFFSET = 0.1034
"""Tool centre point in front of the hand's frame [m], as the stock ``ee_frame`` has it.  The stock
IK uses 0.107: here both agree."""
WORKSPACE = ((0.25, -0.40, 0.012), (0.75, 0.40, 0.60))
"""Targets are clamped to this box [m]: reachable with the tool down (measured), and the finger tips
stay off the table."""
MAX_REACH = 0.10
"""Targets are pulled in to this distance from the tool's present position [m], so that no policy
can whip the arm."""
