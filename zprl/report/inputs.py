"""Sources of the page's facts, and the sentences in place of those that are missing.

Every part of the page is made by :meth:`Parts.make`.  A part that cannot be made leaves a sentence,
which the page prints in red at the part's own place: nothing is left out in silence.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from zprl import durable
from zprl.errors import DataError, ZprlError
from zprl.evaluation.result import Evaluation

T = TypeVar("T")
Curve = dict[str, NDArray[np.float64]]
"""Columns of a CSV file by name, each (rows,)."""

POLICIES = {
    "embedding": ("Base, no bottleneck", "the flow-matching policy on its own embedding"),
    "base": ("Base", "the frozen policy through its bottleneck (VIB)"),
    "finetune_sim": ("Steered (ZPRL)", "the base with a learned residual on its latent"),
    "action_residual": ("Action residual", "the base with a learned residual on its actions"),
}
"""Evaluations in the page's order: name to label and explanation."""
REFERENCE = "base"
CANDIDATE = "finetune_sim"
RECORD_REMEDY = "set evaluate.video_episodes above 0 and run them again"
"""Remedy where evaluations kept no frames."""
LEARNERS = {
    "finetune_sim": "finetune_sim.csv",
    "action_residual": "finetune_action_residual.csv",
}
"""Steered policies and the learning curves of their training."""
ROBOT_BEFORE = "real_evaluate_before"
ROBOT_AFTER = "real_evaluate_after"
"""Evaluations on the robot, before and after its session."""


@dataclass(frozen=True)
class Sources:
    """The folders in which earlier stages left their results.

    Attributes:
        artifacts: Holds ``evaluation/``, ``base/``, ``steering/``, ``data_report/`` and
            ``promotion.json``.
        plots: Holds the CSV curves.
    """

    artifacts: Path
    plots: Path

    def evaluation(self, policy: str) -> Evaluation:
        """Read the evaluation of one policy."""
        return Evaluation.read(self.artifacts / "evaluation" / policy)

    def curve(self, name: str, *required: str) -> Curve:
        """Read a CSV file with at least the columns ``required``."""
        return read_curve(self.plots / name, *required)

    def document(self, name: str, *required: str) -> dict[str, Any]:
        """Read a JSON object below the artifacts with at least the keys ``required``."""
        path = self.artifacts / name
        value = durable.read_json(path)
        missing = [key for key in required if not isinstance(value, dict) or key not in value]
        if missing or not isinstance(value, dict):
            raise DataError(
                f"{path} lacks {', '.join(missing) or 'an object'}",
                remedy="run its stage again (dvc repro)",
            )
        return value

    def bundles(self) -> dict[str, Path]:
        """Return the bundles that policies are made of, by label."""
        steering = {f"steering/{name}": self.artifacts / "steering" / name for name in LEARNERS}
        return {
            "base": self.artifacts / "base",
            **steering,
            "steering/real": self.artifacts / "steering" / "real",
        }


@dataclass
class Parts:
    """Maker of the page's parts that collects those it cannot make.

    Attributes:
        problems: Part to the sentence about it.
    """

    problems: dict[str, str] = field(default_factory=dict)

    def make(self, part: str, maker: Callable[[], T]) -> T | None:
        """Return what ``maker`` returns, or note why it could not and return ``None``."""
        try:
            return maker()
        except ZprlError as error:
            self.problems[part] = error.message + (f" - {error.remedy}" if error.remedy else "")
        # The page is for finding out what went wrong: one broken part must not hide all others.
        except Exception as error:  # noqa: BLE001
            self.problems[part] = f"this part could not be made: {type(error).__name__}: {error}"
        return None


def read_curve(path: Path, *required: str) -> Curve:
    """Read a CSV file of numbers.

    Raises:
        DataError: missing, without rows, without a required column, or with something that is not a
            number.
    """
    remedy = "run its stage again (dvc repro)"
    if not path.exists():
        raise DataError(f"{path} does not exist", remedy=remedy)
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a CSV file: {error}", remedy=remedy) from error

    if not rows:
        raise DataError(f"{path} has no rows", remedy=remedy)
    missing = [name for name in required if name not in rows[0]]
    if missing:
        raise DataError(f"{path} lacks the columns {', '.join(missing)}", remedy=remedy)

    try:
        return {name: np.array([_number(row[name]) for row in rows]) for name in rows[0]}
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{path} holds something that is not a number: {error}", remedy=remedy
        ) from error


def _number(cell: str | None) -> float:
    """Read a cell; an empty one is a number that was not measured, a missing one is damage."""
    if cell is None:
        raise ValueError("a row ends early")
    return float(cell or "nan")
