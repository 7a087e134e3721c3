"""Driver of a UFACTORY xArm 6 or 7 with a Robotiq 2F gripper on its wrist, through xarm-python-sdk 1.18.

The arm is streamed in servo mode (mode 1) with absolute axis-angle poses: the controller executes
the newest pose only, at once and at full speed, and ignores one that lies more than 10 mm away.
What is smooth and slow is therefore ours to make: the session's filter shapes the targets, and a
thread of this driver walks towards the newest one in steps that are never too long.

Every call of the SDK is a round trip that may take seconds on a dead network, so each has a thread
of its own: the walker sends poses, stops and asks for errors; the gripper talks over port 503,
because the tool's serial line would hold the arm's connection for 10 to 20 ms; states arrive 100
times a second on port 30003.  They carry no stamp of the controller's: host time of arrival is the
stamp.

Two habits of the SDK: it sets the process's default socket timeout to one second (undone here after
connecting), and it prefers a unix socket in ``/tmp`` to the address it is given (forbidden here).
"""

from __future__ import annotations

import contextlib
import ipaddress
import math
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from zprl.errors import ConfigError
from zprl.robot import rotation
from zprl.robot.base import GRIPPER, POSE, Health, Mode, Ranges, RobotError, StopLevel, Values

SERVO_MODE = 1
STEP_S = 0.01
"""Between two poses sent [s]; the controller takes one in 4 ms at most."""
STEP_M = 0.009
"""Longest step sent [m]; the controller ignores steps above 10 mm (UFACTORY's servo mode guide)."""
STEP_RAD = 0.03
"""Largest turn per step: 172 degrees per second, just below the servo mode's 180."""
ERROR_POLL_S = 0.2
ANSWER_S = 1.0
"""Longest wait for an answer of the controller [s]."""
ROBOTIQ_OPENING = 0.085
"""Of a 2F-85 [m]; its position byte is taken as linear in the opening (Robotiq's manual gives the
ends only)."""
_ACTION = (*POSE, GRIPPER)

# The controller's error codes (SDK, x_code.py), by who may clear them.
USER_STOPS = {
    1: "emergency_stop_button",
    2: "emergency_stop_input",
    3: "emergency_stop_enabling_device",
}
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
_OK, _ERROR, _WARNING, _NOT_READY = 0, 1, 2, 9
_LOST = (-1, 3, 4, 5, 6, 7, 8)
"""The SDK's words for: not connected, no answer, four kinds of answers to something else, cannot
send."""
_STOPPED = (4, 5)
_PAUSED = 3

Finite = Annotated[float, Field(allow_inf_nan=False)]
Vector = tuple[Finite, Finite, Finite]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Tool(_Section):
    """What hangs on the flange; wrong values make the arm collide with its own idea of gravity."""

    offset: Vector = Field(description="Tool centre point in the flange's frame [m].")
    turn: Vector = Field(
        (0.0, 0.0, 0.0), description="Roll, pitch, yaw of the tool in the flange's frame [rad]."
    )
    mass: float = Field(gt=0, le=5, description="[kg]")
    centre: Vector = Field(description="of mass in the flange's frame [m].")


