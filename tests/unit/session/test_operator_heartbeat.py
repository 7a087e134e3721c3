"""Whose silence stops a real arm: a person's, not that of a page which nobody has open."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from zprl.session.bus import Message
from zprl.session.processes.driver import Driver


@pytest.mark.parametrize(
    ("simulated", "sender", "body", "counts"),
    [
        (False, "console", {"pages": 0}, False),
        (False, "console", {}, False),
        (False, "console", {"pages": 2}, True),
        (False, "operator_devices", {}, True),
        (True, "console", {"pages": 0}, True),
        (True, "scripted", {}, True),
    ],
)
def test_a_beat_counts_when_somebody_is_there(
    simulated: bool, sender: str, body: dict, counts: bool
) -> None:
    beats: list[str] = []
    driver = Driver.__new__(Driver)
    driver.robot = SimpleNamespace(simulated=simulated)
    driver.monitor = SimpleNamespace(beat=lambda name, now: beats.append(name))
    driver._take(Message(sender, "beat", body))
    assert beats == ["operator"] * counts
