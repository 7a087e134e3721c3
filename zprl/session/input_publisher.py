"""Presses on the bus: published at once, and again for processes that have just started."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from zprl.session.bus import Bus
from zprl.session.clock import now
from zprl.session.events import Input
from zprl.session.inputs import OperatorInput
from zprl.session.messages import Beat

REPEATS, STOP_REPEATS = 3, 150
"""How often a press is sent again, at every beat: a process that has just started has not received
the first one.  A nonce makes it one press."""
STOP_GAP_S = 0.05
"""Between two messages of an e-stop that is pressed again and again."""


@dataclass
class _Sent:
    press: OperatorInput
    left: int


class InputPublisher:
    """Publishes presses from any thread, without waiting for other work of the process.

    An e-stop that is pressed while one is latched, or not yet confirmed, is the same e-stop:
    however often it comes, it costs one message every :data:`STOP_GAP_S`, and nothing is kept of
    it.

    Args:
        bus: Bus of the process; nobody else publishes on it.
        clock: Monotonic [s].
    """

    def __init__(self, bus: Bus, clock: Callable[[], float] = time.monotonic) -> None:
        self.bus, self._clock = bus, clock
        self._lock = threading.Lock()
        self._sent: list[_Sent] = []
        self._stop: _Sent | None = None
        self._stopped = self._due = self._pressed = False
        self._stop_at = -STOP_GAP_S

    def publish(self, press: OperatorInput) -> None:
        """Publish a press now; an e-stop shortly after another, once :data:`STOP_GAP_S` is over."""
        with self._lock:
            if press.kind is not Input.ESTOP:
                self._send(press)
                self._sent.append(_Sent(press, REPEATS))
                return
            self._stop = self._stop or _Sent(press, STOP_REPEATS)
            self._stop.left = STOP_REPEATS
            self._due = self._pressed = True
            self._flush()

    def flush(self) -> None:
        """Publish an e-stop that is due.  To be called all the time."""
        with self._lock:
            self._flush()

    def beat(self, beat: Beat, *, stopped: bool) -> None:
        """Publish a beat, and every press again that may not have been received.

        Args:
            beat: The beat of this process.
            stopped: Whether the session reports that the e-stop is latched: then it needs no
                repetition.
        """
        with self._lock:
            self.bus.publish(beat)
            self._sent = [
                sent for sent in self._sent if sent.left > 0 and not sent.press.refusal(None, now())
            ]
            for sent in self._sent:
                sent.left -= 1
                self._send(sent.press)
            self._beat_stop(stopped=stopped)

    def _beat_stop(self, *, stopped: bool) -> None:
        released = self._stopped and not stopped
        pressed = self._pressed
        self._stopped, self._pressed = stopped, False
        if self._stop is None or stopped:
            return

        # After a release, or all repetitions, the next press is a new e-stop.
        if (released and not pressed) or self._stop.left == 0:
            self._stop = None
            return
        self._stop.left -= 1
        self._send(self._stop.press)

    def _flush(self) -> None:
        if self._due and self._stop is not None and self._clock() - self._stop_at >= STOP_GAP_S:
            self._due = False
            self._stop_at = self._clock()
            self._send(self._stop.press)

    def _send(self, press: OperatorInput) -> None:
        self.bus.publish(press)
