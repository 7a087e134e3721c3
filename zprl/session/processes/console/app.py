"""The page's application: a stream of snapshots out, one press at a time in."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import cache
from importlib.resources import files
from typing import Literal
from urllib.parse import parse_qs

from pydantic import Field, TypeAdapter, ValidationError, model_validator
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
from zprl.strict_model import StrictModel

FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/stop.js": ("stop.js", "text/javascript"),
    "/login.js": ("login.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
"""Path to the name of the file that is served there, and its type."""
MAX_TEXT, MAX_REASON = 500, 200
"""Letters of an outcome's text, and of what is wrong with a press."""
REMEMBERED = 4096
"""Presses whose outcome is kept for a repetition."""
SEND_S = 3.0
"""Seconds that handing a press over may take."""
PRESSES = (10.0, 30)
"""Rate limit: presses per second, and at once; the e-stop has none."""
PROBLEMS = {
    "token": "That is not the token.",
    "ticket": "This link was used before or is too old. Run `zprl session page` for another.",
    "author": "Give a name of letters, digits, spaces and . ' + @ -, at most 60 of them.",
    "too many": "Too many attempts. Wait a few seconds.",
}


class RefusedPress(Exception):
    """A press that reached the session and was refused; the text is the reason."""


SendInput = Callable[[OperatorInput], Awaitable[str | None] | str | None]
"""Hands an input to the session without blocking; may return a sentence about its outcome.

Raises :class:`RefusedPress` when the session refuses it, anything else when it does not arrive.
"""
HandoverTask = asyncio.Task[str | None]


class Press(StrictModel):
    """The body of ``POST /input``; a retry carries the nonce of its press and stays one press."""

    kind: Input
    episode: EpisodeNumber | None = None
    nonce: Nonce = Field(min_length=8)
    confirmed: bool = Field(
        False, description="`clear` lets a stopped arm move: the page asks twice."
    )
    seq: Seq | None = Field(
        None, description="Number of the snapshot that it answers; the e-stop needs none."
    )
    at: Stamp | None = Field(None, description="Stamp of the same snapshot.")

    @model_validator(mode="after")
    def _whole(self) -> Press:
        if self.kind in LABELS and self.episode is None:
            raise ValueError("a label names its episode")
        if self.kind is Input.CLEAR and not self.confirmed:
            raise ValueError("clear is confirmed")
        if self.kind is not Input.ESTOP and (self.seq is None or self.at is None):
            raise ValueError("a press names the state that it answers")
        return self


class Outcome(StrictModel):
    """Outcome of a press."""

    status: Literal["sent", "repeated", "refused", "failed"]
    text: str = Field("", max_length=MAX_TEXT)


class Presses:
    """Presses that are handed over, each nonce once.

    Args:
        send: See :data:`SendInput`.
        seq: Returns the number of the present situation; ``None`` before the first snapshot.
    """

    def __init__(self, send: SendInput, seq: Callable[[], int | None] = lambda: None) -> None:
        self._send = send
        self._seq = seq
        self._known: OrderedDict[str, tuple[OperatorInput, HandoverTask]] = OrderedDict()
        self._bucket = Bucket(*PRESSES)
        self._last_stop = ""

    async def take(self, press: Press, author: str | None = None) -> tuple[int, Outcome]:
        """Hand a press over, unless it is refused or was handed over before.

        Args:
            press: The press, as the page sent it.
            author: Name of the login; ``None``: a stranger, who may press the e-stop only.

        Returns:
            HTTP status and outcome.
        """
        fields = press.model_dump(include={"kind", "episode", "nonce", "seq", "at"})
        made = OperatorInput(**fields, source=CONSOLE, author=author)
        if made.kind is Input.ESTOP:
            return await self._stop(made)
        if made.nonce in self._known:
            before, task = self._known[made.nonce]
            if before != made:
                return 409, Outcome(status="refused", text="this press was something else before")
            return await self._outcome(made, task, "repeated")

        if refusal := made.refusal(self._seq(), now()):
            return 409, Outcome(status="refused", text=refusal)
        if not self._bucket.take():
            return 429, Outcome(status="refused", text="too many presses; wait a moment")
        task = asyncio.ensure_future(self._hand_over(made))
        self._known[made.nonce] = (made, task)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return await self._outcome(made, task, "sent")

    async def _outcome(
        self, made: OperatorInput, task: HandoverTask, status: Literal["sent", "repeated"]
    ) -> tuple[int, Outcome]:
        """Wait for the session's answer; forget a press that did not arrive: it may be repeated."""
        try:
            text = await asyncio.shield(task)
        except RefusedPress as refused:
            return 409, Outcome(status="refused", text=str(refused)[:MAX_TEXT])
        except Exception as error:  # noqa: BLE001 - the answer names any failure
            if self._known.get(made.nonce, (None, None))[1] is task:
                del self._known[made.nonce]
            return _failed(error)
        return 200, Outcome(status=status, text=(text or "")[:MAX_TEXT])

    async def _stop(self, made: OperatorInput) -> tuple[int, Outcome]:
        """Hand an e-stop over, also a repeated one: twice is better than never.

        Nothing of it is kept.
        """
        repeated = self._last_stop == made.nonce
        self._last_stop = made.nonce
        try:
            text = await self._hand_over(made)
        except Exception as error:  # noqa: BLE001 - the answer names any failure
            return _failed(error)
        return 200, Outcome(status="repeated" if repeated else "sent", text=(text or "")[:MAX_TEXT])

    async def _hand_over(self, made: OperatorInput) -> str | None:
        result = self._send(made)
        if isinstance(result, str) or result is None:
            return result
        async with asyncio.timeout(SEND_S):
            return await result


