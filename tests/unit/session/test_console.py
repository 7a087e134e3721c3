"""The page's application without a browser: routes, refusals, and outcomes of presses."""

from __future__ import annotations

import asyncio
import json

import pytest
from pydantic import ValidationError
from starlette.testclient import TestClient

from tests import console_scene
from zprl.errors import DataError
from zprl.recordings.phases import PhaseKind
from zprl.session import clock
from zprl.session.events import Input, Label, State
from zprl.session.inputs import Moment, OperatorInput
from zprl.session.processes.console import app as console_app
from zprl.session.processes.console.access import Access, Secrets
from zprl.session.processes.console.app import Press, Presses, make_app
from zprl.session.processes.console.snapshot import (
    ConsoleState,
    EpisodeRow,
    Snapshot,
    running_success,
)
from zprl.session.processes.console.streams import Streams

BASE = "http://127.0.0.1:8000"
JPEG = b"\xff\xd8\xff\xe0 image"
AT = {"seq": 412, "at": clock.now()}
"""The situation that these presses answer; :func:`_clock` keeps it young."""


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The session's clock, which stands still until a test moves it."""
    moment = [AT["at"]]
    monkeypatch.setattr(console_app, "now", lambda: moment[0])
    return moment


class Session:
    """The other end: keeps what arrives."""

    def __init__(self) -> None:
        self.inputs: list[OperatorInput] = []
        self.answer: str | None = None
        self.fault: Exception | None = None

    def __call__(self, made: OperatorInput) -> str | None:
        if self.fault:
            raise self.fault
        self.inputs.append(made)
        return self.answer


@pytest.fixture
def session() -> Session:
    return Session()


@pytest.fixture
def source() -> ConsoleState:
    return ConsoleState()


@pytest.fixture
def client(source: ConsoleState, session: Session) -> TestClient:
    access = Access(Secrets.make())
    cookies = {access.cookie: access.cookie_for("anna")}
    return TestClient(
        make_app(source, session, access), base_url=BASE, headers={"Origin": BASE}, cookies=cookies
    )


def press(client: TestClient, kind: str, **more: object):
    return client.post("/input", json={"kind": kind, "nonce": "n-12345678", **AT, **more})


# -- presses ---------------------------------------------------------------------------------------


def test_a_press_arrives_as_an_operator_input(client: TestClient, session: Session) -> None:
    session.answer = "label of episode 7 noted"
    answer = press(client, "success", episode=7)
    assert (answer.status_code, answer.json()) == (
        200,
        {"status": "sent", "text": "label of episode 7 noted"},
    )
    assert session.inputs == [
        OperatorInput(
            kind="success", episode=7, nonce="n-12345678", source="console", author="anna", **AT
        )
    ]


def test_the_same_nonce_is_one_press(client: TestClient, session: Session) -> None:
    session.answer = "noted"
    press(client, "failure", episode=3)
    answer = press(client, "failure", episode=3)
    assert answer.json() == {"status": "repeated", "text": "noted"}
    assert len(session.inputs) == 1


def test_a_nonce_cannot_become_another_press(client: TestClient, session: Session) -> None:
    press(client, "failure", episode=3)
    assert press(client, "success", episode=3).status_code == 409
    assert press(client, "failure", episode=4).status_code == 409
    assert len(session.inputs) == 1


def test_a_press_that_did_not_arrive_may_be_tried_again(
    client: TestClient, session: Session
) -> None:
    session.fault = RuntimeError("bus closed")
    answer = press(client, "pause")
    assert answer.status_code == 503
    assert answer.json() == {"status": "failed", "text": "the session did not take it: bus closed"}
    session.fault = None
    assert press(client, "pause").json()["status"] == "sent"
    assert [made.kind for made in session.inputs] == [Input.PAUSE]


