"""Floods of the operator's page, through which the e-stop must go: real sockets, few files."""

from __future__ import annotations

import json
import os
import resource
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.session_messages import FakeBus
from zprl import server_limits
from zprl.robot.events import Level
from zprl.session.events import Input
from zprl.session.input_publisher import STOP_GAP_S, STOP_REPEATS, InputPublisher
from zprl.session.inputs import OperatorInput
from zprl.session.messages import Beat
from zprl.session.processes.console.access import Access, Secrets
from zprl.session.processes.console.connections import Connection, Connections

ROOT = Path(__file__).parents[2]
FILES = 1024
SERVE = """
import contextlib, os, resource, sys, time
from zprl.session.processes.console.access import Access, Secrets
from zprl.session.processes.console.serve import Console
from zprl.session.processes.console.snapshot import ConsoleState
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]),) * 2)
taken = []
access = Access(Secrets.model_validate_json(sys.argv[1]))
with Console(ConsoleState(), taken.append, access=access) as console:
    print(console.url, flush=True)
    os.dup2(2, 1)
    while console.alive:
        time.sleep(0.2)
        with contextlib.suppress(OSError), open("pages", "w") as file:
            file.write(str(console.pages))
"""


class Page:
    """A page in a process of its own."""

    def __init__(self, folder: Path, files: int) -> None:
        self.log, self.folder = folder / "log", folder
        self.secrets = Secrets.make()
        self.access = Access(self.secrets)
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        with open(self.log, "wb") as log:
            command = [sys.executable, "-c", SERVE, self.secrets.model_dump_json(), str(files)]
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, cwd=folder, env=environ
            )
        self.port = int(self.process.stdout.readline().rsplit(b":", 1)[1].strip(b"/\n"))

    def request(self, path: str, body: str = "", more: str = "") -> bytes:
        origin = f"127.0.0.1:{self.port}"
        lines = [
            f"{'POST' if body else 'GET'} {path} HTTP/1.1",
            f"Host: {origin}",
            f"Origin: http://{origin}",
            f"{more}Content-Type: application/json",
            f"Content-Length: {len(body)}",
        ]
        return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()

    def stop(self, nonce: str = "n-12345678") -> bytes:
        return self.request("/input", json.dumps({"kind": "estop", "nonce": nonce}))

    @property
    def cookie(self) -> str:
        return f"Cookie: {self.access.cookie}={self.access.cookie_for('anna')}\r\n"

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 10)

    def ask(self, data: bytes, line: socket.socket | None = None) -> int:
        """Send a request and return the status."""
        connection = line or self.connect()
        connection.sendall(data)

        answer, length = b"", 0
        while b"\r\n\r\n" not in answer or len(answer.partition(b"\r\n\r\n")[2]) < length:
            got = connection.recv(65536)
            assert got, answer
            answer += got
            length = int(answer.partition(b"content-length: ")[2].split(b"\r\n")[0] or 0)

        if line is None:
            connection.close()
        return int(answer.split()[1])

    def size(self) -> int:
        return self.log.stat().st_size


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    page = Page(tmp_path, FILES)
    yield page
    page.process.kill()
    page.process.wait()
    page.process.stdout.close()


@pytest.fixture
def many_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] < 4096:
        pytest.skip("this test opens 1,300 connections")
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def closed(connections: list[socket.socket], seconds: float) -> int:
    """Return how many the server closes within so many seconds."""
    count, end = 0, time.monotonic() + seconds
    with selectors.DefaultSelector() as waiting:
        for connection in connections:
            waiting.register(connection, selectors.EVENT_READ)

        while count < len(connections) and time.monotonic() < end:
            for key, _ in waiting.select(0.2):
                try:
                    ended = not key.fileobj.recv(65536)
                except OSError:
                    ended = True
                if ended:
                    waiting.unregister(key.fileobj)
                    count += 1
    return count


