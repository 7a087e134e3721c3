"""What few runs allow to say, after Agarwal et al. 2021 (arXiv 2108.13264; their library is ``rliable``).

A run is one (task, method, seed).  Its final success is the verdict after the most environment
steps.

Intervals are 95 % percentile bootstrap intervals (Efron 1979) of :data:`DRAWS` draws.  A draw takes
as many seeds as there are, with replacement and within each task (the paper's stratified
bootstrap), and then plays every taken run's episodes again: Binomial(n, p) / n (ours).  The second
step is there because three seeds that happen to agree would otherwise have an interval without
width, and a rival one episode behind would count as beaten.  It counts the episodes' noise twice,
since seeds differ by it already: the intervals are rather too wide than too narrow, which also
makes up for the (n - 1) / n by which resampling n seeds understates their variance. One seed says
nothing about seeds: there is no interval then.

Everything is a pure function of the rows; their order does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from statistics import median

import numpy as np
from scipy.stats import trim_mean

from zprl import seeding
from zprl.bench.results import BASE, Point
from zprl.report.tables import percent

OURS = "zprl"
"""The method whose claims are checked."""
DRAWS = 2000
"""The paper's library draws as often by default."""
SEED = 0
LEVELS = (2.5, 97.5)
CUT = 0.25
"""Share of runs left out at either end of the interquartile mean (the paper)."""
THRESHOLDS = (0.5, 0.9, 0.95)


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval.

    Attributes:
        value: Of the data as they are.
        low: Lower end; ``None`` where a task has one seed only.
        high: Upper end.
    """

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class MeasuredRun:
    """The verdicts on one run, by rising environment steps.

    Attributes:
        steps: Environment steps (K,).
        rates: Success rates (K,).
        episodes: Episodes each was judged by (K,).
    """

    steps: tuple[int, ...]
    rates: tuple[float, ...]
    episodes: tuple[int, ...]

    @property
    def final(self) -> MeasuredRun:
        """The last verdict alone."""
        return MeasuredRun(self.steps[-1:], self.rates[-1:], self.episodes[-1:])


Seeds = Mapping[int, MeasuredRun]
"""Runs of one method on one task, by seed."""


def runs(points: Iterable[Point]) -> dict[tuple[str, str], dict[int, MeasuredRun]]:
    """(task, method) to seed to run, all sorted."""
    rows: dict[tuple[str, str], dict[int, list[Point]]] = {}
    for point in sorted(points, key=lambda p: (p.task, p.method, p.seed, p.env_steps)):
        rows.setdefault((point.task, point.method), {}).setdefault(point.seed, []).append(point)
    return {
        key: {
            seed: MeasuredRun(
                tuple(p.env_steps for p in run),
                tuple(p.success_rate for p in run),
                tuple(p.episodes for p in run),
            )
            for seed, run in seeds.items()
        }
        for key, seeds in rows.items()
    }


def finals(seeds: Seeds) -> list[float]:
    """Final success of each run, by rising seed."""
    return [run.rates[-1] for _, run in sorted(seeds.items())]


# -- resampling ------------------------------------------------------------------------------------


def _picks(seeds: Sized, generator: np.random.Generator) -> np.ndarray:
    """Which seeds a draw takes, as places in their order (DRAWS, seeds)."""
    return generator.integers(len(seeds), size=(DRAWS, len(seeds)))


def _drawn(
    seeds: Seeds, picks: np.ndarray, generator: np.random.Generator, grid: np.ndarray | None = None
) -> np.ndarray:
    """Rates of the picked runs, their episodes played again.

    A run that is picked twice plays twice.

    Returns:
        (DRAWS, seeds, G) along ``grid`` (G,), or (DRAWS, seeds, 1) where there is none: the final
        success.
    """
    drawn = np.empty((*picks.shape, 1 if grid is None else len(grid)))
    for place, (_, run) in enumerate(sorted(seeds.items())):
        shown, picked = run.final if grid is None else run, picks == place
        played = generator.binomial(
            shown.episodes, shown.rates, (picked.sum(), len(shown.rates))
        ) / np.array(shown.episodes)
        drawn[picked] = _along(shown, grid, played)
    return drawn


def _along(run: MeasuredRun, grid: np.ndarray | None, rates: np.ndarray) -> np.ndarray:
    """Rates (..., K) at the run's judged points, interpolated linearly along ``grid`` (G,); those points themselves stay as they are."""
    if grid is None:
        return rates
    hats = np.stack([np.interp(grid, run.steps, unit) for unit in np.eye(len(run.steps))])  # (K, G)
    return rates @ hats


