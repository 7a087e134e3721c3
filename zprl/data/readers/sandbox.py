"""Calls of functions in a child process, for files that may hang or crash the libraries.

A single zeroed byte, the size of a text in a heap, makes HDF5 2.0 loop for ever inside C, where no
exception and no signal handler helps (known from fuzzing).  The child has a memory limit, and each
call has a time limit, so that the bytes of a foreign file never meet a library in the parent.
Requests and answers are lines of JSON; a large answer goes into a file whose descriptor the parent
sends along.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, BinaryIO

from zprl import child_processes, durable
from zprl.data.readers.hdf5_guard import RefusedError
from zprl.errors import EnvironmentProblem
from zprl.parent_death import die_with_parent

MEMORY_BYTES = 8 * 2**30
MAX_LINE = 128 * 2**20
"""Longest line between the two, in bytes: 100,000 episodes of ten arrays have 60 MB."""
MAX_SENTENCE = 200
"""Letters of a library's error message that are repeated."""
START_S = 120.0
"""Time for the child to import its modules, on a slow disk too."""

BASE_S = 30.0
S_PER_BYTE = 1e-6
"""A file may take 30 s and one second per megabyte: two orders of magnitude more than it needs."""

DAMAGED = "copy it again from its source, or run `dvc pull`"


class Sandbox:
    """A child process that calls functions; started on first use and after each crash."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[str] | None = None
        self._files: socket.socket | None = None  # over which the child receives descriptors

    def call(
        self, function: str, *, limit_s: float, file: BinaryIO | None = None, **arguments: Any
    ) -> Any:
        """Call a function of this package in the child; arguments and answer are plain JSON.

        Args:
            function: Its module and name, ``module:name``.
            limit_s: Time that it may take [s].
            file: Passed to it as an argument ``file``, for answers that are large.
            **arguments: The other arguments.

        Raises:
            RefusedError: as the function refuses; D17 if it needs too much memory; D01 if it fails,
                does not end in time or ends the child.
            EnvironmentProblem: as the function raises it, for example when a disk is full.
        """
        request = {"call": function, "arguments": arguments, "file": file is not None}
        line, code = self._request(request, limit_s, None if file is None else file.fileno())
        if line is None:
            message = (
                f"reading it does not end within {limit_s:g} s"
                if code is None
                else f"reading it ends the reader with code {code}"
            )
            raise RefusedError("D01", message, DAMAGED)

        answer = durable.parse_json(line, "what was read", limit=MAX_LINE, allow_nan=True)
        if "problem" in answer:
            message, remedy = answer["problem"]
            raise EnvironmentProblem(message, remedy=remedy)
        if "refused" in answer:
            raise RefusedError(*answer["refused"])
        return answer["value"]

    def close(self) -> None:
        """End the child."""
        child, self._child = self._child, None
        files, self._files = self._files, None
        if files is not None:
            files.close()
        if child is not None:
            child.kill()
            child.communicate()

    def _request(
        self, request: dict[str, Any], limit_s: float, file: int | None
    ) -> tuple[str | None, int | None]:
        """Return the child's line, or ``None`` and the code with which the child ended.

        The code is ``None`` where the child was still running; it is ended then.
        """
        child = self._started()
        assert child.stdin is not None
        assert self._files is not None
        # A child that died at this very moment gives no answer either.
        with contextlib.suppress(OSError):
            if file is not None:
                socket.send_fds(self._files, [b"f"], [file])
            child.stdin.write(json.dumps(request) + "\n")
            child.stdin.flush()

        try:
            answer = self._answer(limit_s)
        except BaseException:
            # After an interrupt, say, the next request must not get this one's answer.
            self.close()
            raise

        code = child.poll() if answer is None else None
        if answer is None:
            self.close()
        return answer, code

    def _started(self) -> subprocess.Popen[str]:
        """Return the running child; start one where there is none."""
        if self._child is not None and self._child.poll() is None:
            return self._child

        self.close()
        self._files, childs_end = socket.socketpair()
        with childs_end:
            number = childs_end.fileno()
            self._child = subprocess.Popen(
                child_processes.python("-m", __name__, str(number)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                pass_fds=[number],
                env=child_processes.environment(),
            )
        if self._answer(START_S) is None:
            self.close()
            raise RuntimeError("the process that tries files first did not start")
        return self._child

    def _answer(self, limit_s: float) -> str | None:
        """Read one line from the child; ``None`` when it is late or dead.

        The child writes whole lines only.
        """
        child = self._child
        assert child is not None
        assert child.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            if not selector.select(limit_s):
                return None

        line = child.stdout.readline(MAX_LINE)
        if not line.endswith("\n"):  # the child is dead, or its line is longer than allowed
            child.kill()
            child.wait()
            return None
        return line


PROBE = Sandbox()
"""Shared by all readers of this process."""

atexit.register(PROBE.close)


def limit_for(path: Path) -> float:
    """Return the time that reading all of a file may take, by its size [s]."""
    return BASE_S + round(S_PER_BYTE * path.stat().st_size)


def _serve() -> None:
    """Answer each request with one line: the child's main loop."""
    import resource

    files = socket.socket(fileno=int(sys.argv[1]))
    # Ctrl-C is for the parent to handle; it ends the child.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(number=signal.SIGKILL)  # a looping child must not outlive its parent
    with contextlib.suppress(ValueError, OSError):  # not every system has this limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    _write_line("ready")

    for line in sys.stdin:
        request = durable.parse_json(line, "a request", limit=MAX_LINE, allow_nan=True)
        with _received(files) if request["file"] else contextlib.nullcontext() as file:
            more = {} if file is None else {"file": file}
            _write_line(_called(request["call"], request["arguments"] | more))


def _received(files: socket.socket) -> BinaryIO:
    """Open the file that the parent has sent along."""
    _, (number, *_), _, _ = socket.recv_fds(files, 1, 1)
    return os.fdopen(number, "r+b")


def _called(function: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the function's value, or what its error says."""
    module, name = function.split(":")
    try:
        return {"value": getattr(importlib.import_module(module), name)(**arguments)}
    except RefusedError as error:
        return {"refused": [error.code, str(error), error.remedy]}
    except EnvironmentProblem as error:
        return {"problem": [error.message, error.remedy]}
    except MemoryError:
        remedy = "split long episodes; if it came from elsewhere, do not trust it"
        return {"refused": ["D17", "reading it takes too much memory", remedy]}
    except Exception as error:  # noqa: BLE001 - damaged bytes raise almost any type
        text = (str(error).splitlines() or [type(error).__name__])[0][:MAX_SENTENCE]
        return {"refused": ["D01", f"damaged content: {text}", DAMAGED]}


def _write_line(value: Any) -> None:
    os.write(1, (json.dumps(value) + "\n").encode())


if __name__ == "__main__":
    _serve()
