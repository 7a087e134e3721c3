"""Object poses from elsewhere: a stream of JSON on a ZMQ socket, or a function.

A message is ``{"name": "cube", "seq": 7, "stamp": 0.25, "pose": [x, y, z, qx, qy, qz, qw]}``;
seconds of the tracker's clock, metres.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import ConfigDict, Field, ValidationError

from zprl import durable
from zprl.errors import DataError
from zprl.robot import rotation
from zprl.robot.sensors.base import Reading, SensorConfig, SensorError, parse
from zprl.strict_model import FiniteModel

TIMEOUT_MS = 100
"""Longest wait of one read [ms]."""
MAX_MESSAGE = 65536
"""Longest message [bytes]."""
FARTHEST_M = 100.0
"""Largest coordinate of a position [m]."""
UNIT_TOLERANCE = 0.01
"""Distance from 1 that the length of a quaternion may have."""

_Number = Annotated[float, Field(ge=-FARTHEST_M, le=FARTHEST_M)]


class PoseMessage(FiniteModel):
    """A pose of a named body; other keys are ignored."""

    model_config = ConfigDict(extra="ignore")

    name: str = Field(max_length=100)
    seq: int = Field(ge=0, lt=2**63)
    stamp: float
    pose: tuple[_Number, _Number, _Number, _Number, _Number, _Number, _Number]


def pose_array(pose: Any) -> np.ndarray:
    """Return a pose as (7,) float64 with a quaternion of length 1.

    Raises:
        ValueError: it has another shape, is not finite, or its quaternion is none.
    """
    array = np.array(pose, np.float64)
    if array.shape != (7,) or not np.isfinite(array).all():
        raise ValueError(f"a pose is seven finite numbers, not {array.shape}")
    if abs(math.hypot(*array[3:]) - 1) > UNIT_TOLERANCE:
        raise ValueError(f"the quaternion {array[3:].tolist()} does not have length 1")

    array[3:] = rotation.unit(array[3:].tolist())
    return array


class PoseStreamConfig(SensorConfig):
    """Address of the tracker and name of the body."""

    address: str = Field(
        pattern=r"^(ipc|tcp)://.+", max_length=200, description="Of the tracker's PUB socket."
    )
    body: str = Field(description="Name of the body in the messages.")


def make(config: Mapping[str, Any]) -> PoseStream:
    """Make the sensor; entry point ``pose_stream``."""
    return PoseStream(parse(PoseStreamConfig, config))


class PoseStream:
    """Poses of one body; messages that are none are counted in ``malformed`` and ignored."""

    def __init__(self, config: PoseStreamConfig) -> None:
        self.name = config.name
        self.config = config
        self.malformed = 0
        self._socket: Any = None

    def open(self) -> None:
        """Subscribe; a publisher that is not there yet is waited for."""
        import zmq

        self._socket = zmq.Context.instance().socket(zmq.SUB)
        self._socket.linger = 0
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE)
        self._socket.setsockopt(zmq.SUBSCRIBE, b"")
        try:
            self._socket.connect(self.config.address)
        except zmq.ZMQError as error:
            raise SensorError(
                f"'{self.name}': {self.config.address} is no address: {error}",
                remedy="correct it in the task file",
            ) from error

    def read(self) -> Reading | None:
        """Return the next pose of the body."""
        if not self._socket.poll(TIMEOUT_MS):
            return None

        data = self._socket.recv()
        try:
            content = durable.parse_json(data, "a pose", limit=MAX_MESSAGE)
            message = PoseMessage.model_validate(content)
            if message.name != self.config.body:
                return None
            value = pose_array(message.pose)
        except (DataError, ValidationError, ValueError):
            self.malformed += 1
            return None
        return Reading(value, message.stamp, time.monotonic(), message.seq)

    def close(self) -> None:
        """Unsubscribe; harmless when not open."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class PoseFunction:
    """Poses from a function, for trackers with a Python interface: made by a user's ``make``.

    Args:
        name: Of the sensor.
        function: Waits a little for the next pose; (stamp, number, pose (7,)), or ``None``.
    """

    def __init__(self, name: str, function: Callable[[], tuple[float, int, Any] | None]) -> None:
        self.name = name
        self._function = function

    def open(self) -> None:
        """Do nothing: the function is ready."""

    def read(self) -> Reading | None:
        """Return the pose that the function gives."""
        result = self._function()
        if result is None:
            return None
        stamp, seq, pose = result
        try:
            return Reading(pose_array(pose), float(stamp), time.monotonic(), int(seq))
        except ValueError as error:
            raise SensorError(
                f"'{self.name}': {error}", remedy="correct the tracker's function"
            ) from error

    def close(self) -> None:
        """Do nothing: the function stays."""
