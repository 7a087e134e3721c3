"""What the safety layer has to say: every clip, hold and stop is an event with its reason."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from zprl.errors import DataError
from zprl.robot.base import StopLevel

MAX_TEXT = 500
"""Longest kind or reason taken from a message."""


class Level(enum.IntEnum):
    """How serious; ordered, so that ``max`` finds the worst."""

    NOTE = 0
    """Worth recording; nothing was changed."""
    CLIP = 1
    """The command was changed to respect a limit; control goes on."""
    HOLD = 2
    """The arm stays where the last good command led; control goes on."""
    SOFT_STOP = 3
    """Come to rest within the limits, then give up control."""
    HARD_STOP = 4
    """Stop now."""

    @property
    def stop(self) -> StopLevel | None:
        """The robot's stop level that answers it; ``None`` where nothing needs to stop."""
        return {
            Level.HOLD: StopLevel.HOLD,
            Level.SOFT_STOP: StopLevel.SOFT,
            Level.HARD_STOP: StopLevel.HARD,
        }.get(self)


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    Attributes:
        kind: A word to count by (``workspace``, ``wrench``, ``state_stale``, ...).
        level: How serious.
        reason: A sentence for the operator.
        value: What was measured or asked for, in the limit's unit.
        limit: What is allowed.
        stamp: When, on the robot's clock [s].
        recoverable: Whether the robot may be recovered without asking a person, as often as the
            limits allow.
    """

    kind: str
    level: Level
    reason: str
    value: float | None = None
    limit: float | None = None
    stamp: float | None = None
    recoverable: bool = False

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it: the level by its lower-case name; numbers that are not finite are left out."""
        numbers = {name: getattr(self, name) for name in ("value", "limit", "stamp")}
        finite = {
            name: float(v) if v is not None and math.isfinite(v) else None
            for name, v in numbers.items()
        }
        return {
            "kind": self.kind,
            "level": self.level.name.lower(),
            "reason": self.reason,
            **finite,
            "recoverable": self.recoverable,
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        """Read what :meth:`as_dict` gives; further keys are ignored.

        Raises:
            DataError: it is something else.
        """
        try:
            kind, reason, level = found["kind"], found["reason"], Level[str(found["level"]).upper()]
            numbers = {name: found.get(name) for name in ("value", "limit", "stamp")}
            if (
                not isinstance(kind, str)
                or not isinstance(reason, str)
                or max(len(kind), len(reason)) > MAX_TEXT
            ):
                raise TypeError("kind and reason are short texts")
            if any(
                v is not None
                and (isinstance(v, bool) or not isinstance(v, int | float) or not math.isfinite(v))
                for v in numbers.values()
            ):
                raise TypeError("value, limit and stamp are finite numbers")
        except (KeyError, TypeError) as error:
            raise DataError(
                f"not an event: {error}",
                remedy="stop other programs that write to the session's sockets",
            ) from error
        return cls(kind, level, reason, **numbers, recoverable=found.get("recoverable") is True)
