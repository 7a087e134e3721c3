"""Strangers at the operator's page: works without a login, ways to log in, names on labels."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import stat
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.datastructures import Headers
from starlette.testclient import TestClient

from tests import console_scene
from zprl.errors import ConfigError, DataError, EnvironmentProblem
from zprl.recordings.append_file import lease
from zprl.recordings.labels import LabelFile
from zprl.server_limits import QuietLog
from zprl.session.events import Input
from zprl.session.inputs import OperatorInput, this_user
from zprl.session.processes.console import access as access_module
from zprl.session.processes.console import app as console_app
from zprl.session.processes.console import rate_limits
from zprl.session.processes.console.access import (
    FILE,
    PROGRAM,
    TOKEN,
    Access,
    Secrets,
    granted,
    page_link,
)
from zprl.session.processes.console.app import make_app
from zprl.session.processes.console.rate_limits import Bucket, Guesses, group
from zprl.session.processes.console.snapshot import ConsoleState
from zprl.session.processes.console.streams import Streams

BASE = "http://127.0.0.1:8000"
WORD = "correct horse battery"
ORIGIN = {"Origin": BASE}
NOW = 1000.0
"""Where the session's clock stands still, so that no press grows old [s]."""


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_app, "now", lambda: NOW)


def press(kind: str, **more: object) -> dict[str, object]:
    return {"kind": kind, "nonce": f"nonce-{kind}", "seq": 412, "at": NOW, **more}


PRESSES = [
    *(press(kind, episode=3) for kind in ("success", "failure", "discard", "reset_done")),
    *(press(kind) for kind in ("pause", "resume", "intervene", "release")),
    press("clear", confirmed=True),
]


class Page:
    """The page of a session, and everything that reaches the session."""

    def __init__(self) -> None:
        self.time = [1000.0]
        self.access = Access(Secrets.make(WORD), lambda: self.time[0])
        self.arrived: list[OperatorInput] = []
        source = ConsoleState()
        source.publish(console_scene.snapshot())
        source.publish_frame("front", b"\xff\xd8\xff image")
        self.app = make_app(source, self.arrived.append, self.access)

    def browser(self, address: str = "127.0.0.1") -> TestClient:
        return TestClient(
            self.app, base_url=BASE, follow_redirects=False, client=(address, 50000), headers=ORIGIN
        )

    def ticket(self) -> str:
        return self.access.link(f"{BASE}/").partition("#")[2]


@pytest.fixture
def page() -> Page:
    return Page()


def test_a_form_of_many_fields_is_a_wrong_guess(page: Page) -> None:
    body = "a=1&b=2&c=3&d=4&e=5"
    answer = page.browser().post(
        "/login", content=body, headers={"Content-Type": "application/x-www-form-urlencoded"}
    )
    assert answer.status_code == 401


@pytest.mark.parametrize(
    "name", ["\u3164", "anna\u034f", "\u115fa", "a\ufe0f", "\uffa0b", "a\U000e0100"]
)
def test_a_name_that_hides_something_is_refused(page: Page, name: str) -> None:
    answer = page.browser().post("/login", data={"token": WORD, "author": name})
    assert answer.status_code == 422


def test_two_spellings_of_a_name_are_one(page: Page) -> None:
    names = []
    for name in ("Jos\u00e9", "Jose\u0301", " Jos\u00e9 "):
        browser = page.browser()
        assert browser.post("/login", data={"token": WORD, "author": name}).status_code == 303
        answer = browser.post("/input", json=press("pause", nonce=f"nonce-spelling-{len(names)}"))
        assert answer.status_code == 200, answer.text
        names.append(page.arrived[-1].author)
    assert set(names) == {"Jos\u00e9"}


# -- without a login -------------------------------------------------------------------------------


def test_the_stop_works_without_a_login(page: Page) -> None:
    assert page.browser().post("/input", json=press("estop")).status_code == 200
    assert [(made.kind, made.author) for made in page.arrived] == [(Input.ESTOP, None)]


@pytest.mark.parametrize("body", PRESSES, ids=lambda body: str(body["kind"]))
def test_nothing_else_works_without_a_login(page: Page, body: dict) -> None:
    for more in (
        {},
        {"Cookie": "zprl_console=1"},
        {"Cookie": f"{page.access.cookie}=\x7f"},
        {"Authorization": f"Basic {WORD}"},
    ):
        assert page.browser().post("/input", json=body, headers=more).status_code == 401
    assert not page.arrived


@pytest.mark.parametrize(
    "path",
    ["/page.js", "/stream", "/camera/front.jpg", f"/stream?token={WORD}", "/nothing", "/input"],
)
def test_nothing_is_seen_without_a_login(page: Page, path: str) -> None:
    assert page.browser().get(path).status_code == 401
    assert page.browser().get("/").headers["location"] == "/login"


