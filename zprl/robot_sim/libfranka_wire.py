"""libfranka's wire: a TCP connection for commands and a stream of UDP packets for states.

Both exist for the arm and for the hand.

Both servers frame alike and differ in widths: the arm's header has a 32-bit command and 64-bit
state numbers (protocol 10), the hand's 16 and 32 bits (protocol 3).  What a client sends is bounded
before it is believed; a client that breaks the framing is dropped.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

CONNECT = 0
_RECEIVE = 65536
_PACKET = 1024
"""Most bytes read at a time, of commands and of one answer."""
_BACKLOG = 4
_MAX_MESSAGE = 4096
"""The longest message of a client is SetCollisionBehavior with 428 bytes."""


@dataclass(frozen=True)
class WireMessage:
    """A command: its number in the protocol, the client's identifier for it, and its content."""

    command: int
    identifier: int
    payload: bytes


class Channel:
    """Server socket that serves one client at a time and blocks only in :meth:`wait`."""

    def __init__(self, host: str, port: int, version: int, *, wide: bool) -> None:
        self._header = struct.Struct("<III" if wide else "<HII")
        self._number = struct.Struct("<Q" if wide else "<I")
        self._status = struct.Struct("<B" if wide else "<H")
        self._version = version
        self._host = host

        self._listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind((host, port))
        self._listener.listen(_BACKLOG)
        self._listener.setblocking(False)  # noqa: FBT003 - the standard library's

        self._tcp: socket.socket | None = None
        self._udp: socket.socket | None = None
        self._poll = select.poll()
        self._buffer = b""

    @property
    def connected(self) -> bool:
        """True while a client gets states."""
        return self._udp is not None

    def close(self) -> None:
        """Drop the client and stop listening."""
        self.drop()
        self._listener.close()

    def drop(self) -> None:
        """Forget the client."""
        for sock in (self._tcp, self._udp):
            if sock is not None:
                sock.close()
        self._tcp = self._udp = None
        self._buffer = b""

    def messages(self) -> Iterator[WireMessage]:
        """Yield the commands that have arrived; accept a client, or drop one that has gone."""
        if self._tcp is None and not self._accept():
            return
        if not self._receive():
            return

        size = self._header.size
        while self._tcp is not None and len(self._buffer) >= size:
            command, identifier, length = self._header.unpack_from(self._buffer)
            if not size <= length <= _MAX_MESSAGE:
                self.drop()
                return
            if len(self._buffer) < length:
                return
            payload = self._buffer[size:length]
            self._buffer = self._buffer[length:]

            if command == CONNECT:
                self._connect(identifier, payload)
            elif self._udp is not None:
                yield WireMessage(command, identifier, payload)

    def _receive(self) -> bool:
        """Append the bytes that have arrived; False where there are none, or the client is gone."""
        assert self._tcp is not None
        try:
            data = self._tcp.recv(_RECEIVE)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self.drop()
            return False
        self._buffer += data
        return True

    def reply(self, message: WireMessage, status: int, payload: bytes = b"") -> None:
        """Answer a command."""
        length = self._header.size + self._status.size + len(payload)
        header = self._header.pack(message.command, message.identifier, length)
        self._send(header + self._status.pack(status) + payload)

    def publish(self, number: int, state: bytes) -> None:
        """Send one state packet."""
        if self._udp is not None:
            with contextlib.suppress(OSError):  # a client that has just gone: TCP closes, too
                self._udp.send(self._number.pack(number) + state)

    def newest(self) -> bytes | None:
        """Return the last UDP packet that has arrived, or ``None``."""
        packet = None
        with contextlib.suppress(OSError):
            while self._udp is not None:
                packet = self._udp.recv(_PACKET)
        return packet

    def wait(self, seconds: float) -> bool:
        """Wait for a UDP packet; False when the time is over."""
        return self._udp is not None and bool(self._poll.poll(1000 * seconds))

    def _accept(self) -> bool:
        try:
            self._tcp, _ = self._listener.accept()
        except BlockingIOError:
            return False
        self._tcp.setblocking(False)  # noqa: FBT003 - the standard library's
        self._tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return True

    def _connect(self, identifier: int, payload: bytes) -> None:
        if self._udp is not None or self._tcp is None or len(payload) < 4:
            return

        port = struct.unpack_from("<HH", payload)[1]
        answer = struct.pack("<HH4x", 0, self._version)
        length = self._header.size + len(answer)
        self._send(self._header.pack(CONNECT, identifier, length) + answer)

        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind((self._host, 0))
        self._udp.connect((self._tcp.getpeername()[0], port))
        self._udp.setblocking(False)  # noqa: FBT003 - the standard library's
        self._poll = select.poll()
        self._poll.register(self._udp, select.POLLIN)

    def _send(self, data: bytes) -> None:
        try:
            if self._tcp is not None:
                self._tcp.sendall(data)
        except OSError:
            self.drop()
