"""Numbers by hand, and what must hold for any numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zprl.bench import claims as bench_claims
from zprl.bench import statistics
from zprl.bench.claims import HELD, NOT_HELD, UNDECIDED, Claim
from zprl.bench.results import Point
from zprl.bench.statistics import MeasuredRun

RATE = st.integers(0, 20).map(lambda n: n / 20)
SEEDS = st.dictionaries(
    st.integers(0, 6), RATE.map(lambda r: MeasuredRun((100,), (r,), (20,))), min_size=1, max_size=5
)
TASKS = st.dictionaries(st.sampled_from("abc"), SEEDS, min_size=1)


def of(*rates: float, episodes: int = 50) -> dict[int, MeasuredRun]:
    """Runs with these final successes, the first one's seed being 0."""
    return {seed: MeasuredRun((100,), (rate,), (episodes,)) for seed, rate in enumerate(rates)}


def point(
    method: str, seed: int, env_steps: int, rate: float, *, task: str = "t", episodes: int = 100
) -> Point:
    return Point(task, method, seed, env_steps, rate, episodes, None, 0.0)


# -- estimates -------------------------------------------------------------------------------------


def test_the_last_verdict_of_each_run_counts() -> None:
    rows = [
        point("zprl", 1, 100, 0.8),
        point("zprl", 0, 0, 0.5),
        point("zprl", 0, 200, 0.9),
        point("zprl", 0, 100, 0.95),
    ]
    found = statistics.runs(rows)["t", "zprl"]
    assert found[0] == MeasuredRun((0, 100, 200), (0.5, 0.95, 0.9), (100, 100, 100))
    assert statistics.finals(found) == [0.9, 0.8]


def test_interquartile_mean_leaves_out_a_quarter_at_either_end() -> None:
    # Eight runs of two tasks: the middle half of 0, .1, .2, .3, .4, .5, .9, 1 is .2, .3, .4, .5
    found = statistics.interquartile_mean(
        {"a": of(0.0, 0.9, 0.2, 0.3), "b": of(1.0, 0.1, 0.5, 0.4)}
    )
    assert found.value == pytest.approx(0.35)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0.35 < found.high


def test_probability_of_improvement_counts_pairs_and_halves_ties() -> None:
    # Task a: .9 beats .5 and .7; .7 beats .5 and ties .7: 3.5 of 4.  Task b: never, 0.  Mean over
    # tasks 3.5 / 8.
    found = statistics.improvement(
        {"a": of(0.9, 0.7), "b": of(0.1, 0.1)}, {"a": of(0.5, 0.7), "b": of(0.8, 0.9, 0.7)}
    )
    assert found.value == pytest.approx(3.5 / 8)
    with pytest.raises(ValueError, match="same tasks"):
        statistics.improvement({"a": of(0.9)}, {"b": of(0.9)})


def test_the_interval_of_a_mean_has_the_variance_of_seeds_and_of_episodes() -> None:
    # Rates .4 and .8 of 100 episodes: the mean of two resampled seeds has the variance .04 / 2
    # between seeds, and (.24 + .16) / 2 / 100 / 2 of episodes.  Too few values for a normal
    # interval, but its ends are near the means of two bad and of two good seeds.
    found = statistics.mean(of(0.4, 0.8, episodes=100))
    assert found.value == pytest.approx(0.6)
    assert (found.low, found.high) == (pytest.approx(0.34, abs=0.03), pytest.approx(0.85, abs=0.03))
    # Many seeds that agree leave the episodes alone: +- 1.96 sqrt(.5 * .5 / 1000)
    many = statistics.mean(of(*[0.5] * 10, episodes=100))
    assert (many.low, many.high) == (
        pytest.approx(0.469, abs=0.004),
        pytest.approx(0.531, abs=0.004),
    )


def test_the_difference_pairs_seeds() -> None:
    # Either seed gains .3 though the seeds themselves are far apart: without pairing the interval
    # would hold 0.
    found = statistics.difference(of(0.9, 0.5, episodes=400), of(0.6, 0.2, 0.0, episodes=400))
    assert found.value == pytest.approx(0.3), "the third seed has no partner"
    assert found.low is not None
    assert found.low > 0.2
    with pytest.raises(ValueError, match="in common"):
        statistics.difference({0: of(0.5)[0]}, {1: of(0.5)[0]})


def test_a_rival_one_episode_ahead_has_not_won() -> None:
    # All three seeds lose by one episode of 100; resampled seeds alone would always find -.01.
    found = statistics.difference(
        of(0.9, 0.9, 0.9, episodes=100), of(0.91, 0.91, 0.91, episodes=100)
    )
    assert found.high is not None
    assert found.value < 0 < found.high


