"""The scripted operator's channel to a simulated robot.

It is not the robot's protocol, and nothing that a policy may see.

Requests and answers are JSON over a ZMQ pair REQ/REP, checked on both sides; poses of the cube as a
tracker would see it are published on a second socket.  Both are unix sockets in the folder of the
simulated robot: ``control`` and ``tracker``.

A tracker message is ``{"name": "cube", "seq": n, "stamp": seconds of the robot's clock, "pose": [x,
y, z, qx, qy, qz, qw]}``.
"""

from __future__ import annotations

import contextlib
import json
from collections import deque
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError

from zprl import durable, seeding
from zprl.errors import DataError, EnvironmentProblem
from zprl.robot_sim.faults import Clear, Fault
from zprl.robot_sim.sim_gap import SimGap
from zprl.strict_model import FiniteModel

MAX_MESSAGE = 65536
"""Longest message [bytes]."""
MAX_SOCKET_PATH = 107
"""Longest path of a unix socket [bytes]: ``sun_path``."""
TRACKER_BACKLOG = 100
"""Tracker messages that wait for a slow reader."""
MILLISECONDS = 1000
MAX_REASON = 500
"""Longest reason taken from an answer."""
_Seven = tuple[float, float, float, float, float, float, float]


class Reset(FiniteModel):
    """Put the cube where it stands at the start of episode ``number``."""

    kind: Literal["reset"] = "reset"
    seed: int = Field(0, ge=0, lt=2**63)
    number: int = Field(0, ge=0, lt=2**31)


class Place(FiniteModel):
    """Put the cube at rest at a position in the base frame [m]."""

    kind: Literal["place"] = "place"
    position: tuple[float, float, float]


class GetState(FiniteModel):
    """Request the state."""

    kind: Literal["state"] = "state"
    bodies: bool = False


class Inject(FiniteModel):
    """Inject a fault."""

    kind: Literal["inject"] = "inject"
    fault: Fault


Request = Annotated[Reset | Place | GetState | Inject, Field(discriminator="kind")]
REQUEST: TypeAdapter[Request] = TypeAdapter(Request)


class SimState(FiniteModel):
    """True state of a simulated robot; poses are position and quaternion xyzw in the base frame."""

    time: float
    steps: int
    cube: _Seven
    tool: _Seven
    opening: float
    lifted: bool
    mode: str
    connected: bool
    moving: bool
    wrench: tuple[float, float, float, float, float, float]
    q: _Seven
    counters: dict[str, int]
    bodies: dict[str, _Seven] | None = None


def decode(data: bytes) -> Request:
    """Read a request.

    Raises:
        DataError: too long, not JSON, or not a request.
    """
    try:
        return REQUEST.validate_python(durable.parse_json(data, "a request", limit=MAX_MESSAGE))
    except ValidationError as error:
        raise DataError(
            f"not a request: {error.errors()[0]['msg']}",
            remedy="kinds are reset, place, state, inject",
        ) from error


class ControlServer:
    """The simulated robot's end of both sockets; never blocks.

    Args:
        folder: Of the sockets.
    """

    def __init__(self, folder: Path) -> None:
        import zmq

        self._zmq = zmq
        self._context = zmq.Context()
        self._reply = self._context.socket(zmq.REP)
        self._publish = self._context.socket(zmq.PUB)
        for socket, name in ((self._reply, "control"), (self._publish, "tracker")):
            socket.linger = 0
            socket.bind(address(folder, name))
        self._reply.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE)
        self._publish.setsockopt(zmq.SNDHWM, TRACKER_BACKLOG)

    def request(self) -> Request | None:
        """Return the next request; a message that is none is answered with an error."""
        try:
            data = self._reply.recv(self._zmq.NOBLOCK)
        except self._zmq.Again:
            return None
        try:
            return decode(data)
        except DataError as error:
            self._reply.send_json({"ok": False, "error": error.message})
            return None

    def answer(self, state: SimState) -> None:
        """Answer the request that :meth:`request` returned."""
        self._reply.send_json({"ok": True, "state": state.model_dump()})

    def publish(self, message: dict[str, Any]) -> None:
        """Send a tracker message to all readers."""
        self._publish.send(json.dumps(message, allow_nan=False).encode())

    def close(self) -> None:
        """Let go of both sockets."""
        self._context.destroy(linger=0)


