"""The page of a suite: its claims, results and cost.

It can be made of any part of a suite that is done.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zprl import durable
from zprl.bench import claims, figures, statistics
from zprl.bench.claims import HELD, NOT_HELD, QUESTIONS, UNDECIDED, Claim
from zprl.bench.results import BASE, Point, RunFacts
from zprl.bench.statistics import OURS, THRESHOLDS, Estimate, Reached, Seeds
from zprl.report.page_template import embedded, fill
from zprl.report.style import DARK, LIGHT
from zprl.report.tables import interval, number, percent

TEMPLATE = "page.html.j2"
VERDICTS = {HELD: "better", NOT_HELD: "worse", UNDECIDED: "open"}
"""Verdict to its class on the page."""


@dataclass(frozen=True)
class MethodInfo:
    """Facts about a method for the page's reader.

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
    """Facts about a suite for the page's reader.

    Attributes:
        suite: Its name.
        title: Heading.
        command: Command line that makes the page again.
        commits: Of the code that ran.
        wall_s: Seconds of all runs, one after the other.
        machines: Machines whose seconds these are.
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
    """Write the page; it refers to nothing but the suite's table beside it."""
    durable.write_text(path, html(points, facts, info))


def html(points: Sequence[Point], facts: Sequence[RunFacts], info: SuiteInfo) -> str:
    """Return the page's text; the same rows and facts give the same bytes."""
    labels = {name: method.label for name, method in info.methods.items() if name != BASE}
    spaces = {name: info.methods[name].space for name in labels}
    names = {BASE: "Frozen base", **labels}
    runs = statistics.runs(points)
    tasks = sorted({task for task, _ in runs})
    shown = [method for method in names if any((task, method) in runs for task in tasks)]

    middle, better = _together(runs, shown)
    images = {"curves": embedded(figures.curves(points, labels, spaces))} if points else {}
    if middle:
        images["together"] = embedded(figures.together(middle, better, labels, spaces))

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
        **_claim_parts(claims.claims(points, spaces, labels, info.missing)),
        **_run_parts(runs, tasks, points, facts),
        "middle": {
            m: {"middle": _estimate(middle[m]), "better": _estimate(better.get(m))} for m in middle
        },
        "partial": [names[m] for m in shown if m not in middle],
        "thresholds": [f"{100 * x:.0f}\N{NARROW NO-BREAK SPACE}%" for x in THRESHOLDS],
        "cost": {m: _cost([fact for fact in facts if fact.method == m]) for m in shown},
        "missing": _missing(info.missing, names),
        "images": images,
        "themes": {"light": LIGHT, "dark": DARK},
    }
    return fill("zprl.bench", TEMPLATE, document)


def _claim_parts(judged: Sequence[Claim]) -> dict[str, Any]:
    """Return the page's parts about claims: by task and question, the questions, the tally."""
    by_task: dict[str, dict[str, dict[str, Any]]] = {}
    for claim in judged:
        by_task.setdefault(claim.task, {})[claim.question] = {
            "verdict": claim.verdict,
            "tone": VERDICTS[claim.verdict],
            "text": claim.text,
            "reason": claim.reason,
            "waiting": claim.waiting,
        }
    asked = {claim.question for claim in judged}
    counts = Counter(claim.verdict for claim in judged)
    return {
        "claims": by_task,
        "questions": {key: text for key, text in QUESTIONS.items() if key in asked},
        "tally": [
            (verdict, tone, counts[verdict], len(judged)) for verdict, tone in VERDICTS.items()
        ],
    }


def _run_parts(
    runs: Mapping[tuple[str, str], Seeds],
    tasks: Sequence[str],
    points: Sequence[Point],
    facts: Sequence[RunFacts],
) -> dict[str, Any]:
    """Return the page's cells by task and method."""
    success = _success(runs, tasks)
    run_counts = Counter(cell["runs"] for cell in success.values())
    return {
        "success": success,
        "usual": next((text for text, _ in run_counts.most_common(1)), ""),
        "steps": {
            key: [_steps(statistics.steps_to(seeds, x)) for x in THRESHOLDS]
            for key, seeds in runs.items()
        },
        "way": {key: _way(seeds) for key, seeds in runs.items()},
        "smooth": {key: _smooth(key, points, seeds, facts) for key, seeds in runs.items()},
    }


