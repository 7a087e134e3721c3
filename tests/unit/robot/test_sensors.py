"""Senses: what arrives is new, whole and the right size, or the reader says so; nothing ever waits for a device."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest

from zprl import plugins
from zprl.errors import ConfigError, DataError, ZprlError
from zprl.robot.sensors import (
    apriltag,
    base,
    opencv,
    pose,
    realsense,
    shared_memory_ring,
    synthetic,
)
from zprl.robot.sensors.base import (
    LatestReader,
    Reading,
    Sensor,
    SensorError,
    StaleSensor,
    make_sensor,
)
from zprl.robot.sensors.fault_injection import FaultInjector, InjectedFault
from zprl.robot.sensors.image_crop import view

pytestmark = pytest.mark.realtime

KINDS = ("realsense", "opencv", "synthetic", "knobs", "apriltag")
PATIENCE = 10.0
IDENTITY = (0.0, 0.0, 0.0, 1.0)


@pytest.fixture
def kinds(monkeypatch):
    points = [EntryPoint(kind, f"zprl.robot.sensors.{kind}:make", "zprl.sensors") for kind in KINDS]
    points += [EntryPoint("pose_stream", "zprl.robot.sensors.pose:make", "zprl.sensors")]
    points += [EntryPoint("shared", "zprl.robot.sensors.shared_memory_ring:make", "zprl.sensors")]
    monkeypatch.setattr(plugins, "_registered", lambda group: points if group == "sensors" else [])


class Scripted:
    """Gives readings (or raises, or hangs) as written; ``drained`` once all of them have been taken."""

    def __init__(self, *script):
        self.name, self.script = "scripted", list(script)
        self.opened = self.closed = 0
        self.drained, self.released = threading.Event(), threading.Event()

    def open(self):
        self.opened += 1

    def read(self):
        if not self.script:
            self.drained.set()
            self.released.wait(0.05)
            return None
        step = self.script.pop(0)
        if step == "hang":
            self.drained.set()
            self.released.wait()
            return None
        if isinstance(step, Exception):
            raise step
        return step() if callable(step) else step

    def close(self):
        self.closed += 1


def at(seq, value=None, host=None, stamp=None):
    """A reading; by default a picture full of its number, taken when it is read."""
    picture = np.full((4, 6, 3), seq % 256, np.uint8) if value is None else value
    return lambda: Reading(
        picture,
        seq / 30 if stamp is None else stamp,
        time.monotonic() if host is None else host(),
        seq,
    )


@pytest.fixture
def reader():
    made = []

    def start(*script, **options):
        reader = LatestReader(Scripted(*script), **options)
        made.append(reader)
        reader.start()
        assert reader.sense.drained.wait(PATIENCE)
        return reader

    yield start
    for one in made:
        one.sense.released.set()
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


def test_an_old_reading_is_stale_and_its_age_is_told(reader):
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


def test_a_frozen_picture_is_seen_though_its_numbers_go_on(reader):
    start, still = time.monotonic() - 3, np.ones((4, 6, 3), np.uint8)
    one = reader(*(at(i, still, host=lambda i=i: start + i) for i in range(4)), frozen_s=2.5)
    with pytest.raises(StaleSensor, match="frozen") as caught:
        one.latest(PATIENCE)
    assert caught.value.age == pytest.approx(3, abs=1)


def test_a_picture_that_moves_again_is_good_again(reader):
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
    assert (one.failures, one.sense.opened, one.sense.closed) == (2, 3, 2)


def test_the_reason_of_a_failure_is_told(reader, monkeypatch):
    monkeypatch.setattr(base, "REOPEN_S", 0.01)
    one = reader(RuntimeError("usb gone"))
    with pytest.raises(StaleSensor, match="usb gone"):
        one.latest(1.0)


# -- kinds -----------------------------------------------------------------------------------------


def test_kinds_are_made_from_configs(kinds):
    camera = make_sensor("synthetic", {"name": "front", "width": 64, "height": 48})
    assert isinstance(camera, Sensor)
    assert camera.name == "front"
    nested = make_sensor(
        "knobs",
        {"name": "front", "sense": {"kind": "synthetic"}, "knobs": [{"kind": "drop", "at": 3}]},
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


def test_synthetic_pictures_are_counted_and_paced():
    camera = fast(rate_hz=200)
    camera.open()
    begin = time.monotonic()
    taken = [camera.read() for _ in range(5)]
    assert time.monotonic() - begin >= 4 / 200 - 1e-3
    assert all(synthetic.number_of(r.value) == r.seq for r in taken)
    assert all(r.stamp == r.seq / 200 for r in taken)
    assert all(b.seq > a.seq for a, b in itertools.pairwise(taken))
    assert not np.array_equal(taken[0].value, taken[1].value)


def test_a_reader_that_sleeps_loses_pictures_instead_of_getting_old_ones():
    camera = fast(rate_hz=100)
    camera.open()
    camera._start -= 1.0  # a second has gone by
    assert camera.read().seq >= 100


def disturbed(*settings, readings=8):
    script = [
        Reading(synthetic.image(i, 8, 8), i / 10, time.monotonic(), i) for i in range(readings)
    ]
    sense = FaultInjector(Scripted(*script), tuple(InjectedFault(**s) for s in settings))
    sense.open()
    return [sense.read() for _ in range(readings)]


def numbers(given):
    return [None if r is None else (r.seq, synthetic.number_of(r.value)) for r in given]


def test_knobs():
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
    sense = FaultInjector(Scripted(old, new), (InjectedFault(kind="lag", at=1, by=1),))
    sense.open()
    assert [sense.read().host, sense.read().host] == [old.host, old.host]


def test_a_hanging_knob_ends_with_close():
    sense = FaultInjector(Scripted(at(0)), (InjectedFault(kind="hang", at=0),))
    sense.open()
    thread = threading.Thread(target=sense.read)
    thread.start()
    sense.close()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_opencv_reads_a_film(tmp_path):
    import cv2

    film = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(film), cv2.VideoWriter_fourcc(*"MJPG"), 30, (64, 48))
    colours = [(250, 20, 20), (20, 250, 20), (20, 20, 250)]  # RGB
    for colour in colours:
        writer.write(np.full((48, 64, 3), colour[::-1], np.uint8))
    writer.release()
    camera = opencv.make(
        {"name": "film", "source": str(film), "width": 64, "height": 48, "rate_hz": 500}
    )
    camera.open()
    taken = [camera.read() for _ in colours]
    for reading, colour in zip(taken, colours, strict=True):
        np.testing.assert_allclose(reading.value.reshape(-1, 3).mean(0), colour, atol=6)  # JPEG
    assert [r.seq for r in taken] == [0, 1, 2]
    assert [r.stamp for r in taken] == [0.0, 1 / 500, 2 / 500]
    with pytest.raises(SensorError, match="no more pictures"):
        camera.read()
    camera.close()
    camera.open()  # a film begins again, its numbers go on
    assert camera.read().seq == 3
    camera.close()


def test_opencv_reads_numbered_pictures_exactly(tmp_path):
    import cv2

    pictures = [synthetic.image(i, 24, 32) for i in range(3)]
    for i, picture in enumerate(pictures):
        cv2.imwrite(str(tmp_path / f"{i:04d}.png"), picture[..., ::-1])
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
    for picture in pictures:
        np.testing.assert_array_equal(camera.read().value, picture)
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
        self.rs, self.width, self.height = rs, width, height
        self.device = rs.software_device()
        self.sensor = self.device.add_sensor("colour")
        stream = rs.video_stream()
        stream.type, stream.index, stream.uid, stream.width, stream.height = (
            rs.stream.color,
            0,
            0,
            width,
            height,
        )
        stream.fps, stream.bpp, stream.fmt = 30, 3, rs.format.rgb8
        intrinsics = rs.intrinsics()
        intrinsics.width, intrinsics.height, intrinsics.fx, intrinsics.fy = width, height, 100, 100
        stream.intrinsics = intrinsics
        self.profile = self.sensor.add_video_stream(stream).as_video_stream_profile()
        self.syncer = rs.syncer()
        self.sensor.open(self.profile)
        self.sensor.start(self.syncer)

    def __call__(self, config):
        return self.syncer, lambda: self.sensor.stop()

    def show(self, number, picture, stamp, domain):
        frame = self.rs.software_video_frame()
        frame.stride, frame.bpp, frame.timestamp, frame.domain = (
            3 * self.width,
            3,
            1000 * stamp,
            domain,
        )
        frame.frame_number, frame.profile, frame.pixels = (
            number,
            self.profile,
            np.ascontiguousarray(picture),
        )
        self.sensor.on_video_frame(frame)


def test_realsense_through_the_sdk(rs):
    device = SoftwareCamera(rs, 64, 48)
    camera = realsense.RealSense(
        realsense.RealSenseConfig(name="wrist", width=64, height=48), device
    )
    camera.open()
    for number in range(5):
        picture = synthetic.image(number, 48, 64)
        device.show(number, picture, 7 + number / 30, rs.timestamp_domain.hardware_clock)
        reading = camera.read()
        np.testing.assert_array_equal(reading.value, picture)
        assert (reading.seq, reading.stamp) == (number, pytest.approx(7 + number / 30))
        assert 0 <= time.monotonic() - reading.host < 1
    # Stamps in wall time tell how long the picture was under way.
    device.show(5, picture, time.time() - 2, rs.timestamp_domain.system_time)
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
    """A publisher that knows when somebody has subscribed, and a sense that has."""
    import zmq

    context = zmq.Context()
    publisher = context.socket(zmq.XPUB)
    publisher.linger = 0
    address = f"ipc://{tmp_path}/t"
    publisher.bind(address)
    sense = pose.make({"name": "object", "address": address, "body": "cube"})
    sense.open()
    assert publisher.poll(1000 * PATIENCE)
    publisher.recv()
    yield publisher, sense
    sense.close()
    context.destroy(linger=0)


def read(sense):
    """The next reading; messages that are none give none at once."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        found = sense.read()
        if found is not None:
            return found
    raise AssertionError("nothing came")