# -- connections -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "begun",
    ["", "POST /input HTTP/1.1\r\nHost: 127", "body"],
    ids=["idle", "half headers", "half bodies"],
)
def test_more_connections_than_files_do_not_shut_the_stop_out(
    page: Page, many_files: None, begun: str
) -> None:
    first = page.stop()[:-4] if begun == "body" else begun.encode()
    with ExitStack() as stack:
        logged_in = stack.enter_context(page.connect())
        assert page.ask(page.request("/nothing", more=page.cookie), logged_in) == 404
        held = []
        for _ in range(1300):
            held.append(stack.enter_context(page.connect()))
            held[-1].sendall(first)
        for number in range(5):
            began = time.monotonic()
            assert page.ask(page.stop(f"stop-{number:05}")) == 200
            assert time.monotonic() - began < 2
        assert (
            page.ask(page.request("/nothing", more=page.cookie), logged_in) == 404
        )  # it was never closed
        assert closed(held, 30) == len(held)
        assert page.ask(page.request("/nothing", more=page.cookie), logged_in) == 404
    assert page.process.poll() is None
    assert page.size() < 10_000


def test_a_server_without_files_goes_on_and_says_so_in_a_line(tmp_path: Path) -> None:
    page = Page(tmp_path, 64)  # fewer than its smallest number of connections
    try:
        with ExitStack() as stack:
            for _ in range(150):
                stack.enter_context(page.connect())
            time.sleep(3)
        end = time.monotonic() + 20
        while True:
            try:
                assert page.ask(page.stop()) == 200
                break
            except (OSError, AssertionError):
                assert time.monotonic() < end
                time.sleep(0.2)
        assert page.process.poll() is None
        assert page.size() < 10_000
    finally:
        page.process.kill()
        page.process.wait()
        page.process.stdout.close()


def test_garbage_and_websockets_leave_no_trace_in_the_log(page: Page) -> None:
    upgrade = (
        "Connection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n"
    )
    for number in range(100):
        assert page.ask(page.request("/", more=upgrade)) == 403
        assert page.ask(b"\x16\x03\x01 garbage\r\n\r\n") == 400
        with page.connect() as connection:  # two requests at once, and gone
            connection.sendall(page.stop(f"first-{number:04}") + page.stop(f"other-{number:04}"))
    assert page.ask(page.stop()) == 200
    assert page.size() == 0


def pour(connection: socket.socket, data: bytes) -> None:
    """Send the same bytes a thousand times, so slowly that the server takes all in."""
    for _ in range(1000):
        connection.sendall(data)
        time.sleep(0.01)


@pytest.mark.parametrize("sent_by", ["stranger", "login"])
@pytest.mark.parametrize(
    "endless",
    [b"ab:cd\r\n" * 2000, b"x" * 16_000, b"/" * 16_000],
    ids=["headers", "one value", "one path"],
)
def test_headers_without_end_are_cut_off(page: Page, sent_by: str, endless: bytes) -> None:
    cookie = page.cookie if sent_by == "login" else ""
    with page.connect() as connection:
        assert page.ask(page.request("/login", more=cookie), connection) == 200
        begun = page.request("/login", more=cookie)[:-4]
        connection.sendall(b"GET /" if endless[:1] == b"/" else begun)
        with pytest.raises(OSError, match=r"reset|pipe"):
            pour(connection, endless)
    assert page.ask(page.stop()) == 200
    assert page.size() == 0


def test_many_headers_are_refused(page: Page) -> None:
    assert page.ask(page.request("/login", more="a: b\r\n" * 50)) == 200
    assert page.ask(page.request("/login", more="a: b\r\n" * 80)) == 400


def test_trailers_without_end_are_cut_off(page: Page) -> None:
    chunked = page.request("/input", more="Transfer-Encoding: chunked\r\n")
    begun = chunked.replace(b"GET", b"POST").replace(b"Content-Length: 0\r\n", b"")
    with page.connect() as connection:
        connection.sendall(begun + b"1\r\n{\r\n0\r\n")
        with pytest.raises(OSError, match=r"reset|pipe"):
            pour(connection, b"ab:cd\r\n" * 100)
    assert page.ask(page.stop()) == 200


def test_a_request_for_another_protocol_is_refused_and_never_loses_a_stop(page: Page) -> None:
    upgrade = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n"
    press = json.dumps({"kind": "estop", "nonce": "n-12345678"})
    for cookie in ("", page.cookie):
        with page.connect() as connection:
            assert page.ask(page.request("/input", press, upgrade + cookie), connection) == 403
            assert closed([connection], 5) == 1  # it does not stay open and deaf
    assert page.ask(page.stop()) == 200


