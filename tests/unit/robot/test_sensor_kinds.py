"""Kinds of sensors: synthetic and OpenCV cameras, RealSense, poses, injected faults."""

from __future__ import annotations

import itertools
import json
import threading
import time

import numpy as np
import pytest

from tests.unit.robot.scripted_sensor import PATIENCE, Scripted, at
from zprl.errors import ConfigError, ZprlError
from zprl.robot.sensors import (
    opencv,
    pose,
    realsense,
    synthetic,
)
from zprl.robot.sensors.base import (
    Reading,
    Sensor,
    SensorError,
    make_sensor,
)
from zprl.robot.sensors.fault_injection import FaultInjector, InjectedFault

pytestmark = pytest.mark.realtime

IDENTITY = (0.0, 0.0, 0.0, 1.0)


def test_kinds_are_made_from_configs(kinds):
    camera = make_sensor("synthetic", {"name": "front", "width": 64, "height": 48})
    assert isinstance(camera, Sensor)
    assert camera.name == "front"
    nested = make_sensor(
        "fault_injection",
        {"name": "front", "sensor": {"kind": "synthetic"}, "faults": [{"kind": "drop", "at": 3}]},
    )
    assert nested.name == "front"
    for wrong, says in [
        ({"name": "x", "widht": 3}, "widht"),
        ({"name": "x", "width": 0}, "width"),
        ({}, "name"),
    ]:
        with pytest.raises(ConfigError, match=says):
            make_sensor("synthetic", wrong)
    with pytest.raises(ConfigError, match="did you mean 'synthetic'"):
        make_sensor("synthetik", {"name": "x"})


def fast(**more):
    return synthetic.make({"name": "cam", "width": 32, "height": 24, "rate_hz": 1000, **more})


def test_synthetic_images_are_counted_and_paced():
    camera = fast(rate_hz=200)
    camera.open()
    begin = time.monotonic()
    taken = [camera.read() for _ in range(5)]
    assert time.monotonic() - begin >= 4 / 200 - 1e-3
    assert all(synthetic.number_of(r.value) == r.seq for r in taken)
    assert all(r.stamp == r.seq / 200 for r in taken)
    assert all(b.seq > a.seq for a, b in itertools.pairwise(taken))
    assert not np.array_equal(taken[0].value, taken[1].value)


def test_a_reader_that_sleeps_loses_images_instead_of_getting_old_ones():
    camera = fast(rate_hz=100)
    camera.open()
    camera._start -= 1.0  # a second has gone by
    assert camera.read().seq >= 100


def disturbed(*settings, readings=8):
    script = [
        Reading(synthetic.image(i, 8, 8), i / 10, time.monotonic(), i) for i in range(readings)
    ]
    sensor = FaultInjector(Scripted(*script), tuple(InjectedFault(**s) for s in settings))
    sensor.open()
    return [sensor.read() for _ in range(readings)]


def numbers(given):
    return [None if r is None else (r.seq, synthetic.number_of(r.value)) for r in given]


def test_injected_faults():
    assert numbers(disturbed()) == [(i, i) for i in range(8)]
    frozen = numbers(disturbed({"kind": "freeze", "at": 3, "count": 2}))
    assert frozen == [(0, 0), (1, 1), (2, 2), (3, 2), (4, 2), (5, 5), (6, 6), (7, 7)]
    assert numbers(disturbed({"kind": "repeat", "at": 3, "count": 2}))[2:6] == [
        (2, 2),
        (2, 2),
        (2, 2),
        (5, 5),
    ]
    assert numbers(disturbed({"kind": "drop", "at": 1, "count": 2}))[:4] == [
        (0, 0),
        None,
        None,
        (3, 3),
    ]
    assert numbers(disturbed({"kind": "lag", "at": 4, "count": 2, "by": 3}))[3:7] == [
        (3, 3),
        (1, 1),
        (2, 2),
        (6, 6),
    ]
    assert disturbed({"kind": "black", "at": 2})[2].value.max() == 0
    assert disturbed({"kind": "wrong_size", "at": 2})[2].value.shape == (4, 8, 3)


def test_a_lagging_camera_grows_stale():
    old, new = (
        Reading(np.zeros((2, 2, 3), np.uint8), 0.0, time.monotonic() - age, i)
        for i, age in enumerate((2.0, 0.0))
    )
    sensor = FaultInjector(Scripted(old, new), (InjectedFault(kind="lag", at=1, by=1),))
    sensor.open()
    assert [sensor.read().host, sensor.read().host] == [old.host, old.host]


