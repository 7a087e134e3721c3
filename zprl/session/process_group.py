"""The processes of a session: started, watched and ended by the supervisor."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from zprl import child_processes
from zprl.errors import EnvironmentProblem
from zprl.robot.task import SIMULATED_KIND, RealTask, SensorKind
from zprl.session.camera_history import ring_name
from zprl.session.process import Settings

FROZEN_S = 20.0
"""Silence after which a process that is alive counts as frozen and is replaced."""
BEGINNING_S = 300.0
"""The same for one that has sent no message yet: a busy machine takes its time to load it."""
RESTARTS, RESTART_WINDOW_S = 6, 60.0
STOP_S, LAST_STOP_S = 8.0, 0.1
"""Seconds in which all processes have to end, and the least that each is given."""
MAX_WORDS = 300
CAMERA = "camera-"
MODULES = {
    "driver": "zprl.session.processes.driver",
    "actor": "zprl.session.processes.actor",
    "learner": "zprl.session.processes.learner",
    "recorder": "zprl.session.processes.recorder",
    "console": "zprl.session.processes.console.process",
    "operator_devices": "zprl.session.processes.operator_devices",
    "scripted": "zprl.session.processes.scripted_operator",
}
"""Module of each process, started with ``python -m``; a camera's is the shared memory ring's."""


@dataclass
class SessionProcess:
    """One process of the session.

    Attributes:
        name: Name of the process.
        process: The process itself.
        last_message_at: When its last message came, host's monotonic clock [s].
        back: Whether it has sent a message.
        replaces: Whether another of its name ran before it.
        tightened: Whether it was asked to end, to start again with tighter limits.
        starts: When it and those before it were started [s].
    """

    name: str
    process: subprocess.Popen[bytes]
    last_message_at: float
    back: bool = False
    replaces: bool = False
    tightened: bool = False
    starts: deque[float] = field(default_factory=deque)

    @property
    def sends_messages(self) -> bool:
        """Return whether it sends messages: an old image of a camera is refused by the actor."""
        return not self.name.startswith(CAMERA)

    def kill_if_frozen(self) -> None:
        """Kill it if it has been silent for too long."""
        patience = FROZEN_S if self.back else BEGINNING_S
        if self.sends_messages and time.monotonic() - self.last_message_at > patience:
            self.process.kill()
            self.process.wait()


def command(name: str, settings: Settings, task: RealTask) -> list[str]:
    """Return module and arguments of a process."""
    if name in MODULES:
        return [MODULES[name], str(settings.work / "settings.json"), str(os.getpid())]

    camera = name.removeprefix(CAMERA)
    kind: SensorKind = task.sensors[camera]
    if settings.robot_sim is not None:
        kind = task.sensors[camera].simulated or kind
    config = dict(kind.config)
    if kind.kind.startswith(SIMULATED_KIND):
        config[SIMULATED_KIND] = str(settings.robot_sim)
    return [
        "zprl.robot.sensors.shared_memory_ring",
        "--ring",
        ring_name(settings.rings, camera),
        "--kind",
        kind.kind,
        "--config",
        json.dumps(config),
    ]


class ProcessGroup:
    """All processes of a session.

    Args:
        work: Folder of the logs.
        command: Returns module and arguments of a process.

    Attributes:
        children: Name to process.
        console_fd: Socket of the operator's page, which its process inherits.
    """

    def __init__(self, work: Path, command: Callable[[str], list[str]]) -> None:
        self.work, self.command = work, command
        self.children: dict[str, SessionProcess] = {}
        self.console_fd: int | None = None

    def spawn(self, name: str) -> None:
        """Start a process, or its successor.

        Raises:
            EnvironmentProblem: it does not stay alive.
        """
        begun = time.monotonic()
        before = self.children.get(name)
        starts = before.starts if before else deque(maxlen=RESTARTS)
        if len(starts) == RESTARTS and begun - starts[0] < RESTART_WINDOW_S:
            often = f"ended {RESTARTS} times within {RESTART_WINDOW_S:.0f} s"
            raise EnvironmentProblem(
                f"process '{name}' {often}: {self.last_log_line(name)}",
                remedy=f"read {self._log(name)}; the same command continues",
            )
        starts.append(begun)

        page = [] if name != "console" or self.console_fd is None else [self.console_fd]
        with open(self._log(name), "ab") as log:
            process = subprocess.Popen(
                child_processes.python("-m", *self.command(name)),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=child_processes.environment(OMP_NUM_THREADS="1", PYTHONUNBUFFERED="1"),
                start_new_session=True,
                pass_fds=page,
            )
        replaces = before is not None
        self.children[name] = SessionProcess(name, process, begun, replaces=replaces, starts=starts)

    def silent(self) -> list[str]:
        """Return the processes that have sent no message yet."""
        return [
            name for name, child in self.children.items() if child.sends_messages and not child.back
        ]

    def terminate(self, *names: str) -> None:
        """Ask processes to end that have not failed: they start again with tighter limits."""
        for name in names:
            if name in self.children:
                self.children[name].starts.clear()
                self.children[name].tightened = True
                self.children[name].process.terminate()

    def end(self) -> None:
        """End all processes: politely, then not."""
        for child in self.children.values():
            if child.process.poll() is None:
                child.process.send_signal(signal.SIGTERM)

        end = time.monotonic() + STOP_S
        for child in self.children.values():
            try:
                child.process.wait(max(LAST_STOP_S, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()

    def last_log_line(self, name: str) -> str:
        """Return the last line of a process's log that is no remedy."""
        try:
            lines = self._log(name).read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        words = [line for line in lines if line.strip() and not line.startswith("  remedy:")]
        return words[-1][:MAX_WORDS] if words else "its log is empty"

    def _log(self, name: str) -> Path:
        return self.work / f"{name}.log"
