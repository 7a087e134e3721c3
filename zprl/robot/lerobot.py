"""Any robot with LeRobot's methods as one of ours, and any of ours as one of theirs.

Both by duck typing: LeRobot itself is not needed.

Their ``get_observation`` and ``send_action`` talk to a bus and may take milliseconds or hang.  A
thread of the adapter does both in turn; the rest of the program sees the newest state and leaves
the newest action.  A state's stamp is the host time just before it was read.

They have no stop (this adapter commands the pose measured
last, and gives up control), no mode and no errors but exceptions, and ``disconnect`` takes the
torque away from most of them: the arm may fall.

The robot has to take tool poses.  Arms that LeRobot drives by their joints need a class around them
that solves the kinematics (LeRobot has the processors for it); its names and units are mapped by
the config.
"""

from __future__ import annotations

import importlib
import math
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field

from zprl.errors import ConfigError, EnvironmentProblem
from zprl.robot import rotation
from zprl.robot.base import (
    QUATERNION,
    Health,
    Mode,
    Ranges,
    Robot,
    RobotError,
    StopLevel,
    Values,
)
from zprl.robot.driver_parts import ACTION, first_line, read_config
from zprl.strict_model import StrictModel

FAILURES = 3
"""Exceptions in a row after which the connection counts as lost; LeRobot's buses try again by
themselves before they raise."""
JOIN_S = 5.0
"""Longest wait for a call under way at the end [s]."""

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class RangesConfig(StrictModel):
    """Ranges of the machine; LeRobot's robots do not have them."""

    speed: Positive
    acceleration: Positive
    jerk: Positive
    gripper_width: Positive
    reach: Positive


class LeRobotConfig(StrictModel):
    """All settings of the adapter."""

    model_config = ConfigDict(populate_by_name=True)

    path: str = Field(
        alias="import",
        pattern=r"^[\w.]+:\w+$",
        description="The robot's class: `package.module:Class`.",
    )
    config: str | None = Field(
        None,
        pattern=r"^[\w.]+:\w+$",
        description="Class of its config; null: the class takes the arguments.",
    )
    kwargs: dict[str, Any] = Field(
        default_factory=dict, description="Arguments of the config, or of the class."
    )
    ranges: RangesConfig
    names: dict[str, str] = Field(
        default_factory=dict, description="Our feature to theirs, where they differ."
    )
    scale: dict[str, Positive] = Field(
        default_factory=dict, description="Our feature's unit in theirs: ours = theirs x scale."
    )
    rotvec: tuple[str, str, str] | None = Field(
        None, description="Their features of a rotation vector [rad]; null: quaternions."
    )
    rate_hz: float = Field(100.0, gt=0, le=1000, description="How often the bus is used at most.")
    simulated: bool = False


def make(config: Mapping[str, Any]) -> LeRobotRobot:
    """Import and build the robot and wrap it; entry point ``lerobot``.

    Touches no hardware, as long as their constructor does not.

    Raises:
        ConfigError: a wrong config, or nothing to import there.
    """
    settings = read_config(LeRobotConfig, config, name="lerobot")
    kind = _load(settings.path)
    if settings.config is None:
        return LeRobotRobot(kind(**settings.kwargs), settings)
    inner_config = _load(settings.config)(**settings.kwargs)
    return LeRobotRobot(kind(inner_config), settings)


