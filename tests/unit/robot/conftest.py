"""Fixtures of the tests of robots and sensors."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from zprl import plugins

KINDS = ("realsense", "opencv", "synthetic", "fault_injection", "apriltag")
"""Kinds of sensors that are modules of their own name."""


@pytest.fixture
def kinds(monkeypatch):
    points = [EntryPoint(kind, f"zprl.robot.sensors.{kind}:make", "zprl.sensors") for kind in KINDS]
    points += [EntryPoint("pose_stream", "zprl.robot.sensors.pose:make", "zprl.sensors")]
    points += [EntryPoint("shared", "zprl.robot.sensors.shared_memory_ring:make", "zprl.sensors")]
    monkeypatch.setattr(plugins, "_registered", lambda group: points if group == "sensors" else [])
