"""Results of a suite as rows: one per judged point of a run, in memory and as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

from zprl import durable
from zprl.errors import DataError


@dataclass(frozen=True, order=True)
class Point:
    """One verdict on one policy.

    Attributes:
        task: Registered task.
        method: How the policy was made; ``base`` is the frozen policy itself.
        seed: Training seed.
        env_steps: Environment steps of training so far; 0 is the base policy.
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
        """Refuse numbers that no verdict can have."""
        if not (0 <= self.success_rate <= 1 and self.episodes >= 1 and self.env_steps >= 0 and self.seed >= 0):
            raise ValueError("success_rate in [0, 1], episodes from 1, env_steps and seed from 0 are wanted")
        if not (math.isfinite(self.wall_s) and self.wall_s >= 0) or not (self.jerk_rms is None or 0 <= self.jerk_rms < math.inf):
            raise ValueError("wall_s and jerk_rms must be finite and not negative")


COLUMNS = tuple(field.name for field in fields(Point))


@dataclass(frozen=True)
class RunFacts:
    """What a run cost and how its final policy moves.

    Attributes:
        task: Registered task.
        method: Method.
        seed: Training seed.
        updates: Gradient updates.
        updates_per_s: Updates per second of training, simulation included; ``None`` where there is none.
        total_variation: Of the commanded position [m per step].
        wall_s: Seconds of the whole run, judging included.
        commit: Of the code.
    """

    task: str
    method: str
    seed: int
    updates: int
    updates_per_s: float | None
    total_variation: float | None
    wall_s: float
    commit: str | None


def as_csv(points: Iterable[Point]) -> str:
    """Rows in the order task, method, seed, env_steps."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for point in sorted(points, key=lambda p: (p.task, p.method, p.seed, p.env_steps)):
        writer.writerow(["" if (value := getattr(point, name)) is None else value for name in COLUMNS])
    return text.getvalue()


def write(path: Path | str, points: Iterable[Point]) -> None:
    """Replace the file ``path``."""
    durable.write_text(path, as_csv(points))


def read(path: Path | str) -> list[Point]:
    """Read what :func:`write` wrote.

    Raises:
        DataError: other columns, or a value that is none; the line is named.
    """
    try:
        with open(path, newline="") as file:
            reader = csv.reader(file)
            found = tuple(next(reader, ()))
            if found != COLUMNS:
                raise DataError(f"{path} has the columns {', '.join(found)}", remedy=f"wanted: {', '.join(COLUMNS)}")
            return [_point(path, number, row) for number, row in enumerate(reader, start=2)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {error}", remedy="write it again with `zprl bench ... --page`") from error


def _point(path: Path | str, line: int, row: list[str]) -> Point:
    try:
        task, method, seed, env_steps, success_rate, episodes, jerk_rms, wall_s = row
        jerk = float(jerk_rms) if jerk_rms else None
        return Point(task, method, int(seed), int(env_steps), float(success_rate), int(episodes), jerk, float(wall_s))
    except ValueError as error:
        raise DataError(f"{path}, line {line}: {error}", remedy=f"wanted: {', '.join(COLUMNS)}") from error
