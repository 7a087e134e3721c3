"""uvicorn for the servers of :mod:`pipelines.servers`: idle connections shut nobody out."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any

from starlette.types import ASGIApp

from zprl import server_connections, terminal
from zprl.server_connections import ServerConnection
from zprl.server_limits import QuietLog, open_files, raise_open_files

REQUEST_S = 10.0
"""Seconds in which a new connection's first request has to arrive."""
SHARE = 0.5
"""Share of the files that may be open that connections take; stores and artifacts need the rest."""

log = logging.getLogger(__name__)


class QuietConnection(ServerConnection):
    """One connection; the oldest idle one makes room when there are too many.

    Args:
        all_of_them: The server's connections, oldest first.
        **given: Arguments of uvicorn.
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
            oldest = next((each for each in self._all if not each.busy), self)
            oldest.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.pop(self, None)
        super().connection_lost(exc)

    def handle_websocket_upgrade(self) -> None:
        self._all.pop(self, None)
        super().handle_websocket_upgrade()

    def abort(self) -> None:
        self._all.pop(self, None)
        super().abort()

    def _close_if_silent(self) -> None:
        if self in self._all and self.cycle is None:
            self.abort()


class QuietServer(server_connections.BoundedServer):
    """uvicorn with :class:`QuietConnection`.

    Args:
        app: The application.
        **options: Of :class:`uvicorn.Config`.
    """

    def __init__(self, app: ASGIApp, **options: Any) -> None:
        raise_open_files()
        quiet = QuietLog(lambda line: log.error(terminal.plain(line)), lead="failed: ")
        super().__init__(app, partial(QuietConnection, {}), quiet, **options)
