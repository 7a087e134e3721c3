"""Who may see the page and press its buttons.

On loopback everybody on this machine may.  Bound to another address, a token is demanded (``ZPRL_CONSOLE_TOKEN``): once in a form, which
sets a cookie that scripts cannot read, or per request as ``Authorization: Bearer``; never in an address, which histories and logs keep.
Without TLS the token can be read on the wire: put a TLS proxy or an SSH tunnel in front where the network is not yours.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import os
import time
from collections.abc import Callable, Mapping
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from zprl.errors import ConfigError

TOKEN = "ZPRL_CONSOLE_TOKEN"  # noqa: S105 (the variable's name)
MIN_TOKEN = 16
COOKIE = "zprl_console"
COOKIE_S = 12 * 3600
MAX_BODY = 2048
BODY_S = 5.0
"""Seconds that a body may take to arrive."""
OPEN_PATHS = {"/login", "/page.css", "/icon.svg"}

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # with `no-referrer` the login form's origin would be `null`
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def token_for(host: str, environ: Mapping[str, str] = os.environ) -> str | None:
    """The token to demand from those who come to ``host``; ``None``: none, on loopback.

    Raises:
        ConfigError: another address without a token, or one that is too short.
    """
    token = environ.get(TOKEN) or None
    if token is None and not is_loopback(host):
        raise ConfigError(
            f"the console at {host} could be reached by others", remedy=f"set {TOKEN} to at least {MIN_TOKEN} characters, or bind 127.0.0.1"
        )
    if token is not None:
        check_token(token)
    return token


def check_token(token: str) -> None:
    """Refuse a token that could be guessed.

    Raises:
        ConfigError: it is too short.
    """
    if len(token) < MIN_TOKEN:
        raise ConfigError(
            f"{TOKEN} has fewer than {MIN_TOKEN} characters", remedy='make one: python -c "import secrets; print(secrets.token_urlsafe())"'
        )


class Bucket:
    """A rate limit: ``rate`` per second, ``burst`` at once.

    Args:
        rate: [1/s].
        burst: How many at once after a rest.
        clock: Monotonic [s].
    """

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate, self.burst, self.clock = rate, burst, clock
        self._left, self._at = float(burst), clock()

    def take(self) -> bool:
        """Whether one more is allowed now."""
        now = self.clock()
        self._left = min(self.burst, self._left + (now - self._at) * self.rate)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Gate:
    """The token, compared in constant time.

    Args:
        token: ``None`` lets everybody in.
    """

    def __init__(self, token: str | None) -> None:
        if token is not None:
            check_token(token)
        self._token = token.encode() if token else None
        # The cookie does not hold the token, and is good after a restart with the same one.
        self.cookie = hmac.new(self._token, b"zprl console cookie", hashlib.sha256).hexdigest() if self._token else ""

    def knows(self, token: str) -> bool:
        """Whether this is the token."""
        return self._token is None or hmac.compare_digest(token.encode("utf-8", "surrogatepass"), self._token)

    def by_header(self, headers: Headers) -> bool:
        """Whether a program brought the token: no page of somebody else's can make a browser do that."""
        kind, _, token = headers.get("authorization", "").partition(" ")
        return self._token is not None and kind.lower() == "bearer" and self.knows(token.strip())

    def admits(self, headers: Headers) -> bool:
        """Whether a request may see and do anything."""
        if self._token is None or self.by_header(headers):
            return True
        try:
            found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return found is not None and hmac.compare_digest(found.value.encode("utf-8", "surrogatepass"), self.cookie.encode())


class Guard:
    """Everything that is refused before a route is asked: foreign hosts and origins, long bodies, strangers.

    Args:
        app: The application.
        gate: The token.
        names: Host names, besides ``localhost`` and addresses, under which the page is reached.
        any_address: Whether addresses other than loopback may be named: when bound to one.
    """

    def __init__(self, app: ASGIApp, gate: Gate, names: tuple[str, ...] = (), any_address: bool = False) -> None:
        self.app, self.gate, self.names, self.any_address = app, gate, {name.lower() for name in names}, any_address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # no websockets here
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal, replay = await self._judge(scope, receive)
        if refusal is not None:
            await refusal(scope, receive, with_headers)
        else:
            await self.app(scope, replay, with_headers)

    async def _judge(self, scope: Scope, receive: Receive) -> tuple[ASGIApp | None, Receive]:
        headers, path, method = Headers(scope=scope), scope["path"], scope["method"]
        if not self._host_ok(headers):  # a page elsewhere that made its own name point here (DNS rebinding)
            return _no(421, "this host name is not served here"), receive
        if method not in ("GET", "HEAD", "POST"):
            return _no(405, "no such method"), receive
        if method == "POST" and not self._origin_ok(headers):  # a page elsewhere that posts here (CSRF)
            return _no(403, "the request came from another site"), receive
        if path not in OPEN_PATHS and not self.gate.admits(headers):
            wants_page = method != "POST" and path == "/"
            return (RedirectResponse("/login", 303) if wants_page else _no(401, "log in first")), receive
        if method == "POST":
            body = await _read_body(headers, receive)
            return (body, receive) if not isinstance(body, bytes) else (None, _replay(body, receive))
        return None, receive

    def _host_ok(self, headers: Headers) -> bool:
        if len(headers.getlist("host")) != 1:
            return False
        try:
            name = urlsplit(f"//{headers['host']}").hostname or ""
        except ValueError:
            return False
        if is_loopback(name) or name in self.names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return self.any_address  # an address cannot be rebound

    def _origin_ok(self, headers: Headers) -> bool:
        origin = headers.get("origin")
        if origin is None:
            return self.gate.by_header(headers)
        return origin in (f"http://{headers['host']}", f"https://{headers['host']}")


def _no(status: int, text: str) -> JSONResponse:
    return JSONResponse({"status": "refused", "text": text}, status)


async def _read_body(headers: Headers, receive: Receive) -> bytes | JSONResponse:
    """The whole body, or what to answer instead."""
    too_long = _no(413, f"a body has at most {MAX_BODY} bytes")
    length = headers.get("content-length", "0")
    if not length.isdecimal() or int(length[:12]) > MAX_BODY:
        return too_long
    body = b""
    try:
        async with asyncio.timeout(BODY_S):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    return _no(400, "the connection was lost")
                body += message.get("body", b"")
                if len(body) > MAX_BODY:
                    return too_long
                if not message.get("more_body"):
                    return body
    except TimeoutError:
        return _no(408, "the body did not arrive")


def _replay(body: bytes, receive: Receive) -> Receive:
    """Give a body that was read already to the application; then whatever else comes."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def set_cookie(response: RedirectResponse, gate: Gate, request: Request) -> None:
    """Let this browser in until the cookie ends."""
    response.set_cookie(
        COOKIE, gate.cookie, max_age=COOKIE_S, path="/", httponly=True, samesite="strict", secure=request.url.scheme == "https"
    )