def message(**changes):
    return json.dumps(
        {"name": "cube", "seq": 7, "stamp": 0.25, "pose": [0.5, 0.1, 0.02, *IDENTITY], **changes}
    ).encode()


def test_poses_from_a_stream(tracker):
    publisher, sense = tracker
    publisher.send(message())
    reading = read(sense)
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
    publisher, sense = tracker
    publisher.send(bad)
    publisher.send(message(seq=8))
    assert read(sense).seq == 8
    assert sense.malformed == 1


def test_other_bodies_are_passed_over(tracker):
    publisher, sense = tracker
    publisher.send(message(name="cup"))
    publisher.send(message(seq=8))
    assert read(sense).seq == 8
    assert sense.malformed == 0


def test_a_quaternion_is_scaled_to_length_one(tracker):
    publisher, sense = tracker
    publisher.send(message(pose=[0, 0, 0, 0, 0, 0.6 * 1.004, 0.8 * 1.004]))
    np.testing.assert_allclose(read(sense).value[3:], [0, 0, 0.6, 0.8], atol=1e-12)


def test_poses_from_a_function():
    given = [(0.5, 3, [1, 2, 3, *IDENTITY]), None, (0.6, 4, [1, 2, 3])]
    sense = pose.PoseFunction("mocap", lambda: given.pop(0))
    assert sense.read().seq == 3
    assert sense.read() is None
    with pytest.raises(SensorError, match="seven finite numbers"):
        sense.read()


