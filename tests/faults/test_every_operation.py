"""Each durable operation of a real stage is struck in turn; running again always gives the reference's bytes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from zprl import child_processes, seeding

ROOT = Path(__file__).parents[2]


def play(folder: Path, plan: list[dict]) -> list[dict]:
    done = subprocess.run(
        child_processes.python("-m", "tests.faults.toy_stage", str(folder), json.dumps(plan)),
        capture_output=True,
        text=True,
        timeout=300,
        env=child_processes.environment(PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1"),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.split("RESULT ")[-1])


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict:
    calm, again, other = play(
        tmp_path_factory.mktemp("reference"),
        [{"faults": [["count", 0]]}, {"faults": []}, {"faults": [], "seed": 1}],
    )
    assert calm["digest"] == again["digest"] != other["digest"]  # the digest means something
    assert calm["count"] > 30
    return calm


@pytest.mark.parametrize(
    ("kinds", "code"),
    [(("kill",), -9), pytest.param(("enospc", "eio"), 4, marks=pytest.mark.exhaustive)],
)
def test_strike_each_operation_in_turn(
    kinds: tuple[str, ...], code: int, reference: dict, tmp_path: Path
) -> None:
    plan = [{"faults": [[kinds[n % len(kinds)], n]]} for n in range(1, reference["count"] + 1)]
    for n, result in enumerate(play(tmp_path, plan), start=1):
        assert result["codes"] == [code, 0], (
            f"operation {n}"
        )  # the fault fired, the next attempt went through
        assert result["digest"] == reference["digest"], f"operation {n}"
        assert result["partial"] == [], f"operation {n}"


def test_a_disk_that_stays_broken_loses_nothing(reference: dict, tmp_path: Path) -> None:
    plan = [{"faults": [["eio-for-good", n]]} for n in range(1, reference["count"] + 1, 3)]
    for result in play(tmp_path, plan):
        assert result["codes"] == [4, 0]
        assert result["digest"] == reference["digest"]


def test_many_kills_in_one_run(reference: dict, tmp_path: Path) -> None:
    rng = seeding.numpy_generator(0, "kills")
    plan = [{"faults": [["kill", int(n)] for n in rng.integers(1, 14, size=5)]} for _ in range(20)]
    for result in play(tmp_path, plan):
        assert result["digest"] == reference["digest"]
        assert -9 in result["codes"]


def test_a_polite_stop_is_resumable(reference: dict, tmp_path: Path) -> None:
    plan = [{"faults": [["stop", n]]} for n in (9, 20, 33)]  # once the stage has begun
    for result in play(tmp_path, plan):
        assert result["codes"] == [5, 0]
        assert result["digest"] == reference["digest"]