def test_an_injected_hang_ends_with_close():
    sensor = FaultInjector(Scripted(at(0)), (InjectedFault(kind="hang", at=0),))
    sensor.open()
    thread = threading.Thread(target=sensor.read)
    thread.start()
    sensor.close()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_opencv_reads_a_video(tmp_path):
    import cv2

    video = tmp_path / "video.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"MJPG"), 30, (64, 48))
    colours = [(250, 20, 20), (20, 250, 20), (20, 20, 250)]  # RGB
    for colour in colours:
        writer.write(np.full((48, 64, 3), colour[::-1], np.uint8))
    writer.release()
    camera = opencv.make(
        {"name": "video", "source": str(video), "width": 64, "height": 48, "rate_hz": 500}
    )
    camera.open()
    taken = [camera.read() for _ in colours]
    for reading, colour in zip(taken, colours, strict=True):
        np.testing.assert_allclose(reading.value.reshape(-1, 3).mean(0), colour, atol=6)  # JPEG
    assert [r.seq for r in taken] == [0, 1, 2]
    assert [r.stamp for r in taken] == [0.0, 1 / 500, 2 / 500]
    with pytest.raises(SensorError, match="no more images"):
        camera.read()
    camera.close()
    camera.open()  # a video begins again, its numbers go on
    assert camera.read().seq == 3
    camera.close()


def test_opencv_reads_numbered_images_exactly(tmp_path):
    import cv2

    images = [synthetic.image(i, 24, 32) for i in range(3)]
    for i, image in enumerate(images):
        cv2.imwrite(str(tmp_path / f"{i:04d}.png"), image[..., ::-1])
    camera = opencv.make(
        {
            "name": "png",
            "source": str(tmp_path / "%04d.png"),
            "width": 32,
            "height": 24,
            "rate_hz": 1000,
        }
    )
    camera.open()
    for image in images:
        np.testing.assert_array_equal(camera.read().value, image)
    camera.close()
    wrong = opencv.make(
        {"name": "png", "source": str(tmp_path / "%04d.png"), "width": 24, "height": 32}
    )
    wrong.open()
    with pytest.raises(SensorError, match="32 x 24 instead of 24 x 32"):
        wrong.read()
    wrong.close()


def test_opencv_without_a_camera_says_so(tmp_path):
    with pytest.raises(SensorError, match="cannot open"):
        opencv.make(
            {"name": "x", "source": str(tmp_path / "none.avi"), "width": 1, "height": 1}
        ).open()


# -- RealSense: the SDK's own software device below the one call that needs a camera ---------------


@pytest.fixture
def rs():
    try:
        return realsense.sdk()
    except ZprlError as error:
        pytest.skip(error.message)


class SoftwareCamera:
    """Frames through the real SDK, without a camera."""

    def __init__(self, rs, width, height):
        self.rs = rs
        self.width = width
        self.height = height
        self.device = rs.software_device()
        self.sensor = self.device.add_sensor("colour")
        stream = rs.video_stream()
        stream.type = rs.stream.color
        stream.index = stream.uid = 0
        stream.width = width
        stream.height = height
        stream.fps = 30
        stream.bpp = 3
        stream.fmt = rs.format.rgb8

        intrinsics = rs.intrinsics()
        intrinsics.width = width
        intrinsics.height = height
        intrinsics.fx = intrinsics.fy = 100
        stream.intrinsics = intrinsics

        self.profile = self.sensor.add_video_stream(stream).as_video_stream_profile()
        self.syncer = rs.syncer()
        self.sensor.open(self.profile)
        self.sensor.start(self.syncer)

    def __call__(self, config):
        return self.syncer, lambda: self.sensor.stop()

    def show(self, number, image, stamp, domain):
        frame = self.rs.software_video_frame()
        frame.stride = 3 * self.width
        frame.bpp = 3
        frame.timestamp = 1000 * stamp
        frame.domain = domain
        frame.frame_number = number
        frame.profile = self.profile
        frame.pixels = np.ascontiguousarray(image)
        self.sensor.on_video_frame(frame)


def test_realsense_through_the_sdk(rs):
    device = SoftwareCamera(rs, 64, 48)
    camera = realsense.RealSense(
        realsense.RealSenseConfig(name="wrist", width=64, height=48), device
    )
    camera.open()
    for number in range(5):
        image = synthetic.image(number, 48, 64)
        device.show(number, image, 7 + number / 30, rs.timestamp_domain.hardware_clock)
        reading = camera.read()
        np.testing.assert_array_equal(reading.value, image)
        assert (reading.seq, reading.stamp) == (number, pytest.approx(7 + number / 30))
        assert 0 <= time.monotonic() - reading.host < 1
    # Stamps in wall time tell how long the image was under way.
    device.show(5, image, time.time() - 2, rs.timestamp_domain.system_time)
    assert time.monotonic() - camera.read().host == pytest.approx(2, abs=0.5)
    camera.close()


