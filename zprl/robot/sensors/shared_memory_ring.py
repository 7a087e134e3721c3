"""The newest readings of one process in shared memory: one writer, any number of readers.

Neither waits for the other.

The memory is a header and a few slots that are written in turn.  A slot's counter is odd while it
is being written: a reader that sees an odd or a changed one copies again.  Readers map the memory
read-only, and unlike ``SharedMemory(name)`` they never unlink it at their exit (Python before
3.13); the writer's resource tracker does that, also when the writer was killed.

    python -m zprl.robot.sensors.shared_memory_ring --ring NAME --kind KIND --config JSON

is a camera process: it reads one sensor for all, until it is terminated or its parent is gone.
"""

from __future__ import annotations

import _posixshmem
import argparse
import contextlib
import json
import logging
import math
import mmap
import os
import re
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from multiprocessing import shared_memory
from typing import Any

import numpy as np
from pydantic import Field

from zprl import logs
from zprl.robot.sensors.base import (
    Reading,
    Sensor,
    SensorConfig,
    SensorError,
    make_sensor,
    parse,
    readings,
)

log = logging.getLogger(__name__)

MAGIC = 0x3130474E49525A50  # "PZRING01"
DTYPES = ("uint8", "float64")
SLOTS = 3
MAX_BYTES = 2**28
READ_S, POLL_S = 0.1, 0.002
"""Longest wait of one read, and time between two looks [s]."""
TORN_S, TORN_POLL_S = 2.0, 1e-4
"""A reading still being written after so long was left by a writer that was killed [s]; one on a
busy machine rests for less."""
PARENT_S = 0.5
"""Time between two looks whether the parent is alive [s]."""
TRACKER_S = 3.0
"""Longest wait for a dead writer's resource tracker [s]; it may have to start first."""
WORD = 8
"""Bytes of a word."""
MAX_DIMENSIONS = 3
NAME = r"^[A-Za-z][\w-]{0,28}$"  # macOS takes 31 characters
# Words of eight bytes, stored by one instruction each.  Header: magic, process, slots, type,
# dimensions, shape (3), newest.
_PROCESS, _SLOTS, _DTYPE, _NDIM, _SHAPE, _NEWEST, _HEADER = 1, 2, 3, 4, 5, 8, 16
# Slot: counter, number, stamp, host; then the value.
_COUNTER, _SEQ, _STAMP, _HOST, _SLOT = 0, 1, 2, 3, 8


def _words_per_slot(size: int) -> int:
    """Return the words of a slot whose value has ``size`` bytes, rounded up."""
    return _SLOT + -(-size // WORD)


class RingWriter:
    """Writing end of a ring.

    Args:
        name: Of the ring; a dead writer's ring of this name is replaced.
        shape: Of the values.
        dtype: ``uint8`` or ``float64``.
        slots: Number of slots; with three a reader hardly ever has to copy twice.

    Raises:
        SensorError: another process writes this ring.
    """

    def __init__(
        self, name: str, shape: Sequence[int], dtype: str = "uint8", *, slots: int = SLOTS
    ) -> None:
        if not re.match(NAME, name) or dtype not in DTYPES or not 1 <= len(shape) <= MAX_DIMENSIONS:
            raise SensorError(
                f"no ring can be called {name!r} and hold {dtype} {shape}",
                remedy="use a short name of letters and digits",
            )
        self.name = name
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype)
        self._slots = slots

        self._words_per_slot = _words_per_slot(math.prod(shape) * self.dtype.itemsize)
        size = WORD * (_HEADER + slots * self._words_per_slot)
        if size > MAX_BYTES:
            raise SensorError(
                f"the ring {name!r} would have {size} bytes", remedy="use smaller images"
            )
        _remove_orphan(name)
        self._memory = shared_memory.SharedMemory(name, create=True, size=size)
        memory = self._memory.buf
        assert memory is not None  # until it is closed

        # The magic number comes last: a reader that sees it sees the whole header.
        words = self._words = np.frombuffer(memory, np.uint64)
        words[:_HEADER] = 0
        words[_PROCESS] = os.getpid()
        words[_SLOTS] = slots
        words[_DTYPE] = DTYPES.index(dtype)
        words[_NDIM] = len(shape)
        words[_SHAPE : _SHAPE + len(shape)] = shape
        words[0] = MAGIC

    def write(self, reading: Reading) -> None:
        """Publish a reading; never waits."""
        value = reading.value
        if value.shape != self.shape or value.dtype != self.dtype:
            raise SensorError(
                f"the ring {self.name!r} holds {self.dtype} {self.shape}, "
                f"not {value.dtype} {value.shape}",
                remedy="make a new ring for a new size",
            )

        newest = int(self._words[_NEWEST])
        start = _HEADER + newest % self._slots * self._words_per_slot
        slot = self._words[start : start + self._words_per_slot]

        # The counter is odd while the slot is being written.
        slot[_COUNTER] += np.uint64(1)
        slot[_SEQ : _SEQ + 1].view(np.int64)[0] = reading.seq
        slot[_STAMP : _HOST + 1].view(np.float64)[:] = reading.stamp, reading.host
        content = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
        slot[_SLOT:].view(np.uint8)[: value.nbytes] = content
        slot[_COUNTER] += np.uint64(1)
        self._words[_NEWEST] = newest + 1

    def close(self) -> None:
        """Remove the ring; readers keep what they have mapped and see that nothing new comes."""
        self._words = np.empty(0, np.uint64)  # the memory cannot be closed under a view
        self._memory.close()
        with contextlib.suppress(FileNotFoundError):
            self._memory.unlink()


