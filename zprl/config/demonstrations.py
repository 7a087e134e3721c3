"""Section ``ingest``: which demonstrations are read, and how they are converted."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, model_validator

from zprl.config.sections import Section

RotationForm = Literal[
    "quaternion_xyzw", "quaternion_wxyz", "rotation_vector", "euler_xyz", "matrix", "rotation_6d"
]
"""How numbers say a rotation; see :mod:`zprl.data.rotations`."""

ROTATION_WIDTHS: dict[str, int] = {
    "quaternion_xyzw": 4,
    "quaternion_wxyz": 4,
    "rotation_vector": 3,
    "euler_xyz": 3,
    "matrix": 9,
    "rotation_6d": 6,
}

ANGLES = ("rotation_vector", "euler_xyz")
"""Forms whose numbers are angles, and may be scaled."""


class Part(Section):
    """Some columns of a recording: ``scale`` times them plus ``offset``, and a rotation's form."""

    columns: tuple[NonNegativeInt, ...] | None = Field(
        None, description="Columns taken, in order; null for all."
    )
    scale: float = Field(
        1.0,
        allow_inf_nan=False,
        description="Factor, e.g. 0.001 for millimetres; of rotations only of angles.",
    )
    offset: float = Field(0.0, allow_inf_nan=False, description="Added after the factor.")
    rotation: RotationForm | None = Field(
        None,
        description="Recorded form of a rotation; euler_xyz turns about fixed axes; null: none.",
    )
    to: RotationForm | None = Field(
        None,
        description="Form it is given; null: quaternion_xyzw for observations, rotation_6d for "
        "actions.",
    )
    resample: Literal["linear", "nearest"] | None = Field(
        None,
        description="How resample_hz treats it; null: rotations by slerp, images, gripper commands "
        "and single actions nearest.",
    )

    @model_validator(mode="after")
    def _is_one_thing(self) -> Part:
        if self.columns == ():
            raise ValueError("columns is empty; null takes all")
        if self.to is not None and self.rotation is None:
            raise ValueError("to needs rotation, the form that is recorded")
        if self.rotation is None:
            return self

        width = ROTATION_WIDTHS[self.rotation]
        if self.columns is not None and len(self.columns) != width:
            raise ValueError(f"{self.rotation} has {width} columns, not {len(self.columns)}")
        if (self.scale, self.offset) != (1.0, 0.0) and self.rotation not in ANGLES:
            raise ValueError(f"{self.rotation} cannot be scaled")
        if self.resample == "linear":
            raise ValueError("rotations are resampled by slerp (null) or nearest")
        return self


class ObservationPart(Part):
    """A recorded observation."""

    key: str = Field(description="Recorded key.")


class ActionPart(Part):
    """The next numbers of an action."""

    delta: bool = Field(
        False,
        description="Recorded as a change of the pose observed in the same frame; becomes an "
        "absolute target.",
    )
    of: str | None = Field(
        None, description="Observation key (as converted) that a delta is a change of."
    )

    @model_validator(mode="after")
    def _delta_of_something(self) -> ActionPart:
        if self.delta != (self.of is not None):
            raise ValueError("delta and of belong together: a delta is a change of an observation")
        return self


class Conventions(Section):
    """Differences of recordings from what is wanted here.

    They are converted once, when they are read; the data report has them.
    """

    observations: dict[str, ObservationPart] | None = Field(
        None, description="Per key of obs_keys; a key not listed stays as it is."
    )
    actions: tuple[ActionPart, ...] | None = Field(
        None, description="Parts of the action, in order; null: as recorded."
    )
    resample_hz: float | None = Field(
        None, gt=0, le=1000, description="Frames per second wanted; null: as recorded."
    )
    action_shift: int = Field(
        0,
        description="Frames by which recorded actions come late (positive) or early after what was "
        "observed.",
    )

    @model_validator(mode="after")
    def _knows_actions(self) -> Conventions:
        if self.actions == ():
            raise ValueError("actions is empty; null leaves them as recorded")
        if self.resample_hz is not None and self.actions is None:
            raise ValueError(
                "resample_hz needs actions: whether a part is a position, a rotation or a gripper "
                "decides how it is resampled"
            )
        return self


