"""The page of a suite: what it claims, what was seen, what it cost.  Works for any part of a suite that is done."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from zprl import durable
from zprl.bench import figures, results, statistics
from zprl.bench.results import BASE, Point, RunFacts
from zprl.bench.statistics import (
    HELD,
    NOT_HELD,
    OURS,
    QUESTIONS,
    THRESHOLDS,
    UNDECIDED,
    Claim,
    Estimate,
    Reached,
    Seeds,
)
from zprl.report.style import DARK, LIGHT, Figure
from zprl.report.tables import interval, number, percent

TEMPLATE = "page.html.j2"
VERDICTS = {HELD: "better", NOT_HELD: "worse", UNDECIDED: "open"}
"""Verdict to its class on the page."""


@dataclass(frozen=True)
class MethodInfo:
    """What a reader must know of a method.

    Attributes:
        label: Its name for people.
        source: Where it was published.
        space: Where it acts: ``latent``, ``action``, ``noise``, ``embedding``, ``weights`` or
            ``none``.
        tuning: What was tried to make it good, and on what.
    """

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
        machines: Whose seconds these are.
        methods: In order.
        missing: Runs (task, method, seed) that are not done.
        budget: Environment steps of the longest run.
    """

    suite: str
    title: str
    command: str
    commits: Sequence[str]
    wall_s: float
    machines: Sequence[str]
    methods: Mapping[str, MethodInfo]
    missing: Sequence[tuple[str, str, int]]
    budget: int


def write(
    path: Path | str, points: Sequence[Point], facts: Sequence[RunFacts], info: SuiteInfo
) -> None:
    """Write the page; it refers to nothing outside of itself."""
    durable.write_text(path, html(points, facts, info))


def html(points: Sequence[Point], facts: Sequence[RunFacts], info: SuiteInfo) -> str:
    """The page's text.  The same rows and facts give the same bytes."""
    labels = {name: method.label for name, method in info.methods.items() if name != BASE}
    spaces = {name: info.methods[name].space for name in labels}
    runs = statistics.runs(points)
    tasks = sorted({task for task, _ in runs})
    names = {BASE: "Frozen base", **labels}
    shown = [method for method in names if any((task, method) in runs for task in tasks)]
    claims = statistics.claims(points, spaces, labels, info.missing)
    middle, better = _together(runs, shown)
    pictures = {"curves": _embedded(figures.curves(points, labels, spaces))} if points else {}
    if middle:
        pictures["together"] = _embedded(figures.together(middle, better, labels, spaces))
    document = {
        "info": info,
        "ours": OURS,
        "time": duration(info.wall_s),
        "tasks": tasks,
        "seeds": sorted({seed for seeds in runs.values() for seed in seeds}),
        "names": names,
        "shown": shown,
        "trained": [method for method in shown if method != BASE],
        "looks": figures.looks(spaces),
        "claims": _claims(claims),
        "questions": {
            key: QUESTIONS[key]
            for key in QUESTIONS
            if any(claim.question == key for claim in claims)
        },
        "tally": _tally(claims),
        "success": (success := _success(runs, tasks)),
        "usual": next(
            (text for text, _ in Counter(cell["runs"] for cell in success.values()).most_common(1)),
            "",
        ),
        "middle": {
            m: {"middle": _estimate(middle[m]), "better": _estimate(better.get(m))} for m in middle
        },
        "partial": [names[m] for m in shown if m not in middle],
        "thresholds": [f"{100 * x:.0f}\N{NARROW NO-BREAK SPACE}%" for x in THRESHOLDS],
        "steps": {
            key: [_steps(statistics.steps_to(seeds, x)) for x in THRESHOLDS]
            for key, seeds in runs.items()
        },
        "way": {key: _way(seeds) for key, seeds in runs.items()},
        "smooth": {key: _smooth(key, points, seeds, facts) for key, seeds in runs.items()},
        "cost": {m: _cost([fact for fact in facts if fact.method == m]) for m in shown},
        "missing": _missing(info.missing, names),
        "pictures": pictures,
        "csv": "data:text/csv;base64," + base64.b64encode(results.as_csv(points).encode()).decode(),
        "themes": {"light": LIGHT, "dark": DARK},
    }
    # Titles and texts come from a suite that a stranger may have written: everything is escaped.
    # The look is the report's.
    loader = jinja2.ChoiceLoader(
        [jinja2.PackageLoader("zprl.bench", "."), jinja2.PackageLoader("zprl.report", ".")]
    )
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(document) + "\n"


def _together(
    runs: Mapping[tuple[str, str], Seeds], shown: Sequence[str]
) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
    """Interquartile means of the methods that are done on every task, best first, and the chance that ours is better than each."""
    complete = figures.complete(runs, shown)
    middle = {method: statistics.interquartile_mean(tasks) for method, tasks in complete.items()}
    middle = dict(sorted(middle.items(), key=lambda entry: -entry[1].value))
    if not middle.keys() - {BASE}:
        return {}, {}
    ours = complete.get(OURS)
    return middle, {
        m: statistics.improvement(ours, complete[m]) for m in middle if m != OURS
    } if ours else {}


