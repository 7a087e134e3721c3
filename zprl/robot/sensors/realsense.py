"""Colour images of an Intel RealSense."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from pydantic import Field

from zprl.errors import EnvironmentProblem
from zprl.robot.sensors.base import Pixels, Reading, SensorConfig, SensorError, parse

TIMEOUT_MS = 200
"""Longest wait of one read [ms]."""
MILLISECONDS = 1000
"""In a second; the camera stamps in milliseconds."""
SILENCES = 10
"""After so many time-outs in a row the pipeline counts as dead: an unplugged camera raises
nothing."""


Start = Callable[["RealSenseConfig"], tuple[Any, Callable[[], None]]]
"""Starts a camera; see :func:`start_pipeline`."""


class RealSenseConfig(SensorConfig):
    """Camera, size and rate of the images."""

    serial: str = Field("", description="Of the camera; empty: the only one.")
    width: Pixels = 640
    height: Pixels = 480
    rate_hz: int = Field(30, ge=1, le=300)


def make(config: Mapping[str, Any]) -> RealSense:
    """Make the sensor; entry point ``realsense``."""
    return RealSense(parse(RealSenseConfig, config))


def start_pipeline(config: RealSenseConfig) -> tuple[Any, Callable[[], None]]:
    """Start the camera: the only thing here that a computer without one cannot do.

    Returns:
        An object with ``try_wait_for_frames(ms) -> (bool, frame set)``, and the function that stops
            it.
    """
    rs = sdk()
    # The pipeline would wait a quarter of a minute for one.
    if not len(rs.context().query_devices()):
        raise RuntimeError("no camera is connected")

    pipeline = rs.pipeline()
    wanted = rs.config()
    if config.serial:
        wanted.enable_device(config.serial)
    wanted.enable_stream(
        rs.stream.color, config.width, config.height, rs.format.rgb8, config.rate_hz
    )
    pipeline.start(wanted)
    return pipeline, pipeline.stop


def sdk() -> Any:
    """Return the module ``pyrealsense2``, or raise what is missing."""
    try:
        import pyrealsense2
    except ImportError as error:
        raise EnvironmentProblem(
            f"pyrealsense2 cannot be imported: {error}",
            remedy="install zprl[realsense] and the system's libusb (apt install libusb-1.0-0)",
        ) from error
    return pyrealsense2


class RealSense:
    """Camera whose numbers and stamps are its own.

    Args:
        config: Camera and size.
        start: :func:`start_pipeline`, or its replacement in tests.
    """

    def __init__(self, config: RealSenseConfig, start: Start = start_pipeline) -> None:
        self.name = config.name
        self.config = config
        self._start = start
        self._frames: Any = None
        self._stop: Callable[[], None] | None = None
        self._silent = 0

    def open(self) -> None:
        """Start the camera's pipeline."""
        try:
            self._frames, self._stop = self._start(self.config)
        except RuntimeError as error:  # all that the SDK ever raises
            raise SensorError(
                f"'{self.name}': RealSense {self.config.serial or '(any)'} does not start: {error}",
                remedy="check cable and serial number, and that the camera has this size and rate "
                "(rs-enumerate-devices)",
            ) from error
        self._silent = 0

    def read(self) -> Reading | None:
        """Return the next image."""
        came, frames = self._frames.try_wait_for_frames(TIMEOUT_MS)
        colour = frames.get_color_frame() if came else None
        if not colour:
            self._silent += 1
            if self._silent >= SILENCES:
                raise SensorError(
                    f"'{self.name}' is silent",
                    remedy="check the camera's cable; it is opened again by itself",
                )
            return None

        self._silent = 0
        now = time.monotonic()
        image = np.asanyarray(colour.get_data())
        wanted = (self.config.height, self.config.width, 3)
        if image.shape != wanted:
            raise SensorError(
                f"'{self.name}' sends {image.shape} instead of {wanted}",
                remedy="set width and height to what it sends",
            )

        stamp = colour.get_timestamp() / MILLISECONDS
        host = now
        if colour.get_frame_timestamp_domain() != sdk().timestamp_domain.hardware_clock:
            # The stamp is in the host's wall time: the way from sensor to here counts as age.
            host -= max(0.0, time.time() - stamp)
        return Reading(image.copy(), stamp, host, colour.get_frame_number())

    def close(self) -> None:
        """Stop the camera's pipeline."""
        if self._stop is not None:
            self._stop()
            self._stop = None
