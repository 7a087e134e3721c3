"""Streaming of poses to an xArm in servo mode: steps that the controller accepts, and stops.

The controller executes the newest pose only, at once and at full speed, and ignores one that lies
more than 10 mm away.  A thread therefore walks towards the newest target in short steps.
"""

from __future__ import annotations

import math
import threading
import time
from typing import Any

from zprl.robot import rotation
from zprl.robot.base import StopLevel
from zprl.robot.xarm_codes import (
    ANSWER_S,
    ERROR,
    LOST,
    MILLIMETRES,
    NOT_READY,
    OK,
    STATE_DECELERATE,
    STATE_PAUSED,
    STATE_STOP,
    STOPPED,
    WARNING,
)

STEP_S = 0.01
"""Between two poses sent [s]; the controller takes one in 4 ms at most."""
STEP_M = 0.009
"""Longest step sent [m]; the controller ignores steps above 10 mm (UFACTORY's servo mode guide)."""
STEP_RAD = 0.03
"""Largest turn per step: 172 degrees per second, just below the servo mode's 180."""
ERROR_POLL_S = 0.2
"""Time between two requests for the error code while no poses are sent [s]."""


class ServoThread(threading.Thread):
    """Thread that steps towards the newest target; stops go first.

    Attributes:
        in_control: True while targets are followed.
        lost: True once the connection is lost.
        error: The controller's error code; 0 without an error.
        detail: Reason why control was lost, for a person.
    """

    def __init__(self, arm: Any) -> None:
        super().__init__(name="xarm-servo", daemon=True)
        self._arm = arm
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._closed = False

        self._stopping: StopLevel | None = None
        self._target: rotation.Floats | None = None
        self._sent: rotation.Floats = ()
        self._asked = 0.0
        self._stepped = 0.0

        self.in_control = False
        self.lost = False
        self.error = 0
        self.detail = ""

    @property
    def there(self) -> bool:
        """True where the newest target was sent."""
        return self._target == self._sent

    def begin(self, pose: rotation.Floats) -> None:
        """Take control at a pose (7,)."""
        self._sent = self._target = pose
        self._stopping = None
        self.detail = ""
        self.in_control = True

    def go(self, target: rotation.Floats) -> None:
        """Take a new target (7,)."""
        self._target = target
        self._wake.set()

    def stop(self, level: StopLevel) -> None:
        """Stop, and wait for that no longer than a step."""
        if level is StopLevel.HOLD:
            self._target = self._sent
            return

        self._stopped.clear()
        self.in_control = False
        self._stopping = level
        self._wake.set()
        self._stopped.wait(STEP_S)

    def close(self) -> None:
        """End the thread; a command under way takes its answer's longest wait."""
        self._closed = True
        self._wake.set()
        if self.is_alive():
            self.join(2 * ANSWER_S)

    def check_errors(self) -> None:
        """Request the error code; the states do not carry it."""
        self._asked = time.monotonic()
        code, (error, _) = self._arm.get_err_warn_code()
        self._judge(code)
        if code == OK:
            self.error = int(error)
            if self.error:
                self.in_control = False

    def run(self) -> None:
        """Send until closed or lost."""
        while not self._closed and not self.lost:
            self._wake.wait(STEP_S)
            self._wake.clear()

            began = time.monotonic()
            level = self._stopping
            if level is not None:
                self._send_stop(level)
            elif self.in_control and self._arm.state in (*STOPPED, STATE_PAUSED):
                self.in_control = False
                self.detail = f"stopped from outside (state {self._arm.state})"
                self.check_errors()
            elif self.in_control and not self.there:
                self._step(began)
                # 200 Hz at most, however often targets come.
                time.sleep(max(0.0, STEP_S / 2 - (time.monotonic() - began)))
            elif began - self._asked > ERROR_POLL_S:
                self.check_errors()

    def _send_stop(self, level: StopLevel) -> None:
        self._stopping = None
        hard = level is StopLevel.HARD
        code = self._arm.set_state(STATE_STOP if hard else STATE_DECELERATE)
        if code not in (OK, WARNING) and not hard:  # older firmware cannot decelerate
            code = self._arm.set_state(STATE_STOP)
        self._judge(code)
        self._stopped.set()

    def _step(self, now: float) -> None:
        target = self._target
        assert target is not None
        # Steps in a quick sequence are shorter, so that the speed is bounded, too.
        part = min(1.0, (now - self._stepped) / STEP_S)
        pose = self._sent = step_towards(self._sent, target, part)
        self._stepped = now

        position = [MILLIMETRES * v for v in pose[:3]]
        turn = rotation.to_rotvec(rotation.shorter(pose[3:]))
        code = self._arm.set_servo_cartesian_aa([*position, *turn], is_radian=True)
        self._judge(code)
        if code in (ERROR, NOT_READY):
            self.in_control = False
            self.check_errors()

    def _judge(self, code: int) -> None:
        """Judge an answer: one of a closed, garbled or silent connection means that it is lost."""
        if code not in (OK, ERROR, WARNING, NOT_READY):
            self.in_control = False
            self.detail = f"the SDK says {code}"
            self.lost |= code in LOST


def step_towards(
    pose: rotation.Floats, target: rotation.Floats, part: float = 1.0
) -> rotation.Floats:
    """Return the next pose (7,) on the straight way to a target.

    It lies at most ``part`` of ``STEP_M`` and of ``STEP_RAD`` further.
    """
    distance = math.dist(pose[:3], target[:3])
    turn = rotation.shorter(rotation.product(target[3:], rotation.inverse(pose[3:])))
    angle = 2 * math.atan2(math.hypot(*turn[:3]), turn[3])

    share = min(
        1.0,
        part * STEP_M / distance if distance else 1.0,
        part * STEP_RAD / angle if angle else 1.0,
    )
    if share == 1.0:
        return target
    return (
        *(a + share * (b - a) for a, b in zip(pose[:3], target[:3], strict=True)),
        *rotation.slerp(pose[3:], target[3:], share),
    )