class XArmConfig(_Section):
    """Everything the driver is told."""

    host: str = Field(description="Address of the control box; 127.x is a double.")
    axes: Literal[6, 7] = Field(
        7, description="Joints; the xArm 5 cannot take any pose and is not supported."
    )
    gripper: Literal["robotiq", "none"] = Field(
        "robotiq", description="What is on the wrist's serial line."
    )
    gripper_speed: int = Field(255, ge=0, le=255, description="Robotiq's speed byte.")
    gripper_force: int = Field(100, ge=0, le=255, description="Robotiq's force byte.")
    tool: Tool | None = Field(
        None, description="Written at connect; null: the control box's own settings stay."
    )
    collision_sensitivity: int | None = Field(
        None, ge=1, le=5, description="Written at connect, 5 stops first; null: stays."
    )
    reach: float = Field(
        0.70,
        gt=0,
        le=1.0,
        description="Farthest flange position from the base [m] (xArm 6 and 7: 0.70).",
    )
    connect_timeout: float = Field(10.0, gt=0, le=120, description="[s]")

    @property
    def is_loopback(self) -> bool:
        """Whether the host is this machine, and so a double."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def make(config: Mapping[str, Any]) -> XArm:
    """Make the driver; entry point ``xarm``.  Touches no hardware.

    Raises:
        ConfigError: a key or value that :class:`XArmConfig` does not take.
    """
    try:
        return XArm(XArmConfig.model_validate(dict(config)))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "xarm"
        raise ConfigError(
            f"robot config '{where}': {first['msg']}", remedy="see zprl.robot.xarm.XArmConfig"
        ) from error


class XArm:
    """See the module."""

    name = "xarm"

    def __init__(self, config: XArmConfig) -> None:
        self.config = config
        self.simulated = config.is_loopback
        tool = math.hypot(*config.tool.offset) if config.tool else 0.0
        # Speed and acceleration: the SDK's own limits; jerk: the largest that UFACTORY's manual
        # lets one set.
        width = ROBOTIQ_OPENING if config.gripper == "robotiq" else 0.0
        self._ranges = Ranges(
            speed=1.0, acceleration=50.0, jerk=100.0, gripper_width=width, reach=config.reach + tool
        )
        self._arm: Any = None
        self._walker: _Walker | None = None
        self._gripper: _Robotiq | None = None
        self._arrived = threading.Event()
        self._state: tuple[float, Values] = (0.0, {})
        self._seen = (0, 0)
        """Mode and state in the newest report."""

    # -- what it is --------------------------------------------------------------------------------

    @property
    def observation_features(self) -> dict[str, type]:
        """Pose, opening and joint positions; the arm reports neither joint velocities nor, without a sensor, forces."""
        return dict.fromkeys((*_ACTION, *self._joints()), float)

    @property
    def action_features(self) -> dict[str, type]:
        """Pose and opening; the opening is ignored where there is no gripper."""
        return dict.fromkeys(_ACTION, float)

    @property
    def limits(self) -> Ranges:
        """What the arm can do, with its tool."""
        return self._ranges

    @property
    def is_connected(self) -> bool:
        """Whether this driver is in control."""
        return self._alive() and self._walker is not None and self._walker.in_control

    @property
    def is_calibrated(self) -> bool:
        """Always: absolute encoders."""
        return True

    def calibrate(self) -> None:
        """Nothing to do."""

    # -- coming and going --------------------------------------------------------------------------

    def connect(self, calibrate: bool = True) -> None:
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
            self._walker = _Walker(self._arm)
            self._walker.check_errors()
            if self.health().ok:
                self._enable()
                self.configure()
                if self.config.gripper == "robotiq":
                    self._gripper = _Robotiq(self._arm, self.config)
                self._take_control()
            self._walker.start()
            if self._gripper:
                self._gripper.start()
        except BaseException:
            self.disconnect()
            raise
        health = self.health()
        if not health.ok:
            raise RobotError(
                f"the xArm cannot be commanded: {health.mode} {', '.join(health.errors)}".rstrip(),
                remedy="clear it with recover(), or at the control box",
            )

    def disconnect(self) -> None:
        """Stop where the arm is and let go; at most some seconds."""
        walker, self._walker = self._walker, None
        gripper, self._gripper = self._gripper, None
        arm, self._arm = self._arm, None
        for thread in (walker, gripper):
            if thread is not None:
                thread.close()
        if arm is not None:
            with contextlib.suppress(
                Exception
            ):  # it may be dead: then there is nothing to bring to rest
                if arm.connected and arm.state not in _STOPPED:
                    arm.set_state(4)
            _limited(arm.disconnect, 3.0)
            socket.setdefaulttimeout(None)
        self._state = (0.0, {})

    def configure(self) -> None:
        """Write tool, load and collision sensitivity, where the config has them.

        Raises:
            RobotError: the control box refuses.
        """
        config, arm = self.config, self._arm
        if arm is None:
            raise RobotError("the xArm is not connected", remedy="call connect() first")
        if config.tool:
            offset = [1000 * v for v in config.tool.offset]
            _expect(arm.set_tcp_offset([*offset, *config.tool.turn], is_radian=True), "tool offset")
            _expect(
                arm.set_tcp_load(config.tool.mass, [1000 * v for v in config.tool.centre]), "load"
            )
        if config.collision_sensitivity is not None:
            _expect(
                arm.set_collision_sensitivity(config.collision_sensitivity), "collision sensitivity"
            )

    # -- state and commands ------------------------------------------------------------------------

    def get_observation(self) -> Values:
        """The newest state, from memory."""
        if not self._alive():
            raise RobotError(
                "the xArm is not connected, or the connection is lost", remedy="call connect()"
            )
        opening = self._gripper.opening if self._gripper else 0.0
        return {**self._state[1], GRIPPER: opening}

    def send_action(self, action: Mapping[str, float]) -> Values:
        """Make a pose the newest target; the walker and the gripper follow in their own time."""
        try:
            values = [float(action[key]) for key in _ACTION]
        except KeyError as error:
            raise RobotError(
                f"the action lacks {error}", remedy=f"an action has {', '.join(_ACTION)}"
            ) from error
        norm = math.hypot(*values[3:7])
        if not math.isfinite(sum(values)) or not 0.9 < norm < 1.1:
            raise RobotError(
                "the action is not finite, or its quaternion has no unit length",
                remedy="filter actions before sending",
            )
        walker = self._walker
        if walker is None or not self.is_connected:
            health = self.health()
            raise RobotError(
                f"the xArm takes no commands: {health.mode} {', '.join(health.errors)} {health.detail}".rstrip(),
                remedy="call recover() or connect()",
            )
        values[3:7] = [v / norm for v in values[3:7]]
        values[7] = min(max(values[7], 0.0), self._ranges.gripper_width)
        walker.go(tuple(values[:7]))
        if self._gripper:
            self._gripper.want(values[7])
        return dict(zip(_ACTION, values, strict=True))

    def now(self) -> float:
        """The host's monotonic clock [s]: the arm does not tell its own."""
        return time.monotonic()

    def state_stamp(self) -> float:
        """When the newest state arrived [s]."""
        return self._state[0]

    def stop(self, level: StopLevel) -> None:
        """Stop: HOLD at the pose sent last, SOFT by the control box's own deceleration, HARD by its immediate stop.

        SOFT and HARD give up control.  The walker sends them before anything else; this waits for
        that no longer than a step.
        """
        walker = self._walker
        if walker is not None and self._alive():
            walker.stop(level)

    def recover(self) -> bool:
        """Clear a reflex and hold the present pose; also takes control again after a stop.

        Returns:
            False where a person must act: emergency stop, pause, a servo's error, or a lost
                connection (then :meth:`connect`).
        """
        walker = self._walker
        if walker is None or not self._alive():
            return False
        if walker.in_control:
            return True
        try:
            walker.check_errors()
            if self.health().mode is Mode.REFLEX:
                self._arm.clean_error()
                self._arm.clean_warn()
                walker.check_errors()
            if not self.health().ok:
                return False
            self._enable()
            if self.config.gripper == "robotiq" and self._gripper is None:
                self._gripper = _Robotiq(self._arm, self.config)
                self._gripper.start()
            self._take_control()
        except RobotError:
            return False
        return self.is_connected

    def health(self) -> Health:
        """Mode and errors; the error code is at most 0.2 s old."""
        walker = self._walker
        if walker is None or not self._alive():
            return Health(Mode.DISCONNECTED, (), walker.detail if walker else "")
        gripper = self._gripper.error if self._gripper else ""
        code, state = walker.error, self._arm.state
        if code in USER_STOPS:
            return Health(Mode.USER_STOPPED, (USER_STOPS[code],), gripper)
        if code in REFLEXES:
            return Health(Mode.REFLEX, (REFLEXES[code],), gripper)
        if code:
            return Health(Mode.ERROR, (f"error_{code}",), gripper)
        if state == _PAUSED:
            return Health(Mode.USER_STOPPED, ("paused",), gripper)
        return Health(
            Mode.MOVING if walker.in_control and not walker.there else Mode.IDLE,
            (),
            gripper or walker.detail,
        )

    # -- inside ------------------------------------------------------------------------------------

    def _joints(self) -> tuple[str, ...]:
        return tuple(f"joint_{i}.pos" for i in range(1, self.config.axes + 1))

    def _alive(self) -> bool:
        return (
            self._arm is not None
            and self._arm.connected
            and (self._walker is None or not self._walker.lost)
        )

    def _open(self) -> None:
        from xarm.wrapper import XArmAPI

        host, patience = self.config.host, self.config.connect_timeout
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
            lambda found: self._report(arm, found), report_cartesian=True, report_joints=True
        )
        done, error = _limited(arm.connect, patience)
        socket.setdefaulttimeout(None)
        self._arm = arm
        if not done or error or not arm.connected or not self._arrived.wait(patience):
            self.disconnect()
            said = f": {error}" if error else ""
            raise RobotError(
                f"the xArm at {host} does not answer{said}",
                remedy="check power, network and that no other session holds it",
            )
        if arm.axis != self.config.axes:
            self.disconnect()
            raise RobotError(
                f"the arm at {host} has {arm.axis} joints, not {self.config.axes}",
                remedy="correct `axes` in its config",
            )
        arm.set_timeout(ANSWER_S)

    def _report(self, arm: Any, found: Mapping[str, Any]) -> None:
        """A state has arrived; called by the SDK's own thread."""
        x, y, z, roll, pitch, yaw = found["cartesian"]
        pose = (x / 1000, y / 1000, z / 1000, *rotation.steady(from_rpy(roll, pitch, yaw)))
        joints = found["joints"][: self.config.axes]
        values = dict(zip((*POSE, *self._joints()), (*pose, *joints), strict=True))
        self._seen = (arm.mode, arm.state)
        if all(math.isfinite(v) for v in values.values()):
            self._state = (time.monotonic(), values)  # one assignment: readers see a whole state
            self._arrived.set()
        socket.setdefaulttimeout(
            None
        )  # the SDK changes it again whenever it opens a connection anew

    def _enable(self) -> None:
        arm = self._arm
        _expect(arm.motion_enable(True), "motion_enable")
        self._enter(0)

    def _take_control(self) -> None:
        """Servo mode, from the pose that a state measured after the arm came to rest."""
        self._enter(SERVO_MODE)
        walker = self._walker
        assert walker is not None
        walker.begin(tuple(self._state[1][key] for key in POSE))

    def _enter(self, mode: int) -> None:
        """Set a mode, and wait until a report says so.

        Reports may be under way for long on a busy machine, but they come in order: whoever went
        through mode 0 and then sees the servo mode has none left from before, which would tell of a
        stop that is over and of a pose that the arm has left.
        """
        arm = self._arm
        _expect(arm.set_mode(mode), "set_mode")
        _expect(arm.set_state(0), "set_state")
        end = time.monotonic() + 2 * ANSWER_S
        while True:
            self._arrived.clear()
            if not self._arrived.wait(ANSWER_S):
                raise RobotError(
                    "the xArm sends no states", remedy="check network and firewall (port 30003)"
                )
            found, state = self._seen
            if found == mode and state not in _STOPPED:
                return
            if time.monotonic() > end:
                raise RobotError(
                    f"the xArm does not enter mode {mode} (mode {found}, state {state})",
                    remedy="look at its console",
                )


