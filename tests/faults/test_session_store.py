"""A recorder is killed at every durable operation: no committed episode and no label is lost or doubled, and numbering goes on."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from zprl import child_processes, seeding

ROOT = Path(__file__).parents[2]
EPISODES, ROWS = 3, 5 + 2 + 2
"""Rows of an episode: five steps, two chunks, the last observation and what the policy made of
it."""


def play(folder: Path, plan: list[list]) -> list[dict]:
    done = subprocess.run(
        child_processes.python("-m", "tests.faults.toy_session", str(folder), json.dumps(plan)),
        capture_output=True,
        text=True,
        timeout=300,
        env=child_processes.environment(PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1"),
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


@pytest.fixture(scope="module")
def struck(reference: dict, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict]]:
    """All scenarios, played by one process: starting one costs more than a hundred scenarios."""
    operations, appends = reference["count"], EPISODES * (ROWS + 1)
    rng = seeding.numpy_generator(0, "session-kills")
    plans = {
        "kill": [[["kill", n]] for n in range(1, operations + 1)],
        "kill-halfway": [[["kill-halfway", n]] for n in range(1, appends + 1)],
        "broken-disk": [[[("enospc", "eio")[n % 2], n]] for n in range(1, operations + 1, 3)],
        "many": [
            [
                [("kill", "kill-halfway")[int(rng.integers(2))], int(n)]
                for n in rng.integers(1, 30, size=6)
            ]
            for _ in range(8)
        ],
    }
    results = iter(
        play(
            tmp_path_factory.mktemp("struck"),
            [faults for plan in plans.values() for faults in plan],
        )
    )
    return {name: [next(results) for _ in plan] for name, plan in plans.items()}


@pytest.mark.parametrize(("name", "code"), [("kill", -9), ("kill-halfway", -9), ("broken-disk", 4)])
def test_a_struck_recorder_loses_nothing_that_was_acknowledged(
    struck: dict, reference: dict, name: str, code: int
) -> None:
    for n, result in enumerate(struck[name], start=1):
        assert result["codes"] == [code, 0], (
            f"scenario {n}"
        )  # the fault fired, the next recorder went on
        assert result["lost"] == [], f"scenario {n}"
        assert result["digest"] == reference["digest"], f"scenario {n}"
        assert result["partial"] == [], f"scenario {n}"


def test_many_kills_in_one_session(struck: dict, reference: dict) -> None:
    for result in struck["many"]:
        assert -9 in result["codes"]
        assert (result["lost"], result["digest"], result["partial"]) == (
            [],
            reference["digest"],
            [],
        )
