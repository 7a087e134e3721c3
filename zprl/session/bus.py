"""The bus between the processes of a session: a topic, a JSON object, raw arrays.  Never pickle.

Processes send and receive the typed contents of :mod:`zprl.session.messages`.

Every process publishes on one unix socket, in a folder that only this user can enter, and
subscribes to the processes it needs.  Publishing never blocks: a reader that does not keep up loses
messages, except on a :class:`ReliableQueue`, whose writer is informed instead.
"""

from __future__ import annotations

import json
import math
import os
import stat
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zmq

from zprl import durable
from zprl.errors import DataError, EnvironmentProblem
from zprl.session.contents import Contents
from zprl.session.messages import Topic

DTYPES = {"float32", "float64", "int64", "uint8", "bool"}
MAX_BYTES = 64 * 2**20
MAX_PARTS = 64
HIGH_WATER = 2000
CONTENTS: dict[str, type[Contents]] = {topic.value: topic.contents for topic in Topic}
"""Name of each topic to the class of its contents."""
MAX_NAME = 60
"""Characters of an unknown topic that an error shows."""
RECONNECT_MS, MAX_RECONNECT_MS = 20, 200


@dataclass(frozen=True)
class Message:
    """A message that has arrived.

    Attributes:
        sender: Name of the process that sent it.
        topic: Its topic.
        body: Its JSON object, as it came.
        arrays: Its arrays by name.
    """

    sender: str
    topic: str
    body: dict[str, Any]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    @cached_property
    def contents(self) -> Contents:
        """Return the typed contents, of the topic's class; they are checked when first read.

        Raises:
            DataError: the JSON object does not have the form of the topic.
        """
        contents = CONTENTS.get(self.topic)
        if contents is None:
            raise DataError(
                f"a malformed message, of no known topic '{self.topic[:MAX_NAME]}'",
                remedy="stop others that write to the session's sockets",
            )
        return contents.parse(self.body)


def encode(
    sender: str, topic: str, body: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None
) -> list[bytes]:
    """Return a message as frames: topic, JSON, one frame per array."""
    arrays = {name: np.ascontiguousarray(value) for name, value in (arrays or {}).items()}
    header = {
        "from": sender,
        "body": body,
        "arrays": [[name, str(a.dtype), list(a.shape)] for name, a in arrays.items()],
    }
    return [
        topic.encode(),
        json.dumps(header, allow_nan=False).encode(),
        *(array.tobytes() for array in arrays.values()),
    ]


def decode(frames: list[bytes]) -> Message:
    """Read a message; nothing in it is trusted.

    Raises:
        DataError: it does not have the form that :func:`encode` gives.
    """
    try:
        if not 2 <= len(frames) <= MAX_PARTS or sum(map(len, frames)) > MAX_BYTES:
            raise ValueError("too many or too long parts")
        topic, text, *raw = frames
        header = durable.parse_json(text, "its header")
        specs = header["arrays"]
        if len(specs) != len(raw) or not isinstance(header["body"], dict):
            raise ValueError("arrays do not fit the header")

        arrays = {
            str(name): _array(name, dtype, shape, data)
            for (name, dtype, shape), data in zip(specs, raw, strict=True)
        }
        return Message(str(header["from"]), topic.decode(), header["body"], arrays)
    except (DataError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"a malformed message: {str(error)[:200]}",
            remedy="stop others that write to the session's sockets",
        ) from error


def _array(name: Any, dtype: Any, shape: Any, data: bytes) -> np.ndarray:
    """Read one array; its size is checked before anything is made of it."""
    if dtype not in DTYPES or any(not isinstance(n, int) or n < 0 for n in shape):
        raise ValueError(f"array {name!r} of type {dtype!r}")
    kind = np.dtype(dtype)
    if math.prod(shape) * kind.itemsize != len(data):
        raise ValueError(f"array {name!r} has {len(data)} bytes")
    return np.frombuffer(data, kind).reshape(shape)


