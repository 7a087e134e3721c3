"""Checks of HTTP requests that every server of ours makes: Host, Origin, cookies and secrets.

They work on what a server has received and know neither its routes nor its logins.
"""

from __future__ import annotations

import functools
import hmac
import ipaddress
import re
from collections.abc import Sequence
from http.cookies import CookieError, SimpleCookie

RawHeaders = Sequence[tuple[bytes, bytes]]
"""Pairs of lower-case name and value, as ASGI gives them."""
_HOST = re.compile(r"(\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::(\d{1,5}))?")


def only(headers: RawHeaders, name: str) -> str | None:
    """Return a header's value; ``None`` where there is none, empty where there are several."""
    wanted = name.encode()
    values = [value for key, value in headers if key == wanted]
    if not values:
        return None
    return values[0].decode("latin-1") if len(values) == 1 else ""


def named_host(headers: RawHeaders) -> tuple[str, str] | None:
    """Return name and port of the host that a request names.

    A page elsewhere can make its own name point here (DNS rebinding): a server compares the name
    with its own.

    Returns:
        The name in lower case, an IPv6 address without brackets, and the port's digits, which may
        be none; ``None`` where the request names no host, several, or none that could be one.
    """
    match = _HOST.fullmatch(only(headers, "host") or "")
    return (match[1].strip("[]").lower(), match[2] or "") if match else None


def from_page(headers: RawHeaders, *, schemes: tuple[str, ...] = ("http",)) -> bool | None:
    """Return whether a request comes from a page of the host that it names.

    A page elsewhere can send requests here (CSRF), and a browser says so in ``Origin``.

    Args:
        headers: The request's.
        schemes: Schemes under which the server is reached.

    Returns:
        ``None`` where it does not say: it comes from a program, or follows a link.
    """
    origin = only(headers, "origin")
    host = only(headers, "host")
    if origin is None:
        return None
    return bool(host) and origin in [f"{scheme}://{host}" for scheme in schemes]


def bearer_token(authorization: str | None) -> str:
    """Return the token of an ``Authorization`` header; empty where it has none."""
    scheme, _, token = (authorization or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def cookie_value(header: str | None, name: str) -> str:
    """Return the value of a cookie in a ``Cookie`` header; empty where it is not there."""
    try:
        morsel = SimpleCookie(header or "").get(name)
    except CookieError:
        return ""
    return morsel.value if morsel else ""


def same_secret(given: str, known: str) -> bool:
    """Return whether two texts are equal, in a time that tells nothing about them."""
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), known.encode())


@functools.lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    """Return whether an address is reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
