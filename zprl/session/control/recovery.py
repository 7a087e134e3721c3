"""The way back into control of the arm after a stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from zprl.robot.base import Mode, Robot, RobotError, StopLevel, Values
from zprl.robot.safety import Monitor
from zprl.session.control.connection import normal_scheduling

CALM_S, RETRY_PUSH_S = 3.0, 0.1
"""Longest wait, and pause between two attempts, for the end of what pushes the arm: control taken
under a push gives way to it [s]."""


@dataclass(frozen=True)
class InControl:
    """Outcome of a recovery after which the arm is under control."""


@dataclass(frozen=True)
class Refusal:
    """Outcome of a recovery after which the arm stays stopped, and why."""

    reason: str


RecoveryOutcome = InControl | Refusal


class Recovery:
    """Takes control again, attempt by attempt, so that a stop is noticed between two of them.

    Args:
        robot: The robot.
        monitor: Decides whether something pushes the arm.
        read: Reads the robot's features.
        listen: Takes in the messages that have come while the robot was busy.
        report: Publishes the outcome.
    """

    def __init__(
        self,
        robot: Robot,
        monitor: Monitor,
        *,
        read: Callable[[], Values],
        listen: Callable[[], None],
        report: Callable[[RecoveryOutcome], None],
    ) -> None:
        self.robot, self.monitor = robot, monitor
        self.read, self.listen, self.report = read, listen, report
        self.end_at: float | None = None
        """When to give up, host's monotonic clock [s]; ``None``: nobody has asked for it."""
        self.next_at = 0.0
        """When to try next [s]."""

    @property
    def active(self) -> bool:
        """Return whether control is being taken."""
        return self.end_at is not None

    def begin(self) -> None:
        """Begin to take control; a recovery under way goes on."""
        if self.end_at is None:
            self.end_at = time.monotonic() + CALM_S
            self.next_at = 0.0

    def cancel(self, reason: str) -> None:
        """End a recovery that is under way; the arm stays stopped for this reason."""
        if self.active:
            self.refuse(reason)

    def succeed(self) -> None:
        """Report that the arm is under control."""
        self.end_at = None
        self.report(InControl())

    def refuse(self, reason: str) -> None:
        """Stop the arm and report why it stays stopped."""
        self.end_at = None
        # One arm of two, or one whose state cannot be read, may have taken control.
        self.robot.stop(StopLevel.HARD)
        self.report(Refusal(reason))

    def attempt(self) -> Values | None:
        """Try once to take control.

        Returns:
            The features from which the arm may go on, once nothing pushes it beyond its limits;
                ``None``: it stays stopped.
        """
        if time.monotonic() < self.next_at:
            return None
        try:
            recovered = self._recover_robot()
            features = self.read() if recovered else {}
        except RobotError as error:
            self.refuse(error.message)
            return None
        if not recovered:
            health = self.robot.health()
            state = f"'{health.mode}' {', '.join(health.errors)} {health.detail}"
            self.refuse(f"the robot is in mode {state}".rstrip())
            return None

        self.listen()  # a stop that was pressed while the robot was busy counts before it holds
        if self.active and self.monitor.calm(features):
            return features

        self.robot.stop(StopLevel.HARD)
        if self.end_at is not None and time.monotonic() > self.end_at:
            self.refuse(
                "something pushes the arm harder than its limits allow: look at what touches it"
            )
        self.next_at = time.monotonic() + RETRY_PUSH_S
        return None

    def _recover_robot(self) -> bool:
        """Let the robot recover; a connection that is lost is made anew."""
        if self.robot.health().mode is not Mode.DISCONNECTED and self.robot.recover():
            return True
        if self.robot.health().mode is not Mode.DISCONNECTED:
            return False
        self.robot.disconnect()
        self.robot.connect()
        normal_scheduling()
        return True
