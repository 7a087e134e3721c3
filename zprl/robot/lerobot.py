"""Any robot with LeRobot's methods as one of ours, and any of ours as one of theirs; by duck typing, LeRobot itself is not needed.

Their ``get_observation`` and ``send_action`` talk to a bus and may take milliseconds or hang.  A
thread of the adapter does both in turn; the rest of the program sees the newest state and leaves
the newest action.  A state's stamp is the host time just before it was read.

What they cannot do is said here once: they have no stop (this adapter commands the pose measured
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

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from zprl.errors import ConfigError, EnvironmentProblem
from zprl.robot import rotation
from zprl.robot.base import (
    GRIPPER,
    POSE,
    QUATERNION,
    Health,
    Mode,
    Ranges,
    Robot,
    RobotError,
    StopLevel,
    Values,
)

_ACTION = (*POSE, GRIPPER)
FAILURES = 3
"""Exceptions in a row after which the connection counts as lost; LeRobot's buses try again by
themselves before they raise."""
JOIN_S = 5.0

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class RangesConfig(BaseModel):
    """What the machine can do; LeRobot's robots do not say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    speed: Positive
    acceleration: Positive
    jerk: Positive
    gripper_width: Positive
    reach: Positive


class LeRobotConfig(BaseModel):
    """Everything the adapter is told."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

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
    """Import and build the robot and wrap it; entry point ``lerobot``.  Touches no hardware, as long as their constructor does not.

    Raises:
        ConfigError: a wrong config, or nothing to import there.
    """
    try:
        settings = LeRobotConfig.model_validate(dict(config))
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(
            f"robot config '{'.'.join(map(str, first['loc']))}': {first['msg']}",
            remedy="see zprl.robot.lerobot.LeRobotConfig",
        ) from error
    kind = _load(settings.path)
    inner = (
        kind(_load(settings.config)(**settings.kwargs))
        if settings.config
        else kind(**settings.kwargs)
    )
    return LeRobotRobot(inner, settings)


class LeRobotRobot:
    """Their robot as one of ours.

    Args:
        inner: An object with LeRobot's methods.
        config: How its features are named and measured.
    """

    def __init__(self, inner: Any, config: LeRobotConfig) -> None:
        self.inner, self.config = inner, config
        self.name = str(getattr(inner, "name", type(inner).__name__))
        self.simulated = config.simulated
        self._limits = Ranges(**config.ranges.model_dump())
        self._bus: _Bus | None = None
        if missing := sorted(set(_ACTION) - set(self.action_features)):
            raise ConfigError(
                f"{self.name} does not take {', '.join(missing)}; it has {', '.join(inner.action_features)}",
                remedy="map its names with `names` and `rotvec`; an arm driven by its joints needs kinematics around it",
            )

    @property
    def observation_features(self) -> dict[str, type]:
        """Their numbers under our names; what is no number (images) is left to the cameras."""
        return self._ours(self.inner.observation_features)

    @property
    def action_features(self) -> dict[str, type]:
        """Their action's numbers under our names."""
        return self._ours(self.inner.action_features)

    @property
    def limits(self) -> Ranges:
        """As the config says."""
        return self._limits

    @property
    def is_connected(self) -> bool:
        """Whether commands are taken."""
        return self._bus is not None and self._bus.in_control and not self._bus.lost

    @property
    def is_calibrated(self) -> bool:
        """What it says."""
        return bool(self.inner.is_calibrated)

    def calibrate(self) -> None:
        """Its own calibration; may ask a person at the terminal."""
        self.inner.calibrate()

    def configure(self) -> None:
        """Its own settings."""
        self.inner.configure()

    def connect(self, calibrate: bool = True) -> None:
        """Connect it (which configures it, too), and wait for a first state."""
        if self.is_connected:
            return
        self.disconnect()
        try:
            self.inner.connect(calibrate)
            bus = _Bus(self.inner, self._from_theirs, 1 / self.config.rate_hz)
            bus.read()
        except Exception as error:
            self._let_go()
            raise RobotError(
                f"{self.name} does not connect: {_text(error)}",
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
        """The newest state, from memory."""
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
        """The host's monotonic clock [s]."""
        return time.monotonic()

    def state_stamp(self) -> float:
        """Host time just before the newest state was read [s]."""
        return self._bus.state[0] if self._bus else 0.0

    def stop(self, level: StopLevel) -> None:
        """HOLD stays with the last action; SOFT and HARD command the pose measured last, once, and give up control."""
        bus = self._bus
        if bus is None or not bus.in_control or level is StopLevel.HOLD:
            return
        bus.in_control = False
        measured = bus.state[1]
        bus.action = self._to_theirs(
            {key: measured[key] for key in self.action_features if key in measured}
        )

    def recover(self) -> bool:
        """Take control again after a stop; False when the connection is lost (then :meth:`connect`)."""
        bus = self._bus
        if bus is None or bus.lost:
            return False
        bus.in_control = True
        return True

    def health(self) -> Health:
        """Connected or not; LeRobot's robots do not say more."""
        bus = self._bus
        if bus is None or bus.lost:
            return Health(Mode.DISCONNECTED, (), bus.said if bus else "")
        return Health(Mode.IDLE, (), bus.said)

    # -- names and units ---------------------------------------------------------------------------

    def _ours(self, features: Mapping[str, Any]) -> dict[str, type]:
        """Their features under our names."""
        back = {theirs: ours for ours, theirs in self.config.names.items()}
        turn = self.config.rotvec or ()
        found = dict.fromkeys(
            (
                back.get(name, name)
                for name, kind in features.items()
                if kind is float and name not in turn
            ),
            float,
        )
        if turn and set(turn) <= set(features):
            found |= dict.fromkeys(QUATERNION, float)
        return found

    def _from_theirs(self, found: Mapping[str, Any]) -> Values:
        """Their numbers as ours."""
        values: Values = {}
        for ours in self.observation_features:
            if self.config.rotvec and ours in QUATERNION:
                continue
            values[ours] = float(found[self.config.names.get(ours, ours)]) * self.config.scale.get(
                ours, 1.0
            )
        if self.config.rotvec:
            turn = rotation.from_rotvec([float(found[name]) for name in self.config.rotvec])
            values |= zip(QUATERNION, rotation.steady(turn), strict=True)
        return values

    def _to_theirs(self, ours: Mapping[str, float]) -> Values:
        """Our numbers as theirs."""
        values = {
            self.config.names.get(key, key): value / self.config.scale.get(key, 1.0)
            for key, value in ours.items()
        }
        if self.config.rotvec:
            turn = rotation.to_rotvec(
                rotation.shorter(rotation.unit([values.pop(key) for key in QUATERNION]))
            )
            values |= zip(self.config.rotvec, turn, strict=True)
        return values

    def _alive(self) -> _Bus:
        if self._bus is None or self._bus.lost:
            said = f": {self._bus.said}" if self._bus else ""
            raise RobotError(f"{self.name} is not connected{said}", remedy="call connect()")
        return self._bus

    def _let_go(self) -> None:
        try:
            if self.inner.is_connected:
                self.inner.disconnect()
        except Exception as error:
            raise RobotError(
                f"{self.name} does not disconnect: {_text(error)}", remedy="switch its power off"
            ) from error


class _Bus(threading.Thread):
    """Writes the newest action and reads the newest state, in turn."""

    def __init__(
        self, inner: Any, convert: Callable[[Mapping[str, Any]], Values], period: float
    ) -> None:
        super().__init__(name="lerobot-bus", daemon=True)
        self._inner, self._convert, self._period = inner, convert, period
        self._closed = threading.Event()
        self.action: Values | None = None
        self.state: tuple[float, Values] = (0.0, {})
        self.in_control, self.lost, self.said = True, False, ""

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
        """Until closed, or too many failures in a row."""
        failures = 0
        while not self._closed.wait(self._period):
            try:
                if (action := self.action) is not None:
                    self._inner.send_action(action)
                    if self.action is action:
                        self.action = None
                self.read()
                failures, self.said = 0, ""
            except Exception as error:  # theirs are many, and some are bare
                failures += 1
                self.said = _text(error)
                if failures >= FAILURES:
                    self.in_control, self.lost = False, True
                    return


class LeRobotView:
    """One of our robots with the names that LeRobot's scripts use, and no more.

    Args:
        robot: Ours.
        identity: What LeRobot calls ``id``.
    """

    def __init__(self, robot: Robot, identity: str = "zprl") -> None:
        self._robot = robot
        self.name = self.robot_type = robot.name
        self.id = identity
        self.cameras: dict[str, Any] = {}
        self.observation_features, self.action_features = (
            dict(robot.observation_features),
            dict(robot.action_features),
        )

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
        """Whether commands are taken."""
        return self._robot.is_connected

    @property
    def is_calibrated(self) -> bool:
        """Whether poses mean what they say."""
        return self._robot.is_calibrated

    def connect(self, calibrate: bool = True) -> None:
        """Connect."""
        self._robot.connect(calibrate)

    def disconnect(self) -> None:
        """Disconnect."""
        self._robot.disconnect()

    def calibrate(self) -> None:
        """Calibrate."""
        self._robot.calibrate()

    def configure(self) -> None:
        """Write settings."""
        self._robot.configure()

    def get_observation(self) -> dict[str, Any]:
        """The newest state."""
        return dict(self._robot.get_observation())

    def send_action(self, action: Mapping[str, Any]) -> dict[str, Any]:
        """Send, and return what was sent; numbers may be anything that ``float`` takes."""
        return dict(self._robot.send_action({key: float(value) for key, value in action.items()}))


def to_lerobot(robot: Robot) -> LeRobotView:
    """One of ours for LeRobot's scripts; nothing of ours filters or watches what they send."""
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


def _text(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
