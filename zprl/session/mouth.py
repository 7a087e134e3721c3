"""How presses get onto the bus: at once, and again, because whoever has just started does not hear the first one."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from zprl.session.bus import Bus
from zprl.session.clock import now
from zprl.session.inputs import OperatorInput
from zprl.session.signals import Input

REPEATS, STOP_REPEATS = 3, 150
"""How often a press is said again, at every beat: who has just started does not hear the first one.  A nonce makes it one press."""


@dataclass
class _Said:
    press: OperatorInput
    left: int


class Mouth:
    """Says presses on the bus, from any thread and without waiting for whatever else this process does.

    Args:
        bus: Of the process; nobody else publishes on it.
    """

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self._lock = threading.Lock()
        self._said: list[_Said] = []

    def say(self, press: OperatorInput) -> None:
        """Say it now."""
        with self._lock:
            self.bus.publish("input", press.model_dump(mode="json"))
            self._said.append(_Said(press, STOP_REPEATS if press.kind is Input.ESTOP else REPEATS))

    def beat(self, *, stopped: bool) -> None:
        """Say that the process is alive, and every press again that may not have been heard.

        Args:
            stopped: Whether the session tells that the e-stop is latched: then it needs no repetition.
        """
        with self._lock:
            self.bus.publish("beat", {})
            self._said = [said for said in self._said if said.left > 0 and not said.press.refusal(said.press.seq, now())]
            self._said = [said for said in self._said if not (stopped and said.press.kind is Input.ESTOP)]
            for said in self._said:
                said.left -= 1
                self.bus.publish("input", said.press.model_dump(mode="json"))