class LeRobotRobot:
    """Their robot as one of ours.

    Args:
        inner: An object with LeRobot's methods.
        config: How its features are named and measured.
    """

    def __init__(self, inner: Any, config: LeRobotConfig) -> None:
        self.inner = inner
        self.config = config
        self.name = str(getattr(inner, "name", type(inner).__name__))
        self.simulated = config.simulated
        self._limits = Ranges(**config.ranges.model_dump())
        self._bus: _Bus | None = None

        missing = sorted(set(ACTION) - set(self.action_features))
        if missing:
            features = ", ".join(inner.action_features)
            raise ConfigError(
                f"{self.name} does not take {', '.join(missing)}; it has {features}",
                remedy="map its names with `names` and `rotvec`; an arm driven by its joints needs "
                "kinematics around it",
            )

    @property
    def observation_features(self) -> dict[str, type]:
        """Their numbers under our names; images are left to the cameras."""
        return self._ours(self.inner.observation_features)

    @property
    def action_features(self) -> dict[str, type]:
        """Their action's numbers under our names."""
        return self._ours(self.inner.action_features)

    @property
    def limits(self) -> Ranges:
        """Ranges that the config states."""
        return self._limits

    @property
    def is_connected(self) -> bool:
        """True while commands are taken."""
        return self._bus is not None and self._bus.in_control and not self._bus.lost

    @property
    def is_calibrated(self) -> bool:
        """True where the robot itself reports that it is calibrated."""
        return bool(self.inner.is_calibrated)

    def calibrate(self) -> None:
        """Run its own calibration; may ask a person at the terminal."""
        self.inner.calibrate()

    def configure(self) -> None:
        """Write its own settings."""
        self.inner.configure()

    def connect(self, calibrate: bool = True) -> None:  # noqa: FBT001, FBT002 - LeRobot's
        """Connect it (which configures it, too), and wait for a first state."""
        if self.is_connected:
            return
        self.disconnect()

        try:
            self.inner.connect(calibrate)
            bus = _Bus(self.inner, self._from_theirs, 1 / self.config.rate_hz)
            bus.read()
        except Exception as error:  # theirs are many, and some are bare
            self._let_go()
            raise RobotError(
                f"{self.name} does not connect: {first_line(error)}",
                remedy="check power, cable and calibration",
            ) from error

        bus.start()
        self._bus = bus

    def disconnect(self) -> None:
        """End the thread and disconnect it."""
        bus, self._bus = self._bus, None
        if bus is not None:
            bus.close()
        self._let_go()

    def get_observation(self) -> Values:
        """Return the newest state, from memory."""
        return dict(self._alive().state[1])

    def send_action(self, action: Mapping[str, float]) -> Values:
        """Leave the newest action for the bus."""
        try:
            ours = {key: float(action[key]) for key in self.action_features}
        except KeyError as error:
            raise RobotError(
                f"the action lacks {error}",
                remedy=f"an action has {', '.join(self.action_features)}",
            ) from error
        if not all(map(math.isfinite, ours.values())):
            raise RobotError("the action is not finite", remedy="filter actions before sending")

        bus = self._alive()
        if not bus.in_control:
            raise RobotError(f"{self.name} was stopped", remedy="call recover()")

        try:
            bus.action = self._to_theirs(ours)
        except ValueError as error:
            raise RobotError(
                "the action's quaternion has no direction", remedy="filter actions before sending"
            ) from error
        return ours

    def now(self) -> float:
        """Return the host's monotonic clock [s]."""
        return time.monotonic()

    def state_stamp(self) -> float:
        """Return the host time just before the newest state was read [s]."""
        return self._bus.state[0] if self._bus else 0.0

    def stop(self, level: StopLevel) -> None:
        """Stop: HOLD stays with the last action, SOFT and HARD command the pose measured last.

        They do so once, and give up control.
        """
        bus = self._bus
        if bus is None or not bus.in_control or level is StopLevel.HOLD:
            return
        bus.in_control = False
        measured = bus.state[1]
        bus.action = self._to_theirs(
            {key: measured[key] for key in self.action_features if key in measured}
        )

    def recover(self) -> bool:
        """Take control again after a stop.

        Returns:
            False where the connection is lost (then :meth:`connect`).
        """
        bus = self._bus
        if bus is None or bus.lost:
            return False
        bus.in_control = True
        return True

    def health(self) -> Health:
        """Return connected or not; LeRobot's robots report no more."""
        bus = self._bus
        if bus is None or bus.lost:
            return Health(Mode.DISCONNECTED, (), bus.failure if bus else "")
        return Health(Mode.IDLE, (), bus.failure)

    # -- names and units ---------------------------------------------------------------------------

    def _ours(self, features: Mapping[str, Any]) -> dict[str, type]:
        """Return their features under our names."""
        back = {theirs: ours for ours, theirs in self.config.names.items()}
        turn = self.config.rotvec or ()
        numbers = [name for name, kind in features.items() if kind is float and name not in turn]
        ours: dict[str, type] = {back.get(name, name): float for name in numbers}
        if turn and set(turn) <= set(features):
            ours |= dict.fromkeys(QUATERNION, float)
        return ours

    def _from_theirs(self, theirs: Mapping[str, Any]) -> Values:
        """Convert their numbers into ours."""
        config = self.config
        values: Values = {}
        for ours in self.observation_features:
            if config.rotvec and ours in QUATERNION:
                continue
            number = float(theirs[config.names.get(ours, ours)])
            values[ours] = number * config.scale.get(ours, 1.0)

        if config.rotvec:
            turn = rotation.from_rotvec([float(theirs[name]) for name in config.rotvec])
            values |= zip(QUATERNION, rotation.steady(turn), strict=True)
        return values

    def _to_theirs(self, ours: Mapping[str, float]) -> Values:
        """Convert our numbers into theirs."""
        config = self.config
        values = {
            config.names.get(key, key): value / config.scale.get(key, 1.0)
            for key, value in ours.items()
        }
        if config.rotvec:
            quaternion = rotation.unit([values.pop(key) for key in QUATERNION])
            turn = rotation.to_rotvec(rotation.shorter(quaternion))
            values |= zip(config.rotvec, turn, strict=True)
        return values

    def _alive(self) -> _Bus:
        if self._bus is None or self._bus.lost:
            reason = f": {self._bus.failure}" if self._bus else ""
            raise RobotError(f"{self.name} is not connected{reason}", remedy="call connect()")
        return self._bus

    def _let_go(self) -> None:
        try:
            if self.inner.is_connected:
                self.inner.disconnect()
        except Exception as error:
            raise RobotError(
                f"{self.name} does not disconnect: {first_line(error)}",
                remedy="switch its power off",
            ) from error