def make_folder() -> Path:
    """Make a folder for sockets that only this user can enter.

    Its name is short, because unix socket names are limited to 107 bytes.
    """
    return Path(tempfile.mkdtemp(prefix="zprl-"))


def check_folder(folder: Path) -> None:
    """Refuse a folder that others may enter.

    Raises:
        EnvironmentProblem: others may.
    """
    status = folder.stat()
    if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise EnvironmentProblem(f"{folder} is open to other users", remedy=f"chmod 700 {folder}")


class Bus:
    """One process's place on the bus.

    Args:
        folder: Folder of the sockets.
        name: Name of this process.
        listen: Peer name to the topics wanted from it.
    """

    def __init__(self, folder: Path, name: str, listen: Mapping[str, Iterable[str]]) -> None:
        check_folder(folder)
        self.folder, self.name = folder, name
        self._context = zmq.Context()
        self._listen = {peer: set(topics) for peer, topics in listen.items()}
        self.malformed = 0

        own = folder / f"{name}.sock"
        own.unlink(missing_ok=True)  # a killed predecessor has left it
        self._out = self._socket(zmq.PUB)
        self._out.set_hwm(HIGH_WATER)
        self._out.bind(f"ipc://{own}")

        self._in = self._socket(zmq.SUB)
        self._in.set_hwm(HIGH_WATER)
        self._in.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
        self._in.setsockopt(zmq.RECONNECT_IVL_MAX, MAX_RECONNECT_MS)
        for peer, topics in self._listen.items():
            self._in.connect(f"ipc://{folder / f'{peer}.sock'}")
            for topic in topics:
                self._in.subscribe(topic)

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_BYTES)
        return socket

    def publish(self, contents: Contents, arrays: Mapping[str, np.ndarray] | None = None) -> None:
        """Send a message to all that listen to the topic of the contents; never blocks."""
        frames = encode(self.name, Topic.of(contents), contents.body(), arrays)
        self._out.send_multipart(frames, zmq.NOBLOCK)

    def poll(self, timeout_s: float = 0.0) -> list[Message]:
        """Return all that has arrived; wait up to ``timeout_s`` for the first message."""
        messages: list[Message] = []
        if timeout_s > 0 and not self._in.poll(round(timeout_s * 1000)):
            return messages
        while len(messages) < HIGH_WATER:
            try:
                frames = self._in.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            self._take(frames, messages)
        return messages

    def _take(self, frames: list[bytes], messages: list[Message]) -> None:
        try:
            message = decode(frames)
        except DataError:
            self.malformed += 1
            return
        if message.topic in self._listen.get(message.sender, ()):
            messages.append(message)

    def close(self) -> None:
        """Close all sockets."""
        self._out.close()
        self._in.close()
        self._context.term()


class ReliableQueue:
    """A one-way line that loses nothing: the writer learns at once when the reader is too slow.

    Args:
        folder: Folder of the sockets.
        name: Name of the line.
        reader: True for the end that reads; it binds, and survives any number of writers.
    """

    def __init__(self, folder: Path, name: str, *, reader: bool) -> None:
        check_folder(folder)
        self.malformed = 0
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PULL if reader else zmq.PUSH)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_BYTES)
        self._socket.set_hwm(HIGH_WATER)

        path = folder / f"{name}.feed"
        if reader:
            path.unlink(missing_ok=True)  # a killed predecessor has left it
            self._socket.bind(f"ipc://{path}")
        else:
            self._socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
            self._socket.connect(f"ipc://{path}")

    def put(
        self, sender: str, contents: Contents, arrays: Mapping[str, np.ndarray] | None = None
    ) -> bool:
        """Send without waiting; False when the line is full or nobody reads."""
        frames = encode(sender, Topic.of(contents), contents.body(), arrays)
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def get(self, timeout_s: float) -> Message | None:
        """Return the next message; ``None`` where none comes within ``timeout_s``."""
        if not self._socket.poll(round(timeout_s * 1000)):
            return None
        try:
            return decode(self._socket.recv_multipart(zmq.NOBLOCK))
        except DataError:
            self.malformed += 1
            return None

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        self._context.term()
