"""A recorder is killed at every durable operation: no committed episode and no label is lost or doubled, and numbering goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from zprl import seeding

ROOT = Path(__file__).parents[2]
EPISODES, ROWS = 3, 5 + 2 + 2
"""Rows of an episode: five steps, two chunks, the last observation and what the policy made of it."""


def play(folder: Path, plan: list[list]) -> list[dict]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.toy_session", str(folder), json.dumps(plan)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.split("RESULT ")[-1])


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict:
    (calm,) = play(tmp_path_factory.mktemp("reference"), [[["count", 0]]])
    assert calm["codes"] == [0, 0]
    assert calm["labels"] == {"1": "success", "2": "failure", "3": "success"}
    assert calm["count"] > 3 * (ROWS + 10)
    return calm


def check(results: list[dict], reference: dict, code: int) -> None:
    for n, result in enumerate(results, start=1):
        assert result["codes"] == [code, 0], f"operation {n}"  # the fault fired, the next recorder went on
        assert result["lost"] == [], f"operation {n}"
        assert result["digest"] == reference["digest"], f"operation {n}"
        assert result["partial"] == [], f"operation {n}"


def test_kill_at_each_operation_in_turn(reference: dict, tmp_path: Path) -> None:
    check(play(tmp_path, [[["kill", n]] for n in range(1, reference["count"] + 1)]), reference, -9)


def test_kill_in_the_middle_of_each_row_and_label(reference: dict, tmp_path: Path) -> None:
    appends = EPISODES * (ROWS + 1)
    check(play(tmp_path, [[["kill-halfway", n]] for n in range(1, appends + 1)]), reference, -9)


def test_a_broken_disk_loses_nothing(reference: dict, tmp_path: Path) -> None:
    kinds = ("enospc", "eio")
    check(play(tmp_path, [[[kinds[n % 2], n]] for n in range(1, reference["count"] + 1, 3)]), reference, 4)


def test_many_kills_in_one_session(reference: dict, tmp_path: Path) -> None:
    rng = seeding.numpy_generator(0, "session-kills")
    plan = [[[("kill", "kill-halfway")[int(rng.integers(2))], int(n)] for n in rng.integers(1, 30, size=6)] for _ in range(8)]
    for result in play(tmp_path, plan):
        assert -9 in result["codes"]
        assert (result["lost"], result["digest"]) == ([], reference["digest"])
