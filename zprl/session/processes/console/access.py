"""Decide who may do more than press the e-stop: a token per run, one-time links, cookies.

Each run makes a random token (or takes ``ZPRL_CONSOLE_TOKEN``) and keeps it in a file that only
this user can read.  Who can read the file can make a one-time link; opening it sets a cookie.
Links and cookies are signed with a key of this run, so that the next run knows none of them.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import logging
import math
import os
import re
import secrets
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import Field, ValidationError
from starlette.datastructures import Headers

from zprl import durable
from zprl.errors import ConfigError, DataError, EnvironmentProblem
from zprl.recordings.append_file import lease, leased
from zprl.request_checks import bearer_token, cookie_value, same_secret
from zprl.server_limits import QuietLog
from zprl.session.clock import now
from zprl.session.inputs import Author, this_user
from zprl.session.processes.console.rate_limits import Guesses
from zprl.strict_model import StrictModel

TOKEN = "ZPRL_CONSOLE_TOKEN"  # noqa: S105 (the variable's name)
MIN_TOKEN, MIN_DIFFERENT = 16, 6
"""Characters of a token at least, and different ones among them."""
FILE, ADDRESS = "access.json", "console.json"
"""Files of a run: its secrets, and the address of its page."""
TICKET_S, COOKIE_S = 600.0, 12 * 3600
"""Seconds that a one-time link and a login last."""
MOST_BEGUN = 8192
"""Bytes of a request that are searched for a login."""
PROGRAM = "program"
"""Author of presses that come with the token in a header."""

log = logging.getLogger(__name__)


class Secrets(StrictModel):
    """Secrets of one run of a session."""

    token: str = Field(min_length=MIN_TOKEN)
    run: str = Field(min_length=16, description="Random, different in every run.")
    user: Author = Field(description="Who started the run, and opens the page by a one-time link.")

    @classmethod
    def make(cls, token: str | None = None) -> Self:
        """Make the secrets of a new run.

        Raises:
            ConfigError: a token that could be guessed.
        """
        if token is not None and (len(token) < MIN_TOKEN or len(set(token)) < MIN_DIFFERENT):
            raise ConfigError(
                f"{TOKEN} has fewer than {MIN_TOKEN} characters, or too few different ones",
                remedy='make one: python -c "import secrets; print(secrets.token_urlsafe())"',
            )
        token = token or secrets.token_urlsafe(32)
        return cls(token=token, run=secrets.token_urlsafe(16), user=this_user())

    @classmethod
    def load(cls, work: Path) -> Self:
        """Read the file that :func:`granted` has written.

        Raises:
            DataError: it is not there, or damaged.
        """
        try:
            return cls.model_validate(durable.read_json(work / FILE))
        except ValidationError as error:
            # Without the error's text, which holds the token.
            raise DataError(
                f"{work / FILE} is damaged", remedy="start the session again"
            ) from error


@contextlib.contextmanager
def granted(work: Path, environ: MutableMapping[str, str] = os.environ) -> Iterator[None]:
    """Keep the secrets of a run in ``work`` while it lasts.

    The token leaves the environment, so that no child inherits it.

    Raises:
        ConfigError: a token that could be guessed.
        EnvironmentProblem: another run works there.
    """
    made = Secrets.make(environ.pop(TOKEN, None) or None)
    held = lease(work)
    try:
        durable.write_text(work / FILE, made.model_dump_json(), private=True)
        yield
    finally:
        (work / FILE).unlink(missing_ok=True)
        os.close(held)


def page_link(work: Path) -> str:
    """Return a one-time link to the page of the session that runs in ``work``.

    Raises:
        EnvironmentProblem: none runs there.
        DataError: its files are damaged.
    """
    problem = EnvironmentProblem(
        "no session is running here", remedy="`zprl session run` starts one"
    )
    # A killed run leaves its files behind, but no lease.
    if not (work / FILE).exists() or not (work / ADDRESS).exists() or not leased(work):
        raise problem
    try:
        url = str(durable.read_json(work / ADDRESS)["url"])
    except (KeyError, TypeError) as error:
        raise DataError(f"{work / ADDRESS} is damaged", remedy="start the session again") from error
    return Access(Secrets.load(work)).link(url)


@dataclass(frozen=True)
class Login:
    """A login: the right to press more than the e-stop.

    Attributes:
        author: Named by every label pressed under this login.
        id: Distinguishes this login from others.
        until: When it ends, by the session's clock [s].
    """

    author: str
    id: str
    until: float = math.inf


class Access:
    """Judge of tokens, links and cookies; everything secret is compared in constant time.

    Args:
        made: Secrets of this run.
        clock: Session clock [s], the same in every process.
    """

    def __init__(self, made: Secrets, clock: Callable[[], float] = now) -> None:
        self._secrets = made
        self._clock = clock
        self._key = hashlib.sha256(f"{made.run} {made.token}".encode()).digest()
        self._begun = clock()
        self._used: dict[str, float] = {}
        self.guesses = Guesses(QuietLog(log.warning, lead="console: "))
        # Browsers share cookies between the ports of a host: each run has a name of its own.
        self.cookie = "zprl_" + hashlib.sha256(f"cookie {made.run}".encode()).hexdigest()[:12]

    @property
    def user(self) -> str:
        """User who started the run."""
        return self._secrets.user

    def knows(self, token: str) -> bool:
        """Return whether this is the token."""
        return same_secret(token, self._secrets.token)

    def link(self, url: str) -> str:
        """Return an address that logs one browser in; no server, log or referrer sees its ``#``."""
        return f"{url}login#{self._sign('link', self.user)}"

    def redeem(self, ticket: str) -> str | None:
        """Return the author of a one-time link; ``None`` for a wrong, old or used one."""
        opened = self._open("link", ticket, TICKET_S)
        # A link from before this process began may have been used.
        if opened is None or opened.at < self._begun or opened.mac in self._used:
            return None

        self._used = {mac: at for mac, at in self._used.items() if self._clock() - at < TICKET_S}
        self._used[opened.mac] = opened.at
        return opened.author

    def cookie_for(self, author: str) -> str:
        """Return the value of a new login's cookie."""
        return self._sign("cookie", author)

    def login(self, headers: Headers) -> Login | None:
        """Return the login of a request; ``None`` for a stranger."""
        if self.by_header(headers):
            return Login(PROGRAM, PROGRAM)
        cookie = cookie_value(headers.get("cookie"), self.cookie)
        opened = self._open("cookie", cookie, COOKIE_S) if cookie else None
        return Login(opened.author, opened.mac, opened.at + COOKIE_S) if opened else None

    def lasts(self, login: Login) -> bool:
        """Return whether a login has not ended yet."""
        return self._clock() <= login.until

    def known(self, begun: bytes) -> bool:
        """Return whether the beginning of a request, as raw bytes, shows a login."""
        match = re.search(self.cookie.encode() + rb"=([A-Za-z0-9_.-]+)", begun[:MOST_BEGUN])
        return match is not None and self._open("cookie", match[1].decode(), COOKIE_S) is not None

    def by_header(self, headers: Headers) -> bool:
        """Return whether a program brought the token: no foreign page makes a browser do that."""
        token = bearer_token(headers.get("authorization"))
        return bool(token) and self.knows(token)

    def refusal(self, headers: Headers, address: str) -> tuple[int, str]:
        """Return status and reason for a stranger.

        A wrong token or a forged cookie counts as a guess of its address.
        """
        cookie = cookie_value(headers.get("cookie"), self.cookie)
        guessed = "authorization" in headers or (bool(cookie) and not self._signed(cookie))
        if guessed and not self.guesses.wrong(address):
            return 429, "too many attempts; wait a few seconds"
        return 401, "log in first"

    # -- signed texts ----------------------------------------------------------------------------

    def _mac(self, text: str) -> str:
        return hmac.new(
            self._key, text.encode("utf-8", "surrogatepass"), hashlib.sha256
        ).hexdigest()

    def _sign(self, purpose: str, author: str) -> str:
        fields = (purpose, repr(self._clock()), secrets.token_urlsafe(9), author)
        text = base64.urlsafe_b64encode("|".join(fields).encode()).decode().rstrip("=")
        return f"{text}.{self._mac(text)}"

    def _signed(self, value: str) -> bool:
        """Return whether a text was signed by this run, however long ago."""
        text, _, mac = value.rpartition(".")
        return same_secret(mac, self._mac(text))

    def _open(self, purpose: str, value: str, most_s: float) -> _Opened | None:
        """Return a signed text of this run and purpose; ``None`` where it is not, or too old."""
        if not self._signed(value):
            return None

        text, _, mac = value.rpartition(".")
        known, at, _, author = base64.urlsafe_b64decode(text + "==").decode().split("|")
        fresh = 0 <= self._clock() - float(at) <= most_s
        return _Opened(author, float(at), mac) if known == purpose and fresh else None


@dataclass(frozen=True)
class _Opened:
    """A signed text whose signature fits."""

    author: str
    at: float
    mac: str
