"""Start and end a double from code."""

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


class SimProcess:
    """A double in a process of its own, which dies with the thread that started it; a context manager that yields itself.

    Args:
        host: Loopback address; two doubles at a time need two of them.
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
        self.host = host
        self._own = folder is None
        self.folder = Path(tempfile.mkdtemp(prefix="twin-")) if folder is None else Path(folder)
        self._arguments = [
            "--host",
            host,
            "--folder",
            str(self.folder),
            "--speed",
            str(speed),
            "--seed",
            str(seed),
        ]
        self._arguments += [
            "--gap",
            (gap or SimGap()).model_dump_json(),
            "--patience",
            str(patience),
            "--parent",
            str(os.getpid()),
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self.control = SimControl(self.folder)

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process is not None
        return self._process.pid

    def start(self, timeout: float = 30.0) -> Self:
        """Start it and wait until it answers.

        Raises:
            EnvironmentProblem: it ended, with its last words, or does not answer.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / "log"
        with open(log, "wb") as file:
            self._process = subprocess.Popen(
                child_processes.python("-m", "zprl.robot_sim.serve", *self._arguments),
                stdout=file,
                stderr=file,
                stdin=subprocess.DEVNULL,
                env=child_processes.environment(),
            )
        end = time.monotonic() + timeout
        with SimControl(self.folder, timeout=0.5) as control:
            while True:
                try:
                    control.state()
                    return self
                except EnvironmentProblem as error:
                    if self._process.poll() is not None:
                        words = log.read_text(errors="replace").strip()[-500:]
                        raise EnvironmentProblem(
                            f"the double at {self.host} ended: {words}",
                            remedy="is its address in use?",
                        ) from error
                    if time.monotonic() > end:
                        self.stop()
                        raise

    def tracker(self) -> TrackerFeed:
        """A reader of its tracker; close it yourself."""
        return TrackerFeed(self.folder)

    def stop(self) -> None:
        """End it, however it is doing."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(
                signal.SIGCONT
            )  # it may have been stopped to see what a client does
            process.terminate()
            try:
                process.wait(2.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.control.close()
        if self._own:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()
