"""Messages for tests of a session: a plan, a bus without sockets, and one that sends anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from zprl.session.bus import Bus, Message, encode
from zprl.session.contents import Contents
from zprl.session.events import Input
from zprl.session.messages import EventMessage, Plan

DIGESTS = {"task": "t", "limits": "l"}
PLAN: dict[str, Any] = {
    "seq": 7,
    "at": 1.5,
    "digests": DIGESTS,
    "reason": "",
    "answers": [],
    "recover_at": 0.0,
    "behind": False,
    "held": False,
    "state": "RUNNING",
    "mode": "async",
    "number": 3,
    "start_number": 1,
    "evaluation": False,
    "explore": True,
    "weights": None,
    "kind": "train",
    "recover": 0,
    "stop": 0,
    "stop_level": 0,
    "reset": None,
    "commit": [],
    "labels": [],
    "discard": [],
    "pending": [],
    "prompt": "",
    "next": 4,
    "paused": False,
}
"""JSON object of a plan: training episode 3 is running."""
ESTOP = Message("console", "input", {"kind": Input.ESTOP.value})


def plan_of(**changes: Any) -> Plan:
    """Return the plan with some facts changed."""
    return Plan.parse(PLAN | changes)


class FakeBus:
    """A bus that gives what is coming, and keeps what is published."""

    def __init__(self) -> None:
        self.coming: list[Message] = []
        self.sent: list[Contents] = []
        self.arrays: list[Mapping[str, np.ndarray] | None] = []

    def poll(self, timeout_s: float = 0.0) -> list[Message]:
        coming, self.coming = self.coming, []
        return coming

    def publish(self, contents: Contents, arrays: Mapping[str, np.ndarray] | None = None) -> None:
        self.sent.append(contents)
        self.arrays.append(arrays)

    def of(self, kind: type[Contents]) -> list[Any]:
        """Contents of one class that were published."""
        return [contents for contents in self.sent if isinstance(contents, kind)]

    def kinds(self) -> list[str]:
        """Kinds of the events that were published."""
        return [event.kind for event in self.of(EventMessage)]


class UntypedBus(Bus):
    """A bus that sends any JSON object, as a broken or hostile process may."""

    def send(
        self,
        topic: str,
        body: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self._out.send_multipart(encode(self.name, topic, body, arrays))
