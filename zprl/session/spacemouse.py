"""A SpaceMouse for taking over: its HID reports, and the command that a push becomes.

The decoder reads ``/dev/hidraw*`` itself: a dozen lines, where the library wants a C library and
loads it at import.  It knows both layouts in use: translation in report 1 and rotation in
report 2 (wired models), or all six axes in report 1 (wireless and newer ones); buttons are report
3.  Axes are right-handed and the person's: +x right, +y away, +z up, rotations about the same axes.

A person's motion is recorded as an intervention, in action space, and has no latent.
"""

from __future__ import annotations

import math
import os
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from zprl.errors import EnvironmentProblem
from zprl.robot import rotation
from zprl.robot.base import Pose
from zprl.robot.limits import ArmLimits
from zprl.session.events import Input
from zprl.session.inputs import InputReader

BEHIND = -math.pi / 2
"""Direction (:attr:`Feel.yaw`) of a person who stands behind the robot's base [rad]."""
FULL = 350.0
"""Counts of a full push."""
SIGNS = (1.0, -1.0, -1.0)
"""HID counts y towards the user and z down; rotations follow."""
CONNEXION, LOGITECH = 0x256F, 0x046D
"""USB vendors: 3Dconnexion; older models are Logitech's."""
LOGITECH_MODELS = range(0xC603, 0xC62C)
"""Logitech also makes ordinary mice; its 3-D mice are in here."""
UDEV_RULE = 'KERNEL=="hidraw*", ATTRS{idVendor}=="256f", TAG+="uaccess"'
TOLERANCE = 1e-9
"""Of rounding, when steps add up to a duration."""
STALE_S = 0.25
"""Seconds of silence after which nobody pushes, or the receiver is gone: a pushed cap reports every
8 to 16 ms."""
FIRST, SECOND, BUTTONS = 1, 2, 3
"""Numbers of the reports: translation (and rotation), rotation, buttons."""
THREE_AXES, SIX_AXES = 6, 12
"""Bytes of the axes in a report."""


@dataclass(frozen=True)
class MouseState:
    """The cap and the buttons.

    Attributes:
        twist: x, y, z, roll, pitch, yaw in [-1, 1], z up.
        buttons: A bit each, as the device numbers them; bit 0 is the left one of two.
    """

    twist: tuple[float, ...] = (0.0,) * 6
    buttons: int = 0


REST = MouseState()


def decode(report: bytes, state: MouseState) -> MouseState:
    """Return the state after one report; an unknown or short report changes nothing."""
    kind = report[0] if report else None
    size = len(report) - 1

    if kind == FIRST and size >= SIX_AXES:
        return replace(state, twist=(*_three(report, 1), *_three(report, 1 + THREE_AXES)))
    if kind == FIRST and size >= THREE_AXES:
        return replace(state, twist=(*_three(report, 1), *state.twist[3:]))
    if kind == SECOND and size >= THREE_AXES:
        return replace(state, twist=(*state.twist[:3], *_three(report, 1)))
    if kind == BUTTONS and size >= 1:
        return replace(state, buttons=int.from_bytes(report[1:5], "little"))
    return state


def _three(report: bytes, start: int) -> tuple[float, ...]:
    """Return three axes in [-1, 1], in the person's directions."""
    counts = struct.unpack_from("<3h", report, start)
    return tuple(
        max(-1.0, min(1.0, sign * count / FULL)) for sign, count in zip(SIGNS, counts, strict=True)
    )


def find(root: Path = Path("/sys/class/hidraw")) -> Path:
    """Return the device file of the first connected SpaceMouse.

    Args:
        root: Folder in which the kernel lists HID devices.

    Raises:
        EnvironmentProblem: there is none.
    """
    for entry in sorted(root.glob("hidraw*")):
        try:
            lines = (entry / "device" / "uevent").read_text().splitlines()
            line = next(line for line in lines if line.startswith("HID_ID="))
            _bus, vendor, product = (int(n, 16) for n in line.partition("=")[2].split(":"))
        except (OSError, StopIteration, ValueError):
            continue
        if vendor == CONNEXION or (vendor == LOGITECH and product in LOGITECH_MODELS):
            return Path("/dev") / entry.name
    raise EnvironmentProblem("no SpaceMouse is connected", remedy="plug it in, or run without one")


