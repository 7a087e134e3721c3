"""Reads a file in a child process, because damaged bytes can hang or crash the HDF5 library itself.

A single zeroed byte, the size of a text in a heap, makes HDF5 2.0 loop for ever inside C, where no
exception and no signal handler helps (found by fuzzing).  The child has a memory limit and a time
limit; what it survives it hands over (:mod:`zprl.data.readers.handed`), so that each file is read
once and its bytes never meet the library in the parent.  Only JSON lines and a file's descriptor
cross between the two.
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
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from zprl import child_processes, durable
from zprl.data.readers.handed import Handed, hand_over
from zprl.parent_death import die_with_parent

MEMORY_BYTES = 8 * 2**30
MAX_ANSWER = 128 * 2**20
"""Longest line between the two, in bytes: 100,000 episodes of ten arrays have 60 MB."""
START_S = 120.0
"""Time for the child to import its modules, on a slow disk too."""

BASE_S = 30.0
S_PER_BYTE = 1e-6
"""A file may take 30 s and one second per megabyte: two orders of magnitude more than it needs."""


class Sandbox:
    """A child process that reads files on request; started on first use and after each crash."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[str] | None = None
        self._files: socket.socket | None = None  # over which it gets descriptors

    def read(
        self,
        path: Path,
        obs_keys: Sequence[str] | None,
        reader: str,
        *,
        limit_s: float | None = None,
        first: int | None = None,
        actions_key: str = "actions",
    ) -> Handed | str:
        """What the registered ``reader`` yields for a file, or a sentence that says why it cannot be read.

        Args:
            path: A file.
            obs_keys: As for the reader.
            reader: Its name.
            limit_s: Time that it may take; ``None`` for one by the file's size.
            first: Read only so many episodes or defects.
            actions_key: Dataset of actions.

        Raises:
            EnvironmentProblem: there is no room for what it reads.
        """
        if not path.exists():
            return "the file does not exist"
        if limit_s is None:
            limit_s = BASE_S + round(S_PER_BYTE * path.stat().st_size)
        request = {
            "ask": "read",
            "path": str(path.absolute()),
            "obs_keys": obs_keys,
            "reader": reader,
            "first": first,
        }
        request["actions_key"] = actions_key
        file = durable.scratch()
        answer, code = self._request(request, limit_s, file.fileno())
        if answer is None:
            return (
                f"reading it does not end within {limit_s:g} s"
                if code is None
                else f"reading it ends the reader with code {code}"
            )
        said = durable.parse_json(answer, "what was read", limit=MAX_ANSWER, allow_nan=True)
        return said if isinstance(said, str) else Handed(file, said)

    def read_as(self, reader: Any, path: Path) -> Handed | str:
        """:meth:`read` with the settings of a reader in this process."""
        chosen = {
            "first": getattr(reader, "first", None),
            "actions_key": getattr(reader, "actions_key", "actions"),
        }
        return self.read(path, reader.obs_keys, reader.name, **chosen)

    def ask(self, question: str, path: Path, reader: str) -> Any:
        """``owns`` or ``facts`` of a file, or ``None`` where looking at it does not end well."""
        answer, _ = self._request(
            {"ask": question, "path": str(path.absolute()), "obs_keys": None, "reader": reader},
            BASE_S,
        )
        return (
            None
            if answer is None
            else durable.parse_json(answer, "what was read", limit=MAX_ANSWER, allow_nan=True)
        )

    def call(
        self, function: str, *, limit_s: float, file: BinaryIO | None = None, **arguments: Any
    ) -> Any:
        """What a function of this package, ``module:name``, returns in the child; arguments and answer are plain JSON.

        Args:
            function: Its module and name.
            limit_s: Time that it may take.
            file: Handed to it as an argument ``file``, for answers that are large.
            **arguments: The others.

        Raises:
            RefusedError: as the function refuses; D17 if it wants too much memory; D01 if it fails,
                does not end in time or ends the child.
        """
        from zprl.data.readers.hdf5_guard import RefusedError

        line, code = self._request(
            {"call": function, "arguments": arguments, "file": file is not None},
            limit_s,
            None if file is None else file.fileno(),
        )
        if line is None:
            message = (
                f"reading it does not end within {limit_s:g} s"
                if code is None
                else f"reading it ends the reader with code {code}"
            )
            raise RefusedError("D01", message, "copy it again from its source, or run `dvc pull`")
        answer = durable.parse_json(line, "what was read", limit=MAX_ANSWER, allow_nan=True)
        if "refused" in answer:
            raise RefusedError(*answer["refused"])
        return answer["value"]

    def _request(
        self, request: dict[str, Any], limit_s: float, file: int | None = None
    ) -> tuple[str | None, int | None]:
        """The child's line; without one, the code with which it ended, ``None`` while it still runs, and it is ended."""
        child = self._started()
        assert child.stdin is not None
        assert self._files is not None
        with contextlib.suppress(
            OSError
        ):  # a child that died at this very moment gives no answer either
            if file is not None:
                socket.send_fds(self._files, [b"f"], [file])
            child.stdin.write(json.dumps(request) + "\n")
            child.stdin.flush()
        try:
            answer = self._answer(limit_s)
        except BaseException:  # an interrupt, say: the next question must not get this one's answer
            self.close()
            raise
        code = child.poll() if answer is None else None
        if answer is None:
            self.close()
        return answer, code

    def close(self) -> None:
        """End the child."""
        child, self._child = self._child, None
        files, self._files = self._files, None
        if files is not None:
            files.close()
        if child is not None:
            child.kill()
            child.communicate()

    def _started(self) -> subprocess.Popen[str]:
        if self._child is None or self._child.poll() is not None:
            self.close()
            self._files, theirs = socket.socketpair()
            with theirs:
                number = theirs.fileno()
                command, env = (
                    child_processes.python("-m", __name__, str(number)),
                    child_processes.environment(),
                )
                pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
                self._child = subprocess.Popen(command, **pipes, pass_fds=[number], env=env)
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
        line = child.stdout.readline(MAX_ANSWER)
        if not line.endswith("\n"):  # dead, or saying more than it may
            child.kill()
            child.wait()
            return None
        return line


