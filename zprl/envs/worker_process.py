"""The end of a worker process: how to wait for it, and what its error message says."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from typing import IO

_SHOWN = 300
"""Characters of the last line of output that a message shows."""


def end(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait for a process that was asked to end; kill it where it does not end in time."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def fate(process: subprocess.Popen[bytes], output: IO[bytes], seconds: float) -> str:
    """Return how a process ended, and its last line of output, to follow the word "ended"."""
    how = ""
    with contextlib.suppress(subprocess.TimeoutExpired):
        code = process.wait(seconds)
        how = f" by {signal.Signals(-code).name}" if code < 0 else f" with exit code {code}"
    return how + last_line(output)


def last_line(output: IO[bytes]) -> str:
    """Return the last line of a process's output, as the end of a sentence."""
    output.seek(0)
    lines = [line.strip() for line in output.read().decode(errors="replace").splitlines()]
    last = next((line for line in reversed(lines) if line), "")
    return f", saying '{last[-_SHOWN:]}'" if last else ""
