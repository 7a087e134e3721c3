"""Layouts: features of robots and sensors to observations, and actions to features for a robot.

An observation layout names each policy key's terms::

    robot0_eef_pos: [ee.x, ee.y, ee.z]
    robot0_gripper_qpos: [gripper.pos/2, gripper.pos/2]
    object: [object.x, object.y, object.z, object.quat, object.x-ee.x]

A term is ``name``, ``name*number``, ``name/number`` or ``name-name``; or a rotation of a pose,
which makes several numbers: ``ee.quat`` (4, xyzw), ``ee.rotvec`` (3) and ``ee.rot6d`` (6).

An action layout says per arm how pose and gripper are written in the policy's action, arm after
arm:

=================== =====  ==================================================================
kind                width  meaning
=================== =====  ==================================================================
``absolute_6d``         9  position 3 [m], 6-D rotation; with a gripper these are zprl's own
                           ten numbers
``absolute_quat``       7  position 3 [m], quaternion xyzw
``absolute_rotvec``     6  position 3 [m], rotation vector 3 [rad]
``relative_rotvec``     6  step of the position [m] and its rotation vector [rad], both in the
                           base frame, from the previous *target*
=================== =====  ==================================================================

then one number for the gripper where the arm's is steered (+1 open, -1 closed), and at the very end
one for ``done`` where the policy itself reports that it has finished.

A quaternion and its negative are one rotation; both layouts write the one that
:func:`zprl.robot.rotation.steady` chooses.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Literal, NoReturn

import numpy as np
from pydantic import Field, model_validator

from zprl.errors import ConfigError, DataError
from zprl.robot import rotation
from zprl.robot.base import GRIPPER, POSE, QUATERNION, Ranges, Values
from zprl.strict_model import StrictModel

_NAME = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+"
_NUMBER = r"-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_TERM = re.compile(rf"({_NAME})(?:\s*([*/])\s*({_NUMBER})|\s*(-)\s*({_NAME}))?")
_ROTATIONS: dict[str, tuple[int, Callable[[Sequence[float]], rotation.Floats]]] = {
    "quat": (4, rotation.steady),
    "rotvec": (3, lambda q: rotation.to_rotvec(rotation.steady(q))),
    "rot6d": (6, rotation.to_6d),
}
DONE_THRESHOLD = 0.5
"""Value of the flag above which the policy has finished."""
HALF_OPEN = 0.5
"""Share of the widest opening above which a gripper counts as open."""
REACHES = 3.0
"""A position so many reaches from an arm's base, or a step of that length, is no target: two places
of one arm are two reaches apart."""
MAX_NUMBER = 100.0
"""The largest of an action's other numbers: those of rotations, grippers and flags are near one."""


class _Term:
    """One parsed term.

    Attributes:
        needs: Features that it reads.
        width: Number of values that it makes.
        function: Makes them from the features.
    """

    width = 1
    needs: tuple[str, ...]
    function: Callable[..., Sequence[float]]

    def __init__(self, text: str) -> None:
        match = _TERM.fullmatch(text.strip())
        if match is None:
            raise ConfigError(
                f"'{text}' is not a term of an observation",
                remedy="write name, name*number, name/number or name-name, "
                "e.g. ee.x, gripper.pos/2, object.x-ee.x",
            )

        name, sign, number, minus, other = match.groups()
        if name.rpartition(".")[2] in _ROTATIONS:
            if sign or minus:
                raise ConfigError(
                    f"'{text}': a rotation cannot be calculated with", remedy=f"write {name} alone"
                )
            self._rotation(name)
        elif minus:
            self.needs = (name, other)
            self.function = lambda a, b: (a - b,)
        else:
            factor = float(number) if number else 1.0
            if not math.isfinite(factor) or (sign == "/" and factor == 0.0):
                raise ConfigError(
                    f"'{text}': {number} is no factor",
                    remedy="use a finite number, and none of 0 below the stroke",
                )
            self.needs = (name,)
            self.function = (lambda a: (a / factor,)) if sign == "/" else (lambda a: (a * factor,))

    def _rotation(self, name: str) -> None:
        base, _, kind = name.rpartition(".")
        self.width, function = _ROTATIONS[kind]
        self.needs = tuple(f"{base}.{key.removeprefix('ee.')}" for key in QUATERNION)
        self.function = lambda *q: function(q)


