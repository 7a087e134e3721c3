"""What an operator says, and the foot pedal.  The web page says the same, with the same keys.

A reader is a context manager with a thread: it waits on one file descriptor and hands each
:class:`OperatorInput` to ``emit``, which must not block.  A key does not know which episode it is
about, so a reader asks for the present :class:`Moment` at every press.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import math
import os
import re
import select
import stat
import struct
import threading
import unicodedata
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from zprl.errors import EnvironmentProblem
from zprl.session import events
from zprl.session.clock import now
from zprl.session.events import Input

Nonce = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
EpisodeNumber = Annotated[int, Field(ge=1, lt=1_000_000)]
Seq = Annotated[int, Field(ge=0, lt=2**53)]
Stamp = Annotated[float, Field(ge=0, allow_inf_nan=False)]

PRESS_S = 2.0
"""Seconds after which a press counts no more, however it was held up; the e-stop always counts."""
PEDAL = "pedal"
BOUNCE_S = 0.3
"""Seconds in which a second press is a contact that bounces, or a foot that slips."""
CONFIRM_S = 5.0
"""Seconds within which the second press of `clear` must follow the first."""


def _visible(name: str) -> str:
    """Return a name in its composed form; refuse what cannot be seen."""
    name = unicodedata.normalize("NFC", name).strip()
    if INVISIBLE.search(name):
        raise ValueError("a name has no invisible characters")
    return name


INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0\ufe00-\ufe0f\U000e0000-\U000e0fff]"
)
"""Letters and marks that Unicode lists as ignorable (Default_Ignorable_Code_Point)."""
Author = Annotated[
    str,
    BeforeValidator(_visible),
    Field(max_length=60, pattern=r"^[\p{L}\p{N}_][\p{L}\p{M}\p{N}_ .'@+-]*$"),
]
"""Name of a person: composed, without what cannot be seen."""
CONSOLE = "console"
"""Source of what is pressed on the operator's page."""


def this_user() -> str:
    """Return the name of the user who runs this process, as the author of what is pressed beside it."""
    try:
        return TypeAdapter(Author).validate_python(getpass.getuser())
    except (OSError, KeyError, ValidationError):  # no such account, as in some containers
        return f"uid {os.getuid()}"


