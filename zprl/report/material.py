"""Everything the page is made of, read from disk.  What is missing or broken becomes a named problem, not an exception.

A page that leaves out what failed reads like a success; this one says in red what it lacks.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from zprl import durable
from zprl.errors import DataError
from zprl.evaluation.intervals import Paired, mcnemar
from zprl.evaluation.result import Evaluation
from zprl.models.bundle import read_bundle

POLICIES = {
    "embedding": "Base, no bottleneck",
    "base": "Base",
    "latent": "Steered latent",
    "action_residual": "Action residual",
}
"""Policy to what the page calls it, in the order of the page."""
CURVES = {"latent": "finetune_sim.csv", "action_residual": "finetune_action_residual.csv"}
BUNDLES = {
    "base": ("base", "policy"),
    "latent": ("steering/latent", "steering"),
    "action_residual": ("steering/action_residual", "steering"),
}
STAGES = {"embedding": "evaluate_base", "base": "evaluate_base", "latent": "evaluate", "action_residual": "evaluate"}

Table = dict[str, list[float]]
T = TypeVar("T")


@dataclass(frozen=True)
class Problem:
    """Something the page lacks: what it would have shown, and why it cannot."""

    part: str
    reason: str


@dataclass(frozen=True)
class Bundle:
    """A bundle's document and the digest of its folder."""

    document: dict[str, Any]
    digest: str


@dataclass
class Material:
    """What was found.

    Attributes:
        evaluations: By policy name.
        curves: Learning curves by policy name: column to values.
        pretrain: Curve of pretraining, or ``None``.
        promotion: The gate's decision, or ``None``.
        data: Summary of the demonstrations, or ``None``.
        bundles: By policy name.
        problems: What is missing or broken.
    """

    evaluations: dict[str, Evaluation] = field(default_factory=dict)
    curves: dict[str, Table] = field(default_factory=dict)
    pretrain: Table | None = None
    promotion: dict[str, Any] | None = None
    data: dict[str, Any] | None = None
    bundles: dict[str, Bundle] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def paired(self, first: str, second: str) -> Paired | None:
        """Compare two policies on the same episodes; ``None`` where they were not judged by the same ones."""
        a, b = self.evaluations.get(first), self.evaluations.get(second)
        if a is None or b is None or (a.task, a.seed, a.episodes) != (b.task, b.seed, b.episodes):
            return None
        return mcnemar(a.success, b.success)


def collect(artifacts: Path | str, plots: Path | str) -> Material:
    """Read what there is below ``artifacts`` and ``plots``."""
    artifacts, plots = Path(artifacts), Path(plots)
    found = Material()

    def take(part: str, read: Callable[[], T]) -> T | None:
        try:
            return read()
        except DataError as error:
            found.problems.append(Problem(part, error.message))
            return None

    for policy, name in POLICIES.items():
        evaluation = take(f"Evaluation: {name}", lambda: Evaluation.read(artifacts / "evaluation" / policy))  # noqa: B023
        if evaluation is not None:
            found.evaluations[policy] = evaluation
    for policy, (folder, kind) in BUNDLES.items():
        bundle = take(f"Bundle: {POLICIES[policy]}", lambda: _bundle(artifacts / folder, kind))  # noqa: B023
        if bundle is not None:
            found.bundles[policy] = bundle
    for policy, name in CURVES.items():
        curve = take(f"Learning curve: {POLICIES[policy]}", lambda: read_csv(plots / name))  # noqa: B023
        if curve is not None:
            found.curves[policy] = curve
    found.pretrain = take("Pretraining curves", lambda: read_csv(plots / "pretrain.csv"))
    found.promotion = take("Promotion", lambda: _mapping(artifacts / "promotion.json"))
    found.data = take("Demonstrations", lambda: _mapping(artifacts / "data_report" / "summary.json"))
    _check_comparable(found)
    return found


def read_csv(path: Path) -> Table:
    """Columns of numbers; an empty field is NaN.

    Raises:
        DataError: missing, without rows, or with something that is not a number.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        columns = {key: [float(row[key] or "nan") for row in rows] for key in rows[0]} if rows else {}
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist", remedy="run the stage that makes it (dvc repro)") from error
    except (ValueError, TypeError, KeyError, csv.Error) as error:
        raise DataError(f"{path} is not a table of numbers: {error}", remedy="run its stage again") from error
    if not columns:
        raise DataError(f"{path} has no rows", remedy="run its stage again")
    return columns


def _mapping(path: Path) -> dict[str, Any]:
    value = durable.read_json(path)
    if not isinstance(value, dict):
        raise DataError(f"{path} is not a JSON object", remedy="run its stage again")
    return value


def _bundle(path: Path, kind: str) -> Bundle:
    document, _ = read_bundle(path, kind)
    return Bundle(document, durable.digest(path))


def _check_comparable(found: Material) -> None:
    """Policies judged by other episodes, or learned on another base, must not stand in one table unmarked."""
    ways = {name: (e.task, e.seed, e.episodes) for name, e in found.evaluations.items()}
    if len(set(ways.values())) > 1:
        listed = "; ".join(f"{POLICIES[name]}: {task}, seed {seed}, {n} episodes" for name, (task, seed, n) in ways.items())
        found.problems.append(Problem("Comparison", f"the policies were not judged by the same episodes ({listed})"))
    base = found.bundles.get("base")
    for name in ("latent", "action_residual"):
        bundle = found.bundles.get(name)
        if base and bundle and bundle.document.get("base_digest") != base.digest:
            found.problems.append(Problem(f"Bundle: {POLICIES[name]}", "it was learned on another base policy than the one shown here"))
