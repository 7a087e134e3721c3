"""What few seeds allow to say (after Agarwal et al. 2021, arXiv 2108.13264, the way of ``rliable``).

Resampling is a pure function of the numbers: a fixed seed, always the same number of draws.  Intervals are 95 % percentile intervals.
A run's rate is itself uncertain, for it comes from so many episodes; where seeds are resampled, the episodes of each are drawn again, too
(binomially), so that even a single seed has an honest interval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from scipy.stats import trim_mean

from zprl.bench.results import Point

DRAWS = 2000
SEED = 0
OURS, BASE = "zprl", "base"
THRESHOLDS = (0.5, 0.9, 0.95)
LEVELS = (2.5, 97.5)


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, draws: np.ndarray) -> Estimate:
        """A value with the percentiles of its resampled copies (DRAWS,)."""
        low, high = np.percentile(draws, LEVELS)
        return cls(value, min(float(low), value), max(float(high), value))


Rates = Mapping[int, tuple[float, int]]
"""Seed to success rate and number of episodes."""


def finals(points: Sequence[Point]) -> dict[tuple[str, str], dict[int, Point]]:
    """(task, method) to seed to the verdict after the most environment steps."""
    found: dict[tuple[str, str], dict[int, Point]] = {}
    for point in points:
        runs = found.setdefault((point.task, point.method), {})
        if point.seed not in runs or runs[point.seed].env_steps <= point.env_steps:
            runs[point.seed] = point
    return found


def rates(runs: Mapping[int, Point]) -> dict[int, tuple[float, int]]:
    """Success rate and number of episodes per seed."""
    return {seed: (point.success_rate, point.episodes) for seed, point in sorted(runs.items())}


def _drawn(runs: Rates, picks: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Rates (DRAWS, n) of picked runs (DRAWS, n), the episodes of each drawn again."""
    rate = np.array([r for r, _ in runs.values()])[picks]
    episodes = np.array([n for _, n in runs.values()])[picks]
    return generator.binomial(episodes, rate) / episodes


def _picks(count: int, generator: np.random.Generator) -> np.ndarray:
    return generator.integers(count, size=(DRAWS, count))


def mean(runs: Rates) -> Estimate:
    """Mean success over seeds."""
    generator = np.random.default_rng(SEED)
    draws = _drawn(runs, _picks(len(runs), generator), generator).mean(1)
    return Estimate.of(float(np.mean([r for r, _ in runs.values()])), draws)


def difference(ours: Rates, theirs: Rates) -> Estimate:
    """Mean of ``ours`` minus ``theirs``; seeds in common are resampled together, since they share demonstrations and base policy."""
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        raise ValueError("no seed in common")
    mine, other = {s: ours[s] for s in shared}, {s: theirs[s] for s in shared}
    generator = np.random.default_rng(SEED)
    picks = _picks(len(shared), generator)
    draws = (_drawn(mine, picks, generator) - _drawn(other, picks, generator)).mean(1)
    return Estimate.of(float(np.mean([mine[s][0] - other[s][0] for s in shared])), draws)


def interquartile_mean(tasks: Sequence[Rates]) -> Estimate:
    """Mean of the middle half of all runs of a method; seeds are resampled within each task."""
    generator = np.random.default_rng(SEED)
    draws = np.concatenate([_drawn(runs, _picks(len(runs), generator), generator) for runs in tasks], 1)
    runs = [rate for task in tasks for rate, _ in task.values()]
    return Estimate.of(float(trim_mean(runs, 0.25)), trim_mean(draws, 0.25, axis=1))


