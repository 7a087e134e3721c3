"""A sense that goes wrong when told to: for rehearsals of what a session does then."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from zprl.robot.sensors.base import Kind, Reading, Sensor, SensorConfig, parse


class InjectedFault(BaseModel):
    """One thing that goes wrong, from reading ``at`` on for ``count`` readings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["freeze", "repeat", "drop", "lag", "black", "wrong_size", "hang"] = Field(
        description="freeze: the old value under new numbers and stamps; repeat: the old reading itself; drop: lost; "
        "lag: an earlier reading; black: zeros; wrong_size: half as high; hang: `read` does not return before `close`."
    )
    at: int = Field(
        ge=0, description="Number of the first reading, counted from 0 since it was made."
    )
    count: int = Field(1, ge=1)
    by: int = Field(1, ge=1, le=300, description="How many readings late (lag).")


class FaultInjectionConfig(SensorConfig):
    """See the module."""

    sense: Kind
    knobs: tuple[InjectedFault, ...] = ()


def make(config: Mapping[str, Any]) -> FaultInjector:
    """Entry point ``knobs``."""
    parsed = parse(FaultInjectionConfig, config)
    return FaultInjector(parsed.sense.make(parsed.name), parsed.knobs)


class FaultInjector:
    """``sense`` with ``knobs``; where two would act, the first does."""

    def __init__(self, sense: Sensor, knobs: tuple[InjectedFault, ...]) -> None:
        self.name, self._sense, self._knobs = sense.name, sense, knobs
        self._count = 0
        self._past: deque[Reading] = deque(maxlen=1 + max((k.by for k in knobs), default=1))
        self._given: Reading | None = None
        self._closed = threading.Event()

    def open(self) -> None:
        """Open the sense."""
        self._closed.clear()
        self._sense.open()

    def read(self) -> Reading | None:
        """The next reading, disturbed if it is time to."""
        reading = self._sense.read()
        if reading is None:
            return None
        knob = next((k for k in self._knobs if k.at <= self._count < k.at + k.count), None)
        self._count += 1
        self._past.append(reading)
        if knob is None:
            self._given = reading
            return reading
        match knob.kind:
            case "drop":
                return None
            case "hang":
                self._closed.wait()
                return None
            case "lag":
                return self._past[-min(1 + knob.by, len(self._past))]
            case "black":
                return replace(reading, value=np.zeros_like(reading.value))
            case "wrong_size":
                return replace(reading, value=reading.value[: len(reading.value) // 2])
            case "repeat":
                return self._given or reading
        return replace(reading, value=(self._given or reading).value, host=time.monotonic())

    def close(self) -> None:
        """Close the sense."""
        self._closed.set()
        self._sense.close()
