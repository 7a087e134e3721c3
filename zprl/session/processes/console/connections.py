"""The server's connections: their number, their time limits, and the order in which they close.

A stranger's connection is closed when its request does not arrive in time or others need the place,
and one that has shown a login never is.
"""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any, cast

from starlette.types import ASGIApp

from zprl.server_connections import BATCH, BoundedServer, ServerConnection
from zprl.server_limits import QuietLog, open_files
from zprl.session.processes.console.rate_limits import group

MOST, SHARE = 4096, 0.75
"""Connections at most, and their share of the files that may be open."""
CLOSED = 20
"""Late connections that are closed at once: a thousand that come back together hold others up."""
PACE_S, MOST_PACE_S, STRANGERS = 0.1, 2.0, 200
"""Pause after each answer to a stranger, so long that all of them get so many answers per
second."""
REQUEST_S, ANSWER_S = 5.0, 10.0
"""Seconds that a stranger's request may take to arrive, and to be answered."""
KEEP_ALIVE_S = 75
"""Seconds that an unused connection of a login is kept: its e-stop need not wait for a new one."""
DEAD_MS = 5000
"""Milliseconds of silence after which the kernel gives up a peer that has vanished."""
MOST_WAITING = 16 * 1024
"""Bytes of a stranger that are kept until its turn comes."""
MOST_HEAD, MOST_HEADERS = 16 * 1024, 64
"""Bytes of a request line and headers, or of trailers, and how many headers and trailers."""


class Connections:
    """All connections of a server.

    Args:
        known: Returns whether the beginning of a request shows a login.
        most: Largest number of connections; by default as many as open files allow.
    """

    def __init__(self, known: Callable[[bytes], bool], most: int | None = None) -> None:
        self.known = known
        self.most = most or max(BATCH, min(MOST, int(SHARE * open_files()) - BATCH))
        self._strangers: dict[str, dict[Connection, None]] = {}
        self._trusted: dict[Connection, None] = {}
        self._queue: dict[str, dict[Connection, None]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, connection: Connection) -> None:
        """Add a new connection; when there are too many, close the largest sender's oldest."""
        self._strangers.setdefault(connection.sender, {})[connection] = None
        self._count += 1
        if self._count > self.most:
            self._close_one()

    def remove(self, connection: Connection) -> None:
        """Forget a connection; harmless when it is forgotten already."""
        mine = self._trusted if connection.trusted else self._strangers.get(connection.sender, {})
        if connection in mine:
            del mine[connection]
            self._count -= 1
            if not connection.trusted and not mine:
                del self._strangers[connection.sender]

    def trust(self, connection: Connection) -> None:
        """Keep a connection, whatever strangers do: it has shown a login."""
        if connection.trusted or connection not in self._strangers.get(connection.sender, {}):
            return

        self.remove(connection)
        connection.trusted = True
        self._trusted[connection] = None
        self._count += 1

    def _close_one(self) -> None:
        """Close a stranger's connection, or where there is none the oldest unused login's."""
        if self._strangers:
            crowd = max(self._strangers.values(), key=len)
            oldest = next(iter(crowd))
        else:
            oldest = next((c for c in self._trusted if not c.busy), next(iter(self._trusted)))
        oldest.abort()

    def queue(self, connection: Connection) -> None:
        """Serve a stranger in turn: one whenever the loop has served all who have logged in.

        Senders take turns, so that a flood from one address holds up no other.
        """
        idle = not self._queue
        self._queue.setdefault(connection.sender, {})[connection] = None
        if idle:
            connection.loop.call_soon(self._serve_one)

    def _serve_one(self) -> None:
        """Serve the oldest connection of the sender whose turn it is."""
        sender = next(iter(self._queue))
        waiting = self._queue.pop(sender)
        connection = next(iter(waiting))
        del waiting[connection]

        if waiting:
            # Its sender goes to the end of the queue.
            self._queue[sender] = waiting
        try:
            connection.take()
        finally:
            if self._queue:
                connection.loop.call_soon(self._serve_one)

    def pause(self) -> float:
        """Return how long a stranger waits for its next answer [s]."""
        strangers = self._count - len(self._trusted)
        pace = min(MOST_PACE_S, max(PACE_S, strangers / STRANGERS))
        # At random, because a hundred must not go on at one moment.
        return pace * random.uniform(0.5, 1.5)  # noqa: S311 - not a secret

    def sweep(self, now: float) -> None:
        """Close strangers' connections whose request or answer takes too long."""
        late = (c for crowd in self._strangers.values() for c in crowd if c.late(now))
        for connection in list(islice(late, CLOSED)):
            connection.abort()

    def close(self) -> None:
        """Close all connections."""
        strangers = [c for crowd in self._strangers.values() for c in crowd]
        for connection in [*self._trusted, *strangers]:
            connection.abort()


