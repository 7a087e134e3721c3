"""Sentences of the supervisor for the people who watch a session."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from zprl.session import supervisor
from zprl.session.process_group import SessionProcess
from zprl.session.supervisor import Supervisor

LINK = "http://127.0.0.1:4100/login#secret"


@pytest.fixture
def watched(tmp_path: Path) -> Supervisor:
    """A supervisor without processes, whose sentences are in ``said``."""
    found = object.__new__(Supervisor)
    found.said = []
    found.say = found.said.append
    found.settings = SimpleNamespace(work=tmp_path)
    found.bus = SimpleNamespace(poll=list)
    found.machine = SimpleNamespace(handle=lambda event: [])
    found._handle = lambda event: None
    found.group = SimpleNamespace(
        last_log_line=lambda name: "its log is empty", spawn=lambda name: None
    )
    return found


@pytest.mark.parametrize("terminal", [True, False])
def test_a_link_that_logs_in_is_shown_in_a_terminal_only(
    watched: Supervisor, monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    monkeypatch.setattr(supervisor, "page_link", lambda work: LINK)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    watched._say_page()
    assert (LINK in watched.said[0]) is terminal
    assert ("zprl session page" in watched.said[0]) is not terminal


@pytest.mark.parametrize("tightened", [True, False])
def test_a_restart_under_tightened_limits_is_no_crash(watched: Supervisor, tightened: bool) -> None:
    ended = subprocess.Popen([sys.executable, "-c", "raise SystemExit(4)"])
    ended.wait()
    child = SessionProcess("driver", ended, time.monotonic(), tightened=tightened)
    watched.children = {"driver": child}
    watched._watch()
    wanted = (
        "starts again with the tightened limits" if tightened else "ended (4): its log is empty"
    )
    assert watched.said == [f"process 'driver' {wanted}"]
