"""Inputs of the operator, and the thread that reads a device.

A device beside the robot (:mod:`~zprl.session.pedal`, :mod:`~zprl.session.spacemouse`) and the
operator's page make the same :class:`OperatorInput`.
"""

from __future__ import annotations

import getpass
import os
import re
import select
import threading
import unicodedata
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    BeforeValidator,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from zprl.errors import EnvironmentProblem
from zprl.session import events
from zprl.session.contents import Contents
from zprl.session.events import Input

Nonce = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
EpisodeNumber = Annotated[int, Field(ge=1, lt=1_000_000)]
Seq = Annotated[int, Field(ge=0, lt=2**53)]
Stamp = Annotated[float, Field(ge=0, allow_inf_nan=False)]

PRESS_S = 2.0
"""Seconds after which a press counts no more, however it was held up; the e-stop always counts."""
PEDAL, CONSOLE = "pedal", "console"
"""Sources of presses: the foot pedal, and the operator's page."""
INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0\ufe00-\ufe0f\U000e0000-\U000e0fff]"
)
"""Letters and marks that Unicode lists as ignorable (Default_Ignorable_Code_Point)."""


def _visible(name: str) -> str:
    """Return a name in its composed form; refuse characters that cannot be seen."""
    name = unicodedata.normalize("NFC", name).strip()
    if INVISIBLE.search(name):
        raise ValueError("a name has no invisible characters")
    return name


Author = Annotated[
    str,
    BeforeValidator(_visible),
    Field(max_length=60, pattern=r"^[\p{L}\p{N}_][\p{L}\p{M}\p{N}_ .'@+-]*$"),
]
"""Name of a person: composed, without characters that cannot be seen."""


def this_user() -> str:
    """Return the user who runs this process, as the author of presses beside it."""
    try:
        return TypeAdapter(Author).validate_python(getpass.getuser())
    except (OSError, KeyError, ValidationError):
        # No such account, as in some containers.
        return f"uid {os.getuid()}"


class OperatorInput(Contents):
    """One press; the same nonce twice is one input."""

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
        description="Number of the situation that it answers (`Machine.seq`); "
        "null: of none, for the e-stop.",
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
            raise ValueError("a press on the page names its author")
        return self

    def body(self) -> dict[str, Any]:
        """Return the JSON object of the message, with the nonce even where it was made here."""
        return self.model_dump(mode="json")

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
        """Return the event that the state machine takes."""
        return events.InputEvent(self.kind, self.nonce, self.source, self.episode, self.author)


@dataclass(frozen=True)
class Moment:
    """State of the session at a press: a key does not know which episode it is about.

    Attributes:
        episode: The open episode, or the next one.
        label_episode: Episode that a label pressed now is about; ``None``: there is none to label.
        paused: Whether the session is paused, so that one key can pause and resume.
        seq: Number of the situation, which a press names.
        at: When the session last published it (:func:`zprl.session.clock.now`) [s].
    """

    episode: int | None = None
    label_episode: int | None = None
    paused: bool = False
    seq: int | None = None
    at: float | None = None


# -- devices ---------------------------------------------------------------------------------------


class InputReader:
    """A thread that waits on a file descriptor; a context manager.

    Args:
        fd: File descriptor to read; the caller closes it.
        on_lost: Called once with a sentence when the device goes away: an e-stop pedal that was
            pulled out must not go unnoticed.
    """

    name = "reader"
    chunk = 4096

    def __init__(self, fd: int, *, on_lost: Callable[[str], None] = lambda _: None) -> None:
        self.fd = fd
        self.on_lost = on_lost
        self._wake = os.pipe()
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)

    def take(self, data: bytes) -> None:
        """Act on the bytes of one ``read``."""
        raise NotImplementedError

    def _run(self) -> None:
        """Read until the context ends or the device is lost."""
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
        """Report that the device is gone, and why."""
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
