"""Two robots (or more) under prefixes as one: all of them move, or none.

The clock is the host's, because two robots have two: :meth:`MultiArm.now` is monotonic host time,
:meth:`MultiArm.state_stamp` the host time at which the slowest arm's own stamp was last seen to move,
so that one silent arm makes the pair's state old.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping

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
    """See the module.

    Args:
        robots: Prefix (``"left."``) to robot.

    Attributes:
        ranges: Prefix to what that arm can do.
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
        """Of all arms, prefixed."""
        return {
            prefix + key: kind
            for prefix, robot in self.robots.items()
            for key, kind in robot.observation_features.items()
        }

    @property
    def action_features(self) -> dict[str, type]:
        """Of all arms, prefixed."""
        return {
            prefix + key: kind
            for prefix, robot in self.robots.items()
            for key, kind in robot.action_features.items()
        }

    @property
    def limits(self) -> Ranges:
        """What every arm can do; see :attr:`ranges` for each."""
        names = Ranges.__dataclass_fields__
        return Ranges(
            **{
                name: min(getattr(ranges, name) for ranges in self.ranges.values())
                for name in names
            }
        )

    @property
    def is_connected(self) -> bool:
        """Whether all can be commanded."""
        return all(robot.is_connected for robot in self.robots.values())

    @property
    def is_calibrated(self) -> bool:
        """Whether all are."""
        return all(robot.is_calibrated for robot in self.robots.values())

    def calibrate(self) -> None:
        """One after the other."""
        for robot in self.robots.values():
            robot.calibrate()

    def configure(self) -> None:
        """One after the other."""
        for robot in self.robots.values():
            robot.configure()

    def connect(self, calibrate: bool = True) -> None:
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
        """Of all arms, prefixed."""
        with self._named() as at:
            found: Values = {}
            for prefix, robot in self.robots.items():
                at(prefix)
                found |= {prefix + key: value for key, value in robot.get_observation().items()}
            return found

    def send_action(self, action: Mapping[str, float]) -> Values:
        """Send to all; no arm's ``send_action`` waits, so none is late.  When one refuses, the others are stopped."""
        if missing := sorted(self.action_features.keys() - action.keys()):
            raise RobotError(
                f"the action lacks {', '.join(missing)}", remedy="an action names every arm"
            )
        if not all(math.isfinite(action[key]) for key in self.action_features):
            raise RobotError(
                "the action is not finite", remedy="filter actions before sending"
            )  # before anybody moves
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
        """The host's monotonic clock [s]."""
        return time.monotonic()

    def state_stamp(self) -> float:
        """When the slowest arm's stamp last moved, as far as this was called to see it [s]."""
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
        """Whether all took control again; arms that do hold their pose until the last one follows."""
        return all(
            [robot.recover() for robot in self.robots.values()]
        )  # a list: no arm is left out

    def health(self) -> Health:
        """The worst mode; all errors, prefixed."""
        found = {prefix: robot.health() for prefix, robot in self.robots.items()}
        worst = min((health.mode for health in found.values()), key=_WORST_FIRST.index)
        errors = tuple(
            prefix + error for prefix, health in found.items() for error in health.errors
        )
        return Health(
            worst,
            errors,
            "; ".join(
                f"{prefix} {health.detail}" for prefix, health in found.items() if health.detail
            ),
        )

    @contextlib.contextmanager
    def _named(self) -> Iterator[Callable[[str], None]]:
        """Errors say which arm they are about."""
        where: list[str] = []
        try:
            yield where.append
        except RobotError as error:
            raise RobotError(
                f"{where[-1].rstrip('.')}: {error.message}", remedy=error.remedy
            ) from error