class ObsLayout:
    """Layout of the policy's observation, made from features.

    Args:
        spec: Policy key to its terms, in order.

    Attributes:
        widths: Policy key to the number of its values.
        needs: Names of the features it reads.

    Raises:
        ConfigError: something is not a term.
    """

    def __init__(self, spec: Mapping[str, Sequence[str]]) -> None:
        self._terms = {key: [_Term(text) for text in texts] for key, texts in spec.items()}
        empty = [key for key, terms in self._terms.items() if not terms]
        if empty:
            raise ConfigError(
                f"the observation {empty[0]} has no terms",
                remedy="list at least one feature, or leave the key out",
            )

        self.widths = {key: sum(term.width for term in terms) for key, terms in self._terms.items()}
        self.needs = frozenset(
            name for terms in self._terms.values() for term in terms for name in term.needs
        )

    def read(self, features: Mapping[str, float]) -> dict[str, np.ndarray]:
        """Return the observation: policy key to (d,) float32.

        Raises:
            DataError: a feature is missing or not finite; all such features are named.
        """
        observation = {}
        try:
            for key, terms in self._terms.items():
                values = [
                    v
                    for term in terms
                    for v in term.function(*[features[name] for name in term.needs])
                ]
                if not math.isfinite(sum(values)):
                    self._refuse(features)
                observation[key] = np.array(values, np.float32)
        except KeyError:
            self._refuse(features)
        return observation

    def _refuse(self, features: Mapping[str, float]) -> NoReturn:
        missing = sorted(self.needs - features.keys())
        present = self.needs & features.keys()
        broken = sorted(name for name in present if not math.isfinite(features[name]))

        reasons = [f"missing: {', '.join(missing)}"] if missing else []
        reasons += [f"not finite: {', '.join(broken)}"] if broken else []
        raise DataError(
            f"the observation cannot be read; {'; '.join(reasons) or 'its values overflow'}",
            remedy="check the task's observation against `observation_features` of the robot and "
            "its sensors",
        )


class ArmAction(StrictModel):
    """Part of the action that steers one arm."""

    kind: Literal["absolute_6d", "absolute_quat", "absolute_rotvec", "relative_rotvec"] = Field(
        description="See the module."
    )
    gripper: Literal["binary", "linear", "none"] = Field(
        "binary",
        description="binary: open from 0 on, closed below; linear: the opening in between; "
        "none: not in the action, it stays as it is.",
    )

    @property
    def pose_width(self) -> int:
        """Number of values of the pose."""
        return {"absolute_6d": 9, "absolute_quat": 7}.get(self.kind, 6)

    @property
    def width(self) -> int:
        """Number of values in the action."""
        return self.pose_width + (self.gripper != "none")


class Smoothing(StrictModel):
    """Weighted mean of the last targets, SLERP for rotations (official code: 3 targets, 0.7)."""

    targets: int = Field(3, ge=2, le=20, description="How many, the newest included.")
    decay: float = Field(0.7, gt=0, le=1, description="The target of k steps ago weighs decay^k.")


class ActionSpec(StrictModel):
    """Parts of the policy's action."""

    arms: dict[str, ArmAction] = Field(
        min_length=1,
        description='Arm prefix ("" for a single arm, else like "left.") to its part, in order.',
    )
    done: bool = Field(
        False, description="The last number reports that the policy has finished (above 0.5)."
    )
    smoothing: Smoothing | None = Field(None, description="Of what is sent; null: none.")

    @model_validator(mode="after")
    def _fits(self) -> ActionSpec:
        if self.smoothing and any(arm.kind == "relative_rotvec" for arm in self.arms.values()):
            raise ValueError(
                "steps relative to the previous target are not smoothed: "
                "each would be counted several times"
            )
        return self


