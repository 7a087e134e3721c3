"""Tracking through a file: what a stage in a container logs arrives at the host's tracker once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from zprl.tracking import SWITCH_VARIABLE, open_pipeline_tracker
from zprl.tracking.file_tracker import FileRun, TrackedReplay


class Received:
    """A tracker that remembers its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def log(self, step: int, **metrics: float) -> None:
        self.calls.append(("log", step, metrics))

    def tag(self, **tags: str) -> None:
        self.calls.append(("tag", tags))

    def log_file(self, path: Path, folder: str) -> None:
        self.calls.append(("file", path, folder))


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "tracked.jsonl"


def test_points_tags_and_files_arrive_in_their_order(file: Path) -> None:
    run, tracker = FileRun(file), Received()
    run.send([("loss", 0.5, 3, 0), ("rate", 1.0, 3, 0)])
    run.send_tags({"zprl.error": "none"})
    run.send_path(Path("plots/a.csv"), "plots")
    assert TrackedReplay(file, tracker).forward() == 3
    assert tracker.calls == [
        ("log", 3, {"loss": 0.5}),
        ("log", 3, {"rate": 1.0}),
        ("tag", {"zprl.error": "none"}),
        ("file", file.parent / "plots/a.csv", "plots"),
    ]


def test_a_line_on_its_way_waits_for_its_end(file: Path) -> None:
    tracker = Received()
    replay = TrackedReplay(file, tracker)
    assert replay.forward() == 0, "there is no file yet"
    file.write_text('{"tags": {"a": "1"}}\n{"tags": {"b"')
    assert (replay.forward(), replay.forward()) == (1, 0)
    with file.open("a") as end:
        end.write(': "2"}}\n')
    assert replay.forward() == 1
    assert tracker.calls == [("tag", {"a": "1"}), ("tag", {"b": "2"})]


@pytest.mark.parametrize(
    "line", ["no json", "[1]", '{"points": [["loss", "much", 1, 0]]}', '{"path": "a"}', "{}"]
)
def test_a_line_that_cannot_be_read_hides_no_other(file: Path, line: str) -> None:
    tracker = Received()
    file.write_text(f'{line}\n{{"tags": {{"a": "1"}}}}\n')
    assert TrackedReplay(file, tracker).forward() == 2
    assert tracker.calls == [("tag", {"a": "1"})]


def test_paths_outside_the_working_folder_are_not_attached(file: Path) -> None:
    """The lines come from a container: it names no file of the host's."""
    tracker, run = Received(), FileRun(file)
    for path in (Path("/etc/passwd"), file.parent / "../secret"):
        run.send_path(path, "stolen")
    TrackedReplay(file, tracker).forward()
    assert tracker.calls == []


def test_the_switch_chooses_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH_VARIABLE, f"file:{file}")
    with open_pipeline_tracker("a", params={}, inputs={}) as tracker:
        tracker.log(1, loss=2.0)
    received = Received()
    TrackedReplay(file, received).forward()
    assert (tracker.run_id, received.calls) == (f"file:{file}", [("log", 1, {"loss": 2.0})])