def test_one_seed_has_no_interval() -> None:
    for found in (
        statistics.mean(of(0.8)),
        statistics.difference(of(0.8), of(0.5)),
        statistics.interquartile_mean({"a": of(0.8), "b": of(0.5, 0.6)}),
        statistics.improvement({"a": of(0.8, 0.9)}, {"a": of(0.5)}),
    ):
        assert (found.low, found.high) == (None, None)


def turned(tasks: dict[str, dict[int, MeasuredRun]]) -> dict[str, dict[int, MeasuredRun]]:
    return {task: dict(reversed(seeds.items())) for task, seeds in reversed(tasks.items())}


@settings(max_examples=25, deadline=None)
@given(TASKS, st.data())
def test_what_holds_for_any_runs(
    tasks: dict[str, dict[int, MeasuredRun]], data: st.DataObject
) -> None:
    rivals = {task: data.draw(SEEDS) for task in tasks}
    values = [rate for seeds in tasks.values() for rate in statistics.finals(seeds)]
    middle = statistics.interquartile_mean(tasks)
    assert min(values) - 1e-12 <= middle.value <= max(values) + 1e-12
    means = [statistics.mean(seeds) for seeds in tasks.values()]
    for found in (middle, *means, statistics.improvement(tasks, rivals)):
        if found.low is not None:
            assert found.high is not None
            assert 0 <= found.low <= found.value <= found.high <= 1
    there, back = statistics.improvement(tasks, rivals), statistics.improvement(rivals, tasks)
    assert there.value + back.value == pytest.approx(1)
    assert statistics.improvement(tasks, tasks).value == pytest.approx(0.5)
    assert statistics.interquartile_mean(turned(tasks)) == middle, (
        "order does not matter, not even to the interval"
    )
    assert [statistics.mean(seeds) for seeds in reversed(turned(tasks).values())] == means
    assert statistics.improvement(turned(tasks), turned(rivals)) == there


def test_a_constant_has_itself_as_interquartile_mean() -> None:
    assert statistics.interquartile_mean(
        {"a": of(1.0, 1.0), "b": of(1.0, 1.0)}
    ) == statistics.Estimate(1.0, 1.0, 1.0)


# -- curves and steps ------------------------------------------------------------------------------


def test_a_curve_is_the_mean_at_judged_points() -> None:
    one, two = (
        MeasuredRun((0, 100, 200), (0.2, 0.4, 1.0), (50,) * 3),
        MeasuredRun((0, 100, 200), (0.4, 0.8, 1.0), (50,) * 3),
    )
    found = statistics.curve({"a": {0: one, 1: two}})
    assert found.steps.tolist() == [0, 100, 200]
    assert found.values == pytest.approx([0.3, 0.6, 1.0])
    assert found.low is not None
    assert found.high is not None
    assert np.all(found.low <= found.values)
    assert np.all(found.values <= found.high)
    assert found.low[0] < 0.3 < found.high[0]


def test_a_curve_over_tasks_is_interpolated_and_ends_with_the_shortest() -> None:
    # Judged at 0, 100, 200 and at 0, 150: at 100 the second is at .2 + .6 * 100 / 150 = .6; 200
    # lies beyond its end.
    long, short = (
        MeasuredRun((0, 100, 200), (0.0, 0.4, 1.0), (50,) * 3),
        MeasuredRun((0, 150), (0.2, 0.8), (50,) * 2),
    )
    found = statistics.curve({"a": {0: long}, "b": {0: short}})
    assert found.steps.tolist() == [0, 100, 150]
    assert found.values == pytest.approx([0.1, (0.4 + 0.6) / 2, (0.7 + 0.8) / 2])
    assert found.low is None


def test_a_curve_over_tasks_leaves_out_a_quarter_at_either_end() -> None:
    tasks = {
        task: {
            seed: MeasuredRun((0, 10), (rate, rate), (50, 50)) for seed, rate in enumerate(rates)
        }
        for task, rates in {"a": (0.0, 0.5), "b": (0.6, 0.7)}.items()
    }
    assert statistics.curve(tasks).values == pytest.approx([0.55, 0.55])


def test_success_while_learning_is_the_area_below_the_curve() -> None:
    # 0.2 to 0.6 over the first quarter, then to 1 and no further: (0.4 + 3 * 0.8) / 4 = 0.7.  The
    # other, constant: 0.5.
    seeds = {
        0: MeasuredRun((0, 100, 400), (0.2, 0.6, 1.0), (50, 50, 50)),
        1: MeasuredRun((0, 400), (0.5, 0.5), (50, 50)),
    }
    found = statistics.while_learning(seeds)
    assert found.value == pytest.approx(0.6)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0.6 < found.high
    # Shortened to where the shorter one ends, at 100: 0.4 and 0.5.
    assert statistics.while_learning(
        {**seeds, 1: MeasuredRun((0, 100), (0.5, 0.5), (50, 50))}
    ).value == pytest.approx(0.45)
    assert statistics.while_learning({0: seeds[0]}) == statistics.Estimate(pytest.approx(0.7))
    assert statistics.while_learning(of(0.3, 0.5)).value == pytest.approx(0.4)


