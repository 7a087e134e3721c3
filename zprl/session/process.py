"""The frame of every process of a session: its settings, its loop, its beat and its end.

The supervisor starts a child as ``python -m MODULE settings.json``; the file holds
:class:`Settings`.  A child dies with its parent, ends at SIGTERM, and reports a failure as one
sentence on the bus and in its log.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

from pydantic import Field

from zprl import durable, logs
from zprl.config import Real
from zprl.errors import ZprlError
from zprl.parent_death import die_with_parent
from zprl.recordings import conditions
from zprl.recordings.conditions import Conditions
from zprl.strict_model import StrictModel
from zprl.terminal import say_error

BEAT_S = 0.2
"""Seconds between two beats of a process."""


class Settings(StrictModel):
    """Settings of a child; written by the supervisor, read once."""

    session: Path = Field(description="The session's folder.")
    sockets: Path = Field(description="Folder of the sockets.")
    work: Path = Field(description="Folder of weights, checkpoints and logs: never data.")
    config: Real
    seed: int
    digests: dict[str, str] = Field(
        default_factory=dict, description="Of task and limits, as the supervisor has them in force."
    )
    rings: str = Field("zprl", description="Prefix of the cameras' shared memory.")
    console_host: str = "127.0.0.1"
    console_port: int = 0
    console_fd: int | None = Field(
        None, description="Socket of the page that the supervisor holds open and hands down."
    )
    robot_sim: Path | None = Field(
        None, description="Folder of the simulated robot's control sockets, where it is one."
    )

    def conditions(self) -> Conditions:
        """Load the task and the limits that the session runs under.

        Raises:
            DataError: they are not what the supervisor has in force.
        """
        in_force = conditions.load(self.session)
        in_force.check(self.digests)
        return in_force


class Stopping:
    """True once the process was asked to stop."""

    def __init__(self) -> None:
        self._asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def __bool__(self) -> bool:
        return self._asked


class Heartbeat:
    """The beat by which a process shows that it is alive, on a schedule of its own.

    Args:
        send: Publishes one beat.
    """

    def __init__(self, send: Callable[[], None]) -> None:
        self._send = send
        self._last = -math.inf

    def tick(self) -> None:
        """Beat if the last one is :data:`BEAT_S` old.  To be called all the time."""
        now = time.monotonic()
        if now - self._last > BEAT_S:
            self._last = now
            self._send()


def turns(stopping: Stopping, beat: Callable[[], None]) -> Iterator[None]:
    """Yield the turns of a process's loop until it is asked to stop, with a beat between them.

    Args:
        stopping: True once the process was asked to stop.
        beat: Publishes one beat; called after a turn, every :data:`BEAT_S`.
    """
    heartbeat = Heartbeat(beat)
    while not stopping:
        yield
        heartbeat.tick()


def main(body: Callable[[Settings, Stopping], None]) -> NoReturn:
    """Run a child to its end."""
    die_with_parent(int(sys.argv[2]) if len(sys.argv) > 2 else None)

    code = 0
    try:
        logs.configure()
        settings = Settings.model_validate(durable.read_json(sys.argv[1]))
        settings.conditions()
        body(settings, Stopping())
    except ZprlError as error:
        say_error(error)
        code = error.exit_code
    except Exception:  # noqa: BLE001 - the last line of defence of a process
        traceback.print_exc()
        code = 1

    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # client libraries' threads must not keep a stopped process alive
