"""Numbers by hand, and what must hold for any numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zprl.bench import statistics
from zprl.bench.results import Point

RUNS = st.dictionaries(st.integers(0, 6), st.tuples(st.integers(0, 20).map(lambda n: n / 20), st.just(20)), min_size=1, max_size=5)


def point(method: str, seed: int, env_steps: int, rate: float, *, task: str = "t", episodes: int = 100) -> Point:
    return Point(task, method, seed, env_steps, rate, episodes, None, 0.0)


def test_the_last_verdict_of_each_run_counts() -> None:
    rows = [point("zprl", 0, 0, 0.5), point("zprl", 0, 200, 0.9), point("zprl", 0, 100, 0.95), point("zprl", 1, 100, 0.8)]
    found = statistics.finals(rows)["t", "zprl"]
    assert {seed: p.success_rate for seed, p in found.items()} == {0: 0.9, 1: 0.8}


def test_interquartile_mean_leaves_out_a_quarter_at_either_end() -> None:
    # Eight runs of two tasks: the middle half of 0, .1, .2, .3, .4, .5, .9, 1 is .2, .3, .4, .5
    first = {0: (0.0, 50), 1: (0.9, 50), 2: (0.2, 50), 3: (0.3, 50)}
    second = {0: (1.0, 50), 1: (0.1, 50), 2: (0.5, 50), 3: (0.4, 50)}
    found = statistics.interquartile_mean([first, second])
    assert found.value == pytest.approx(0.35)
    assert found.low < 0.35 < found.high


def test_probability_of_improvement_counts_pairs_and_halves_ties() -> None:
    # .9 beats .5 and .7; .7 beats .5 and ties .7: 3.5 of 4
    found = statistics.improvement([({0: (0.9, 50), 1: (0.7, 50)}, {0: (0.5, 50), 1: (0.7, 50)})])
    assert found.value == pytest.approx(3.5 / 4)


def test_steps_to_a_threshold_take_the_first_judged_point_and_the_median_run() -> None:
    rows = [
        *(point("zprl", 0, s, r) for s, r in ((0, 0.5), (100, 0.92), (200, 0.85), (300, 0.95))),
        *(point("zprl", 1, s, r) for s, r in ((0, 0.5), (100, 0.6), (200, 0.7), (300, 0.9))),
        *(point("zprl", 2, s, r) for s, r in ((0, 0.5), (100, 0.6), (200, 0.7), (300, 0.8))),
        point("dsrl", 0, 300, 0.1),
    ]
    found = statistics.steps_to(rows, 0.9)
    assert found["t", "zprl"] == 300  # of 100, 300 and never
    assert found["t", "dsrl"] == math.inf


def test_the_difference_pairs_seeds() -> None:
    # Either seed gains .3 though the seeds themselves are far apart: without pairing the interval would hold 0.
    ours, theirs = {0: (0.9, 400), 1: (0.5, 400)}, {0: (0.6, 400), 1: (0.2, 400)}
    found = statistics.difference(ours, theirs)
    assert found.value == pytest.approx(0.3)
    assert found.low > 0.2
    with pytest.raises(ValueError, match="in common"):
        statistics.difference({0: (0.5, 10)}, {1: (0.5, 10)})


def test_one_seed_still_has_the_interval_of_its_episodes() -> None:
    found = statistics.mean({0: (0.8, 100)})
    assert (found.low, found.high) == pytest.approx((0.72, 0.87), abs=0.02)  # +- 1.96 sqrt(.8 * .2 / 100)


@pytest.fixture(scope="module")
def _few_draws() -> Iterator[None]:
    before, statistics.DRAWS = statistics.DRAWS, 100
    yield
    statistics.DRAWS = before


@pytest.mark.usefixtures("_few_draws")
@settings(max_examples=25, deadline=None)
@given(RUNS, RUNS)
def test_what_holds_for_any_runs(first: dict, second: dict) -> None:
    values = [rate for rate, _ in first.values()]
    middle = statistics.interquartile_mean([first])
    assert min(values) <= middle.value <= max(values)
    for found in (middle, statistics.mean(first)):
        assert 0 <= found.low <= found.value <= found.high <= 1
    there, back = statistics.improvement([(first, second)]).value, statistics.improvement([(second, first)]).value
    assert there + back == pytest.approx(1)
    turned = dict(reversed(first.items()))
    assert statistics.mean(turned).value == pytest.approx(statistics.mean(first).value)


SPACES = {"zprl": "latent", "zprl_best_of": "latent", "pd": "action", "dsrl": "noise"}
LABELS = {name: name.upper() for name in SPACES}


def claims(*rows: Point) -> list[statistics.Claim]:
    return statistics.claims(rows, SPACES, LABELS, 1000)


def runs(method: str, half: float, last: float) -> list[Point]:
    return [point(method, seed, steps, rate) for seed in range(3) for steps, rate in ((0, 0.5), (500, half), (1000, last))]


def test_claims_that_hold() -> None:
    strong, fast = claims(*runs("zprl", 0.95, 0.97), *runs("pd", 0.6, 0.9), *runs("dsrl", 0.5, 0.6))
    assert (strong.held, fast.held) == (True, True)
    assert "PD: -0.070" in strong.text
    assert fast.text == "success 0.9 after 500 environment steps; the fastest in action space, PD, after 1,000"


def test_a_rival_that_is_clearly_better_is_named() -> None:
    strong, fast = claims(*runs("zprl", 0.6, 0.7), *runs("pd", 0.95, 0.99), *runs("dsrl", 0.9, 0.95))
    assert (strong.held, fast.held) == (False, False)
    assert strong.text.endswith("beaten by PD, DSRL")


def test_what_the_numbers_do_not_decide() -> None:
    late = claims(*runs("zprl", 0.6, 0.95), *runs("pd", 0.5, 0.6))[1]
    assert late.held is None, "ours needs the whole budget, theirs more than that"
    never = claims(*runs("zprl", 0.6, 0.7), *runs("pd", 0.5, 0.6))[1]
    assert never.held is None
    assert claims(*runs("zprl", 0.6, 0.7)) == []
    assert claims(*runs("zprl", 0.6, 0.7), *runs("zprl_best_of", 0.9, 0.99)) == [], "a variant of ours is no rival"