def _together(
    runs: Mapping[tuple[str, str], Seeds], shown: Sequence[str]
) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
    """Return two estimates by method, of those that are done on every task, best first.

    They are the interquartile mean, and the probability that ours is better.
    """
    complete = figures.complete(runs, shown)
    middle = {method: statistics.interquartile_mean(tasks) for method, tasks in complete.items()}
    middle = dict(sorted(middle.items(), key=lambda entry: -entry[1].value))
    if not middle.keys() - {BASE}:
        return {}, {}

    ours = complete.get(OURS)
    if not ours:
        return middle, {}
    return middle, {m: statistics.improvement(ours, complete[m]) for m in middle if m != OURS}


def _estimate(estimate: Estimate | None) -> dict[str, str] | None:
    """Return a share and its interval as text."""
    if estimate is None:
        return None
    low, high = estimate.low, estimate.high
    text = "one seed" if low is None or high is None else interval(low, high)
    return {"value": percent(estimate.value), "interval": text}


def _success(
    runs: Mapping[tuple[str, str], Seeds], tasks: Sequence[str]
) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the cells of final success."""
    means = {key: statistics.mean(seeds) for key, seeds in runs.items()}
    best = {task: max(mean.value for (t, _), mean in means.items() if t == task) for task in tasks}
    cells = {}
    for (task, method), mean in means.items():
        seeds = runs[task, method]
        episodes = sum(run.episodes[-1] for run in seeds.values())
        cells[task, method] = {
            **(_estimate(mean) or {}),
            "bar": _bar(mean),
            "known": mean.low is not None,
            "runs": f"{len(seeds)} seed{'' if len(seeds) == 1 else 's'}, {episodes} episodes",
            "best": mean.value == best[task],
        }
    return cells


def _bar(mean: Estimate) -> dict[str, float]:
    """Return the place of a share and its interval in a bar, in percent of its width."""
    low, high = mean.low, mean.high
    if low is None or high is None:
        low = high = mean.value
    return {
        "at": round(100 * mean.value, 2),
        "low": round(100 * low, 2),
        "width": round(100 * (high - low), 2),
    }


def _steps(reached: Reached) -> dict[str, Any]:
    return {
        "text": claims.steps_text(reached),
        "reached": f"{reached.reached} of {reached.runs}",
        "all": reached.reached == reached.runs,
    }


def _way(seeds: Seeds) -> dict[str, str]:
    """Return success while learning, its largest fall, and its lowest."""
    return {
        **(_estimate(statistics.while_learning(seeds)) or {}),
        "fall": number(statistics.largest_fall(seeds), 1, scale=100),
        "lowest": number(statistics.lowest(seeds), 1, scale=100),
    }


def _smooth(
    key: tuple[str, str], points: Sequence[Point], seeds: Seeds, facts: Sequence[RunFacts]
) -> dict[str, str]:
    """Return the mean over seeds of the final policies' jerk and total variation."""
    final = {(seed, run.steps[-1]) for seed, run in seeds.items()}
    jerk = [
        point.jerk_rms
        for point in points
        if (point.task, point.method) == key and (point.seed, point.env_steps) in final
    ]
    variation = [fact.total_variation for fact in facts if (fact.task, fact.method) == key]
    return {"jerk": number(_mean(jerk), 0), "variation": number(_mean(variation), 2, scale=1000)}


def _cost(facts: Sequence[RunFacts]) -> dict[str, str]:
    """Return the means over a method's runs, and their sum."""
    wall = _mean([fact.wall_s for fact in facts])
    updates = _mean([fact.updates for fact in facts])
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
    """Return task, method's name, and its missing seeds."""
    by_method: dict[tuple[str, str], list[int]] = {}
    for task, method, seed in missing:
        by_method.setdefault((task, method), []).append(seed)
    return [
        (task, names.get(method, method), ", ".join(map(str, sorted(seeds))))
        for (task, method), seeds in sorted(by_method.items())
    ]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def duration(seconds: float) -> str:
    """Return seconds in the unit that people would use.

    >>> duration(42), duration(1500), duration(5400), duration(400000)
    ('42 s', '25 min', '1.5 h', '111 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 360000 else f"{seconds / 3600:.0f} h"
