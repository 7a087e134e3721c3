"""Parts that the drivers of network robots share: configuration, checked actions and refusals."""

from __future__ import annotations

import ipaddress
import math
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from zprl.errors import ConfigError
from zprl.robot.base import GRIPPER, POSE, Health, RobotError
from zprl.strict_model import FiniteModel

ACTION = (*POSE, GRIPPER)
"""Features of an action, in the order in which drivers read and return them."""

QUATERNION_PART = slice(3, 7)
GRIPPER_INDEX = 7
"""Places of the quaternion and of the opening in :data:`ACTION`."""

MIN_NORM, MAX_NORM = 0.9, 1.1
"""Lengths between which a quaternion counts as a rounded unit quaternion."""


class DriverConfig(FiniteModel):
    """Settings that every network robot has."""

    host: str = Field(
        description="Address of the robot's control; 127.x is a simulated robot's.",
    )

    @property
    def is_loopback(self) -> bool:
        """True where the host is this machine, and so a simulated robot."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            # A name, "localhost" included: a name server may resolve it to any machine.
            return False


C = TypeVar("C", bound=BaseModel)


def read_config(schema: type[C], config: Mapping[str, Any], *, name: str) -> C:
    """Check the configuration of the robot called ``name``.

    Raises:
        ConfigError: a key or value that ``schema`` does not take.
    """
    try:
        return schema.model_validate(dict(config))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or name
        raise ConfigError(
            f"robot config '{place}': {first['msg']}",
            remedy=f"see {schema.__module__}.{schema.__name__}",
        ) from error


def read_action(action: Mapping[str, float]) -> list[float]:
    """Return the values of :data:`ACTION`; the quaternion is still as long as it was sent.

    Raises:
        RobotError: a feature is missing or not finite, or the quaternion has no unit length.
    """
    try:
        values = [float(action[key]) for key in ACTION]
    except KeyError as error:
        raise RobotError(
            f"the action lacks {error}", remedy=f"an action has {', '.join(ACTION)}"
        ) from error

    finite = all(math.isfinite(value) for value in values)
    if not finite or not MIN_NORM < math.hypot(*values[QUATERNION_PART]) < MAX_NORM:
        raise RobotError(
            "the action is not finite, or its quaternion has no unit length",
            remedy="filter actions before sending",
        )
    return values


def check_commandable(robot: str, health: Health, *, place: str) -> None:
    """Check that a robot that has just been connected can be commanded.

    Args:
        robot: Its name in messages.
        health: Its mode and errors.
        place: Part of the robot at which a person clears errors.

    Raises:
        RobotError: it cannot; the message names its mode and errors.
    """
    if not health.ok:
        raise RobotError(
            f"the {robot} cannot be commanded: {health.mode} {', '.join(health.errors)}".rstrip(),
            remedy=f"clear it with recover(), or at the {place}",
        )


def not_in_control(robot: str, health: Health) -> RobotError:
    """Return the error of a command to a robot that this driver does not control."""
    errors = ", ".join(health.errors)
    return RobotError(
        f"the {robot} takes no commands: {health.mode} {errors} {health.detail}".rstrip(),
        remedy="call recover() or connect()",
    )


def not_connected(robot: str) -> RobotError:
    """Return the error of a call that needs a connection."""
    return RobotError(f"the {robot} is not connected", remedy="call connect() first")


def call_in_thread(
    call: Callable[[], object], seconds: float, *, name: str
) -> tuple[bool, Exception | None]:
    """Run ``call`` in a daemon thread for at most ``seconds``; clients may block for longer.

    Returns:
        True where the call ended in time, and the exception it raised.
    """
    failures: list[Exception] = []

    def run() -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - clients' exceptions have no common base
            failures.append(error)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive(), failures[0] if failures else None


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text; clients append whole traces."""
    return (str(error) or type(error).__name__).splitlines()[0]
