"""Rings of readings in shared memory, and the camera process that fills one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import numpy as np
import pytest

from tests.unit.robot.scripted_sensor import PATIENCE
from zprl.robot.sensors import (
    shared_memory_ring,
    synthetic,
)
from zprl.robot.sensors.base import (
    LatestReader,
    Reading,
    SensorError,
    StaleSensor,
)

pytestmark = pytest.mark.realtime


@pytest.fixture
def name():
    return f"t{uuid.uuid4().hex[:12]}"


def in_memory(name):
    return Path("/dev/shm", name).exists()


@pytest.mark.parametrize(
    "value",
    [
        np.arange(24, dtype=np.uint8).reshape(2, 4, 3),
        np.arange(7.0),
        np.arange(15, dtype=np.uint8).reshape(1, 5, 3),
    ],
)
def test_a_ring_gives_what_was_written(name, value):
    writer = shared_memory_ring.RingWriter(name, value.shape, str(value.dtype))
    reader = shared_memory_ring.RingReader("cam", name)
    try:
        reader.open()
        assert reader.latest() is None

        for i in range(5):
            writer.write(Reading(value + np.array(i, value.dtype), 0.1 * i, 10.0 + i, i - 2))
            result = reader.latest()
            np.testing.assert_array_equal(result.value, value + np.array(i, value.dtype))
            assert (result.stamp, result.host, result.seq) == (0.1 * i, 10.0 + i, i - 2)
        result.value[...] = 0  # the reader's own copy
        np.testing.assert_array_equal(reader.latest().value, value + np.array(4, value.dtype))
        assert reader.read() is None, "seen already"
        with pytest.raises(SensorError, match="holds"):
            writer.write(Reading(value[:0], 0.0, 0.0, 9))
    finally:
        reader.close()
        writer.close()
    assert not in_memory(name)


HOT_WRITER = """
import itertools, sys, time
import numpy as np
from zprl.robot.sensors.base import Reading
from zprl.robot.sensors.shared_memory_ring import RingWriter
writer = RingWriter(sys.argv[1], (64, 64, 3), slots=1)
for count in itertools.count():
    writer.write(Reading(np.full((64, 64, 3), count % 251, np.uint8), float(count), 0.0, count))
    if count % 50 == 0:
        time.sleep(0.001)
"""


def test_torn_reads_are_seen_and_made_again(name):
    """One slot only and a writer that hardly rests: both use it together most of the time."""
    process = subprocess.Popen([sys.executable, "-c", HOT_WRITER, name], stderr=subprocess.DEVNULL)
    reader = shared_memory_ring.RingReader("cam", name)
    try:
        wait_for(lambda: opens(reader) and reader.latest() is not None)

        seen = set()
        until = time.monotonic() + PATIENCE
        while (len(seen) < 20 or not reader.torn) and time.monotonic() < until:
            result = reader.latest()
            assert (result.value == result.seq % 251).all()
            assert result.stamp == result.seq
            seen.add(result.seq)
        assert len(seen) >= 20
        assert reader.torn > 0
    finally:
        process.kill()
        process.wait()
        reader.close()


def opens(reader):
    try:
        reader.open()
    except SensorError:
        return False
    return True


def test_a_slot_being_written_is_not_given(name):
    writer = shared_memory_ring.RingWriter(name, (4,), "float64", slots=1)
    reader = shared_memory_ring.RingReader("cam", name)
    writer.write(Reading(np.zeros(4), 0.0, 0.0, 0))
    reader.open()

    counter = shared_memory_ring._HEADER + shared_memory_ring._COUNTER
    writer._words[counter] += np.uint64(1)  # as if it had been killed in the middle
    with pytest.raises(SensorError, match="torn"):
        reader.latest()
    assert reader.torn > 0
    writer._words[counter] += np.uint64(1)
    assert reader.latest().seq == 0
    reader.close()
    writer.close()


def test_a_ring_has_one_writer(name):
    writer = shared_memory_ring.RingWriter(name, (4,), "float64")
    with pytest.raises(SensorError, match=f"process {os.getpid()} writes"):
        shared_memory_ring.RingWriter(name, (4,), "float64")
    writer.close()


def test_a_foreign_ring_is_refused(name):
    from multiprocessing import shared_memory

    foreign = shared_memory.SharedMemory(name, create=True, size=4096)
    reader = shared_memory_ring.RingReader("cam", name)
    with pytest.raises(SensorError, match="no ring"):
        reader.open()

    words = np.frombuffer(foreign.buf, np.uint64)
    words[[0, shared_memory_ring._SLOTS, shared_memory_ring._NDIM]] = shared_memory_ring.MAGIC, 3, 3
    words[shared_memory_ring._SHAPE : shared_memory_ring._SHAPE + 3] = 2**40
    with pytest.raises(SensorError, match="shorter than its header says"):
        reader.open()
    del words
    reader.close()
    foreign.close()
    foreign.unlink()
    with pytest.raises(SensorError, match="there is no ring"):
        reader.open()


CAMERA = """
import sys, threading
from zprl.robot.sensors import shared_memory_ring, synthetic
camera = synthetic.make({"name": "cam", "width": 32, "height": 24, "rate_hz": 200})
shared_memory_ring.publish(camera, sys.argv[1], threading.Event())
"""


def wait_for(holds):
    until = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_killed_camera_process_leaves_nothing_and_its_successor_is_read(name):
    def camera():
        return subprocess.Popen([sys.executable, "-c", CAMERA, name], stderr=subprocess.DEVNULL)

    reader = LatestReader(shared_memory_ring.RingReader("cam", name))
    process = camera()
    try:
        wait_for(lambda: in_memory(name))
        reader.start()
        wait_for(lambda: reader.received > 3)
        result = reader.latest(PATIENCE)
        assert synthetic.number_of(result.value) == result.seq

        process.send_signal(signal.SIGKILL)
        process.wait()
        wait_for(lambda: not in_memory(name))  # its resource tracker has removed it
        with pytest.raises(StaleSensor):
            reader.latest(0.0)
        had = reader.received
        process = camera()
        wait_for(lambda: reader.received > had)
        assert reader.failures >= 1
    finally:
        process.kill()
        process.wait()
        reader.stop()
    wait_for(lambda: not in_memory(name))


DYING_WRITER = """
import os, sys
from zprl.robot.sensors.shared_memory_ring import RingWriter
RingWriter(sys.argv[1], (4,), "float64")
os.killpg(0, 9)
"""


def test_an_orphan_ring_is_replaced(name):
    """A writer that was killed together with its resource tracker."""
    subprocess.run(
        [sys.executable, "-c", DYING_WRITER, name],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        check=False,
    )
    assert in_memory(name)
    writer = shared_memory_ring.RingWriter(name, (2,), "float64")
    writer.write(Reading(np.ones(2), 0.0, 0.0, 0))
    writer.close()
    assert not in_memory(name)


def test_the_camera_process_ends_with_sigterm(name, kinds, monkeypatch):
    handlers = {}
    monkeypatch.setattr(
        shared_memory_ring.signal,
        "signal",
        lambda number, handler: handlers.setdefault(number, handler),
    )
    arguments = [
        "--ring",
        name,
        "--kind",
        "synthetic",
        "--config",
        '{"width": 16, "height": 16, "rate_hz": 100}',
    ]

    thread = threading.Thread(target=shared_memory_ring.main, args=(arguments,))
    thread.start()
    wait_for(lambda: in_memory(name))
    handlers[signal.SIGTERM]()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert not in_memory(name)
