"""A simulated xArm control box without its sockets: modes, states, errors, pose and gripper.

The arm is no arm: its tool follows the newest pose with a first-order lag, joints stand still,
nothing can be hit.  It is true to the real one in what a driver must get right: modes and states,
refusals, error codes, poses that lie too far away and are ignored, a serial line to the gripper
that takes its time.
"""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Callable
from typing import Annotated

from pydantic import Field

from zprl.robot import rotation
from zprl.strict_model import StrictModel

LAG_S = 0.05
"""Time constant with which the tool follows [s]."""
MAX_STEP_M = 0.010
"""Poses further from the one before are ignored in servo mode (UFACTORY's servo mode guide)."""
ARRIVED_M = 1e-5
"""Distance from the target at which the tool rests [m]."""
HOME = (0.3, 0.0, 0.2, 1.0, 0.0, 0.0, 0.0)
GRIPPER_SPEED = 0.15
"""Of a Robotiq 2F-85 at speed byte 255 [m/s] (its manual: 20 to 150 mm/s)."""
OPENING = 0.085
"""Widest opening [m]."""
LINE_S = 0.01
"""Time that the gripper's serial line takes, until it is changed [s]."""
SERIAL_REGISTER = 124
"""Register through which the gripper is reached."""
MILLIMETRES = 1000
_VERSION = b"7,7,XI130000,AC130000,v2.4.0"
_BAUD_115200 = struct.pack(">i", 5)
_READY, _MOVING, _PAUSED, _STOPPED, _MODE_CHANGED = 2, 1, 3, 4, 5
_SERVO_MODE = 1
_ACTIVATION_S = 0.1

# Bits before the content of every answer.
_ERROR_BIT, _NOT_READY_BIT, _INVALID_BIT = 0x40, 0x10, 0x08

# The gripper's Modbus frames, and bits of its registers.
_WRITE_ACTION = bytes([0x09, 0x10, 0x03, 0xE8, 0x00, 0x03])
_WRITE_BYTES = 13
_READ_STATUS = bytes([0x09, 0x03, 0x07, 0xD0])
_READ_BYTES = 6
_ACTIVATE, _GO_TO = 0x01, 0x08
_HELD_OBJECT, _AT_REQUEST = 2, 3
_SLOWEST = 0.13
"""Share of the speed at speed byte 0."""
_SAME_M = 1e-6

Finite = Annotated[float, Field(allow_inf_nan=False)]


class BoxChange(StrictModel):
    """Change of the box or its gripper; an empty one only requests the state."""

    error: int | None = Field(None, ge=0, le=255, description="Error code; the arm stops.")
    latched: bool | None = Field(
        None, description="Errors come back when cleared, as with a pressed emergency stop."
    )
    state: int | None = Field(
        None,
        ge=0,
        le=6,
        description="As set at the console: 0 ready, 3 pause, 4 stop.",
    )
    muted: bool | None = Field(None, description="Send no reports.")
    late_s: float | None = Field(
        None, ge=0, le=5, description="Time that reports take, as to a busy client [s]."
    )
    deaf: bool | None = Field(None, description="Answer no commands.")
    line_s: float | None = Field(
        None, ge=0, le=5, description="Time that the gripper's serial line takes [s]."
    )
    gripper_fault: int | None = Field(None, ge=0, le=15)
    object_m: Finite | None = Field(
        None,
        ge=-1,
        le=OPENING,
        description="Width of the object between the fingers [m]; below 0: none.",
    )


class BoxState(StrictModel):
    """True state of the box."""

    pose: tuple[float, ...]
    target: tuple[float, ...]
    mode: int
    state: int
    error: int
    enabled: bool
    opening: float
    activated: bool
    tool_offset: tuple[float, ...]
    load: tuple[float, ...]
    sensitivity: int
    counters: dict[str, int]


