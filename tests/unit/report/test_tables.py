from __future__ import annotations

import pytest

from tests.unit.report import made
from zprl.errors import DataError
from zprl.report import tables


def test_headline_says_who_won_where() -> None:
    found = {name: made.evaluation(name) for name in ("base", "finetune_sim")}
    headline = tables.headline(found)
    assert [side["name"] for side in headline["sides"]] == ["base", "finetune_sim"]
    assert [side["rate"].split("\N{NARROW NO-BREAK SPACE}")[0] for side in headline["sides"]] == [
        "60.0",
        "95.0",
    ]
    # 38 - 24 successes, none lost; two-sided exact test of 14 against 0 is 2 / 2^14 = 1.2e-4
    assert (
        "succeeds in 14 where" in headline["sentence"] and "in none where" in headline["sentence"]
    )
    assert "p = 1 \N{MULTIPLICATION SIGN} 10⁻⁴" in headline["sentence"]


def test_headline_needs_both() -> None:
    with pytest.raises(DataError, match="no evaluation of finetune_sim"):
        tables.headline({"base": made.evaluation("base")})


def test_transfer_says_what_is_lost() -> None:
    sentence = str(tables.transfer(made.TRANSFER)).replace("\N{NARROW NO-BREAK SPACE}", " ")
    assert (
        "(ovphysx) the steered policy succeeds in 95.0 % (80.0 to 99.0 %), on newton in 70.0 % (50.0 to 85.0 %)"
        in sentence
    )
    assert "the same 20 starts it loses 25.0 points (exact McNemar test: p = 0.062)" in sentence
    assert tables.transfer({"policy": "finetune_sim", "engines": []}) is None


@pytest.mark.parametrize(
    "other",
    [
        made.evaluation("finetune_sim", seed=8),
        made.evaluation("finetune_sim", success=(True,) * 39),
    ],
)
def test_other_episodes_are_not_paired(other: object) -> None:
    with pytest.raises(DataError, match="not judged by the same episodes"):
        tables.compare(made.evaluation("base"), other)


def test_row_of_the_candidate() -> None:
    base, latent = made.evaluation("base"), made.evaluation("finetune_sim")
    row = tables.policy_row("finetune_sim", latent, tables.compare(base, latent))
    assert (
        row["difference"] == "+35.0"
        and row["tone"] == "better"
        and row["discordant"] == "14 won, 0 lost"
    )
    assert (
        row["count"] == "38 of 40" and row["jump"] == "2.00" and row["variation"] == "4.00"
    )  # metres become millimetres
    assert row["bar"]["low"] < row["bar"]["at"] == 95.0 < row["bar"]["high"]


def test_row_of_a_worse_policy_and_of_an_undecided_one() -> None:
    base, latent, direct = (made.evaluation(name) for name in ("base", "finetune_sim", "embedding"))
    assert (
        tables.policy_row("base", base, tables.compare(latent, base))["difference"]
        == "\N{MINUS SIGN}35.0"
    )
    assert tables.policy_row("base", base, tables.compare(latent, base))["tone"] == "worse"
    assert (
        tables.policy_row("embedding", direct, tables.compare(base, direct))["tone"] == ""
    )  # 2 against 0: p = 0.5
    assert tables.policy_row("base", base, None)["difference"] is None


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (1.0, "p = 1.000"),
        (0.0312, "p = 0.031"),
        (0.000122, "p = 1 \N{MULTIPLICATION SIGN} 10⁻⁴"),
        (3e-21, "p = 3 \N{MULTIPLICATION SIGN} 10⁻²¹"),
        (0.0, "p = 0.000"),
    ],
)
def test_p_values(p: float, text: str) -> None:
    assert tables.p_text(p) == text


def test_unknown_numbers_are_dashes() -> None:
    assert (
        tables.number(None, 1)
        == tables.number(float("nan"), 1)
        == tables.percent(None)
        == "\N{EN DASH}"
    )


def test_flat_facts() -> None:
    assert tables.flat(
        {"a": {"b": {"c": 1}}, "short": [1, 2], "long": [0] * 7, "x": 0.1 + 0.2}
    ) == {
        "a.b.c": "1",
        "short": "[1, 2]",
        "x": "0.3",
    }
