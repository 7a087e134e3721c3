"""A task on a robot, as a file: arms, sensors, rates, observation, action and judgement.

Everything about arms is keyed by their prefix: ``""`` where there is one arm, else names that end
in a point (``"left."``).  :meth:`RealTask.load` judges the file alone and imports no driver, so a
supervisor may call it; :meth:`RealTask.make_robot` builds the robot, unconnected, and judges file
and limits against it.
"""

from __future__ import annotations

import types
import typing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, ValidationError, model_validator

from zprl import config, plugins, safe_names, strict_yaml
from zprl.errors import ConfigError, ZprlError
from zprl.robot.base import GRIPPER, POSE, Pose, Ranges, Robot
from zprl.robot.feature_mapping import ActionLayout, ActionSpec, ObsLayout, Terms
from zprl.robot.limits import Limits
from zprl.strict_model import StrictModel
from zprl.suggestions import did_you_mean

if TYPE_CHECKING:
    from zprl.robot.sensors.base import Sensor

BUILT_IN = Path(__file__).parent / "tasks"
SESSION_LIMITS = "limits.yaml"
"""Name of a session's own copy of the limits."""
GRIPPER_COMMAND = "gripper.command"
"""The last commanded gripper state of an arm, +1 open, -1 closed: known to the session, not to the
robot."""
UNIT_TOLERANCE = 1e-3
"""Distance from 1 that the squared length of a quaternion may have."""
TICK_TOLERANCE = 1e-9
"""Distance of tick_hz / rate_hz from a whole number: rounding."""
SIMULATED_KIND = "robot_sim"
"""Sensors whose kind begins so belong to a simulated robot, and get the folder of its sockets under
this key."""

Finite = Annotated[float, Field(allow_inf_nan=False)]
Prefix = Annotated[str, Field(pattern=r"^([A-Za-z]\w*\.)?$", max_length=40)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z]\w*$", max_length=40)]
Pixels = Annotated[int, Field(ge=1, le=8192)]


class Home(StrictModel):
    """A tool pose."""

    position: tuple[Finite, Finite, Finite] = Field(description="[m], base frame.")
    quaternion: tuple[Finite, Finite, Finite, Finite] = Field(
        (1.0, 0.0, 0.0, 0.0), description="xyzw; (1, 0, 0, 0) points down."
    )
    gripper: Literal["open", "closed", "keep"] = Field(
        "open", description="keep: as it is, for a tool that stays in the hand."
    )

    @model_validator(mode="after")
    def _unit(self) -> Home:
        if abs(sum(v * v for v in self.quaternion) - 1) > UNIT_TOLERANCE:
            raise ValueError("a quaternion has length 1")
        return self


class Arm(StrictModel):
    """One robot arm."""

    driver: str = Field(description="Registered driver (entry point `zprl.robots`).")
    config: dict[str, Any] = Field(
        default_factory=dict, description="Argument of the driver's `make(config)`."
    )
    home: Home = Field(description="Where every episode starts.")


class Image(StrictModel):
    """Part of a camera's image that the policy observes."""

    key: Name = Field(description="The policy's observation key.")
    crop: tuple[int, int, Pixels, Pixels] | None = Field(
        None, description="Top, left, height, width in the camera's frame; null: all of it."
    )
    size: tuple[Pixels, Pixels] = Field(description="Height and width after scaling.")

    @model_validator(mode="after")
    def _fits(self) -> Image:
        if self.crop and min(self.crop[:2]) < 0:
            raise ValueError("a crop starts inside the frame")
        return self


class SensorKind(StrictModel):
    """Plug-in that makes a sensor."""

    kind: str = Field(description="Registered kind (entry point `zprl.sensors`).")
    config: dict[str, Any] = Field(
        default_factory=dict, description="Argument of the kind's `make(config)`."
    )


class SensorSpec(SensorKind):
    """A camera, or a tracker of an object's pose."""

    simulated: SensorKind | None = Field(
        None, description="Takes its place where the robot is simulated; null: nothing."
    )
    image: Image | None = Field(
        None, description="For a camera; null: it gives a pose, features `<name>.x` to `<name>.qw`."
    )


