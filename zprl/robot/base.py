"""The robot protocol: LeRobot's names and semantics, and what safe streaming needs besides.

A driver is one class behind the entry point ``zprl.robots``; ``make(config)`` builds it and must
not touch hardware.  Features are flat, known before connecting, and named as LeRobot names them:

===========================  ============================================================
feature                      meaning
===========================  ============================================================
``ee.x ee.y ee.z``           tool centre point in the base frame [m]
``ee.qx ee.qy ee.qz ee.qw``  its orientation, quaternion xyzw
``ee.fx ... ee.tz``          external wrench at the tool in the base frame [N, Nm]; absent
                             where a robot does not measure it
``gripper.pos``              opening [m]; as an action: the opening asked for
``joint_1.pos joint_1.vel``  [rad, rad/s]
===========================  ============================================================

Two robots are composed with prefixes (``left.ee.x``).  All times are seconds of the *robot's*
clock; on hardware it runs with the host's, a simulated robot's may run faster or slower.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, Self, runtime_checkable

import numpy as np

from zprl.errors import EnvironmentProblem

POSITION = ("ee.x", "ee.y", "ee.z")
QUATERNION = ("ee.qx", "ee.qy", "ee.qz", "ee.qw")
POSE = (*POSITION, *QUATERNION)
WRENCH = ("ee.fx", "ee.fy", "ee.fz", "ee.tx", "ee.ty", "ee.tz")
GRIPPER = "gripper.pos"

Values = dict[str, float]
"""Feature name to value."""


class RobotError(EnvironmentProblem):
    """A robot that does not answer, refuses a command, or needs a person."""


class StopLevel(enum.IntEnum):
    """Severity of a stop; a higher level includes the lower ones."""

    HOLD = 1
    """Stay where the last command led; control goes on."""
    SOFT = 2
    """Come to rest within the limits, then give up control."""
    HARD = 3
    """Stop now, by the robot's own stop function."""


class Mode(enum.StrEnum):
    """Mode that the robot itself reports."""

    DISCONNECTED = "disconnected"
    IDLE = "idle"
    MOVING = "moving"
    REFLEX = "reflex"
    """Its own safety stopped it; :meth:`Robot.recover` may clear it."""
    USER_STOPPED = "user_stopped"
    """A person pressed its stop; only a person can release it."""
    ERROR = "error"
    """Anything else that needs a person."""


@dataclass(frozen=True)
class Health:
    """Mode and the names of the robot's own error flags."""

    mode: Mode
    errors: tuple[str, ...] = ()
    detail: str = ""

    @property
    def ok(self) -> bool:
        """True where the robot can be commanded."""
        return self.mode in (Mode.IDLE, Mode.MOVING)


@dataclass(frozen=True)
class Ranges:
    """Ranges of the machine itself; a session's own limits must lie inside.

    Attributes:
        speed: Translation [m/s].
        acceleration: [m/s^2].
        jerk: [m/s^3].
        gripper_width: Widest opening [m].
        reach: Farthest tool position from the base [m].
    """

    speed: float
    acceleration: float
    jerk: float
    gripper_width: float
    reach: float


@runtime_checkable
class Robot(Protocol):
    """One arm with its gripper.

    No method but ``connect``, ``disconnect`` and ``recover`` may block for more than a tick.
    """

    name: str
    simulated: bool
    """True for a simulated robot: nothing can be hurt."""

    @property
    def observation_features(self) -> dict[str, type]:
        """Feature name to ``float``; callable unconnected."""
        ...

    @property
    def action_features(self) -> dict[str, type]:
        """Feature name to ``float``: the pose and ``gripper.pos``; callable unconnected."""
        ...

    @property
    def limits(self) -> Ranges:
        """Ranges of the machine; callable unconnected."""
        ...

    @property
    def is_connected(self) -> bool:
        """True while commands can be sent."""
        ...

    @property
    def is_calibrated(self) -> bool:
        """True where poses are exact (arms with absolute encoders: always)."""
        ...

    def calibrate(self) -> None:
        """Calibrate, where the robot needs that."""
        ...

    def configure(self) -> None:
        """Write the settings of the config (stiffness, load, thresholds); part of ``connect``."""
        ...

    def connect(self, calibrate: bool = True) -> None:  # noqa: FBT001, FBT002 - LeRobot's
        """Open the connection and take control, holding the present pose.

        May be called again after ``disconnect`` or a lost connection.

        Raises:
            RobotError: nobody answers, or the robot refuses.
        """
        ...

    def disconnect(self) -> None:
        """Come to rest and let go; harmless when not connected."""
        ...

    def get_observation(self) -> Values:
        """Return the newest state, from memory.

        Raises:
            RobotError: not connected, or the connection is lost.
        """
        ...

    def send_action(self, action: Mapping[str, float]) -> Values:
        """Make ``action`` the target at once and return what was really sent.

        Never waits for the motion or the gripper.

        Raises:
            RobotError: not connected, not finite, or the robot no longer takes commands (see
                :meth:`health`).
        """
        ...

    def now(self) -> float:
        """Return the robot's clock [s]; it never goes back while connected."""
        ...

    def state_stamp(self) -> float:
        """Return the time of the newest state on the robot's clock [s]; at most ``now()``."""
        ...

    def stop(self, level: StopLevel) -> None:
        """Stop; harmless when stopped already or not connected."""
        ...

    def recover(self) -> bool:
        """Clear a reflex and take control again, holding the present pose.

        Returns:
            False where a person must act first.
        """
        ...

    def health(self) -> Health:
        """Return mode and errors, without raising."""
        ...


class Connected:
    """Context manager of any robot: connects, and lets go whatever happens."""

    def __init__(self, robot: Robot) -> None:
        self.robot = robot

    def __enter__(self) -> Robot:
        self.robot.connect()
        return self.robot

    def __exit__(self, *exc: object) -> None:
        self.robot.disconnect()


@dataclass(frozen=True)
class Pose:
    """A tool pose: position (3,) [m] and quaternion xyzw (4,), float64."""

    position: np.ndarray
    quaternion: np.ndarray

    @classmethod
    def read(cls, values: Mapping[str, float], prefix: str = "") -> Self:
        """Read a pose from features."""
        return cls(
            np.array([values[prefix + key] for key in POSITION], np.float64),
            np.array([values[prefix + key] for key in QUATERNION], np.float64),
        )

    def features(self, prefix: str = "") -> Values:
        """Return the pose as features."""
        return {
            prefix + key: float(v)
            for key, v in zip(POSE, (*self.position, *self.quaternion), strict=True)
        }
