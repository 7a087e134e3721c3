"""Fixtures of the tests of robots and sensors."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from zprl import plugins

KINDS = ("realsense", "opencv", "synthetic", "knobs", "apriltag")
"""Kinds of sensors; the fault injection's is called knobs."""


@pytest.fixture
def kinds(monkeypatch):
    modules = {kind: kind for kind in KINDS} | {"knobs": "fault_injection"}
    points = [
        EntryPoint(kind, f"zprl.robot.sensors.{module}:make", "zprl.sensors")
        for kind, module in modules.items()
    ]
    points += [EntryPoint("pose_stream", "zprl.robot.sensors.pose:make", "zprl.sensors")]
    points += [EntryPoint("shared", "zprl.robot.sensors.shared_memory_ring:make", "zprl.sensors")]
    monkeypatch.setattr(plugins, "_registered", lambda group: points if group == "sensors" else [])
