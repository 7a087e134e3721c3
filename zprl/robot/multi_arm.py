"""Two robots (or more) under prefixes as one: all of them move, or none.

The clock is the host's, because two robots have two: :meth:`MultiArm.now` is monotonic host time,
:meth:`MultiArm.state_stamp` the host time at which the slowest arm's own stamp was last seen to
move, so that one silent arm makes the pair's state old.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields

from zprl.errors import ConfigError
from zprl.robot.base import Health, Mode, Ranges, Robot, RobotError, StopLevel, Values

_WORST_FIRST = (
    Mode.DISCONNECTED,
    Mode.ERROR,
    Mode.USER_STOPPED,
    Mode.REFLEX,
    Mode.MOVING,
    Mode.IDLE,
)


class MultiArm:
    """Several robots as one :class:`zprl.robot.base.Robot`.

    Args:
        robots: Prefix (``"left."``) to robot.

    Attributes:
        ranges: Prefix to the ranges of that arm.
    """

    def __init__(self, robots: Mapping[str, Robot]) -> None:
        for prefix in robots:
            if not prefix.endswith("."):
                raise ConfigError(
                    f"'{prefix}' is no prefix of an arm",
                    remedy="several arms have prefixes that end in a point: 'left.'",
                )
        self.robots = dict(robots)
        self.name = "+".join(robot.name for robot in self.robots.values())
        self.simulated = all(robot.simulated for robot in self.robots.values())
        self.ranges = {prefix: robot.limits for prefix, robot in self.robots.items()}
        self._moved: dict[str, tuple[float, float]] = {}

    @property
    def observation_features(self) -> dict[str, type]:
        """Observation features of all arms, prefixed."""
        return {
            prefix + key: kind
            for prefix, robot in self.robots.items()
            for key, kind in robot.observation_features.items()
        }

    @property
    def action_features(self) -> dict[str, type]:
        """Action features of all arms, prefixed."""
        return {
            prefix + key: kind
            for prefix, robot in self.robots.items()
            for key, kind in robot.action_features.items()
        }

    @property
    def limits(self) -> Ranges:
        """Ranges that every arm has; see :attr:`ranges` for each."""
        smallest = {
            field.name: min(getattr(ranges, field.name) for ranges in self.ranges.values())
            for field in fields(Ranges)
        }
        return Ranges(**smallest)

    @property
    def is_connected(self) -> bool:
        """True while all arms can be commanded."""
        return all(robot.is_connected for robot in self.robots.values())

    @property
    def is_calibrated(self) -> bool:
        """True where all arms are calibrated."""
        return all(robot.is_calibrated for robot in self.robots.values())

    def calibrate(self) -> None:
        """Calibrate one after the other."""
        for robot in self.robots.values():
            robot.calibrate()

    def configure(self) -> None:
        """Configure one after the other."""
        for robot in self.robots.values():
            robot.configure()

    def connect(self, calibrate: bool = True) -> None:  # noqa: FBT001, FBT002 - LeRobot's
        """Connect all, or none."""
        with self._named() as at:
            try:
                for prefix, robot in self.robots.items():
                    at(prefix)
                    robot.connect(calibrate)
            except BaseException:
                for robot in self.robots.values():
                    with contextlib.suppress(RobotError):
                        robot.disconnect()
                raise
        self._moved = {}

    def disconnect(self) -> None:
        """Let go of all, whatever happens to one."""
        with contextlib.ExitStack() as stack:  # runs every callback, then raises the last error
            for robot in self.robots.values():
                stack.callback(robot.disconnect)

    def get_observation(self) -> Values:
        """Return the observations of all arms, prefixed."""
        with self._named() as at:
            values: Values = {}
            for prefix, robot in self.robots.items():
                at(prefix)
                values |= {prefix + key: value for key, value in robot.get_observation().items()}
            return values

    def send_action(self, action: Mapping[str, float]) -> Values:
        """Send to all arms; when one refuses, the others are stopped.

        No arm's ``send_action`` waits, so none is late.
        """
        # Everything is checked before any arm moves.
        missing = sorted(self.action_features.keys() - action.keys())
        if missing:
            raise RobotError(
                f"the action lacks {', '.join(missing)}", remedy="an action names every arm"
            )
        if not all(math.isfinite(action[key]) for key in self.action_features):
            raise RobotError("the action is not finite", remedy="filter actions before sending")

        sent: Values = {}
        with self._named() as at:
            try:
                for prefix, robot in self.robots.items():
                    at(prefix)
                    part = {key: action[prefix + key] for key in robot.action_features}
                    sent |= {prefix + key: value for key, value in robot.send_action(part).items()}
            except BaseException:
                self.stop(StopLevel.SOFT)
                raise
        return sent

    def now(self) -> float:
        """Return the host's monotonic clock [s]."""
        return time.monotonic()

    def state_stamp(self) -> float:
        """Return when the slowest arm's stamp last moved, as seen by calls of this [s]."""
        for prefix, robot in self.robots.items():
            stamp = robot.state_stamp()
            if self._moved.get(prefix, (None,))[0] != stamp:
                self._moved[prefix] = (stamp, time.monotonic())
        return min(seen for _, seen in self._moved.values())

    def stop(self, level: StopLevel) -> None:
        """Stop all, whatever happens to one."""
        with contextlib.ExitStack() as stack:
            for robot in self.robots.values():
                stack.callback(robot.stop, level)

    def recover(self) -> bool:
        """Take control of all arms again; those that do hold their pose until the last follows.

        Returns:
            True where all did.
        """
        recovered = [robot.recover() for robot in self.robots.values()]  # no arm is left out
        return all(recovered)

    def health(self) -> Health:
        """Return the worst mode and all errors, prefixed."""
        each = {prefix: robot.health() for prefix, robot in self.robots.items()}
        worst = min((health.mode for health in each.values()), key=_WORST_FIRST.index)
        errors = tuple(prefix + error for prefix, health in each.items() for error in health.errors)
        details = (f"{prefix} {health.detail}" for prefix, health in each.items() if health.detail)
        return Health(worst, errors, "; ".join(details))

    @contextlib.contextmanager
    def _named(self) -> Iterator[Callable[[str], None]]:
        """Name the arm at which a call raised a :class:`RobotError`.

        Yields:
            A function that takes the prefix of the arm that is called next.
        """
        called: list[str] = []
        try:
            yield called.append
        except RobotError as error:
            arm = called[-1].rstrip(".")
            raise RobotError(f"{arm}: {error.message}", remedy=error.remedy) from error
