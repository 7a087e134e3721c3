"""Whole sessions in which something goes wrong: real processes, and the simulated Franka.

Two sessions serve all tests.  In one the test plays operator and policy, so that it can say
anything; in the other the operator alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("franky", reason="the Franka needs franky-control")
pytest.importorskip("franky_sim", reason="the simulated Franka needs franky-sim")

from tests.session_messages import UntypedBus
from tests.session_run import HOME, Stage, hold, make_session
from zprl.recordings.store import SessionStore
from zprl.robot.limits import MOST_RECOVERIES
from zprl.robot_sim.control import SimControl
from zprl.robot_sim.faults import (
    BadGripper,
    Freeze,
    LoseStates,
    Push,
    Reflex,
    RefuseRecovery,
    UserStop,
)
from zprl.session import clock

pytestmark = pytest.mark.realtime

LOW, HIGH = np.array([0.25, -0.30, 0.012]), np.array([0.62, 0.30, 0.50])
"""The task's workspace."""
COMMAND_AGE_S, STATE_AGE_S = 0.5, 0.3
"""The state's age is the file's times three: a busy machine that stalls for a tenth of a second is
not what is tested here."""
LIMITS = {
    "recoveries": {"count": MOST_RECOVERIES, "window_s": 600.0},
    "state_age_s": STATE_AGE_S,
    "sensor_age_s": 0.5,
}


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Operator, policy and learner are the test; real time."""
    folder = make_session(
        tmp_path_factory.mktemp("played") / "session",
        "127.0.11.1",
        steps=2000,
        speed=1.0,
        limits=LIMITS,
    )
    stage = Stage(folder, ("scripted", "actor", "learner"))
    stage.start()
    yield stage
    stage.end()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The operator is the test; real time."""
    folder = make_session(
        tmp_path_factory.mktemp("whole") / "session",
        "127.0.11.2",
        steps=60,
        speed=1.0,
        limits=LIMITS,
    )
    stage = Stage(folder)
    stage.start()
    yield stage
    stage.end()


@pytest.fixture
def control(played: Stage) -> Iterator[SimControl]:
    """The simulated robot behind ``played``; every fault ends with the test."""
    with SimControl(played.settings["robot_sim"]) as control:
        control.place((0.5, 0.2, 0.022))
        yield control
        control.clear()
        played.chunk, played.label, played.resets = lambda request: hold(), "failure", True


def faults(stage: Stage) -> list[str]:
    """Kinds of the faults the driver told of."""
    return [body["kind"] for body in stage.of("event", fault=True)]


def waited(stage: Stage) -> float:
    """Robot seconds between a chunk's being late and the stop for want of it."""
    late, missing = (
        stage.of("event", kind=kind)[-1]["stamp"] for kind in ("chunk_late", "chunk_missing")
    )
    return float(missing - late)


def goes_on(stage: Stage, number: int) -> int:
    """The session lives an episode after that one; its number."""
    stage.mark()
    return stage.running(after=number)


# -- what a policy may say -------------------------------------------------------------------------


@pytest.mark.parametrize("broken", ["nan", "shape", "empty", "no_rotation", "far", "long"])
def test_a_broken_chunk_stops_the_arm_and_the_session_goes_on(
    played: Stage, control: SimControl, broken: str
) -> None:
    chunks = {
        "nan": hold(),
        "shape": np.zeros((4, 7), np.float32),
        "empty": np.zeros((0, 10), np.float32),
        "no_rotation": hold(),
    }
    chunks["nan"][1, 0] = np.nan
    chunks["no_rotation"][:, 3:9] = 0.0
    chunks |= {"far": hold((3e38, 0.0, 0.3)), "long": np.repeat(hold(), 10_000, axis=0)}
    number = played.running()
    driver = played.pids()["driver"]
    played.mark()
    played.chunk = lambda request: chunks[broken] if request["number"] == number else hold()
    played.until(lambda: faults(played), what="a fault")
    assert faults(played) == ["refused" if broken == "no_rotation" else "chunk_broken"]
    goes_on(played, number)
    assert played.pids()["driver"] == driver  # it did not fall over it


