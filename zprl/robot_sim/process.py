"""Start and end simulated robots from code."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

from zprl import child_processes
from zprl.errors import EnvironmentProblem
from zprl.robot_sim.control import SimControl, TrackerFeed
from zprl.robot_sim.sim_gap import SimGap

POLL_S = 0.02
"""Time between two looks whether a new process answers [s]."""
PROBE_S = 0.5
"""Longest wait for one answer of a new process [s]."""
TERMINATE_S = 2.0
"""Longest wait for a process to end by itself [s]."""
LAST_WORDS = 500
"""Characters at the end of the log that an error repeats."""


class RobotProcess:
    """A simulated robot in a process of its own, which dies with the thread that started it.

    Subclasses answer :meth:`probe`; each is a context manager that yields itself.

    Args:
        module: Run by ``python -m``.
        host: Loopback address; two simulated robots at a time need two of them.
        folder: For its sockets and its log; ``None``: a temporary one.
        remedy: For a process that ends at once.
        arguments: Of the module, besides host, folder and parent.
    """

    def __init__(
        self,
        module: str,
        host: str,
        folder: Path | None,
        *,
        remedy: str,
        arguments: tuple[str, ...] = (),
    ) -> None:
        self.host = host
        self._own = folder is None
        self.folder = (
            Path(tempfile.mkdtemp(prefix="robot-sim-")) if folder is None else Path(folder)
        )
        self._remedy = remedy
        self._process: subprocess.Popen[bytes] | None = None

        common = ("--host", host, "--folder", str(self.folder), "--parent", str(os.getpid()))
        self._command = child_processes.python("-m", module, *common, *arguments)

    @property
    def pid(self) -> int:
        """Identifier of the process."""
        assert self._process is not None
        return self._process.pid

    def probe(self) -> None:
        """Request the state.

        Raises:
            EnvironmentProblem: it does not answer.
        """
        raise NotImplementedError

    def start(self, timeout: float = 30.0) -> Self:
        """Start it and wait until it answers.

        Raises:
            EnvironmentProblem: it ended, with its last words, or does not answer.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / "log"
        with open(log, "wb") as file:
            process = self._process = subprocess.Popen(
                self._command,
                stdout=file,
                stderr=file,
                stdin=subprocess.DEVNULL,
                env=child_processes.environment(),
            )

        end = time.monotonic() + timeout
        while True:
            try:
                self.probe()
            except EnvironmentProblem as error:
                if process.poll() is not None:
                    words = log.read_text(errors="replace").strip()[-LAST_WORDS:]
                    raise EnvironmentProblem(
                        f"the simulated robot at {self.host} ended: {words}", remedy=self._remedy
                    ) from error
                if time.monotonic() > end:
                    self.stop()
                    raise
            else:
                return self
            time.sleep(POLL_S)

    def stop(self) -> None:
        """End it, in whatever state it is."""
        process, self._process = self._process, None
        if process is not None:
            # A test may have stopped it to see what a client does.
            process.send_signal(signal.SIGCONT)
            process.terminate()
            try:
                process.wait(TERMINATE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

        if self._own:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()


class SimProcess(RobotProcess):
    """A simulated Franka.

    Args:
        host: Loopback address; two simulated robots at a time need two of them.
        speed: Robot seconds per second while a client is connected; 0: as fast as it goes.
        seed: Of lost packets and of the tracker's noise.
        gap: Physical differences; the defaults of :class:`SimGap`.
        folder: For its sockets; a temporary one by default.
        patience: Longest wait for a client's answer [s].
    """

    def __init__(
        self,
        host: str,
        *,
        speed: float = 1.0,
        seed: int = 0,
        gap: SimGap | None = None,
        folder: Path | None = None,
        patience: float = 0.02,
    ) -> None:
        options = {
            "--speed": str(speed),
            "--seed": str(seed),
            "--gap": (gap or SimGap()).model_dump_json(),
            "--patience": str(patience),
        }
        super().__init__(
            "zprl.robot_sim.serve",
            host,
            folder,
            remedy="is its address in use?",
            arguments=tuple(word for option in options.items() for word in option),
        )
        self.control = SimControl(self.folder)

    def probe(self) -> None:
        """Request the state."""
        with SimControl(self.folder, timeout=PROBE_S) as control:
            control.state()

    def tracker(self) -> TrackerFeed:
        """Return a reader of its tracker; the caller closes it."""
        return TrackerFeed(self.folder)

    def stop(self) -> None:
        """End it, in whatever state it is."""
        super().stop()
        self.control.close()