def test_a_request_that_waits_for_its_turn_is_not_late() -> None:
    connection = Connection.__new__(Connection)
    connection.cycle, connection._judged, connection._since = None, None, 0.0
    connection._received, connection._rests = bytearray(b"GET"), False
    assert not connection.late(1e6)
    connection._rests = True
    assert connection.late(1e6)
    connection._received, connection._rests = bytearray(), False
    assert connection.late(1e6)


def test_the_oldest_of_the_largest_crowd_is_closed_first() -> None:
    class Line:
        busy = trusted = False

        def __init__(self, sender: str) -> None:
            self.sender = sender

        def abort(self) -> None:
            gone.append(self)
            everybody.remove(self)

    gone: list[Line] = []
    everybody = Connections(lambda data: False, most=5)
    operator, login, crowd = (
        Line("10.0.0.1"),
        Line("10.0.0.2"),
        [Line("10.0.0.9") for _ in range(50)],
    )
    for line in (login, operator):
        everybody.add(line)
    everybody.trust(login)
    for line in crowd:
        everybody.add(line)
    assert gone == crowd[:-3]
    assert len(everybody) == 5
    for sender in range(50):  # many addresses with one connection each
        everybody.add(Line(f"10.1.0.{sender}"))
    assert login not in gone
    assert len(everybody) == 5


def test_a_stranger_who_is_queued_twice_is_served_once() -> None:
    turns: list[Callable[[], None]] = []

    class Loop:
        call_soon = staticmethod(turns.append)

    class Line:
        loop, sender, taken = Loop, "10.0.0.1", 0

        def take(self) -> None:
            self.taken += 1

    everybody, line = Connections(lambda data: False, most=5), Line()
    for _ in range(3):
        everybody.queue(line)
    while turns:
        turns.pop(0)()
    assert line.taken == 1
    everybody.queue(line)
    turns.pop(0)()
    assert (line.taken, turns) == (2, [])


def test_addresses_of_strangers_take_turns() -> None:
    turns: list[Callable[[], None]] = []
    served: list[str] = []

    class Loop:
        call_soon = staticmethod(turns.append)

    class Line:
        loop = Loop

        def __init__(self, sender: str, name: str) -> None:
            self.sender, self.name = sender, name

        def take(self) -> None:
            served.append(self.name)

    everybody = Connections(lambda data: False, most=9)
    lines = [
        Line("10.0.0.1", "flood 1"),
        Line("10.0.0.1", "flood 2"),
        Line("10.0.0.1", "flood 3"),
        Line("10.0.0.2", "person"),
    ]
    for line in lines:
        everybody.queue(line)
    while turns:
        turns.pop(0)()
    assert served == ["flood 1", "person", "flood 2", "flood 3"]


def test_pages_are_counted_while_somebody_has_them_open(page: Page) -> None:
    def pages(wanted: str) -> bool:
        end = time.monotonic() + 20
        while (
            text := (page.folder / "pages").read_text() if (page.folder / "pages").exists() else ""
        ) != wanted:
            if time.monotonic() > end:
                return False
            time.sleep(0.1)
        return text == wanted

    assert pages("0")
    assert page.ask(page.request("/stream")) == 401
    with page.connect() as stream:
        assert page.ask(page.request("/stream", more=page.cookie), stream) == 200
        assert pages("1")
    assert pages("0")


def test_the_newest_page_of_a_login_closes_its_oldest(page: Page) -> None:
    cookie = page.cookie
    with ExitStack() as stack:
        lines = [stack.enter_context(page.connect()) for _ in range(20)]
        for line in lines:
            assert page.ask(page.request("/stream", more=cookie), line) == 200
        assert closed(lines[:4], 10) == 4
        assert closed(lines[4:], 1) == 0
    assert page.size() == 0


# -- a flood of stops ------------------------------------------------------------------------------


def stop(number: int) -> OperatorInput:
    return OperatorInput(kind=Input.ESTOP, nonce=f"stop-{number}", source="console")


