"""Images from OpenCV: a USB camera by its number, a video, or numbered files (``%04d.png``)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from zprl.robot.sensors.base import Pixels, Reading, SensorConfig, SensorError, parse


class OpenCvConfig(SensorConfig):
    """Source, size and rate of the images."""

    source: int | str = Field(description="Number of the device, or a file or pattern.")
    width: Pixels
    height: Pixels
    rate_hz: float = Field(
        30.0,
        gt=0,
        le=1000,
        description="Images per second: requested of a device, kept for a file.",
    )


def make(config: Mapping[str, Any]) -> OpenCv:
    """Make the sensor; entry point ``opencv``."""
    return OpenCv(parse(OpenCvConfig, config))


class OpenCv:
    """RGB images.

    OpenCV numbers nothing and stamps nothing: number and stamp of a device's images are ours, at
    arrival.
    """

    def __init__(self, config: OpenCvConfig) -> None:
        self.name = config.name
        self.config = config
        self._capture: Any = None
        self._seq = 0

    def open(self) -> None:
        """Open the device or file."""
        import cv2

        c = self.config
        self._capture = cv2.VideoCapture(c.source)
        if not self._capture.isOpened():
            raise SensorError(
                f"'{self.name}': OpenCV cannot open {c.source!r}",
                remedy="is the camera there (/dev/video*), or the file?",
            )

        if isinstance(c.source, int):
            self._capture.set(cv2.CAP_PROP_FRAME_WIDTH, c.width)
            self._capture.set(cv2.CAP_PROP_FRAME_HEIGHT, c.height)
            self._capture.set(cv2.CAP_PROP_FPS, c.rate_hz)
            # A buffer of one image: an old one is of no use.
            self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)

        self._start = time.monotonic()
        # Numbers go on when it is opened again: an image may not be taken for an earlier one.
        self._first = self._seq

    def read(self) -> Reading:
        """Return the next image."""
        import cv2

        c = self.config
        good, image = self._capture.read()
        if not good:
            raise SensorError(
                f"'{self.name}': no more images from {c.source!r}",
                remedy="check the camera's cable; a video ends",
            )
        if image.shape != (c.height, c.width, 3):
            raise SensorError(
                f"'{self.name}' sends images of {image.shape[1]} x {image.shape[0]} "
                f"instead of {c.width} x {c.height}",
                remedy="set width and height to what the camera can do",
            )

        stamp = host = time.monotonic()
        if isinstance(c.source, str):
            stamp = (self._seq - self._first) / c.rate_hz
            host = self._start + stamp
            time.sleep(max(0.0, host - time.monotonic()))
        self._seq += 1
        return Reading(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), stamp, host, self._seq - 1)

    def close(self) -> None:
        """Let go of the device or file."""
        if self._capture is not None:
            self._capture.release()
            self._capture = None
