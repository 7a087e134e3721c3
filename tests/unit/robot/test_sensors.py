"""The reader of a sensor: a reading is new, whole and of the right size, or stale.

Nothing ever waits for a device.
"""

from __future__ import annotations

import time

import numpy as np
import pytest

from tests.unit.robot.scripted_sensor import PATIENCE, Scripted, at
from zprl.errors import DataError, ZprlError
from zprl.robot.sensors import (
    base,
)
from zprl.robot.sensors.base import (
    LatestReader,
    SensorError,
    StaleSensor,
)
from zprl.robot.sensors.image_crop import view

pytestmark = pytest.mark.realtime


@pytest.fixture
def reader():
    made = []

    def start(*script, **options):
        reader = LatestReader(Scripted(*script), **options)
        made.append(reader)
        reader.start()
        assert reader.sensor.drained.wait(PATIENCE)
        return reader

    yield start
    for one in made:
        one.sensor.released.set()
        one.stop()


# -- the reader ------------------------------------------------------------------------------------


def test_the_newest_reading_is_kept(reader):
    one = reader(at(0), at(1), at(2))
    assert one.latest(PATIENCE).seq == 2
    assert one.latest(PATIENCE).value[0, 0, 0] == 2
    assert (one.received, one.dropped, one.repeated, one.refused, one.failures) == (3, 0, 0, 0, 0)


def test_nothing_yet_is_stale_for_ever(reader):
    with pytest.raises(StaleSensor, match="nothing yet") as caught:
        reader().latest(1e9)
    assert caught.value.age == float("inf")
    assert isinstance(caught.value, ZprlError)
    assert caught.value.remedy


def test_an_old_reading_is_stale_and_its_age_is_reported(reader):
    one = reader(at(0, host=lambda: time.monotonic() - 3))
    assert one.latest(60).seq == 0
    with pytest.raises(StaleSensor, match="nothing new for 3") as caught:
        one.latest(0.5)
    assert 3 <= caught.value.age < 3 + PATIENCE


def test_a_clock_that_is_ahead_does_not_keep_a_reading_fresh(reader):
    one = reader(at(0, host=lambda: time.monotonic() + 1000))
    assert one.latest(PATIENCE).host <= time.monotonic()


def test_gaps_are_counted(reader):
    assert reader(at(0), at(1), at(5), at(6), at(9)).dropped == 3 + 2


def test_a_device_that_counts_anew_has_dropped_nothing(reader):
    one = reader(at(100), at(0), at(1))
    assert (one.dropped, one.latest(PATIENCE).seq) == (0, 1)


def test_the_same_reading_again_is_not_news(reader):
    long_ago = time.monotonic() - 5
    one = reader(at(0, host=lambda: long_ago), at(0), at(0))
    assert (one.received, one.repeated) == (1, 2)
    with pytest.raises(StaleSensor):
        one.latest(1.0)


def test_a_frozen_image_is_seen_though_its_numbers_go_on(reader):
    start, still = time.monotonic() - 3, np.ones((4, 6, 3), np.uint8)
    one = reader(*(at(i, still, host=lambda i=i: start + i) for i in range(4)), frozen_s=2.5)
    with pytest.raises(StaleSensor, match="frozen") as caught:
        one.latest(PATIENCE)
    assert caught.value.age == pytest.approx(3, abs=1)


def test_a_image_that_moves_again_is_good_again(reader):
    start, still = time.monotonic() - 3, np.ones((4, 6, 3), np.uint8)
    one = reader(*(at(i, still, host=lambda i=i: start + i) for i in range(4)), at(4), frozen_s=2.5)
    assert one.latest(PATIENCE).seq == 4


def test_a_pose_may_stand_still(reader):
    start, still = time.monotonic() - 9, np.array([0.5, 0, 0, 0, 0, 0, 1.0])
    one = reader(*(at(i, still, host=lambda i=i: start + i) for i in range(10)), frozen_s=1.0)
    assert one.latest(PATIENCE).seq == 9


def test_another_size_is_refused_and_named(reader):
    one = reader(
        at(0, host=lambda: time.monotonic() - 5),
        at(1, np.zeros((2, 6, 3), np.uint8)),
        at(2, np.zeros((4, 6, 3), np.float32)),
    )
    assert one.refused == 2
    with pytest.raises(StaleSensor, match=r"float32 \(4, 6, 3\) instead of uint8 \(4, 6, 3\)"):
        one.latest(1.0)


def test_values_that_are_not_finite_are_refused(reader):
    one = reader(at(0, np.array([0.0, np.nan])), at(1, np.array([0.0, np.inf])))
    assert one.refused == 2
    with pytest.raises(StaleSensor, match="not finite"):
        one.latest(PATIENCE)


def test_a_hanging_device_holds_up_nobody(reader):
    one = reader(at(0), "hang")
    assert one.latest(PATIENCE).seq == 0
    before = time.monotonic()
    with pytest.raises(StaleSensor):
        one.latest(0.0)
    assert time.monotonic() - before < 0.5


def test_a_failed_device_is_opened_again(reader, monkeypatch):
    monkeypatch.setattr(base, "REOPEN_S", 0.01)
    one = reader(at(0), RuntimeError("usb gone"), SensorError("still gone"), at(7))
    assert one.latest(PATIENCE).seq == 7
    assert (one.failures, one.sensor.opened, one.sensor.closed) == (2, 3, 2)


def test_the_reason_of_a_failure_is_reported(reader, monkeypatch):
    monkeypatch.setattr(base, "REOPEN_S", 0.01)
    one = reader(RuntimeError("usb gone"))
    with pytest.raises(StaleSensor, match="usb gone"):
        one.latest(1.0)


# -- crops of images ------------------------------------------------------------------------------


def test_view_cuts_and_scales():
    image = np.zeros((48, 64, 3), np.uint8)
    image[8:40, 16:48] = (200, 100, 50)
    seen = view(image, (8, 16, 32, 32), (16, 16))
    assert seen.shape == (16, 16, 3)
    assert seen.dtype == np.uint8
    np.testing.assert_array_equal(seen, np.broadcast_to((200, 100, 50), (16, 16, 3)))
    assert view(image, None, (24, 32)).shape == (24, 32, 3)
    np.testing.assert_array_equal(view(image, None, (48, 64)), image)
    for crop in [(0, 0, 49, 64), (-1, 0, 4, 4), (0, 60, 4, 5), (0, 0, 0, 4)]:
        with pytest.raises(DataError, match="does not lie"):
            view(image, crop, (8, 8))
