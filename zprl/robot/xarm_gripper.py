"""Robotiq 2F gripper on the xArm's wrist, over a connection of its own (port 503).

The tool's serial line would hold the arm's connection for 10 to 20 ms.
"""

from __future__ import annotations

import threading
from typing import Any

from zprl.robot.xarm_codes import ANSWER_S, OK, check_answer
from zprl.robot.xarm_config import XArmConfig

ROBOTIQ_OPENING = 0.085
"""Of a 2F-85 [m]; its position byte is taken as linear in the opening (Robotiq's manual gives the
ends only)."""

CLOSED_BYTE = 255
"""Position byte of the closed gripper."""

ACTIVATED = 3
"""Status ``gSTA`` of a gripper whose activation is complete."""

ACTIVATION_S = 5
"""Longest wait for the activation [s]."""

POLL_S = 0.01
"""Pause between two exchanges [s]; the serial line itself is slower."""


class RobotiqGripper(threading.Thread):
    """Thread that commands the newest requested opening and reads the opening.

    Attributes:
        opening: The newest measured opening [m].
        error: The newest failure; empty where there is none.

    Raises:
        RobotError: the gripper does not answer, or is not activated in time.
    """

    def __init__(self, arm: Any, config: XArmConfig) -> None:
        super().__init__(name="xarm-gripper", daemon=True)
        self._arm = arm
        self._config = config
        self._requested: int | None = None
        self._closed = threading.Event()
        self.opening = 0.0
        self.error = ""

        # Refused before firmware 1.11: then the gripper shares the arm's connection.
        arm.set_rs485_use_503_port(True)
        code, _ = arm.robotiq_get_status()  # sets the serial line's speed, too
        check_answer(code, "the gripper's status")

        status = arm.robotiq_status
        if not status["gACT"] or status["gSTA"] != ACTIVATED:
            arm.robotiq_reset()
            code = arm.robotiq_set_activate(wait=True, timeout=ACTIVATION_S)[0]
            check_answer(code, "the gripper's activation")
            arm.robotiq_get_status(check_baud=False)
        self._read()

    def want(self, opening: float) -> None:
        """Request an opening [m]; returns at once."""
        self._requested = round(CLOSED_BYTE * (1 - opening / ROBOTIQ_OPENING))

    def close(self) -> None:
        """End the thread; an exchange under way takes its answer's longest wait."""
        self._closed.set()
        if self.is_alive():
            self.join(2 * ANSWER_S)

    def run(self) -> None:
        """Command and read until closed; the serial line itself sets the pace."""
        commanded: int | None = None
        speed = self._config.gripper_speed
        force = self._config.gripper_force

        while not self._closed.wait(POLL_S) and self._arm.connected:
            requested = self._requested
            if requested is not None and requested != commanded:
                code, _ = self._arm.robotiq_set_position(
                    requested, speed, force, wait=False, no_check=True, check_baud=False
                )
                commanded = requested if code == OK else commanded

            code, _ = self._arm.robotiq_get_status(check_baud=False)
            self.error = f"gripper: the SDK says {code}" if code else ""
            self._read()

    def _read(self) -> None:
        status = self._arm.robotiq_status
        self.opening = ROBOTIQ_OPENING * (1 - status["gPO"] / CLOSED_BYTE)
        if status["gFLT"]:
            self.error = f"gripper: fault {status['gFLT']}"
