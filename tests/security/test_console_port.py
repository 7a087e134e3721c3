"""The page's port between the end of its process and the start of the next.

An open page reconnects by itself.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import psutil
import pytest

from tests.session_run import REAL, make_session
from zprl import durable
from zprl.errors import ConfigError, EnvironmentProblem
from zprl.session import bus
from zprl.session.process import Settings
from zprl.session.processes.console import access, listen
from zprl.session.supervisor import Supervisor

WAIT_S = 90.0


def wait(until: Callable[[], object]) -> None:
    end = time.monotonic() + WAIT_S
    while not until():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    folder = make_session(tmp_path_factory.mktemp("port") / "session", "127.0.31.9")
    work, sockets = folder.with_name("work"), bus.make_folder()
    work.mkdir()
    yield Settings(
        session=folder,
        sockets=sockets,
        work=work,
        config=REAL,
        seed=0,
        rings=sockets.name,
        robot_sim=sockets,
    )
    for left in sockets.iterdir():
        left.unlink()
    sockets.rmdir()


@pytest.fixture
def supervisor(settings: Settings) -> Iterator[Supervisor]:
    """A session of which only the page runs."""
    stop = threading.Event()
    (settings.work / access.ADDRESS).unlink(missing_ok=True)
    with access.granted(settings.work, {}):
        made = Supervisor(settings, ("console",), say=lambda line: None, stopping=stop.is_set)

        def run() -> None:
            with contextlib.suppress(Exception):
                made.run()

        thread = threading.Thread(target=run)
        thread.start()
        try:
            wait(lambda: (settings.work / access.ADDRESS).exists())
            yield made
        finally:
            stop.set()
            thread.join(WAIT_S)


def port(settings: Settings) -> int:
    number = urlsplit(durable.read_json(settings.work / access.ADDRESS)["url"]).port
    assert number
    return number


def taken(number: int) -> bool:
    """Return whether a stranger is refused the port, at either address."""
    for host in ("127.0.0.1", ""):
        with socket.socket() as stranger:
            stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                stranger.bind((host, number))
                stranger.listen()
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return False
    return True


def test_nobody_gets_the_port_while_the_page_s_process_is_replaced(
    supervisor: Supervisor, settings: Settings
) -> None:
    number, before = port(settings), supervisor.children["console"].process.pid
    os.kill(before, signal.SIGKILL)
    tries = 0

    def replaced() -> bool:
        nonlocal tries
        tries += 1
        assert taken(number)
        return (
            supervisor.children["console"].back
            and supervisor.children["console"].process.pid != before
        )

    wait(replaced)
    assert tries > 1
    assert port(settings) == number
    with socket.create_connection(("127.0.0.1", number), 10) as browser:
        browser.settimeout(30)
        browser.sendall(b"GET /login HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert browser.recv(100).startswith(b"HTTP/1.1 200")


def test_only_the_page_s_process_and_the_supervisor_hold_the_port(
    supervisor: Supervisor, settings: Settings
) -> None:
    wait(lambda: supervisor.children["console"].back)
    listening = psutil.Process(supervisor.children["console"].process.pid).net_connections("tcp")
    assert [each.laddr.port for each in listening if each.status == psutil.CONN_LISTEN] == [
        port(settings)
    ]
    fd = supervisor.settings.console_fd
    assert fd is not None
    assert not os.get_inheritable(fd)


def test_the_next_run_takes_the_port_that_it_had(settings: Settings) -> None:
    with listen.listen("127.0.0.1") as before:
        number = before.getsockname()[1]
        durable.write_json(settings.work / access.ADDRESS, {"url": f"http://127.0.0.1:{number}/"})
        with listen.open_for(settings) as other:  # it is taken
            assert other.getsockname()[1] != number
    with listen.open_for(settings) as again:
        assert again.getsockname()[1] == number
        with pytest.raises(EnvironmentProblem, match="cannot be served"):
            listen.open_for(settings.model_copy(update={"console_port": number}))
    with pytest.raises(ConfigError, match="not an address"):
        listen.open_for(settings.model_copy(update={"console_host": "example.org"}))


def test_what_was_handed_down_must_listen(settings: Settings) -> None:
    with socket.socket() as deaf, open(os.devnull) as file:
        for number in (deaf.fileno(), file.fileno(), 999):
            with pytest.raises(EnvironmentProblem, match="no socket that listens"):
                listen.handed_down(settings.model_copy(update={"console_fd": number}))
        assert deaf.fileno() >= 0
