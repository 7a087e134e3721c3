"""Cameras and trackers in one form: values with stamps, and a reader that keeps the newest one.

A sensor is one class; its ``make(config)`` stands behind the entry point ``zprl.sensors`` and
touches no hardware.  Images are RGB, (H, W, 3) uint8; poses (7,) float64: position [m] and
quaternion xyzw.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from pydantic import Field, ValidationError

from zprl import plugins
from zprl.errors import ConfigError, EnvironmentProblem
from zprl.strict_model import FiniteModel, StrictModel

REOPEN_S = 0.5
"""Wait before a device that failed is opened again [s]."""
FROZEN_S = 1.0
"""A camera whose image has not changed in a single bit for so long is frozen: a live one has noise
[s] (ours)."""
STOP_S = 2.0
"""Longest wait for a reader's thread at its end [s]."""

Pixels = Annotated[int, Field(ge=1, le=8192)]


class SensorError(EnvironmentProblem):
    """A sensor that cannot be opened, or has failed."""


class StaleSensor(EnvironmentProblem):
    """A sensor without a new reading.

    Attributes:
        age: Seconds since the newest one; infinite before the first.
    """

    def __init__(self, message: str, *, age: float, remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.age = age


@dataclass(frozen=True)
class Reading:
    """One value with its stamps.

    Attributes:
        value: The reader's own array; the device does not write into it again.
        stamp: Time at which it was taken, on the device's clock [s].
        host: Time at which it arrived, or better, was taken, on the host's monotonic clock [s].
        seq: Its number; a gap is a loss, the same number twice the same reading.
    """

    value: np.ndarray
    stamp: float
    host: float
    seq: int


@runtime_checkable
class Sensor(Protocol):
    """A source of readings; used by one thread at a time."""

    name: str

    def open(self) -> None:
        """Connect; again after :meth:`close`.

        Raises:
            SensorError: nobody answers.
        """
        ...

    def read(self) -> Reading | None:
        """Return the next reading; ``None`` after a time-out of its own.

        Raises:
            SensorError: the device has failed and must be opened again.
        """
        ...

    def close(self) -> None:
        """Let go; harmless when not open."""
        ...


class SensorConfig(FiniteModel):
    """Argument of every kind's ``make(config)``."""

    name: str = Field(min_length=1, max_length=40)


class Kind(StrictModel):
    """Another sensor, inside a config."""

    kind: str
    config: dict[str, Any] = Field(default_factory=dict)

    def make(self, name: str) -> Sensor:
        """Make the sensor under ``name``."""
        return make_sensor(self.kind, {"name": name, **self.config})


C = TypeVar("C", bound=SensorConfig)


def parse(model: type[C], config: Mapping[str, Any]) -> C:
    """Read a config, or raise :class:`ConfigError` naming sensor and key."""
    try:
        return model.model_validate(dict(config))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "config"
        raise ConfigError(
            f"sensor '{config.get('name')}': {place}: {first['msg']}",
            remedy="correct it in the task file",
        ) from error


def make_sensor(kind: str, config: Mapping[str, Any]) -> Sensor:
    """Make a sensor of a registered kind; touches no hardware.

    Args:
        kind: Name under the entry point ``zprl.sensors``.
        config: ``name`` and the keys of the kind.

    Raises:
        ConfigError: an unknown kind or key.
    """
    sensor: Sensor = plugins.load("sensors", kind)(config)
    return sensor


def readings(
    sensor: Sensor, stopping: threading.Event, failed: Callable[[Exception], None]
) -> Iterator[Reading]:
    """Open a sensor and yield its readings until ``stopping``; open it again whenever it fails.

    Args:
        sensor: The sensor.
        stopping: Ends the iteration at the next reading or time-out.
        failed: Called with every failure.
    """
    while not stopping.is_set():
        try:
            sensor.open()
            while not stopping.is_set():
                reading = sensor.read()
                if reading is not None:
                    yield reading
        except Exception as error:  # noqa: BLE001 - a vendor's library may raise anything
            failed(error)
        finally:
            with contextlib.suppress(Exception):
                sensor.close()
        stopping.wait(REOPEN_S)


class LatestReader:
    """Thread that reads and keeps the newest reading; a device that hangs blocks no caller.

    Args:
        sensor: The sensor; from now on only that thread touches it.
        frozen_s: Longest time for which an image may stay the same to the bit [s]; a pose may for
            ever.

    Attributes:
        received: Readings taken.
        dropped: Numbers that never came.
        repeated: Readings that came again; they do not count as new.
        refused: Readings that were not finite, or not of the first one's shape and type.
        failures: Number of times that the device failed and was opened again.
    """

    def __init__(self, sensor: Sensor, *, frozen_s: float = FROZEN_S) -> None:
        self.sensor = sensor
        self.received = 0
        self.dropped = 0
        self.repeated = 0
        self.refused = 0
        self.failures = 0

        self._frozen_s = frozen_s
        self._newest: tuple[Reading, float] | None = None
        """Newest reading, and when its image last changed; one reference, so swapped at once."""
        self._fault = ""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"sensor-{sensor.name}", daemon=True)

    def start(self) -> None:
        """Open the device and read; returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; one that hangs in its device is left to die with the process."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(STOP_S)

    def latest(self, max_age_s: float) -> Reading:
        """Return the newest reading.

        Args:
            max_age_s: Largest age on the host's clock [s].

        Raises:
            StaleSensor: there is none, it is too old, or the image is frozen.
        """
        newest = self._newest
        now = time.monotonic()
        reason = f"; {self._fault}" if self._fault else ""
        if newest is None:
            raise StaleSensor(
                f"'{self.sensor.name}' has sent nothing yet{reason}",
                age=math.inf,
                remedy="check the device and its cable",
            )

        reading, changed = newest
        age = now - reading.host
        if age > max_age_s:
            raise StaleSensor(
                f"'{self.sensor.name}' has sent nothing new for {age:.2f} s, "
                f"{max_age_s:g} s are allowed{reason}",
                age=age,
                remedy="check the device, its cable and its light",
            )
        if reading.host - changed > self._frozen_s:
            raise StaleSensor(
                f"'{self.sensor.name}' is frozen: the same image for {now - changed:.2f} s",
                age=now - changed,
                remedy="unplug the camera and plug it in again; it is read again by itself",
            )
        return reading

    def _run(self) -> None:
        for reading in readings(self.sensor, self._stopping, self._failed):
            self._take(reading)

    def _failed(self, error: Exception) -> None:
        self.failures += 1
        self._fault = str(getattr(error, "message", "")) or f"{type(error).__name__}: {error}"

    def _take(self, reading: Reading) -> None:
        value = reading.value
        now = time.monotonic()
        # A clock that is ahead would never grow stale.
        if not math.isfinite(reading.host) or reading.host > now:
            reading = Reading(value, reading.stamp, now, reading.seq)

        if value.dtype.kind == "f" and not np.isfinite(value).all():
            self._refuse("it sends values that are not finite")
            return

        changed = reading.host
        if self._newest is not None:
            last, last_change = self._newest
            held = last.value
            if (value.shape, value.dtype) != (held.shape, held.dtype):
                self._refuse(
                    f"it sends {value.dtype} {value.shape} instead of {held.dtype} {held.shape}"
                )
                return
            if reading.seq == last.seq:
                self.repeated += 1
                return
            self.dropped += max(0, reading.seq - last.seq - 1)
            if value.dtype == np.uint8 and np.array_equal(value, held):
                changed = last_change

        self.received += 1
        self._newest = (reading, changed)
        self._fault = ""

    def _refuse(self, reason: str) -> None:
        self.refused += 1
        self._fault = reason
