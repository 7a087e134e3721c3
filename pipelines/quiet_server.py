"""uvicorn for the servers of :mod:`pipelines.servers`: strangers' idle connections shut nobody out.

uvicorn waits without end for the first request of a connection, and asyncio writes a traceback for
every connection that it has no file for.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from functools import partial
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from zprl import terminal
from zprl.session.processes.console.rate_limits import open_files, raise_open_files

REQUEST_S = 10.0
"""Seconds in which a new connection's first request has to arrive."""
SHARE = 0.5
"""Share of the files that may be open that connections take; stores and artifacts need the rest."""
BATCH = 16
"""Connections that are accepted at once: each gets its turn."""
QUEUE = 2048
"""Connections that wait in the kernel."""
QUIET_S, LOG_LETTERS = 10.0, 200
"""Between two lines about what fails outside of requests [s], and how long a line is."""


class QuietConnection(HttpToolsProtocol):
    """One connection; the oldest idle one makes room when there are too many.

    Args:
        all_of_them: The server's connections, oldest first.
        given: What uvicorn gives.
    """

    def __init__(self, all_of_them: dict[QuietConnection, None], **given: Any) -> None:
        super().__init__(**given)
        self._all = all_of_them

    # uvicorn's own is narrower than asyncio's in the same way.
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._all[self] = None
        self.loop.call_later(REQUEST_S, self._close_if_silent)

        if len(self._all) > SHARE * open_files():
            oldest = next((each for each in self._all if each.idle), self)
            oldest.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.pop(self, None)
        super().connection_lost(exc)

    def handle_websocket_upgrade(self) -> None:
        self._all.pop(self, None)
        super().handle_websocket_upgrade()

    @property
    def idle(self) -> bool:
        """Return whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def abort(self) -> None:
        """Close it at once."""
        self._all.pop(self, None)
        self.transport.abort()

    def _close_if_silent(self) -> None:
        if self in self._all and self.cycle is None:
            self.abort()


class QuietServer(uvicorn.Server):
    """uvicorn with :class:`QuietConnection`, and a line at most where asyncio would write tracebacks.

    Args:
        app: The application.
        options: uvicorn's options.
    """

    def __init__(self, app: Any, **options: Any) -> None:
        raise_open_files()
        http: Any = partial(QuietConnection, {})
        super().__init__(uvicorn.Config(app, http=http, backlog=BATCH, **options))
        self._logged_at = -QUIET_S

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().set_exception_handler(self._failed)
        await super().startup(sockets)
        for listening in sockets or ():
            listening.listen(QUEUE)

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if (now := time.monotonic()) - self._logged_at < QUIET_S:
            return
        self._logged_at = now
        text = f"{context.get('message', '')} {context.get('exception') or ''}"
        text = terminal.plain(text)[:LOG_LETTERS]
        logging.getLogger("uvicorn.error").error("failed: %s", text)
