"""One versioned file of limits, whose digest is stored with every episode.

Software limits are not a safety-rated function: the robot's own limits and the hardware stop in a
person's hand stay in force.

Limits may be tightened at run time and never loosened.  What is tighter is declared once per field
(:class:`Tighter`) and compared in one place (:meth:`Limits.tightened`).
"""

from __future__ import annotations

import enum
import hashlib
import json
import math
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, ValidationError, model_validator

from zprl import strict_yaml
from zprl.errors import ConfigError
from zprl.robot.base import Ranges
from zprl.strict_model import StrictModel


class Tighter(enum.Enum):
    """Change of a field that makes the limits tighter.

    A field without one is a section of such fields.
    """

    LOWER = "lower"
    HIGHER = "higher"
    MORE = "more entries; none may change or go"
    SET = "set where it was not; fixed once it is"
    FIXED = "none"


LOWER = Tighter.LOWER
HIGHER = Tighter.HIGHER
MORE = Tighter.MORE
SET = Tighter.SET
FIXED = Tighter.FIXED

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Vector = tuple[Finite, Finite, Finite]
Watched = Literal["policy", "operator", "camera"]
"""Processes that can be watched for silence; another name would watch nobody."""

# A limit beyond these bounds is none: a misprint, or a way to switch a watch off without saying so.
MOST_SPEED, MOST_ACCELERATION, MOST_JERK = 20.0, 500.0, 1e5
"""Per second, of metres or radians; several times what the fastest arms do.  Each robot's own
ranges bound it further."""
MOST_STEP, MOST_CLIP = 1.0, 0.3
"""[m]; with a stiffness of 800 N/m the clip's is a push of 240 N."""
MOST_LOAD = 1000.0
"""[N] and [Nm]; a person is hurt long before."""
MOST_AGE_S, MOST_SILENCE_S = 5.0, 60.0
"""Age of a state, reading or command, and silence of somebody; beyond a minute nobody stands beside
the stop."""
MOST_RECOVERIES, RECOVERY_S = 100, 5.0
"""Automatic recoveries in a window, and seconds of window for each: a robot that needs more of them
needs a person."""
UNIT_TOLERANCE = 1e-6
"""Distance from 1 that the length of a unit vector may have."""
RANGE_TOLERANCE = 1e-9
"""Share by which a limit may exceed the machine's range: rounding."""


class BoxLimits(StrictModel):
    """An upright box in the base frame."""

    low: Annotated[Vector, HIGHER] = Field(description="Corner with the smallest coordinates [m].")
    high: Annotated[Vector, LOWER] = Field(description="Corner with the largest coordinates [m].")

    @model_validator(mode="after")
    def _upright(self) -> BoxLimits:
        if not all(low < high for low, high in zip(self.low, self.high, strict=True)):
            raise ValueError("a box needs low < high along every axis")
        return self


class Plane(StrictModel):
    """A half-space the tool centre point must stay in: ``normal . p >= offset``."""

    normal: Annotated[Vector, FIXED] = Field(description="Unit vector towards the allowed side.")
    offset: Annotated[Finite, HIGHER] = Field(
        description="Distance of the plane from the base's origin along the normal [m]."
    )

    @model_validator(mode="after")
    def _unit(self) -> Plane:
        if abs(math.hypot(*self.normal) - 1) > UNIT_TOLERANCE:
            raise ValueError("a plane's normal has length 1")
        return self


class Cone(StrictModel):
    """Cone of directions in which the tool's z axis may point."""

    axis: Annotated[Vector, FIXED] = Field(
        description="Unit vector in the base frame; (0, 0, -1) is straight down."
    )
    angle: Annotated[Positive, LOWER] = Field(
        le=math.pi, description="Largest angle between the tool's z axis and it [rad]."
    )

    @model_validator(mode="after")
    def _unit(self) -> Cone:
        if abs(math.hypot(*self.axis) - 1) > UNIT_TOLERANCE:
            raise ValueError("a cone's axis has length 1")
        return self


class Motion(StrictModel):
    """Bounds of the jerk-limited filter, on lengths; each axis gets its share of 1/sqrt(3).

    A lower acceleration or jerk is gentler, and stops later.
    """

    speed: Annotated[Positive, LOWER] = Field(le=MOST_SPEED, description="[m/s] or [rad/s].")
    acceleration: Annotated[Positive, LOWER] = Field(
        le=MOST_ACCELERATION, description="[m/s^2] or [rad/s^2]."
    )
    jerk: Annotated[Positive, LOWER] = Field(le=MOST_JERK, description="[m/s^3] or [rad/s^3].")


