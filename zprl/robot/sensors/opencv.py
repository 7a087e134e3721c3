"""Whatever OpenCV opens: a USB camera by its number, a film, or numbered pictures (``frames/%04d.png``)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from zprl.robot.sensors.base import Pixels, Reading, SensorConfig, SensorError, parse


class OpenCvConfig(SensorConfig):
    """See the module."""

    source: int | str = Field(description="Number of the device, or a file or pattern.")
    width: Pixels
    height: Pixels
    rate_hz: float = Field(
        30.0, gt=0, le=1000, description="Pictures per second: asked of a device, kept for a file."
    )


def make(config: Mapping[str, Any]) -> OpenCv:
    """Entry point ``opencv``."""
    return OpenCv(parse(OpenCvConfig, config))


class OpenCv:
    """RGB pictures.  OpenCV numbers nothing and stamps nothing: number and stamp of a device's pictures are ours, at arrival."""

    def __init__(self, config: OpenCvConfig) -> None:
        self.name, self.config = config.name, config
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
            asked = {
                "FRAME_WIDTH": c.width,
                "FRAME_HEIGHT": c.height,
                "FPS": c.rate_hz,
                "BUFFERSIZE": 1,
            }
            for (
                key,
                value,
            ) in asked.items():  # one picture of buffer: an old one is of no use to anybody
                self._capture.set(getattr(cv2, f"CAP_PROP_{key}"), value)
        self._start = time.monotonic()
        self._first = (
            self._seq
        )  # numbers go on when it is opened again: a picture may not be taken for an earlier one

    def read(self) -> Reading:
        """The next picture."""
        import cv2

        c = self.config
        good, image = self._capture.read()
        if not good:
            raise SensorError(
                f"'{self.name}': no more pictures from {c.source!r}",
                remedy="check the camera's cable; a film ends",
            )
        if image.shape != (c.height, c.width, 3):
            raise SensorError(
                f"'{self.name}' sends pictures of {image.shape[1]} x {image.shape[0]} instead of {c.width} x {c.height}",
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
        """Let go of the device."""
        if self._capture is not None:
            self._capture.release()
            self._capture = None