class OperatorInput(BaseModel):
    """One press.  The same nonce twice is one input."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Input
    episode: EpisodeNumber | None = Field(
        None, description="Which episode a label or `reset_done` is about."
    )
    nonce: Nonce = Field(default_factory=lambda: uuid.uuid4().hex)
    source: str = Field(
        pattern=r"^[a-z][a-z0-9_-]{0,31}$", description="pedal, console, spacemouse, scripted."
    )
    seq: Seq | None = Field(
        None,
        description="Number of the situation that it answers (`Machine.seq`); null: of none, for the e-stop.",
    )
    at: Stamp | None = Field(
        None, description="When that situation was last known to stand (`clock.now`) [s]."
    )
    author: Author | None = Field(
        None, description="Who pressed it; null: a program, or a stranger's e-stop."
    )

    @model_validator(mode="after")
    def _authored(self) -> Self:
        if self.source == CONSOLE and self.author is None and self.kind is not Input.ESTOP:
            raise ValueError("what is pressed on the page names its author")
        return self

    def refusal(self, seq: int | None, at: float) -> str:
        """Return why this press has no effect; empty when it has one.

        A pause only lowers the risk, so it counts whatever state it answers.

        Args:
            seq: Number of the present situation; ``None`` where that is not known.
            at: The present moment on :func:`zprl.session.clock.now` [s].
        """
        if self.kind is Input.ESTOP:
            return ""
        if self.seq is None or self.at is None or not 0 <= at - self.at <= PRESS_S:
            return "it came too late: look at the present state and press again"
        if self.kind is Input.PAUSE:
            return ""
        if seq is not None and self.seq != seq:
            return "the state has changed meanwhile: look at it and press again"
        return ""

    def as_event(self) -> events.InputEvent:
        """As the state machine takes it."""
        return events.InputEvent(self.kind, self.nonce, self.source, self.episode, self.author)


Emit = Callable[[OperatorInput], None]


@dataclass(frozen=True)
class Moment:
    """What a press needs to know of the session.

    Attributes:
        episode: The open episode, or the next one.
        label_episode: The one that a label pressed now is about; ``None``: there is none to label.
        paused: Whether the session is paused, so that one key can pause and resume.
        seq: Number of the situation, which a press names.
        at: When the session last told of it (:func:`zprl.session.clock.now`) [s].
    """

    episode: int | None = None
    label_episode: int | None = None
    paused: bool = False
    seq: int | None = None
    at: float | None = None


# -- keys ------------------------------------------------------------------------------------------

KEYS = {
    "1": Input.SUCCESS,
    "0": Input.FAILURE,
    "d": Input.DISCARD,
    "r": Input.RESET_DONE,
    "p": Input.PAUSE,
    " ": Input.ESTOP,
    "\x1b": Input.ESTOP,
    "\r": Input.CLEAR,
}
"""Shared by pedal and page, but for Enter, which is the pedal's alone.  ``p`` resumes a paused
session."""
CODES = {2: "1", 11: "0", 32: "d", 19: "r", 25: "p", 57: " ", 1: "\x1b", 28: "\r"}
"""Linux key codes (input-event-codes.h) of a pedal that was set to send our own keys."""
PEDALS = CODES | {30: "0", 48: " ", 46: "1"}
"""... and of a triple foot switch as delivered (a, b, c): left failure, middle e-stop, right
success."""


def press(key: str, moment: Moment, source: str) -> OperatorInput | None:
    """What a key means now; ``None``: nothing."""
    kind = KEYS.get(key.lower())
    if kind is None:
        return None
    if kind is Input.PAUSE and moment.paused:
        kind = Input.RESUME
    episode = moment.episode if kind is Input.RESET_DONE else None
    if kind in events.LABELS:
        if not moment.label_episode:
            return None
        episode = moment.label_episode
    return OperatorInput(kind=kind, episode=episode, source=source, seq=moment.seq, at=moment.at)


# -- readers ---------------------------------------------------------------------------------------


class InputReader:
    """A thread that waits on a file descriptor.

    Args:
        fd: What to read; closed by whoever opened it.
        on_lost: Called once with a sentence when the device goes away: an e-stop pedal that was
            pulled out must not go unnoticed.
    """

    name = "reader"
    chunk = 4096

    def __init__(self, fd: int, *, on_lost: Callable[[str], None] = lambda _: None) -> None:
        self.fd, self.on_lost = fd, on_lost
        self._wake = os.pipe()
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)

    def take(self, data: bytes) -> None:
        """Act on what one ``read`` gave."""
        raise NotImplementedError

    def _run(self) -> None:
        while True:
            ready, _, _ = select.select([self.fd, self._wake[0]], [], [])
            if self._wake[0] in ready:
                return
            try:
                data = os.read(self.fd, self.chunk)
            except OSError as error:
                self.lost(error.strerror or str(error))
                return
            if not data:
                self.lost("end of file")
                return
            try:
                self.take(data)
            except Exception as error:
                self.lost(f"a fault of ours: {error}")
                raise

    def lost(self, why: str) -> None:
        """The device is gone."""
        self.on_lost(
            f"{self.name} is lost ({why}): plug it in again and restart the session's operator"
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        os.write(self._wake[1], b".")
        if self._thread is not threading.current_thread():
            self._thread.join()
        for end in self._wake:
            os.close(end)


class Pedal(InputReader):
    """A foot switch, or any keyboard-like device, by the kernel's evdev protocol.

    Args:
        fd: Of ``/dev/input/event*`` (``/dev/input/by-id`` has the names), or a pipe.
        emit: Takes the inputs, in the reader's thread.
        moment: Tells the present moment.
        keys: Linux key code to a key of :data:`KEYS`.
        on_lost: See :class:`InputReader`.
    """

    name = PEDAL
    event = struct.Struct("@llHHi")
    """``struct input_event``: seconds, microseconds, type, code, value."""
    EV_SYN, SYN_DROPPED, EV_KEY, PRESSED = 0, 3, 1, 1
    EVIOCGRAB, EVIOCSCLOCKID = 0x40044590, 0x400445A0
    CLOCK_BOOTTIME = 7

    def __init__(
        self,
        fd: int,
        emit: Emit,
        moment: Callable[[], Moment],
        *,
        keys: dict[int, str] = PEDALS,
        on_lost: Callable[[str], None] = lambda _: None,
    ) -> None:
        super().__init__(fd, on_lost=on_lost)
        self.emit, self.moment, self.keys = emit, moment, keys
        self.chunk = 64 * self.event.size
        self._rest = b""
        self._first_clear: tuple[float, int | None] = (-math.inf, None)
        self.stamped = False
        """Whether the kernel stamps the keys on the session's clock: what was pressed while this
        process stood still is old."""
        if stat.S_ISCHR(
            os.fstat(fd).st_mode
        ):  # ours alone: a pedal must not type into terminals and pages as well
            with contextlib.suppress(OSError):
                fcntl.ioctl(fd, self.EVIOCGRAB, 1)
            with contextlib.suppress(OSError):
                fcntl.ioctl(fd, self.EVIOCSCLOCKID, struct.pack("i", self.CLOCK_BOOTTIME))
                self.stamped = True

    def take(self, data: bytes) -> None:
        data = self._rest + data
        whole = len(data) - len(data) % self.event.size
        self._rest = data[whole:]
        for seconds, microseconds, kind, code, value in self.event.iter_unpack(data[:whole]):
            if (
                kind == self.EV_KEY and value == self.PRESSED and code in self.keys
            ):  # neither a release nor a repetition
                at = seconds + 1e-6 * microseconds if self.stamped else now()
                self._pressed(self.keys[code], at)
            elif kind == self.EV_SYN and code == self.SYN_DROPPED:
                # The kernel threw presses away because nobody read them; one of them may have been
                # a stop.
                self.emit(OperatorInput(kind=Input.ESTOP, source=self.name))

    def _pressed(self, key: str, at: float) -> None:
        """Emit what a key means; `clear` lets a stopped arm move, so it takes two presses in a row.

        Args:
            key: Of :data:`KEYS`.
            at: When it was pressed, on the session's clock [s].
        """
        moment = self.moment()
        known = moment if moment.at is None else replace(moment, at=min(moment.at, at))
        made = press(key, known, self.name)
        (before, seq), self._first_clear = self._first_clear, (-math.inf, None)
        if made is None:
            return
        if made.kind is Input.CLEAR and at - before < BOUNCE_S:
            self._first_clear = before, seq
            return
        if made.kind is Input.CLEAR and (
            at - before > CONFIRM_S or seq != known.seq
        ):  # the first, or for another situation
            self._first_clear = at, known.seq
            return
        self.emit(made)


def open_device(path: Path | str) -> int:
    """Open a device to read; the caller closes it.

    Raises:
        EnvironmentProblem: it is not there, or this user may not read it.
    """
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        group = "add yourself to its group (input, plugdev) or write a udev rule, then log in again"
        remedy = group if isinstance(error, PermissionError) else "plug it in"
        raise EnvironmentProblem(f"cannot open {path}: {error.strerror}", remedy=remedy) from error