def test_the_locked_page_tells_nothing_of_the_session(page: Page) -> None:
    text = page.browser().get("/login").text
    assert this_user() not in text
    assert "lift" not in text


# -- one-time links --------------------------------------------------------------------------------


def test_a_link_works_once_and_names_who_started_the_session(page: Page) -> None:
    ticket, browser = page.ticket(), page.browser()
    answer = browser.post("/login", data={"ticket": ticket})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"].lower()
    assert all(
        part in cookie for part in ("httponly", "samesite=strict", "path=/", "max-age=43200")
    )
    assert browser.get("/").status_code == 200
    assert browser.post("/input", json=press("success", episode=3)).status_code == 200
    assert page.arrived[0].author == this_user()
    stranger = page.browser()
    answer = stranger.post("/login", data={"ticket": ticket})
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers
    assert "used before" in answer.text
    # Who is logged in already stays so.
    assert browser.post("/login", data={"ticket": ticket}).status_code == 303


def test_a_link_is_behind_the_fragment(page: Page) -> None:
    link = page.access.link(f"{BASE}/")
    assert link.startswith(f"{BASE}/login#")
    assert WORD not in link


@pytest.mark.parametrize("age", [-1.0, 601.0])
def test_an_old_link_does_not_work(page: Page, age: float) -> None:
    ticket = page.ticket()
    page.time[0] += age
    assert page.browser().post("/login", data={"ticket": ticket}).status_code == 401


def test_a_link_of_before_the_console_began_does_not_work(page: Page) -> None:
    ticket = page.ticket()
    page.time[0] += 1.0
    again = Access(page.access._secrets, lambda: page.time[0])  # it cannot know which were used
    assert again.redeem(ticket) is None
    assert again.redeem(again.link("").partition("#")[2]) == this_user()


def test_forged_links_do_not_work(page: Page) -> None:
    ticket = page.ticket()
    text, _, mac = ticket.rpartition(".")
    cookie = page.access.cookie_for("anna")
    other = Access(Secrets.make()).link("").partition("#")[2]
    for forged in (
        text,
        f"{text}.",
        f"{text}.{'0' * 64}",
        f"{text[:-1]}.{mac}",
        f".{mac}",
        cookie,
        other,
        WORD,
        "\udcff",
        ".",
    ):
        assert page.access.redeem(forged) is None
    assert page.access.redeem(ticket)


# -- tokens and cookies ----------------------------------------------------------------------------


def test_logging_in_by_form_with_a_name(page: Page) -> None:
    browser = page.browser()
    foreign = {"Origin": "https://evil.example"}
    wrong = browser.post("/login", data={"token": "<b>guess</b>"})
    assert wrong.status_code == 401
    assert "guess" not in wrong.text
    stolen = page.browser().post("/login", data={"token": WORD}, headers=foreign)
    assert stolen.status_code == 403

    answer = browser.post("/login", data={"token": WORD, "author": " Zoë O'Neill "})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert WORD not in answer.headers["set-cookie"]
    assert browser.get("/").status_code == 200
    assert browser.post("/input", json=press("failure", episode=3)).status_code == 200
    assert browser.post("/input", json=press("pause"), headers=foreign).status_code == 403
    assert [made.author for made in page.arrived] == ["Zoë O'Neill"]


def test_without_a_name_the_one_who_started_the_session_is_the_author(page: Page) -> None:
    browser = page.browser()
    browser.post("/login", data={"token": WORD})
    browser.post("/input", json=press("pause"))
    assert page.arrived[0].author == this_user()


@pytest.mark.parametrize(
    "name", ["<script>", "a\nb", "x" * 61, "anna\u200d", "anna\u202e", "\x1b[31m", "a|b", ".anna"]
)
def test_a_name_is_a_name(page: Page, name: str) -> None:
    answer = page.browser().post("/login", data={"token": WORD, "author": name})
    assert answer.status_code == 422
    assert "set-cookie" not in answer.headers


def test_a_program_brings_the_token_in_a_header(page: Page) -> None:
    bare = TestClient(page.app, base_url=BASE)
    assert (
        bare.post(
            "/input", json=press("success", episode=3), headers={"Authorization": f"Bearer {WORD}"}
        ).status_code
        == 200
    )
    assert page.arrived[0].author == PROGRAM


