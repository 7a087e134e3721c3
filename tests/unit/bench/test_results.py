"""Rows survive their file; what is no row is refused with its line and column."""

from __future__ import annotations

import re
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zprl.bench import results
from zprl.bench.results import Point
from zprl.errors import DataError

NAMES = st.text("abc/-_,\"' é", min_size=1, max_size=12)
POINTS = st.builds(
    Point,
    task=NAMES,
    method=NAMES,
    seed=st.integers(0, 9),
    env_steps=st.integers(0, 10**7),
    success_rate=st.floats(0, 1),
    episodes=st.integers(1, 500),
    jerk_rms=st.none() | st.floats(0, 1e6),
    wall_s=st.floats(0, 1e6),
)
HEAD = "task,method,seed,env_steps,success_rate,episodes,jerk_rms,wall_s\n"


@given(st.lists(POINTS, max_size=6, unique_by=lambda p: (p.task, p.method, p.seed, p.env_steps)))
def test_what_is_written_is_read_in_whatever_order_it_came(points: list[Point]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "r.csv"
        results.write(path, points)
        found = results.read(path)
        assert sorted(map(repr, found)) == sorted(map(repr, points))
        assert results.as_csv(reversed(points)) == results.as_csv(points)


def test_the_columns_are_the_published_ones(tmp_path: Path) -> None:
    results.write(
        tmp_path / "r.csv",
        [
            Point("t", "zprl", 0, 100, 0.5, 20, None, 3.25),
            Point("t", "base", 0, 0, 0.25, 20, 1.5, 0.0),
        ],
    )
    assert (
        tmp_path / "r.csv"
    ).read_text() == HEAD + "t,base,0,0,0.25,20,1.5,0.0\nt,zprl,0,100,0.5,20,,3.25\n"


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("t,zprl,0,100,1.5,20,,1", "column success_rate: 1.5"),
        ("t,zprl,0,100,nan,20,,1", "column success_rate: nan"),
        ("t,zprl,0,100,,20,,1", "column success_rate: '' is no number"),
        ("t,zprl,0,100,0.5,0,,1", "column episodes"),
        ("t,zprl,0,100,0.5,2.5,,1", "column episodes: '2.5' is no whole number"),
        ("t,zprl,0,-1,0.5,20,,1", "column env_steps: -1 is negative"),
        ("t,zprl,-2,100,0.5,20,,1", "column seed"),
        ("t,zprl,zero,100,0.5,20,,1", "column seed: 'zero'"),
        ("t,zprl,0,100,0.5,20,-3,1", "column jerk_rms"),
        ("t,zprl,0,100,0.5,20,inf,1", "column jerk_rms"),
        ("t,zprl,0,100,0.5,20,nan,1", "column jerk_rms"),
        ("t,zprl,0,100,0.5,20,,nan", "column wall_s"),
        ("t,zprl,0,100,0.5,20,,-1", "column wall_s"),
        (",zprl,0,100,0.5,20,,1", "column task"),
        ("t,,0,100,0.5,20,,1", "column method"),
        ("t,base,0,100,0.5,20,,1", "column env_steps: 100, but the frozen base"),
        ("t,zprl,0,0,0.5,20,,1", "column env_steps: 0 of this run stands in line 2"),
        ("t,zprl,0,100,0.5,20,1", "7 columns instead of 8"),
        ("t,zprl,0,100,0.5,20,,1,more", "9 columns instead of 8"),
        ("", "0 columns"),
    ],
)
def test_a_row_that_is_none_is_refused_with_line_and_column(
    tmp_path: Path, row: str, told: str
) -> None:
    (tmp_path / "r.csv").write_text(HEAD + "t,zprl,0,0,0.5,20,,0\n" + row + "\n")
    with pytest.raises(DataError, match="line 3") as error:
        results.read(tmp_path / "r.csv")
    assert told in error.value.message
    assert error.value.remedy


@pytest.mark.parametrize(
    "head",
    [
        "",
        "task,method\n",
        HEAD.replace("\n", ",more\n"),
        HEAD.replace("seed,env_steps", "env_steps,seed"),
    ],
)
def test_other_columns_are_refused(tmp_path: Path, head: str) -> None:
    (tmp_path / "r.csv").write_text(head)
    with pytest.raises(DataError, match=r"line 1.*columns"):
        results.read(tmp_path / "r.csv")


def test_what_is_no_file_and_what_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_bytes(b"\xff\xfe")
    for name in ("none.csv", "r.csv"):
        with pytest.raises(DataError, match="cannot be read"):
            results.read(tmp_path / name)


def finished(**changed: object) -> results.FinishedRun:
    facts = results.RunFacts("toy/one", "zprl", 0, 10, 2.5, None, 4.0, None)
    points = (
        Point("toy/one", "zprl", 0, 0, 0.5, 20, None, 0.0),
        Point("toy/one", "zprl", 0, 400, 0.9, 20, 1.5, 3.0),
    )
    return replace(results.FinishedRun("abc", "digest", None, facts, points), **changed)


def test_runs_come_back_and_take_another_name(tmp_path: Path) -> None:
    runs = [finished(), finished(key="abd", stood_on=None, policy="digest")]
    results.write_runs(tmp_path / "runs.json", runs)
    assert results.read_runs(tmp_path / "runs.json") == runs
    named = runs[0].named("ours")
    assert {named.facts.method, *(point.method for point in named.points)} == {"ours"}
    assert named.points[1].success_rate == 0.9


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not valid JSON"),
        ('[{"key": "x"}]', "stood_on"),
        ('"success_rate": 9', "not within"),
        ('"policy": "digest"', "neither made nor improved, or both"),
    ],
)
def test_broken_runs_are_refused(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "runs.json"
    results.write_runs(file, [finished()])
    key = text.split(":")[0]
    file.write_text(
        re.sub(rf"{key}: [^,}}]+", text, file.read_text(), count=1)
        if text.startswith('"')
        else text
    )
    with pytest.raises(DataError, match=says):
        results.read_runs(file)
