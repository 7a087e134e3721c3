"""A double of an xArm control box on loopback, for the unmodified SDK: ``python -m zprl.robot_sim.xarm_server --host 127.0.0.9 --folder DIR``.

It speaks the private protocol on TCP ports 502 and 503 (requests: transaction, protocol, length,
register, content; answers: the same with a byte of state bits before the content) and sends the 100
Hz report on 30003.  Ports below 1024 need root; the SDK knows no others.

The arm is no arm: its tool follows the newest pose with a first-order lag, joints stand still,
nothing can be hit.  What is true to the real one is what a driver must get right: modes and states,
refusals, error codes, poses that lie too far away and are ignored, a serial line to the gripper
that takes its time.

A unix socket ``control`` in the folder takes one line of JSON per request: :class:`Change`; the
answer is :class:`BoxState`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from zprl import child_processes, durable
from zprl.errors import DataError, EnvironmentProblem
from zprl.parent_death import die_with_parent
from zprl.robot import rotation

COMMAND_PORTS = (502, 503)
REPORT_PORT = 30003
PERIOD_S = 0.01
LAG_S = 0.05
"""Time constant with which the tool follows."""
MAX_STEP_M = 0.010
"""Poses further from the one before are ignored in servo mode (UFACTORY's servo mode guide)."""
HOME = (0.3, 0.0, 0.2, 1.0, 0.0, 0.0, 0.0)
GRIPPER_SPEED = 0.15
"""Of a Robotiq 2F-85 at speed byte 255 [m/s] (its manual: 20 to 150 mm/s)."""
OPENING = 0.085
MAX_LINE = 65536
_MAX_REQUEST = 1024
_VERSION = b"7,7,XI130000,AC130000,v2.4.0"
_BAUD_115200 = struct.pack(">i", 5)
_READY, _MOVING, _PAUSED, _STOPPED, _MODE_CHANGED = 2, 1, 3, 4, 5
_ACTIVATION_S = 0.1

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Change(BaseModel):
    """What shall be different from now on; an empty one asks for the state only."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    error: int | None = Field(None, ge=0, le=255, description="Error code; the arm stops.")
    latched: bool | None = Field(
        None, description="Errors come back when cleared, as with a pressed emergency stop."
    )
    state: int | None = Field(
        None,
        ge=0,
        le=6,
        description="As somebody at the console sets it: 0 ready, 3 pause, 4 stop.",
    )
    muted: bool | None = Field(None, description="Send no reports.")
    late_s: float | None = Field(
        None, ge=0, le=5, description="How long reports are under way, as to a busy client [s]."
    )
    deaf: bool | None = Field(None, description="Answer no commands.")
    line_s: float | None = Field(
        None, ge=0, le=5, description="How long the gripper's serial line takes [s]."
    )
    gripper_fault: int | None = Field(None, ge=0, le=15)
    object_m: Finite | None = Field(
        None,
        ge=-1,
        le=OPENING,
        description="Width of what is between the fingers [m]; below 0: nothing.",
    )


class BoxState(BaseModel):
    """The truth about a double."""

    pose: tuple[float, ...]
    target: tuple[float, ...]
    mode: int
    state: int
    error: int
    enabled: bool
    opening: float
    activated: bool
    tool_offset: tuple[float, ...]
    load: tuple[float, ...]
    sensitivity: int
    counters: dict[str, int]


class Gripper:
    """Robotiq's registers and a finger that moves."""

    def __init__(self) -> None:
        self.opening, self.object_m, self.fault = OPENING, -1.0, 0
        self.asked, self.speed = 0, 0.0
        self.activated_at = math.inf
        self._since = time.monotonic()

    @property
    def activated(self) -> bool:
        """Whether it can be moved."""
        return time.monotonic() >= self.activated_at

    def _advance(self) -> None:
        now = time.monotonic()
        reach, self._since = self.speed * (now - self._since), now
        wanted = max(
            OPENING * (1 - self.asked / 255), self.object_m if self.opening >= self.object_m else -1
        )
        if self.activated:
            self.opening += min(max(wanted - self.opening, -reach), reach)

    def transact(self, frame: bytes) -> bytes:
        """One Modbus RTU exchange, both without checksum."""
        self._advance()
        if frame[:6] == bytes([0x09, 0x10, 0x03, 0xE8, 0x00, 0x03]) and len(frame) == 13:
            action, _, _, position, speed, _ = frame[7:]
            if not action & 0x01:
                self.activated_at = math.inf
            elif math.isinf(self.activated_at):
                self.activated_at = time.monotonic() + _ACTIVATION_S
            if action & 0x08:
                self.asked, self.speed = position, GRIPPER_SPEED * (0.13 + 0.87 * speed / 255)
            return frame[:6]
        if frame[:4] == bytes([0x09, 0x03, 0x07, 0xD0]) and len(frame) == 6:
            there = abs(OPENING * (1 - self.asked / 255) - self.opening) < 1e-6
            held = not there and abs(self.opening - self.object_m) < 1e-6
            found = 3 if there else 2 if held else 0
            active = not math.isinf(self.activated_at)
            status = found << 6 | (3 if self.activated else int(active)) << 4 | 0x08 | int(active)
            at = round(255 * (1 - self.opening / OPENING))
            registers = bytes([status, 0, self.fault, self.asked, at, 0])[: 2 * frame[5]]
            return bytes([0x09, 0x03, len(registers)]) + registers
        return bytes([0x09, frame[1] | 0x80, 1]) if len(frame) > 1 else b""


class ControlBox:
    """Modes, states, errors and the pose; knows no sockets."""

    def __init__(self) -> None:
        self.pose = self.target = HOME
        self.mode, self.state, self.error = 0, _STOPPED, 0
        self.enabled, self.latched, self.muted, self.deaf = False, False, False, False
        self.latched_error = 0
        self.line_s, self.late_s = 0.01, 0.0
        self.tool_offset, self.load, self.sensitivity = (0.0,) * 6, (0.0,) * 4, 3
        self.gripper = Gripper()
        self.counters = {"poses": 0, "ignored": 0, "refused": 0, "unknown": 0, "served": 0}
        self._answers: dict[int, Callable[[bytes], bytes]] = {
            1: lambda _: _VERSION.ljust(40, b"\0"),
            13: lambda _: bytes([self.state]),
            14: lambda _: b"\0\0",
            15: lambda _: bytes([self.error, 0]),
            42: lambda _: bytes(28),
            41: lambda _: struct.pack("<6f", *self._millimetres(rpy(self.pose[3:]))),
            91: lambda _: struct.pack("<6f", *self._millimetres(rotation.to_rotvec(self.pose[3:]))),
            128: lambda _: _BAUD_115200,
            124: self._serial,
            11: self._enable,
            12: self._set_state,
            16: self._clean,
            19: self._set_mode,
            35: self._set_offset,
            36: self._set_load,
            37: self._set_sensitivity,
            93: self._servo,
            17: lambda _: b"",
            253: lambda _: b"",
            254: lambda _: b"",
        }

    def answer(self, register: int, content: bytes) -> bytes:
        """State bits and content of the answer to a request."""
        act = self._answers.get(register)
        if act is None:
            self.counters["unknown"] += 1
            return bytes([self._bits() | 0x08])
        self.counters["served"] += 1
        try:
            found = act(content)
        except (struct.error, IndexError, ValueError):
            return bytes([self._bits() | 0x08])
        return bytes([self._bits()]) + found

    def advance(self, seconds: float) -> None:
        """Follow the target."""
        if self.latched and self.latched_error and not self.error:
            self.fail(self.latched_error)
        if self.state not in (_READY, _MOVING):
            return
        share = 1 - math.exp(-seconds / LAG_S)
        position = [
            a + share * (b - a) for a, b in zip(self.pose[:3], self.target[:3], strict=True)
        ]
        self.pose = (*position, *rotation.slerp(self.pose[3:], self.target[3:], share))
        self.state = _MOVING if math.dist(self.pose[:3], self.target[:3]) > 1e-5 else _READY

    def report(self) -> bytes:
        """The 100 Hz report: state, mode, joints, pose, torques, forces."""
        numbers = [*(0.0,) * 7, *self._millimetres(rpy(self.pose[3:])), *(0.0,) * 19]
        content = struct.pack("<BH", self.state | self.mode << 4, 0) + struct.pack("<32f", *numbers)
        return struct.pack(">I", 4 + len(content)) + content

    def fail(self, error: int) -> None:
        """Stop with an error code."""
        self.error, self.target = error, self.pose
        if error:
            self.state, self.latched_error = _STOPPED, error

    def change(self, change: Change) -> BoxState:
        """What the control socket asks for."""
        for name in ("latched", "muted", "deaf", "line_s", "late_s"):
            if (value := getattr(change, name)) is not None:
                setattr(self, name, value)
        if change.state is not None:
            self._set_state(bytes([change.state]))
        if change.error is not None:
            self.fail(change.error)
        if change.gripper_fault is not None:
            self.gripper.fault = change.gripper_fault
        if change.object_m is not None:
            self.gripper.object_m = change.object_m
        if not self.latched:
            self.latched_error = 0
        self.gripper._advance()
        return BoxState(
            pose=self.pose,
            target=self.target,
            mode=self.mode,
            state=self.state,
            error=self.error,
            enabled=self.enabled,
            opening=self.gripper.opening,
            activated=self.gripper.activated,
            tool_offset=self.tool_offset,
            load=self.load,
            sensitivity=self.sensitivity,
            counters=self.counters,
        )

    def _bits(self) -> int:
        return (0x40 if self.error else 0) | (
            0x10 if self.state in (_STOPPED, _MODE_CHANGED) or not self.enabled else 0
        )

    def _millimetres(self, turn: rotation.Floats) -> list[float]:
        return [*(1000 * v for v in self.pose[:3]), *turn]

    def _enable(self, content: bytes) -> bytes:
        self.enabled = bool(content[1])
        return b""

    def _set_state(self, content: bytes) -> bytes:
        wanted = content[0]
        if wanted in (4, 6):
            self.state, self.target = _STOPPED, self.pose
        elif wanted == 3 and self.state in (_READY, _MOVING):
            self.state = _PAUSED
        elif wanted == 0 and self.enabled and not self.error:
            self.state = _READY
        return b""

    def _set_mode(self, content: bytes) -> bytes:
        self.mode, self.target = content[0], self.pose
        self.state = _STOPPED if self.error else _MODE_CHANGED
        return b""

    def _clean(self, content: bytes) -> bytes:
        self.error = self.latched_error if self.latched else 0
        return b""

    def _set_offset(self, content: bytes) -> bytes:
        self.tool_offset = struct.unpack("<6f", content)
        return b""

    def _set_load(self, content: bytes) -> bytes:
        self.load = struct.unpack("<4f", content)
        return b""

    def _set_sensitivity(self, content: bytes) -> bytes:
        self.sensitivity = content[0]
        return b""

    def _servo(self, content: bytes) -> bytes:
        numbers = struct.unpack("<8f", content[:32])
        if not all(map(math.isfinite, numbers)):
            raise ValueError("not finite")
        if self.mode != 1 or self.state not in (_READY, _MOVING):
            self.counters["refused"] += 1
            return b""
        pose = (*(v / 1000 for v in numbers[:3]), *rotation.from_rotvec(numbers[3:6]))
        if math.dist(pose[:3], self.target[:3]) > MAX_STEP_M:
            self.counters["ignored"] += 1
        else:
            self.counters["poses"] += 1
            self.target = pose
        return b""

    def _serial(self, content: bytes) -> bytes:
        return content[:1] + self.gripper.transact(content[1:])


def rpy(q: rotation.Floats) -> rotation.Floats:
    """Roll, pitch, yaw about the fixed axes x, y, z [rad] of a unit quaternion."""
    x, y, z, w = q
    return (
        math.atan2(2 * (w * x + y * z), 1 - 2 * (x * x + y * y)),
        math.asin(max(-1.0, min(1.0, 2 * (w * y - z * x)))),
        math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z)),
    )


