"""The protocol between the worker and its client: a header of JSON and raw float32 arrays."""

from __future__ import annotations

import json
import socket
import struct
from typing import Any, Mapping

import numpy as np

LENGTHS = struct.Struct("<II")
"""Beginning of a message: bytes of the header, bytes of the arrays."""
MAX_HEADER = 1 << 16
MAX_ARRAYS = 1 << 28
_PART = 1 << 20
"""Most bytes that are received at once."""


class BadMessage(Exception):
    """A message that does not follow this protocol."""


def send(end: socket.socket, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Send a header and float32 arrays."""
    shapes = [[name, list(array.shape)] for name, array in arrays.items()]
    text = json.dumps(dict(header, arrays=shapes)).encode()
    body = b"".join(np.ascontiguousarray(array, "<f4").tobytes() for array in arrays.values())
    if len(text) > MAX_HEADER or len(body) > MAX_ARRAYS:
        raise BadMessage(f"{len(text)} + {len(body)} bytes are more than a message may have")
    end.sendall(LENGTHS.pack(len(text), len(body)) + text + body)


def receive(end: socket.socket) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Wait for a message and return its header and arrays.

    Memory is taken only for what its sizes allow.

    Raises:
        EOFError: the other side is gone.
        BadMessage: the message does not follow the protocol.
        OSError: also ``socket.timeout``.
    """
    header_size, body_size = LENGTHS.unpack(_exactly(end, LENGTHS.size))
    if header_size > MAX_HEADER or body_size > MAX_ARRAYS:
        raise BadMessage(f"a message of {header_size} + {body_size} bytes was announced")
    try:
        header = json.loads(_exactly(end, header_size).decode())
        shapes = [(str(name), tuple(shape)) for name, shape in header.pop("arrays")]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise BadMessage(f"the header cannot be read: {error}") from error

    # The announced shapes must fill the announced bytes before anything is made of them.
    counts = [_count(name, shape) for name, shape in shapes]
    if 4 * sum(counts) != body_size:
        raise BadMessage(f"arrays of {sum(counts)} numbers were announced in {body_size} bytes")

    numbers = np.frombuffer(_exactly(end, body_size), "<f4")
    arrays = {}
    start = 0
    for (name, shape), count in zip(shapes, counts):
        arrays[name] = numbers[start : start + count].reshape(shape).copy()
        start += count
    return header, arrays


def taken(arrays: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return an array that must be there, of a known shape.

    Raises:
        BadMessage: it is missing, or has another shape.
    """
    array = arrays.get(name)
    if array is None or array.shape != shape:
        actual = None if array is None else array.shape
        raise BadMessage(f"array '{name}' is {actual}, expected {shape}")
    return array


def _count(name: str, shape: tuple[Any, ...]) -> int:
    """Return the number of values in an array of an announced shape."""
    count = 1
    for size in shape:
        if type(size) is not int or size < 0:
            raise BadMessage(f"array '{name}' has shape {shape}")
        count *= size
    return count


def _exactly(end: socket.socket, size: int) -> bytes:
    parts = []
    left = size
    while left:
        part = end.recv(min(left, _PART))
        if not part:
            raise EOFError
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
