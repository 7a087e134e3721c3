"""The file that describes the terms of a user's own Isaac Lab task.

    observations:                      # key here: terms of the group, side by side
      joints: [joint_pos, joint_vel]
      goal: [pose_command]
    action_dim: 7                      # checked against the task
    control_hz: 30                     # checked against the task
    success: success                   # a termination term, or a reward term that exceeds a value:
    # success: {reward: lifting_object, params: {minimal_height: 0.15}, above: 0.5}

Built-in ones stand in ``zprl/envs/isaac/terms``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from zprl import safe_names, strict_yaml
from zprl.errors import ConfigError
from zprl.strict_model import StrictModel

BUILT_IN = Path(__file__).parent / "terms"


class RewardAbove(StrictModel):
    """Success, and the episode's end, when a reward term's value exceeds ``above``.

    The value is the term's own, before its weight.
    """

    reward: str = Field(description="Name of the reward term.")
    above: float = Field(description="Value to exceed.")
    params: dict[str, float | int | bool | str] = Field(
        {}, description="Parameters of the term that are changed for this."
    )


class IsaacLabTerms(StrictModel):
    """Contents of the file."""

    observations: dict[str, tuple[str, ...]] = Field(
        min_length=1, description="Key to terms of the group, side by side, in order."
    )
    group: str = Field("policy", description="Observation group that has them.")
    action_dim: int = Field(ge=1, description="Width of the task's action.")
    control_hz: float = Field(gt=0, description="Environment steps per second.")
    success: str | RewardAbove = Field(
        description="Termination term that is success, or a reward term that exceeds a value."
    )
    reward: Literal["success", "task"] = Field(
        "success", description="1 at success and 0 elsewhere, or the task's own reward."
    )
    hold: tuple[float, ...] | None = Field(
        None, description="Action that keeps the robot where it starts; null: zeros."
    )
    overrides: tuple[str, ...] = Field(
        (), description="Isaac Lab's own overrides, e.g. presets=diffik."
    )

    @classmethod
    def load(cls, task_id: str, file: str | None) -> IsaacLabTerms:
        """Read ``file``, or the built-in one for the task.

        Raises:
            ConfigError: there is none, or it does not have this form.
        """
        path = Path(file) if file else safe_names.inside(BUILT_IN, f"{task_id.split(':')[-1]}.yaml")
        if not path.is_file():
            raise ConfigError(
                f"{path} does not exist"
                if file
                else f"nothing says what the terms of {task_id} mean here",
                remedy=f"write a file like those in {BUILT_IN} and name it as task.file",
            )

        try:
            made = cls.model_validate(strict_yaml.load(path))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ConfigError(
                f"{path}: {where}: {first['msg']}", remedy=f"see {BUILT_IN} for the form"
            ) from error

        if made.hold is not None and len(made.hold) != made.action_dim:
            raise ConfigError(
                f"{path}: hold has {len(made.hold)} numbers, action_dim is {made.action_dim}",
                remedy="give one per dimension",
            )
        return made
