"""Attacks on a running session: edited limits, and presses that arrive when they should not count any more."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("franky", reason="the Franka needs franky-control")
pytest.importorskip("franky_sim", reason="the simulated Franka needs franky-sim")

from tests.session_run import Stage, hold, make_session
from zprl import durable
from zprl.recordings import checksummed_json, conditions
from zprl.recordings.store import SessionStore
from zprl.session.inputs import PRESS_S

pytestmark = pytest.mark.realtime

LIMITS = {"recoveries": {"count": 100, "window_s": 600.0}, "state_age_s": 0.3, "sensor_age_s": 0.5}
HIGHEST_Y = 0.30
"""Of the task's workspace [m]."""
MARGIN = 0.01
OUTSIDE = (0.45, 0.41, 0.3)
"""Where the attacker wants the tool: outside the session's workspace [m]."""


@contextmanager
def running_stage(folder: Path, host: str) -> Iterator[Stage]:
    """A session on the simulated robot whose operator, policy and learner are the test."""
    stage = Stage(
        make_session(folder / "session", host, steps=2000, speed=1.0, limits=LIMITS),
        ("scripted", "actor", "learner"),
    )
    stage.start()
    try:
        yield stage
    finally:
        stage.end()


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """For presses: no process of it is killed."""
    with running_stage(tmp_path_factory.mktemp("presses"), "127.0.11.7") as stage:
        yield stage


@pytest.fixture
def edited_stage(tmp_path: Path) -> Iterator[Stage]:
    """For limits: a session of its own, because a driver that ends six times within a minute ends the session."""
    with running_stage(tmp_path, "127.0.11.8") as stage:
        yield stage


@contextmanager
def edited(path: Path, change: Callable[[Path], None]) -> Iterator[None]:
    """Edit a file for a while."""
    before = path.read_bytes()
    change(path)
    try:
        yield
    finally:
        path.write_bytes(before)


def loosen(path: Path) -> None:
    limits = yaml.safe_load(path.read_text())
    limits["arms"][""]["workspace"] = {"low": [0.25, -0.42, -0.10], "high": [0.55, 0.42, 0.45]}
    limits["arms"][""] |= {"max_step": 0.5, "tracking_clip": 0.15}
    limits["heartbeat_s"] = {"operator": 60.0}
    path.write_text(yaml.safe_dump(limits))


def highest_y(stage: Stage) -> float:
    """The farthest that the tool was seen along y [m]."""
    return max((row["features"]["ee.y"] for row in stage.of("state")), default=-np.inf)


def kill_driver(stage: Stage) -> None:
    os.kill(stage.pids()["driver"], signal.SIGKILL)


def until_logged(stage: Stage, name: str, text: str, times: int = 1) -> None:
    log = stage.work / f"{name}.log"
    stage.until(
        lambda: log.exists() and log.read_text(errors="replace").count(text) >= times,
        60,
        f"'{text}' in {name}.log",
    )


def wait(stage: Stage, seconds: float) -> None:
    end = time.monotonic() + seconds
    stage.until(lambda: time.monotonic() > end, seconds + 5)


# -- limits ----------------------------------------------------------------------------------------


def test_loosened_limits_are_refused_by_the_next_driver(edited_stage: Stage) -> None:
    stage = edited_stage
    number = stage.running()
    stage.mark()
    stage.chunk = lambda request: hold(OUTSIDE)
    with edited(stage.folder / "limits.yaml", loosen):
        kill_driver(stage)
        until_logged(stage, "driver", "not the one the session began with")
        assert stage.plan["state"] == "FAULT"
    stage.running(steps=100, after=number)  # with the file as it was it goes on
    assert highest_y(stage) < HIGHEST_Y + MARGIN
    assert {str(row["digests"]) for row in stage.of("state")} == {str(stage.plan["digests"])}


def test_even_with_every_digest_forged_the_driver_does_not_move(edited_stage: Stage) -> None:
    """The attacker edits limits, header and settings alike; what the supervisor has in memory still decides."""
    stage = edited_stage
    number = stage.running()
    stage.mark()
    stage.chunk = lambda request: hold(OUTSIDE)

    def forge_header(path: Path) -> None:
        document = {key: value for key, value in durable.read_json(path).items() if key != "digest"}
        document["digests"]["limits.yaml"] = durable.digest(stage.folder / "limits.yaml")
        durable.write_json(path, checksummed_json.write(document))

    def forge_settings(path: Path) -> None:
        durable.write_json(
            path, durable.read_json(path) | {"digests": conditions.load(stage.folder).digests}
        )

    with (
        edited(stage.folder / "limits.yaml", loosen),
        edited(stage.folder / "session.json", forge_header),
        edited(stage.work / "settings.json", forge_settings),
    ):
        kill_driver(stage)
        until_logged(stage, "driver", "not those of the supervisor")
        assert stage.plan["state"] == "FAULT"
        assert not [row for row in stage.of("state") if row["digests"] != stage.plan["digests"]]
    stage.running(steps=100, after=number)
    assert highest_y(stage) < HIGHEST_Y + MARGIN


