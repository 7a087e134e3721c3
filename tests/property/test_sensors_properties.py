"""Sensors, for any readings in any order: nothing torn, nothing old for new, nothing lost."""

from __future__ import annotations

import contextlib
import time
import uuid

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zprl.errors import DataError
from zprl.robot import rotation
from zprl.robot.sensors import shared_memory_ring, synthetic
from zprl.robot.sensors.apriltag import matrix, seven
from zprl.robot.sensors.base import LatestReader, Reading, StaleSensor
from zprl.robot.sensors.fault_injection import FaultInjector, InjectedFault
from zprl.robot.sensors.image_crop import view

finite = st.floats(-1e12, 1e12, allow_nan=False)
shapes = st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple)
FEW = settings(max_examples=50, deadline=None)
ANY = settings(deadline=None)  # the first example imports OpenCV or SciPy


class Counting:
    """Readings 0, 1, 2, ... whose value is their number."""

    name = "counting"

    def __init__(self) -> None:
        self.count = 0

    def open(self) -> None: ...

    def read(self) -> Reading:
        self.count += 1
        number = self.count - 1
        return Reading(
            np.full((4, 2, 3), number % 255 + 1, np.uint8), number / 30, float(number), number
        )

    def close(self) -> None: ...


@contextlib.contextmanager
def rings(shape, dtype, slots):
    writer = shared_memory_ring.RingWriter(f"p{uuid.uuid4().hex[:12]}", shape, dtype, slots=slots)
    reader = shared_memory_ring.RingReader("cam", writer.name)
    try:
        yield writer, reader
    finally:
        reader.close()
        writer.close()


def reading(shape, dtype, number, stamp=0.0):
    size = int(np.prod(shape))
    return Reading(
        (np.arange(size) + 7 * number).astype(dtype).reshape(shape), stamp, float(number), number
    )


def same(a, b):
    return (
        (a.seq, a.stamp, a.host) == (b.seq, b.stamp, b.host)
        and a.value.dtype == b.value.dtype
        and np.array_equal(a.value, b.value)
    )


# -- shared memory ---------------------------------------------------------------------------------


@FEW
@given(
    shape=shapes,
    dtype=st.sampled_from(shared_memory_ring.DTYPES),
    slots=st.integers(1, 4),
    steps=st.lists(st.one_of(finite, st.sampled_from(["look", "open"])), max_size=20),
)
def test_a_ring_always_shows_the_newest_reading_whole(shape, dtype, slots, steps):
    with rings(shape, dtype, slots) as (writer, reader):
        reader.open()
        newest = None

        for number, step in enumerate(steps):
            if step == "open":
                reader.open()
            elif step == "look":
                result = reader.latest()
                assert (result is None) if newest is None else same(result, newest)
            else:
                newest = reading(shape, dtype, number, step)
                writer.write(newest)
                assert same(reader.latest(), newest)


@FEW
@given(shape=shapes, slots=st.integers(2, 4), before=st.integers(1, 6), done=st.integers(0, 200))
def test_a_writer_killed_at_any_byte_leaves_the_reading_before(shape, slots, before, done):
    """A kill leaves an odd counter, some bytes of the next reading, and the newest's old number."""
    with rings(shape, "uint8", slots) as (writer, reader):
        for number in range(before):
            writer.write(reading(shape, "uint8", number))
        reader.open()
        start = shared_memory_ring._HEADER + before % slots * writer._words_per_slot
        slot = writer._words[start : start + writer._words_per_slot]
        slot[shared_memory_ring._COUNTER] += np.uint64(1)
        bytes_of = slot[1:].view(np.uint8)
        bytes_of[: min(done, len(bytes_of))] = 0xEE
        del slot, bytes_of  # memory that is looked into cannot be closed
        assert same(reader.latest(), reading(shape, "uint8", before - 1))
        assert reader.torn == 0, "it never had to look at the broken slot"


@FEW
@given(
    words=st.dictionaries(
        st.integers(0, shared_memory_ring._HEADER - 1),
        st.integers(0, 2**64 - 1),
        min_size=1,
        max_size=4,
    )
)
def test_a_header_of_anything_is_refused_or_read_within_its_memory(words):
    with rings((3, 4), "float64", 2) as (writer, reader):
        writer.write(reading((3, 4), "float64", 0))
        for place, word in words.items():
            writer._words[place] = np.uint64(word)
        with contextlib.suppress(shared_memory_ring.SensorError):
            reader.open()
            reader.latest()


# -- injected faults -------------------------------------------------------------------------------

kinds = st.sampled_from(["freeze", "repeat", "drop", "lag", "black", "wrong_size"])
fault = st.builds(
    InjectedFault, kind=kinds, at=st.integers(0, 12), count=st.integers(1, 5), by=st.integers(1, 8)
)


