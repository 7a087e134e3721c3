"""Connections and server of uvicorn, as every server of ours extends them.

uvicorn waits for ever for the first request of a connection and takes any number of them, and
asyncio writes a traceback for every connection that it has no file for.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from zprl.server_limits import QuietLog

BATCH = 16
"""Connections that are accepted at once: few, so that those before them are served in between."""
QUEUE = 2048
"""Connections that wait in the kernel."""


class ServerConnection(HttpToolsProtocol):
    """One connection; a subclass decides when it is closed."""

    @property
    def busy(self) -> bool:
        """True while a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def abort(self) -> None:
        """Close the connection at once."""
        self.transport.abort()


class BoundedServer(uvicorn.Server):
    """uvicorn with connections of ours, and one line where asyncio would write tracebacks.

    Args:
        app: The application.
        connection: Makes a connection of uvicorn's arguments.
        log: Receives lines about faults in the loop.
        **options: Of :class:`uvicorn.Config`.
    """

    def __init__(
        self,
        app: ASGIApp,
        connection: Callable[..., ServerConnection],
        log: QuietLog,
        **options: Any,
    ) -> None:
        http: Any = connection  # uvicorn's type wants a class
        super().__init__(uvicorn.Config(app, http=http, backlog=BATCH, **options))
        self._log = log

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().set_exception_handler(self._failed)
        await super().startup(sockets)
        for listening in sockets or ():
            listening.listen(QUEUE)

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log a fault of the loop in one line, also when it comes a million times."""
        self._log(f"{context.get('message', '')} {context.get('exception') or ''}")