@pytest.mark.parametrize(
    "body",
    [
        {"kind": "success", "nonce": "n-12345678", **AT},  # a label of no episode
        {"kind": "success", "episode": 0, "nonce": "n-12345678", **AT},
        {"kind": "success", "episode": "7; drop", "nonce": "n-12345678", **AT},
        {"kind": "clear", "nonce": "n-12345678", **AT},  # not confirmed
        {"kind": "clear", "nonce": "n-12345678", "confirmed": True},  # an answer to nothing
        {"kind": "clear", "nonce": "n-12345678", "confirmed": True, "seq": -1, "at": 0.0},
        {"kind": "clear", "nonce": "n-12345678", "confirmed": True, "seq": 412, "at": "NaN"},
        {"kind": "fly", "nonce": "n-12345678", **AT},
        {"kind": "estop", "nonce": "short"},
        {"kind": "estop", "nonce": "<script>alert(1)</script>"},
        {"kind": "estop"},
        {"kind": "estop", "nonce": "n-12345678", "source": "somebody else"},
        [],
        "estop",
    ],
)
def test_malformed_presses_are_refused(client: TestClient, session: Session, body: object) -> None:
    answer = client.post("/input", json=body)
    assert answer.status_code == 422
    assert answer.json()["status"] == "refused"
    assert "script" not in answer.text
    assert not session.inputs


@pytest.mark.parametrize("change", [{"seq": 411}, {"seq": 413}])
def test_a_pause_counts_whatever_state_it_answers(
    client: TestClient, source: ConsoleState, session: Session, change: dict
) -> None:
    source.publish(console_scene.snapshot())
    assert press(client, "pause", **change).json()["status"] == "sent"
    assert [found.kind for found in session.inputs] == [Input.PAUSE]


@pytest.mark.parametrize("change", [{"at": AT["at"] - 2.01}, {"at": AT["at"] + 0.1}])
def test_an_old_pause_is_refused(
    client: TestClient, source: ConsoleState, session: Session, change: dict
) -> None:
    source.publish(console_scene.snapshot())
    assert press(client, "pause", **change).status_code == 409
    assert not session.inputs


@pytest.mark.parametrize("kind", ["clear", "resume", "reset_done", "success"])
@pytest.mark.parametrize(
    "change", [{"at": AT["at"] - 2.01}, {"at": AT["at"] + 0.1}, {"seq": 411}, {"seq": 413}]
)
def test_a_press_for_another_moment_is_refused_and_never_handed_over(
    client: TestClient, source: ConsoleState, session: Session, kind: str, change: dict
) -> None:
    source.publish(console_scene.snapshot())
    more = {"episode": 58} if kind == "success" else {"confirmed": True} if kind == "clear" else {}
    answer = press(client, kind, **more, **change)
    assert (answer.status_code, answer.json()["status"]) == (409, "refused")
    assert not session.inputs
    assert press(client, kind, **more).status_code == 200  # the same press again, for what is now
    assert press(client, "estop", nonce="n-87654321", **change).status_code == 200


def test_what_the_session_refuses_is_reported_as_refused(
    client: TestClient, session: Session
) -> None:
    session.fault = console_app.RefusedPress("there is nothing to clear")
    answer = press(client, "clear", confirmed=True)
    assert (answer.status_code, answer.json()) == (
        409,
        {"status": "refused", "text": "there is nothing to clear"},
    )


def test_clear_is_confirmed(client: TestClient, session: Session) -> None:
    assert press(client, "clear", confirmed=True).status_code == 200
    assert session.inputs[0].kind is Input.CLEAR


def test_too_many_presses_are_refused_but_never_the_stop(session: Session) -> None:
    async def flood() -> tuple[list[int], list[int]]:
        presses = Presses(session)
        pauses = [
            (await presses.take(Press(kind="pause", nonce=f"pause-{n:04}", **AT), "anna"))[0]
            for n in range(200)
        ]
        stops = [
            (await presses.take(Press(kind="estop", nonce=f"estop-{n:04}")))[0] for n in range(200)
        ]
        return pauses, stops

    pauses, stops = asyncio.run(flood())
    assert 429 in pauses
    assert pauses[0] == 200
    assert set(stops) == {200}
    assert sum(made.kind is Input.ESTOP for made in session.inputs) == 200


def test_a_repeated_stop_goes_out_again(client: TestClient, session: Session) -> None:
    assert press(client, "estop").json()["status"] == "sent"
    assert press(client, "estop").json()["status"] == "repeated"
    assert len(session.inputs) == 2
    assert len({made.nonce for made in session.inputs}) == 1


