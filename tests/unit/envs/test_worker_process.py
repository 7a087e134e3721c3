"""The end of a worker process, in words and within a time."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time

import pytest

from zprl.envs import worker_process


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("print('first'); print(' out of memory '); print(); raise SystemExit(3)", 3),
        ("import os; print('out of memory', flush=True); os.kill(os.getpid(), 9)", -9),
    ],
)
def test_the_end_and_the_last_line_with_words_are_named(program: str, expected: int) -> None:
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen([sys.executable, "-c", program], stdout=output)
        how = "exit code 3" if expected == 3 else "SIGKILL"
        by = "with" if expected == 3 else "by"
        fate = worker_process.fate(process, output, 30)
        assert fate == f" {by} {how}, saying 'out of memory'"
        assert process.returncode == expected


def test_a_process_that_is_still_there_and_silent_has_no_fate_and_is_killed() -> None:
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(600)"], stdout=output
        )
        assert worker_process.fate(process, output, 0.1) == ""
        start = time.monotonic()
        worker_process.end(process, 0.1)
        assert process.returncode == -9
        assert time.monotonic() - start < 60


def test_a_long_last_line_is_cut_at_its_beginning() -> None:
    with tempfile.TemporaryFile() as output:
        output.write(b"a" * 500 + b"\xff the end\n")
        assert (
            worker_process.last_line(output)
            == f", saying '{'a' * 291}\N{REPLACEMENT CHARACTER} the end'"
        )
