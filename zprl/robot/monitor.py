"""Monitor of the robot's state, beside the filter that bounds what is sent to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from zprl.robot.base import POSITION, WRENCH, Health, Mode
from zprl.robot.events import MAX_TEXT, Event, Level
from zprl.robot.limits import ArmLimits, Limits, RecoveryBudget

SPEED_WINDOW_S = 0.02
"""Speed is measured over at least this long: differences of single states are noise."""


@dataclass
class _Arm:
    """Memory of one arm."""

    limits: ArmLimits
    position: tuple[float, ...] | None = None
    stamp: float = 0.0
    over: int = 0
    """States in a row over a wrench threshold."""
    peak: float = 0.0
    """Largest force or torque among them."""


class Monitor:
    """Thresholds on the measured state, heartbeats, and the e-stop's latch.

    An event is given when its condition begins, and again after :meth:`restart`; the e-stop is
    given at every check until it is released.

    Args:
        limits: The session's.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.budget = RecoveryBudget(limits.recoveries)
        self.estopped: str | None = None
        """Who pressed the e-stop."""
        self._beats: dict[str, float] = {}
        self.restart()

    def restart(self) -> None:
        """Begin anew after a recovery: whatever still holds is reported again.

        The e-stop stays latched.
        """
        self._arms = {prefix: _Arm(arm) for prefix, arm in self.limits.arms.items()}
        self._stamp: float | None = None
        """Newest stamp of the robot [s]."""
        self._moved = 0.0
        """Host's time at which it changed [s]."""
        self._reported: set[str] = set()

    def check(
        self,
        features: Mapping[str, float],
        stamp: float,
        host_now: float,
        health: Health | None = None,
    ) -> list[Event]:
        """Return the events that begin now.

        Args:
            features: The robot's newest observation.
            stamp: Time of its measurement, robot's clock [s].
            host_now: Host's monotonic clock [s].
            health: Mode and errors that the robot itself reports.
        """
        events: list[Event] = []
        if self.estopped is not None:
            events.append(
                Event("estop", Level.HARD_STOP, f"e-stop pressed ({self.estopped})", stamp=stamp)
            )
        if health is not None:
            events += self._once("health", not health.ok, lambda: _sick(health, stamp))

        moved = self._stamp is None or stamp > self._stamp
        if moved:
            self._stamp = stamp
            self._moved = host_now
        events += self._age(host_now - self._moved, stamp)

        if moved:
            for prefix, arm in self._arms.items():
                events += self._look(prefix, arm, features, stamp)
        for name, beat in self._beats.items():
            events += self._heartbeat(name, host_now - beat, stamp)
        return events

    def _age(self, age: float, stamp: float) -> list[Event]:
        most = self.limits.state_age_s
        reason = f"no new state from the robot for {age:.3f} s"
        return self._once(
            "state_stale",
            age > most,
            lambda: Event(
                "state_stale", Level.SOFT_STOP, reason, age, most, stamp, recoverable=True
            ),
        )

    # -- the arm -----------------------------------------------------------------------------------

    def _look(
        self, prefix: str, arm: _Arm, features: Mapping[str, float], stamp: float
    ) -> list[Event]:
        position = tuple(features[prefix + key] for key in POSITION)
        wrench = _wrench_of(features, prefix)
        broken = not all(map(math.isfinite, (*position, *wrench)))
        events = self._once(
            prefix + "state_not_finite",
            broken,
            lambda: Event(
                "state_not_finite", Level.SOFT_STOP, f"{prefix}state is not finite", stamp=stamp
            ),
        )
        if broken:
            return events

        watched = arm.limits.force is not None or arm.limits.torque is not None
        if len(wrench) == len(WRENCH):
            events += self._wrench(prefix, arm, wrench, stamp)
        else:
            reason = f"{prefix}arm reports no wrench: only the tracking clip bounds the force"
            events += self._once(
                prefix + "no_wrench",
                watched,
                lambda: Event("no_wrench", Level.NOTE, reason, stamp=stamp),
            )
        return events + self._speed(prefix, arm, position, stamp)

    def _wrench(self, prefix: str, arm: _Arm, wrench: list[float], stamp: float) -> list[Event]:
        share, name, unit, length, limit = _load(arm.limits, wrench)
        arm.over = arm.over + 1 if share > 1 else 0
        arm.peak = max(arm.peak, length) if share > 1 else 0.0
        peak = arm.peak
        return self._once(
            prefix + "wrench",
            arm.over >= arm.limits.debounce_ticks,
            lambda: Event(
                "wrench",
                Level.HARD_STOP,
                f"{prefix}external {name} reached {peak:.1f} {unit}",
                peak,
                limit,
                stamp,
                recoverable=True,
            ),
        )

    def calm(self, features: Mapping[str, float]) -> bool:
        """Return True where no arm is pushed harder than its limits allow.

        Only then is it wise to take control again.
        """
        for prefix, arm in self._arms.items():
            wrench = _wrench_of(features, prefix)
            if len(wrench) < len(WRENCH):
                continue
            if not _load(arm.limits, wrench)[0] <= 1:  # NaN is not calm
                return False
        return True

    def _speed(
        self, prefix: str, arm: _Arm, position: tuple[float, ...], stamp: float
    ) -> list[Event]:
        if arm.position is None:
            arm.position = position
            arm.stamp = stamp
            return []
        passed = stamp - arm.stamp
        if passed < SPEED_WINDOW_S:
            return []

        speed = math.dist(position, arm.position) / passed
        most = arm.limits.measured_speed
        arm.position = position
        arm.stamp = stamp
        return self._once(
            prefix + "speed",
            speed > most,
            lambda: Event(
                "speed",
                Level.HARD_STOP,
                f"{prefix}tool moved at {speed:.2f} m/s",
                speed,
                most,
                stamp,
                recoverable=True,
            ),
        )

    def _once(
        self,
        name: str,
        holds: bool,  # noqa: FBT001 - never a literal
        make: Callable[[], Event],
    ) -> list[Event]:
        """Return the event when its condition begins."""
        if not holds:
            self._reported.discard(name)
            return []
        if name in self._reported:
            return []
        self._reported.add(name)
        return [make()]

    # -- heartbeats and chunks ---------------------------------------------------------------------

    def beat(self, name: str, host_now: float) -> None:
        """Take a heartbeat; from a process's first one on, its silence is reported.

        ``camera/wrist`` is a ``camera``.
        """
        self._beats[name] = host_now

    def forget(self, name: str) -> None:
        """Watch a process no longer: it left on purpose."""
        self._beats.pop(name, None)

    def _heartbeat(self, name: str, silence: float, stamp: float) -> list[Event]:
        kind = name.split("/")[0]
        most = next((s for watched, s in self.limits.heartbeat_s.items() if watched == kind), None)
        reason = f"nothing heard of {name} for {silence:.2f} s"
        return self._once(
            f"heartbeat {name}",
            most is not None and silence > most,
            lambda: Event(
                "heartbeat", Level.SOFT_STOP, reason, silence, most, stamp, recoverable=True
            ),
        )

    def late(self, late_s: float, stamp: float | None = None) -> Event | None:
        """Return the event of a late chunk: hold, and beyond the limit come to rest."""
        most = self.limits.command_age_s
        if late_s <= 0:
            return None
        if late_s <= most:
            return Event(
                "chunk_late",
                Level.HOLD,
                f"the next chunk is {late_s:.3f} s late: holding",
                late_s,
                most,
                stamp,
            )
        return Event(
            "chunk_missing",
            Level.SOFT_STOP,
            f"the next chunk is {late_s:.3f} s late",
            late_s,
            most,
            stamp,
            recoverable=True,
        )

    def press_estop(self, source: str) -> None:
        """Latch the e-stop that ``source`` pressed."""
        self.estopped = source

    def release_estop(self) -> None:
        """Release the latch; only ever on the operator's request."""
        self.estopped = None

    def may_recover(self, now: float) -> bool:
        """Return True where the robot may be recovered without asking a person, at ``now`` [s]."""
        return self.estopped is None and self.budget.may_recover(now)

    def recovered(self, now: float) -> None:
        """Count a recovery at ``now`` [s]."""
        self.budget.spend(now)


def _wrench_of(features: Mapping[str, float], prefix: str) -> list[float]:
    """Return force and torque of an arm, (6,); shorter where it does not measure them."""
    return [features[prefix + key] for key in WRENCH if prefix + key in features]


def _load(limits: ArmLimits, wrench: list[float]) -> tuple[float, str, str, float, float]:
    """Return the worse one of force and torque.

    Returns:
        Its share of the limit, name, unit, length and limit.
    """
    parts = (
        ("force", "N", math.hypot(*wrench[:3]), limits.force),
        ("torque", "Nm", math.hypot(*wrench[3:]), limits.torque),
    )
    return max(
        (
            (length / limit, name, unit, length, limit)
            for name, unit, length, limit in parts
            if limit is not None
        ),
        default=(0.0, "", "", 0.0, 0.0),
    )


def _sick(health: Health, stamp: float) -> Event:
    flags = f" ({', '.join(health.errors)})" if health.errors else ""
    reason = f"the robot is in mode '{health.mode}'{flags}"
    return Event(
        "health",
        Level.SOFT_STOP,
        reason[:MAX_TEXT],
        stamp=stamp,
        recoverable=health.mode in (Mode.REFLEX, Mode.DISCONNECTED),
    )
