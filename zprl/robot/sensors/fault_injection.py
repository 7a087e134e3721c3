"""A sensor with injected faults: for rehearsals of what a session does then."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from pydantic import Field

from zprl.robot.sensors.base import Kind, Reading, Sensor, SensorConfig, parse
from zprl.strict_model import StrictModel


class InjectedFault(StrictModel):
    """One fault, from reading ``at`` on for ``count`` readings."""

    kind: Literal["freeze", "repeat", "drop", "lag", "black", "wrong_size", "hang"] = Field(
        description="freeze: the old value under new numbers and stamps; repeat: the old reading "
        "itself; drop: lost; lag: an earlier reading; black: zeros; wrong_size: half as high; "
        "hang: `read` does not return before `close`."
    )
    at: int = Field(
        ge=0, description="Number of the first reading, counted from 0 since it was made."
    )
    count: int = Field(1, ge=1)
    by: int = Field(1, ge=1, le=300, description="How many readings late (lag).")


class FaultInjectionConfig(SensorConfig):
    """A sensor and the faults injected into it."""

    sensor: Kind
    faults: tuple[InjectedFault, ...] = ()


def make(config: Mapping[str, Any]) -> FaultInjector:
    """Make the sensor; entry point ``fault_injection``."""
    parsed = parse(FaultInjectionConfig, config)
    return FaultInjector(parsed.sensor.make(parsed.name), parsed.faults)


class FaultInjector:
    """A sensor with faults; where two would act, the first does."""

    def __init__(self, sensor: Sensor, faults: tuple[InjectedFault, ...]) -> None:
        self.name = sensor.name
        self._sensor = sensor
        self._faults = faults
        self._count = 0
        longest_lag = max((fault.by for fault in faults), default=1)
        self._past: deque[Reading] = deque(maxlen=1 + longest_lag)
        self._given: Reading | None = None
        self._closed = threading.Event()

    def open(self) -> None:
        """Open the sensor without faults."""
        self._closed.clear()
        self._sensor.open()

    def read(self) -> Reading | None:
        """Return the next reading, with the fault that is due."""
        reading = self._sensor.read()
        if reading is None:
            return None

        fault = next((f for f in self._faults if f.at <= self._count < f.at + f.count), None)
        self._count += 1
        self._past.append(reading)
        if fault is None:
            self._given = reading
            return reading
        return self._disturbed(reading, fault)

    def _disturbed(self, reading: Reading, fault: InjectedFault) -> Reading | None:
        match fault.kind:
            case "drop":
                return None
            case "hang":
                self._closed.wait()
                return None
            case "lag":
                return self._past[-min(1 + fault.by, len(self._past))]
            case "black":
                return replace(reading, value=np.zeros_like(reading.value))
            case "wrong_size":
                return replace(reading, value=reading.value[: len(reading.value) // 2])
            case "repeat":
                return self._given or reading
            case "freeze":
                value = (self._given or reading).value
                return replace(reading, value=value, host=time.monotonic())

    def close(self) -> None:
        """Close the sensor, and end a hang."""
        self._closed.set()
        self._sensor.close()