def test_a_chunk_far_outside_is_clipped_and_recorded(played: Stage, control: SimControl) -> None:
    number = played.running()
    played.mark()
    played.chunk = lambda request: hold((0.9, 0.8, 0.3))
    played.until(
        lambda: {"workspace", "step"} <= {b["kind"] for b in played.of("event", level="clip")},
        what="both clips",
    )
    end = time.monotonic() + 1.5
    played.until(lambda: time.monotonic() > end)
    rows = played.of("state")
    tool = np.array([[row["features"][key] for key in ("ee.x", "ee.y", "ee.z")] for row in rows])
    assert tool[-1, 1] - tool[0, 1] > 0.2  # it went as far as it may
    assert (tool > LOW - 0.01).all() and (tool < HIGH + 0.01).all()
    assert any(row["clipped"] for row in rows) and not faults(played)
    played.say("failure", number)
    played.until(lambda: played.of("committed", number=number), what="the commit")
    found = SessionStore.open(played.folder).episode(number)
    assert {"workspace", "step"} <= {event["kind"] for event in found.facts.events}
    assert found.clipped.any() and np.allclose(found.commanded[-1, :3], (0.9, 0.8, 0.3))
    sent = found.frames["sent"].numpy()[:, :3]
    assert (sent >= LOW).all() and (sent <= HIGH).all()
    assert (
        np.linalg.norm(np.diff(sent, axis=0), axis=1).max() < 1.5 / 50 * 1.2
    )  # 1.5 m/s at 50 Hz, and a late step


def test_a_late_chunk_is_waited_for_and_a_missing_one_stops_the_arm(
    played: Stage, control: SimControl
) -> None:
    number = played.running()
    played.mark()
    played.chunk = lambda request: None
    played.until(lambda: "chunk_missing" in faults(played), what="the stop")
    assert COMMAND_AGE_S <= waited(played) < COMMAND_AGE_S + 0.3
    played.chunk = lambda request: hold()
    goes_on(played, number)
    played.until(lambda: number not in played.plan["commit"])
    assert number not in SessionStore.open(played.folder)


# -- what a robot may do ---------------------------------------------------------------------------


def test_a_reflex_is_recovered_once(played: Stage, control: SimControl) -> None:
    number = played.running()
    recoveries = played.plan["recover"]
    played.mark()
    control.inject(Reflex())
    played.until_state("FAULT")
    assert faults(played) == ["health"]
    goes_on(played, number)
    assert played.plan["recover"] == recoveries + 1


def test_a_user_stop_waits_for_the_person(played: Stage, control: SimControl) -> None:
    number = played.running()
    played.mark()
    control.inject(UserStop(pressed=True))
    played.until_state("FAULT")
    assert not played.of("event", kind="recovered")
    played.clear()  # while it is still pressed
    played.until(lambda: played.of("event", kind="recovery_refused"), what="the refusal")
    assert "user_stopped" in played.of("event", kind="recovery_refused")[0]["reason"]
    control.inject(UserStop(pressed=False))
    end = time.monotonic() + 0.5
    played.until(lambda: time.monotonic() > end)
    assert played.plan["state"] == "FAULT"
    played.clear()
    goes_on(played, number)


def test_a_refused_recovery_waits_for_the_person(played: Stage, control: SimControl) -> None:
    number = played.running()
    played.mark()
    control.inject(RefuseRecovery(on=True))
    control.inject(Reflex())
    played.until(lambda: played.of("event", kind="recovery_refused"), what="the refusal")
    played.until_state("FAULT")
    recoveries = played.plan["recover"]
    control.inject(RefuseRecovery(on=False))
    end = time.monotonic() + 0.5
    played.until(lambda: time.monotonic() > end)
    assert (played.plan["state"], played.plan["recover"]) == ("FAULT", recoveries)
    played.clear()
    goes_on(played, number)


def test_muted_states_stop_the_arm_long_before_libfranka_gives_up(
    played: Stage, control: SimControl
) -> None:
    number = played.running()
    driver = played.pids()["driver"]
    played.mark()
    began = time.monotonic()
    control.inject(LoseStates(share=1.0, seconds=0.6))
    played.until(lambda: faults(played), what="the stop")
    assert faults(played)[0] == "state_stale"
    assert time.monotonic() - began < STATE_AGE_S + 0.25  # libfranka: 1 s
    goes_on(played, number)
    assert played.pids()["driver"] == driver


def test_a_frozen_robot_is_noticed_at_once_and_connected_to_anew(
    played: Stage, control: SimControl
) -> None:
    number = played.running()
    driver = played.pids()["driver"]
    played.mark()
    began = time.monotonic()
    control.inject(Freeze(seconds=2.0))
    played.until(lambda: faults(played), what="the stop")
    assert time.monotonic() - began < STATE_AGE_S + 0.25
    played.until_state("FAULT")
    assert played.pids()["driver"] == driver
    played.until(
        lambda: played.of("event", kind="recovered") or played.of("event", kind="recovery_refused"),
        30,
        "an answer",
    )
    for _ in range(20):  # it may still hang when the person presses
        if played.of("event", kind="recovered"):
            break
        played.clear()
        with contextlib.suppress(AssertionError):
            played.until(lambda: played.of("event", kind="recovered"), 1)
    goes_on(played, number)
    assert played.pids()["driver"] == driver


