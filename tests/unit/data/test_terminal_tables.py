"""Inspections on a terminal: numbers by hand, foreign text shown as it is and never as markup."""

from __future__ import annotations

import io
from collections import Counter

import numpy as np
import pytest
from rich.console import Console

from zprl.data.episode_checks import Tally
from zprl.data.findings import Finding
from zprl.data.inspection.dataset_card import card, grades, numbers, source_cells
from zprl.data.inspection.inspection import Inspection, SourceSummary
from zprl.data.inspection.outliers import Outlier
from zprl.data.inspection.terminal_tables import finding_line, inspection_tables, tally_table
from zprl.data.running_statistics import RunningStatistics


def statistics_of(rows: list[list[float]]) -> RunningStatistics:
    moments = RunningStatistics(len(rows[0]))
    moments.add(np.array(rows))
    return moments


def inspection(**changes: object) -> Inspection:
    source = SourceSummary("data/a.hdf5", "robomimic", {"robot": "panda"}, episodes=2, frames=30)
    return Inspection(
        sources=[source],
        lengths=[10, 20],
        successes=1,
        qualities=Counter({"better": 1, "worse": 1}),
        keys={"object": statistics_of([[1.0, -2.0], [3.0, 4.0]])},
        **changes,
    )


def printed(*parts: object) -> str:
    screen = Console(file=io.StringIO(), width=160, markup=False, emoji=False, highlight=False)
    for part in parts:
        screen.print(part)
    return screen.file.getvalue()


def test_few_dimensions_are_listed_one_by_one() -> None:
    """Of 1, 3 the mean is 2 and the deviation 1; of -2, 4 they are 1 and 3."""
    moments = statistics_of([[1.0, -2.0], [3.0, 4.0]])
    assert numbers(moments, wide=2, to="to") == ["1 -2", "3 4", "2 1", "1 3"]


def test_of_wide_keys_the_extremes_are_shown() -> None:
    moments = statistics_of([[1.0, -2.0], [3.0, 4.0]])
    assert numbers(moments, wide=1, to="..") == ["-2", "4", "1 .. 2", "1 .. 3"]


def test_grades_are_those_that_there_are_from_the_best_on() -> None:
    counts = Counter({"unknown": 3, "worse": 1, "better": 2, "okay": 0})
    assert grades(Inspection(qualities=counts)) == "2 better, 1 worse, 3 unknown"
    assert grades(Inspection()) == ""


def test_a_source_with_more_episodes_says_so() -> None:
    source = SourceSummary("a", "minari", {"rate": "10 Hz", "robot": "x"}, 2, 30, more=True)
    assert source_cells(source) == ["a", "minari", "2+", "30", "rate: 10 Hz; robot: x"]


def test_card_and_terminal_show_the_same_numbers() -> None:
    shown, text = printed(*inspection_tables(inspection())), card(inspection(), title="t")
    assert "10 to 20, median 15" in shown
    assert "10 to 20 per episode, median 15" in text
    for words in ("data/a.hdf5", "robot: panda", "1 better, 1 worse", "1 -2", "50%"):
        assert words in shown, words
        assert words in text, words


def test_sampled_sources_and_outliers_are_named() -> None:
    odd = Outlier("a/demo_1", "length", 90.0, 20.0, 9.0)
    made = inspection(outliers=[odd])
    made.sources[0].more = True
    shown = printed(*inspection_tables(made))
    assert "1 source(s) have more episodes than were looked at" in shown
    assert "a/demo_1: length 90 frames, median 20 frames (score +9.0)" in shown


@pytest.mark.parametrize("name", ["[bold]a[/bold]", "[link=https://x]a", ":smile:"])
def test_names_are_not_markup(name: str) -> None:
    finding = Finding("D02", "error", f"{name}.hdf5", f"{name} is missing", "mend it", name)
    made = inspection()
    made.sources[0].path = name
    made.keys = {name: made.keys["object"]}
    assert printed(*inspection_tables(made)).count(name) == 2
    assert printed(finding_line(finding)).startswith(f"error   D02 {name}.hdf5, episode {name}")


def test_a_tally_counts_by_code() -> None:
    tally = Tally(passed=3, bad={"a/demo_1": None}, codes=Counter({"D10": 2, "D04": 1}))
    lines = [" ".join(line.split()) for line in printed(tally_table(tally, 2)).splitlines()]
    assert lines == [
        "what how many",
        "sources 2",
        "good episodes 3",
        "with errors (kept out) 1",
        "D04 NaN or infinity 1",
        "D10 frozen robot 2",
    ]
