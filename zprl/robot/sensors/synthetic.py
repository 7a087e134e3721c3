"""A camera without hardware: a square that moves, and the image's number in its first pixels."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from zprl.robot.sensors.base import Pixels, Reading, SensorConfig, parse

GREY, RED = 96, (220, 60, 40)
"""Colours of the background and of the square."""
DOWN, RIGHT = 5, 9
"""Steps of the square between two images [pixels]."""
NUMBER_BYTES = 8


class SyntheticConfig(SensorConfig):
    """Size and rate of the images."""

    width: Pixels = Field(640, ge=8)
    height: Pixels = Field(480, ge=8)
    rate_hz: float = Field(
        30.0,
        gt=0,
        le=1000,
        description="Images per second; those that are not read in time are lost.",
    )


def make(config: Mapping[str, Any]) -> Synthetic:
    """Make the sensor; entry point ``synthetic``."""
    return Synthetic(parse(SyntheticConfig, config))


class Synthetic:
    """Images at a steady rate, a pure function of their number.

    The device's clock starts at 0 when it is opened.
    """

    def __init__(self, config: SyntheticConfig) -> None:
        self.name = config.name
        self.config = config
        self._start = 0.0
        self._next = 0

    def open(self) -> None:
        """Start at number 0."""
        self._start = time.monotonic()
        self._next = 0

    def read(self) -> Reading:
        """Return the next image that is due."""
        rate = self.config.rate_hz
        number = max(self._next, int((time.monotonic() - self._start) * rate))
        self._next = number + 1

        taken = self._start + number / rate
        time.sleep(max(0.0, taken - time.monotonic()))
        value = image(number, self.config.height, self.config.width)
        return Reading(value, number / rate, taken, number)

    def close(self) -> None:
        """Do nothing: there is no device."""


def image(number: int, height: int, width: int) -> np.ndarray:
    """Make image ``number``, (H, W, 3) uint8."""
    out = np.full((height, width, 3), GREY, np.uint8)
    side = max(2, min(height, width) // 6)
    top = (DOWN * number) % (height - side + 1)
    left = (RIGHT * number) % (width - side + 1)
    out[top : top + side, left : left + side] = RED
    out.reshape(-1)[:NUMBER_BYTES] = np.frombuffer(
        number.to_bytes(NUMBER_BYTES, "little"), np.uint8
    )
    return out


def number_of(image: np.ndarray) -> int:
    """Return the number that :func:`image` wrote into an image."""
    return int.from_bytes(image.reshape(-1)[:NUMBER_BYTES].tobytes(), "little")
