"""Connection to a Franka: building the client, reading its states, letting go of it.

Three habits of libfranka and franky shape this module.  ``franky.Robot()`` puts the calling thread
into SCHED_FIFO 99, which every later thread and process inherits: it is called in a thread of its
own, and the policy is reset besides.  After a second without states a ``Robot`` object is dead
for good.  A client that is alive when the interpreter ends makes C++ abort, with the arm still
under control: it is destroyed before.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from zprl.robot.base import RobotError
from zprl.robot.driver_parts import call_in_thread, first_line
from zprl.robot.franka_config import FrankaConfig

RELEASE_S = 6.0
"""Longest wait for the arm to come to rest and for the client to end [s]."""

REST_S = 3.0
"""Longest wait for the torques to ramp down before the hard stop [s]."""

CLOSE_S = 2.0
"""Longest wait for a read under way [s]; on a dead network it takes a second."""

YIELD_S = 0.0005
"""Pause between two reads [s], in which another thread can take the lock."""


def open_client(config: FrankaConfig) -> Any:
    """Return a new ``franky.Robot``, built in a thread because that may block for a minute.

    Raises:
        RobotError: nobody answers, or real-time scheduling is missing.
    """
    import franky

    modes = {"ignore": franky.RealtimeConfig.Ignore, "enforce": franky.RealtimeConfig.Enforce}
    clients: list[Any] = []
    _, error = call_in_thread(
        lambda: clients.append(
            franky.Robot(config.host, realtime_config=modes[config.realtime]),
        ),
        config.connect_timeout,
        name="franka-connect",
    )
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))

    if error is not None:
        raise RobotError(
            f"cannot connect to the Franka at {config.host}: {first_line(error)}",
            remedy="check power, network, FCI and the real-time kernel",
        ) from error
    if not clients:
        raise RobotError(
            f"the Franka at {config.host} does not answer",
            remedy="check power, network and FCI",
        )
    return clients[0]


class StateWatcher(threading.Thread):
    """Reader of states while nobody is in control.

    A read blocks for a millisecond, or for a second on a dead network.

    Args:
        client: The ``franky.Robot``.
        report: Receives a state and an empty text, or ``None`` and the error that ends the thread.
    """

    def __init__(self, client: Any, report: Callable[[Any, str], None]) -> None:
        super().__init__(name="franka-watcher", daemon=True)
        self._client: Any = client
        self._report = report
        self._reading = threading.Event()
        self._seen = threading.Event()
        self._turn = threading.Lock()
        self._closed = False
        self._reading.set()

    def read(self) -> None:
        """Read from now on."""
        self._seen.clear()
        self._reading.set()

    def rest(self) -> None:
        """Stop reading until the next :meth:`read`."""
        self._reading.clear()

    def paused(self) -> threading.Lock:
        """Return a lock that keeps it from reading.

        The client cannot read states and start a motion at the same time.
        """
        return self._turn

    def seen(self, seconds: float) -> bool:
        """Wait for the first state since :meth:`read`.

        Returns:
            False where none came or the connection is lost.
        """
        return self._seen.wait(seconds) and self.is_alive()

    def fresh(self, seconds: float) -> bool:
        """Wait for a state that arrives after this call.

        Returns:
            False where none came or the connection is lost.
        """
        self._seen.clear()
        return self.seen(seconds)

    def close(self) -> None:
        """End the thread and forget the client."""
        self._closed = True
        self._reading.set()
        self.join(CLOSE_S)
        self._client = None

    def run(self) -> None:
        """Read until closed or lost."""
        while True:
            self._reading.wait()

            with self._turn:
                if self._closed:
                    return
                if not self._reading.is_set():
                    continue
                try:
                    state = self._client.state
                except Exception as error:  # noqa: BLE001 - franky's have no common base
                    self._report(None, first_line(error))
                    return
                self._report(state, "")

            self._seen.set()
            time.sleep(YIELD_S)


def release(held: list[Any]) -> None:
    """Bring the arm to rest and destroy the client, at most some seconds.

    Args:
        held: List with the last reference to the client; empty afterwards.
    """
    # By a thread: a client whose robot is dead may hang even while it is destroyed.
    try:
        call_in_thread(lambda: _let_go(held), RELEASE_S, name="franka-release")
    except RuntimeError:  # the interpreter is ending and starts no more threads
        _let_go(held)


def _let_go(held: list[Any]) -> None:
    import franky

    with contextlib.suppress(Exception):  # it may be dead: then there is nothing to bring to rest
        if held[0].is_in_control:
            held[0].move(franky.TorqueStopMotion(), asynchronous=True)
            if not held[0].join_motion(REST_S):
                held[0].stop()
    held.clear()


def is_idle(state: Any) -> bool:
    """Return True where a state says that the robot waits without an error."""
    return state.robot_mode.name == "Idle" and not any(state.current_errors.__getstate__())


def error_flags(errors: Any) -> tuple[str, ...]:
    """Return the names of the error flags that are set, sorted."""
    if not any(errors.__getstate__()):
        return ()
    names = (name for name in dir(type(errors)) if not name.startswith("_"))
    return tuple(sorted(name for name in names if getattr(errors, name)))
