"""Claims of a suite's page: sentences about our method that the numbers hold or do not hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from zprl.bench.results import BASE, Point
from zprl.bench.statistics import OURS, Reached, Seeds, difference, mean, runs, steps_to
from zprl.report.tables import percent

HELD = "held"
NOT_HELD = "not held"
UNDECIDED = "undecided"
Answer = tuple[str, str, str]
"""Verdict, numbers, and the reason where it is undecided."""
NAMED = 3
"""Methods whose missing runs are named; of more, the number is given."""
SPEED = 0.9
"""The success whose environment steps are compared."""
FASTER = 2.0
"""Least ratio of the steps of the best rival in action space to ours."""
QUESTIONS = {
    "success": "No rival ends better",
    "speed": f"{SPEED:.0%} success in half the steps of action space".replace(
        "%", "\N{NARROW NO-BREAK SPACE}%"
    ),
}


@dataclass(frozen=True)
class Claim:
    """A sentence that the numbers hold or do not hold.

    Attributes:
        task: Registered task.
        question: Key of :data:`QUESTIONS`.
        verdict: :data:`HELD`, :data:`NOT_HELD` or :data:`UNDECIDED`.
        text: The numbers.
        reason: Why it is undecided, else empty.
        waiting: Runs that it is about are missing: the numbers are those so far.
    """

    task: str
    question: str
    verdict: str
    text: str
    reason: str = ""
    waiting: bool = False


def rivals(spaces: Mapping[str, str]) -> list[str]:
    """Return the methods that act elsewhere than in the latent: there act variants of ours."""
    return [
        method
        for method, space in spaces.items()
        if method not in (OURS, BASE) and space != "latent"
    ]


def claims(
    points: Sequence[Point],
    spaces: Mapping[str, str],
    labels: Mapping[str, str],
    missing: Iterable[tuple[str, str, int]] = (),
) -> list[Claim]:
    """Judge the claims about our method, task by task.

    *Success*: against each rival, the interval of the difference of mean final success
    (:func:`~zprl.bench.statistics.difference`) is not entirely below zero.  It is not corrected for
    their number, so more rivals make it harder.  *Speed*: our median steps to 0.9 are at most half
    of those of the fastest rival that acts on actions; a rival that never gets there needs more
    than its budget.  Speed has no interval.

    A claim is undecided while a run that it is about is missing, and where there is one seed only.

    Args:
        points: All rows.
        spaces: Every method of the suite to the space in which it acts.
        labels: Every method to its name for people.
        missing: Runs (task, method, seed) that are not done.

    Returns:
        None where the suite has no rival, or not our method.
    """
    every = rivals(spaces)
    if OURS not in spaces or not every:
        return []

    action = [method for method in every if spaces[method] == "action"]
    questions = (("success", every, _success), ("speed", action, _speed))
    done = runs(points)
    missing = list(missing)
    return [
        _claim(task, question, {OURS, *against}, check, done, missing, labels)
        for task in sorted({point.task for point in points} | {task for task, _, _ in missing})
        for question, against, check in questions
        if against
    ]


def _claim(
    task: str,
    question: str,
    concerned: set[str],
    check: Callable[[Mapping[str, Seeds], Mapping[str, str]], Answer],
    done: Mapping[tuple[str, str], Seeds],
    missing: Sequence[tuple[str, str, int]],
    labels: Mapping[str, str],
) -> Claim:
    """Judge one question on one task; it is undecided while runs of ``concerned`` are missing."""
    methods = {method: done[task, method] for method in concerned if (task, method) in done}
    verdict, text, reason = check(methods, labels)

    unfinished = {method for of_task, method, _ in missing if of_task == task}
    unfinished |= concerned - methods.keys()
    waiting = [labels[method] for method in labels if method in unfinished & concerned]
    if waiting:
        verdict = UNDECIDED
        named = ", ".join(waiting) if len(waiting) <= NAMED else f"{len(waiting)} methods"
        reason = f"runs of {named} are missing"
    return Claim(task, question, verdict, text, reason, bool(waiting))


def _success(methods: Mapping[str, Seeds], labels: Mapping[str, str]) -> Answer:
    """Judge final success against every rival."""
    if OURS not in methods:
        return UNDECIDED, "", "no run of ours"
    ours, name = methods[OURS], labels[OURS]
    gaps = {
        m: difference(ours, methods[m])
        for m in labels
        if m in methods and m != OURS and methods[m].keys() & ours.keys()
    }
    if not gaps:
        return UNDECIDED, f"{name} {percent(mean(ours).value)}", "no rival has a seed in common"

    best = min(gaps, key=lambda m: gaps[m].value)
    gap = gaps[best]
    text = f"{_levels(methods, best, labels)}; difference {_signed(gap.value)} points"
    if any(g.low is None for g in gaps.values()):
        return UNDECIDED, text, "one seed"

    text += f" [{_signed(gap.low or 0.0)}, {_signed(gap.high or 0.0)}]"
    worse = [labels[m] for m, g in gaps.items() if g.high is not None and g.high < 0]
    if worse:
        return NOT_HELD, f"{text}; clearly better than {name}: {', '.join(worse)}", ""

    above = sum(g.low is not None and g.low > 0 for g in gaps.values())
    text += f"; {name} is clearly better than {above} of {len(gaps)}"
    ahead = [labels[m] for m, g in gaps.items() if g.value < 0]
    if ahead:
        text += f"; ahead within the interval: {', '.join(ahead)}"
    return HELD, text, ""


def _levels(methods: Mapping[str, Seeds], best: str, labels: Mapping[str, str]) -> str:
    """Return the mean final success of ours and of the best rival, over the seeds both have."""
    ours, rival = methods[OURS], methods[best]
    shared = sorted(ours.keys() & rival.keys())
    our_level, rival_level = (
        percent(float(np.mean([side[seed].rates[-1] for seed in shared]))) for side in (ours, rival)
    )
    return f"{labels[OURS]} {our_level}; best rival {labels[best]} {rival_level}"


def _speed(methods: Mapping[str, Seeds], labels: Mapping[str, str]) -> Answer:
    """Judge the steps to :data:`SPEED` against the fastest rival on actions."""
    reached = {m: steps_to(methods[m], SPEED) for m in labels if m in methods}
    if OURS not in reached:
        return UNDECIDED, "", "no run of ours"
    ours = reached.pop(OURS)
    text = f"{labels[OURS]} {steps_text(ours)}"
    if not reached:
        return UNDECIDED, text, "no rival yet"

    best = min(reached, key=lambda m: (reached[m].steps, reached[m].budget))
    theirs = reached[best]
    text += f"; fastest rival on actions, {labels[best]}, {steps_text(theirs)}"
    if 0 < ours.steps < math.inf and theirs.steps < math.inf:
        text += f"; {theirs.steps / ours.steps:.1f} times as many"

    verdict, reason = _faster(ours, theirs)
    return verdict, text, reason


def _faster(ours: Reached, theirs: Reached) -> tuple[str, str]:
    """Return the verdict on speed, and the reason where it is undecided."""
    if min(ours.runs, theirs.runs) < 2:
        return UNDECIDED, "one seed"
    if ours.steps == theirs.steps == 0:
        return UNDECIDED, "the frozen base is there already"
    if ours.steps == theirs.steps == math.inf:
        return UNDECIDED, "neither gets there"
    if ours.steps == math.inf:
        return NOT_HELD, ""
    if theirs.steps < math.inf:
        return (HELD if FASTER * ours.steps <= theirs.steps else NOT_HELD), ""

    # The only thing known of the rival is that it needs more than its budget.
    if FASTER * ours.steps <= theirs.budget:
        return HELD, ""
    return UNDECIDED, "the budget is too small to tell"


def steps_text(reached: Reached) -> str:
    """Return environment steps as text, or that they are beyond the budget.

    >>> steps_text(Reached(12500.0, 3, 3, 100000)), steps_text(Reached(math.inf, 1, 3, 100000))
    ('12,500', '> 100,000')
    """
    return f"> {reached.budget:,}" if reached.steps == math.inf else f"{reached.steps:,.0f}"


def _signed(value: float) -> str:
    """Return a difference of shares in percentage points, with its sign and a real minus.

    >>> _signed(-0.07), _signed(0.0)
    ('−7.0', '+0.0')
    """
    return f"{100 * value:+.1f}".replace("-", "\N{MINUS SIGN}")
