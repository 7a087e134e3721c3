"""What an operator says, whatever it was said with: keys in a terminal, foot pedals, a script.  The web page says the same.

A reader is a context manager with a thread: it waits on one file descriptor and hands each :class:`OperatorInput` to ``emit``, which
must not block.  A key does not know which episode it is about, so a reader asks for the present :class:`Moment` at every press.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import stat
import struct
import termios
import threading
import time
import tty
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field

from zprl.errors import EnvironmentProblem
from zprl.session import signals
from zprl.session.signals import Input

Nonce = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
EpisodeNumber = Annotated[int, Field(ge=1, lt=1_000_000)]


class OperatorInput(BaseModel):
    """One press.  The same nonce twice is one input."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Input
    episode: EpisodeNumber | None = Field(None, description="Which episode a label or `reset_done` is about.")
    nonce: Nonce = Field(default_factory=lambda: uuid.uuid4().hex)
    source: str = Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$", description="keyboard, pedal, console, spacemouse, scripted.")

    def as_event(self) -> signals.OperatorInput:
        """As the state machine takes it."""
        return signals.OperatorInput(self.kind, self.nonce, self.source, self.episode)


Emit = Callable[[OperatorInput], None]


@dataclass(frozen=True)
class Moment:
    """What a press needs to know of the session.

    Attributes:
        episode: The open episode, or the next one.
        label_episode: The one that a label pressed now is about; ``None``: there is none to label.
        paused: Whether the session is paused, so that one key can pause and resume.
    """

    episode: int | None = None
    label_episode: int | None = None
    paused: bool = False


# -- keys ------------------------------------------------------------------------------------------------------------

KEYS = {
    "1": Input.SUCCESS,
    "0": Input.FAILURE,
    "d": Input.DISCARD,
    "r": Input.RESET_DONE,
    "p": Input.PAUSE,
    " ": Input.ESTOP,
    "\x1b": Input.ESTOP,
}
"""Shared by terminal, pedal and page.  ``p`` resumes a paused session."""
CLEAR, CONFIRM, CONFIRM_S = "c", "y", 5.0
"""``clear`` lets a stopped arm move again, so it takes two keys, the second within so many seconds."""

CODES = {2: "1", 11: "0", 32: "d", 19: "r", 25: "p", 57: " ", 1: "\x1b"}
"""Linux key codes (input-event-codes.h) of a pedal that was set to send our own keys."""
PEDALS = CODES | {30: "0", 48: " ", 46: "1"}
"""... and of a triple foot switch as delivered (a, b, c): left failure, middle e-stop, right success."""


def press(key: str, moment: Moment, source: str) -> OperatorInput | None:
    """What a key means now; ``None``: nothing."""
    kind = KEYS.get(key.lower())
    if kind is None:
        return None
    if kind is Input.PAUSE and moment.paused:
        kind = Input.RESUME
    if kind in signals.LABELS:
        return OperatorInput(kind=kind, episode=moment.label_episode, source=source) if moment.label_episode else None
    return OperatorInput(kind=kind, episode=moment.episode if kind is Input.RESET_DONE else None, source=source)


# -- readers ---------------------------------------------------------------------------------------------------------