class GoalPosition(StrictModel):
    """A place to come to: judges a simulated arm that has no object."""

    arm: Prefix = Field("", description="Prefix of the arm.")
    position: tuple[Finite, Finite, Finite] = Field(description="[m], that arm's base frame.")
    radius: float = Field(gt=0, le=0.2, description="[m].")


class LabelRule(StrictModel):
    """Rule by which a person judges an episode."""

    rule: str = Field(min_length=1, description="What a success is, a sentence for the operator.")
    reward: float = Field(1.0, gt=0, le=1, description="Of a success; a failure has 0.")
    time_out: Literal["ask", "failure"] = Field(
        "ask", description="When the time is up: ask the person, or call it a failure."
    )
    simulated: Literal["lifted"] | GoalPosition = Field(
        "lifted",
        description="Success for the scripted operator of a simulated robot: the simulated "
        "Franka's cube lifted, or a tool at a place.",
    )


class RealTask(StrictModel):
    """Task on a robot; the fields are the keys of a task file."""

    name: Name
    description: str = Field(min_length=1)
    arms: dict[Prefix, Arm] = Field(
        min_length=1, max_length=8, description="Arms by prefix, in order."
    )
    sensors: dict[Name, SensorSpec] = Field(
        default_factory=dict, description="Cameras and pose trackers by name."
    )
    rate_hz: float = Field(gt=0, le=1000, description="Control steps per second: one action each.")
    tick_hz: float = Field(
        100.0,
        gt=0,
        le=1000,
        description="Ticks of the driver per second; a whole multiple of rate_hz.",
    )
    episode_steps: int = Field(ge=1, description="Control steps after which the time is up.")
    obs_steps: int = Field(1, ge=1, le=16, description="Observation frames that the policy sees.")
    chunk_steps: int = Field(ge=1, description="Actions executed per decision.")
    lead_steps: int = Field(
        2,
        ge=0,
        description="Control steps before the end of a chunk at which the next is decided "
        "(async mode).",
    )
    observation: Terms = Field(description="Policy key to terms; see zprl.robot.feature_mapping.")
    action: ActionSpec
    home_tolerance: float = Field(
        0.01, gt=0, le=0.2, description="How near to its home pose an arm has to come [m]."
    )
    limits: str = Field(
        pattern=safe_names.PATTERN,
        max_length=safe_names.MAX_NAME,
        description="Limits file beside this one.",
    )
    label: LabelRule
    reset: str = Field(min_length=1, description="What the operator does between two episodes.")
    recipe: dict[str, Any] = Field(
        default_factory=dict, description="Overrides of params.yaml, by section."
    )
    hardware: bool = Field(description="Whether it has ever run on hardware.")
    untried: str = Field("", description="What was never tried.")

    _path: Path = PrivateAttr(default=Path())

    @classmethod
    def load(cls, task: str | Path) -> Self:
        """Read a task file.

        Args:
            task: A built-in name, or the path of a file (a name with a slash or a ``.yaml`` is
                one).

        Raises:
            ConfigError: nothing is there, or something in it is unknown, impossible or
                contradictory.
        """
        path = _locate(task)
        try:
            content = strict_yaml.load(path)
        except FileNotFoundError as error:
            raise ConfigError(
                f"the task file {path} does not exist", remedy="`zprl session tasks` lists ours"
            ) from error

        try:
            self = cls.model_validate(content)
        except ValidationError as error:
            raise ConfigError(
                f"{path}: {config.mistakes(error, partial(_known, cls))}",
                remedy="zprl/robot/task.py says what each key means",
            ) from error

        self._path = path
        try:
            self._check()
        except ZprlError as error:
            raise ConfigError(f"{path}: {error.message}", remedy=error.remedy) from error
        return self

    # -- content of the file -----------------------------------------------------------------------

    @property
    def path(self) -> Path:
        """Path from which it was read."""
        return self._path

    @property
    def limits_path(self) -> Path:
        """Path of the limits beside it; in a session's folder that is ``limits.yaml``."""
        named = self._path.with_name(self.limits)
        return named if named.exists() else self._path.with_name(SESSION_LIMITS)

    @property
    def prefixes(self) -> tuple[str, ...]:
        """Prefixes of all arms, in order."""
        return tuple(self.arms)

    @property
    def home(self) -> dict[str, Pose]:
        """Prefix to the pose in which episodes start."""
        import numpy as np

        return {
            p: Pose(np.array(arm.home.position), np.array(arm.home.quaternion))
            for p, arm in self.arms.items()
        }

    @property
    def images(self) -> dict[str, Image]:
        """Camera to the part of its image that the policy observes."""
        return {name: spec.image for name, spec in self.sensors.items() if spec.image}

    @property
    def sensor_features(self) -> tuple[str, ...]:
        """Features that the pose trackers give."""
        poses = [name for name, spec in self.sensors.items() if spec.image is None]
        return tuple(f"{name}.{key.removeprefix('ee.')}" for name in poses for key in POSE)

    # -- robots and sensors ------------------------------------------------------------------------

    def make_robot(self) -> Robot:
        """Make the robot, not connected: one arm's driver, or several as one.

        Raises:
            ConfigError: a driver is unknown, or file and limits do not fit the robot.
        """
        robots: dict[str, Robot] = {
            p: plugins.load("robots", arm.driver)(arm.config) for p, arm in self.arms.items()
        }
        if "" in robots:
            robot = robots[""]
        else:
            from zprl.robot.multi_arm import MultiArm

            robot = MultiArm(robots)

        self.check_robot(robot)
        return robot

    def ranges(self, robot: Robot) -> dict[str, Ranges]:
        """Return each arm's ranges by its prefix."""
        if "" in self.arms:
            return {"": robot.limits}
        # Only MultiArm, which make_robot builds for several arms, has them.
        return dict(robot.ranges)  # type: ignore[attr-defined]

    def check_robot(self, robot: Robot, limits: Limits | None = None) -> None:
        """Judge file and limits against a robot.

        Args:
            robot: Made by :meth:`make_robot`.
            limits: A session's; by default those beside the file.

        Raises:
            ConfigError: a feature that a layout reads or writes does not exist, or a limit lies
                beyond the robot's ranges.
        """
        self._check_observation(robot)

        ActionLayout(self.action, self.ranges(robot))
        needed = {p + key for p in self.arms for key in (*POSE, GRIPPER)}
        missing = sorted(needed - set(robot.action_features))
        if missing:
            raise ConfigError(
                f"{self._path}: the robot does not take {', '.join(missing)}",
                remedy="use a driver with pose targets",
            )

        limits = limits or Limits.load(self.limits_path)
        for prefix, ranges in self.ranges(robot).items():
            limits.check_against(ranges, prefix)

    def _check_observation(self, robot: Robot) -> None:
        """Refuse an observation with features that neither robot nor sensors have."""
        commands = (p + GRIPPER_COMMAND for p in self.arms)
        known = {*robot.observation_features, *self.sensor_features, *commands}
        missing = sorted(ObsLayout(self.observation).needs - known)
        if not missing:
            return

        hint = did_you_mean(missing[0], known, lead="; ")
        raise ConfigError(
            f"{self._path}: there is no source of the observation's {', '.join(missing)}{hint}",
            remedy=f"there are: {', '.join(sorted(known))}",
        )

    def make_sensors(self, simulation: Path | None = None) -> dict[str, Sensor]:
        """Make the pose trackers, not started; :meth:`make_cameras` makes the others.

        Args:
            simulation: Folder of the simulated robot's control sockets; ``None`` on hardware.
        """
        poses = [name for name, spec in self.sensors.items() if spec.image is None]
        return {name: self._sensor(name, simulation) for name in poses}

    def make_cameras(self, simulation: Path | None = None) -> dict[str, Sensor]:
        """Make the cameras, not started; for the argument see :meth:`make_sensors`."""
        return {name: self._sensor(name, simulation) for name in self.images}

    def _sensor(self, name: str, simulation: Path | None) -> Sensor:
        spec: SensorKind = self.sensors[name]
        spec = (simulation and self.sensors[name].simulated) or spec
        config = {"name": name, **spec.config}
        if simulation and spec.kind.startswith(SIMULATED_KIND):
            config[SIMULATED_KIND] = str(simulation)
        sensor: Sensor = plugins.load("sensors", spec.kind)(config)
        return sensor

    # -- judging the file --------------------------------------------------------------------------

    def _check(self) -> None:
        """Check what several keys must fulfil together."""
        self._check_rates()
        self._check_names()

        ObsLayout(self.observation)
        policy = config.parse(self.recipe, source="recipe").policy
        if "policy" in self.recipe:
            _require(
                (policy.obs_steps, policy.chunk_steps) == (self.obs_steps, self.chunk_steps),
                "the recipe's policy has other obs_steps or chunk_steps than the task",
                "make them equal",
            )

        limits = Limits.load(self.limits_path)
        _require(
            tuple(sorted(limits.arms)) == tuple(sorted(self.arms)),
            f"{self.limits_path.name} has limits for the arms {sorted(limits.arms)}, "
            f"the task has {sorted(self.arms)}",
            "name the same arms",
        )
        self.check_home(limits)

    def _check_rates(self) -> None:
        ticks = self.tick_hz / self.rate_hz
        _require(
            abs(ticks - round(ticks)) < TICK_TOLERANCE and ticks >= 1,
            f"tick_hz ({self.tick_hz}) is no multiple of rate_hz ({self.rate_hz})",
            "make it a whole multiple",
        )
        _require(
            self.chunk_steps <= self.episode_steps,
            f"chunk_steps ({self.chunk_steps}) exceed episode_steps ({self.episode_steps})",
            "make chunks shorter",
        )
        _require(
            self.lead_steps < self.chunk_steps,
            f"lead_steps ({self.lead_steps}) must be below chunk_steps ({self.chunk_steps})",
            "decide later",
        )

    def _check_names(self) -> None:
        _require(
            "" not in self.arms or len(self.arms) == 1,
            "several arms, and one has no prefix",
            "give every arm a prefix like 'left.'",
        )
        _require(
            tuple(self.action.arms) == self.prefixes,
            f"the action has the arms {list(self.action.arms)}, the task {list(self.arms)}",
            "name the same arms in the same order",
        )

        both = self.observation.keys() & {image.key for image in self.images.values()}
        _require(
            not both,
            f"{sorted(both)} is both an image and a list of features",
            "give the image another key",
        )
        reserved = {p.removesuffix(".") for p in self.arms} | {"ee", "gripper"}
        both = reserved & self.sensors.keys()
        _require(
            not both,
            f"a sensor is named as a part of the robot is: {sorted(both)}",
            "rename it",
        )

    def check_home(self, limits: Limits) -> None:
        """Refuse limits whose workspace an arm's home lies outside: no episode could start.

        Raises:
            ConfigError: it does.
        """
        for prefix, arm in self.arms.items():
            box = limits.arms[prefix].workspace
            axes = zip(box.low, arm.home.position, box.high, strict=True)
            _require(
                all(low <= v <= high for low, v, high in axes),
                f"the home position of the arm '{prefix}' lies outside its workspace",
                "move it, or widen the limits",
            )


