"""Statistics of few runs, after Agarwal et al. 2021 (arXiv 2108.13264; library ``rliable``).

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
from collections.abc import Iterable, Mapping, Sized
from dataclasses import dataclass
from statistics import median

import numpy as np
from scipy.stats import trim_mean

from zprl import seeding
from zprl.bench.results import Point

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
        """Return the last verdict alone."""
        return MeasuredRun(self.steps[-1:], self.rates[-1:], self.episodes[-1:])


Seeds = Mapping[int, MeasuredRun]
"""Runs of one method on one task, by seed."""


def runs(points: Iterable[Point]) -> dict[tuple[str, str], dict[int, MeasuredRun]]:
    """Group verdicts to runs: (task, method) to seed to run, all sorted."""
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
    """Return the final success of each run, by rising seed."""
    return [run.rates[-1] for _, run in sorted(seeds.items())]


# -- resampling ------------------------------------------------------------------------------------


def _picks(seeds: Sized, generator: np.random.Generator) -> np.ndarray:
    """Draw the seeds of each draw, as places in their order (DRAWS, seeds)."""
    return generator.integers(len(seeds), size=(DRAWS, len(seeds)))


def _drawn(
    seeds: Seeds, picks: np.ndarray, generator: np.random.Generator, grid: np.ndarray | None = None
) -> np.ndarray:
    """Draw rates of the picked runs, their episodes played again.

    A run that is picked twice plays twice.

    Returns:
        (DRAWS, seeds, G) along ``grid`` (G,), or (DRAWS, seeds, 1) where there is none: the final
        success.
    """
    drawn = np.empty((*picks.shape, 1 if grid is None else len(grid)))
    for place, (_, run) in enumerate(sorted(seeds.items())):
        judged = run.final if grid is None else run
        picked = picks == place
        shape = (picked.sum(), len(judged.rates))
        successes = generator.binomial(judged.episodes, judged.rates, shape)
        drawn[picked] = _along(judged, grid, successes / np.array(judged.episodes))
    return drawn


def _along(run: MeasuredRun, grid: np.ndarray | None, rates: np.ndarray) -> np.ndarray:
    """Interpolate rates (..., K) at the run's judged points linearly along ``grid`` (G,).

    Without a grid the rates at the judged points themselves.
    """
    if grid is None:
        return rates
    hats = np.stack([np.interp(grid, run.steps, unit) for unit in np.eye(len(run.steps))])  # (K, G)
    along: np.ndarray = rates @ hats
    return along


def _grid(runs: Iterable[MeasuredRun]) -> np.ndarray:
    """Return all judged points (G,) of several runs, in the steps that all of them cover."""
    every = list(runs)
    first = max(run.steps[0] for run in every)
    last = min(run.steps[-1] for run in every)
    return np.array(sorted({step for run in every for step in run.steps if first <= step <= last}))


def _estimate(value: float, draws: np.ndarray, *, known: bool) -> Estimate:
    """Return a value with the percentiles of its draws (DRAWS,) where an interval is ``known``."""
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
    """Estimate the mean final success over seeds."""
    generator = _generator("mean")
    draws = _drawn(seeds, _picks(seeds, generator), generator)[..., 0].mean(1)
    return _estimate(float(np.mean(finals(seeds))), draws, known=len(seeds) > 1)


def difference(ours: Seeds, theirs: Seeds) -> Estimate:
    """Estimate the mean final success of ``ours`` minus ``theirs``.

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
    """Estimate the mean of the middle half of a method's runs, of all tasks together.

    The measure is that of Agarwal et al. 2021, section 4.3.

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
    """Estimate the probability that a run of ours beats one of theirs on a random task.

    The measure is that of Agarwal et al. 2021, section 4.3: per task the share of pairs of runs of
    which ours is better, a tie counting one half (Mann and Whitney 1947); then the mean over tasks.

    Args:
        ours: Task to runs.
        theirs: The same tasks to runs.

    Raises:
        ValueError: the tasks differ.
    """
    if ours.keys() != theirs.keys() or not ours:
        raise ValueError("both methods need runs on the same tasks")

    def share(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Return the share (...) of pairs that the first of rates (..., n) and (..., m) wins."""
        first, second = first[..., :, None], second[..., None, :]
        wins: np.ndarray = (first > second) + 0.5 * (first == second)
        return np.asarray(wins.mean((-2, -1)))

    generator = _generator("improvement")
    draws = []
    values = []
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
    """Estimate success against environment steps.

    It is the mean over seeds of one task, the interquartile mean over several.  Its points are all
    judged points up to where the shortest run ends.  Between a run's own judged points it is
    interpolated linearly: this happens where tasks or seeds were judged at different steps.
    Intervals hold point by point, not for the curve as a whole.
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
    )  # (runs, G)
    cut = 0.0 if len(tasks) == 1 else CUT
    values = trim_mean(whole, cut, axis=0)
    if any(len(seeds) < 2 for seeds in tasks.values()):
        return Curve(grid, values, None, None)
    low, high = np.percentile(trim_mean(draws, cut, axis=1), LEVELS, axis=0)
    return Curve(grid, values, np.minimum(low, values), np.maximum(high, values))


def while_learning(seeds: Seeds) -> Estimate:
    """Estimate the mean success while training, which is the success a robot would meet.

    It is the area below the curve of one task over its environment steps, up to where the shortest
    run ends; between judged points the curve is straight.
    """
    grid = _grid(seeds.values())
    if len(grid) < 2:
        return mean(seeds)
    generator = _generator("while learning")

    def area(rates: np.ndarray) -> np.ndarray:
        return np.asarray(np.trapezoid(rates, grid, axis=-1) / (grid[-1] - grid[0]))

    draws = area(_drawn(seeds, _picks(seeds, generator), generator, grid)).mean(1)
    value = float(np.mean([area(_along(run, grid, np.array(run.rates))) for run in seeds.values()]))
    return _estimate(value, draws, known=len(seeds) > 1)


def largest_fall(seeds: Seeds) -> float | None:
    """Return the largest fall of success below what the same run had reached before.

    This is the largest drawdown (Chan et al. 2020, arXiv 1912.05663, whose measure of risk over
    time is its expected worst part), of the verdicts along the way alone: the base's and the final
    one are of other start states, and a harder draw of those is no fall.  Few episodes a verdict
    make a fall of their own.  None where no run has two such verdicts.  A collapse at the first of
    them shows in :func:`lowest`.
    """
    ways = [np.array(run.rates[1:-1]) for run in seeds.values()]
    return max(
        (float(np.max(np.maximum.accumulate(way) - way)) for way in ways if len(way) > 1),
        default=None,
    )


def lowest(seeds: Seeds) -> float | None:
    """Return the lowest success of any verdict along the way of any run (ours).

    None where there are no such verdicts.
    """
    return min((rate for run in seeds.values() for rate in run.rates[1:-1]), default=None)


@dataclass(frozen=True)
class Reached:
    """Environment steps to a success, of the runs of a method on a task.

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
    """Return the environment steps to a success of ``threshold``.

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
    reached = sum(steps < math.inf for steps in first)
    return Reached(float(median(first)), reached, len(first), budget)
