"""Events of the safety layer: every clip, hold and stop has one, with its reason."""

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
    """Severity of an event; ordered, so that ``max`` returns the worst."""

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
        """Stop level of the robot that answers it; ``None`` where nothing needs to stop."""
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
        """Return a JSON value: the level by its lower-case name, numbers that are not finite null.

        :meth:`from_dict` reads it.
        """
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
    def from_dict(cls, entry: Mapping[str, Any]) -> Self:
        """Read what :meth:`as_dict` returns; further keys are ignored.

        Raises:
            DataError: it is something else.
        """
        try:
            kind = entry["kind"]
            reason = entry["reason"]
            level = Level[str(entry["level"]).upper()]
            numbers = {name: entry.get(name) for name in ("value", "limit", "stamp")}

            if not isinstance(kind, str) or not isinstance(reason, str):
                raise TypeError("kind and reason are short texts")
            if max(len(kind), len(reason)) > MAX_TEXT:
                raise TypeError("kind and reason are short texts")
            if not all(v is None or _is_finite_number(v) for v in numbers.values()):
                raise TypeError("value, limit and stamp are finite numbers")
        except (KeyError, TypeError) as error:
            raise DataError(
                f"not an event: {error}",
                remedy="stop other programs that write to the session's sockets",
            ) from error
        return cls(kind, level, reason, **numbers, recoverable=entry.get("recoverable") is True)


def _is_finite_number(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)
