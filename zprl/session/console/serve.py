"""Runs the page's application: in this process until it is asked to stop, or beside a process's own loop."""

from __future__ import annotations

import ipaddress
import os
import socket
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

from zprl.errors import ConfigError, EnvironmentProblem
from zprl.session.console.app import SendInput, make_app
from zprl.session.console.security import is_loopback, token_for
from zprl.session.console.state import ConsoleState

if TYPE_CHECKING:
    import uvicorn

LOOPBACK = "127.0.0.1"
STOP_S = 5.0


class Console:
    """The page, served by a thread of this process while the context lasts.

    Args:
        source: What to show.
        send: Where presses go; called in the server's thread, so it must hand over to whoever owns the sockets, for example by a queue.
        host: Address to bind.  Another than loopback demands a token.
        port: 0: any free one; see :attr:`url`.
        names: Further host names under which the page is reached.
        environ: Where the token stands.

    Raises:
        ConfigError: not an address, or another than loopback without a good token.
        EnvironmentProblem: the port is taken.
    """

    def __init__(
        self,
        source: ConsoleState,
        send: SendInput,
        *,
        host: str = LOOPBACK,
        port: int = 0,
        names: tuple[str, ...] = (),
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        import uvicorn

        host = LOOPBACK if host == "localhost" else host
        try:
            version = ipaddress.ip_address(host).version
        except ValueError as error:
            raise ConfigError(f"the console's host {host!r} is not an address", remedy="give one, such as 127.0.0.1") from error
        app = make_app(source, send, token=token_for(host, environ), names=names, any_address=not is_loopback(host))
        try:
            self._socket = socket.create_server((host, port), family=socket.AF_INET6 if version == 6 else socket.AF_INET)
        except OSError as error:
            raise EnvironmentProblem(
                f"the console cannot be served at {host}:{port}: {error.strerror}", remedy="give another port"
            ) from error
        number = self._socket.getsockname()[1]
        self.url = f"http://[{host}]:{number}/" if version == 6 else f"http://{host}:{number}/"
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,  # nobody may say that he is somebody else
            lifespan="off",
            timeout_graceful_shutdown=1,  # streams never end by themselves
        )
        self._server: uvicorn.Server = uvicorn.Server(config)
        self._thread: threading.Thread | None = None

    @property
    def alive(self) -> bool:
        """Whether the thread serves."""
        return self._thread is not None and self._thread.is_alive()

    def run(self) -> None:
        """Serve until SIGINT or SIGTERM; in the main thread."""
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._socket.close()

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.run, name="console", daemon=True)
        self._thread.start()
        return self  # the socket listens already: whoever comes before the server runs, waits

    def __exit__(self, *exc: object) -> None:
        self._server.should_exit = True
        self._thread.join(STOP_S)


def run_console(host: str, port: int, source: ConsoleState, send: SendInput, *, names: tuple[str, ...] = ()) -> None:
    """Serve the page until asked to stop; see :class:`Console`."""
    Console(source, send, host=host, port=port, names=names).run()
