"""Bound what clients can cost a server: files that are open, lines in its log."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable

QUIET_S = 10.0
"""Seconds between two lines in the log."""
LOG_LETTERS = 300
"""Longest line in the log."""


class QuietLog:
    """A log of at most one line every :data:`QUIET_S` seconds, with the number of those left out.

    Args:
        write: Receives the lines.
        clock: Monotonic [s].
        lead: Text before each line.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        *,
        lead: str = "",
    ) -> None:
        self._write = write
        self._clock = clock
        self._lead = lead
        self._at = -QUIET_S
        self._skipped = 0

    def __call__(self, line: str) -> None:
        now = self._clock()
        if now - self._at < QUIET_S:
            self._skipped += 1
            return
        more = f" ({self._skipped} like it since the last such line)" if self._skipped else ""
        self._at = now
        self._skipped = 0
        self._write(f"{self._lead}{line[:LOG_LETTERS]}{more}")


def raise_open_files() -> None:
    """Let this process open as many files as the system allows it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def open_files() -> int:
    """Return how many files this process may have open."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 2**20 if most == resource.RLIM_INFINITY else most
