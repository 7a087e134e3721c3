"""The page of a suite: what it claims, what was seen, what it cost.  Works for any part of a suite that is done."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from zprl import durable
from zprl.bench import figures, results, statistics
from zprl.bench.results import Point, RunFacts
from zprl.bench.statistics import BASE, THRESHOLDS, Estimate
from zprl.report.style import DARK, LIGHT, Picture

TEMPLATE = "page.html.j2"
NOTHING = "\N{EN DASH}"


@dataclass(frozen=True)
class MethodInfo:
    """What a reader must know of a method; see :class:`zprl.bench.suite.Method`."""

    label: str
    source: str
    space: str
    tuning: str


@dataclass(frozen=True)
class SuiteInfo:
    """What a reader must know of a suite.

    Attributes:
        suite: Its name.
        title: Heading.
        command: What makes the page again.
        commits: Of the code that ran.
        wall_s: Seconds of all runs, one after the other.
        machine: In words.
        methods: In order.
        missing: (task, method, seed) that are not done.
        budget: Environment steps of a run.
    """

    suite: str
    title: str
    command: str
    commits: tuple[str, ...]
    wall_s: float
    machine: str
    methods: Mapping[str, MethodInfo]
    missing: Sequence[tuple[str, str, int]]
    budget: int


def write(path: Path | str, points: Sequence[Point], facts: Sequence[RunFacts], info: SuiteInfo) -> None:
    """Write the page; it refers to nothing outside of itself."""
    durable.write_text(path, html(points, facts, info))


def html(points: Sequence[Point], facts: Sequence[RunFacts], info: SuiteInfo) -> str:
    """The page's text."""
    labels = {name: method.label for name, method in info.methods.items()}
    spaces = {name: method.space for name, method in info.methods.items()}
    finals = statistics.finals(points)
    tasks = sorted({point.task for point in points})
    shown = [name for name in (BASE, *labels) if any(method == name for _, method in finals)]
    best = {task: max(statistics.mean(statistics.rates(finals[task, m])).value for m in shown if (task, m) in finals) for task in tasks}
    steps = {threshold: statistics.steps_to(points, threshold) for threshold in THRESHOLDS}
    pictures = [figures.curves(points, labels), figures.together(points, labels)]
    document = {
        "info": info,
        "hours": f"{info.wall_s / 3600:.1f}",
        "tasks": tasks,
        "claims": statistics.claims(points, spaces, labels, info.budget),
        "paint": {name: colour for name, (colour, _) in figures.colours([m for m in labels if m in shown]).items()},
        "methods": [(name, labels.get(name, "Base policy")) for name in shown],
        "success": {(t, m): _success(finals.get((t, m)), best[t]) for t in tasks for m in shown},
        "thresholds": THRESHOLDS,
        "steps": {(t, m, x): _steps(steps[x].get((t, m)), info.budget) for t in tasks for m in shown if m != BASE for x in THRESHOLDS},
        "smooth": {(t, m): _smooth(finals.get((t, m)), _of(facts, t, m)) for t in tasks for m in shown},
        "cost": {m: _cost([fact for fact in facts if fact.method == m]) for m in shown},
        "pictures": [_embedded(found) for found in pictures if found is not None],
        "csv": "data:text/csv;base64," + base64.b64encode(results.as_csv(points).encode()).decode(),
        "themes": {"light": LIGHT, "dark": DARK},
    }
    loader = jinja2.ChoiceLoader([jinja2.PackageLoader("zprl.bench", "."), jinja2.PackageLoader("zprl.report", ".")])
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template(TEMPLATE).render(document) + "\n"


def _of(facts: Sequence[RunFacts], task: str, method: str) -> list[RunFacts]:
    return [fact for fact in facts if (fact.task, fact.method) == (task, method)]


def _success(runs: Mapping[int, Point] | None, best: float) -> dict[str, Any] | None:
    if not runs:
        return None
    found: Estimate = statistics.mean(statistics.rates(runs))
    seeds = "one seed" if len(runs) == 1 else f"{len(runs)} seeds"
    return {
        "value": f"{found.value:.3f}",
        "interval": f"[{found.low:.2f}, {found.high:.2f}]",
        "seeds": f"{seeds}, {sum(point.episodes for point in runs.values())} episodes",
        "best": found.value >= best,
    }


def _steps(value: float | None, budget: int) -> str:
    if value is None:
        return NOTHING
    return f"> {budget / 1000:.0f}k" if value == math.inf else f"{value / 1000:.0f}k"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _smooth(runs: Mapping[int, Point] | None, facts: Sequence[RunFacts]) -> dict[str, str] | None:
    if not runs:
        return None
    jerk, variation = _mean([point.jerk_rms for point in runs.values()]), _mean([fact.total_variation for fact in facts])
    return {"jerk": NOTHING if jerk is None else f"{jerk:.0f}", "variation": NOTHING if variation is None else f"{1000 * variation:.1f}"}


def _cost(facts: Sequence[RunFacts]) -> dict[str, str]:
    wall, rate, updates = (_mean([getattr(fact, name) for fact in facts]) for name in ("wall_s", "updates_per_s", "updates"))
    texts = {"wall": wall and f"{wall / 60:.1f}", "rate": rate and f"{rate:.0f}", "updates": updates and f"{updates:,.0f}"}
    return {name: text or NOTHING for name, text in texts.items()}


def _embedded(picture: Picture) -> dict[str, str]:
    light, dark = (f"data:image/png;base64,{base64.b64encode(data).decode()}" for data in (picture.light, picture.dark))
    return {"title": picture.title, "caption": picture.caption, "light": light, "dark": dark}