class RingConfig(SensorConfig):
    """Name of a ring that is read as a sensor."""

    ring: str = Field(pattern=NAME, description="Name of the ring.")


def make(config: Mapping[str, Any]) -> RingReader:
    """Make the sensor; entry point ``shared``."""
    parsed = parse(RingConfig, config)
    return RingReader(parsed.name, parsed.ring)


class RingReader:
    """Reading end of a ring, and a sensor.

    Args:
        name: Of the sensor.
        ring: Of the ring.

    Attributes:
        torn: Number of copies made again because the writer was at the slot.
    """

    def __init__(self, name: str, ring: str) -> None:
        self.name = name
        self.ring = ring
        self.torn = 0
        self._map: mmap.mmap | None = None
        self._seen = 0
        """Number of the newest reading that was read."""

    def open(self) -> None:
        """Map the ring.

        Raises:
            SensorError: there is none, or it is not ours.
        """
        self.close()
        descriptor = self._descriptor()
        try:
            file = os.fstat(descriptor)
            self._identity = (file.st_dev, file.st_ino)
            if not WORD * _HEADER <= file.st_size <= 2 * MAX_BYTES:
                raise SensorError(
                    f"the ring {self.ring!r} has {file.st_size} bytes",
                    remedy="is it another program's?",
                )
            self._map = mmap.mmap(descriptor, file.st_size, mmap.MAP_SHARED, mmap.PROT_READ)
        finally:
            os.close(descriptor)

        self._words = np.frombuffer(self._map, np.uint64, count=file.st_size // WORD)
        self._read_header()
        if WORD * (_HEADER + self._slots * self._words_per_slot) > file.st_size:
            raise SensorError(
                f"the ring {self.ring!r} is shorter than its header says",
                remedy="start its camera process again",
            )
        self._seen = 0

    def _read_header(self) -> None:
        header = [int(v) for v in self._words[:_HEADER]]
        dimensions = header[_NDIM]
        self._shape = tuple(header[_SHAPE : _SHAPE + min(dimensions, MAX_DIMENSIONS)])
        self._slots = header[_SLOTS]

        complete = header[0] == MAGIC and header[_DTYPE] < len(DTYPES)
        if not complete or not 1 <= dimensions <= MAX_DIMENSIONS or self._slots < 1:
            raise SensorError(
                f"{self.ring!r} is no ring of readings, or not ready",
                remedy="is it another program's?",
            )
        self._dtype = np.dtype(DTYPES[header[_DTYPE]])
        self._bytes = math.prod(self._shape) * self._dtype.itemsize
        self._words_per_slot = _words_per_slot(self._bytes)

    def latest(self) -> Reading | None:
        """Return a copy of the newest reading, or ``None`` before the first.

        It never waits for the writer, but copies again what is torn.

        Raises:
            SensorError: the writer was killed in the middle of the only slot.
        """
        until = time.monotonic() + TORN_S
        while True:
            newest = int(self._words[_NEWEST])
            if not newest:
                return None

            start = _HEADER + (newest - 1) % self._slots * self._words_per_slot
            slot = self._words[start : start + self._words_per_slot]

            # The copy is whole where the counter is even and stays the same.
            before = int(slot[_COUNTER])
            seq = int(slot[_SEQ : _SEQ + 1].view(np.int64)[0])
            stamp, host = (float(v) for v in slot[_STAMP : _HOST + 1].view(np.float64))
            value = slot[_SLOT:].view(np.uint8)[: self._bytes].copy()
            if before % 2 == 0 and int(slot[_COUNTER]) == before:
                self._seen = newest
                return Reading(value.view(self._dtype).reshape(self._shape), stamp, host, seq)
            self.torn += 1
            if time.monotonic() > until:
                break
            time.sleep(TORN_POLL_S)  # let the writer finish
        raise SensorError(
            f"the ring {self.ring!r} is torn", remedy="start its camera process again"
        )

    def read(self) -> Reading | None:
        """Return the next reading that was not read yet.

        Raises:
            SensorError: the ring is gone or was replaced by a new writer's.
        """
        until = time.monotonic() + READ_S
        while int(self._words[_NEWEST]) == self._seen:
            if time.monotonic() > until:
                self._check()
                return None
            time.sleep(POLL_S)
        return self.latest()

    def close(self) -> None:
        """Let go of the ring."""
        if self._map is not None:
            self._words = np.empty(0, np.uint64)  # the map cannot be closed under a view
            self._map.close()
            self._map = None

    def _descriptor(self) -> int:
        try:
            descriptor: int = _posixshmem.shm_open(f"/{self.ring}", os.O_RDONLY, mode=0o600)
        except OSError as error:
            raise SensorError(
                f"there is no ring {self.ring!r}: {error.strerror}",
                remedy="start its camera process",
            ) from error
        return descriptor

    def _check(self) -> None:
        descriptor = self._descriptor()
        try:
            file = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        if (file.st_dev, file.st_ino) != self._identity:
            raise SensorError(
                f"the ring {self.ring!r} was made anew", remedy="it is opened again by itself"
            )


def publish(sensor: Sensor, ring: str, stopping: threading.Event) -> None:
    """Read a sensor into a ring until ``stopping``; the first reading decides the ring's size.

    Raises:
        SensorError: another process writes this ring, or a reading is of another size.
    """
    writer: RingWriter | None = None

    def failed(error: Exception) -> None:
        log.error("%s: %s", sensor.name, error)

    try:
        for reading in readings(sensor, stopping, failed):
            if writer is None:
                writer = RingWriter(ring, reading.value.shape, str(reading.value.dtype))
            writer.write(reading)
    finally:
        if writer is not None:
            writer.close()


def _remove_orphan(name: str) -> None:
    """Remove a dead writer's ring.

    Its resource tracker unlinks it, by name and a moment after its death: a ring made before that
    would be unlinked in its place.  So the tracker is waited for; only where it was killed with the
    writer the ring is still there then.
    """
    until = time.monotonic() + TRACKER_S
    while True:
        try:
            descriptor = _posixshmem.shm_open(f"/{name}", os.O_RDONLY, mode=0o600)
        except FileNotFoundError:
            return

        # Magic number and process of the header; a ring that is being made has neither yet.
        with open(descriptor, "rb", buffering=0) as file:
            start = os.pread(file.fileno(), 2 * WORD, 0).ljust(2 * WORD, b"\0")
        words = np.frombuffer(start, np.uint64)
        if words[0] == MAGIC and _alive(int(words[_PROCESS])):
            raise SensorError(
                f"process {words[_PROCESS]} writes the ring {name!r}",
                remedy="stop it, or use another name",
            )

        if time.monotonic() > until:
            break
        time.sleep(POLL_S)

    with contextlib.suppress(FileNotFoundError):
        _posixshmem.shm_unlink(f"/{name}")


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the camera process."""
    parser = argparse.ArgumentParser(
        prog="python -m zprl.robot.sensors.shared_memory_ring", description=__doc__
    )
    parser.add_argument("--ring", required=True)
    parser.add_argument("--kind", required=True)
    parser.add_argument("--config", type=json.loads, default={})
    options = parser.parse_args(arguments)

    stopping = threading.Event()
    parent = os.getppid()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())

    def watch() -> None:
        while not stopping.wait(PARENT_S):
            if os.getppid() != parent:
                # A device that hangs could block a nicer end; the resource tracker removes the
                # ring.
                os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    logs.configure()
    sensor = make_sensor(options.kind, {"name": options.ring, **options.config})
    publish(sensor, options.ring, stopping)


if __name__ == "__main__":
    main()