def improvement(pairs: Sequence[tuple[Rates, Rates]]) -> Estimate:
    """Probability that a run of the first beats one of the second on a task drawn at random; a tie counts one half (Mann-Whitney)."""
    generator = np.random.default_rng(SEED)

    def share(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        wins = (first[..., :, None] > second[..., None, :]) + 0.5 * (first[..., :, None] == second[..., None, :])
        return wins.mean((-2, -1))

    draws, values = [], []
    for first, second in pairs:
        a = _drawn(first, _picks(len(first), generator), generator)
        b = _drawn(second, _picks(len(second), generator), generator)
        draws.append(share(a, b))
        values.append(float(share(*(np.array([r for r, _ in runs.values()]) for runs in (first, second)))))
    return Estimate.of(float(np.mean(values)), np.mean(draws, 0))


def steps_to(points: Sequence[Point], threshold: float) -> dict[tuple[str, str], float]:
    """(task, method) to the median over seeds of the first judged point at or above ``threshold``; infinite where it is never reached."""
    first: dict[tuple[str, str], dict[int, float]] = {}
    for point in points:
        runs = first.setdefault((point.task, point.method), {})
        runs.setdefault(point.seed, math.inf)
        if point.success_rate >= threshold:
            runs[point.seed] = min(runs[point.seed], point.env_steps)
    return {key: median(runs.values()) for key, runs in first.items()}


# -- what the page claims ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Claim:
    """A sentence that the numbers hold or do not hold.

    Attributes:
        task: Registered task.
        held: ``None`` where the numbers do not decide.
        text: The sentence with its numbers.
    """

    task: str
    held: bool | None
    text: str


def claims(points: Sequence[Point], spaces: Mapping[str, str], labels: Mapping[str, str], budget: int) -> list[Claim]:
    """Is our final success at least every rival's, within the interval of the difference?  Is it fast?

    Args:
        points: All rows.
        spaces: Method to the space in which it acts; those of ``action`` are the rivals in speed.
        labels: Method to its name for people.
        budget: Environment steps of a run.
    """
    last, found = finals(points), []
    for task in sorted({point.task for point in points}):
        ours = last.get((task, OURS))
        rivals = [method for (t, method) in last if t == task and method in spaces and method != OURS and spaces[method] != "latent"]
        if not ours or not rivals:
            continue
        found.append(_strongest(task, ours, {m: last[task, m] for m in rivals}, labels))
        action = [method for method in rivals if spaces[method] == "action"]
        if action:
            found.append(_fastest(task, points, action, labels, budget))
    return found


def _strongest(task: str, ours: Mapping[int, Point], rivals: Mapping[str, Mapping[int, Point]], labels: Mapping[str, str]) -> Claim:
    gaps = {method: difference(rates(ours), rates(runs)) for method, runs in rivals.items() if runs.keys() & ours.keys()}
    if not gaps:
        return Claim(task, None, "no rival has a seed in common yet")
    best = min(gaps, key=lambda method: gaps[method].value)
    gap = gaps[best]
    worse = [labels[method] for method, g in gaps.items() if g.high < 0]
    interval = f"[{-gap.high:+.3f}, {-gap.low:+.3f}]"
    text = f"final success {mean(rates(ours)).value:.3f}; the best rival is {labels[best]}: {-gap.value:+.3f} {interval}"
    return Claim(task, not worse, text + (f"; beaten by {', '.join(worse)}" if worse else ""))


def _fastest(task: str, points: Sequence[Point], action: Sequence[str], labels: Mapping[str, str], budget: int) -> Claim:
    steps = steps_to(points, 0.9)
    mine = steps[task, OURS]
    best = min(action, key=lambda method: steps[task, method])
    theirs = steps[task, best]

    def text(value: float) -> str:
        return f"{value:,.0f}" if value < math.inf else f"more than {budget:,}"

    sentence = f"success 0.9 after {text(mine)} environment steps; the fastest in action space, {labels[best]}, after {text(theirs)}"
    if mine == math.inf:
        return Claim(task, False if theirs < math.inf else None, sentence)
    if theirs == math.inf:  # all that is known of it is that it is above the budget
        return Claim(task, True if mine <= budget / 2 else None, sentence)
    return Claim(task, mine <= theirs / 2, sentence)