def _failed(error: Exception) -> tuple[int, Outcome]:
    text = f"the session did not take it: {error or type(error).__name__}"
    return 503, Outcome(status="failed", text=text[:MAX_TEXT])


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
        source: State that the page shows.
        send: Takes the presses; called in the server's event loop.
        access: Decides who may do more than press the e-stop.
        streams: Keeps the open pages.
        names: Further host names under which the page is reached (a TLS proxy's).
        any_address: Whether the page may be reached under any address of this machine.
    """
    presses = Presses(send, lambda: source.snapshot.seq if source.snapshot else None)
    handlers = _Handlers(source, access, presses, streams or Streams())
    routes = [
        # First: an e-stop must not wait.
        Route("/input", handlers.press, methods=["POST"]),
        *(_file(path, _page(name), kind) for path, (name, kind) in FILES.items()),
        Route("/login", handlers.login_page),
        Route("/login", handlers.login, methods=["POST"]),
        Route("/stream", handlers.stream),
        Route("/camera/{name}.jpg", handlers.camera),
    ]
    guard = Middleware(RequestGuard, access=access, names=names, any_address=any_address)
    return Starlette(routes=routes, middleware=[guard])


class _Handlers:
    """The routes' functions, with the state that they share."""

    def __init__(
        self, source: ConsoleState, access: Access, presses: Presses, streams: Streams
    ) -> None:
        self.source = source
        self.access = access
        self.presses = presses
        self.streams = streams

    async def login_page(self, request: Request) -> Response:
        return _login_page()

    async def login(self, request: Request) -> Response:
        return _log_in(request, await request.body(), self.access)

    async def stream(self, request: Request) -> Response:
        """Answer with server-sent events while the page is open and the login lasts."""
        connection = getattr(request.state, "connection", None)
        close = connection.abort if connection else lambda: None
        login = request.state.login
        events = self.streams.events(
            self.source, login.id, close, lasts=lambda: self.access.lasts(login)
        )
        return StreamingResponse(
            events, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"}
        )

    async def camera(self, request: Request) -> Response:
        """Answer with the newest image of a camera."""
        name = request.path_params["name"]
        frame = self.source.frame(name) if NAME.fullmatch(name) else None
        return Response(frame.jpeg, media_type="image/jpeg") if frame else Response(status_code=404)

    async def press(self, request: Request) -> Response:
        """Hand a press over and answer with its outcome."""
        try:
            body = Press.model_validate(durable.parse_json(await request.body(), "a press"))
        except DataError as error:
            return no(422, error.message)
        except ValidationError as error:
            # The message without the input: no answer echoes what was sent.
            return no(422, str(error.errors()[0]["msg"])[:MAX_REASON])

        login = request.state.login
        if login is None and body.kind is not Input.ESTOP:
            return no(*self.access.refusal(request.headers, peer(request.scope)))
        status, outcome = await self.presses.take(body, login.author if login else None)
        return Response(outcome.model_dump_json(), status, media_type="application/json")


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
    except ValueError:
        fields = {}  # more fields than the form has

    ticket, token, name = (
        fields.get(key, [""])[0].strip() for key in ("ticket", "token", "author")
    )
    author = access.redeem(ticket) if ticket else (name or access.user)
    if author is None or not (ticket or access.knows(token)):
        # A one-time link that was opened again, by a browser that it has logged in.
        if ticket and request.state.login:
            return RedirectResponse("/", 303)
        if not access.guesses.wrong(peer(request.scope)):
            return _login_page("too many", 429)
        return _login_page("ticket" if ticket else "token", 401)

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