# -- markers ---------------------------------------------------------------------------------------

FOCAL, WIDTH, HEIGHT, TAG = 600.0, 640, 480, 0.06


def show_tag(marker_in_camera, number=3):
    """What a camera sees of a tag at a pose (4, 4): each pixel's ray meets the tag's plane; four rays a side for each pixel."""
    import cv2

    dictionary = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_APRILTAG_36h11)
    fine, quiet = 512, 96
    tag = cv2.copyMakeBorder(
        cv2.aruco.generateImageMarker(dictionary, number, fine),
        *[quiet] * 4,
        cv2.BORDER_CONSTANT,
        value=255,
    )
    over = 4
    v, u = np.meshgrid(
        (np.arange(HEIGHT * over) + 0.5) / over - 0.5,
        (np.arange(WIDTH * over) + 0.5) / over - 0.5,
        indexing="ij",
    )
    x, y = (u - WIDTH / 2) / FOCAL, (v - HEIGHT / 2) / FOCAL
    # On the plane z = 0 of the tag, a point (X, Y) is seen along r1 X + r2 Y + t.
    plane = np.linalg.inv(
        np.stack([marker_in_camera[:3, 0], marker_in_camera[:3, 1], marker_in_camera[:3, 3]], 1)
    )
    hit = np.stack([x, y, np.ones_like(x)], -1) @ plane.T
    across, up = hit[..., 0] / hit[..., 2], hit[..., 1] / hit[..., 2]
    column, row = (across / TAG + 0.5) * fine + quiet - 0.5, (0.5 - up / TAG) * fine + quiet - 0.5
    seen = cv2.remap(
        tag, column.astype(np.float32), row.astype(np.float32), cv2.INTER_LINEAR, borderValue=170
    )
    grey = cv2.resize(seen, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    noise = np.random.default_rng(0).normal(0, 2, grey.shape)
    return np.repeat(np.clip(grey + noise, 0, 255).astype(np.uint8)[..., None], 3, -1)


def locator(**changes):
    config = {
        "camera": {"kind": "synthetic"},
        "marker": 3,
        "size_m": TAG,
        "intrinsics": (FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2),
    }
    camera_pose = (0.5, 0.0, 0.6, 1.0, 0.0, 0.0, 0.0)  # above the table, looking down
    parsed = apriltag.AprilTagConfig(
        name="object", **{**config, "camera_pose": camera_pose, **changes}
    )
    return apriltag.AprilTag(parsed, Scripted())


@pytest.mark.parametrize(
    ("position", "turn"),
    [((0.5, 0.0, 0.02), 0.0), ((0.56, -0.08, 0.05), 0.7), ((0.42, 0.10, 0.15), -2.0)],
)
def test_a_tag_is_found_within_millimetres(position, turn):
    from scipy.spatial.transform import Rotation

    truth = np.array([*position, *Rotation.from_euler("zx", [turn, 0.2]).as_quat()])
    one = locator()
    in_camera = np.linalg.inv(apriltag.matrix(one.config.camera_pose)) @ apriltag.matrix(
        tuple(truth)
    )
    found = one.locate(show_tag(in_camera))
    assert np.abs(found[:2] - truth[:2]).max() < 0.0004, "sideways: 0.4 mm, half a pixel"
    assert abs(found[2] - truth[2]) < 0.0006, "along the view: 0.6 mm at half a metre"
    angle = (Rotation.from_quat(found[3:]) * Rotation.from_quat(truth[3:]).inv()).magnitude()
    assert angle < np.radians(1.5), "worst where edges lie along the rows of pixels"
    assert np.linalg.norm(found[3:]) == pytest.approx(1)


def test_the_object_may_lie_beside_its_tag():
    tag = (0.5, 0.0, 0.02, *IDENTITY)
    one = locator(object_in_marker=(0.0, 0.03, -0.02, *IDENTITY))
    picture = show_tag(
        np.linalg.inv(apriltag.matrix(one.config.camera_pose)) @ apriltag.matrix(tag)
    )
    np.testing.assert_allclose(one.locate(picture)[:3], [0.5, 0.03, 0.0], atol=0.001)
    assert locator(marker=4).locate(picture) is None, "another tag"
    assert one.locate(np.full((HEIGHT, WIDTH, 3), 128, np.uint8)) is None, "no tag"


def test_a_tag_reading_has_the_pictures_stamps():
    one = locator()
    picture = show_tag(
        np.linalg.inv(apriltag.matrix(one.config.camera_pose))
        @ apriltag.matrix((0.5, 0, 0.02, *IDENTITY))
    )
    one._camera = Scripted(
        Reading(picture, 1.5, 99.0, 42), Reading(np.zeros_like(picture), 1.6, 99.1, 43)
    )
    reading = one.read()
    assert (reading.stamp, reading.host, reading.seq, reading.value.shape) == (1.5, 99.0, 42, (7,))
    assert one.read() is None


def test_a_camera_pose_needs_a_quaternion():
    with pytest.raises(ConfigError, match="camera_pose"):
        apriltag.make(
            {
                "name": "o",
                "camera": {"kind": "synthetic"},
                "marker": 0,
                "size_m": 0.1,
                "intrinsics": (1, 1, 0, 0),
                "camera_pose": [0] * 7,
            }
        )


# -- what the policy sees --------------------------------------------------------------------------


def test_view_cuts_and_scales():
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[8:40, 16:48] = (200, 100, 50)
    seen = view(picture, (8, 16, 32, 32), (16, 16))
    assert seen.shape == (16, 16, 3)
    assert seen.dtype == np.uint8
    np.testing.assert_array_equal(seen, np.broadcast_to((200, 100, 50), (16, 16, 3)))
    assert view(picture, None, (24, 32)).shape == (24, 32, 3)
    np.testing.assert_array_equal(view(picture, None, (48, 64)), picture)
    for crop in [(0, 0, 49, 64), (-1, 0, 4, 4), (0, 60, 4, 5), (0, 0, 0, 4)]:
        with pytest.raises(DataError, match="does not lie"):
            view(picture, crop, (8, 8))


# -- shared memory ---------------------------------------------------------------------------------


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
            found = reader.latest()
            np.testing.assert_array_equal(found.value, value + np.array(i, value.dtype))
            assert (found.stamp, found.host, found.seq) == (0.1 * i, 10.0 + i, i - 2)
        found.value[...] = 0  # the reader's own copy
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
    """One slot only and a writer that hardly rests, so that both are at it together most of the time."""
    process = subprocess.Popen([sys.executable, "-c", HOT_WRITER, name], stderr=subprocess.DEVNULL)
    reader = shared_memory_ring.RingReader("cam", name)
    try:
        wait_for(lambda: opens(reader) and reader.latest() is not None)
        seen = set()
        until = time.monotonic() + PATIENCE
        while (len(seen) < 20 or not reader.torn) and time.monotonic() < until:
            found = reader.latest()
            assert (found.value == found.seq % 251).all()
            assert found.stamp == found.seq
            seen.add(found.seq)
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
    writer, reader = (
        shared_memory_ring.RingWriter(name, (4,), "float64", slots=1),
        shared_memory_ring.RingReader("cam", name),
    )
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
from zprl.robot.sensors import ring, synthetic
ring.publish(synthetic.make({"name": "cam", "width": 32, "height": 24, "rate_hz": 200}), sys.argv[1], threading.Event())
"""


def wait_for(holds):
    until = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_killed_camera_process_leaves_nothing_and_its_successor_is_found(name):
    def camera():
        return subprocess.Popen([sys.executable, "-c", CAMERA, name], stderr=subprocess.DEVNULL)

    reader = LatestReader(shared_memory_ring.RingReader("cam", name))
    process = camera()
    try:
        wait_for(lambda: in_memory(name))
        reader.start()
        wait_for(lambda: reader.received > 3)
        found = reader.latest(PATIENCE)
        assert synthetic.number_of(found.value) == found.seq
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


def test_an_orphan_ring_is_replaced(name):
    """A writer that was killed together with its resource tracker."""
    code = "import os, sys; from zprl.robot.sensors.shared_memory_ring import RingWriter; RingWriter(sys.argv[1], (4,), 'float64'); sys.stdout.write('x'); sys.stdout.flush(); os.killpg(0, 9)"  # noqa: E501
    subprocess.run(
        [sys.executable, "-c", code, name],
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