def _require(holds: bool, message: str, remedy: str) -> None:  # noqa: FBT001 - never a literal
    if not holds:
        raise ConfigError(message, remedy=remedy)


def built_in() -> list[str]:
    """Return the names of the tasks that come with the package."""
    return sorted(
        path.stem for path in BUILT_IN.glob("*.yaml") if not path.name.endswith(".limits.yaml")
    )


def _locate(task: str | Path) -> Path:
    if isinstance(task, Path) or "/" in task or task.endswith((".yaml", ".yml")):
        return Path(task)
    if task in built_in():
        return BUILT_IN / f"{task}.yaml"
    hint = did_you_mean(task, built_in(), lead="; ")
    raise ConfigError(
        f"no task is named '{task}'{hint}",
        remedy=f"built in: {', '.join(built_in())}; or give the path of a file",
    )


def _known(kind: Any, path: tuple[int | str, ...]) -> list[str]:
    """Return the names of the fields at the level of an unknown key."""
    for part in path[:-1]:
        fields = getattr(kind, "model_fields", {})
        kind = fields[part].annotation if part in fields else kind
        if typing.get_origin(kind) in (typing.Union, types.UnionType):
            kind = next(choice for choice in typing.get_args(kind) if choice is not type(None))
        elif typing.get_origin(kind) is dict and part not in fields:
            kind = typing.get_args(kind)[1]
    return list(getattr(kind, "model_fields", {}))
