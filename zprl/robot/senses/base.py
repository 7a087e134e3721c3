"""Cameras and trackers behind one shape: values with stamps, and a reader that keeps the newest one."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from zprl.errors import EnvironmentProblem


class StaleSense(EnvironmentProblem):
    """A sense has nothing new to say."""


@dataclass(frozen=True)
class Reading:
    """One value: when the device says it was taken, when it arrived (host's monotonic clock), and its number."""

    value: np.ndarray
    stamp: float
    host: float
    seq: int


class Sense(Protocol):
    """A source of readings."""

    name: str

    def open(self) -> None:
        """Connect."""
        ...

    def read(self) -> Reading | None:
        """The next reading; ``None`` after a time-out of its own."""
        ...

    def close(self) -> None:
        """Let go."""
        ...


class LatestReader:
    """Reads in a thread of its own and keeps the newest reading; a device that hangs holds up nobody."""

    def __init__(self, sense: Sense) -> None:
        self.sense = sense
        self._latest: Reading | None = None
        self._closed = False
        self._error = ""
        self._thread = threading.Thread(target=self._run, name=f"sense-{sense.name}", daemon=True)
        self.dropped = 0

    def start(self) -> None:
        """Open the device and read."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._closed = True
        if self._thread.is_alive():
            self._thread.join(2.0)

    def latest(self, max_age_s: float) -> Reading:
        """The newest reading.

        Raises:
            StaleSense: there is none, or it is older than ``max_age_s`` host seconds.
        """
        found = self._latest
        age = time.monotonic() - found.host if found else float("inf")
        if found is None or age > max_age_s:
            raise StaleSense(
                f"'{self.sense.name}' has said nothing for {age:.2f} s" + (f" ({self._error})" if self._error else ""),
                remedy="check the device, its cable and its light",
            )
        return found

    def _run(self) -> None:
        try:
            self.sense.open()
            while not self._closed:
                reading = self.sense.read()
                if reading is not None:
                    if self._latest is not None:
                        self.dropped += max(0, reading.seq - self._latest.seq - 1)
                    self._latest = reading
        except Exception as error:  # whatever a vendor's library raises: the reading grows stale, and the reason is told
            self._error = f"{type(error).__name__}: {error}"
        finally:
            self.sense.close()
