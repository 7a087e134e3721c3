"""The operator's page of a whole session: who may press, whose name a label carries, who knows the token."""

from __future__ import annotations

import http.client
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import psutil
import pytest

pytest.importorskip("franky", reason="the Franka needs franky-control")
pytest.importorskip("franky_sim", reason="the simulated Franka needs franky-sim")

from tests.session_run import Stage, make_session
from zprl import durable
from zprl.recordings.store import SessionStore
from zprl.session.inputs import PRESS_S, this_user
from zprl.session.processes.console.access import FILE, TOKEN, page_link

pytestmark = pytest.mark.realtime

WORD = "correct horse battery"
LIMITS = {"recoveries": {"count": 100, "window_s": 600.0}, "state_age_s": 0.5, "sensor_age_s": 0.5}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = make_session(
        tmp_path_factory.mktemp("page") / "session",
        "127.0.31.4",
        steps=2000,
        speed=1.0,
        limits=LIMITS,
    )
    stage = Stage(folder, ("scripted", "actor", "learner"))
    os.environ[TOKEN] = WORD
    try:
        stage.start()
    finally:
        del os.environ[TOKEN]
    yield stage
    stage.end()


class Browser:
    """Keeps a cookie, asks the page; answers the situation that the session is in."""

    def __init__(self, stage: Stage, url: str) -> None:
        self.stage, self.address, self.cookie = stage, urlsplit(url).netloc, ""

    def ask(
        self, method: str, path: str, body: str = "", kind: str = "application/json"
    ) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(self.address, timeout=10)
        headers = {"Origin": f"http://{self.address}", "Content-Type": kind, "Cookie": self.cookie}
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        answer.read()
        connection.close()
        self.cookie = answer.headers.get("set-cookie", self.cookie).partition(";")[0]
        return answer

    def log_in(self, **fields: str) -> int:
        return self.ask(
            "POST", "/login", urlencode(fields), "application/x-www-form-urlencoded"
        ).status

    def hold_up(self, pid: int, kind: str, **more: object) -> int:
        """Press while the page's process stands still, as when it is swapped out; return the status that it gives afterwards."""
        self.stage.pump()
        situation = {name: self.stage.plan[name] for name in ("seq", "at")}
        headers = {
            "Origin": f"http://{self.address}",
            "Content-Type": "application/json",
            "Cookie": self.cookie,
        }
        connection = http.client.HTTPConnection(self.address, timeout=10)
        os.kill(pid, signal.SIGSTOP)
        try:
            connection.request(
                "POST",
                "/input",
                json.dumps({"kind": kind, "nonce": f"held-{kind}-1", **situation, **more}),
                headers,
            )
            time.sleep(PRESS_S + 0.5)
        finally:
            os.kill(pid, signal.SIGCONT)
        status = connection.getresponse().status
        connection.close()
        return status

    def press(self, kind: str, episode: int | None = None, **more: object) -> int:
        self.stage.pump()
        situation = {name: self.stage.plan[name] for name in ("seq", "at")}
        body = {
            "kind": kind,
            "episode": episode,
            "nonce": f"{kind}-{time.monotonic_ns()}",
            **situation,
            **more,
        }
        return self.ask("POST", "/input", json.dumps(body)).status


def announcements(stage: Stage) -> int:
    """Count how often the session has named its page; a log gets no link, which would log in."""
    log = (stage.work / "session.log").read_text()
    assert "operator's page: http" not in log
    return log.count("operator's page: run `zprl session page`")


def test_no_process_of_the_session_inherits_the_token(stage: Stage) -> None:
    stage.running()
    pids = stage.pids()
    assert {"driver", "recorder", "process"} <= set(pids)
    children = {child.pid for child in psutil.Process(pids["supervisor"]).children(recursive=True)}
    assert set(pids.values()) - {pids["supervisor"]} <= children
    for pid in children:
        environ = Path(f"/proc/{pid}/environ").read_bytes()
        assert TOKEN.encode() not in environ
        assert WORD.encode() not in environ + Path(f"/proc/{pid}/cmdline").read_bytes()
    for path in stage.work.rglob("*"):
        assert path.name == FILE or not path.is_file() or WORD.encode() not in path.read_bytes()
    assert (stage.work / FILE).stat().st_mode & 0o777 == 0o600


def test_a_stranger_may_stop_the_arm_and_nothing_else(stage: Stage) -> None:
    number = stage.running()
    stranger = Browser(stage, page_link(stage.work))
    for kind, more in (
        ("clear", {"confirmed": True}),
        ("pause", {}),
        ("resume", {}),
        ("reset_done", {}),
        ("success", {"episode": number}),
    ):
        assert stranger.press(kind, **more) == 401
    assert stranger.ask("GET", "/stream").status == 401
    assert stage.plan["state"] == "RUNNING"
    assert stranger.press("estop") == 200
    stage.until_state("ESTOP")
    assert stranger.press("clear", confirmed=True) == 401
    end = time.monotonic() + 1
    stage.until(lambda: time.monotonic() > end)
    assert stage.plan["state"] == "ESTOP"

    link = page_link(stage.work)
    operator = Browser(stage, link)
    assert operator.log_in(ticket=urlsplit(link).fragment) == 303
    assert stranger.log_in(ticket=urlsplit(link).fragment) == 401
    assert operator.press("clear", confirmed=True) == 200
    stage.running(after=number)


def test_a_press_to_a_page_that_stood_still_is_never_carried_out(stage: Stage) -> None:
    number = stage.running()
    operator = Browser(stage, page_link(stage.work))
    assert operator.log_in(token=WORD) == 303
    assert operator.press("estop") == 200
    stage.until_state("ESTOP")
    stage.mark()
    assert operator.hold_up(stage.pids()["process"], "clear", confirmed=True) == 409
    end = time.monotonic() + 1.5
    stage.until(lambda: time.monotonic() > end)
    assert {plan["state"] for plan in stage.of("plan")} == {"ESTOP"}
    assert operator.press("clear", confirmed=True) == 200
    stage.running(after=number)


def test_labels_name_who_gave_them_and_a_restarted_page_knows_its_people(stage: Stage) -> None:
    stage.running()
    anna = Browser(stage, page_link(stage.work))
    assert anna.log_in(token=WORD, author="anna") == 303
    shown = announcements(stage)
    os.kill(stage.pids()["process"], signal.SIGKILL)
    stage.until(lambda: announcements(stage) > shown, 60, "the page's return")
    assert anna.ask("GET", "/page.js").status == 200

    number = stage.running()
    assert anna.press("success", number) == 200
    stage.until(lambda: stage.of("labelled", episode=number), what="the label")
    again = stage.running(after=number)
    stage.say("failure", again)  # not from the page
    stage.until(lambda: stage.of("labelled", episode=again), what="the label")
    stage.running(after=again)  # a press for a state that has passed is refused
    link = page_link(stage.work)
    starter = Browser(stage, link)
    assert starter.log_in(ticket=urlsplit(link).fragment) == 303
    # A press is refused where the situation has changed meanwhile: a person presses again.
    stage.until(lambda: starter.press("discard", number) == 200, 20, "the press")
    stage.until(
        lambda: stage.of("labelled", episode=number, label="discard"), what="the correction"
    )
    lines = [
        (line.episode, line.label, line.source, line.author)
        for line in SessionStore.open(stage.folder).labels.in_order()
    ]
    assert lines[-3:] == [
        (number, "success", "console", "anna"),
        (again, "failure", "test", None),
        (number, "discard", "console", this_user()),
    ]
    assert durable.read_json(stage.work / "console.json").keys() == {"url"}
