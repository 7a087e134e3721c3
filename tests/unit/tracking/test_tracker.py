"""The tracker's own promises, against a store that fails on demand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from zprl.errors import DataError, Interrupted
from zprl.tracking import FLUSH_POINTS, KEEP_POINTS, Point, Tracker


class Store:
    """Remembers what it gets; ``broken`` makes every call fail."""

    run_id = "r1"

    def __init__(self, last: dict[str, int] | None = None) -> None:
        self.points: list[Point] = []
        self.batches = 0
        self.tags: dict[str, str] = {}
        self.files: list[tuple[str, str]] = []
        self.status = "RUNNING"
        self.broken = False
        self._last = last or {}

    def _try(self) -> None:
        if self.broken:
            raise ConnectionError("the server is away")

    def last_steps(self) -> dict[str, int]:
        self._try()
        return self._last

    def send(self, points: list[Point]) -> None:
        self._try()
        self.batches += 1
        self.points += points

    def send_path(self, path: Path, folder: str) -> None:
        self._try()
        self.files.append((str(path), folder))

    def send_tags(self, tags: Mapping[str, str]) -> None:
        self._try()
        self.tags.update(tags)

    def end(self, status: str) -> None:
        self._try()
        self.status = status


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_points_go_out_in_batches() -> None:
    store = Store()
    with Tracker(store, clock=Clock()) as tracker:
        for step in range(FLUSH_POINTS):
            tracker.log(step, loss=step)
        assert store.batches == 1
        tracker.log(FLUSH_POINTS, loss=0.5)
    assert store.batches == 2
    assert [(name, value, step) for name, value, step, _ in store.points[-2:]] == [
        ("loss", 499.0, 499),
        ("loss", 0.5, 500),
    ]
    assert store.status == "FINISHED"


def test_old_points_go_out_without_waiting_for_a_full_batch() -> None:
    store, clock = Store(), Clock()
    tracker = Tracker(store, clock=clock)
    tracker.log(1, loss=1.0)
    assert store.points == []
    clock.now = 6.0
    tracker.log(2, loss=2.0)
    assert len(store.points) == 2


def test_a_continued_run_drops_what_it_has_per_metric() -> None:
    store = Store({"loss": 10})
    with Tracker(store) as tracker:
        tracker.log(10, loss=1.0, kl=1.0)
        tracker.log(11, loss=2.0)
    assert [(name, step) for name, _, step, _ in store.points] == [("kl", 10), ("loss", 11)]


def test_an_absent_store_warns_once_and_gets_everything_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store, clock = Store(), Clock()
    store.broken = True
    with Tracker(store, clock=clock) as tracker:
        for step in range(2000):
            tracker.log(step, loss=1.0)
        tracker.tag(a=1)
        tracker.log_file("x.txt")
        store.broken = False
        clock.now = 1000.0
        tracker.log(2000, loss=1.0)
        assert [step for _, _, step, _ in store.points] == list(range(2001))
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["warning"]


def test_a_store_that_never_answers_costs_bounded_memory() -> None:
    store = Store()
    store.broken = True
    tracker = Tracker(store, clock=Clock())
    for step in range(KEEP_POINTS + 10):
        tracker.log(step, loss=1.0)
    assert len(tracker._points) == KEEP_POINTS
    assert tracker._points[-1][2] == KEEP_POINTS + 9


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (DataError("bad"), "FAILED"),
        (ValueError("bug"), "FAILED"),
        (Interrupted("stop"), "KILLED"),
        (KeyboardInterrupt(), "KILLED"),
    ],
)
def test_status_says_how_the_stage_ended(error: BaseException, status: str) -> None:
    store = Store()
    with pytest.raises(type(error)), Tracker(store):
        raise error
    assert store.status == status
    assert ("zprl.error" in store.tags) == (status == "FAILED")


def test_values_that_are_no_numbers_do_not_stop_training(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Tracker(Store()) as tracker:
        tracker.log(1, loss="abc")  # type: ignore[arg-type]
    assert "ValueError" in caplog.text


def test_without_a_store_nothing_happens() -> None:
    with Tracker() as tracker:
        tracker.log(1, loss=1.0)
        tracker.tag(a=1)
    assert tracker.run_id is None