class SimulatedTracker:
    """The cube's pose with the noise, delay and rate of a tracker.

    It is a pure function of seed, number and true pose.

    Args:
        gap: Its tracker values.
        seed: Seed of the noise.
    """

    def __init__(self, gap: SimGap, seed: int) -> None:
        self._gap = gap
        self._seed = seed
        self._seq = 0
        self._under_way: deque[dict[str, Any]] = deque()

    def update(self, now: float, pose: np.ndarray) -> list[dict[str, Any]]:
        """Look at the true pose (7,) if it is time to, and return the messages that are due."""
        gap = self._gap
        if now >= self._seq / gap.tracker_rate:
            seen = self._disturb(pose).tolist()
            self._under_way.append({"name": "cube", "seq": self._seq, "stamp": now, "pose": seen})
            self._seq = max(self._seq + 1, int(now * gap.tracker_rate) + 1)

        due = []
        while self._under_way and now >= self._under_way[0]["stamp"] + gap.tracker_latency:
            due.append(self._under_way.popleft())
        return due

    def _disturb(self, pose: np.ndarray) -> np.ndarray:
        noise = seeding.numpy_generator(self._seed, "tracker", self._seq).normal(size=6)
        position = pose[:3] + self._gap.tracker_noise * noise[:3] + self._gap.tracker_offset

        half = 0.5 * self._gap.tracker_turn_noise * noise[3:]
        vector = pose[3:6]
        scalar = pose[6]
        # Product of the small turn (half, 1) and the pose's quaternion, normalised.
        turned = np.array(
            [*(vector + scalar * half + np.cross(half, vector)), scalar - half @ vector]
        )
        return np.concatenate((position, turned / np.linalg.norm(turned)))


def address(folder: Path | str, name: str) -> str:
    """Return the ZMQ address of a socket in a folder.

    Raises:
        EnvironmentProblem: the path is longer than unix sockets allow.
    """
    path = str(Path(folder).absolute() / name)
    if len(path.encode()) > MAX_SOCKET_PATH:
        raise EnvironmentProblem(
            f"{path} is too long for a unix socket", remedy="use a folder with a shorter path"
        )
    return f"ipc://{path}"


class SimControl:
    """The operator's end: request states, reset, inject faults.

    Args:
        folder: The simulated robot's folder.
        timeout: Longest wait for an answer [s].
    """

    def __init__(self, folder: Path | str, timeout: float = 5.0) -> None:
        import zmq

        self._zmq = zmq
        self._address = address(folder, "control")
        self._timeout = timeout
        self._context = zmq.Context()
        self._socket: Any = None

    def reset(self, seed: int, number: int) -> SimState:
        """Put the cube at its place at the start of episode ``number``."""
        return self._ask(Reset(seed=seed, number=number))

    def place(self, position: tuple[float, float, float]) -> SimState:
        """Put the cube at a position [m]."""
        return self._ask(Place(position=position))

    def state(self, *, bodies: bool = False) -> SimState:
        """Return the true state."""
        return self._ask(GetState(bodies=bodies))

    def inject(self, fault: Fault) -> SimState:
        """Inject a fault; see :mod:`zprl.robot_sim.faults`."""
        return self._ask(Inject(fault=fault))

    def clear(self) -> SimState:
        """End every fault that lasts."""
        return self.inject(Clear())

    def close(self) -> None:
        """Let go of the operator's socket."""
        self._context.destroy(linger=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _ask(self, request: Request) -> SimState:
        zmq = self._zmq
        if self._socket is None:
            self._socket = self._context.socket(zmq.REQ)
            self._socket.linger = 0
            self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE)
            self._socket.connect(self._address)

        self._socket.send(request.model_dump_json().encode())
        if not self._socket.poll(int(MILLISECONDS * self._timeout)):
            self._socket.close()  # a REQ socket that waits for an answer cannot ask again
            self._socket = None
            raise EnvironmentProblem(
                f"the simulated robot at {self._address} does not answer",
                remedy="is its process alive?",
            )

        try:
            answer = durable.parse_json(self._socket.recv(), "the answer", limit=MAX_MESSAGE)
            if answer["ok"]:
                return SimState.model_validate(answer["state"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                "the simulated robot's answer cannot be read",
                remedy="do both ends have the same version?",
            ) from error
        raise DataError(
            f"the simulated robot refused: {str(answer.get('error'))[:MAX_REASON]}",
            remedy="see zprl.robot_sim.control for the requests",
        )


class TrackerFeed:
    """The newest pose that the simulated tracker published.

    Args:
        folder: The simulated robot's folder.
    """

    def __init__(self, folder: Path | str) -> None:
        import zmq

        self._zmq = zmq
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.SUBSCRIBE, b"")
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE)
        self._socket.connect(address(folder, "tracker"))
        self.stamp = -np.inf
        self.seq = -1
        self.pose = np.full(7, np.nan)

    def poll(self, seconds: float = 0.0) -> bool:
        """Read all messages that have arrived.

        Args:
            seconds: Longest wait for the first one (wall clock).

        Returns:
            True where there was one.
        """
        if not self._socket.poll(int(MILLISECONDS * seconds)):
            return False
        while True:
            try:
                data = self._socket.recv(self._zmq.NOBLOCK)
            except self._zmq.Again:
                return True
            # Messages that are none are ignored.
            with contextlib.suppress(DataError, KeyError, TypeError, ValueError, OverflowError):
                self._take(durable.parse_json(data, "a pose", limit=MAX_MESSAGE))

    def _take(self, message: Any) -> None:
        pose = np.array(message["pose"], np.float64)
        stamp = float(message["stamp"])
        seq = int(message["seq"])
        if pose.shape == (7,) and np.isfinite(pose).all():
            self.stamp = stamp
            self.seq = seq
            self.pose = pose

    def close(self) -> None:
        """Let go of the operator's socket."""
        self._context.destroy(linger=0)