Grade = Literal["better", "okay", "worse", "unknown"]


class Recipe(Section):
    """Choice of recorded episodes, and corrections; the recordings stay as they are.

    Names are ``<source>/<episode>`` and may be patterns such as ``monday/*``; where several fit,
    the last one holds.  In this order: choose, relabel, choose by quality, cut, merge.
    """

    only: tuple[str, ...] | None = Field(None, description="Episodes used; null for all.")
    leave_out: tuple[str, ...] = Field((), description="Episodes left out.")
    success: dict[str, bool] = Field(
        {},
        description="New labels; the reward becomes 1 in the last frame of a success and 0 "
        "elsewhere.",
    )
    quality: dict[str, Grade] = Field({}, description="New grades.")
    keep_quality: tuple[Grade, ...] | None = Field(None, description="Grades used; null for all.")
    cut: dict[str, tuple[NonNegativeInt, NonNegativeInt]] = Field(
        {}, description="Frames kept, [start, stop); labels stay."
    )
    merge: tuple[tuple[str, ...], ...] = Field(
        (),
        description="Episodes of one source (no patterns) joined in this order; the last one's "
        "label holds.",
    )
    weights: dict[Grade, float] = Field(
        {},
        description="How often windows of a grade are drawn in training; 1 for grades not named.",
    )

    @model_validator(mode="after")
    def _can_be_done(self) -> Recipe:
        for name, (start, stop) in self.cut.items():
            if start >= stop:
                raise ValueError(f"cut of '{name}' keeps no frame: [{start}, {stop})")
        for grade, weight in self.weights.items():
            if not 0.001 <= weight <= 1000:  # NaN too
                raise ValueError(
                    f"weight {weight} of '{grade}' is not within 0.001 and 1000; "
                    "keep_quality leaves grades out"
                )
        merged = [name for group in self.merge for name in group]
        if any(len(group) < 2 for group in self.merge) or len(set(merged)) < len(merged):
            raise ValueError("merge joins groups of two or more episodes, and no episode twice")
        return self


class Ingest(Section):
    """From recorded demonstrations to validated episodes."""

    reader: str = Field(
        "robomimic",
        description="Registered reader of the demonstrations; auto: each by its own format.",
    )
    obs_keys: tuple[str, ...] = Field(
        ("robot0_eef_pos", "robot0_gripper_qpos", "robot0_gripper_command", "object"),
        description="Observation keys the policy sees, in order.",
    )
    max_bad_fraction: float = Field(
        0.05, ge=0, le=1, description="The stage fails when more episodes than this share are bad."
    )
    max_episodes: int | None = Field(
        None, ge=1, description="Use only the first so many good episodes; null for all."
    )
    exclude_failures: bool = Field(
        False, description="Leave out episodes that did not end in success."
    )
    actions: str = Field(
        "actions",
        description="Recorded dataset of actions (HDF5 readers), e.g. robomimic's actions_abs.",
    )
    conventions: Conventions | None = Field(
        None,
        description="How recordings differ from what is wanted here: observations (key, columns, "
        "scale, offset, rotation, to), actions (the same, delta, of), resample_hz, action_shift; "
        "null: they do not.",
    )
    recipe: Recipe | None = Field(
        None,
        description="Which episodes are used, and what is corrected in them; null: all, as they "
        "are.",
    )

    @model_validator(mode="after")
    def _converts_what_is_seen(self) -> Ingest:
        if self.conventions is None:
            return self
        used = {*self.obs_keys, *(part.of for part in self.conventions.actions or ())}
        unused = [key for key in self.conventions.observations or {} if key not in used]
        if unused:
            raise ValueError(
                f"conventions.observations has '{unused[0]}', which neither obs_keys nor a delta "
                "names"
            )
        return self