class Reader:
    """A thread that waits on a file descriptor.

    Args:
        fd: What to read; closed by whoever opened it.
        on_lost: Called once with a sentence when the device goes away: an e-stop pedal that was pulled out must not go unnoticed.
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
        self.on_lost(f"{self.name} is lost ({why}): plug it in again and restart the session's operator")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        os.write(self._wake[1], b".")
        if self._thread is not threading.current_thread():
            self._thread.join()
        for end in self._wake:
            os.close(end)


class Keyboard(Reader):
    """Single keys of a terminal, without Enter and without echo.

    Ctrl-C stays what it is; the keys that suspend or dump are switched off, because a suspended operator cannot stop anything.  Function
    keys begin with an escape character and so are an e-stop: whoever hits the keyboard in a hurry is understood.  The terminal gets its
    settings back on exit, exceptions, SIGTERM and SIGHUP (signal handlers need the main thread); after SIGKILL type ``stty sane``.

    Args:
        fd: Of a terminal.
        emit: Takes the inputs, in the reader's thread.
        moment: Tells the present moment.
        on_lost: See :class:`Reader`.
        clock: For the confirmation of ``clear`` [s].

    Raises:
        EnvironmentProblem: not a terminal.
    """

    name = "keyboard"

    def __init__(
        self,
        fd: int,
        emit: Emit,
        moment: Callable[[], Moment],
        *,
        on_lost: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not os.isatty(fd):
            raise EnvironmentProblem("the keyboard needs a terminal", remedy="run it in one, or use the console page")
        super().__init__(fd, on_lost=on_lost)
        self.emit, self.moment, self.clock = emit, moment, clock
        self._settings = termios.tcgetattr(fd)
        self._handlers: dict[int, Any] = {}
        self._asked = -CONFIRM_S

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._handlers[number] = signal.signal(number, self._killed)
        tty.setcbreak(self.fd, termios.TCSANOW)
        settings = termios.tcgetattr(self.fd)
        for key in (termios.VSUSP, termios.VQUIT):
            settings[6][key] = b"\0"
        termios.tcsetattr(self.fd, termios.TCSANOW, settings)
        return super().__enter__()

    def __exit__(self, *exc: object) -> None:
        self.restore()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        super().__exit__(*exc)

    def restore(self) -> None:
        """Give the terminal its settings back; harmless when it is gone."""
        with contextlib.suppress(termios.error, OSError):
            termios.tcsetattr(self.fd, termios.TCSANOW, self._settings)

    def _killed(self, number: int, frame: FrameType | None) -> None:
        """Restore, then do what the signal would have done."""
        self.restore()
        before = self._handlers[number]
        if callable(before):
            before(number, frame)
        else:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def take(self, data: bytes) -> None:
        text = data.decode("utf-8", "replace")
        head, escape, _ = text.partition("\x1b")  # what follows an escape in the same read is a function key's rest
        for key in [*head, *escape]:
            asked, self._asked = self._asked, -CONFIRM_S
            if key.lower() == CLEAR:
                self._asked = self.clock()
            elif key.lower() == CONFIRM and 0 <= self.clock() - asked < CONFIRM_S:
                self.emit(OperatorInput(kind=Input.CLEAR, source=self.name))
            elif found := press(key, self.moment(), self.name):
                self.emit(found)


class Pedal(Reader):
    """A foot switch, or any keyboard-like device, by the kernel's evdev protocol.

    Args:
        fd: Of ``/dev/input/event*`` (``/dev/input/by-id`` has the names), or a pipe.
        emit: Takes the inputs, in the reader's thread.
        moment: Tells the present moment.
        keys: Linux key code to a key of :data:`KEYS`.
        on_lost: See :class:`Reader`.
    """

    name = "pedal"
    event = struct.Struct("@llHHi")
    """``struct input_event``: seconds, microseconds, type, code, value."""
    EV_SYN, SYN_DROPPED, EV_KEY, PRESSED = 0, 3, 1, 1
    EVIOCGRAB = 0x40044590

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
        if stat.S_ISCHR(os.fstat(fd).st_mode):  # ours alone: a pedal must not type into terminals and pages as well
            with contextlib.suppress(OSError):
                fcntl.ioctl(fd, self.EVIOCGRAB, 1)

    def take(self, data: bytes) -> None:
        data = self._rest + data
        whole = len(data) - len(data) % self.event.size
        self._rest = data[whole:]
        for _, _, kind, code, value in self.event.iter_unpack(data[:whole]):
            if kind == self.EV_KEY and value == self.PRESSED and code in self.keys:  # neither a release nor a repetition
                if found := press(self.keys[code], self.moment(), self.name):
                    self.emit(found)
            elif kind == self.EV_SYN and code == self.SYN_DROPPED:
                # The kernel threw presses away because nobody read them; one of them may have been a stop.
                self.emit(OperatorInput(kind=Input.ESTOP, source=self.name))


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


class Script:
    """A list of inputs, given at once: the operator of a test.

    Args:
        inputs: In order.
        emit: Takes them, in the caller's thread.
    """

    name = "scripted"

    def __init__(self, inputs: Iterable[OperatorInput], emit: Emit) -> None:
        self.inputs, self.emit = list(inputs), emit

    def __enter__(self) -> Self:
        for found in self.inputs:
            self.emit(found)
        return self

    def __exit__(self, *exc: object) -> None:
        pass
