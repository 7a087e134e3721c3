"""Run the page's application: until it is asked to stop, or in a thread beside another loop."""

from __future__ import annotations

import logging
import socket
import threading
from typing import Self

from zprl.request_checks import is_loopback
from zprl.server_limits import QuietLog
from zprl.session.processes.console.access import Access, Secrets
from zprl.session.processes.console.app import SendInput, make_app
from zprl.session.processes.console.listen import listen
from zprl.session.processes.console.snapshot import ConsoleState
from zprl.session.processes.console.streams import Streams

LOOPBACK = "127.0.0.1"
STOP_S = 5.0
"""Seconds to wait for the server's end."""

log = logging.getLogger(__name__)


class Console:
    """The page, served by a thread of this process while the context lasts.

    Args:
        source: State that the page shows.
        send: Takes the presses; called in the server's thread, so it must hand them to the thread
            that owns the sockets, for example by a queue.
        access: Decides who may do more than press the e-stop; by default with secrets of its own.
        host: Address to bind.
        port: 0: any free one; see :attr:`url`.
        names: Further host names under which the page is reached.
        listening: Socket to serve instead of one at ``host`` and ``port``; closed with this
            console.

    Raises:
        ConfigError: not an address.
        EnvironmentProblem: the port is taken.
    """

    def __init__(
        self,
        source: ConsoleState,
        send: SendInput,
        *,
        access: Access | None = None,
        host: str = LOOPBACK,
        port: int = 0,
        names: tuple[str, ...] = (),
        listening: socket.socket | None = None,
    ) -> None:
        from zprl.session.processes.console.connections import Server

        host = LOOPBACK if host == "localhost" else host
        self.access = access or Access(Secrets.make())
        self._socket = listening or listen(host, port)
        self._streams = Streams()
        self._thread: threading.Thread | None = None

        app = make_app(
            source,
            send,
            self.access,
            streams=self._streams,
            names=names,
            any_address=not is_loopback(host),
        )
        self._server = Server(app, self.access.known, QuietLog(log.warning, lead="console: "))

        shown_host = f"[{host}]" if self._socket.family == socket.AF_INET6 else host
        self.url = f"http://{shown_host}:{self._socket.getsockname()[1]}/"

    @property
    def alive(self) -> bool:
        """True while the thread serves."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def pages(self) -> int:
        """Number of open pages of people who have logged in."""
        return self._streams.alive

    def link(self) -> str:
        """Return a one-time link that logs a browser in."""
        return self.access.link(self.url)

    def run(self) -> None:
        """Serve until SIGINT or SIGTERM; in the main thread."""
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._socket.close()

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.run, name="console", daemon=True)
        self._thread.start()
        # The socket listens already: a request that comes before the server runs waits.
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(STOP_S)