class _Bus(threading.Thread):
    """Thread that writes the newest action and reads the newest state, in turn."""

    def __init__(
        self, inner: Any, convert: Callable[[Mapping[str, Any]], Values], period: float
    ) -> None:
        super().__init__(name="lerobot-bus", daemon=True)
        self._inner = inner
        self._convert = convert
        self._period = period
        self._closed = threading.Event()
        self.action: Values | None = None
        self.state: tuple[float, Values] = (0.0, {})
        self.in_control = True
        self.lost = False
        self.failure = ""

    def read(self) -> None:
        """Read one state."""
        stamp = time.monotonic()
        self.state = (stamp, self._convert(self._inner.get_observation()))

    def close(self) -> None:
        """End the thread; a call under way is waited for."""
        self._closed.set()
        if self.is_alive():
            self.join(JOIN_S)

    def run(self) -> None:
        """Use the bus until closed, or until too many failures in a row."""
        failures = 0
        while not self._closed.wait(self._period):
            try:
                action = self.action
                if action is not None:
                    self._inner.send_action(action)
                    if self.action is action:
                        self.action = None
                self.read()
                failures = 0
                self.failure = ""
            except Exception as error:  # noqa: BLE001 - theirs are many, and some are bare
                failures += 1
                self.failure = first_line(error)
                if failures >= FAILURES:
                    self.in_control = False
                    self.lost = True
                    return


class LeRobotView:
    """One of our robots with the names that LeRobot's scripts use, and no more.

    Args:
        robot: Ours.
        identity: LeRobot's ``id``.
    """

    def __init__(self, robot: Robot, identity: str = "zprl") -> None:
        self._robot = robot
        self.name = self.robot_type = robot.name
        self.id = identity
        self.cameras: dict[str, Any] = {}
        self.observation_features = dict(robot.observation_features)
        self.action_features = dict(robot.action_features)

    def __str__(self) -> str:
        return f"{self.id} {self.name}"

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.disconnect()

    @property
    def is_connected(self) -> bool:
        """True while commands are taken."""
        return self._robot.is_connected

    @property
    def is_calibrated(self) -> bool:
        """True where poses are exact."""
        return self._robot.is_calibrated

    def connect(self, calibrate: bool = True) -> None:  # noqa: FBT001, FBT002 - LeRobot's
        """Connect and take control."""
        self._robot.connect(calibrate)

    def disconnect(self) -> None:
        """Come to rest and disconnect."""
        self._robot.disconnect()

    def calibrate(self) -> None:
        """Calibrate where the robot needs that."""
        self._robot.calibrate()

    def configure(self) -> None:
        """Write the settings of the config."""
        self._robot.configure()

    def get_observation(self) -> dict[str, Any]:
        """Return the newest state."""
        return dict(self._robot.get_observation())

    def send_action(self, action: Mapping[str, Any]) -> dict[str, Any]:
        """Send, and return what was sent; numbers may be anything that ``float`` takes."""
        return dict(self._robot.send_action({key: float(value) for key, value in action.items()}))


def to_lerobot(robot: Robot) -> LeRobotView:
    """Wrap one of ours for LeRobot's scripts; nothing of ours filters or watches what they send."""
    return LeRobotView(robot)


def _load(path: str) -> Any:
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise EnvironmentProblem(
            f"'{path}' cannot be imported: no module '{error.name}'",
            remedy="install the package that has it",
        ) from error
    except AttributeError as error:
        raise ConfigError(
            f"'{module}' has no '{name}'", remedy="write package.module:Class"
        ) from error
