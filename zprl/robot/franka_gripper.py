"""The Franka Hand, driven by two threads because its commands take as long as its motion."""

from __future__ import annotations

import threading
import time
from typing import Any

from zprl.robot.driver_parts import first_line
from zprl.robot.franka_config import FrankaConfig

ANY_WIDTH = 0.08
"""Tolerance of a grasp, inwards and outwards [m]: it accepts any width, because whether an object
is held is decided from the camera images, not by the hand's firmware."""

SAME_OPENING = 1e-6
"""Difference below which two requested openings are the same [m]."""

READ_S = 0.004
"""Pause between two reads of the opening [s]."""

CHECK_S = 0.01
"""Time between two checks whether a command under way is still wanted [s]."""

CLOSE_S = 1.5
"""Longest wait for each thread at the end [s]."""


class FrankaGripper:
    """Two threads: one reads the opening, one carries out the newest requested opening.

    A request that differs by ``gripper_step`` from the last command becomes one: opening wider is a
    move, closing is a grasp with the configured force that accepts any width.  A command that fails
    is reported and not repeated until the request changes.

    Attributes:
        opening: The newest measured opening [m].
        error: The newest failure; empty where there is none.
        ready: Set once the hand has answered, or has failed to.
    """

    def __init__(self, config: FrankaConfig) -> None:
        self._config = config
        self.opening = 0.0
        self.error = ""
        self.ready = threading.Event()

        self._requested: float | None = None
        self._changed = threading.Condition()
        self._closed = False
        self._gripper: Any = None
        self._threads = [
            threading.Thread(target=self._read, name="franka-hand-read", daemon=True),
            threading.Thread(target=self._obey, name="franka-hand-obey", daemon=True),
        ]

    def start(self) -> None:
        """Connect and read, in the background."""
        for thread in self._threads:
            thread.start()

    def want(self, opening: float) -> None:
        """Request an opening [m]; returns at once."""
        if self._requested is None or abs(opening - self._requested) > SAME_OPENING:
            with self._changed:
                self._requested = opening
                self._changed.notify()

    def close(self) -> None:
        """End both threads; the hand keeps what it holds."""
        with self._changed:
            self._closed = True
            self._changed.notify()

        for thread in self._threads:
            if thread.is_alive():
                thread.join(CLOSE_S)

    def _read(self) -> None:
        import franky

        try:
            gripper = franky.Gripper(self._config.host)
            self.opening = gripper.state.width
        except Exception as error:  # noqa: BLE001 - franky's exceptions have no common base
            self.error = first_line(error)
            self.ready.set()
            return
        self._gripper = gripper
        self.ready.set()

        while not self._closed:
            try:
                self.opening = gripper.state.width
            except Exception as error:  # noqa: BLE001 - as above
                self.error = f"hand: {first_line(error)}"
                return
            time.sleep(READ_S)

    def _obey(self) -> None:
        self.ready.wait()
        commanded = self.opening

        while self._gripper is not None:
            with self._changed:
                while not self._closed and not self._differs(commanded):
                    self._changed.wait()
                if self._closed:
                    return
                requested = self._requested
            assert requested is not None

            ended = self._carry_out(requested, wider=requested > commanded)
            # A request that comes back while its command is being stopped counts again.
            commanded = requested if ended else self.opening

    def _carry_out(self, requested: float, *, wider: bool) -> bool:
        """Command an opening; False when it was stopped because another one is requested."""
        gripper = self._gripper
        stopped = False
        try:
            future = self._command(requested, wider=wider)
            while not future.wait(CHECK_S):
                if not stopped and (self._closed or self._differs(requested)):
                    stopped = True
                    gripper.stop()  # ends the command under way
                    if self._closed:
                        return False
            future.get()
            self.error = ""
        except Exception as error:  # noqa: BLE001 - franky's exceptions have no common base
            if not stopped:
                self.error = f"hand: {first_line(error)}"
        return not stopped

    def _command(self, opening: float, *, wider: bool) -> Any:
        config = self._config
        if wider:
            return self._gripper.move_async(opening, config.gripper_speed)
        return self._gripper.grasp_async(
            opening, config.gripper_speed, config.gripper_force, ANY_WIDTH, ANY_WIDTH
        )

    def _differs(self, commanded: float) -> bool:
        requested = self._requested
        return requested is not None and abs(requested - commanded) >= self._config.gripper_step