class Width(StrictModel):
    """Openings that may be sent to the gripper."""

    low: Annotated[Finite, HIGHER] = Field(0.0, ge=0, description="Narrowest opening [m].")
    high: Annotated[Finite, LOWER] = Field(description="Widest opening [m].")

    @model_validator(mode="after")
    def _ordered(self) -> Width:
        if not self.low < self.high:
            raise ValueError("a gripper needs low < high")
        return self


class ArmLimits(StrictModel):
    """Limits of one arm."""

    workspace: BoxLimits = Field(description="Where the tool centre point may be sent.")
    keep_out: Annotated[tuple[BoxLimits, ...], MORE] = Field(
        (), max_length=32, description="Boxes it may not be sent into."
    )
    planes: Annotated[tuple[Plane, ...], MORE] = Field(
        (), max_length=32, description="Half-spaces it must stay in."
    )
    cone: Annotated[Cone | None, SET] = Field(
        None, description="Where the tool may point; null: anywhere."
    )
    max_step: Annotated[Positive, LOWER] = Field(
        le=MOST_STEP, description="Largest change of the target position per action [m]."
    )
    max_rotation_step: Annotated[Positive, LOWER] = Field(
        le=math.pi, description="Largest change of the target orientation per action [rad]."
    )
    translation: Motion
    rotation: Motion
    tracking_clip: Annotated[Positive, LOWER] = Field(
        le=MOST_CLIP,
        description="Largest distance of what is sent from what is measured [m]; with a stiffness "
        "K the arm pushes with K times it at most.",
    )
    tracking_clip_rotation: Annotated[Positive, LOWER] = Field(
        le=3.0, description="The same for the orientation [rad], and for torque."
    )
    force: Annotated[Positive | None, LOWER] = Field(
        None,
        le=MOST_LOAD,
        description="External force at which the arm stops [N]; null: not watched.",
    )
    torque: Annotated[Positive | None, LOWER] = Field(
        None,
        le=MOST_LOAD,
        description="External torque at which the arm stops [Nm]; null: not watched.",
    )
    debounce_ticks: Annotated[int, LOWER] = Field(
        3, ge=1, le=100, description="States in a row over a threshold before the arm stops."
    )
    measured_speed: Annotated[Positive, LOWER] = Field(
        le=MOST_SPEED, description="Measured speed of the tool at which the arm stops [m/s]."
    )
    gripper: Width


class Recoveries(StrictModel):
    """Number of recoveries without asking a person, in a window of time."""

    count: Annotated[int, LOWER] = Field(
        3, ge=0, le=MOST_RECOVERIES, description="At most so many ..."
    )
    window_s: Annotated[Positive, HIGHER] = Field(600.0, description="... within so many seconds.")

    @model_validator(mode="after")
    def _rare(self) -> Recoveries:
        if self.window_s < RECOVERY_S * self.count:
            raise ValueError(
                f"{self.count} recoveries want a window of at least {RECOVERY_S * self.count:g} s"
            )
        return self