def test_the_name_in_a_cookie_cannot_be_changed(page: Page) -> None:
    mine, hers = page.access.cookie_for("ben"), page.access.cookie_for("anna")
    mixed = f"{hers.rpartition('.')[0]}.{mine.rpartition('.')[2]}"
    for value in (mixed, page.ticket(), WORD):
        answer = page.browser().post(
            "/input", json=press("pause"), headers={"Cookie": f"{page.access.cookie}={value}"}
        )
        assert answer.status_code == 401


def test_a_cookie_outlives_the_console_but_neither_its_time_nor_the_run(page: Page) -> None:
    value = page.access.cookie_for("anna")
    header = {"cookie": f"{page.access.cookie}={value}"}
    again = Access(page.access._secrets, lambda: page.time[0])
    assert again.login(access_module.Headers(header)).author == "anna"
    other = Access(Secrets.make(WORD), lambda: page.time[0])  # the next run, with the same token
    assert other.cookie != page.access.cookie
    assert other.login(access_module.Headers({"cookie": f"{other.cookie}={value}"})) is None
    page.time[0] += 12 * 3600 + 1
    assert again.login(access_module.Headers(header)) is None


def test_everything_secret_is_compared_in_constant_time(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []
    monkeypatch.setattr(
        access_module.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or a == b
    )
    assert page.access.knows(WORD)
    assert not page.access.knows("\udcff é")
    page.access.redeem("a.b")
    page.access.login(access_module.Headers({"cookie": f"{page.access.cookie}=a.b"}))
    assert len(compared) == 4


@pytest.mark.parametrize("token", ["x" * 15, "x" * 40, "abababababababababab"])
def test_a_token_that_could_be_guessed_is_refused(token: str) -> None:
    with pytest.raises(ConfigError, match=TOKEN):
        Secrets.make(token)


# -- guessing --------------------------------------------------------------------------------------


def test_guesses_are_limited_per_address_and_the_right_token_always_passes(page: Page) -> None:
    attacker = page.browser("192.0.2.7")
    cookie = {"Cookie": f"{page.access.cookie}=guess"}
    guesses = [
        lambda n: attacker.post("/login", data={"token": f"guess {n}"}),
        lambda n: attacker.get("/stream", headers={"Authorization": f"Bearer guess-{n}"}),
        lambda n: attacker.get("/camera/front.jpg", headers=cookie),
        lambda n: attacker.post("/input", json=press("pause"), headers=cookie),
        lambda n: attacker.post("/login", data={"ticket": f"guess.{n}"}),
    ]
    statuses = [guesses[n % len(guesses)](n).status_code for n in range(20)]
    assert statuses[:5] == [401] * 5
    assert set(statuses[5:]) == {429}
    for browser in (page.browser("192.0.2.7"), page.browser()):  # the same address, and another
        assert (
            browser.get(
                "/camera/front.jpg", headers={"Authorization": f"Bearer {WORD}"}
            ).status_code
            == 200
        )
        assert browser.post("/login", data={"token": WORD}).status_code == 303
        assert browser.get("/camera/front.jpg").status_code == 200
    assert page.browser("192.0.2.8").post("/login", data={"token": "guess"}).status_code == 401
    assert attacker.post("/input", json=press("estop"), headers=cookie).status_code == 200


def test_the_memory_for_guesses_is_bounded_and_the_log_quiet() -> None:
    lines: list[str] = []
    clock = [0.0]
    guesses = Guesses(QuietLog(lines.append, lambda: clock[0]), lambda: clock[0])
    for number in range(3 * rate_limits.ADDRESSES):
        for _ in range(7):
            guesses.wrong(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(guesses) == rate_limits.ADDRESSES
    assert len(lines) == 1

    clock[0] = 11.0
    for _ in range(6):
        guesses.wrong("10.0.0.0")
    assert len(lines) == 2
    assert "like it" in lines[1]


def test_what_counts_as_one_sender() -> None:
    assert group("2001:db8::1") == group("2001:db8::ffff:1") != group("2001:db8:0:1::1")
    assert group("::ffff:192.0.2.1") == group("192.0.2.1")
    assert group("::1") != group("::2")
    assert group("fe80::1%eth0") == group("fe80::2%eth0")


def test_a_bucket_by_hand() -> None:
    clock = [0.0]
    bucket = Bucket(2.0, 3, lambda: clock[0])
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]
    clock[0] = 0.5  # one more has come
    assert [bucket.take(), bucket.take()] == [True, False]
    clock[0] = 100.0
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]


# -- who wrote a label -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["success", "clear", "pause"])
def test_a_press_on_the_page_has_an_author_or_is_a_stop(kind: str) -> None:
    with pytest.raises(ValueError, match="author"):
        OperatorInput(kind=kind, episode=3, source="console")
    assert OperatorInput(kind="estop", source="console").author is None


