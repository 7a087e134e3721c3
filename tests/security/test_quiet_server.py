"""Strangers who hold connections to a server of ours: few files, real sockets."""

from __future__ import annotations

import http.client
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from starlette.responses import PlainTextResponse

from pipelines.quiet_server import QuietServer
from zprl.server_limits import LOG_LETTERS

ROOT = Path(__file__).parents[2]
FILES, STRANGERS = 128, 300
SERVE = f"""
import resource, socket
from starlette.responses import PlainTextResponse
from pipelines import quiet_server
resource.setrlimit(resource.RLIMIT_NOFILE, ({FILES}, {FILES}))
quiet_server.REQUEST_S = 3.0
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
server = quiet_server.QuietServer(PlainTextResponse("inside"), log_level="error", lifespan="off")
server.run(sockets=[listener])
"""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    log = tmp_path / "log"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with open(log, "wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE], stdout=subprocess.PIPE, stderr=sink, env=env
        )
    yield int(process.stdout.readline()), log
    process.kill()
    process.wait()
    process.stdout.close()


def ask(port: int) -> int:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request("GET", "/")
        return connection.getresponse().status


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nHost: 127"], ids=["idle", "half"])
def test_more_connections_than_files_shut_nobody_out(
    served: tuple[int, Path], begun: bytes
) -> None:
    port, log = served
    assert ask(port) == 200
    with ExitStack() as stack:
        for _ in range(STRANGERS):
            held = stack.enter_context(socket.create_connection(("127.0.0.1", port), 10))
            held.sendall(begun)
        for _ in range(5):
            assert ask(port) == 200
        time.sleep(4)
        held.settimeout(10)
        assert held.recv(1) == b""  # the newest, too, has had its time
    assert ask(port) == 200
    assert log.stat().st_size < 2000


def test_faults_of_the_loop_are_one_plain_line(caplog: pytest.LogCaptureFixture) -> None:
    server = QuietServer(PlainTextResponse("inside"), log_level="error", lifespan="off")
    for _ in range(1000):
        server._failed(None, {"message": "no\n\x1b[31m", "exception": OSError("x" * 10_000)})
    lines = [logging.Formatter().format(record) for record in caplog.records]
    assert len(lines) == 1
    assert lines[0].startswith("failed: no  [31m")
    assert lines[0].isprintable()
    assert len(lines[0]) <= len("failed: ") + LOG_LETTERS