class SimulatedRobotiq:
    """Robotiq's registers and a finger that moves."""

    def __init__(self) -> None:
        self.opening = OPENING
        self.object_m = -1.0
        self.fault = 0
        self.requested = 0
        """Position byte of the newest request."""
        self.speed = 0.0
        self.activated_at = math.inf
        self._since = time.monotonic()

    @property
    def activated(self) -> bool:
        """True once it can be moved."""
        return time.monotonic() >= self.activated_at

    def advance(self) -> None:
        """Move the finger for the time that has passed."""
        now = time.monotonic()
        reach = self.speed * (now - self._since)
        self._since = now

        blocked_at = self.object_m if self.opening >= self.object_m else -1
        wanted = max(self._requested_opening(), blocked_at)
        if self.activated:
            self.opening += min(max(wanted - self.opening, -reach), reach)

    def transact(self, frame: bytes) -> bytes:
        """Answer one Modbus RTU request; both are without checksum."""
        self.advance()
        if frame.startswith(_WRITE_ACTION) and len(frame) == _WRITE_BYTES:
            self._act(frame[7:])
            return frame[:6]
        if frame.startswith(_READ_STATUS) and len(frame) == _READ_BYTES:
            registers = self._registers()[: 2 * frame[5]]
            return bytes([0x09, 0x03, len(registers)]) + registers
        return bytes([0x09, frame[1] | 0x80, 1]) if len(frame) > 1 else b""

    def _act(self, request: bytes) -> None:
        action, _, _, position, speed, _ = request
        if not action & _ACTIVATE:
            self.activated_at = math.inf
        elif math.isinf(self.activated_at):
            self.activated_at = time.monotonic() + _ACTIVATION_S

        if action & _GO_TO:
            self.requested = position
            self.speed = GRIPPER_SPEED * (_SLOWEST + (1 - _SLOWEST) * speed / 255)

    def _registers(self) -> bytes:
        there = abs(self._requested_opening() - self.opening) < _SAME_M
        held = not there and abs(self.opening - self.object_m) < _SAME_M
        result = _AT_REQUEST if there else _HELD_OBJECT if held else 0

        active = not math.isinf(self.activated_at)
        activation = 3 if self.activated else int(active)
        status = result << 6 | activation << 4 | _GO_TO | int(active)
        position = round(255 * (1 - self.opening / OPENING))
        return bytes([status, 0, self.fault, self.requested, position, 0])

    def _requested_opening(self) -> float:
        return OPENING * (1 - self.requested / 255)