def test_the_largest_fall_is_below_the_best_so_far_on_the_same_start_states() -> None:
    # Not the largest step down, 0.3: from 0.9 it goes to 0.4 in two.  What the run recovers later
    # does not count, and neither do the first verdict and the last, which are of other start
    # states.
    falling = MeasuredRun((0, 1, 2, 3, 4, 5), (1.0, 0.9, 0.6, 0.4, 0.8, 0.1), (50,) * 6)
    rising = MeasuredRun((0, 1, 2, 3), (0.95, 0.5, 0.9, 0.7), (50,) * 4)
    assert statistics.largest_fall({0: rising}) == 0
    assert statistics.largest_fall({0: rising, 1: falling}) == pytest.approx(0.5)
    assert statistics.largest_fall({0: MeasuredRun((0, 1, 2), (0.9, 0.5, 0.3), (50,) * 3)}) is None


def test_a_collapse_at_the_first_verdict_shows_in_the_lowest() -> None:
    # No fall between verdicts along the way; the base's 0.7 and the final 0.1 are of other start
    # states.
    collapsed = MeasuredRun((0, 1, 2, 3), (0.7, 0.0, 0.9, 0.1), (50,) * 4)
    assert statistics.largest_fall({0: collapsed}) == 0
    assert (
        statistics.lowest({0: collapsed, 1: MeasuredRun((0, 1, 2), (0.5, 0.6, 0.9), (50,) * 3)})
        == 0
    )
    assert statistics.lowest({0: MeasuredRun((0, 1), (0.5, 0.9), (50, 50))}) is None


def test_steps_to_a_threshold_take_the_first_judged_point_and_the_median_run() -> None:
    seeds = {
        0: MeasuredRun((0, 100, 200, 300), (0.5, 0.92, 0.85, 0.95), (50,) * 4),
        1: MeasuredRun((0, 100, 200, 300), (0.5, 0.6, 0.7, 0.9), (50,) * 4),
        2: MeasuredRun((0, 100, 200, 300), (0.5, 0.6, 0.7, 0.8), (50,) * 4),
    }
    assert statistics.steps_to(seeds, 0.9) == statistics.Reached(300, 2, 3, 300), (
        "of 100, 300 and never"
    )
    late = statistics.steps_to(seeds, 0.95)
    assert (late.steps, late.reached) == (math.inf, 1)
    assert bench_claims.steps_text(late) == "> 300"
    assert statistics.steps_to(seeds, 0.5) == statistics.Reached(0, 3, 3, 300), (
        "the base was there already"
    )


@given(st.lists(RATE, min_size=1, max_size=8), RATE, RATE)
def test_a_higher_success_is_never_reached_earlier(
    rates: list[float], one: float, other: float
) -> None:
    seeds = {0: MeasuredRun(tuple(range(len(rates))), tuple(rates), (20,) * len(rates))}
    assert (
        statistics.steps_to(seeds, min(one, other)).steps
        <= statistics.steps_to(seeds, max(one, other)).steps
    )


# -- claims ----------------------------------------------------------------------------------------

SPACES = {"zprl": "latent", "zprl_best_of": "latent", "pd": "action", "dsrl": "noise"}
LABELS = {name: name.upper() for name in SPACES}


def claims(
    *rows: Point,
    spaces: dict[str, str] | None = None,
    missing: tuple[tuple[str, str, int], ...] = (),
) -> list[Claim]:
    return bench_claims.claims(rows, SPACES if spaces is None else spaces, LABELS, missing)


def runs(method: str, half: float, last: float, *, seeds: int = 3) -> list[Point]:
    return [
        point(method, seed, steps, rate)
        for seed in range(seeds)
        for steps, rate in ((0, 0.5), (500, half), (1000, last))
    ]


def test_claims_that_hold() -> None:
    strong, fast = claims(*runs("zprl", 0.95, 0.97), *runs("pd", 0.6, 0.9), *runs("dsrl", 0.5, 0.6))
    assert (strong.verdict, fast.verdict) == (HELD, HELD)
    assert strong.text.replace("\N{NARROW NO-BREAK SPACE}", " ").startswith(
        "ZPRL 97.0 %; best rival PD 90.0 %; difference +7.0 points [+"
    )
    assert strong.text.endswith("ZPRL is clearly better than 2 of 2")
    assert fast.text == "ZPRL 500; fastest rival on actions, PD, 1,000; 2.0 times as many"