@pytest.mark.parametrize("extra", ["author", "source", "login"])
def test_nobody_writes_an_author_into_a_press(page: Page, extra: str) -> None:
    browser = page.browser()
    browser.post("/login", data={"token": WORD, "author": "ben"})
    assert (
        browser.post("/input", json=press("success", episode=3, **{extra: "anna"})).status_code
        == 422
    )
    assert not page.arrived


def test_a_line_of_labels_names_its_author_and_older_ones_still_fit(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    labels = LabelFile(path, write=True)
    labels.append(1, "success", source="time-out", nonce="a")
    labels.append(2, "failure", source="console", nonce="b", author="anna")
    labels.close()
    first, second = path.read_text().splitlines()
    assert "author" not in json.loads(first)  # byte for byte as before there were authors
    assert [line.author for line in LabelFile(path).in_order()] == [None, "anna"]
    path.write_text(f"{first}\n{second.replace('anna', 'ben')}\n")
    with pytest.raises(Exception, match="line 2 is damaged"):
        LabelFile(path)


# -- the file --------------------------------------------------------------------------------------


def test_the_secrets_are_this_users_alone_and_leave_the_environment(tmp_path: Path) -> None:
    environ, before = {TOKEN: WORD}, os.umask(0)
    try:
        with granted(tmp_path, environ):
            assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
            assert Secrets.load(tmp_path).token == WORD
            assert environ == {}
            with pytest.raises(EnvironmentProblem), granted(tmp_path, {}):
                pass
            assert Secrets.load(tmp_path).token == WORD  # the other run's failure left it alone
    finally:
        os.umask(before)
    assert not (tmp_path / FILE).exists()


def test_each_run_has_secrets_of_its_own(tmp_path: Path) -> None:
    loaded = []
    for _ in range(2):
        with granted(tmp_path, {}):
            loaded.append(Secrets.load(tmp_path))
    assert loaded[0].token != loaded[1].token
    assert loaded[0].run != loaded[1].run


def test_a_link_for_the_running_session_and_none_for_a_dead_one(tmp_path: Path) -> None:
    (tmp_path / "console.json").write_text(json.dumps({"url": f"{BASE}/"}))
    with granted(tmp_path, {}):
        console = Access(Secrets.load(tmp_path))
        assert console.redeem(page_link(tmp_path).partition("#")[2]) == this_user()
        left = (tmp_path / FILE).read_text()
    for damaged in ("", left):  # ended, and killed: the files are there, but nobody holds them
        (tmp_path / FILE).write_text(damaged)
        with pytest.raises(EnvironmentProblem, match="no session is running"):
            page_link(tmp_path)
    os.close(lease(tmp_path))


def test_an_expired_login_leads_to_the_login_page_however_often_cameras_ask(page: Page) -> None:
    browser = page.browser()
    browser.post("/login", data={"ticket": page.ticket()})
    assert browser.get("/").status_code == 200
    page.time[0] += access_module.COOKIE_S + 1
    assert {browser.get("/camera/front.jpg").status_code for _ in range(20)} == {401}
    answer = browser.get("/")
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    forger = page.browser("10.0.0.9")
    forger.cookies.set(page.access.cookie, "forged.0123")
    assert [forger.get("/camera/front.jpg").status_code for _ in range(20)].count(429) >= 10


def test_a_stream_ends_with_its_login(page: Page) -> None:
    headers = Headers({"cookie": f"{page.access.cookie}={page.access.cookie_for('anna')}"})
    login = page.access.login(headers)
    assert login is not None

    async def receive(hours: float) -> int:
        events = Streams().events(
            ConsoleState(), login.id, lambda: None, lasts=lambda: page.access.lasts(login)
        )
        await anext(events)
        page.time[0] += hours * 3600
        return len([event async for event in islice(events, 2)])

    async def islice(events: AsyncIterator[str], most: int) -> AsyncIterator[str]:
        async for event in events:
            yield event
            most -= 1
            if not most:
                return

    assert asyncio.run(receive(1)) == 2
    assert asyncio.run(receive(12)) == 0


def test_who_looks_whether_a_session_runs_does_not_keep_one_from_starting(tmp_path: Path) -> None:
    looking = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    threading.Timer(0.1, os.close, [looking]).start()
    with granted(tmp_path, {}):
        assert (tmp_path / FILE).exists()


@pytest.mark.parametrize("text", ["{}", "[]", "1", '"x"', "null"])
def test_a_damaged_address_is_reported_in_a_sentence(tmp_path: Path, text: str) -> None:
    with granted(tmp_path, {}):
        (tmp_path / access_module.ADDRESS).write_text(text)
        with pytest.raises(DataError, match="is damaged"):
            page_link(tmp_path)
