"""The guard before every server that zprl starts (ASGI): Host, Origin, and a login by link.

MLflow has no login, so the guard demands one: a cookie, or ``Authorization: Bearer``.  Prefect
checks a login itself; its page keeps it in the browser's storage, and the guard puts it there.  The
cookie of a Prefect server opens only the page: without it Prefect's own box would ask for a login
that nobody knows.
It sees no other login than its own, and what a server raises is one line in the log.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import secrets
import time
from collections.abc import Mapping
from importlib.resources import files
from typing import TYPE_CHECKING

from zprl import durable, terminal
from zprl.errors import DataError
from zprl.local_servers import HOST
from zprl.request_checks import (
    RawHeaders,
    bearer_token,
    cookie_value,
    from_page,
    named_host,
    only,
    same_secret,
)

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOGIN, SCRIPT, TICKET = "/zprl/login", "/zprl/login.js", "/zprl/ticket"
"""Paths of the guard's own, on every server."""
TICKET_S = 3600.0
WEBSOCKET_S = 10.0
"""Seconds in which a websocket's first message, its login, has to arrive."""
BODY_BYTES = 2000
LOG_LETTERS = 200
"""Longest that a failed request is in the log."""
POLICY = ("default-src 'none'", "script-src 'self'", "connect-src 'self'", "frame-ancestors 'none'")
HEADERS = {
    "content-security-policy": "; ".join(POLICY),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
HELP = (
    "Run `zprl ui --link` in the project's folder: it prints links that open its pages.  "
    'For programs: `eval "$(zprl ui --env)"`.'
)
_HEALTH = "/health"
_FILES = {LOGIN: ("login.html", "text/html"), SCRIPT: ("login.js", "text/javascript")}

log = logging.getLogger(__name__)


class ServerGuard:
    """Middleware that passes on what comes from this machine's own pages and clients.

    Args:
        app: The server.
        port: Where it listens; another Host or Origin is refused.
        login: The secret of this start.
        storage: What a browser that logs in keeps in its local storage.  ``None``: nothing, and
            every request needs the cookie or the login.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        port: int,
        login: str,
        storage: Mapping[str, str] | None = None,
    ) -> None:
        self._app = app
        self._url = f"http://{HOST}:{port}"
        self._hosts = {(HOST, str(port)), ("localhost", str(port))}
        self._login = login
        self._storage = storage
        self._cookie_name = f"zprl-{port}"  # browsers send a cookie to all ports of a host
        self._cookie = secrets.token_urlsafe(32)
        self._tickets: dict[str, float] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return

        headers = scope["headers"]
        path = scope["path"]
        if (problem := self._foreign(scope, headers)) is not None:
            await _refuse(scope, send, *problem)
        elif path in (LOGIN, SCRIPT, TICKET) and scope["type"] == "http":
            await self._own_page(scope, headers, receive, send)
        elif self._needs_login(scope, headers) and not self._logged_in(headers):
            text = f"This page needs a login.  {HELP}"
            await _refuse(scope, send, 401, text, {"www-authenticate": "Bearer"})
        elif self._storage is not None and not self._basic(headers):
            await _refuse(scope, send, 401, f"This is not the login.  {HELP}")
        else:
            heard = _in_time(receive) if scope["type"] == "websocket" else receive
            await _in_one_line(self._app, scope, heard, _unframed(send))

    def _needs_login(self, scope: Scope, headers: RawHeaders) -> bool:
        """Return whether the guard demands a login: for all of MLflow, and for Prefect's page."""
        if self._storage is None:
            return bool(scope["path"] != _HEALTH)
        page = scope.get("method") == "GET" and "text/html" in (only(headers, "accept") or "")
        return page and only(headers, "authorization") is None

    # -- who asks ----------------------------------------------------------------------------------

    def _foreign(self, scope: Scope, headers: RawHeaders) -> tuple[int, str] | None:
        """Return status and reason where a request is not this server's, or another site's."""
        if named_host(headers) not in self._hosts:
            return 421, f"This server is {self._url}."

        other = 403, "Another site's page may not use this server."
        if from_page(headers) is False:
            return other
        # Browsers send no Origin with images, scripts and links.  Only a link that a person follows
        # may lead here from elsewhere.
        if only(headers, "sec-fetch-site") in ("cross-site", "same-site"):
            asked = (only(headers, "sec-fetch-mode"), only(headers, "sec-fetch-dest"))
            link = scope.get("method") == "GET" and asked == ("navigate", "document")
            return None if link else other
        return None

    def _logged_in(self, headers: RawHeaders) -> bool:
        return self._bears(headers) or self._has_cookie(headers)

    def _has_cookie(self, headers: RawHeaders) -> bool:
        return same_secret(cookie_value(only(headers, "cookie"), self._cookie_name), self._cookie)

    def _bears(self, headers: RawHeaders) -> bool:
        return same_secret(bearer_token(only(headers, "authorization")), self._login)

    def _basic(self, headers: RawHeaders) -> bool:
        """Return whether a request brings Prefect's login or none; Prefect fails at some others."""
        given = only(headers, "authorization")
        known = base64.b64encode(self._login.encode()).decode()
        return given is None or same_secret(given, f"Basic {known}")

    # -- logging in --------------------------------------------------------------------------------

    async def _own_page(
        self,
        scope: Scope,
        headers: RawHeaders,
        receive: Receive,
        send: Send,
    ) -> None:
        method = scope["method"]
        path = scope["path"]
        if method == "GET" and path in _FILES:
            name, kind = _FILES[path]
            await _answer(send, 200, files("pipelines").joinpath(name).read_bytes(), kind)
        elif method == "POST" and path == LOGIN and only(headers, "origin") is not None:
            await self._redeem(await _body(receive), headers, send)
        elif method == "POST" and path == TICKET and self._bears(headers):
            await _answer_json(send, 200, {"ticket": self._new_ticket()})
        else:
            await _refuse(scope, send, 403, f"This needs a link that works once.  {HELP}")

    def _new_ticket(self) -> str:
        now = time.monotonic()
        self._tickets = {ticket: end for ticket, end in self._tickets.items() if end > now}
        ticket = secrets.token_urlsafe(32)
        self._tickets[ticket] = now + TICKET_S
        return ticket

    async def _redeem(self, body: bytes, headers: RawHeaders, send: Send) -> None:
        """Log a browser in, once for each ticket; one that is logged in gets nothing new."""
        try:
            end = self._tickets.pop(str(durable.parse_json(body, "a ticket")["ticket"]), 0.0)
        except (DataError, KeyError, TypeError):
            end = 0.0

        if end > time.monotonic():
            cookie = f"{self._cookie_name}={self._cookie}; Path=/; HttpOnly; SameSite=Strict"
            await _answer_json(send, 200, {"storage": self._storage or {}}, {"set-cookie": cookie})
        elif self._has_cookie(headers):  # it follows a used link again
            await _answer_json(send, 200, {"storage": {}})
        else:
            await _answer_json(send, 403, {})


async def _body(receive: Receive) -> bytes:
    data = b""
    more = True
    while more and len(data) <= BODY_BYTES:
        message = await receive()
        data += message.get("body", b"")
        more = bool(message.get("more_body", False))
    return data


async def _in_one_line(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request that the server fails at; a traceback for each would fill the disk."""
    begun = False

    async def watched(message: Message) -> None:
        nonlocal begun
        begun = begun or message["type"] == "http.response.start"
        await send(message)

    try:
        await app(scope, receive, watched)
    except Exception as error:  # noqa: BLE001 - one request's failure ends no server
        text = f"{scope['type']} {scope['path']!r}: {error!r}"
        text = terminal.plain(text)[:LOG_LETTERS]
        # No traceback: a client could fill the log with them.
        log.error("failed: %s", text)  # noqa: TRY400
        if not begun:
            await _refuse(scope, send, 500, "The server failed; its log says more.")


def _in_time(receive: Receive) -> Receive:
    """Return a websocket's messages; it counts as lost when the one with its login is late."""
    received = 0

    async def wrapped() -> Message:
        nonlocal received
        received += 1
        try:
            async with asyncio.timeout(WEBSOCKET_S if received == 2 else None):  # 1: `connect`
                return await receive()
        except TimeoutError:
            return {"type": "websocket.disconnect", "code": 1008}

    return wrapped


def _unframed(send: Send) -> Send:
    """Add to every answer that no other site may show it in a frame."""

    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            policy = (b"content-security-policy", b"frame-ancestors 'self'")
            message["headers"] = [*message.get("headers", []), policy]
        await send(message)

    return wrapped


async def _refuse(
    scope: Scope,
    send: Send,
    status: int,
    text: str,
    headers: Mapping[str, str] | None = None,
) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
    else:
        await _answer(send, status, f"{text}\n".encode(), "text/plain", headers)


async def _answer_json(
    send: Send,
    status: int,
    value: object,
    headers: Mapping[str, str] | None = None,
) -> None:
    await _answer(send, status, json.dumps(value).encode(), "application/json", headers)


async def _answer(
    send: Send,
    status: int,
    body: bytes,
    kind: str,
    headers: Mapping[str, str] | None = None,
) -> None:
    facts = {"content-type": f"{kind}; charset=utf-8", "content-length": str(len(body))}
    pairs = {**HEADERS, **facts, **(headers or {})}.items()
    encoded = [(key.encode(), value.encode()) for key, value in pairs]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