def test_a_hanging_label_does_not_hold_up_the_stop() -> None:
    async def both() -> tuple[bool, tuple[int, object], list[Input]]:
        free, arrived = asyncio.Event(), []

        async def send(made: OperatorInput) -> None:
            arrived.append(made.kind)
            if made.kind is not Input.ESTOP:
                await free.wait()

        presses = Presses(send)
        label = asyncio.ensure_future(
            presses.take(Press(kind="success", episode=1, nonce="label-0001", **AT), "anna")
        )
        twice = asyncio.ensure_future(
            presses.take(Press(kind="success", episode=1, nonce="label-0001", **AT), "anna")
        )
        stop = await asyncio.wait_for(presses.take(Press(kind="estop", nonce="estop-0001")), 5)
        waiting = not label.done()
        free.set()
        assert {(await label)[1].status, (await twice)[1].status} == {"sent", "repeated"}
        return waiting, stop, arrived

    waiting, stop, arrived = asyncio.run(both())
    assert waiting
    assert stop[0] == 200
    assert arrived.count(Input.SUCCESS) == 1
    assert arrived.count(Input.ESTOP) == 1


def test_a_session_that_never_answers_is_reported_as_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(console_app, "SEND_S", 0.01)

    async def never(made: OperatorInput) -> None:
        await asyncio.Event().wait()

    status, outcome = asyncio.run(
        Presses(never).take(Press(kind="pause", nonce="pause-0001", **AT), "anna")
    )
    assert (status, outcome.status) == (503, "failed")


# -- what is shown ---------------------------------------------------------------------------------


def test_the_pages_and_their_types(client: TestClient) -> None:
    for path, kind in {
        "/": "text/html",
        "/page.css": "text/css",
        "/page.js": "text/javascript",
        "/login": "text/html",
        "/icon.svg": "image/svg",
    }.items():
        answer = client.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(kind)


@pytest.mark.parametrize(
    "path",
    ["/docs", "/redoc", "/openapi.json", "/input", "/camera/../app.py", "/camera/x", "/app.py"],
)
def test_nothing_else_is_served(client: TestClient, path: str) -> None:
    assert client.get(path).status_code in (404, 405)


def test_the_latest_image_only(client: TestClient, source: ConsoleState) -> None:
    assert client.get("/camera/front.jpg").status_code == 404
    source.publish_frame("front", JPEG + b"1")
    source.publish_frame("front", JPEG + b"2")
    answer = client.get("/camera/front.jpg")
    assert answer.content == JPEG + b"2"
    assert answer.headers["content-type"] == "image/jpeg"


def test_images_are_not_trusted(source: ConsoleState) -> None:
    for name, data in (("front", b"<html>"), ('x":1,"', JPEG), ("front", JPEG + bytes(5 * 2**20))):
        with pytest.raises(DataError):
            source.publish_frame(name, data)
    for n in range(8):
        source.publish_frame(f"c{n}", JPEG)
    with pytest.raises(DataError):
        source.publish_frame("c8", JPEG)


def test_the_stream_sends_a_snapshot_once_and_ages_always() -> None:
    clock = [100.0]
    source = ConsoleState(lambda: clock[0])
    seq, first = source.message(-1)
    assert json.loads(first) == {"seq": 0, "age_s": None, "frames": {}, "snapshot": None}

    source.publish(console_scene.snapshot())
    source.publish_frame("front", JPEG)
    clock[0] = 101.5
    seq, second = source.message(seq)
    assert json.loads(second)["snapshot"]["episode"] == 58
    assert json.loads(second)["age_s"] == 1.5
    assert json.loads(second)["frames"] == {"front": 1.5}
    assert "snapshot" not in json.loads(source.message(seq)[1])


def test_events_are_server_sent_events_and_open_pages_are_counted() -> None:
    source, clock = ConsoleState(), [0.0]
    source.publish(console_scene.snapshot())
    streams = Streams(clock=lambda: clock[0])

    async def first() -> str:
        stream = streams.events(source, "anna", lambda: None)
        text = await anext(stream)
        assert streams.alive == 1
        clock[0] = 2.5  # the page does not take what it is sent
        assert streams.alive == 0
        await stream.aclose()
        return text

    text = asyncio.run(first())
    assert text.startswith("data: {")
    assert text.endswith("}\n\n")
    assert text.count("\n") == 2
    clock[0] = 0.0
    assert streams.alive == 0


def test_the_newest_page_takes_the_place_of_the_oldest_of_its_login() -> None:
    from contextlib import ExitStack

    closed: list[str] = []
    streams = Streams(most=3)
    with ExitStack() as stack:
        for name in ("ben 1", "anna 1", "anna 2", "anna 3", "carl 1"):
            stack.enter_context(
                streams.opened(name.split()[0], lambda name=name: closed.append(name))
            )
        assert streams.alive == 3
    assert closed == ["anna 1", "ben 1"]  # who has none of his own takes the oldest of all
    assert streams.alive == 0


