"""The page's application: a stream of snapshots out, one press at a time in."""

from __future__ import annotations

import asyncio
import inspect
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import cache
from importlib.resources import files
from typing import Literal
from urllib.parse import parse_qs

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from zprl import durable
from zprl.errors import DataError
from zprl.session.clock import now
from zprl.session.events import LABELS, Input
from zprl.session.inputs import CONSOLE, Author, EpisodeNumber, Nonce, OperatorInput, Seq, Stamp
from zprl.session.processes.console.access import COOKIE_S, Access
from zprl.session.processes.console.rate_limits import Bucket
from zprl.session.processes.console.request_guard import RequestGuard, no, peer
from zprl.session.processes.console.snapshot import NAME, ConsoleState
from zprl.session.processes.console.streams import Streams

REMEMBERED = 4096
"""Presses whose outcome is kept for a repetition."""
SEND_S = 3.0
"""The longest that a press may take to be handed over."""
PRESSES = (10.0, 30)
"""Rate limit: presses per second, and at once.  The e-stop has none."""
PROBLEMS = {
    "token": "That is not the token.",
    "ticket": "This link was used before or is too old. `zprl session page` prints another.",
    "author": "A name has letters, digits, spaces and . ' + @ -, at most 60 of them.",
    "too many": "Too many attempts. Wait a few seconds.",
}


class RefusedPress(Exception):
    """The session took the press in and refused it; the text says why."""


SendInput = Callable[[OperatorInput], Awaitable[str | None] | str | None]
"""Hands an input to the session: must not block; may tell in a sentence what became of it.

Raises :class:`RefusedPress` when the session refuses it, anything else when nobody takes it.
"""