def _claims(claims: Sequence[Claim]) -> dict[str, dict[str, dict[str, Any]]]:
    """Task to question to verdict and numbers."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for claim in claims:
        found.setdefault(claim.task, {})[claim.question] = {
            "verdict": claim.verdict,
            "tone": VERDICTS[claim.verdict],
            "text": claim.text,
            "reason": claim.reason,
            "waiting": claim.waiting,
        }
    return found


def _tally(claims: Sequence[Claim]) -> list[tuple[str, str, int, int]]:
    """Verdict, class, how many claims, of how many."""
    count = Counter(claim.verdict for claim in claims)
    return [(verdict, tone, count[verdict], len(claims)) for verdict, tone in VERDICTS.items()]


def _estimate(found: Estimate | None) -> dict[str, str] | None:
    """A share and its interval as text."""
    if found is None:
        return None
    told = (
        "one seed" if found.low is None or found.high is None else interval(found.low, found.high)
    )
    return {"value": percent(found.value), "interval": told}


def _success(
    runs: Mapping[tuple[str, str], Seeds], tasks: Sequence[str]
) -> dict[tuple[str, str], dict[str, Any]]:
    means = {key: statistics.mean(seeds) for key, seeds in runs.items()}
    best = {
        task: max(found.value for (t, _), found in means.items() if t == task) for task in tasks
    }
    cells = {}
    for (task, method), found in means.items():
        seeds = runs[task, method]
        episodes = sum(run.episodes[-1] for run in seeds.values())
        low, high = (
            (found.value, found.value)
            if found.low is None or found.high is None
            else (found.low, found.high)
        )
        cells[task, method] = {
            **(_estimate(found) or {}),
            "bar": {
                "at": round(100 * found.value, 2),
                "low": round(100 * low, 2),
                "width": round(100 * (high - low), 2),
            },
            "known": found.low is not None,
            "runs": f"{len(seeds)} seed{'' if len(seeds) == 1 else 's'}, {episodes} episodes",
            "best": found.value == best[task],
        }
    return cells


def _steps(found: Reached) -> dict[str, Any]:
    return {
        "text": statistics.steps_text(found),
        "reached": f"{found.reached} of {found.runs}",
        "all": found.reached == found.runs,
    }


def _way(seeds: Seeds) -> dict[str, str]:
    """Success while learning, how far it fell back, and its lowest."""
    return {
        **(_estimate(statistics.while_learning(seeds)) or {}),
        "fall": number(statistics.largest_fall(seeds), 1, scale=100),
        "lowest": number(statistics.lowest(seeds), 1, scale=100),
    }


def _smooth(
    key: tuple[str, str], points: Sequence[Point], seeds: Seeds, facts: Sequence[RunFacts]
) -> dict[str, str]:
    """Mean over seeds of the final policies' jerk and total variation."""
    final = {(seed, run.steps[-1]) for seed, run in seeds.items()}
    jerk = [
        point.jerk_rms
        for point in points
        if (point.task, point.method) == key and (point.seed, point.env_steps) in final
    ]
    variation = [fact.total_variation for fact in facts if (fact.task, fact.method) == key]
    return {"jerk": number(_mean(jerk), 0), "variation": number(_mean(variation), 2, scale=1000)}


def _cost(facts: Sequence[RunFacts]) -> dict[str, str]:
    """Means over a method's runs, and their sum."""
    wall, updates = _mean([fact.wall_s for fact in facts]), _mean([fact.updates for fact in facts])
    return {
        "runs": str(len(facts)),
        "wall": number(None, 0) if wall is None else duration(wall),
        "total": number(None, 0) if wall is None else duration(wall * len(facts)),
        "updates": number(None, 0) if updates is None else f"{updates:,.0f}",
        "rate": number(_mean([fact.updates_per_s for fact in facts]), 0),
    }


def _missing(
    missing: Sequence[tuple[str, str, int]], names: Mapping[str, str]
) -> list[tuple[str, str, str]]:
    """Task, method's name, and which seeds of it are missing."""
    found: dict[tuple[str, str], list[int]] = {}
    for task, method, seed in missing:
        found.setdefault((task, method), []).append(seed)
    return [
        (task, names.get(method, method), ", ".join(map(str, sorted(seeds))))
        for (task, method), seeds in sorted(found.items())
    ]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def duration(seconds: float) -> str:
    """Seconds in the unit that people would use.

    >>> duration(42), duration(1500), duration(5400), duration(400000)
    ('42 s', '25 min', '1.5 h', '111 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 360000 else f"{seconds / 3600:.0f} h"


def _embedded(picture: Figure) -> dict[str, str]:
    light, dark = (
        f"data:image/png;base64,{base64.b64encode(data).decode()}"
        for data in (picture.light, picture.dark)
    )
    return {"title": picture.title, "caption": picture.caption, "light": light, "dark": dark}
