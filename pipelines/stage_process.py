"""One stage as a child process group: streamed lines, its own exit code, no orphan.

DVC hides a stage's exit code behind its own 255; the code is read back from DVC's message, so that
"your data is bad" (3) stays different from "a bug" (1).
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from zprl import child_processes
from zprl.errors import EnvironmentProblem, Interrupted, ZprlError
from zprl.terminal import plain

Say = Callable[[str], None]

LOCK_WAIT_S = 900.0
LOCK_POLL_S = 5.0
LOOK_S = 0.2
"""Seconds between two looks whether a child has ended: short, so that signals get through."""
STOP_GRACE_S = (60.0, 10.0, 5.0)
"""Seconds to wait after SIGINT (stop at the next resume point), SIGTERM and SIGKILL."""

_EXITED = re.compile(r"failed to run: .*, exited with (-?\d+)")
_BUSY = re.compile(r"is busy, it is being blocked by|Unable to acquire lock")
_SKIPPED = re.compile(
    r"^Stage '[^']*' didn't change, skipping|^Stage '[^']*' is cached - skipping run"
)


class StageError(ZprlError):
    """A stage ended with an exit code other than 0."""

    def __init__(self, stage: str, code: int) -> None:
        meaning = {
            2: "configuration",
            3: "bad data",
            4: "environment",
            5: "interrupted, resumable",
            6: "gate refused",
        }
        super().__init__(
            f"stage '{stage}' failed with exit code {code} ({meaning.get(code, 'unexpected')})",
            remedy="read its last lines above; "
            "after the repair the same command continues at this stage",
        )
        self.stage = stage
        # The stage's own code goes on to the caller; a signal or an unknown code is a bug (1).
        self.exit_code = code if code in meaning else 1  # type: ignore[misc]


@dataclass(frozen=True)
class StageResult:
    """Result of a stage: ``skipped`` where DVC had nothing to do."""

    stage: str
    skipped: bool
    seconds: float


@contextmanager
def sigterm_like_ctrl_c() -> Iterator[None]:
    """Have SIGTERM take the same way out as Ctrl-C; for the main thread.

    Prefect hands a SIGTERM on to the handler from before the flow.  That would be Python's default,
    which ends the process at once, and nothing would stop the temporary server that Prefect
    started.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _group_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def stop_group(
    process: subprocess.Popen[str] | subprocess.Popen[bytes],
    *,
    grace: tuple[float, ...] = STOP_GRACE_S,
) -> None:
    """End a child and everything in its process group.

    SIGINT first: dvc ignores it while a stage runs, and the stage stops at its next resume point.
    SIGTERM would make dvc die at once and its stage be asked twice, which means "stop now".
    """
    for number, seconds in zip((signal.SIGINT, signal.SIGTERM, signal.SIGKILL), grace, strict=True):
        if not _group_alive(process.pid):
            break
        with suppress(ProcessLookupError):  # it may have ended just now
            os.killpg(process.pid, number)
        end = time.monotonic() + seconds
        while time.monotonic() < end and (process.poll() is None or _group_alive(process.pid)):
            time.sleep(0.05)
    process.poll()


def stream(
    command: list[str],
    say: Say,
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: int | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> tuple[int, list[str]]:
    """Run a command as a process group of its own.

    Args:
        command: Program and arguments.
        say: Receives every line.
        cwd: Working folder.
        env: Variables beside this process's own.
        stdin: File descriptor that it reads; default: this process's own input.
        stopping: Called five times a second; true stops the process, also from a thread.

    Returns:
        Its exit code, and the lines that look like DVC's messages of failure, lock or skip.

    Raises:
        Interrupted: it was stopped.
    """
    variables = {"PYTHONUNBUFFERED": "1", "ZPRL_PYTHON": sys.executable, **(env or {})}
    process = subprocess.Popen(
        command,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        errors="replace",  # and so text
        start_new_session=True,
        env=child_processes.environment(**variables),
        cwd=cwd,
    )

    marks: list[str] = []
    reader = threading.Thread(target=_drain, args=(process, say, marks), daemon=True)
    reader.start()
    try:
        while reader.is_alive():
            reader.join(LOOK_S)
            if stopping():
                raise Interrupted("stopped on request")
        return process.wait(), marks
    except BaseException:  # Ctrl-C and Prefect's SIGTERM land here
        stop_group(process)
        reader.join(5)
        raise


def _drain(process: subprocess.Popen[str], say: Say, marks: list[str]) -> None:
    """Pass on a process's lines until its end; add those of DVC to ``marks``."""
    for line in process.stdout or ():
        text = plain(line.rstrip())
        if _EXITED.search(text) or _BUSY.search(text) or _SKIPPED.search(text):
            marks.append(text)
        if text:
            say(text)


def run_stage(
    stage: str, say: Say, *, lock_wait_s: float = LOCK_WAIT_S, poll_s: float = LOCK_POLL_S
) -> StageResult:
    """Bring one stage up to date with ``dvc repro --single-item``.

    Args:
        stage: A stage of ``dvc.yaml`` whose inputs are up to date.
        say: Receives every line the stage prints.
        lock_wait_s: How long to wait for another dvc process that works in this folder, in seconds.
        poll_s: Seconds between two tries.

    Raises:
        StageError: with the stage's own exit code.
        EnvironmentProblem: another dvc process does not let go.
        Interrupted: the stage was asked to stop.
    """
    command = child_processes.python("-m", "pipelines.dvc_child", stage, str(os.getpid()))
    started = time.monotonic()
    while True:
        code, marks = stream(command, say)
        if code == 0:
            skipped = any(_SKIPPED.search(mark) for mark in marks)
            return StageResult(stage, skipped, time.monotonic() - started)

        # DVC's own code is 255 whatever the stage's is; its message has the stage's.
        exited = next((m for text in marks if (m := _EXITED.search(text))), None)
        if exited is not None:
            number = int(exited[1])
            if number == Interrupted.exit_code:
                raise Interrupted(f"stage '{stage}' stopped on request")
            raise StageError(stage, number)

        if not any(_BUSY.search(mark) for mark in marks):
            raise StageError(stage, code)
        if time.monotonic() - started > lock_wait_s:
            raise EnvironmentProblem(
                f"another dvc process has kept '{stage}' busy for {lock_wait_s:.0f} s",
                remedy="wait for it or stop it, then run again",
            )
        say(f"another dvc process works here; trying again in {poll_s:.0f} s")
        time.sleep(poll_s)
