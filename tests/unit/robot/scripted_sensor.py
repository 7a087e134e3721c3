"""A sensor whose readings a test writes down."""

from __future__ import annotations

import threading
import time

import numpy as np

from zprl.robot.sensors.base import Reading

PATIENCE = 10.0
"""Longest wait of a test [s]."""


class Scripted:
    """Sensor that gives readings, raises or hangs as written.

    ``drained`` is set once all of the script has been taken.
    """

    def __init__(self, *script):
        self.name, self.script = "scripted", list(script)
        self.opened = self.closed = 0
        self.drained, self.released = threading.Event(), threading.Event()

    def open(self):
        self.opened += 1

    def read(self):
        if not self.script:
            self.drained.set()
            self.released.wait(0.05)
            return None

        step = self.script.pop(0)
        if step == "hang":
            self.drained.set()
            self.released.wait()
            return None
        if isinstance(step, Exception):
            raise step
        return step() if callable(step) else step

    def close(self):
        self.closed += 1


def at(seq, value=None, host=None, stamp=None):
    """A reading; by default an image full of its number, taken when it is read."""
    image = np.full((4, 6, 3), seq % 256, np.uint8) if value is None else value
    return lambda: Reading(
        image,
        seq / 30 if stamp is None else stamp,
        time.monotonic() if host is None else host(),
        seq,
    )
