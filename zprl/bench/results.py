"""Results of a suite: its finished runs as JSON, from which a suite goes on elsewhere, and their judged points as CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from zprl import durable
from zprl.errors import DataError

BASE = "base"
"""Method of the frozen policies themselves."""
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
        """Refuse what no verdict can be, naming the column."""
        _want("task", bool(self.task), "is empty")
        _want("method", bool(self.method), "is empty")
        _want("seed", self.seed >= 0, f"{self.seed} is negative")
        _want("env_steps", self.env_steps >= 0, f"{self.env_steps} is negative")
        _want(
            "env_steps",
            self.method != BASE or self.env_steps == 0,
            f"{self.env_steps}, but the frozen base is not trained",
        )
        _want(
            "success_rate", 0 <= self.success_rate <= 1, f"{self.success_rate} is not within [0, 1]"
        )
        _want("episodes", self.episodes >= 1, f"{self.episodes} is less than one")
        _want(
            "jerk_rms",
            self.jerk_rms is None or 0 <= self.jerk_rms < math.inf,
            f"{self.jerk_rms} is negative or not finite",
        )
        _want("wall_s", 0 <= self.wall_s < math.inf, f"{self.wall_s} is negative or not finite")


def _want(column: str, fine: bool, problem: str) -> None:
    if not fine:
        raise ValueError(f"column {column}: {problem}")


COLUMNS = tuple(field.name for field in fields(Point))


@dataclass(frozen=True)
class RunFacts:
    """What a run cost and how its final policy moves.

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
    """What came out of one cell, and what it came from.

    Attributes:
        key: Of the cell's numbers.
        stood_on: Digest of the frozen policy that it improved; ``None`` where it made one itself.
        policy: Digest of the frozen policy that it made; ``None`` where it improved one.
        facts: What it cost.
        points: Its verdicts; the last is the final one.
    """

    key: str
    stood_on: str | None
    policy: str | None
    facts: RunFacts
    points: tuple[Point, ...]

    def __post_init__(self) -> None:
        """Refuse what no run can be."""
        _want("points", bool(self.points), "are none")
        _want(
            "policy",
            (self.policy is None) != (self.stood_on is None),
            "is neither made nor improved, or both",
        )

    def named(self, method: str) -> FinishedRun:
        """The same run under another method's name: another suite may call the same numbers differently."""
        points = tuple(replace(point, method=method) for point in self.points)
        return replace(self, facts=replace(self.facts, method=method), points=points)


_RUNS = TypeAdapter(list[FinishedRun])


def write_runs(path: Path | str, found: Iterable[FinishedRun]) -> None:
    """Replace the file ``path``: a run a line, in the order task, method, seed."""
    ordered = sorted(found, key=lambda run: (run.facts.task, run.facts.method, run.facts.seed))
    durable.write_text(
        path,
        "[\n" + ",\n".join(json.dumps(asdict(run), sort_keys=True) for run in ordered) + "\n]\n",
    )


def read_runs(path: Path | str) -> list[FinishedRun]:
    """Read what :func:`write_runs` wrote.

    Raises:
        DataError: it is not that.
    """
    try:
        return _RUNS.validate_python(durable.read_json(path, limit=MAX_RUNS), strict=False)
    except ValidationError as error:
        said = "; ".join(f"{e['loc']}: {e['msg']}" for e in error.errors(include_url=False)[:3])
        raise DataError(
            f"{path} cannot be read: {said}",
            remedy="remove it; the suite's command writes it again",
        ) from error


def as_csv(points: Iterable[Point]) -> str:
    """Rows in the order task, method, seed, env_steps."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for point in sorted(points, key=_verdict):
        writer.writerow(
            ["" if (value := getattr(point, name)) is None else value for name in COLUMNS]
        )
    return text.getvalue()


def write(path: Path | str, points: Iterable[Point]) -> None:
    """Replace the file ``path``."""
    durable.write_text(path, as_csv(points))


def read(path: Path | str) -> list[Point]:
    """Read what :func:`write` wrote.

    Raises:
        DataError: other columns, a value that is none, or a verdict that stands there twice; line
            and column are named.
    """
    remedy = "write it again: run the suite's command again"
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.reader(file, strict=True)
            found = tuple(next(reader, ()))
            if found != COLUMNS:
                told = f"the columns {', '.join(found)}" if found else "no columns"
                raise DataError(
                    f"{path}, line 1: {told}", remedy=f"wanted, in this order: {', '.join(COLUMNS)}"
                )
            lines: dict[tuple[str, str, int, int], int] = {}
            points = []
            for row in reader:
                try:
                    point = _point(row)
                    if (
                        first := lines.setdefault(_verdict(point), reader.line_num)
                    ) != reader.line_num:
                        raise ValueError(
                            f"column env_steps: {point.env_steps} of this run stands in line {first} already"
                        )
                except ValueError as error:
                    raise DataError(
                        f"{path}, line {reader.line_num}, {error}", remedy=remedy
                    ) from error
                points.append(point)
            return points
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {error}", remedy=remedy) from error


def _verdict(point: Point) -> tuple[str, str, int, int]:
    """What there is one verdict of."""
    return point.task, point.method, point.seed, point.env_steps


def _point(row: list[str]) -> Point:
    if len(row) != len(COLUMNS):
        raise ValueError(f"{len(row)} columns instead of {len(COLUMNS)}")
    text = dict(zip(COLUMNS, row, strict=True))
    whole = {
        name: int(_checked(int, name, text[name])) for name in ("seed", "env_steps", "episodes")
    }
    real = {name: _checked(float, name, text[name]) for name in ("success_rate", "wall_s")}
    jerk = _checked(float, "jerk_rms", text["jerk_rms"]) if text["jerk_rms"] else None
    return Point(task=text["task"], method=text["method"], jerk_rms=jerk, **whole, **real)


def _checked(kind: type[int] | type[float], column: str, text: str) -> float:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(
            f"column {column}: '{text}' is no {'whole number' if kind is int else 'number'}"
        ) from None
