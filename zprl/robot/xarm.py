"""Driver of a UFACTORY xArm 6 or 7 with a Robotiq 2F gripper, through xarm-python-sdk 1.18.

The arm is streamed in servo mode (mode 1) with absolute axis-angle poses: the controller executes
the newest pose only, at once and at full speed, and ignores one that lies more than 10 mm away.
What is smooth and slow is therefore ours to make: the session's filter shapes the targets, and a
thread of this driver steps towards the newest one.

Every call of the SDK is a round trip that may take seconds on a dead network, so each has a thread
of its own: the servo thread sends poses, stops and requests for errors; the gripper uses port 503;
states arrive 100 times a second on port 30003.  They carry no stamp of the controller's: host time
of arrival is the stamp.

Two habits of the SDK: it sets the process's default socket timeout to one second (undone here after
connecting), and it prefers a unix socket in ``/tmp`` to the address it is given (forbidden here).
"""

from __future__ import annotations

import contextlib
import math
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

from zprl.robot import rotation
from zprl.robot.base import GRIPPER, POSE, Health, Mode, Ranges, RobotError, StopLevel, Values
from zprl.robot.driver_parts import (
    ACTION,
    GRIPPER_INDEX,
    QUATERNION_PART,
    call_in_thread,
    check_commandable,
    not_connected,
    not_in_control,
    read_action,
    read_config,
)
from zprl.robot.xarm_codes import (
    ANSWER_S,
    MILLIMETRES,
    POSITION_MODE,
    REFLEXES,
    SERVO_MODE,
    STATE_PAUSED,
    STATE_READY,
    STATE_STOP,
    STOPPED,
    USER_STOPS,
    check_answer,
)
from zprl.robot.xarm_config import XArmConfig
from zprl.robot.xarm_gripper import ROBOTIQ_OPENING, RobotiqGripper
from zprl.robot.xarm_servo import ServoThread

DISCONNECT_S = 3.0
"""Longest wait for the SDK to close its connections [s]."""


def make(config: Mapping[str, Any]) -> XArm:
    """Make the driver; entry point ``xarm``.  Touches no hardware.

    Raises:
        ConfigError: a key or value that :class:`XArmConfig` does not take.
    """
    return XArm(read_config(XArmConfig, config, name="xarm"))