def test_a_rival_that_is_clearly_better_is_named() -> None:
    strong, fast = claims(
        *runs("zprl", 0.6, 0.7), *runs("pd", 0.95, 0.99), *runs("dsrl", 0.9, 0.95)
    )
    assert (strong.verdict, fast.verdict) == (NOT_HELD, NOT_HELD)
    assert strong.text.endswith("clearly better than ZPRL: PD, DSRL")
    assert fast.text == "ZPRL > 1,000; fastest rival on actions, PD, 500"


def test_a_rival_ahead_within_the_interval_is_named_too() -> None:
    strong = claims(*runs("zprl", 0.9, 0.95), *runs("pd", 0.9, 0.96), *runs("dsrl", 0.5, 0.6))[0]
    assert strong.verdict == HELD
    assert strong.text.endswith("ZPRL is clearly better than 1 of 2; ahead within the interval: PD")


def test_less_than_twice_as_fast_is_not_held() -> None:
    rows = [
        point("zprl", s, n, r) for s in range(2) for n, r in ((0, 0.5), (600, 0.95), (1000, 0.95))
    ]
    assert claims(*rows, *runs("pd", 0.6, 0.95), *runs("dsrl", 0.5, 0.6))[1].verdict == NOT_HELD


@pytest.mark.parametrize(
    ("ours", "theirs", "reason"),
    [
        (runs("zprl", 0.6, 0.95), runs("pd", 0.5, 0.6), "the budget is too small to tell"),
        (runs("zprl", 0.6, 0.7), runs("pd", 0.5, 0.6), "neither gets there"),
        (runs("zprl", 0.95, 0.97, seeds=1), runs("pd", 0.6, 0.9), "one seed"),
        (runs("zprl", 0.95, 0.97), [], "runs of PD are missing"),
        ([], runs("pd", 0.6, 0.9), "runs of ZPRL are missing"),
        (
            [point("zprl", s, n, 0.95) for s in range(2) for n in (0, 100)],
            [point("pd", s, n, 0.95) for s in range(2) for n in (0, 100)],
            "the frozen base is there already",
        ),
    ],
)
def test_speed_that_the_numbers_do_not_decide(
    ours: list[Point], theirs: list[Point], reason: str
) -> None:
    found = claims(*ours, *theirs, *runs("dsrl", 0.5, 0.6))[1]
    assert (found.verdict, found.reason) == (UNDECIDED, reason)


def test_a_slow_rival_counts_with_its_budget() -> None:
    assert (
        claims(*runs("zprl", 0.95, 0.97), *runs("pd", 0.5, 0.6), *runs("dsrl", 0.5, 0.6))[1].verdict
        == HELD
    )


def test_no_claim_is_held_before_all_of_its_runs_are_in() -> None:
    rows = (*runs("zprl", 0.95, 0.97), *runs("pd", 0.6, 0.9), *runs("dsrl", 0.5, 0.6))
    strong, fast = claims(*rows, missing=(("t", "dsrl", 3),))
    assert (strong.verdict, strong.reason) == (UNDECIDED, "runs of DSRL are missing")
    assert fast.verdict == HELD, "speed is not about it"
    later = claims(*rows, missing=(("u", "zprl", 0),))[2:]
    assert [(c.task, c.verdict) for c in later] == [("u", UNDECIDED), ("u", UNDECIDED)]


def test_one_seed_decides_nothing() -> None:
    strong = claims(
        *runs("zprl", 0.95, 0.97, seeds=1),
        *runs("pd", 0.6, 0.9, seeds=1),
        *runs("dsrl", 0.5, 0.6, seeds=1),
    )[0]
    assert (strong.verdict, strong.reason) == (UNDECIDED, "one seed")


def test_variants_of_ours_are_no_rivals() -> None:
    rows = (*runs("zprl", 0.6, 0.7), *runs("zprl_best_of", 0.9, 0.99))
    assert claims(*rows, spaces={"zprl": "latent", "zprl_best_of": "latent"}) == []
    assert claims(*rows, spaces={"zprl_best_of": "latent", "pd": "action"}) == [], (
        "nothing is claimed for a method that is not there"
    )


def test_without_a_rival_in_action_space_speed_is_not_claimed() -> None:
    rows = (*runs("zprl", 0.6, 0.7), *runs("dsrl", 0.9, 0.99))
    assert [c.question for c in claims(*rows, spaces={"zprl": "latent", "dsrl": "noise"})] == [
        "success"
    ]