class SpaceMouse(InputReader):
    """Reader of a SpaceMouse that keeps its newest state.

    Args:
        fd: File descriptor of ``/dev/hidraw*``: one report per read.
        on_lost: See :class:`InputReader`.
        clock: Host's monotonic clock [s].
    """

    name = "spacemouse"
    chunk = 64

    def __init__(
        self,
        fd: int,
        *,
        on_lost: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(fd, on_lost=on_lost)
        self.clock = clock
        self.reports = 0
        self._latest = (REST, -math.inf)
        self._changed = threading.Condition()

    def take(self, data: bytes) -> None:
        with self._changed:
            self._latest = (decode(data, self._latest[0]), self.clock())
            self.reports += 1
            self._changed.notify_all()

    def lost(self, why: str) -> None:
        with self._changed:
            self._latest = (REST, self.clock())
        super().lost(why)

    def wait(self, reports: int, timeout_s: float) -> bool:
        """Wait until so many reports have come; return whether they have."""
        with self._changed:
            return self._changed.wait_for(lambda: self.reports >= reports, timeout_s)

    def read(self) -> MouseState:
        """Return the newest state; a cap that went silent is at rest."""
        state, stamp = self._latest
        if self.clock() - stamp < STALE_S:
            return state
        # A button that is held sends nothing until it is released: buttons stay.
        return replace(state, twist=REST.twist)

    @classmethod
    def open(
        cls, path: Path | str | None = None, *, on_lost: Callable[[str], None] = lambda _: None
    ) -> SpaceMouse:
        """Open a device file, or the first SpaceMouse there is; it is closed with the process.

        Raises:
            EnvironmentProblem: there is none, or this user may not read it.
        """
        path = path or find()
        try:
            return cls(os.open(path, os.O_RDONLY | os.O_CLOEXEC), on_lost=on_lost)
        except OSError as error:
            raise EnvironmentProblem(
                f"cannot open {path}: {error.strerror}", remedy=f"add the udev rule {UDEV_RULE}"
            ) from error


# -- from a push to a command ----------------------------------------------------------------------


@dataclass(frozen=True)
class InterventionCommand:
    """A person's command to the arm for one control step.

    Attributes:
        engaged: Whether a person has the arm; the policy's chunk is not played then.
        translation: Change of the target position, base frame (3,) [m].
        rotation: Change of the target orientation about fixed axes, a rotation vector (3,) [rad].
        toggle_gripper: Whether the gripper button was pressed in this step.
        edge: ``intervene`` in the step in which a person takes over, ``release`` in that in which
            it ends.
    """

    engaged: bool = False
    translation: tuple[float, ...] = (0.0, 0.0, 0.0)
    rotation: tuple[float, ...] = (0.0, 0.0, 0.0)
    toggle_gripper: bool = False
    edge: Input | None = None

    def target(self, pose: Pose) -> Pose:
        """Return the target pose after this step."""
        quaternion = rotation.product(rotation.from_rotvec(self.rotation), tuple(pose.quaternion))
        return Pose(pose.position + np.array(self.translation), np.array(rotation.unit(quaternion)))


@dataclass(frozen=True)
class Feel:
    """Parameters by which a push becomes motion.

    Attributes:
        speed: Speed at a full push [m/s].
        turn: Turning speed at a full push [rad/s].
        step_s: Seconds per control step.
        max_step: Largest translation per step [m].
        max_turn: Largest rotation per step [rad].
        yaw: Direction of the person's right hand in the base frame, an angle about z from its x
            axis [rad].  -pi/2: the person stands behind the base and looks along its x axis; pi/2:
            face to face with it.
        threshold: Norm of the twist above which a person takes over; pushes count from there, so
            that taking over does not jerk.
        release_s: After the cap is let go: seconds until the policy goes on.  The command fades
            over the first half.
        hold_button: Bit of the button that holds the arm without a push.
        gripper_button: Bit of the button that opens and closes.
    """

    speed: float
    turn: float
    step_s: float
    max_step: float
    max_turn: float
    yaw: float = BEHIND
    threshold: float = 0.12
    release_s: float = 0.6
    hold_button: int = 0
    gripper_button: int = 1

    @classmethod
    def within(
        cls, limits: ArmLimits, rate_hz: float, *, share: float = 0.5, yaw: float = BEHIND
    ) -> Feel:
        """Return parameters with which a full push moves at ``share`` of the limits' speeds."""
        return cls(
            share * limits.translation.speed,
            share * limits.rotation.speed,
            1 / rate_hz,
            limits.max_step,
            limits.max_rotation_step,
            yaw,
        )


class Intervention:
    """The hand-over between person and policy; one :meth:`step` per control step.

    Args:
        feel: Parameters by which a push becomes motion.
    """

    def __init__(self, feel: Feel) -> None:
        self.feel = feel
        self._engaged = False
        self._idle_steps = 0
        self._twist = REST.twist
        self._buttons = 0

    def step(self, state: MouseState) -> InterventionCommand:
        """Return the command of one control step for the mouse's state in it."""
        feel, before = self.feel, self._engaged
        twist = self._pushed_twist(state)
        if twist is None:
            twist = self._faded_twist()

        pressed = bool(state.buttons & ~self._buttons & 1 << feel.gripper_button)
        self._buttons = state.buttons
        edge = None
        if self._engaged != before:
            edge = Input.INTERVENE if self._engaged else Input.RELEASE
        return InterventionCommand(
            self._engaged,
            self._turned(twist[:3], feel.speed, feel.max_step),
            self._turned(twist[3:], feel.turn, feel.max_turn),
            pressed and self._engaged,
            edge,
        )

    def _pushed_twist(self, state: MouseState) -> tuple[float, ...] | None:
        """Return the twist of a person who pushes or holds the arm; ``None`` where nobody does."""
        feel = self.feel
        norm = math.hypot(*state.twist)
        pushed = norm > feel.threshold
        if not pushed and not state.buttons >> feel.hold_button & 1:
            return None

        self._engaged = True
        self._idle_steps = 0
        past = (min(norm, 1.0) - feel.threshold) / (1 - feel.threshold) / norm if pushed else 0.0
        self._twist = tuple(past * v for v in state.twist)
        return self._twist

    def _faded_twist(self) -> tuple[float, ...]:
        """Return the last twist, faded out; end the intervention once the cap is idle for long."""
        self._idle_steps += 1
        idle = self._idle_steps * self.feel.step_s / self.feel.release_s
        self._engaged = self._engaged and idle < 1 - TOLERANCE
        fade = max(0.0, 1 - 2 * idle) if self._engaged else 0.0
        return tuple(fade * v for v in self._twist)

    def _turned(self, push: tuple[float, ...], full: float, most: float) -> tuple[float, ...]:
        """Scale a push to a step of at most ``most``, and turn it to the base's axes."""
        scale = full * self.feel.step_s
        if (length := math.hypot(*push) * scale) > most:
            scale *= most / length
        x, y, z = (scale * v for v in push)
        cos, sin = math.cos(self.feel.yaw), math.sin(self.feel.yaw)
        return (cos * x - sin * y, sin * x + cos * y, z)
