"""The pages that are open: each is one stream of server-sent events, and belongs to a login."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from zprl.session.processes.console.snapshot import ConsoleState

PERIOD_S = 0.2
"""Seconds between two messages of a stream."""
MOST = 16
"""Streams at most."""
STUCK_S = 2.0
"""A page that has not taken a message for so long counts as closed."""


@dataclass(eq=False)
class _Stream:
    """One open stream; ``at`` is when its last message was taken [s]."""

    login: str
    close: Callable[[], None]
    at: float


class Streams:
    """Open streams, oldest first.

    Args:
        most: Largest number of streams.
        clock: Monotonic [s].
    """

    def __init__(self, most: int = MOST, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._open: dict[_Stream, None] = {}

    @property
    def alive(self) -> int:
        """Number of pages that take what they are sent."""
        now = self._clock()
        return sum(now - stream.at < STUCK_S for stream in tuple(self._open))

    @contextmanager
    def opened(self, login: str, close: Callable[[], None]) -> Iterator[Callable[[], None]]:
        """Count a stream while it lasts; yield a function to call after each message taken.

        Where there are too many, the oldest of the same login is closed, or else the oldest of all.

        Args:
            login: Login to which the page belongs.
            close: Ends the stream from outside.
        """
        if len(self._open) >= self._most:
            oldest = next((s for s in self._open if s.login == login), next(iter(self._open)))
            self._open.pop(oldest)
            oldest.close()
        stream = _Stream(login, close, self._clock())
        self._open[stream] = None

        def taken() -> None:
            stream.at = self._clock()

        try:
            yield taken
        finally:
            self._open.pop(stream, None)

    async def events(
        self,
        source: ConsoleState,
        login: str,
        close: Callable[[], None],
        lasts: Callable[[], bool] = lambda: True,
    ) -> AsyncIterator[str]:
        """Yield ages every :data:`PERIOD_S`, and each new snapshot once, while the login lasts."""
        known = -1
        with self.opened(login, close) as taken:
            while lasts():
                known, message = source.message(known)
                yield f"data: {message}\n\n"
                taken()
                await asyncio.sleep(PERIOD_S)
