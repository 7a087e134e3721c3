"""Reads a file first in a child process, because damaged bytes can hang or crash the HDF5 library itself.

A single zeroed byte, the size of a text in a heap, makes HDF5 2.0 loop for ever inside C, where no exception and no
signal handler helps (found by fuzzing).  The child has a memory limit and a time limit; whatever it survives, the
parent reads again in safety.  Only paths and sentences cross the pipe, as JSON lines.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MEMORY_BYTES = 8 * 2**30
START_S = 120.0
"""Time for the child to import its modules, on a slow disk too."""

BASE_S = 30.0
S_PER_BYTE = 1e-6
"""A file may take 30 s and one second per megabyte: two orders of magnitude more than it needs."""


class Probe:
    """A child process that reads files on request; started on first use and after each crash."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[str] | None = None

    def damage(self, path: Path, obs_keys: Sequence[str] | None, reader: str, *, limit_s: float | None = None) -> str | None:
        """Why a file must not be read in this process by the registered ``reader``, or ``None`` when it is safe."""
        if limit_s is None:
            limit_s = BASE_S + round(S_PER_BYTE * path.stat().st_size)
        answer, code = self._request({"ask": "damage", "path": str(path.absolute()), "obs_keys": obs_keys, "reader": reader}, limit_s)
        if answer is None:
            return f"reading it does not end within {limit_s:g} s" if code is None else f"reading it ends the reader with code {code}"
        return json.loads(answer)

    def ask(self, question: str, path: Path, reader: str) -> Any:
        """``owns`` or ``facts`` of a file, or ``None`` where looking at it does not end well."""
        answer, _ = self._request({"ask": question, "path": str(path.absolute()), "obs_keys": None, "reader": reader}, BASE_S)
        return None if answer is None else json.loads(answer)

    def _request(self, request: dict[str, Any], limit_s: float) -> tuple[str | None, int | None]:
        """The child's line; without one, the code with which it ended, ``None`` while it still runs, and it is ended."""
        child = self._started()
        assert child.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # a child that died at this very moment gives no answer either
            child.stdin.write(json.dumps(request) + "\n")
            child.stdin.flush()
        answer = self._answer(limit_s)
        code = child.poll() if answer is None else None
        if answer is None:
            self.close()
        return answer, code

    def close(self) -> None:
        """End the child."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.communicate()

    def _started(self) -> subprocess.Popen[str]:
        if self._child is None or self._child.poll() is not None:
            self.close()
            self._child = subprocess.Popen([sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            if self._answer(START_S) is None:
                self.close()
                raise RuntimeError("the process that tries files first did not start")
        return self._child

    def _answer(self, limit_s: float) -> str | None:
        """One line from the child; ``None`` when it is late or dead.  The child writes whole lines only."""
        child = self._child
        assert child is not None
        assert child.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            if not selector.select(limit_s):
                return None
        line = child.stdout.readline()
        if not line:
            child.wait()
        return line or None


PROBE = Probe()
"""Shared by all readers of this process."""

atexit.register(PROBE.close)


def _serve() -> None:
    """The child: answer each request with null, or with the sentence of the first damage."""
    import resource

    from zprl import plugins
    from zprl.data.findings import Finding

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent to handle; it ends the child
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: a looping child must not outlive its parent
    with contextlib.suppress(ValueError, OSError):  # not every system has this limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    _say("ready")
    for line in sys.stdin:
        request = json.loads(line)
        reader, path = plugins.load("readers", request["reader"])(obs_keys=request["obs_keys"]), Path(request["path"])
        if request["ask"] != "damage":
            _say(_look(reader, path, request["ask"]))
            continue
        damage = None
        for item in reader.read_here(path):
            if isinstance(item, Finding) and item.code == "D01" and damage is None:
                damage = item.message
        _say(damage)


def _look(reader: Any, path: Path, question: str) -> Any:
    """What a reader says of an open file, or ``None`` where it cannot be opened."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return reader.owns_file(file) if question == "owns" else reader.facts_of(file)
    except Exception:  # h5py turns damaged bytes into almost any exception type
        return None


def _say(value: Any) -> None:
    os.write(1, (json.dumps(value) + "\n").encode())


if __name__ == "__main__":
    _serve()