async def _serve(host: str, folder: Path) -> None:
    box, listeners = ControlBox(), set()

    async def command(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                transaction, protocol, length = struct.unpack(">HHH", await reader.readexactly(6))
                if not 1 <= length <= _MAX_REQUEST:
                    break
                body = await reader.readexactly(length)
                if body[0] == 124:
                    await asyncio.sleep(box.line_s)
                if box.deaf:
                    continue
                answer = box.answer(body[0], body[1:])
                writer.write(
                    struct.pack(">HHHB", transaction, protocol, 1 + len(answer), body[0]) + answer
                )
                await writer.drain()
        writer.close()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        listeners.add(writer)
        with contextlib.suppress(OSError):
            await reader.read()
        listeners.discard(writer)
        writer.close()

    async def control(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.LimitOverrunError, OSError, ValueError):
            while line := await reader.readline():
                try:
                    answer = box.change(
                        Change.model_validate(durable.parse_json(line, "a change", limit=MAX_LINE))
                    ).model_dump_json()
                except (DataError, ValidationError) as error:
                    said = (
                        error.message if isinstance(error, DataError) else error.errors()[0]["msg"]
                    )
                    answer = json.dumps({"error": said})
                writer.write(answer.encode() + b"\n")
                await writer.drain()
        writer.close()

    async def run() -> None:
        slot = time.monotonic()
        under_way: deque[tuple[float, bytes]] = deque()
        while True:
            slot = max(slot + PERIOD_S, time.monotonic() - PERIOD_S)
            await asyncio.sleep(max(0.0, slot - time.monotonic()))
            box.advance(PERIOD_S)
            if not box.muted:
                under_way.append((time.monotonic(), box.report()))
            while under_way and under_way[0][0] <= time.monotonic() - box.late_s:
                _, report = under_way.popleft()
                for writer in list(listeners):
                    if (
                        writer.transport.get_write_buffer_size() < 100_000
                        and not writer.is_closing()
                    ):
                        writer.write(report)

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    for port in COMMAND_PORTS:
        await asyncio.start_server(command, host, port)
    await asyncio.start_server(listen, host, REPORT_PORT)
    await asyncio.start_unix_server(control, folder / "control", limit=MAX_LINE)
    task = asyncio.create_task(run())
    await stop.wait()
    task.cancel()


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
        parser.error("a double listens on loopback addresses only")
    if options.parent:
        die_with_parent(options.parent)
    options.folder.mkdir(parents=True, exist_ok=True)
    (options.folder / "control").unlink(missing_ok=True)
    asyncio.run(_serve(options.host, options.folder))
    return 0


class SimulatedXArm:
    """A double in a process of its own; a context manager that yields itself.

    Args:
        host: Loopback address; two doubles at a time need two of them.
        folder: For its control socket; a temporary one by default.
    """

    def __init__(self, host: str, *, folder: Path | None = None) -> None:
        self.host = host
        self._own = folder is None
        self.folder = Path(tempfile.mkdtemp(prefix="xarm-")) if folder is None else Path(folder)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process is not None
        return self._process.pid

    def start(self, timeout: float = 10.0) -> Self:
        """Start it and wait until it answers.

        Raises:
            EnvironmentProblem: it ended (ports below 1024 need root), or does not answer.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / "log"
        arguments = [
            "--host",
            self.host,
            "--folder",
            str(self.folder),
            "--parent",
            str(os.getpid()),
        ]
        with open(log, "wb") as file:
            self._process = subprocess.Popen(
                child_processes.python("-m", "zprl.robot_sim.xarm_server", *arguments),
                stdout=file,
                stderr=file,
                stdin=subprocess.DEVNULL,
                env=child_processes.environment(),
            )
        end = time.monotonic() + timeout
        while True:
            try:
                self.change()
                return self
            except EnvironmentProblem as error:
                if self._process.poll() is not None:
                    words = log.read_text(errors="replace").strip()[-300:]
                    raise EnvironmentProblem(
                        f"the double at {self.host} ended: {words}", remedy="port 502 needs root"
                    ) from error
                if time.monotonic() > end:
                    self.stop()
                    raise
                time.sleep(0.02)

    def change(self, **values: object) -> BoxState:
        """Change something (see :class:`Change`), or nothing, and return the state."""
        request = Change.model_validate(values).model_dump_json(exclude_none=True).encode() + b"\n"
        try:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(2.0)
                sock.connect(str(self.folder / "control"))
                sock.sendall(request)
                line = sock.makefile("rb").readline(MAX_LINE)
        except OSError as error:
            raise EnvironmentProblem(
                f"the double at {self.host} does not answer: {error}",
                remedy="is its process alive?",
            ) from error
        try:
            return BoxState.model_validate(durable.parse_json(line, "the answer", limit=MAX_LINE))
        except ValidationError as error:
            raise DataError(
                f"the double refused: {line[:300]!r}",
                remedy="see zprl.robot_sim.xarm_server.Change",
            ) from error

    def stop(self) -> None:
        """End it, however it is doing."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(
                signal.SIGCONT
            )  # it may have been stopped to see what a client does
            process.terminate()
            try:
                process.wait(2.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._own:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()


if __name__ == "__main__":
    sys.exit(main())
