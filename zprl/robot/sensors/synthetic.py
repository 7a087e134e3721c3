"""A camera without hardware: a square that moves, and the picture's number in its first pixels."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from zprl.robot.sensors.base import Pixels, Reading, SensorConfig, parse


class SyntheticConfig(SensorConfig):
    """See the module."""

    width: Pixels = Field(640, ge=8)
    height: Pixels = Field(480, ge=8)
    rate_hz: float = Field(
        30.0,
        gt=0,
        le=1000,
        description="Pictures per second; those nobody was in time for are lost.",
    )


def make(config: Mapping[str, Any]) -> Synthetic:
    """Entry point ``synthetic``."""
    return Synthetic(parse(SyntheticConfig, config))


class Synthetic:
    """Pictures at a steady rate, a pure function of their number; the device's clock starts at 0 when it is opened."""

    def __init__(self, config: SyntheticConfig) -> None:
        self.name, self.config = config.name, config
        self._start = 0.0
        self._next = 0

    def open(self) -> None:
        """Start at number 0."""
        self._start, self._next = time.monotonic(), 0

    def read(self) -> Reading:
        """The next picture that is due."""
        rate = self.config.rate_hz
        number = max(self._next, int((time.monotonic() - self._start) * rate))
        self._next = number + 1
        taken = self._start + number / rate
        time.sleep(max(0.0, taken - time.monotonic()))
        return Reading(
            image(number, self.config.height, self.config.width), number / rate, taken, number
        )

    def close(self) -> None:
        """Nothing to let go."""


def image(number: int, height: int, width: int) -> np.ndarray:
    """Picture ``number``, (H, W, 3) uint8."""
    out = np.full((height, width, 3), 96, np.uint8)
    side = max(2, min(height, width) // 6)
    top, left = (5 * number) % (height - side + 1), (9 * number) % (width - side + 1)
    out[top : top + side, left : left + side] = (220, 60, 40)
    out.reshape(-1)[:8] = np.frombuffer(number.to_bytes(8, "little"), np.uint8)
    return out


def number_of(image: np.ndarray) -> int:
    """The number that :func:`image` wrote into it."""
    return int.from_bytes(image.reshape(-1)[:8].tobytes(), "little")