class ActionLayout:
    """Layout of the policy's action: to targets for a robot, and back.

    Args:
        spec: Parts of an action.
        ranges: The robot's, for the gripper's width; per prefix where arms differ.

    Attributes:
        width: Numbers in an action.
    """

    def __init__(self, spec: ActionSpec, ranges: Ranges | Mapping[str, Ranges]) -> None:
        self.spec = spec
        self.width = sum(arm.width for arm in spec.arms.values()) + spec.done
        of_arm = {p: ranges if isinstance(ranges, Ranges) else ranges[p] for p in spec.arms}
        self._opening = {p: of_arm[p].gripper_width for p in spec.arms}

        starts = np.cumsum([0, *(arm.width for arm in spec.arms.values())]).tolist()
        self._start = dict(zip(spec.arms, starts, strict=False))
        self._most = np.full(self.width, MAX_NUMBER)
        for p in spec.arms:
            self._most[self._start[p] : self._start[p] + 3] = REACHES * of_arm[p].reach

        self._history: list[Values] = []
        self._last: Values = {}

    def defect(self, chunk: np.ndarray, most: int) -> str:
        """Return what is wrong with a chunk, in a sentence; empty for one that may be played.

        A target somewhat outside the workspace is the safety filter's to clip.  One beyond any
        place that the arm could reach comes from a broken policy, and following it to the
        workspace's edge helps nobody.

        Args:
            chunk: Array that arrived, of any shape and type.
            most: Longest chunk, in actions.
        """
        if chunk.ndim != 2 or not 0 < len(chunk) <= most or chunk.shape[1] != self.width:
            expected = f"expected are up to {most} actions of {self.width} numbers"
            return f"a chunk of shape {chunk.shape}, {expected}"
        if not np.isfinite(chunk).all():
            return "a chunk that is not finite"

        beyond = np.abs(np.asarray(chunk, np.float64)) > self._most
        if not beyond.any():
            return ""
        step, number = np.argwhere(beyond)[0].tolist()
        value = float(chunk[step, number])
        return f"number {number} of action {step} is {value:.3g}, beyond {self._most[number]:.3g}"

    def features(self, action: np.ndarray, previous_target: Mapping[str, float]) -> Values:
        """Return the target for the robot that an action demands.

        Smoothing begins anew whenever ``previous_target`` is not what the last call returned: after
        homing, a reset, an intervention.

        Args:
            action: (A,).
            previous_target: The target before it, with every arm's pose and ``gripper.pos``.

        Returns:
            Pose and ``gripper.pos`` of every arm.

        Raises:
            DataError: the action is of another shape, not finite, or a rotation in it is none.
        """
        numbers = self._numbers(action)
        target: Values = {}
        for prefix, arm in self.spec.arms.items():
            start = self._start[prefix]
            part = numbers[start : start + arm.pose_width]

            try:
                pose = _decode(arm.kind, part, previous_target, prefix)
            except ValueError as error:
                raise DataError(
                    f"the action's rotation of the arm '{prefix}' is none ({error}): {part[3:]}",
                    remedy="the policy is broken; do not run it",
                ) from error

            target |= zip([prefix + key for key in POSE], pose, strict=True)
            target[prefix + GRIPPER] = self._gripper(arm, prefix, numbers, previous_target)
        return self._smooth(target, previous_target) if self.spec.smoothing else target

    def encode(
        self,
        target: Mapping[str, float],
        previous_target: Mapping[str, float] | None = None,
        *,
        done: bool = False,
    ) -> np.ndarray:
        """Return the action (A,) float32 of an unsmoothed target: for interventions and exports.

        Args:
            target: Every arm's pose and ``gripper.pos``.
            previous_target: The target before it; needed by relative kinds.
            done: The flag, where the layout has one.

        Raises:
            DataError: a feature is missing.
        """
        numbers: list[float] = []
        try:
            for prefix, arm in self.spec.arms.items():
                numbers += _encode(arm.kind, target, previous_target or {}, prefix)
                if arm.gripper != "none":
                    share = target[prefix + GRIPPER] / self._opening[prefix]
                    numbers.append(_encode_gripper(arm.gripper, share))
        except KeyError as error:
            raise DataError(
                f"no action without the feature {error}",
                remedy="give every arm's pose and gripper, and the target before",
            ) from error

        if self.spec.done:
            numbers.append(float(done))
        return np.array(numbers, np.float32)

    def held(self, action: np.ndarray) -> np.ndarray:
        """Return the action (A,) float32 that stays where ``action`` led: relative steps are zero.

        Args:
            action: (A,).
        """
        held = np.array(action, np.float32)
        for prefix, arm in self.spec.arms.items():
            if arm.kind == "relative_rotvec":
                start = self._start[prefix]
                held[start : start + arm.pose_width] = 0
        return held

    def opens(self, action: np.ndarray, prefix: str | None = None) -> bool:
        """Return True where an action demands an open gripper.

        Args:
            action: (A,).
            prefix: Of the arm; by default the first's.  True for an arm whose gripper is not in
                the action.
        """
        prefix = next(iter(self.spec.arms)) if prefix is None else prefix
        arm = self.spec.arms[prefix]
        return arm.gripper == "none" or bool(action[self._start[prefix] + arm.pose_width] >= 0)

    def done(self, action: np.ndarray) -> bool:
        """Return True where the policy reports that it has finished; it needs the flag."""
        return self.spec.done and bool(action[-1] > DONE_THRESHOLD)

    def _numbers(self, action: np.ndarray) -> list[float]:
        if np.shape(action) != (self.width,):
            raise DataError(
                f"an action has the shape ({self.width},), not {np.shape(action)}",
                remedy="use a policy trained for this task",
            )
        numbers: list[float] = np.asarray(action, np.float64).tolist()
        if not math.isfinite(sum(numbers)):
            raise DataError(
                f"an action is not finite: {numbers}", remedy="the policy is broken; do not run it"
            )
        return numbers

    def _gripper(
        self, arm: ArmAction, prefix: str, numbers: list[float], previous: Mapping[str, float]
    ) -> float:
        if arm.gripper == "none":
            return previous[prefix + GRIPPER]
        value = numbers[self._start[prefix] + arm.pose_width]
        linear = arm.gripper == "linear"
        share = min(1.0, max(0.0, (value + 1) / 2)) if linear else float(value >= 0)
        return share * self._opening[prefix]

    def _smooth(self, target: Values, previous: Mapping[str, float]) -> Values:
        """Return mean position and SLERPed rotation of the last targets; the gripper as it is."""
        smoothing = self.spec.smoothing
        assert smoothing is not None
        if previous != self._last:
            self._history.clear()
        self._history = [target, *self._history[: smoothing.targets - 1]]

        smooth = dict(target)
        for prefix in self.spec.arms:
            keys = [prefix + key for key in POSE]
            mean = [target[key] for key in keys]
            total = 1.0
            for age, older in enumerate(self._history[1:], 1):
                weight = smoothing.decay**age
                total += weight
                share = weight / total
                position = [
                    a + share * (older[key] - a) for a, key in zip(mean[:3], keys[:3], strict=True)
                ]
                turn = rotation.slerp(mean[3:], [older[key] for key in keys[3:]], share)
                mean = [*position, *turn]
            smooth |= zip(keys, mean, strict=True)

        self._last = dict(smooth)  # a copy: the caller may change its own
        return smooth