class OneWrite:
    """A transport that joins the writes of one turn of the loop.

    uvicorn writes an answer in two parts; each would wake its reader.

    Args:
        transport: The real transport.
        loop: The server's event loop.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send ``data`` in the loop's next turn."""
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)

    def close(self) -> None:
        """Send the rest, then close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        parts, self._parts = self._parts, []
        if parts:
            self._transport.write(b"".join(parts))


class Connection(ServerConnection):
    """One connection, known to the application as ``request.state.connection``."""

    def __init__(self, connections: Connections, **given: Any) -> None:
        super().__init__(**given)
        self._all = connections
        self.trusted = False
        self.sender = ""
        self._received = bytearray()
        self._ended = False
        self._rests = False
        self._judged: Any = None
        self._head = 0
        self._since = time.monotonic()
        self.app_state = {**self.app_state, "connection": self}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        whole = OneWrite(cast("asyncio.Transport", transport), self.loop)
        super().connection_made(cast("asyncio.Transport", whole))
        self.sender = group(self.client[0]) if self.client else ""
        connected = transport.get_extra_info("socket")
        # Else an answer waits 40 ms for the one before.
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_MS)
        self._all.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self.trusted and self._all.known(data):
            self.trust()
        if self.trusted and not self._received:
            self._parse(data)
            return

        self._received += data
        if len(self._received) > MOST_WAITING:
            self.abort()
        elif not self._rests:
            self._all.queue(self)

    def take(self) -> None:
        """Process what a stranger has sent, when its turn has come."""
        received, self._received = bytes(self._received), bytearray()
        if received and not self.transport.is_closing():
            self._parse(received)

    def _parse(self, data: bytes) -> None:
        """Give bytes to the parser, which keeps headers without limit until they end."""
        self._head += len(data)
        super().data_received(data)
        if self._head > MOST_HEAD:
            self.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self.headers) >= MOST_HEADERS:
            raise ValueError("too many headers")  # uvicorn answers 400
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._head = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._head = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._head = 0
        super().on_message_complete()

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn's never keeps it open
        self._ended = True
        # A request counts, even if its sender does not wait for the answer.
        return self.busy or bool(self._received)

    def on_response_complete(self) -> None:
        self._since = time.monotonic()
        # No browser sends a second request before the first is answered.
        two_requests = not self.trusted and self.pipeline
        if self._ended or two_requests:
            self.transport.close()
        super().on_response_complete()
        if not (self.trusted or self.transport.is_closing()):
            self._rests = True
            self.loop.call_later(self._all.pause(), self._go_on)

    def _go_on(self) -> None:
        self._rests = False
        if self._received and not self.transport.is_closing():
            self._all.queue(self)

    def late(self, now: float) -> bool:
        """Return whether a request takes too long to arrive or to be answered.

        To be called repeatedly: an answer's time counts from the first call during it.
        """
        if self._received and not self._rests:
            return False  # it waits for its turn
        if self.busy and self.cycle is not self._judged:
            self._judged = self.cycle
            self._since = now
        return now - self._since > (ANSWER_S if self.busy else REQUEST_S)

    def trust(self) -> None:
        """Keep this connection: see :meth:`Connections.trust`."""
        self._all.trust(self)

    def abort(self) -> None:
        self._all.remove(self)
        self._received.clear()  # its own references keep a closed connection for a while
        super().abort()

    def _should_upgrade(self) -> bool:
        # The application refuses such a request, without a line in the log.
        return False


class Server(BoundedServer):
    """The page's server, with :class:`Connections`.

    Args:
        app: The application.
        known: See :class:`Connections`.
        log: Receives lines about faults in the loop.
    """

    def __init__(self, app: ASGIApp, known: Callable[[bytes], bool], log: QuietLog) -> None:
        self.connections = Connections(known)
        super().__init__(
            app,
            partial(Connection, self.connections),
            log,
            ws="none",
            timeout_keep_alive=KEEP_ALIVE_S,
            log_level="error",  # a warning per broken request would fill the disk
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,  # a stranger could claim another address
            lifespan="off",
            timeout_graceful_shutdown=1,
        )

    async def on_tick(self, counter: int) -> bool:
        self.connections.sweep(time.monotonic())
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Streams never end by themselves.
        self.connections.close()
        await asyncio.sleep(0)
        await super().shutdown(sockets)
