"""Intervals and the paired test against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from zprl.evaluation.intervals import mcnemar, wilson

Z2 = 3.841458820694124  # 0.95 quantile of chi-squared with one degree of freedom, which is z^2


def test_wilson_by_hand() -> None:
    # p = 8/10: centre (0.8 + z2/20) / (1 + z2/10) = 0.716740, half width z sqrt(0.016 + z2/400) /
    # (1 + z2/10) = 0.226558
    low, high = wilson(8, 10)
    assert low == pytest.approx(0.490162, abs=1e-6)
    assert high == pytest.approx(0.943318, abs=1e-6)


def test_wilson_is_scipys() -> None:
    for episodes in (1, 2, 3, 10, 20, 160, 500):
        for successes in range(0, episodes + 1, max(1, episodes // 10)):
            interval = binomtest(successes, episodes).proportion_ci(0.95, "wilson")
            assert wilson(successes, episodes) == pytest.approx(
                (interval.low, interval.high), abs=1e-14
            )


def test_wilson_at_the_ends() -> None:
    # With no failure the lower end is n / (n + z^2), and with no success the upper one is z^2 / (n
    # + z^2).
    assert wilson(10, 10) == (pytest.approx(10 / (10 + Z2)), 1.0)
    assert wilson(0, 10) == (0.0, pytest.approx(Z2 / (10 + Z2)))


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_contains_the_rate_and_mirrors(case: tuple[int, int]) -> None:
    successes, episodes = case
    low, high = wilson(successes, episodes)
    assert 0 <= low <= successes / episodes <= high <= 1
    assert low < high
    assert wilson(episodes - successes, episodes) == pytest.approx((1 - high, 1 - low), abs=1e-12)


@pytest.mark.parametrize(("successes", "episodes"), [(1, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_impossible_counts(successes: int, episodes: int) -> None:
    with pytest.raises(ValueError, match="successes of"):
        wilson(successes, episodes)


def test_mcnemar_by_hand() -> None:
    # Eight pairs differ, one in favour of the first: p = 2 (C(8,0) + C(8,1)) / 2^8 = 18/256.
    first = [True] * 5 + [True] + [False] * 7 + [False] * 2
    second = [True] * 5 + [False] + [True] * 7 + [False] * 2
    found = mcnemar(first, second)
    assert (found.both, found.only_first, found.only_second, found.neither) == (5, 1, 7, 2)
    assert found.p_value == pytest.approx(18 / 256)
    assert found.difference == pytest.approx(6 / 15)


def test_mcnemar_without_a_difference_says_nothing() -> None:
    assert mcnemar([True, False], [True, False]).p_value == 1.0


def test_mcnemar_does_not_care_who_is_first() -> None:
    first, second = [True, False, False, True], [False, True, True, True]
    assert math.isclose(mcnemar(first, second).p_value, mcnemar(second, first).p_value)


def test_mcnemar_refuses_unequal_lists() -> None:
    with pytest.raises(ValueError, match="cannot be paired"):
        mcnemar([True], [True, False])