def test_tightened_limits_hold_for_the_rest_of_the_session(edited_stage: Stage) -> None:
    stage = edited_stage
    number = stage.running()
    before = stage.plan["digests"]
    tight = conditions.tighten(
        stage.folder, {"arms": {"": {"workspace": {"high": [0.62, 0.10, 0.50]}}}}
    ).digests
    stage.until(lambda: stage.plan["digests"] == tight, what="the new limits in the plan")
    stage.mark()
    stage.chunk = lambda request: hold((0.45, 0.25, 0.3))
    number = stage.running(steps=100, after=number, seconds=60)
    assert {str(row["digests"]) for row in stage.of("state")} == {str(tight)} != {str(before)}
    assert 0.05 < highest_y(stage) < 0.10 + MARGIN

    stage.say("failure", number)
    stage.until(lambda: stage.of("committed", number=number), what="the commit")
    assert SessionStore.open(stage.folder).episode(number).facts.limits_digest == tight["limits"]

    with edited(
        stage.folder / conditions.TIGHTENED, lambda path: path.write_text("[]")
    ):  # back to the wider ones
        until_logged(stage, "session", "would be loosened")
        assert stage.plan["digests"] == tight
        kill_driver(stage)
        until_logged(stage, "driver", "not those of the running session")
    stage.running(after=number, seconds=60)
    assert stage.plan["digests"] == tight
    stage.chunk = lambda request: hold()


# -- presses ---------------------------------------------------------------------------------------


def refusals(stage: Stage) -> dict[str, str]:
    """What became of the newest presses."""
    return {answer["nonce"]: answer["refusal"] for answer in stage.plan["answers"]}


FORBIDDEN = {
    "clear": {"FAULT", "IDLE", "HOMING", "AWAIT_RESET", "RUNNING"},
    "resume": {"HOMING", "AWAIT_RESET", "RUNNING"},
    "reset_done": {"RUNNING"},
    "success": set(),
}
"""Press to the states that it would lead to.  A driver that hears no supervisor stops by itself: a
fault, which passes."""


@pytest.mark.parametrize("kind", FORBIDDEN)
def test_a_press_to_a_supervisor_that_stood_still_is_never_carried_out(
    stage: Stage, kind: str
) -> None:
    number = stage.running()
    stage.resets = kind != "reset_done"
    if kind == "clear":
        stage.say("estop")
        stage.until_state("ESTOP")
    elif kind == "resume":
        stage.say("pause")
        stage.until(lambda: stage.plan["paused"], what="the pause")
        stage.say("failure", number)
        stage.until_state("PAUSED")
    elif kind == "reset_done":
        stage.say("failure", number)
        stage.until_state("AWAIT_RESET")
    state = stage.plan["state"]

    supervisor = stage.pids()["supervisor"]
    os.kill(supervisor, signal.SIGSTOP)
    try:
        stage.say(kind, number if kind == "success" else None, nonce=f"late-{kind}")
        time.sleep(PRESS_S + 0.5)
    finally:
        os.kill(supervisor, signal.SIGCONT)

    stage.mark()
    stage.until(lambda: f"late-{kind}" in refusals(stage), what="the answer")
    assert "too late" in refusals(stage)[f"late-{kind}"]
    if kind == "success":
        assert not [
            line
            for line in SessionStore.open(stage.folder).labels.in_order()
            if line.nonce == f"late-{kind}"
        ]
    else:
        wait(stage, 1.5)
        assert not {plan["state"] for plan in stage.of("plan")} & FORBIDDEN[kind]
        stage.until_state(state)
        stage.say(kind)
    stage.resets = True
    stage.running(after=number, seconds=60)


def test_a_press_for_a_state_that_has_changed_is_refused(stage: Stage) -> None:
    number = stage.running()
    old = dict(stage.plan)
    stage.say("estop")
    stage.until_state("ESTOP")
    press = {"kind": "clear", "episode": None, "nonce": "old-state", "source": "test"}
    stage.bus.send("input", press | {"seq": old["seq"], "at": stage.plan["at"]})
    stage.until(lambda: "old-state" in refusals(stage), what="the answer")
    assert "changed" in refusals(stage)["old-state"]
    stage.bus.send("input", press | {"nonce": "no-state"})
    stage.bus.send(
        "input",
        press | {"nonce": "future", "seq": stage.plan["seq"], "at": stage.plan["at"] + 1000.0},
    )
    stage.until(lambda: {"no-state", "future"} <= refusals(stage).keys(), what="the answers")
    assert stage.plan["state"] == "ESTOP"
    stage.clear()
    stage.running(after=number, seconds=60)


def test_a_driver_that_stood_still_does_not_recover_later(stage: Stage) -> None:
    number = stage.running()
    stage.say("estop")
    stage.until_state("ESTOP")
    driver = stage.pids()["driver"]
    os.kill(driver, signal.SIGSTOP)
    try:
        stage.clear()
        stage.until_state("FAULT")
        wait(stage, PRESS_S + 0.5)
        stage.mark()
    finally:
        os.kill(driver, signal.SIGCONT)
    stage.until(lambda: stage.of("event", kind="recovery_refused"), what="the refusal")
    wait(stage, 1.0)
    # The driver may hear of the e-stop only now, and tell of it once more: that stops, too.
    assert {plan["state"] for plan in stage.of("plan")} <= {"FAULT", "ESTOP"}
    stage.clear()
    stage.running(after=number, seconds=60)


def test_a_flood_of_stops_costs_nothing(stage: Stage) -> None:
    number = stage.running()
    logs = sum(path.stat().st_size for path in stage.work.glob("*.log"))
    stage.mark()
    begin = time.monotonic()
    for _ in range(5000):
        stage.say("estop")
    stage.until_state("ESTOP")
    wait(stage, 3.0)
    assert sum(path.stat().st_size for path in stage.work.glob("*.log")) - logs < 10_000
    assert len(stage.of("event", kind="estop")) < 30
    assert len(stage.of("plan")) < 15 * (time.monotonic() - begin) + 30  # as many as without
    stage.clear()
    stage.running(after=number, seconds=60)