def test_a_push_stops_the_arm_and_the_peak_is_kept(played: Stage, control: SimControl) -> None:
    number = played.running()
    played.mark()
    control.inject(Push(force=(0.0, 95.0, 0.0), ramp=0.1, seconds=0.06))
    played.until(lambda: faults(played), what="the stop")
    event = played.of("event", fault=True)[0]
    assert (event["kind"], event["level"], event["limit"]) == ("wrench", "hard_stop", 90.0)
    assert 90.0 < event["value"] < 130.0
    played.until(lambda: played.plan["state"] != "RUNNING")
    kept = [json.loads(line) for line in (played.work / "events.jsonl").read_text().splitlines()]
    assert [e["value"] for e in kept if e["kind"] == "wrench"] == [event["value"]]
    control.clear()
    goes_on(played, number)


@pytest.mark.parametrize(
    "fault", [BadGripper(delay=1.0), BadGripper(fail=True)], ids=["slow", "failing"]
)
def test_a_bad_gripper_holds_nobody_up(
    played: Stage, control: SimControl, fault: BadGripper
) -> None:
    played.running()
    control.inject(fault)
    played.mark()
    played.chunk = lambda request: hold(
        gripper=1.0 if request["decision"] % 4 < 2 else -1.0
    )  # opens and closes
    played.until(lambda: len(played.of("state")) > 100, what="two seconds of control")
    stamps = np.diff([row["stamp"] for row in played.of("state")])
    assert np.percentile(stamps, 95) < 2 / 50 and stamps.max() < COMMAND_AGE_S
    assert not faults(played)


# -- what people and processes may do --------------------------------------------------------------


def test_a_person_takes_over_and_gives_back(played: Stage, control: SimControl) -> None:
    number = played.running()
    devices = UntypedBus(Path(played.settings["sockets"]), "operator_devices", {})
    played.mark()
    said = [0.0]

    def push() -> bool:
        if time.monotonic() - said[0] > 0.02:
            said[0] = time.monotonic()
            devices.send(
                "twist", {"twist": [0.0, 0.0, 0.6, 0.0, 0.0, 0.0], "buttons": 0, "at": clock.now()}
            )
        return (
            len(played.of("state", intervention=True)) > 40
            and played.plan["state"] == "INTERVENTION"
        )

    try:
        played.until(push, what="the person's hand")
        rows = played.of("state", intervention=True)
        assert {row["decision"] for row in rows} == {-1}
        height = [row["features"]["ee.z"] for row in rows]
        assert (
            0.05 < height[-1] - height[0] < 0.75 * 41 / 50
        )  # up, at most at half the limit's 1.5 m/s
        played.mark()  # whoever is silent has let go
        played.until(
            lambda: (
                played.plan["state"] == "RUNNING"
                and any(row["decision"] >= 0 for row in played.of("state"))
            ),
            what="the policy",
        )
        played.say("success", number)
        played.until(lambda: played.of("committed", number=number), what="the commit")
        found = SessionStore.open(played.folder).episode(number)
        assert found.intervention.any() and 0 < found.facts.intervention_share < 1
        lived = found.chunks["intervened"].numpy()
        assert (
            lived.any() and not lived.all()
        )  # what the person did is not taken for the policy's doing
        goes_on(played, number)
        devices.send(
            "twist", {"twist": [2.0, 0.0, 0.0, 0.0, 0.0, 0.0], "buttons": 0, "at": clock.now()}
        )
        played.until(lambda: faults(played), what="the refusal of a broken message")
        assert faults(played) == ["message_broken"]
    finally:
        devices.close()


def test_the_stop_button_needs_no_supervisor(played: Stage, control: SimControl) -> None:
    number = played.running()
    supervisor = played.pids()["supervisor"]
    os.kill(supervisor, signal.SIGSTOP)
    try:
        assert control.state().moving or control.state().mode == "move"
        played.mark()
        played.say("estop")
        took = played.until(lambda: played.of("event", kind="estop"), what="the stop")
        played.until(lambda: control.state().mode != "move", what="the robot at rest")
    finally:
        os.kill(supervisor, signal.SIGCONT)
    assert took < 0.5
    played.until_state("ESTOP")
    end = time.monotonic() + 1.0
    played.until(lambda: time.monotonic() > end)
    assert played.plan["state"] == "ESTOP" and control.state().mode != "move"
    played.clear()
    goes_on(played, number)


