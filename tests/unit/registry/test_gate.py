"""The gate, case by case; the numbers are the expected ones of the documentation, judged by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zprl.config import Promote
from zprl.errors import DataError
from zprl.registry.gate import Facts, decide

BASE = Facts("base", "b" * 64, "isaac/lift-cube", 7, 200, 0.60, 0.53, 0.67, 2.0)
GOOD = Facts("latent", "c" * 64, "isaac/lift-cube", 7, 200, 0.97, 0.93, 0.99, 2.5)


def test_better_beyond_its_interval_is_accepted() -> None:
    decision = decide(GOOD, BASE, Promote())
    assert decision.accept
    assert len(decision.reasons) == 1


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"ci_low": 0.60}, "beyond its interval"),  # equal is not better
        ({"success_rate": 0.61, "ci_low": 0.54, "ci_high": 0.68}, "beyond its interval"),
        ({"jerk_rms": 3.01}, "smooth"),  # limit 1.5 x 2.0
        ({"episodes": 199}, "fewer than 200"),
        ({"seed": 8}, "seeds"),
        ({"task": "other"}, "tasks"),
        ({"task": ""}, "tasks"),
        ({"success_rate": math.nan}, "not a number"),
        ({"ci_low": math.inf}, "not a number"),
        ({"jerk_rms": math.nan}, "not a number"),
        ({"jerk_rms": -1.0}, "negative"),
        ({"ci_low": 0.98}, "does not lie in its interval"),
        ({"ci_high": 1.2}, "does not lie in its interval"),
    ],
)
def test_each_flaw_alone_refuses(change: dict, word: str) -> None:
    decision = decide(replace(GOOD, **change), BASE, Promote())
    assert not decision.accept
    assert any(word in reason for reason in decision.reasons), decision.reasons


def test_a_flawed_incumbent_refuses_too() -> None:
    assert not decide(GOOD, replace(BASE, jerk_rms=math.nan), Promote()).accept
    assert not decide(GOOD, replace(BASE, episodes=10), Promote()).accept


def test_jerk_at_the_limit_is_accepted() -> None:
    assert decide(replace(GOOD, jerk_rms=3.0), BASE, Promote()).accept


def test_all_reasons_are_given() -> None:
    decision = decide(replace(GOOD, episodes=1, seed=0, jerk_rms=99.0), BASE, Promote())
    assert len(decision.reasons) == 3


def test_missing_numbers_are_refused_and_written_as_null() -> None:
    facts = Facts.read(
        {"task": "t", "seed": 1, "episodes": 200, "success_rate": 1.0}, name="latent", digest="d"
    )
    assert math.isnan(facts.ci_low)
    assert facts.as_dict()["ci_low"] is None
    assert not decide(facts, replace(BASE, task="t", seed=1), Promote()).accept


def test_garbage_is_bad_data() -> None:
    with pytest.raises(DataError, match="latent"):
        Facts.read({"success_rate": "high"}, name="latent", digest="d")


def _wilson(successes: int, episodes: int) -> tuple[float, float, float]:
    z, p = 1.959963984540054, successes / episodes
    centre = (p + z * z / (2 * episodes)) / (1 + z * z / episodes)
    half = (
        z / (1 + z * z / episodes) * math.sqrt(p * (1 - p) / episodes + z * z / (4 * episodes**2))
    )
    return p, max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))


def _with(facts: Facts, successes: int) -> Facts:
    p, low, high = _wilson(successes, facts.episodes)
    return replace(facts, success_rate=p, ci_low=low, ci_high=high)


@given(st.integers(0, 199), st.integers(0, 200), st.floats(0, 10))
def test_more_successes_never_turn_an_acceptance_into_a_refusal(
    successes: int, incumbent: int, jerk: float
) -> None:
    rules, other = Promote(), _with(BASE, incumbent)
    fewer, more = (
        _with(replace(GOOD, jerk_rms=jerk), successes),
        _with(replace(GOOD, jerk_rms=jerk), successes + 1),
    )
    assert decide(fewer, other, rules).accept <= decide(more, other, rules).accept


@given(st.integers(0, 200))
def test_no_policy_beats_itself(successes: int) -> None:
    facts = _with(GOOD, successes)
    assert not decide(facts, facts, Promote()).accept