class _Walker(threading.Thread):
    """Walks towards the newest target in steps the controller accepts; stops go first."""

    def __init__(self, arm: Any) -> None:
        super().__init__(name="xarm-walker", daemon=True)
        self._arm = arm
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._closed = False
        self._stopping: StopLevel | None = None
        self._target: rotation.Floats | None = None
        self._sent: rotation.Floats = ()
        self._asked = self._stepped = 0.0
        self.in_control, self.lost = False, False
        self.error, self.detail = 0, ""

    @property
    def there(self) -> bool:
        """Whether the newest target was sent."""
        return self._target == self._sent

    def begin(self, pose: rotation.Floats) -> None:
        """Be in control, at a pose."""
        self._sent = self._target = pose
        self._stopping, self.detail = None, ""
        self.in_control = True

    def go(self, target: rotation.Floats) -> None:
        """A new target (7,)."""
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
        """Ask for the error code; the states do not carry it."""
        self._asked = time.monotonic()
        code, (error, _) = self._arm.get_err_warn_code()
        self._heard(code)
        if code == _OK:
            self.error = int(error)
            if self.error:
                self.in_control = False

    def run(self) -> None:
        """Send until closed or lost."""
        while not self._closed and not self.lost:
            self._wake.wait(STEP_S)
            self._wake.clear()
            began = time.monotonic()
            if (level := self._stopping) is not None:
                self._stopping = None
                code = self._arm.set_state(4 if level is StopLevel.HARD else 6)
                if (
                    code not in (_OK, _WARNING) and level is not StopLevel.HARD
                ):  # older firmware has no state 6
                    code = self._arm.set_state(4)
                self._heard(code)
                self._stopped.set()
            elif self.in_control and self._arm.state in (*_STOPPED, _PAUSED):
                self.in_control, self.detail = (
                    False,
                    f"stopped from outside (state {self._arm.state})",
                )
                self.check_errors()
            elif self.in_control and not self.there:
                self._step(began)
                time.sleep(
                    max(0.0, STEP_S / 2 - (time.monotonic() - began))
                )  # 200 Hz at most, however often targets come
            elif began - self._asked > ERROR_POLL_S:
                self.check_errors()

    def _step(self, now: float) -> None:
        target = self._target
        assert target is not None
        # Steps in a quick sequence are shorter, so that the speed is bounded, too.
        pose = self._sent = step_towards(
            self._sent, target, min(1.0, (now - self._stepped) / STEP_S)
        )
        self._stepped = now
        millimetres = [1000 * v for v in pose[:3]]
        code = self._arm.set_servo_cartesian_aa(
            [*millimetres, *rotation.to_rotvec(rotation.shorter(pose[3:]))], is_radian=True
        )
        self._heard(code)
        if code in (_ERROR, _NOT_READY):
            self.in_control = False
            self.check_errors()

    def _heard(self, code: int) -> None:
        """Judge an answer: a connection that is closed, garbled, or silent for a whole second, is lost."""
        if code not in (_OK, _ERROR, _WARNING, _NOT_READY):
            self.in_control, self.detail = False, f"the SDK says {code}"
            self.lost |= code in _LOST


