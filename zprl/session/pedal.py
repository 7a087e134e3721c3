"""The foot pedal: its keys, and the thread that reads it.

A foot switch types like a keyboard, in the kernel's evdev protocol (``/dev/input/event*``).  Each
press becomes an :class:`~zprl.session.inputs.OperatorInput`, which ``emit`` takes without blocking.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import stat
import struct
from collections.abc import Callable
from dataclasses import replace

from zprl.session import events
from zprl.session.clock import now
from zprl.session.events import Input
from zprl.session.inputs import PEDAL, InputReader, Moment, OperatorInput

BOUNCE_S = 0.3
"""Seconds in which a second press is a contact that bounces, or a foot that slips."""
CONFIRM_S = 5.0
"""Seconds within which the second press of `clear` must follow the first."""
READ_EVENTS = 64
"""Events of the kernel taken in one read."""
MICROSECOND = 1e-6
NEVER = (-math.inf, None)
"""Time and situation of a first press of `clear` that was not made."""

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
"""Those of the operator's page, and Enter, which is the pedal's alone; ``p`` resumes a paused
session."""
CODES = {2: "1", 11: "0", 32: "d", 19: "r", 25: "p", 57: " ", 1: "\x1b", 28: "\r"}
"""Linux key codes (input-event-codes.h) of a pedal that was set to send our own keys."""
PEDALS = CODES | {30: "0", 48: " ", 46: "1"}
"""... and of a triple foot switch as delivered (a, b, c): left failure, middle e-stop, right
success."""

Emit = Callable[[OperatorInput], None]


def press(key: str, moment: Moment, source: str) -> OperatorInput | None:
    """Return the input that a key means at a moment; ``None``: none."""
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


class Pedal(InputReader):
    """A foot switch, or any keyboard-like device, by the kernel's evdev protocol.

    Args:
        fd: File descriptor of ``/dev/input/event*`` (``/dev/input/by-id`` has the names), or of a
            pipe.
        emit: Takes the inputs, in the reader's thread.
        moment: Returns the present moment.
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
        self.emit = emit
        self.moment = moment
        self.keys = keys
        self.chunk = READ_EVENTS * self.event.size
        self.stamped = False
        """True where the kernel stamps keys on the session's clock: one pressed while this process
        stood still is old."""
        self._rest = b""
        self._first_clear: tuple[float, int | None] = NEVER
        if stat.S_ISCHR(os.fstat(fd).st_mode):
            self._set_up_device()

    def _set_up_device(self) -> None:
        """Take the device for this process alone, and have it stamp its keys."""
        # A pedal must not type into terminals and pages as well.
        with contextlib.suppress(OSError):
            fcntl.ioctl(self.fd, self.EVIOCGRAB, 1)
        with contextlib.suppress(OSError):
            fcntl.ioctl(self.fd, self.EVIOCSCLOCKID, struct.pack("i", self.CLOCK_BOOTTIME))
            self.stamped = True

    def take(self, data: bytes) -> None:
        """Emit the inputs of one read; a part of an event waits for its rest."""
        data = self._rest + data
        whole = len(data) - len(data) % self.event.size
        self._rest = data[whole:]

        for seconds, microseconds, kind, code, value in self.event.iter_unpack(data[:whole]):
            # Neither a release nor a repetition.
            if kind == self.EV_KEY and value == self.PRESSED and code in self.keys:
                at = seconds + MICROSECOND * microseconds if self.stamped else now()
                self._pressed(self.keys[code], at)
            elif kind == self.EV_SYN and code == self.SYN_DROPPED:
                # The kernel threw presses away because nobody read them; one of them may have been
                # a stop.
                self.emit(OperatorInput(kind=Input.ESTOP, source=self.name))

    def _pressed(self, key: str, at: float) -> None:
        """Emit the input of a key; `clear`, which lets a stopped arm move, takes two presses.

        Args:
            key: One of :data:`KEYS`.
            at: When it was pressed, on the session's clock [s].
        """
        moment = self.moment()
        known = moment if moment.at is None else replace(moment, at=min(moment.at, at))
        made = press(key, known, self.name)
        first, seq = self._first_clear
        self._first_clear = NEVER

        if made is None:
            return
        if made.kind is not Input.CLEAR:
            self.emit(made)
        elif at - first < BOUNCE_S:
            self._first_clear = first, seq
        elif at - first > CONFIRM_S or seq != known.seq:
            # The first press, or one for another situation.
            self._first_clear = at, known.seq
        else:
            self.emit(made)