# -- the contract ----------------------------------------------------------------------------------


def rows(labels: str) -> list[EpisodeRow]:
    words = {"s": Label.SUCCESS, "f": Label.FAILURE, "d": Label.DISCARD, ".": None}
    return [
        EpisodeRow(number=i + 1, phase=PhaseKind.TRAIN, label=words[c])
        for i, c in enumerate(labels)
    ]


def test_running_success_by_hand() -> None:
    curve = running_success(rows("sf.ds"))
    assert [(p.episode, p.successes, p.episodes) for p in curve] == [
        (1, 1, 1),
        (2, 1, 2),
        (5, 2, 3),
    ]
    ten = running_success(rows("ssssssssff"))[-1]
    assert (round(ten.low, 4), round(ten.high, 4)) == (0.4902, 0.9433)  # Wilson, 8 of 10


def test_running_success_forgets_after_forty() -> None:
    last = running_success(rows("s" * 30 + "f" * 40))[-1]
    assert (last.successes, last.episodes, last.low) == (0, 40, 0.0)


def test_phases_are_never_mixed() -> None:
    mixed = [
        row.model_copy(update={"phase": PhaseKind.EVALUATE_BEFORE}) if row.number <= 3 else row
        for row in rows("fffss")
    ]
    assert [(p.successes, p.episodes) for p in running_success(mixed)] == [
        (0, 1),
        (0, 2),
        (0, 3),
        (1, 1),
        (2, 2),
    ]
    recent = console_scene.snapshot(episodes=mixed).recent
    assert (recent.successes, recent.episodes) == (2, 2)
    assert console_scene.snapshot(episodes=mixed[:3]).recent is None  # no training yet


@pytest.mark.parametrize(
    ("changes", "allowed"),
    [
        ({"state": State.RUNNING}, {"estop", "success", "failure", "discard", "pause"}),
        ({"state": State.AWAIT_RESET, "label_episode": None}, {"estop", "reset_done", "pause"}),
        ({"state": State.AWAIT_RESET, "label_episode": None, "behind": True}, {"estop", "pause"}),
        ({"state": State.PAUSED, "paused": True, "label_episode": None}, {"estop", "resume"}),
        ({"state": State.ESTOP, "label_episode": None}, {"estop", "clear"}),
        (
            {"state": State.FAULT, "label_episode": 57},
            {"estop", "clear", "success", "failure", "discard"},
        ),
        ({"state": State.DONE, "label_episode": None, "phase": None}, {"estop"}),
    ],
)
def test_what_is_allowed(changes: dict, allowed: set[str]) -> None:
    assert {str(kind) for kind in console_scene.snapshot(**changes).allowed} == allowed


def test_every_state_allows_the_stop() -> None:
    assert all(Input.ESTOP in console_scene.snapshot(state=state).allowed for state in State)


def test_success_by_phase_and_the_moment_of_a_key() -> None:
    shown = console_scene.snapshot(
        episodes=rows("ssf"), episode=4, label_episode=3, paused=True, at=1.0
    )
    assert (
        shown.by_phase[PhaseKind.TRAIN].successes,
        shown.by_phase[PhaseKind.TRAIN].episodes,
    ) == (2, 3)
    assert shown.moment == Moment(episode=4, label_episode=3, paused=True, seq=412, at=1.0)
    assert console_scene.snapshot(episodes=()).recent is None


@pytest.mark.parametrize(
    "changes",
    [
        {"episode": 0},
        {"prompt": "x" * 501},
        {"limits_digest": "zz"},
        {"cameras": ("../etc",)},
        {"surprise": 1},
        {"clips": -1},
    ],
)
def test_the_contract_refuses_what_it_does_not_know(changes: dict) -> None:
    with pytest.raises(ValidationError):
        console_scene.snapshot(**changes)


def test_no_number_of_a_snapshot_is_nan() -> None:
    arms = console_scene.snapshot().model_dump()["arms"]
    arms[0]["gauges"][0]["value"] = float("nan")
    with pytest.raises(ValidationError):
        Snapshot.model_validate(
            {
                **console_scene.snapshot().model_dump(include=set(Snapshot.model_fields)),
                "arms": arms,
            }
        )