@ANY
@given(faults=st.lists(fault, max_size=4).map(tuple))
def test_injected_faults_disturb_what_they_name_and_nothing_else(faults):
    sensor = FaultInjector(Counting(), faults)
    given_out = [sensor.read() for _ in range(18)]

    for n, result in enumerate(given_out):
        acting = next((k for k in faults if k.at <= n < k.at + k.count), None)
        whole = np.full((4, 2, 3), n % 255 + 1, np.uint8)
        match acting.kind if acting else None:
            case None:
                assert result.seq == n
                assert np.array_equal(result.value, whole)
            case "drop":
                assert result is None
            case "lag":
                assert result.seq == max(0, n - acting.by)
                assert result.host == result.seq, "as old as it looks"
            case "black":
                assert (result.seq, result.value.shape, result.value.any()) == (n, (4, 2, 3), False)
            case "wrong_size":
                assert result.value.shape == (2, 2, 3)
            case "freeze":
                assert (result.seq, result.stamp) == (n, n / 30), "numbers and stamps go on"
                assert (result.value <= whole).all()
            case "repeat":
                assert result.seq <= n
                assert np.array_equal(result.value, np.full((4, 2, 3), result.seq % 255 + 1))


# -- the reader ------------------------------------------------------------------------------------

good = st.integers(0, 30)
bad = st.sampled_from(["nan", "inf", "shape", "type"])


@ANY
@given(script=st.lists(st.one_of(good, bad), max_size=30))
def test_every_reading_is_counted_once(script):
    reader = LatestReader(Counting())
    kept = None
    dropped = repeated = 0
    for number, step in enumerate(script):
        value = np.zeros(7)
        if step == "shape":
            value = np.zeros(6)
        elif step == "type":
            value = np.zeros(7, np.float32)
        elif isinstance(step, str):
            value[number % 7] = float(step)
        elif step == kept:
            repeated += 1
        else:
            dropped += 0 if kept is None else max(0, step - kept - 1)
            kept = step
        if isinstance(step, str) and kept is None:  # the first reading decides the shape
            continue
        reader._take(Reading(value, 0.0, time.monotonic(), step if isinstance(step, int) else 99))
    assert (reader.dropped, reader.repeated) == (dropped, repeated)
    begun = next((i for i, step in enumerate(script) if isinstance(step, int)), len(script))
    assert reader.refused == sum(isinstance(step, str) for step in script[begun:])
    assert reader.received + reader.repeated + reader.refused == len(script) - begun
    if kept is None:
        with pytest.raises(StaleSensor):
            reader.latest(60.0)
    else:
        assert reader._newest[0].seq == kept


@ANY
@given(
    changes=st.lists(st.booleans(), min_size=1, max_size=30),
    rate=st.floats(1, 100),
    frozen_s=st.floats(0.05, 3),
)
def test_frozen_is_what_has_not_changed_for_that_long(changes, rate, frozen_s):
    """Images at a steady rate up to now; each is new or the one before it."""
    reader = LatestReader(Counting(), frozen_s=frozen_s)
    start = time.monotonic() - len(changes) / rate
    value, since = 0, 0
    for n, new in enumerate(changes):
        if new or n == 0:
            value, since = value + 1, n
        reader._take(Reading(np.full((2, 2, 3), value, np.uint8), 0.0, start + n / rate, n))

    still = (len(changes) - 1 - since) / rate
    if abs(still - frozen_s) < 1e-6:
        return
    if still > frozen_s:
        with pytest.raises(StaleSensor, match="frozen"):
            reader.latest(3600.0)
    else:
        assert reader.latest(3600.0).seq == len(changes) - 1


# -- images and poses ----------------------------------------------------------------------------


@ANY
@given(number=st.integers(0, 2**63), height=st.integers(8, 40), width=st.integers(8, 40))
def test_a_synthetic_image_has_its_number(number, height, width):
    image = synthetic.image(number, height, width)
    assert image.shape == (height, width, 3)
    assert synthetic.number_of(image) == number


@ANY
@given(
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    crop=st.tuples(*[st.integers(-3, 30)] * 4),
    wanted=st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_a_view_has_the_wanted_size_and_only_colours_of_its_crop(size, crop, wanted):
    top, left, height, width = crop
    image = np.full((*size, 3), 255, np.uint8)
    fits = (
        min(top, left) >= 0
        and min(height, width) >= 1
        and top + height <= size[0]
        and left + width <= size[1]
    )
    if not fits:
        with pytest.raises(DataError):
            view(image, crop, wanted)
        return
    image[top : top + height, left : left + width] = (1, 2, 3)
    seen = view(image, crop, wanted)
    assert seen.shape == (*wanted, 3)
    assert (seen == (1, 2, 3)).all()


@ANY
@given(place=st.tuples(*[st.floats(-2, 2)] * 3), turn=st.tuples(*[st.floats(-1.8, 1.8)] * 3))
def test_poses_go_through_matrices_unchanged(place, turn):
    quaternion = rotation.shorter(rotation.from_rotvec(turn))
    pose = np.array([*place, *quaternion])
    np.testing.assert_allclose(seven(matrix(tuple(pose))), pose, atol=1e-9)
    inverse = seven(np.linalg.inv(matrix(tuple(pose))))
    np.testing.assert_allclose(
        seven(matrix(tuple(inverse)) @ matrix(tuple(pose))), [0, 0, 0, 0, 0, 0, 1], atol=1e-9
    )