class XArm:
    """Driver of one xArm with its gripper; a :class:`zprl.robot.base.Robot`."""

    name = "xarm"

    def __init__(self, config: XArmConfig) -> None:
        self.config = config
        self.simulated = config.is_loopback

        # Speed and acceleration: the SDK's own limits; jerk: the largest that UFACTORY's manual
        # lets one set.
        tool = math.hypot(*config.tool.offset) if config.tool else 0.0
        width = ROBOTIQ_OPENING if config.gripper == "robotiq" else 0.0
        self._ranges = Ranges(
            speed=1.0, acceleration=50.0, jerk=100.0, gripper_width=width, reach=config.reach + tool
        )

        self._arm: Any = None
        self._servo: ServoThread | None = None
        self._gripper: RobotiqGripper | None = None
        self._arrived = threading.Event()
        self._state: tuple[float, Values] = (0.0, {})
        """Stamp [s] and values of the newest report."""
        self._mode_and_state = (0, 0)
        """Mode and state in the newest report."""

    # -- description -------------------------------------------------------------------------------

    @property
    def observation_features(self) -> dict[str, type]:
        """Pose, opening and joint positions.

        The arm reports neither joint velocities nor, without a sensor, forces.
        """
        return dict.fromkeys((*ACTION, *self._joints()), float)

    @property
    def action_features(self) -> dict[str, type]:
        """Pose and opening; the opening is ignored where there is no gripper."""
        return dict.fromkeys(ACTION, float)

    @property
    def limits(self) -> Ranges:
        """Ranges of the arm with its tool."""
        return self._ranges

    @property
    def is_connected(self) -> bool:
        """True while this driver is in control."""
        return self._alive() and self._servo is not None and self._servo.in_control

    @property
    def is_calibrated(self) -> bool:
        """True always: absolute encoders."""
        return True

    def calibrate(self) -> None:
        """Do nothing: the encoders are absolute."""

    # -- connection --------------------------------------------------------------------------------

    def connect(self, calibrate: bool = True) -> None:  # noqa: FBT001, FBT002 - LeRobot's signature
        """Build a fresh connection, write the settings and hold the present pose.

        Raises:
            RobotError: nobody answers, or the arm cannot be commanded; in the last case
                :meth:`health` and :meth:`recover` work.
        """
        if self.is_connected:
            return
        self.disconnect()

        self._open()
        try:
            self._servo = ServoThread(self._arm)
            self._servo.check_errors()
            if self.health().ok:
                self._enable()
                self.configure()
                if self.config.gripper == "robotiq":
                    self._gripper = RobotiqGripper(self._arm, self.config)
                self._take_control()
            self._servo.start()
            if self._gripper:
                self._gripper.start()
        except BaseException:
            self.disconnect()
            raise

        check_commandable("xArm", self.health(), place="control box")

    def disconnect(self) -> None:
        """Stop where the arm is and let go; at most some seconds."""
        servo, self._servo = self._servo, None
        gripper, self._gripper = self._gripper, None
        arm, self._arm = self._arm, None

        for thread in (servo, gripper):
            if thread is not None:
                thread.close()
        if arm is not None:
            # It may be dead: then there is nothing to bring to rest.
            with contextlib.suppress(Exception):
                if arm.connected and arm.state not in STOPPED:
                    arm.set_state(STATE_STOP)
            call_in_thread(arm.disconnect, DISCONNECT_S, name="xarm-call")
            socket.setdefaulttimeout(None)
        self._state = (0.0, {})

    def configure(self) -> None:
        """Write tool, load and collision sensitivity, where the config has them.

        Raises:
            RobotError: the control box refuses.
        """
        config = self.config
        arm = self._arm
        if arm is None:
            raise not_connected("xArm")

        tool = config.tool
        if tool:
            offset = [MILLIMETRES * v for v in tool.offset]
            centre = [MILLIMETRES * v for v in tool.centre]
            check_answer(arm.set_tcp_offset([*offset, *tool.turn], is_radian=True), "tool offset")
            check_answer(arm.set_tcp_load(tool.mass, centre), "load")

        sensitivity = config.collision_sensitivity
        if sensitivity is not None:
            check_answer(arm.set_collision_sensitivity(sensitivity), "collision sensitivity")

    def recover(self) -> bool:
        """Clear a reflex and hold the present pose; also takes control again after a stop.

        Returns:
            False where a person must act: emergency stop, pause, a servo's error, or a lost
                connection (then :meth:`connect`).
        """
        servo = self._servo
        if servo is None or not self._alive():
            return False
        if servo.in_control:
            return True

        try:
            servo.check_errors()
            if self.health().mode is Mode.REFLEX:
                self._arm.clean_error()
                self._arm.clean_warn()
                servo.check_errors()
            if not self.health().ok:
                return False

            self._enable()
            if self.config.gripper == "robotiq" and self._gripper is None:
                self._gripper = RobotiqGripper(self._arm, self.config)
                self._gripper.start()
            self._take_control()
        except RobotError:
            return False
        return self.is_connected

    # -- state and commands ------------------------------------------------------------------------

    def get_observation(self) -> Values:
        """Return the newest state, from memory."""
        if not self._alive():
            raise RobotError(
                "the xArm is not connected, or the connection is lost", remedy="call connect()"
            )
        opening = self._gripper.opening if self._gripper else 0.0
        return {**self._state[1], GRIPPER: opening}

    def send_action(self, action: Mapping[str, float]) -> Values:
        """Make a pose the newest target; the arm and the gripper follow in their own time."""
        values = read_action(action)
        servo = self._servo
        if servo is None or not self.is_connected:
            raise not_in_control("xArm", self.health())

        norm = math.hypot(*values[QUATERNION_PART])
        values[QUATERNION_PART] = [v / norm for v in values[QUATERNION_PART]]
        opening = min(max(values[GRIPPER_INDEX], 0.0), self._ranges.gripper_width)
        values[GRIPPER_INDEX] = opening

        servo.go(tuple(values[:GRIPPER_INDEX]))
        if self._gripper:
            self._gripper.want(opening)
        return dict(zip(ACTION, values, strict=True))

    def now(self) -> float:
        """Return the host's monotonic clock [s]: the arm does not send its own."""
        return time.monotonic()

    def state_stamp(self) -> float:
        """Return the time at which the newest state arrived [s]."""
        return self._state[0]

    def stop(self, level: StopLevel) -> None:
        """Stop: HOLD at the pose sent last, SOFT by deceleration, HARD by the immediate stop.

        SOFT and HARD are the control box's own functions and give up control.  The servo thread
        sends them before anything else; this waits for that no longer than a step.
        """
        servo = self._servo
        if servo is not None and self._alive():
            servo.stop(level)

    def health(self) -> Health:
        """Return mode and errors; the error code is at most 0.2 s old."""
        servo = self._servo
        if servo is None or not self._alive():
            return Health(Mode.DISCONNECTED, (), servo.detail if servo else "")

        gripper = self._gripper.error if self._gripper else ""
        code = servo.error
        if code in USER_STOPS:
            return Health(Mode.USER_STOPPED, (USER_STOPS[code],), gripper)
        if code in REFLEXES:
            return Health(Mode.REFLEX, (REFLEXES[code],), gripper)
        if code:
            return Health(Mode.ERROR, (f"error_{code}",), gripper)
        if self._arm.state == STATE_PAUSED:
            return Health(Mode.USER_STOPPED, ("paused",), gripper)

        moving = servo.in_control and not servo.there
        return Health(Mode.MOVING if moving else Mode.IDLE, (), gripper or servo.detail)

    # -- inside ------------------------------------------------------------------------------------

    def _joints(self) -> tuple[str, ...]:
        return tuple(f"joint_{i}.pos" for i in range(1, self.config.axes + 1))

    def _alive(self) -> bool:
        return (
            self._arm is not None
            and self._arm.connected
            and (self._servo is None or not self._servo.lost)
        )

    def _open(self) -> None:
        from xarm.wrapper import XArmAPI

        host = self.config.host
        patience = self.config.connect_timeout
        self._arrived.clear()
        arm = XArmAPI(
            host,
            is_radian=True,
            do_not_open=True,
            report_type="real",
            forbid_uds=True,
            check_joint_limit=False,
        )
        arm.register_report_location_callback(
            lambda report: self._report(arm, report), report_cartesian=True, report_joints=True
        )

        ended, error = call_in_thread(arm.connect, patience, name="xarm-call")
        socket.setdefaulttimeout(None)
        self._arm = arm
        if not ended or error or not arm.connected or not self._arrived.wait(patience):
            self.disconnect()
            reason = f": {error}" if error else ""
            raise RobotError(
                f"the xArm at {host} does not answer{reason}",
                remedy="check power, network and that no other session holds it",
            )
        if arm.axis != self.config.axes:
            self.disconnect()
            raise RobotError(
                f"the arm at {host} has {arm.axis} joints, not {self.config.axes}",
                remedy="correct `axes` in its config",
            )
        arm.set_timeout(ANSWER_S)

    def _report(self, arm: Any, report: Mapping[str, Any]) -> None:
        """Take a state that has arrived; called by the SDK's own thread."""
        x, y, z, roll, pitch, yaw = report["cartesian"]
        position = (x / MILLIMETRES, y / MILLIMETRES, z / MILLIMETRES)
        quaternion = rotation.steady(from_rpy(roll, pitch, yaw))
        joints = report["joints"][: self.config.axes]
        names = (*POSE, *self._joints())
        values = dict(zip(names, (*position, *quaternion, *joints), strict=True))

        self._mode_and_state = (arm.mode, arm.state)
        if all(math.isfinite(v) for v in values.values()):
            self._state = (time.monotonic(), values)  # one assignment: readers see a whole state
            self._arrived.set()
        # The SDK changes it again whenever it opens a connection anew.
        socket.setdefaulttimeout(None)

    def _enable(self) -> None:
        check_answer(self._arm.motion_enable(True), "motion_enable")  # noqa: FBT003 - the SDK's
        self._enter(POSITION_MODE)

    def _take_control(self) -> None:
        """Enter servo mode, at the pose of a state measured after the arm came to rest."""
        self._enter(SERVO_MODE)
        servo = self._servo
        assert servo is not None
        servo.begin(tuple(self._state[1][key] for key in POSE))

    def _enter(self, mode: int) -> None:
        """Set a mode, and wait until a report has it.

        Reports may be under way for long on a busy machine, but they come in order: once mode 0 and
        then the servo mode were reported, no report from before is left, with a stop that is over
        and a pose that the arm has left.
        """
        arm = self._arm
        check_answer(arm.set_mode(mode), "set_mode")
        check_answer(arm.set_state(STATE_READY), "set_state")

        end = time.monotonic() + 2 * ANSWER_S
        while True:
            self._arrived.clear()
            if not self._arrived.wait(ANSWER_S):
                raise RobotError(
                    "the xArm sends no states", remedy="check network and firewall (port 30003)"
                )
            reported, state = self._mode_and_state
            if reported == mode and state not in STOPPED:
                return
            if time.monotonic() > end:
                raise RobotError(
                    f"the xArm does not enter mode {mode} (mode {reported}, state {state})",
                    remedy="look at its console",
                )


def from_rpy(roll: float, pitch: float, yaw: float) -> rotation.Floats:
    """Return the quaternion of the controller's angles [rad]: about the fixed axes x, y, z."""
    about_x = rotation.from_rotvec((roll, 0, 0))
    about_y = rotation.from_rotvec((0, pitch, 0))
    about_z = rotation.from_rotvec((0, 0, yaw))
    return rotation.product(about_z, rotation.product(about_y, about_x))