class ControlBox:
    """Modes, states, errors and the pose; knows no sockets."""

    def __init__(self) -> None:
        self.pose: rotation.Floats = HOME
        self.target: rotation.Floats = HOME
        self.mode = 0
        self.state = _STOPPED
        self.error = 0
        self.latched_error = 0
        self.enabled = False
        self.latched = False
        self.muted = False
        self.deaf = False
        self.line_s = LINE_S
        self.late_s = 0.0

        self.tool_offset: tuple[float, ...] = (0.0,) * 6
        self.load: tuple[float, ...] = (0.0,) * 4
        self.sensitivity = 3
        self.gripper = SimulatedRobotiq()
        self.counters = {"poses": 0, "ignored": 0, "refused": 0, "unknown": 0, "served": 0}
        self._answers: dict[int, Callable[[bytes], bytes]] = {
            1: lambda _: _VERSION.ljust(40, b"\0"),
            13: lambda _: bytes([self.state]),
            14: lambda _: b"\0\0",
            15: lambda _: bytes([self.error, 0]),
            42: lambda _: bytes(28),
            41: lambda _: struct.pack("<6f", *self._millimetres(rpy(self.pose[3:]))),
            91: lambda _: struct.pack("<6f", *self._millimetres(rotation.to_rotvec(self.pose[3:]))),
            128: lambda _: _BAUD_115200,
            SERIAL_REGISTER: self._serial,
            11: self._enable,
            12: self._set_state,
            16: self._clean,
            19: self._set_mode,
            35: self._set_offset,
            36: self._set_load,
            37: self._set_sensitivity,
            93: self._servo,
            17: lambda _: b"",
            253: lambda _: b"",
            254: lambda _: b"",
        }

    def answer(self, register: int, content: bytes) -> bytes:
        """Return state bits and content of the answer to a request."""
        act = self._answers.get(register)
        if act is None:
            self.counters["unknown"] += 1
            return bytes([self._bits() | _INVALID_BIT])

        self.counters["served"] += 1
        try:
            answer = act(content)
        except (struct.error, IndexError, ValueError):
            return bytes([self._bits() | _INVALID_BIT])
        return bytes([self._bits()]) + answer

    def advance(self, seconds: float) -> None:
        """Follow the target for some seconds."""
        if self.latched and self.latched_error and not self.error:
            self.fail(self.latched_error)
        if self.state not in (_READY, _MOVING):
            return

        share = 1 - math.exp(-seconds / LAG_S)
        position = [
            a + share * (b - a) for a, b in zip(self.pose[:3], self.target[:3], strict=True)
        ]
        self.pose = (*position, *rotation.slerp(self.pose[3:], self.target[3:], share))
        self.state = _MOVING if math.dist(self.pose[:3], self.target[:3]) > ARRIVED_M else _READY

    def report(self) -> bytes:
        """Return the 100 Hz report: state, mode, joints, pose, torques, forces."""
        numbers = [*(0.0,) * 7, *self._millimetres(rpy(self.pose[3:])), *(0.0,) * 19]
        content = struct.pack("<BH", self.state | self.mode << 4, 0) + struct.pack("<32f", *numbers)
        return struct.pack(">I", 4 + len(content)) + content

    def fail(self, error: int) -> None:
        """Stop with an error code."""
        self.error = error
        self.target = self.pose
        if error:
            self.state = _STOPPED
            self.latched_error = error

    def change(self, change: BoxChange) -> BoxState:
        """Make a change, and return the state."""
        for name in ("latched", "muted", "deaf", "line_s", "late_s"):
            value = getattr(change, name)
            if value is not None:
                setattr(self, name, value)

        if change.state is not None:
            self._set_state(bytes([change.state]))
        if change.error is not None:
            self.fail(change.error)
        if change.gripper_fault is not None:
            self.gripper.fault = change.gripper_fault
        if change.object_m is not None:
            self.gripper.object_m = change.object_m
        if not self.latched:
            self.latched_error = 0

        self.gripper.advance()
        return BoxState(
            pose=self.pose,
            target=self.target,
            mode=self.mode,
            state=self.state,
            error=self.error,
            enabled=self.enabled,
            opening=self.gripper.opening,
            activated=self.gripper.activated,
            tool_offset=self.tool_offset,
            load=self.load,
            sensitivity=self.sensitivity,
            counters=self.counters,
        )

    def _bits(self) -> int:
        ready = self.enabled and self.state not in (_STOPPED, _MODE_CHANGED)
        return (_ERROR_BIT if self.error else 0) | (0 if ready else _NOT_READY_BIT)

    def _millimetres(self, turn: rotation.Floats) -> list[float]:
        return [*(MILLIMETRES * v for v in self.pose[:3]), *turn]

    def _enable(self, content: bytes) -> bytes:
        self.enabled = bool(content[1])
        return b""

    def _set_state(self, content: bytes) -> bytes:
        wanted = content[0]
        if wanted in (4, 6):
            self.state = _STOPPED
            self.target = self.pose
        elif wanted == 3 and self.state in (_READY, _MOVING):
            self.state = _PAUSED
        elif wanted == 0 and self.enabled and not self.error:
            self.state = _READY
        return b""

    def _set_mode(self, content: bytes) -> bytes:
        self.mode = content[0]
        self.target = self.pose
        self.state = _STOPPED if self.error else _MODE_CHANGED
        return b""

    def _clean(self, content: bytes) -> bytes:
        self.error = self.latched_error if self.latched else 0
        return b""

    def _set_offset(self, content: bytes) -> bytes:
        self.tool_offset = struct.unpack("<6f", content)
        return b""

    def _set_load(self, content: bytes) -> bytes:
        self.load = struct.unpack("<4f", content)
        return b""

    def _set_sensitivity(self, content: bytes) -> bytes:
        self.sensitivity = content[0]
        return b""

    def _servo(self, content: bytes) -> bytes:
        numbers = struct.unpack("<8f", content[:32])
        if not all(map(math.isfinite, numbers)):
            raise ValueError("not finite")
        if self.mode != _SERVO_MODE or self.state not in (_READY, _MOVING):
            self.counters["refused"] += 1
            return b""

        pose = (*(v / MILLIMETRES for v in numbers[:3]), *rotation.from_rotvec(numbers[3:6]))
        if math.dist(pose[:3], self.target[:3]) > MAX_STEP_M:
            self.counters["ignored"] += 1
        else:
            self.counters["poses"] += 1
            self.target = pose
        return b""

    def _serial(self, content: bytes) -> bytes:
        return content[:1] + self.gripper.transact(content[1:])


def rpy(q: rotation.Floats) -> rotation.Floats:
    """Return roll, pitch, yaw about the fixed axes x, y, z [rad] of a unit quaternion."""
    x, y, z, w = q
    return (
        math.atan2(2 * (w * x + y * z), 1 - 2 * (x * x + y * y)),
        math.asin(max(-1.0, min(1.0, 2 * (w * y - z * x)))),
        math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z)),
    )
