"""Cameras and trackers behind one shape: values with stamps, and a reader that keeps the newest one.

A sense is one class; its ``make(config)`` stands behind the entry point ``zprl.sensors`` and touches
no hardware.  Pictures are RGB, (H, W, 3) uint8; poses (7,) float64: position [m] and quaternion
xyzw.
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
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from zprl import plugins
from zprl.errors import ConfigError, EnvironmentProblem

REOPEN_S = 0.5
"""Wait before a device that failed is opened again [s]."""
FROZEN_S = 1.0
"""A camera whose picture has not changed in a single bit for so long is frozen: a live one has
noise [s] (ours)."""

Pixels = Annotated[int, Field(ge=1, le=8192)]


class SensorError(EnvironmentProblem):
    """A sense that cannot be opened, or has failed."""


class StaleSensor(EnvironmentProblem):
    """A sense has nothing new to say.

    Attributes:
        age: Seconds since it last had; infinite if it never spoke.
    """

    def __init__(self, message: str, *, age: float, remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.age = age


@dataclass(frozen=True)
class Reading:
    """One value.

    Attributes:
        value: The reader's own array; the device does not write into it again.
        stamp: When the device says it was taken, on the device's clock [s].
        host: When it arrived, or better, was taken, on the host's monotonic clock [s].
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
        """The next reading; ``None`` after a time-out of its own.

        Raises:
            SensorError: the device has failed and must be opened again.
        """
        ...

    def close(self) -> None:
        """Let go; harmless when not open."""
        ...


class SensorConfig(BaseModel):
    """What every kind's ``make(config)`` gets: frozen, and a key it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(min_length=1, max_length=40)


class Kind(BaseModel):
    """Another sense, inside a config."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    config: dict[str, Any] = Field(default_factory=dict)

    def make(self, name: str) -> Sensor:
        """Make it under ``name``."""
        return make_sensor(self.kind, {"name": name, **self.config})


C = TypeVar("C", bound=SensorConfig)


def parse(model: type[C], config: Mapping[str, Any]) -> C:
    """Read a config, or raise :class:`ConfigError` naming sense and key."""
    try:
        return model.model_validate(dict(config))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "config"
        raise ConfigError(
            f"sense '{config.get('name')}': {where}: {first['msg']}",
            remedy="correct it in the task file",
        ) from error


def make_sensor(kind: str, config: Mapping[str, Any]) -> Sensor:
    """Make a sense of a registered kind; touches no hardware.

    Args:
        kind: Name under the entry point ``zprl.sensors``.
        config: ``name`` and what the kind wants.

    Raises:
        ConfigError: an unknown kind or key.
    """
    return plugins.load("sensors", kind)(config)


def readings(
    sense: Sensor, stopping: threading.Event, failed: Callable[[Exception], None]
) -> Iterator[Reading]:
    """Open a sense and yield what it reads until ``stopping``; open it again whenever it fails.

    Args:
        sense: The sense.
        stopping: Ends the iteration at the next reading or time-out.
        failed: Told of every failure.
    """
    while not stopping.is_set():
        try:
            sense.open()
            while not stopping.is_set():
                reading = sense.read()
                if reading is not None:
                    yield reading
        except Exception as error:  # whatever a vendor's library raises: the readings grow stale, and the reason is told
            failed(error)
        finally:
            with contextlib.suppress(Exception):
                sense.close()
        stopping.wait(REOPEN_S)


class LatestReader:
    """Reads in a thread of its own and keeps the newest reading; a device that hangs holds up nobody.

    Args:
        sense: The sense; from now on only that thread touches it.
        frozen_s: How long a picture may stay the same to the bit; a pose may do so for ever.

    Attributes:
        received: Readings taken.
        dropped: Numbers that never came.
        repeated: Readings that came again; they do not count as new.
        refused: Readings that were not finite, or not of the first one's shape and type.
        failures: How often the device failed and was opened again.
    """

    def __init__(self, sense: Sensor, *, frozen_s: float = FROZEN_S) -> None:
        self.sense = sense
        self.received = self.dropped = self.repeated = self.refused = self.failures = 0
        self._frozen_s = frozen_s
        self._newest: tuple[Reading, float] | None = (
            None  # and when its picture last changed; one reference, so swapped at once
        )
        self._fault = ""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"sense-{sense.name}", daemon=True)

    def start(self) -> None:
        """Open the device and read; returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; one that hangs in its device is left to die with the process."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(2.0)

    def latest(self, max_age_s: float) -> Reading:
        """The newest reading.

        Args:
            max_age_s: How old it may be on the host's clock [s].

        Raises:
            StaleSensor: there is none, it is too old, or the picture is frozen.
        """
        newest, now = self._newest, time.monotonic()
        reason = f"; {self._fault}" if self._fault else ""
        if newest is None:
            raise StaleSensor(
                f"'{self.sense.name}' has said nothing yet{reason}",
                age=math.inf,
                remedy="check the device and its cable",
            )
        reading, changed = newest
        if (age := now - reading.host) > max_age_s:
            raise StaleSensor(
                f"'{self.sense.name}' has said nothing new for {age:.2f} s, {max_age_s:g} s are allowed{reason}",
                age=age,
                remedy="check the device, its cable and its light",
            )
        if reading.host - changed > self._frozen_s:
            raise StaleSensor(
                f"'{self.sense.name}' is frozen: the same picture for {now - changed:.2f} s",
                age=now - changed,
                remedy="unplug the camera and plug it in again; it is read again by itself",
            )
        return reading

    def _run(self) -> None:
        for reading in readings(self.sense, self._stopping, self._failed):
            self._take(reading)

    def _failed(self, error: Exception) -> None:
        self.failures += 1
        self._fault = str(getattr(error, "message", "")) or f"{type(error).__name__}: {error}"

    def _take(self, reading: Reading) -> None:
        value, now = reading.value, time.monotonic()
        if (
            not math.isfinite(reading.host) or reading.host > now
        ):  # a clock that is ahead would never grow stale
            reading = Reading(value, reading.stamp, now, reading.seq)
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            return self._refuse("it sends values that are not finite")
        changed = reading.host
        if self._newest is not None:
            last, last_change = self._newest
            if (value.shape, value.dtype) != (last.value.shape, last.value.dtype):
                return self._refuse(
                    f"it sends {value.dtype} {value.shape} instead of {last.value.dtype} {last.value.shape}"
                )
            if reading.seq == last.seq:
                self.repeated += 1
                return None
            self.dropped += max(0, reading.seq - last.seq - 1)
            if value.dtype == np.uint8 and np.array_equal(value, last.value):
                changed = last_change
        self.received += 1
        self._newest, self._fault = (reading, changed), ""
        return None

    def _refuse(self, why: str) -> None:
        self.refused += 1
        self._fault = why