class _Robotiq(threading.Thread):
    """The gripper: carries out the newest wish and reads the opening, over its own connection."""

    def __init__(self, arm: Any, config: XArmConfig) -> None:
        super().__init__(name="xarm-gripper", daemon=True)
        self._arm, self._config = arm, config
        self._wish: int | None = None
        self._closed = threading.Event()
        self.opening, self.error = 0.0, ""
        arm.set_rs485_use_503_port(
            True
        )  # refused before firmware 1.11: then it shares the arm's connection
        code, _ = arm.robotiq_get_status()  # sets the serial line's speed, too
        _expect(code, "the gripper's status")
        if not arm.robotiq_status["gACT"] or arm.robotiq_status["gSTA"] != 3:
            arm.robotiq_reset()
            _expect(arm.robotiq_set_activate(wait=True, timeout=5)[0], "the gripper's activation")
            arm.robotiq_get_status(check_baud=False)
        self._read()

    def want(self, opening: float) -> None:
        """Ask for an opening [m]."""
        self._wish = round(255 * (1 - opening / ROBOTIQ_OPENING))

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        if self.is_alive():
            self.join(2 * ANSWER_S)

    def run(self) -> None:
        """Command and read until closed; the serial line itself sets the pace."""
        commanded: int | None = None
        while not self._closed.wait(STEP_S) and self._arm.connected:
            if (wish := self._wish) is not None and wish != commanded:
                speed, force = self._config.gripper_speed, self._config.gripper_force
                code, _ = self._arm.robotiq_set_position(
                    wish, speed, force, wait=False, no_check=True, check_baud=False
                )
                commanded = wish if code == _OK else commanded
            code, _ = self._arm.robotiq_get_status(check_baud=False)
            self.error = f"gripper: the SDK says {code}" if code else ""
            self._read()

    def _read(self) -> None:
        status = self._arm.robotiq_status
        self.opening = ROBOTIQ_OPENING * (1 - status["gPO"] / 255)
        if status["gFLT"]:
            self.error = f"gripper: fault {status['gFLT']}"


