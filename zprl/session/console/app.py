"""The page's application: a stream of snapshots out, one press at a time in."""

from __future__ import annotations

import asyncio
import inspect
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.resources import files
from typing import Literal
from urllib.parse import parse_qs

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator

from zprl.session.clock import now
from zprl.session.console.security import Bucket, Gate, Guard, set_cookie
from zprl.session.console.state import NAME, ConsoleState
from zprl.session.inputs import EpisodeNumber, Nonce, OperatorInput, Seq, Stamp
from zprl.session.signals import LABELS, Input

SOURCE = "console"
PERIOD_S = 0.2
"""Between two messages of the stream."""
MAX_STREAMS = 16
REMEMBERED = 4096
"""Presses whose outcome is kept for a repetition."""
SEND_S = 3.0
"""The longest that a press may take to be handed over."""
PRESSES = (10.0, 30)
"""Rate limit: presses per second, and at once.  The e-stop has none."""
LOGINS = (0.2, 5)


class Refused(Exception):
    """The session took the press in and refused it; the text says why."""


SendInput = Callable[[OperatorInput], Awaitable[str | None] | str | None]
"""Hands an input to the session: must not block; may tell in a sentence what became of it.

Raises :class:`Refused` when the session refuses it, anything else when nobody takes it.
"""


class Press(BaseModel):
    """The body of ``POST /input``.  The browser makes a nonce per press, so that a double click or a retry stays one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Input
    episode: EpisodeNumber | None = None
    nonce: Nonce = Field(min_length=8)
    confirmed: bool = Field(False, description="`clear` lets a stopped arm move: the page asks twice.")
    seq: Seq | None = Field(None, description="Of the snapshot that it answers; the e-stop needs none.")
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
        self._known: OrderedDict[str, tuple[OperatorInput, asyncio.Task[str | None]]] = OrderedDict()
        self._bucket = Bucket(*PRESSES)

    async def take(self, press: Press) -> tuple[int, Outcome]:
        """Returns an HTTP status and what became of it."""
        fields = press.model_dump(include={"kind", "episode", "nonce", "seq", "at"})
        found = OperatorInput(**fields, source=SOURCE)
        stop = found.kind is Input.ESTOP
        before = self._known.get(found.nonce)
        if before and before[0] != found and not stop:
            return 409, Outcome(status="refused", text="this press was something else before")
        repeated = before is not None and before[0] == found
        if not repeated and (refusal := found.refusal(self._seq(), now())):
            return 409, Outcome(status="refused", text=refusal)
        if not (repeated or stop or self._bucket.take()):
            return 429, Outcome(status="refused", text="too many presses; wait a moment")
        if stop or not repeated:  # a stop goes out again: it is latched, and twice is better than never
            task = asyncio.ensure_future(self._hand_over(found))
            self._known[found.nonce] = (found, task)
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        else:
            task = before[1]
        try:
            text = await asyncio.shield(task)
        except Refused as refused:
            return 409, Outcome(status="refused", text=str(refused)[:500])
        except Exception as error:
            if self._known.get(found.nonce, (None, None))[1] is task:
                del self._known[found.nonce]  # it never arrived, so the same press may be tried again
            return 503, Outcome(status="failed", text=f"the session did not take it: {error or type(error).__name__}"[:500])
        return 200, Outcome(status="repeated" if repeated else "sent", text=(text or "")[:500])

    async def _hand_over(self, found: OperatorInput) -> str | None:
        result = self._send(found)
        if inspect.isawaitable(result):
            async with asyncio.timeout(SEND_S):
                return await result
        return result


def _page(name: str) -> str:
    return (files("zprl.session.console") / name).read_text("utf-8")


def make_app(
    source: ConsoleState,
    send: SendInput,
    *,
    token: str | None = None,
    names: tuple[str, ...] = (),
    any_address: bool = False,
) -> FastAPI:
    """Build the application.

    Args:
        source: What to show.
        send: Where presses go; called in the server's event loop.
        token: Demanded from everybody; ``None``: on loopback.
        names: Further host names under which the page is reached (a TLS proxy's).
        any_address: Whether the page may be reached under any address of this machine.

    Raises:
        ConfigError: a token too short.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    gate, presses, logins = Gate(token), Presses(send, lambda: source.snapshot and source.snapshot.seq), Bucket(*LOGINS)
    html, css, js, login_html, icon_svg = (_page(name) for name in ("page.html", "page.css", "page.js", "login.html", "icon.svg"))
    app.add_middleware(Guard, gate=gate, names=names, any_address=any_address)

    @app.get("/")
    async def page() -> HTMLResponse:
        return HTMLResponse(html)

    @app.get("/page.css")
    async def style() -> Response:
        return Response(css, media_type="text/css")

    @app.get("/page.js")
    async def script() -> Response:
        return Response(js, media_type="text/javascript")

    @app.get("/icon.svg")
    async def icon() -> Response:
        return Response(icon_svg, media_type="image/svg+xml")

    @app.get("/login")
    async def login_page() -> HTMLResponse:
        return HTMLResponse(login_html.replace("{problem}", ""))

    @app.post("/login")
    async def login(request: Request) -> Response:
        if not logins.take():
            return HTMLResponse(login_html.replace("{problem}", "Too many attempts. Wait a few seconds."), 429)
        given = parse_qs((await request.body()).decode("utf-8", "replace"), max_num_fields=4).get("token", [""])[0]
        if not gate.knows(given):
            return HTMLResponse(login_html.replace("{problem}", "That is not the token."), 401)
        response = RedirectResponse("/", 303)
        set_cookie(response, gate, request)
        return response

    @app.get("/stream")
    async def stream() -> Response:
        if source.watchers >= MAX_STREAMS:
            return JSONResponse(Outcome(status="refused", text="too many pages are open").model_dump(), 503)
        return StreamingResponse(_events(source), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})

    @app.get("/camera/{name}.jpg")
    async def camera(name: str) -> Response:
        frame = source.frame(name) if NAME.fullmatch(name) else None
        return Response(frame.jpeg, media_type="image/jpeg") if frame else Response(status_code=404)

    @app.post("/input")
    async def press(request: Request, body: Press) -> JSONResponse:
        status, outcome = await presses.take(body)
        return JSONResponse(outcome.model_dump(), status)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]  # its message, not the input: what was sent is not echoed
        return JSONResponse(Outcome(status="refused", text=str(first["msg"])[:200]).model_dump(), 422)

    return app


async def _events(source: ConsoleState) -> AsyncIterator[str]:
    """Server-sent events: the newest snapshot once, and ages, five times a second."""
    known = -1
    with source.watching():
        while True:
            known, message = source.message(known)
            yield f"data: {message}\n\n"
            await asyncio.sleep(PERIOD_S)