def _grid(runs: Iterable[MeasuredRun]) -> np.ndarray:
    """All judged points (G,) of several runs, from where the last begins to where the first ends."""
    every = list(runs)
    first, last = max(run.steps[0] for run in every), min(run.steps[-1] for run in every)
    return np.array(sorted({step for run in every for step in run.steps if first <= step <= last}))


def _estimate(value: float, draws: np.ndarray, *, known: bool) -> Estimate:
    """A value with the percentiles of its draws (DRAWS,), where they are ``known`` to mean something."""
    if not known:
        return Estimate(value)
    low, high = np.percentile(draws, LEVELS)
    # A share's draws lean towards the middle where it is 0 or 1; the interval still holds what was
    # measured.
    return Estimate(value, min(float(low), value), max(float(high), value))


def _generator(purpose: str) -> np.random.Generator:
    return seeding.numpy_generator(SEED, f"bench {purpose}")


# -- estimates -------------------------------------------------------------------------------------


def mean(seeds: Seeds) -> Estimate:
    """Mean final success over seeds."""
    generator = _generator("mean")
    draws = _drawn(seeds, _picks(seeds, generator), generator)[..., 0].mean(1)
    return _estimate(float(np.mean(finals(seeds))), draws, known=len(seeds) > 1)


def difference(ours: Seeds, theirs: Seeds) -> Estimate:
    """Mean final success of ``ours`` minus ``theirs``.

    Only seeds that both have count, and they are taken together: a seed's runs share demonstrations
    and base policy.

    Raises:
        ValueError: no seed in common.
    """
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        raise ValueError("no seed in common")
    generator = _generator("difference")
    picks = _picks(shared, generator)
    mine, other = (
        _drawn({seed: side[seed] for seed in shared}, picks, generator)[..., 0]
        for side in (ours, theirs)
    )
    value = float(np.mean([ours[seed].rates[-1] - theirs[seed].rates[-1] for seed in shared]))
    return _estimate(value, (mine - other).mean(1), known=len(shared) > 1)


def interquartile_mean(tasks: Mapping[str, Seeds]) -> Estimate:
    """Mean of the middle half of a method's runs, of all tasks together (Agarwal et al. 2021, section 4.3).

    Args:
        tasks: Task to its runs.
    """
    generator = _generator("interquartile mean")
    draws = np.concatenate(
        [
            _drawn(seeds, _picks(seeds, generator), generator)[..., 0]
            for _, seeds in sorted(tasks.items())
        ],
        1,
    )
    value = float(
        trim_mean([rate for _, seeds in sorted(tasks.items()) for rate in finals(seeds)], CUT)
    )
    return _estimate(
        value, trim_mean(draws, CUT, axis=1), known=all(len(seeds) > 1 for seeds in tasks.values())
    )


