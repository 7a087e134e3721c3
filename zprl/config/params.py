"""All of ``params.yaml``: read, checked, and its mistakes named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, Field, ValidationError, ValidationInfo, field_validator

from zprl import strict_yaml
from zprl.config.demonstrations import Ingest
from zprl.config.evaluation import Evaluate, Promote, Report, Transfer
from zprl.config.learning import ALGORITHMS, Learning, Rl
from zprl.config.policy import Images, Policy, Pretrain, VibConfig
from zprl.config.robot import Real
from zprl.config.sections import Section, write_over
from zprl.config.world import Run, Task
from zprl.errors import ConfigError
from zprl.suggestions import did_you_mean

PARAMS_FILE = "params.yaml"

ACTION_RESIDUAL = {"algorithm": "sac", "steering": {"space": "action", "scale": "auto"}}
"""Differences of ``action_residual`` where ``params.yaml`` has no such section."""

_LEARNING = get_args(Learning)[0]
"""The union of all algorithms' sections, as pydantic keeps it."""

MAX_LISTED = 10
"""Mistakes of one file that are listed; the others are counted."""


class Params(Section):
    """All of ``params.yaml``."""

    run: Run = Run()
    task: Task = Task()
    ingest: Ingest = Ingest()
    policy: Policy = Policy()
    vib: VibConfig = VibConfig()
    images: Images = Images()
    pretrain: Pretrain = Pretrain()
    evaluate: Evaluate = Evaluate()
    transfer: Transfer = Transfer()
    finetune_sim: Learning = Rl()
    action_residual: Rl = Field(
        default_factory=lambda: ACTION_RESIDUAL,
        validate_default=True,
        description="Only the differences from finetune_sim, whose keys it has; of another "
        "algorithm than its own only the budget is taken over.",
    )
    finetune_real: Real = Real()
    promote: Promote = Promote()
    promote_real: Promote = Promote(model_name="zprl-lift-cube-real", min_episodes=40)
    report: Report = Report()

    @field_validator("action_residual", mode="before")
    @classmethod
    def _written_over_finetune_sim(cls, differences: Any, info: ValidationInfo) -> Any:
        if not isinstance(differences, Mapping):
            return differences
        # Where finetune_sim is wrong, its own mistakes are listed, and not twice.
        learning = info.data.get("finetune_sim")
        values = learning.model_dump() if learning is not None else {}
        write_over(values, differences)
        return values


def _known(model: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    """Return the names of the fields at the level of an unknown key; none where nobody knows."""
    for part in path[:-1]:
        # A section of several algorithms is followed by the tag of one.
        if part in ALGORITHMS:
            model = ALGORITHMS[part]
            continue

        field = model.model_fields.get(part)
        kind = field.annotation if field is not None else None
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            model = kind
        elif kind != _LEARNING:
            return []
    return list(model.model_fields)


def parse(value: Any, *, source: str = PARAMS_FILE) -> Params:
    """Check a mapping against the models.

    All mistakes are listed, unknown keys with a "did you mean".

    Raises:
        ConfigError: for unknown keys, wrong types and values out of range.
    """
    try:
        return Params.model_validate(value or {})
    except ValidationError as error:
        sentence = mistakes(error, partial(_known, Params))
        raise ConfigError(
            f"{source}: {sentence}", remedy="`zprl config explain` lists every key"
        ) from error


def mistakes(error: ValidationError, known: Callable[[tuple[int | str, ...]], list[str]]) -> str:
    """List the mistakes of a document in one line, unknown keys with the nearest known one.

    Args:
        error: The error that pydantic raised.
        known: Returns the keys that are known where the last part of a path stands.
    """
    lines = []
    every = error.errors(include_url=False, include_context=False)
    for item in every[:MAX_LISTED]:
        loc = tuple(part for part in item["loc"] if part not in ALGORITHMS)
        where = ".".join(str(part)[:60] for part in loc)

        if item["type"] == "extra_forbidden":
            hint = did_you_mean(str(loc[-1])[:60], known(item["loc"]), lead=", ")
            lines.append(f"{where}: unknown key{hint}")
        else:
            lines.append(
                f"{where}: {item['msg']} (got {_short(item['input'])})" if loc else item["msg"]
            )

    if len(every) > MAX_LISTED:
        lines.append(f"and {len(every) - MAX_LISTED} more")
    return "; ".join(lines)


def _short(value: Any, width: int = 80) -> str:
    """Return a value as text that fits a line."""
    text = repr(value)
    return text if len(text) <= width else f"{text[:width]}..."


def load(path: Path | str = PARAMS_FILE, *, limit: int = strict_yaml.MAX_BYTES) -> Params:
    """Read and check ``params.yaml``, of at most ``limit`` bytes."""
    try:
        value = strict_yaml.load(path, limit=limit)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path} does not exist", remedy="run in the project's root folder"
        ) from error
    return parse(value, source=str(path))