class Limits(StrictModel):
    """Everything that bounds a session."""

    format_version: Annotated[Literal[1], FIXED] = 1
    arms: dict[str, ArmLimits] = Field(
        min_length=1, description='Arm prefix ("" for a single arm) to its limits.'
    )
    state_age_s: Annotated[Positive, LOWER] = Field(
        0.05, le=MOST_AGE_S, description="Host seconds for which the robot's stamp may stand still."
    )
    sensor_age_s: Annotated[Positive, LOWER] = Field(
        0.15, le=MOST_AGE_S, description="Age at which a camera or tracker reading is refused."
    )
    command_age_s: Annotated[Positive, LOWER] = Field(
        0.5,
        le=MOST_AGE_S,
        description="The arm holds while the next chunk is late, and stops after this long.",
    )
    heartbeat_s: dict[Watched, Annotated[Positive, LOWER, Field(le=MOST_SILENCE_S)]] = Field(
        {"operator": 5.0},
        description="Silence after which the arm stops, by who is silent: policy, operator, "
        "camera; the operator is always watched.",
    )
    recoveries: Recoveries = Recoveries()
    altered_chunk_fraction: Annotated[Finite, LOWER] = Field(
        0.25,
        ge=0,
        le=1,
        description="A chunk is flagged when more than this share of its steps was changed.",
    )

    @model_validator(mode="after")
    def _watched(self) -> Limits:
        if "operator" not in self.heartbeat_s:
            raise ValueError(
                "heartbeat_s names no operator: the person who can stop the arm is always watched"
            )
        return self

    @classmethod
    def load(cls, path: Path | str) -> Limits:
        """Read a YAML file.

        Raises:
            ConfigError: no such file, or something in it is unknown or impossible.
        """
        try:
            content = strict_yaml.load(path)
        except FileNotFoundError as error:
            raise ConfigError(
                f"the limits file {path} does not exist",
                remedy="give a YAML file, e.g. a task's own",
            ) from error
        return cls._read(content, str(path))

    @classmethod
    def _read(cls, content: Any, place: str) -> Limits:
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            key = _dotted(*first["loc"]) or "the whole"
            raise ConfigError(
                f"{place}: {key}: {first['msg']}",
                remedy="see zprl/robot/limits.py for what each limit means",
            ) from error

    def digest(self) -> str:
        """Return the SHA-256 of the limits as canonical JSON."""
        text = json.dumps(
            self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False
        )
        return hashlib.sha256(text.encode()).hexdigest()

    def tightened(self, changes: Mapping[str, Any]) -> Limits:
        """Return these limits with some of them changed.

        Args:
            changes: Nested as the file is, only what changes; a list replaces the whole list.

        Raises:
            ConfigError: something is unknown or would be loosened; the limits stay as they were.
        """
        new = self._read(_merged(self.model_dump(), changes), "changed limits")
        loosened = next(_loosened(self, new), None)
        if loosened:
            raise ConfigError(
                f"{loosened} would be loosened",
                remedy="limits are only tightened at run time; edit the file and start anew",
            )
        return new

    def check_against(self, ranges: Ranges, prefix: str = "") -> None:
        """Compare one arm's limits with the ranges of the machine.

        Raises:
            ConfigError: a limit lies beyond it.
        """
        if prefix not in self.arms:
            raise ConfigError(
                f"there are no limits for the arm '{prefix}'",
                remedy=f"the file has limits for {sorted(self.arms)}",
            )

        arm = self.arms[prefix]
        box = arm.workspace
        corner = (max(abs(low), abs(high)) for low, high in zip(box.low, box.high, strict=True))
        compared = (
            ("translation.speed", arm.translation.speed, ranges.speed),
            ("translation.acceleration", arm.translation.acceleration, ranges.acceleration),
            ("translation.jerk", arm.translation.jerk, ranges.jerk),
            ("measured_speed", arm.measured_speed, ranges.speed),
            ("gripper.high", arm.gripper.high, ranges.gripper_width),
            ("workspace (its farthest corner)", math.hypot(*corner), ranges.reach),
        )
        for name, limit, most in compared:
            if limit > most * (1 + RANGE_TOLERANCE):
                raise ConfigError(
                    f"limit {prefix}{name} is {limit:.4g}, but the robot can do {most:.4g} at most",
                    remedy="lower it in the limits file",
                )


def _merged(old: Any, changes: Any) -> Any:
    if isinstance(old, Mapping) and isinstance(changes, Mapping):
        return {**old, **{key: _merged(old.get(key), value) for key, value in changes.items()}}
    return changes


def _dotted(*parts: int | str) -> str:
    """Join the parts of a limit's name; an arm's prefix ends with a dot, or is empty."""
    return ".".join(text for part in parts if (text := str(part).rstrip(".")))


def _loosened(old: Any, new: Any, name: str = "", rule: Tighter | None = None) -> Iterator[str]:
    """Yield the names of what is looser in ``new``."""
    if isinstance(old, StrictModel) and isinstance(new, StrictModel) and rule in (None, SET):
        for key, field in type(old).model_fields.items():
            rules = [m for m in field.metadata if isinstance(m, Tighter)]
            below = rules[0] if rules else LOWER if key == "heartbeat_s" else None
            place = _dotted(name, key)
            yield from _loosened(getattr(old, key), getattr(new, key), place, below)

    # Arms are a closed set; a process that is watched stays watched.
    elif isinstance(old, dict):
        for key in old.keys() - new.keys():
            yield _dotted(name, key)
        if rule is None and new.keys() - old.keys():
            yield f"{name} (another arm)"
        for key in old.keys() & new.keys():
            yield from _loosened(old[key], new[key], _dotted(name, key), rule)

    elif rule is MORE:
        if any(entry not in new for entry in old):
            yield name

    # A limit may be set where there was none, and never taken away.
    elif rule in (LOWER, HIGHER, SET) and old is None:
        return
    elif new is None or rule in (FIXED, SET, None):
        if old != new:
            yield name
    else:
        sign = 1 if rule is LOWER else -1
        if np.any(sign * np.asarray(new) > sign * np.asarray(old)):
            yield name


class RecoveryBudget:
    """Count of automatic recoveries in a sliding window.

    Args:
        recoveries: Largest number, and length of the window.
    """

    def __init__(self, recoveries: Recoveries) -> None:
        self.recoveries = recoveries
        self._times: deque[float] = deque()

    def may_recover(self, now: float) -> bool:
        """Return True where one more is allowed at ``now`` [s]."""
        while self._times and now - self._times[0] >= self.recoveries.window_s:
            self._times.popleft()
        return len(self._times) < self.recoveries.count

    def spend(self, now: float) -> None:
        """Count a recovery at ``now`` [s]."""
        self._times.append(now)