def _encode_gripper(kind: str, share: float) -> float:
    """Return the action's number for a share of the widest opening."""
    if kind == "linear":
        return min(1.0, max(-1.0, 2 * share - 1))
    return 1.0 if share > HALF_OPEN else -1.0


def _decode(
    kind: str, part: Sequence[float], previous: Mapping[str, float], prefix: str
) -> tuple[float, ...]:
    """Return position and quaternion (7,) of one arm."""
    if kind == "absolute_6d":
        return (*part[:3], *rotation.from_6d(part[3:]))
    if kind == "absolute_quat":
        return (*part[:3], *rotation.unit(part[3:]))
    turn = rotation.from_rotvec(part[3:])
    if kind == "absolute_rotvec":
        return (*part[:3], *turn)
    before = [previous[prefix + key] for key in POSE]
    return (
        *(a + b for a, b in zip(before[:3], part[:3], strict=True)),
        *rotation.unit(rotation.product(turn, before[3:])),
    )


def _encode(
    kind: str, target: Mapping[str, float], previous: Mapping[str, float], prefix: str
) -> list[float]:
    pose = [target[prefix + key] for key in POSE]
    if kind == "absolute_6d":
        return [*pose[:3], *rotation.to_6d(pose[3:])]
    if kind == "absolute_quat":
        return [*pose[:3], *rotation.steady(pose[3:])]
    if kind == "absolute_rotvec":
        return [*pose[:3], *rotation.to_rotvec(rotation.steady(pose[3:]))]
    before = [previous[prefix + key] for key in POSE]
    turn = rotation.to_rotvec(
        rotation.shorter(rotation.product(pose[3:], rotation.inverse(before[3:])))
    )
    return [*(a - b for a, b in zip(pose[:3], before[:3], strict=True)), *turn]


Terms = Annotated[dict[str, tuple[str, ...]], Field(min_length=1)]
"""An observation layout, as a file has it."""
