"""Refusals before a route is asked: foreign hosts and origins, long bodies, strangers.

Everything but the e-stop needs a login (:mod:`zprl.session.processes.console.access`), on loopback,
too.  Without TLS, token and cookie can be read on the wire: put a TLS proxy or an SSH tunnel in
front where the network is not yours.
"""

from __future__ import annotations

import asyncio
import ipaddress
import random

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from zprl.request_checks import from_page, is_loopback, named_host
from zprl.session.processes.console.access import Access

MAX_BODY = 2048
"""Bytes of a body at most."""
BODY_S = 5.0
"""Seconds that a body may take to arrive, and up to twice as many."""
OPEN_PATHS = {"/login", "/login.js", "/stop.js", "/page.css", "/icon.svg"}
INPUT = "/input"
"""Open, too, but for the e-stop only: the route knows which press it is."""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # with `no-referrer` the login form's origin would be `null`
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}
RAW_HEADERS = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
"""Headers as bytes: Starlette's own classes take a tenth of an answer's time to encode them."""


class RequestGuard:
    """Middleware that refuses requests, and gives the routes ``request.state.login``.

    Args:
        app: The application.
        access: Judges logins.
        names: Host names, besides ``localhost`` and addresses, under which the page is reached.
        any_address: Whether addresses other than loopback may be named: when bound to one.
    """

    def __init__(
        self,
        app: ASGIApp,
        access: Access,
        names: tuple[str, ...] = (),
        *,
        any_address: bool = False,
    ) -> None:
        self.app = app
        self.access = access
        self.names = {name.lower() for name in names}
        self.any_address = any_address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            # There are no websockets here.
            await send({"type": "websocket.close", "code": 1008})
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name for name, _ in message["headers"]}
                message["headers"] += [header for header in RAW_HEADERS if header[0] not in own]
            await send(message)

        refusal, replay = await self._judge(scope, receive)
        if refusal is not None:
            await refusal(scope, receive, with_headers)
        else:
            await self.app(scope, replay, with_headers)

    async def _judge(self, scope: Scope, receive: Receive) -> tuple[ASGIApp | None, Receive]:
        """Return a refusal, or ``None``, and the receiver with which the application goes on."""
        headers = Headers(scope=scope)
        refusal = self._refused_form(headers, scope["method"])
        if refusal is None:
            refusal = self._refused_login(headers, scope)
        if refusal is not None or scope["method"] != "POST":
            return refusal, receive

        body = await _read_body(headers, receive)
        if isinstance(body, bytes):
            return None, _replay(body, receive)
        return body, receive

    def _refused_form(self, headers: Headers, method: str) -> Response | None:
        """Refuse foreign hosts, upgrades, other methods and foreign origins."""
        # A page elsewhere can make its own name point here (DNS rebinding).
        if not self._host_ok(headers):
            return no(421, "this host name is not served here")
        if "upgrade" in headers:  # the parser drops the body of such a request
            return no(403, "no other protocol is spoken here", close=True)
        if method not in ("GET", "POST"):
            return no(405, "no such method")
        # A page elsewhere can post here (CSRF).
        if method == "POST" and not self._origin_ok(headers):
            return no(403, "the request came from another site")
        return None

    def _refused_login(self, headers: Headers, scope: Scope) -> Response | None:
        """Keep the login of a request as its state; refuse a stranger all but the open paths."""
        path, method = scope["path"], scope["method"]
        login = self.access.login(headers)
        scope.setdefault("state", {})["login"] = login
        if login and (connection := scope["state"].get("connection")):
            connection.trust()
        if login or path in OPEN_PATHS or (path, method) == (INPUT, "POST"):
            return None

        status, text = self.access.refusal(headers, peer(scope))
        wants_page = method != "POST" and path == "/" and status == 401
        return RedirectResponse("/login", 303) if wants_page else no(status, text)

    def _host_ok(self, headers: Headers) -> bool:
        """Return whether a request names one host, under which the page is reached."""
        named = named_host(headers.raw)
        if named is None:
            return False

        name, _ = named
        if is_loopback(name) or name in self.names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        # An address, unlike a name, cannot be rebound.
        return self.any_address

    def _origin_ok(self, headers: Headers) -> bool:
        """Return whether a request comes from the page itself, or from a program with the token."""
        same = from_page(headers.raw, schemes=("http", "https"))
        return self.access.by_header(headers) if same is None else same


def peer(scope: Scope) -> str:
    """Return the address that a request came from."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def no(status: int, text: str, *, close: bool = False) -> JSONResponse:
    """Return a refusal, after which the connection is closed where ``close`` is true."""
    headers = {"connection": "close"} if close else None
    return JSONResponse({"status": "refused", "text": text}, status, headers)


async def _read_body(headers: Headers, receive: Receive) -> bytes | JSONResponse:
    """Return the whole body, or the answer to give instead."""
    length = headers.get("content-length", "0")
    if not length.isdecimal() or int(length[:12]) > MAX_BODY:
        return _too_long()

    body = bytearray()
    # At random, because a thousand must not end at one moment.
    patience = BODY_S * random.uniform(1, 2)  # noqa: S311 - not a secret
    try:
        async with asyncio.timeout(patience):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    return no(400, "the connection was lost")
                body += message.get("body", b"")
                if len(body) > MAX_BODY:
                    return _too_long()
                if not message.get("more_body"):
                    return bytes(body)
    except TimeoutError:
        return no(408, "the body did not arrive")


def _too_long() -> JSONResponse:
    return no(413, f"a body has at most {MAX_BODY} bytes")


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a receiver that gives a body that was read already, then further messages."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
