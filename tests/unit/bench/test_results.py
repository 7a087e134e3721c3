"""Rows survive their file; what is no row is refused with its line."""

from __future__ import annotations

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


@given(st.lists(POINTS, max_size=6))
def test_what_is_written_is_read(points: list[Point]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "r.csv"
        results.write(path, points)
        assert sorted(map(repr, results.read(path))) == sorted(map(repr, points))


def test_the_columns_are_the_published_ones(tmp_path: Path) -> None:
    results.write(tmp_path / "r.csv", [Point("t", "zprl", 0, 100, 0.5, 20, None, 3.25)])
    assert (tmp_path / "r.csv").read_text() == (
        "task,method,seed,env_steps,success_rate,episodes,jerk_rms,wall_s\nt,zprl,0,100,0.5,20,,3.25\n"
    )


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("t,zprl,0,100,1.5,20,,1", "line 2"),
        ("t,zprl,0,100,nan,20,,1", "line 2"),
        ("t,zprl,0,100,0.5,0,,1", "line 2"),
        ("t,zprl,0,-1,0.5,20,,1", "line 2"),
        ("t,zprl,0,100,0.5,20,-3,1", "line 2"),
        ("t,zprl,0,100,0.5,20,inf,1", "line 2"),
        ("t,zprl,0,100,0.5,20,,nan", "line 2"),
        ("t,zprl,zero,100,0.5,20,,1", "line 2"),
        ("t,zprl,0,100,0.5,20,1", "line 2"),
    ],
)
def test_a_row_that_is_none_is_refused(tmp_path: Path, row: str, told: str) -> None:
    (tmp_path / "r.csv").write_text(",".join(results.COLUMNS) + "\n" + row + "\n")
    with pytest.raises(DataError, match=told):
        results.read(tmp_path / "r.csv")


@pytest.mark.parametrize("head", ["", "task,method\n", ",".join(results.COLUMNS) + ",more\n"])
def test_other_columns_are_refused(tmp_path: Path, head: str) -> None:
    (tmp_path / "r.csv").write_text(head)
    with pytest.raises(DataError, match="columns"):
        results.read(tmp_path / "r.csv")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        results.read(tmp_path / "none.csv")
