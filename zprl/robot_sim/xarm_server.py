"""A simulated xArm control box on loopback, for the unmodified SDK.

Run by ``python -m zprl.robot_sim.xarm_server --host 127.0.0.9 --folder DIR``.  It speaks the
private protocol on TCP ports 502 and 503 (requests: transaction, protocol, length, register,
content; answers: the same with a byte of state bits before the content) and sends the 100 Hz report
on 30003.  Ports below 1024 need root; the SDK knows no others.

A unix socket ``control`` in the folder takes one line of JSON per request: :class:`BoxChange`; the
answer is :class:`BoxState`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import socket
import struct
import sys
import time
from collections import deque
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from zprl import durable
from zprl.errors import DataError, EnvironmentProblem
from zprl.parent_death import die_with_parent
from zprl.robot_sim.process import RobotProcess
from zprl.robot_sim.xarm_box import SERIAL_REGISTER, BoxChange, BoxState, ControlBox

COMMAND_PORTS = (502, 503)
REPORT_PORT = 30003
PERIOD_S = 0.01
"""Time between two reports [s]."""
MAX_LINE = 65536
"""Longest line on the control socket [bytes]."""
MAX_BACKLOG = 100_000
"""Bytes that may wait for a slow reader of reports."""
ANSWER_S = 2.0
"""Longest wait for an answer on the control socket [s]."""
_MAX_REQUEST = 1024
_HEADER = struct.Struct(">HHH")
_ANSWER = struct.Struct(">HHHB")


class XArmServer:
    """Sockets of a control box."""

    def __init__(self, box: ControlBox) -> None:
        self._box = box
        self._listeners: set[asyncio.StreamWriter] = set()

    async def serve(self, host: str, folder: Path) -> None:
        """Serve until SIGTERM or SIGINT."""
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)

        for port in COMMAND_PORTS:
            await asyncio.start_server(self._command, host, port)
        await asyncio.start_server(self._listen, host, REPORT_PORT)
        await asyncio.start_unix_server(self._control, folder / "control", limit=MAX_LINE)

        task = asyncio.create_task(self._run())
        await stop.wait()
        task.cancel()

    async def _command(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        box = self._box
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                header = await reader.readexactly(_HEADER.size)
                transaction, protocol, length = _HEADER.unpack(header)
                if not 1 <= length <= _MAX_REQUEST:
                    break
                body = await reader.readexactly(length)
                register = body[0]
                if register == SERIAL_REGISTER:
                    await asyncio.sleep(box.line_s)
                if box.deaf:
                    continue

                answer = box.answer(register, body[1:])
                header = _ANSWER.pack(transaction, protocol, 1 + len(answer), register)
                writer.write(header + answer)
                await writer.drain()
        writer.close()

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send reports to one connection until it ends."""
        self._listeners.add(writer)
        with contextlib.suppress(OSError):
            await reader.read()
        self._listeners.discard(writer)
        writer.close()

    async def _control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Make the changes that one connection to the control socket demands."""
        with contextlib.suppress(asyncio.LimitOverrunError, OSError, ValueError):
            while line := await reader.readline():
                writer.write(self._changed(line).encode() + b"\n")
                await writer.drain()
        writer.close()

    def _changed(self, line: bytes) -> str:
        try:
            content = durable.parse_json(line, "a change", limit=MAX_LINE)
            return self._box.change(BoxChange.model_validate(content)).model_dump_json()
        except DataError as error:
            return json.dumps({"error": error.message})
        except ValidationError as error:
            return json.dumps({"error": error.errors()[0]["msg"]})

    async def _run(self) -> None:
        """Advance the box and send its reports, 100 times a second."""
        box = self._box
        slot = time.monotonic()
        under_way: deque[tuple[float, bytes]] = deque()
        while True:
            slot = max(slot + PERIOD_S, time.monotonic() - PERIOD_S)
            await asyncio.sleep(max(0.0, slot - time.monotonic()))

            box.advance(PERIOD_S)
            if not box.muted:
                under_way.append((time.monotonic(), box.report()))
            while under_way and under_way[0][0] <= time.monotonic() - box.late_s:
                self._send(under_way.popleft()[1])

    def _send(self, report: bytes) -> None:
        for writer in list(self._listeners):
            slow = writer.transport.get_write_buffer_size() >= MAX_BACKLOG
            if not slow and not writer.is_closing():
                writer.write(report)


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(
        prog="python -m zprl.robot_sim.xarm_server", description=__doc__
    )
    parser.add_argument(
        "--host",
        default="127.0.0.9",
        help="loopback address; the SDK dials ports 502, 503 and 30003 of it",
    )
    parser.add_argument("--folder", type=Path, required=True, help="for the control socket")
    parser.add_argument("--parent", type=int, default=0, help="die with this process")
    options = parser.parse_args(arguments)

    if not options.host.startswith("127."):
        parser.error("a simulated robot listens on loopback addresses only")
    if options.parent:
        die_with_parent(options.parent)
    options.folder.mkdir(parents=True, exist_ok=True)
    (options.folder / "control").unlink(missing_ok=True)
    asyncio.run(XArmServer(ControlBox()).serve(options.host, options.folder))
    return 0


class SimulatedXArm(RobotProcess):
    """A simulated xArm.

    Args:
        host: Loopback address; two simulated robots at a time need two of them.
        folder: For its control socket; a temporary one by default.
    """

    def __init__(self, host: str, *, folder: Path | None = None) -> None:
        super().__init__("zprl.robot_sim.xarm_server", host, folder, remedy="port 502 needs root")

    def start(self, timeout: float = 10.0) -> Self:
        """Start it and wait until it answers.

        Raises:
            EnvironmentProblem: it ended (ports below 1024 need root), or does not answer.
        """
        return super().start(timeout)

    def probe(self) -> None:
        """Request the state."""
        self.change()

    def change(self, **values: object) -> BoxState:
        """Make a change (see :class:`BoxChange`), or none, and return the state.

        Raises:
            EnvironmentProblem: it does not answer.
            DataError: it refuses.
        """
        request = (
            BoxChange.model_validate(values).model_dump_json(exclude_none=True).encode() + b"\n"
        )
        try:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(ANSWER_S)
                sock.connect(str(self.folder / "control"))
                sock.sendall(request)
                line = sock.makefile("rb").readline(MAX_LINE)
        except OSError as error:
            raise EnvironmentProblem(
                f"the simulated robot at {self.host} does not answer: {error}",
                remedy="is its process alive?",
            ) from error

        try:
            return BoxState.model_validate(durable.parse_json(line, "the answer", limit=MAX_LINE))
        except ValidationError as error:
            raise DataError(
                f"the simulated robot refused: {line[:300]!r}",
                remedy="see zprl.robot_sim.xarm_box.BoxChange",
            ) from error


if __name__ == "__main__":
    sys.exit(main())