def improvement(ours: Mapping[str, Seeds], theirs: Mapping[str, Seeds]) -> Estimate:
    """Probability that a run of ours beats one of theirs on a task taken at random (Agarwal et al. 2021, section 4.3).

    Per task the share of pairs of runs of which ours is better, a tie counting one half (Mann and
    Whitney 1947); then the mean over tasks.

    Args:
        ours: Task to runs.
        theirs: The same tasks to runs.

    Raises:
        ValueError: the tasks differ.
    """
    if ours.keys() != theirs.keys() or not ours:
        raise ValueError("both methods need runs on the same tasks")

    def share(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Of rates (..., n) and (..., m)."""
        first, second = first[..., :, None], second[..., None, :]
        return ((first > second) + 0.5 * (first == second)).mean((-2, -1))

    generator = _generator("improvement")
    draws, values = [], []
    for task in sorted(ours):
        mine, other = (
            _drawn(side[task], _picks(side[task], generator), generator)[..., 0]
            for side in (ours, theirs)
        )
        draws.append(share(mine, other))
        values.append(float(share(np.array(finals(ours[task])), np.array(finals(theirs[task])))))
    known = all(len(seeds) > 1 for tasks in (ours, theirs) for seeds in tasks.values())
    return _estimate(float(np.mean(values)), np.mean(draws, 0), known=known)


@dataclass(frozen=True)
class Curve:
    """Success while training.

    Attributes:
        steps: Environment steps (G,).
        values: Success (G,).
        low: Lower end of the interval (G,); ``None`` where a task has one seed only.
        high: Upper end (G,).
    """

    steps: np.ndarray
    values: np.ndarray
    low: np.ndarray | None
    high: np.ndarray | None


def curve(tasks: Mapping[str, Seeds]) -> Curve:
    """Success against environment steps: the mean over seeds of one task, the interquartile mean over several.

    Its points are all judged points up to where the shortest run ends.  Between a run's own judged
    points it is interpolated linearly: this happens where tasks or seeds were judged at different
    steps.  Intervals hold point by point, not for the curve as a whole.
    """
    grid = _grid(run for seeds in tasks.values() for run in seeds.values())
    generator = _generator("curve")
    draws = np.concatenate(
        [
            _drawn(seeds, _picks(seeds, generator), generator, grid)
            for _, seeds in sorted(tasks.items())
        ],
        1,
    )  # (DRAWS, runs, G)
    whole = np.stack(
        [
            _along(run, grid, np.array(run.rates))
            for _, seeds in sorted(tasks.items())
            for _, run in sorted(seeds.items())
        ]
    )
    cut = 0.0 if len(tasks) == 1 else CUT
    values = trim_mean(whole, cut, axis=0)
    if any(len(seeds) < 2 for seeds in tasks.values()):
        return Curve(grid, values, None, None)
    low, high = np.percentile(trim_mean(draws, cut, axis=1), LEVELS, axis=0)
    return Curve(grid, values, np.minimum(low, values), np.maximum(high, values))


def while_learning(seeds: Seeds) -> Estimate:
    """Mean success while training: the area below the curve of one task over its environment steps.  What a robot lives through.

    Up to where the shortest run ends; between judged points the curve is straight.
    """
    grid = _grid(seeds.values())
    if len(grid) < 2:
        return mean(seeds)
    generator = _generator("while learning")

    def area(rates: np.ndarray) -> np.ndarray:
        return np.trapezoid(rates, grid, axis=-1) / (grid[-1] - grid[0])

    draws = area(_drawn(seeds, _picks(seeds, generator), generator, grid)).mean(1)
    value = float(np.mean([area(_along(run, grid, np.array(run.rates))) for run in seeds.values()]))
    return _estimate(value, draws, known=len(seeds) > 1)


def largest_fall(seeds: Seeds) -> float | None:
    """How far success fell below what the same run had reached before, in the run and at the verdict where that is most.

    The largest drawdown (Chan et al. 2020, arXiv 1912.05663, whose measure of risk over time is its
    expected worst part), of the verdicts along the way alone: the base's and the final one are of
    other start states, and a harder draw of those is no fall.  Few episodes a verdict make a fall
    of their own.  None where no run has two such verdicts.  A collapse at the first of them shows
    in :func:`lowest`.
    """
    ways = [np.array(run.rates[1:-1]) for run in seeds.values()]
    return max(
        (float(np.max(np.maximum.accumulate(way) - way)) for way in ways if len(way) > 1),
        default=None,
    )


def lowest(seeds: Seeds) -> float | None:
    """The lowest success that a verdict along the way found in any run (ours); None where there are no such verdicts."""
    return min((rate for run in seeds.values() for rate in run.rates[1:-1]), default=None)


@dataclass(frozen=True)
class Reached:
    """When the runs of a method on a task reached a success.

    Attributes:
        steps: Median over seeds of the first judged point at or above it; infinite where it lies
            beyond the budget.
        reached: How many runs reached it.
        runs: Of how many.
        budget: Environment steps of the shortest run: an infinite median is more than this.
    """

    steps: float
    reached: int
    runs: int
    budget: int


def steps_to(seeds: Seeds, threshold: float) -> Reached:
    """Environment steps to a success of ``threshold``.

    Nothing is interpolated.  A run that never gets there is censored: it counts as later than any
    that did, so the median is known as long as more than half of the runs get there.
    """
    first = [
        min(
            (s for s, rate in zip(run.steps, run.rates, strict=True) if rate >= threshold),
            default=math.inf,
        )
        for run in seeds.values()
    ]
    budget = min(run.steps[-1] for run in seeds.values())
    return Reached(
        float(median(first)), sum(steps < math.inf for steps in first), len(first), budget
    )


# -- what the page claims --------------------------------------------------------------------------

HELD, NOT_HELD, UNDECIDED = "held", "not held", "undecided"
SPEED = 0.9
"""The success whose environment steps are compared."""
FASTER = 2.0
"""How many times fewer steps than the best rival in action space."""
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
    """Methods that act elsewhere than in the latent; those that act there are variants of ours."""
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
    """What our method claims, task by task.

    *Success*: against each rival, the interval of the difference of mean final success (:func:`difference`) is not entirely below zero.
    It is not corrected for their number, so more rivals make it harder.  *Speed*: our median steps
    to 0.9 are at most half of those of the fastest rival that acts on actions; a rival that never
    gets there needs more than its budget.  Speed has no interval.

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
    found, missing = runs(points), list(missing)
    action = [method for method in every if spaces[method] == "action"]
    result = []
    for task in sorted({point.task for point in points} | {task for task, _, _ in missing}):
        for question, against, check in (("success", every, _success), ("speed", action, _speed)):
            if not against:
                continue
            concerned = {OURS, *against}
            left = {m for t, m, _ in missing if t == task} | {
                m for m in concerned if (task, m) not in found
            }
            waiting = [labels[m] for m in spaces if m in left & concerned]
            verdict, text, reason = check(
                {m: found[task, m] for m in concerned if (task, m) in found}, labels
            )
            if waiting:
                verdict = UNDECIDED
                reason = f"runs of {', '.join(waiting) if len(waiting) < 4 else f'{len(waiting)} methods'} are missing"
            result.append(Claim(task, question, verdict, text, reason, bool(waiting)))
    return result


def _success(methods: Mapping[str, Seeds], labels: Mapping[str, str]) -> tuple[str, str, str]:
    """Verdict, numbers, and why it is undecided."""
    if OURS not in methods:
        return UNDECIDED, "", "no run of ours"
    ours = methods[OURS]
    gaps = {
        m: difference(ours, methods[m])
        for m in labels
        if m in methods and m != OURS and methods[m].keys() & ours.keys()
    }
    if not gaps:
        return (
            UNDECIDED,
            f"{labels[OURS]} {percent(mean(ours).value)}",
            "no rival has a seed in common",
        )
    best = min(gaps, key=lambda m: gaps[m].value)
    gap, name = gaps[best], labels[OURS]
    shared = sorted(ours.keys() & methods[best].keys())
    levels = [
        float(np.mean([side[seed].rates[-1] for seed in shared])) for side in (ours, methods[best])
    ]
    text = f"{name} {percent(levels[0])}; best rival {labels[best]} {percent(levels[1])}; difference {_signed(gap.value)} points"
    if any(g.low is None for g in gaps.values()):
        return UNDECIDED, text, "one seed"
    text += f" [{_signed(gap.low or 0.0)}, {_signed(gap.high or 0.0)}]"
    above = [m for m, g in gaps.items() if g.low is not None and g.low > 0]
    worse = [labels[m] for m, g in gaps.items() if g.high is not None and g.high < 0]
    if worse:
        return NOT_HELD, f"{text}; clearly better than {name}: {', '.join(worse)}", ""
    text += f"; {name} is clearly better than {len(above)} of {len(gaps)}"
    ahead = [labels[m] for m, g in gaps.items() if g.value < 0]
    return HELD, text + (f"; ahead within the interval: {', '.join(ahead)}" if ahead else ""), ""


def _speed(methods: Mapping[str, Seeds], labels: Mapping[str, str]) -> tuple[str, str, str]:
    """Verdict, numbers, and why it is undecided."""
    reached = {m: steps_to(methods[m], SPEED) for m in labels if m in methods}
    if OURS not in reached:
        return UNDECIDED, "", "no run of ours"
    ours = reached.pop(OURS)
    if not reached:
        return UNDECIDED, f"{labels[OURS]} {steps_text(ours)}", "no rival yet"
    best = min(reached, key=lambda m: (reached[m].steps, reached[m].budget))
    theirs = reached[best]
    text = f"{labels[OURS]} {steps_text(ours)}; fastest rival on actions, {labels[best]}, {steps_text(theirs)}"
    if 0 < ours.steps < math.inf and theirs.steps < math.inf:
        text += f"; {theirs.steps / ours.steps:.1f} times as many"
    if min(ours.runs, theirs.runs) < 2:
        return UNDECIDED, text, "one seed"
    if ours.steps == theirs.steps == 0:
        return UNDECIDED, text, "the frozen base is there already"
    if ours.steps == math.inf:
        return (
            (UNDECIDED, text, "neither gets there")
            if theirs.steps == math.inf
            else (NOT_HELD, text, "")
        )
    if theirs.steps == math.inf:  # all that is known of it is that it needs more than its budget
        fine = FASTER * ours.steps <= theirs.budget
        return (HELD, text, "") if fine else (UNDECIDED, text, "the budget is too small to tell")
    return (HELD if FASTER * ours.steps <= theirs.steps else NOT_HELD), text, ""


def steps_text(found: Reached) -> str:
    """Environment steps, or that they are beyond the budget.

    >>> steps_text(Reached(12500.0, 3, 3, 100000)), steps_text(Reached(math.inf, 1, 3, 100000))
    ('12,500', '> 100,000')
    """
    return f"> {found.budget:,}" if found.steps == math.inf else f"{found.steps:,.0f}"


def _signed(value: float) -> str:
    """A difference of shares in percentage points, with its sign and a real minus.

    >>> _signed(-0.07), _signed(0.0)
    ('−7.0', '+0.0')
    """
    return f"{100 * value:+.1f}".replace("-", "\N{MINUS SIGN}")