class Press(BaseModel):
    """The body of ``POST /input``.  The browser makes a nonce per press, so that a double click or a retry stays one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Input
    episode: EpisodeNumber | None = None
    nonce: Nonce = Field(min_length=8)
    confirmed: bool = Field(
        False, description="`clear` lets a stopped arm move: the page asks twice."
    )
    seq: Seq | None = Field(
        None, description="Of the snapshot that it answers; the e-stop needs none."
    )
    at: Stamp | None = Field(None, description="Of the same snapshot.")

    @model_validator(mode="after")
    def _whole(self) -> Press:
        if self.kind in LABELS and self.episode is None:
            raise ValueError("a label names its episode")
        if self.kind is Input.CLEAR and not self.confirmed:
            raise ValueError("clear is confirmed")
        if self.kind is not Input.ESTOP and (self.seq is None or self.at is None):
            raise ValueError("a press names the state that it answers")
        return self


class Outcome(BaseModel):
    """What became of a press."""

    status: Literal["sent", "repeated", "refused", "failed"]
    text: str = Field("", max_length=500)


class Presses:
    """Hands presses over, each nonce once.

    Args:
        send: See :data:`SendInput`.
        seq: Returns the number of the present situation; ``None`` before the first snapshot.
    """

    def __init__(self, send: SendInput, seq: Callable[[], int | None] = lambda: None) -> None:
        self._send, self._seq = send, seq
        self._known: OrderedDict[str, tuple[OperatorInput, asyncio.Task[str | None]]] = (
            OrderedDict()
        )
        self._bucket = Bucket(*PRESSES)
        self._last_stop = ""

    async def take(self, press: Press, author: str | None = None) -> tuple[int, Outcome]:
        """Return an HTTP status and what became of it.

        Args:
            press: What was pressed.
            author: Who has logged in; ``None``: nobody, which only the e-stop allows.
        """
        fields = press.model_dump(include={"kind", "episode", "nonce", "seq", "at"})
        found = OperatorInput(**fields, source=CONSOLE, author=author)
        if found.kind is Input.ESTOP:
            return await self._stop(found)
        before = self._known.get(found.nonce)
        if before and before[0] != found:
            return 409, Outcome(status="refused", text="this press was something else before")
        repeated = before is not None
        if not repeated and (refusal := found.refusal(self._seq(), now())):
            return 409, Outcome(status="refused", text=refusal)
        if not (repeated or self._bucket.take()):
            return 429, Outcome(status="refused", text="too many presses; wait a moment")
        if not repeated:
            task = asyncio.ensure_future(self._hand_over(found))
            self._known[found.nonce] = (found, task)
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        else:
            task = before[1]
        try:
            text = await asyncio.shield(task)
        except RefusedPress as refused:
            return 409, Outcome(status="refused", text=str(refused)[:500])
        except Exception as error:
            if self._known.get(found.nonce, (None, None))[1] is task:
                del self._known[
                    found.nonce
                ]  # it never arrived, so the same press may be tried again
            return _failed(error)
        return 200, Outcome(status="repeated" if repeated else "sent", text=(text or "")[:500])

    async def _stop(self, found: OperatorInput) -> tuple[int, Outcome]:
        """Hand over a stop, also a repeated one: twice is better than never.  Nothing is kept of it."""
        repeated, self._last_stop = self._last_stop == found.nonce, found.nonce
        try:
            text = await self._hand_over(found)
        except Exception as error:
            return _failed(error)
        return 200, Outcome(status="repeated" if repeated else "sent", text=(text or "")[:500])

    async def _hand_over(self, found: OperatorInput) -> str | None:
        result = self._send(found)
        if inspect.isawaitable(result):
            async with asyncio.timeout(SEND_S):
                return await result
        return result


def _failed(error: Exception) -> tuple[int, Outcome]:
    return 503, Outcome(
        status="failed", text=f"the session did not take it: {error or type(error).__name__}"[:500]
    )


@cache
def _page(name: str) -> str:
    return (files("zprl.session.processes.console") / name).read_text("utf-8")


def make_app(
    source: ConsoleState,
    send: SendInput,
    access: Access,
    *,
    streams: Streams | None = None,
    names: tuple[str, ...] = (),
    any_address: bool = False,
) -> Starlette:
    """Build the application.

    Args:
        source: What to show.
        send: Where presses go; called in the server's event loop.
        access: Decides who may do more than press the e-stop.
        streams: Keeps the open pages.
        names: Further host names under which the page is reached (a TLS proxy's).
        any_address: Whether the page may be reached under any address of this machine.
    """
    presses = Presses(send, lambda: source.snapshot and source.snapshot.seq)
    streams = streams or Streams()

    async def login_page(request: Request) -> Response:
        return _login_page()

    async def login(request: Request) -> Response:
        return _log_in(request, await request.body(), access)

    async def stream(request: Request) -> Response:
        connection = getattr(request.state, "connection", None)
        close = connection.abort if connection else lambda: None
        person = request.state.login
        events = streams.events(source, person.id, close, lasts=lambda: access.lasts(person))
        return StreamingResponse(
            events, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"}
        )

    async def camera(request: Request) -> Response:
        name = request.path_params["name"]
        frame = source.frame(name) if NAME.fullmatch(name) else None
        return Response(frame.jpeg, media_type="image/jpeg") if frame else Response(status_code=404)

    async def press(request: Request) -> Response:
        try:
            body = Press.model_validate(durable.parse_json(await request.body(), "a press"))
        except DataError as error:
            return no(422, error.message)
        except ValidationError as error:  # its message, not the input: what was sent is not echoed
            return no(422, str(error.errors()[0]["msg"])[:200])
        login = request.state.login
        if login is None and body.kind is not Input.ESTOP:
            return no(*access.refusal(request.headers, peer(request.scope)))
        status, outcome = await presses.take(body, login.author if login else None)
        return Response(outcome.model_dump_json(), status, media_type="application/json")

    routes = [
        Route("/input", press, methods=["POST"]),  # first: an e-stop must not wait
        *(_file(path, _page(name), kind) for path, (name, kind) in FILES.items()),
        Route("/login", login_page),
        Route("/login", login, methods=["POST"]),
        Route("/stream", stream),
        Route("/camera/{name}.jpg", camera),
    ]
    guard = Middleware(RequestGuard, access=access, names=names, any_address=any_address)
    return Starlette(routes=routes, middleware=[guard])


FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/stop.js": ("stop.js", "text/javascript"),
    "/login.js": ("login.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


def _file(path: str, content: str, kind: str) -> Route:
    async def answer(request: Request) -> Response:
        return Response(content, media_type=kind)

    return Route(path, answer)


def _login_page(problem: str = "", status: int = 200) -> HTMLResponse:
    return HTMLResponse(_page("login.html").replace("{problem}", PROBLEMS.get(problem, "")), status)


def _log_in(request: Request, body: bytes, access: Access) -> Response:
    """Answer the login form: a one-time link's ticket, or the token and a name."""
    try:
        fields = parse_qs(body.decode("utf-8", "replace"), max_num_fields=4)
    except ValueError:  # more fields than the form has
        fields = {}
    ticket, token, name = (
        fields.get(key, [""])[0].strip() for key in ("ticket", "token", "author")
    )
    author = access.redeem(ticket) if ticket else (name or access.user)
    if author is None or not (ticket or access.knows(token)):
        if ticket and request.state.login:  # the link of somebody who is logged in: opened again
            return RedirectResponse("/", 303)
        within = access.guesses.wrong(peer(request.scope))
        return (
            _login_page("ticket" if ticket else "token", 401)
            if within
            else _login_page("too many", 429)
        )
    try:
        author = TypeAdapter(Author).validate_python(author)
    except ValidationError:
        return _login_page("author", 422)

    response = RedirectResponse("/", 303)
    response.set_cookie(
        access.cookie,
        access.cookie_for(author),
        max_age=COOKIE_S,
        path="/",
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return response