@pytest.fixture
def publisher() -> tuple[InputPublisher, FakeBus, list[float]]:
    bus, clock = FakeBus(), [0.0]
    return InputPublisher(bus, lambda: clock[0]), bus, clock


def test_a_flood_of_stops_is_few_messages_of_one_press(
    publisher: tuple[InputPublisher, FakeBus, list[float]],
) -> None:
    speaker, bus, clock = publisher
    for number in range(5000):  # five seconds, confirmed after half a second
        clock[0] = number / 1000
        speaker.publish(stop(number))
        if number % 20 == 0:
            speaker.flush()
        if number % 200 == 0:
            speaker.beat(Beat(pages=1), stopped=number > 500)
    assert len(bus.of(OperatorInput)) <= 5 / STOP_GAP_S + 10
    assert {press.nonce for press in bus.of(OperatorInput)} == {"stop-0"}
    assert len(speaker._sent) == 0
    assert bus.of(Beat)[0].body() == {"pages": 1}


def test_the_first_stop_is_said_at_once_and_the_last_is_never_lost(
    publisher: tuple[InputPublisher, FakeBus, list[float]],
) -> None:
    speaker, bus, clock = publisher
    speaker.publish(stop(1))
    assert len(bus.of(OperatorInput)) == 1
    clock[0] = 0.01
    speaker.publish(stop(2))
    speaker.flush()
    assert len(bus.of(OperatorInput)) == 1
    clock[0] = STOP_GAP_S
    speaker.flush()
    assert len(bus.of(OperatorInput)) == 2


def test_a_stop_after_the_clearing_of_another_is_a_new_one(
    publisher: tuple[InputPublisher, FakeBus, list[float]],
) -> None:
    speaker, bus, clock = publisher
    speaker.publish(stop(1))
    speaker.beat(Beat(), stopped=True)
    speaker.beat(Beat(), stopped=False)
    clock[0] = 10.0
    speaker.publish(stop(2))
    assert bus.of(OperatorInput)[-1].nonce == "stop-2"
    speaker.beat(Beat(), stopped=True)
    clock[0] = 20.0
    speaker.publish(stop(3))  # between the clearing and the beat that notices it
    before = len(bus.of(OperatorInput))
    for _ in range(STOP_REPEATS + 10):
        speaker.beat(Beat(), stopped=False)
    assert (
        len(bus.of(OperatorInput)) == before + STOP_REPEATS
    )  # until it is confirmed, or for half a minute


def test_thousands_of_stops_leave_memory_and_log_as_they_were(page: Page) -> None:
    def memory() -> int:
        return int(
            Path(f"/proc/{page.process.pid}/status").read_text().split("VmRSS:")[1].split()[0]
        )

    def press(number: int) -> None:
        assert (
            page.ask(
                page.request(
                    "/input",
                    json.dumps({"kind": "estop", "nonce": f"stop-{number:06}"}),
                    page.cookie,
                ),
                line,
            )
            == 200
        )

    with page.connect() as line:
        for number in range(500):
            press(number)
        before = memory()
        for number in range(500, 4000):
            press(number)
        assert memory() - before < 10_000  # kB; the test's own list of presses is in there
    assert page.size() == 0


# -- the disk --------------------------------------------------------------------------------------


def test_a_disk_that_cannot_be_read_is_reported_and_the_page_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from zprl.session.processes.console.snapshot_builder import Watch

    class Broken:
        def in_order(self) -> list:
            raise OSError(24, "Too many open files")

    watch = Watch.__new__(Watch)
    watch.store = type("Store", (), {"labels": Broken()})()
    watch.events, watch.wall = __import__("collections").deque(maxlen=5), lambda: 0.0
    watch.read_disk()
    assert [(row.kind, row.level) for row in watch.events] == [
        ("disk_not_read", Level.NOTE.name.lower())
    ]


def test_a_process_may_open_as_many_files_as_the_system_allows() -> None:
    command = "from zprl.server_limits import *; raise_open_files(); print(open_files())"

    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 2000))

    finished = subprocess.run(
        [sys.executable, "-c", command],
        preexec_fn=few,
        capture_output=True,
        cwd=ROOT,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert int(finished.stdout) == 2000
    assert server_limits.open_files() > 0
