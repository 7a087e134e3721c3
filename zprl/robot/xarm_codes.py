"""Codes of the xArm's SDK (``x_code.py``) and control box, and what they mean for this driver."""

from __future__ import annotations

from zprl.robot.base import RobotError

MILLIMETRES = 1000
"""In a metre; the SDK measures lengths in millimetres."""

ANSWER_S = 1.0
"""Longest wait for an answer of the controller [s]."""

USER_STOPS = {
    1: "emergency_stop_button",
    2: "emergency_stop_input",
    3: "emergency_stop_enabling_device",
}
"""Error codes that a person must clear."""

REFLEXES = {
    21: "kinematics",
    22: "self_collision",
    23: "joint_limit",
    24: "speed_limit",
    25: "planning",
    30: "measured_speed_limit",
    31: "collision",
    35: "safety_boundary",
    38: "abnormal_joint_angle",
    40: "no_joint_solution",
    60: "servo_speed_limit",
}
"""Error codes that the driver may clear."""

OK, ERROR, WARNING, NOT_READY = 0, 1, 2, 9
"""Answers to a request that the control box has received."""

LOST = (-1, 3, 4, 5, 6, 7, 8)
"""The SDK's words for: not connected, no answer, four kinds of answers to something else, cannot
send."""

STATE_READY = 0
STATE_PAUSED = 3
STATE_STOP = 4
"""Also stops: at once, without deceleration."""
STATE_DECELERATE = 6
"""Stops by the control box's own deceleration; older firmware does not know it."""

STOPPED = (STATE_STOP, 5)
"""States in which the arm has stopped."""

POSITION_MODE = 0
SERVO_MODE = 1


def check_answer(code: int, request: str) -> None:
    """Check the code with which the control box answers a request.

    Raises:
        RobotError: it refuses.
    """
    if code not in (OK, WARNING):
        raise RobotError(
            f"the xArm refuses: {request} (code {code})",
            remedy="look at its console; clear errors, then connect again",
        )
