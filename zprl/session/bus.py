"""Messages between the processes of a session: a topic, a JSON object, raw arrays.  Never pickle.

Every process publishes on one unix socket, in a folder that only this user can enter, and
subscribes to whom it needs.  Publishing never blocks: a reader that does not keep up loses
messages, except on a :class:`ReliableQueue`, whose writer is told instead.
"""

from __future__ import annotations

import json
import math
import os
import stat
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zmq

from zprl import durable
from zprl.errors import DataError, EnvironmentProblem

DTYPES = {"float32", "float64", "int64", "uint8", "bool"}
MAX_BYTES = 64 * 2**20
MAX_PARTS = 64
HIGH_WATER = 2000


@dataclass(frozen=True)
class Message:
    """What arrived: from whom, about what."""

    sender: str
    topic: str
    body: dict[str, Any]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


def encode(
    sender: str, topic: str, body: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None
) -> list[bytes]:
    """A message as frames: topic, JSON, one frame per array."""
    arrays = {name: np.ascontiguousarray(value) for name, value in (arrays or {}).items()}
    header = {
        "from": sender,
        "body": body,
        "arrays": [[name, str(a.dtype), list(a.shape)] for name, a in arrays.items()],
    }
    return [
        topic.encode(),
        json.dumps(header, allow_nan=False).encode(),
        *(a.tobytes() for a in arrays.values()),
    ]


def decode(frames: list[bytes]) -> Message:
    """Read a message; nothing in it is trusted.

    Raises:
        DataError: it does not have the form that :func:`encode` gives.
    """
    try:
        if not 2 <= len(frames) <= MAX_PARTS or sum(map(len, frames)) > MAX_BYTES:
            raise ValueError("too many or too long parts")
        header = durable.parse_json(frames[1], "its header")
        specs = header["arrays"]
        if len(specs) != len(frames) - 2 or not isinstance(header["body"], dict):
            raise ValueError("arrays do not fit the header")
        arrays = {}
        for (name, dtype, shape), raw in zip(specs, frames[2:], strict=True):
            if dtype not in DTYPES or any(not isinstance(n, int) or n < 0 for n in shape):
                raise ValueError(f"array {name!r} of type {dtype!r}")
            kind = np.dtype(dtype)
            if math.prod(shape) * kind.itemsize != len(raw):
                raise ValueError(f"array {name!r} has {len(raw)} bytes")
            arrays[str(name)] = np.frombuffer(raw, kind).reshape(shape)
        return Message(str(header["from"]), frames[0].decode(), header["body"], arrays)
    except (DataError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"a malformed message: {str(error)[:200]}",
            remedy="stop others that write to the session's sockets",
        ) from error


def make_folder() -> Path:
    """A new folder for sockets that only this user can enter; short, because unix socket names are limited to 107 bytes."""
    return Path(tempfile.mkdtemp(prefix="zprl-"))


def check_folder(folder: Path) -> None:
    """Refuse a folder that others may enter."""
    found = folder.stat()
    if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise EnvironmentProblem(f"{folder} is open to other users", remedy=f"chmod 700 {folder}")


class Bus:
    """One process's place on the bus.

    Args:
        folder: Of the sockets.
        name: Of this process.
        listen: Peer name to the topics wanted from it.
    """

    def __init__(self, folder: Path, name: str, listen: Mapping[str, Iterable[str]]) -> None:
        check_folder(folder)
        self.folder, self.name = folder, name
        self._context = zmq.Context()
        self._out = self._socket(zmq.PUB)
        self._out.set_hwm(HIGH_WATER)
        _own(folder / f"{name}.sock")
        self._out.bind(f"ipc://{folder / f'{name}.sock'}")
        self._in = self._socket(zmq.SUB)
        self._in.set_hwm(HIGH_WATER)
        self._in.setsockopt(zmq.RECONNECT_IVL, 20)
        self._in.setsockopt(zmq.RECONNECT_IVL_MAX, 200)
        for peer, topics in listen.items():
            self._in.connect(f"ipc://{folder / f'{peer}.sock'}")
            for topic in topics:
                self._in.subscribe(topic)
        self._listen = {peer: set(topics) for peer, topics in listen.items()}
        self.malformed = 0

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_BYTES)
        return socket

    def publish(
        self, topic: str, body: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None
    ) -> None:
        """Tell whoever listens; never blocks."""
        self._out.send_multipart(encode(self.name, topic, body, arrays), zmq.NOBLOCK)

    def poll(self, timeout_s: float = 0.0) -> list[Message]:
        """Everything that has arrived; waits up to ``timeout_s`` for the first message."""
        found: list[Message] = []
        if timeout_s > 0 and not self._in.poll(round(timeout_s * 1000)):
            return found
        while len(found) < HIGH_WATER:
            try:
                frames = self._in.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            self._take(frames, found)
        return found

    def _take(self, frames: list[bytes], found: list[Message]) -> None:
        try:
            message = decode(frames)
        except DataError:
            self.malformed += 1
            return
        if message.topic in self._listen.get(message.sender, ()):
            found.append(message)

    def close(self) -> None:
        """Close all sockets."""
        self._out.close()
        self._in.close()
        self._context.term()


class ReliableQueue:
    """A one-way line that loses nothing: the writer learns at once when the reader is too slow.

    Args:
        folder: Of the sockets.
        name: Of the line.
        reader: True for the end that reads; it binds, and survives any number of writers.
    """

    def __init__(self, folder: Path, name: str, *, reader: bool) -> None:
        check_folder(folder)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PULL if reader else zmq.PUSH)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_BYTES)
        self._socket.set_hwm(HIGH_WATER)
        address = f"ipc://{folder / f'{name}.feed'}"
        if reader:
            _own(folder / f"{name}.feed")
            self._socket.bind(address)
        else:
            self._socket.setsockopt(zmq.RECONNECT_IVL, 20)
            self._socket.connect(address)
        self.malformed = 0

    def put(
        self,
        sender: str,
        topic: str,
        body: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray] | None = None,
    ) -> bool:
        """Send without waiting; False when the line is full or nobody reads."""
        try:
            self._socket.send_multipart(encode(sender, topic, body, arrays), zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def get(self, timeout_s: float) -> Message | None:
        """The next message, or ``None``."""
        if not self._socket.poll(round(timeout_s * 1000)):
            return None
        try:
            return decode(self._socket.recv_multipart(zmq.NOBLOCK))
        except DataError:
            self.malformed += 1
            return None

    def close(self) -> None:
        """Close."""
        self._socket.close()
        self._context.term()


def _own(path: Path) -> None:
    """Remove the socket a killed predecessor left."""
    path.unlink(missing_ok=True)
