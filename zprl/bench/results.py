"""Results of a suite: its finished runs as JSON and their judged points as CSV.

A suite can go on elsewhere from its finished runs.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from zprl import durable
from zprl.csv_text import csv_text
from zprl.errors import DataError

BASE = "base"
"""Method of the frozen policies themselves."""
REMEDY = "write it again: run the suite's command again"
SHOWN_ERRORS = 3
MAX_RUNS = 16 * 2**20
"""Longest file of finished runs, in bytes: a suite of 135 runs has 0.3 MB."""


@dataclass(frozen=True, order=True)
class Point:
    """One verdict on one policy.

    Attributes:
        task: Registered task.
        method: How the policy was made; :data:`BASE` is the frozen policy itself.
        seed: Training seed.
        env_steps: Environment steps of training so far; 0 is the frozen base policy.
        success_rate: In [0, 1], deterministic policy.
        episodes: How many it was judged by.
        jerk_rms: Of the executed path [m/s^3]; ``None`` where no episode was long enough.
        wall_s: Seconds of training so far, judging apart.
    """

    task: str
    method: str
    seed: int
    env_steps: int
    success_rate: float
    episodes: int
    jerk_rms: float | None
    wall_s: float

    def __post_init__(self) -> None:
        """Refuse an impossible verdict, naming the column."""
        jerk = self.jerk_rms
        rate = self.success_rate
        base_untrained = self.method != BASE or self.env_steps == 0
        known_jerk = jerk is None or 0 <= jerk < math.inf
        not_finite = "is negative or not finite"

        _want("task", "is empty", fine=bool(self.task))
        _want("method", "is empty", fine=bool(self.method))
        _want("seed", f"{self.seed} is negative", fine=self.seed >= 0)
        _want("env_steps", f"{self.env_steps} is negative", fine=self.env_steps >= 0)
        _want(
            "env_steps",
            f"{self.env_steps}, but the frozen base is not trained",
            fine=base_untrained,
        )
        _want("success_rate", f"{rate} is not within [0, 1]", fine=0 <= rate <= 1)
        _want("episodes", f"{self.episodes} is less than one", fine=self.episodes >= 1)
        _want("jerk_rms", f"{jerk} {not_finite}", fine=known_jerk)
        _want("wall_s", f"{self.wall_s} {not_finite}", fine=0 <= self.wall_s < math.inf)


def _want(column: str, problem: str, *, fine: bool) -> None:
    if not fine:
        raise ValueError(f"column {column}: {problem}")


COLUMNS = tuple(field.name for field in fields(Point))


@dataclass(frozen=True)
class RunFacts:
    """Cost of a run and smoothness of its final policy.

    Attributes:
        task: Registered task.
        method: Method.
        seed: Training seed.
        updates: Gradient updates.
        updates_per_s: Updates per second of training, simulation included; ``None`` where there is
            none.
        total_variation: Of the commanded position [m per step].
        wall_s: Seconds of the whole run, judging included.
        commit: Of the code.
        machine: Whose seconds these are; ``None`` in runs from before it was noted.
    """

    task: str
    method: str
    seed: int
    updates: int
    updates_per_s: float | None
    total_variation: float | None
    wall_s: float
    commit: str | None
    machine: str | None = None


@dataclass(frozen=True)
class FinishedRun:
    """Results of one cell, and the digests they stand on.

    Attributes:
        key: Of the cell's numbers.
        stood_on: Digest of the frozen policy that it improved; ``None`` where it made one itself.
        policy: Digest of the frozen policy that it made; ``None`` where it improved one.
        facts: Its cost.
        points: Its verdicts; the last is the final one.
    """

    key: str
    stood_on: str | None
    policy: str | None
    facts: RunFacts
    points: tuple[Point, ...]

    def __post_init__(self) -> None:
        """Refuse an impossible run, naming the column."""
        made_or_improved = (self.policy is None) != (self.stood_on is None)
        _want("points", "are none", fine=bool(self.points))
        _want("policy", "is neither made nor improved, or both", fine=made_or_improved)

    def named(self, method: str) -> FinishedRun:
        """Return the same run under another method's name.

        Another suite may call the same numbers differently.
        """
        points = tuple(replace(point, method=method) for point in self.points)
        return replace(self, facts=replace(self.facts, method=method), points=points)


_RUNS = TypeAdapter(list[FinishedRun])


def write_runs(path: Path | str, finished: Iterable[FinishedRun]) -> None:
    """Replace the file ``path``: a run a line, in the order task, method, seed."""
    ordered = sorted(finished, key=lambda run: (run.facts.task, run.facts.method, run.facts.seed))
    lines = [json.dumps(asdict(run), sort_keys=True) for run in ordered]
    durable.write_text(path, "[\n" + ",\n".join(lines) + "\n]\n")


def read_runs(path: Path | str) -> list[FinishedRun]:
    """Read the file of :func:`write_runs`.

    Raises:
        DataError: it is none.
    """
    try:
        return _RUNS.validate_python(durable.read_json(path, limit=MAX_RUNS), strict=False)
    except ValidationError as error:
        first = error.errors(include_url=False)[:SHOWN_ERRORS]
        reasons = "; ".join(f"{problem['loc']}: {problem['msg']}" for problem in first)
        raise DataError(
            f"{path} cannot be read: {reasons}",
            remedy="remove it; the suite's command writes it again",
        ) from error


def as_csv(points: Iterable[Point]) -> str:
    """Return rows in the order task, method, seed, env_steps."""
    return csv_text(COLUMNS, (asdict(point) for point in sorted(points, key=_verdict)))


def write(path: Path | str, points: Iterable[Point]) -> None:
    """Replace the file ``path`` with the points as CSV."""
    durable.write_text(path, as_csv(points))


def read(path: Path | str) -> list[Point]:
    """Read the file of :func:`write`.

    Raises:
        DataError: other columns, a value that is none, or a verdict that stands there twice; line
            and column are named.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.reader(file, strict=True)
            columns = tuple(next(reader, ()))
            if columns != COLUMNS:
                problem = f"the columns {', '.join(columns)}" if columns else "no columns"
                raise DataError(
                    f"{path}, line 1: {problem}",
                    remedy=f"wanted, in this order: {', '.join(COLUMNS)}",
                )
            lines: dict[tuple[str, str, int, int], int] = {}
            return [_row(path, reader.line_num, row, lines) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {error}", remedy=REMEDY) from error


def _row(
    path: Path | str, line: int, row: list[str], lines: dict[tuple[str, str, int, int], int]
) -> Point:
    """Read one row; ``lines`` collects the verdicts' line numbers."""
    try:
        point = _point(row)
        first = lines.setdefault(_verdict(point), line)
        if first != line:
            raise ValueError(
                f"column env_steps: {point.env_steps} of this run stands in line {first} already"
            )
    except ValueError as error:
        raise DataError(f"{path}, line {line}, {error}", remedy=REMEDY) from error
    return point


def _verdict(point: Point) -> tuple[str, str, int, int]:
    """Return the key of which there is one verdict."""
    return point.task, point.method, point.seed, point.env_steps


def _point(row: list[str]) -> Point:
    if len(row) != len(COLUMNS):
        raise ValueError(f"{len(row)} columns instead of {len(COLUMNS)}")

    text = dict(zip(COLUMNS, row, strict=True))
    seed, env_steps, episodes = (
        int(_checked(int, name, text[name])) for name in ("seed", "env_steps", "episodes")
    )
    return Point(
        task=text["task"],
        method=text["method"],
        seed=seed,
        env_steps=env_steps,
        success_rate=_checked(float, "success_rate", text["success_rate"]),
        episodes=episodes,
        jerk_rms=_checked(float, "jerk_rms", text["jerk_rms"]) if text["jerk_rms"] else None,
        wall_s=_checked(float, "wall_s", text["wall_s"]),
    )


def _checked(kind: type[int] | type[float], column: str, text: str) -> float:
    try:
        return kind(text)
    except ValueError:
        wanted = "whole number" if kind is int else "number"
        raise ValueError(f"column {column}: '{text}' is no {wanted}") from None
