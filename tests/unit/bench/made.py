"""Made-up suites, whole and in parts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from zprl import seeding
from zprl.bench.page import MethodInfo, SuiteInfo
from zprl.bench.results import BASE, Point, RunFacts

RIVALS = {
    "zprl": ("ZPRL", "latent", 0.97, 0.25),
    "zprl_best_of": ("ZPRL, best of K", "latent", 0.98, 0.3),
    "policy_decorator": ("Policy Decorator", "action", 0.9, 0.8),
    "action_residual": ("Action residual", "action", 0.86, 0.6),
    "action_demos": ("Action residual, half demos", "action", 0.92, 0.5),
    "dsrl": ("DSRL", "noise", 0.85, 0.5),
    "dsrl_na": ("DSRL, noise-aliased", "noise", 0.88, 0.4),
    "dppo": ("DPPO", "weights", 0.6, 1.2),
    "reinflow": ("ReinFlow", "weights", 0.65, 1.0),
    "embedding": ("Embedding residual", "embedding", 0.8, 0.5),
}
"""Method to name, space, final success and how slowly it gets there."""
VARIANTS = {f"kl-{n}": (f"beta 2e-{n}", "latent", 0.99 - 0.05 * n, 0.3) for n in (2, 3, 4)}
TASKS = {"metaworld/box-close-v3": 0.0, "metaworld/push-wall-v3": 0.08, "robosuite/lift": -0.02}
"""Task to how much harder it is."""
BUDGET = 100_000


def suite(
    methods: dict[str, tuple[str, str, float, float]] = RIVALS,
    tasks: Sequence[str] = tuple(TASKS),
    seeds: Sequence[int] = (0, 1, 2),
    done: float = 1.0,
) -> tuple[list[Point], list[RunFacts], SuiteInfo]:
    """Rows, facts and description; of the runs, seed by seed, the share ``done`` is there."""
    every = [
        (task, method, seed) for seed in seeds for task in tasks for method in (BASE, *methods)
    ]
    there = every[: math.ceil(done * len(every))]
    points = [point for key in there for point in _run(*key, methods)]
    facts = [
        RunFacts(
            t,
            m,
            s,
            *((0, None) if m == BASE else (180_000, 95.0 + s)),
            0.004 + 0.002 * len(m) / 16,
            1800.0 + 60 * s,
            "40091bc",
        )
        for t, m, s in there
    ]
    info = SuiteInfo(
        suite="made",
        title="Made-up methods on made-up tasks",
        command="zprl bench made -j 2",
        commits=("40091bc", "a863b96"),
        wall_s=sum(fact.wall_s for fact in facts),
        machines=("2 x EPYC",),
        methods={
            name: MethodInfo(label, "made up", space, "none, for it is made up")
            for name, (label, space, *_) in methods.items()
        },
        missing=[key for key in every if key not in there],
        budget=BUDGET,
    )
    return points, facts, info


def _run(
    task: str, method: str, seed: int, methods: dict[str, tuple[str, str, float, float]]
) -> list[Point]:
    rng = seeding.numpy_generator(seed, f"{task} {method}")
    start = 0.45 - TASKS[task]
    if method == BASE:
        return [Point(task, method, seed, 0, round(100 * start) / 100, 100, 310.0, 0.0)]
    _, _, end, slow = methods[method]
    end = min(1.0, end - TASKS[task])
    points = []
    for part in range(11):
        rate = (
            start
            + (end - start) * (1 - math.exp(-part / 10 / (0.4 * slow)))
            + 0.01 * (seed - 1) * (part > 0)
        )
        episodes = 100 if part in (0, 10) else 20
        share = start if part == 0 else rng.binomial(episodes, min(max(rate, 0.0), 1.0)) / episodes
        points.append(
            Point(
                task,
                method,
                seed,
                part * BUDGET // 10,
                round(share, 2),
                episodes,
                250.0 + 10 * len(method),
                160.0 * part,
            )
        )
    return points