PROBE = Sandbox()
"""Shared by all readers of this process."""

atexit.register(PROBE.close)


def _serve() -> None:
    """The child: answer each request with one line."""
    import resource

    from zprl import plugins

    files = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is for the parent to handle; it ends the child
    die_with_parent(number=signal.SIGKILL)  # a looping child must not outlive its parent
    with contextlib.suppress(ValueError, OSError):  # not every system has this limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    _say("ready")
    for line in sys.stdin:
        request = durable.parse_json(line, "a request", limit=MAX_ANSWER, allow_nan=True)
        if "call" in request:
            with _received(files) if request["file"] else contextlib.nullcontext() as file:
                _say(
                    _called(
                        request["call"],
                        request["arguments"] | ({} if file is None else {"file": file}),
                    )
                )
            continue
        reader, path = (
            plugins.load("readers", request["reader"])(obs_keys=request["obs_keys"]),
            Path(request["path"]),
        )
        if request["ask"] != "read":
            _say(_look(reader, path, request["ask"]))
            continue
        reader.first, reader.actions_key = request["first"], request["actions_key"]
        with _received(files) as file:
            _say(hand_over(reader.read_here(path), file, path))


def _received(files: socket.socket) -> BinaryIO:
    """The file that the parent has sent along."""
    _, (number, *_), _, _ = socket.recv_fds(files, 1, 1)
    return os.fdopen(number, "r+b")


def _look(reader: Any, path: Path, question: str) -> Any:
    """What a reader says of an open file, or ``None`` where it cannot be opened."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return reader.owns_file(file) if question == "owns" else reader.facts_of(file)
    except Exception:  # h5py turns damaged bytes into almost any exception type
        return None


def _called(function: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The function's value, or code, message and remedy of its refusal."""
    from zprl.data.readers.hdf5_guard import RefusedError

    module, name = function.split(":")
    try:
        return {"value": getattr(importlib.import_module(module), name)(**arguments)}
    except RefusedError as error:
        return {"refused": [error.code, str(error), error.remedy]}
    except MemoryError:
        return {
            "refused": [
                "D17",
                "reading it takes too much memory",
                "split long episodes; if it came from elsewhere, do not trust it",
            ]
        }
    except Exception as error:  # libraries turn damaged bytes into almost any exception type
        text = (str(error).splitlines() or [type(error).__name__])[0][:200]
        return {
            "refused": [
                "D01",
                f"damaged content: {text}",
                "copy it again from its source, or run `dvc pull`",
            ]
        }


def _say(value: Any) -> None:
    os.write(1, (json.dumps(value) + "\n").encode())


if __name__ == "__main__":
    _serve()