def test_realsense_that_falls_silent_fails(rs, monkeypatch):
    monkeypatch.setattr(realsense, "TIMEOUT_MS", 1)
    camera = realsense.RealSense(
        realsense.RealSenseConfig(name="wrist", width=64, height=48), SoftwareCamera(rs, 64, 48)
    )
    camera.open()
    assert all(camera.read() is None for _ in range(realsense.SILENCES - 1))
    with pytest.raises(SensorError, match="silent"):
        camera.read()
    camera.close()


def test_realsense_of_another_size_is_refused(rs):
    device = SoftwareCamera(rs, 64, 48)
    camera = realsense.RealSense(
        realsense.RealSenseConfig(name="wrist", width=48, height=64), device
    )
    camera.open()
    device.show(0, synthetic.image(0, 48, 64), 0.0, rs.timestamp_domain.hardware_clock)
    with pytest.raises(SensorError, match="instead of"):
        camera.read()
    camera.close()


def test_no_realsense_is_one_sentence(rs):
    with pytest.raises(SensorError, match="does not start"):
        realsense.make({"name": "wrist"}).open()


# -- poses -----------------------------------------------------------------------------------------


@pytest.fixture
def tracker(tmp_path):
    """A publisher that knows when somebody has subscribed, and a sensor that has."""
    import zmq

    context = zmq.Context()
    publisher = context.socket(zmq.XPUB)
    publisher.linger = 0
    address = f"ipc://{tmp_path}/t"
    publisher.bind(address)
    sensor = pose.make({"name": "object", "address": address, "body": "cube"})
    sensor.open()
    assert publisher.poll(1000 * PATIENCE)
    publisher.recv()
    yield publisher, sensor
    sensor.close()
    context.destroy(linger=0)


def read(sensor):
    """The next reading; messages that are none give none at once."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        result = sensor.read()
        if result is not None:
            return result
    raise AssertionError("nothing came")


def message(**changes):
    return json.dumps(
        {"name": "cube", "seq": 7, "stamp": 0.25, "pose": [0.5, 0.1, 0.02, *IDENTITY], **changes}
    ).encode()


def test_poses_from_a_stream(tracker):
    publisher, sensor = tracker
    publisher.send(message())
    reading = read(sensor)
    np.testing.assert_array_equal(reading.value, [0.5, 0.1, 0.02, *IDENTITY])
    assert (reading.seq, reading.stamp) == (7, 0.25)


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"\xff\x00",
        b"[1]",
        message(pose=[0, 0, 0]),
        message(pose=[0, 0, 0, 0, 0, 0, 0]),
        message(pose=[0, 0, 0, 0, 0, 0, 2]),
        message(pose=[1e9, 0, 0, *IDENTITY]),
        message().replace(b"0.02", b"NaN"),
        message(stamp="soon"),
        message(seq=-1),
        b"[" * 60000,
    ],
)
def test_what_is_no_pose_is_passed_over(tracker, bad):
    publisher, sensor = tracker
    publisher.send(bad)
    publisher.send(message(seq=8))
    assert read(sensor).seq == 8
    assert sensor.malformed == 1


def test_other_bodies_are_passed_over(tracker):
    publisher, sensor = tracker
    publisher.send(message(name="cup"))
    publisher.send(message(seq=8))
    assert read(sensor).seq == 8
    assert sensor.malformed == 0


def test_a_quaternion_is_scaled_to_length_one(tracker):
    publisher, sensor = tracker
    publisher.send(message(pose=[0, 0, 0, 0, 0, 0.6 * 1.004, 0.8 * 1.004]))
    np.testing.assert_allclose(read(sensor).value[3:], [0, 0, 0.6, 0.8], atol=1e-12)


def test_poses_from_a_function():
    given = [(0.5, 3, [1, 2, 3, *IDENTITY]), None, (0.6, 4, [1, 2, 3])]
    sensor = pose.PoseFunction("mocap", lambda: given.pop(0))
    assert sensor.read().seq == 3
    assert sensor.read() is None
    with pytest.raises(SensorError, match="seven finite numbers"):
        sensor.read()