def step_towards(
    pose: rotation.Floats, target: rotation.Floats, part: float = 1.0
) -> rotation.Floats:
    """The next pose (7,) on the straight way to a target: at most ``part`` of ``STEP_M`` and of ``STEP_RAD`` further."""
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


def from_rpy(roll: float, pitch: float, yaw: float) -> rotation.Floats:
    """Unit quaternion of the controller's angles [rad]: about the fixed axes x, then y, then z."""
    turns = (
        rotation.from_rotvec((0, 0, yaw)),
        rotation.from_rotvec((0, pitch, 0)),
        rotation.from_rotvec((roll, 0, 0)),
    )
    return rotation.product(turns[0], rotation.product(turns[1], turns[2]))


def _expect(code: int, what: str) -> None:
    if code not in (_OK, _WARNING):
        raise RobotError(
            f"the xArm refuses: {what} (code {code})",
            remedy="look at its console; clear errors, then connect again",
        )


def _limited(call: Callable[[], object], seconds: float) -> tuple[bool, Exception | None]:
    """Run in a thread for at most so long: whether it came back, and what it raised."""
    failed: list[Exception] = []

    def run() -> None:
        try:
            call()
        except Exception as error:  # the SDK raises bare Exceptions
            failed.append(error)

    thread = threading.Thread(target=run, name="xarm-call", daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive(), failed[0] if failed else None
