"""The question that follows an unknown name."""

from __future__ import annotations

import pytest

from zprl.suggestions import did_you_mean


@pytest.mark.parametrize(
    ("name", "question"),
    [
        ("sed", "did you mean 'seed'?"),
        ("stepp", "did you mean 'steps'?"),
        ("colour", ""),
        ("", ""),
    ],
)
def test_the_nearest_name_is_asked_for(name: str, question: str) -> None:
    assert did_you_mean(name, ["seed", "steps"]) == question


def test_lead_and_prefix_stand_only_where_a_name_is_near() -> None:
    known = (name for name in ("hammer", "door"))  # any iterable
    assert did_you_mean("hamer", known, lead="; ", prefix="adroit/") == (
        "; did you mean 'adroit/hammer'?"
    )
    assert did_you_mean("pen", ["door"], lead="; ", prefix="adroit/") == ""


def test_a_lower_cutoff_suggests_what_is_less_alike() -> None:
    assert did_you_mean("abcd", ["abxy"]) == ""
    assert did_you_mean("abcd", ["abxy"], cutoff=0.5) == "did you mean 'abxy'?"