def test_a_silent_supervisor_stops_the_arm(played: Stage, control: SimControl) -> None:
    number = played.running()
    supervisor = played.pids()["supervisor"]
    played.mark()
    os.kill(supervisor, signal.SIGSTOP)
    try:
        took = played.until(lambda: "supervisor_silent" in faults(played), what="the stop")
        played.until(lambda: control.state().mode != "move", what="the robot at rest")
    finally:
        os.kill(supervisor, signal.SIGCONT)
    assert 0.8 < took < 2.0
    goes_on(played, number)


def test_labels_are_idempotent_and_about_their_own_episode(
    played: Stage, control: SimControl
) -> None:
    first = played.running()
    played.say("success", first, nonce="early")  # before its end
    played.until(lambda: played.of("labelled", nonce="early"), what="the label")
    second = goes_on(played, first)
    played.say("success", first, nonce="early")
    played.say("success", first, nonce="again")
    played.say("failure", 999_999, nonce="nobody")
    played.say("failure", first, nonce="correction")  # after it, and while another episode runs
    played.until(lambda: played.of("labelled", nonce="correction"), what="the correction")
    played.say("failure", first, nonce="correction")
    for body in (
        {"kind": "failure", "episode": [1], "nonce": "x", "source": "t"},
        {"kind": "nonsense", "nonce": "y", "source": "t"},
    ):
        played.bus.send("input", body)
    played.running(steps=50)
    lines = [
        line for line in SessionStore.open(played.folder).labels.in_order() if line.episode >= first
    ]
    assert [(line.episode, line.label, line.nonce) for line in lines] == [
        (first, "success", "early"),
        (first, "failure", "correction"),
    ]
    assert lines[1].supersedes == lines[0].seq
    assert played.plan["number"] == second  # nothing of this touched the episode that ran


def test_a_frozen_actor_makes_the_arm_hold_then_stop_then_go_on(whole: Stage) -> None:
    number = whole.running()
    actor = whole.pids()["actor"]
    whole.mark()
    os.kill(actor, signal.SIGSTOP)
    try:
        whole.until(lambda: "chunk_missing" in faults(whole), what="the stop")
    finally:
        os.kill(actor, signal.SIGCONT)
    assert COMMAND_AGE_S <= waited(whole) < COMMAND_AGE_S + 0.3
    goes_on(whole, number)
    assert whole.pids()["actor"] == actor


def test_a_killed_actor_is_replaced(whole: Stage) -> None:
    number = whole.running()
    whole.mark()
    os.kill(whole.pids()["actor"], signal.SIGKILL)
    whole.until_state("FAULT")
    whole.until(lambda: whole.plan["stop"] > 0)
    goes_on(whole, number)


def test_a_killed_learner_stops_nothing_and_its_versions_go_on(whole: Stage) -> None:
    whole.until(
        lambda: max((b["version"] for b in whole.of("beat", "learner")), default=0) >= 2,
        60,
        "two labels",
    )
    version = max(b["version"] for b in whole.of("beat", "learner"))
    whole.running()
    whole.mark()
    os.kill(whole.pids()["learner"], signal.SIGKILL)
    whole.until(lambda: whole.of("weights", "learner"), 60, "the learner's return")
    assert not faults(whole) and "FAULT" not in {body["state"] for body in whole.of("plan")}
    whole.until(
        lambda: whole.of("weights", "learner")[-1]["version"] > version, 60, "a new version"
    )
    acted = [body["version"] for body in whole.of("beat", "actor")]
    assert acted == sorted(acted)  # never back to an older one


def test_nobody_but_the_arm_is_real_time(whole: Stage) -> None:
    whole.running()
    pids = whole.pids()
    assert {"driver", "actor", "learner", "recorder", "supervisor"} <= pids.keys()
    for name in ("actor", "learner", "recorder", "supervisor"):
        assert os.sched_getscheduler(pids[name]) == os.SCHED_OTHER, name


def test_the_control_goes_on_while_the_learner_works(whole: Stage) -> None:
    whole.mark()
    whole.until(lambda: len(whole.of("labelled")) >= 2, 60, "two episodes")
    numbers = [body["episode"] for body in whole.of("labelled")]
    store = SessionStore.open(Path(whole.folder))
    for number in numbers:
        timing = store.episode(number).facts.timing
        assert timing["tick_p50"] == pytest.approx(1.0, abs=0.3), timing
    assert HOME[0] - 0.2 < store.episode(numbers[0]).positions[:, 0].mean() < HOME[0] + 0.2
