"""How presses get onto the bus: at once, and again, because whoever has just started does not hear the first one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from zprl.session.bus import Bus
from zprl.session.clock import now
from zprl.session.events import Input
from zprl.session.inputs import OperatorInput

REPEATS, STOP_REPEATS = 3, 150
"""How often a press is said again, at every beat: who has just started does not hear the first one.
A nonce makes it one press."""
STOP_GAP_S = 0.05
"""Between two messages of an e-stop that is pressed again and again."""


@dataclass
class _Said:
    press: OperatorInput
    left: int


class InputPublisher:
    """Says presses on the bus, from any thread and without waiting for whatever else this process does.

    An e-stop that is pressed while one is latched, or not yet confirmed, is the same e-stop:
    however often it comes, it costs one message every :data:`STOP_GAP_S`, and nothing is kept of
    it.

    Args:
        bus: Of the process; nobody else publishes on it.
        clock: Monotonic [s].
    """

    def __init__(self, bus: Bus, clock: Callable[[], float] = time.monotonic) -> None:
        self.bus, self._clock = bus, clock
        self._lock = threading.Lock()
        self._said: list[_Said] = []
        self._stop: _Said | None = None
        self._stopped = self._due = self._pressed = False
        self._stop_at = -STOP_GAP_S

    def publish(self, press: OperatorInput) -> None:
        """Say it now; an e-stop that came a moment after another, as soon as :data:`STOP_GAP_S` is over."""
        with self._lock:
            if press.kind is not Input.ESTOP:
                self._send(press)
                self._said.append(_Said(press, REPEATS))
                return
            self._stop = self._stop or _Said(press, STOP_REPEATS)
            self._stop.left, self._due, self._pressed = STOP_REPEATS, True, True
            self._flush()

    def flush(self) -> None:
        """Say an e-stop that is due.  To be called all the time."""
        with self._lock:
            self._flush()

    def beat(self, *, stopped: bool, **more: int) -> None:
        """Say that the process is alive, and every press again that may not have been heard.

        Args:
            stopped: Whether the session tells that the e-stop is latched: then it needs no
                repetition.
            more: What else the beat says.
        """
        with self._lock:
            self.bus.publish("beat", more)
            self._said = [
                said for said in self._said if said.left > 0 and not said.press.refusal(None, now())
            ]
            for said in self._said:
                said.left -= 1
                self._send(said.press)
            self._beat_stop(stopped)

    def _beat_stop(self, stopped: bool) -> None:
        released, self._stopped = self._stopped and not stopped, stopped
        pressed, self._pressed = self._pressed, False
        if self._stop is None or stopped:
            return
        if (released and not pressed) or self._stop.left == 0:  # the next press is a new e-stop
            self._stop = None
            return
        self._stop.left -= 1
        self._send(self._stop.press)

    def _flush(self) -> None:
        if self._due and self._stop is not None and self._clock() - self._stop_at >= STOP_GAP_S:
            self._due, self._stop_at = False, self._clock()
            self._send(self._stop.press)

    def _send(self, press: OperatorInput) -> None:
        self.bus.publish("input", press.model_dump(mode="json"))
