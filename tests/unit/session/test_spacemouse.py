"""A SpaceMouse without one: its reports through a socket, its push as steps of the arm."""

from __future__ import annotations

import math
import os
import queue
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zprl.errors import EnvironmentProblem
from zprl.robot.base import Pose
from zprl.robot.limits import ArmLimits
from zprl.session.events import Input
from zprl.session.spacemouse import (
    REST,
    Feel,
    Intervention,
    InterventionCommand,
    MouseState,
    SpaceMouse,
    decode,
    find,
)

WAIT_S = 20
COUNTS = (350, -175, 70, -35, 105, 350)
# What pyspacemouse 2.1.0 makes of these counts in its convention HID_Z_UP, for a SpaceNavigator and
# a wireless SpaceMouse.
TWIST = (1.0, 0.5, -0.2, -0.1, -0.3, -1.0)

LIMITS = ArmLimits.model_validate(
    {
        "workspace": {"low": [0, -1, 0], "high": [1, 1, 1]},
        "max_step": 0.05,
        "max_rotation_step": 0.2,
        "translation": {"speed": 0.4, "acceleration": 2, "jerk": 30},
        "rotation": {"speed": 1.0, "acceleration": 5, "jerk": 50},
        "tracking_clip": 0.05,
        "tracking_clip_rotation": 0.3,
        "measured_speed": 1.0,
        "gripper": {"high": 0.08},
    }
)


def report(kind: int, *counts: int) -> bytes:
    return bytes([kind]) + struct.pack(f"<{len(counts)}h", *counts)


# -- reports ---------------------------------------------------------------------------------------


def test_two_reports_as_the_library_reads_them() -> None:
    state = decode(report(1, *COUNTS[:3]), REST)
    assert state.twist == (*TWIST[:3], 0, 0, 0)
    assert decode(report(2, *COUNTS[3:]), state).twist == TWIST


def test_one_report_as_the_library_reads_it() -> None:
    assert decode(report(1, *COUNTS), REST).twist == TWIST


def test_buttons_and_what_is_none_of_ours() -> None:
    assert decode(b"\x03\x02\x00", REST).buttons == 2
    assert decode(b"\x03\x01\x00\x00\x80", REST).buttons == 0x80000001
    held = MouseState(TWIST, 1)
    for other in (b"", b"\x17\x64", b"\x01\x01", b"\x02\x00\x00\x00", b"\x03"):
        assert decode(other, held) == held
    assert decode(report(1, 0, 0, 0, 0, 0, 0), held) == MouseState((0.0,) * 6, 1)


@given(st.binary(max_size=64), st.binary(max_size=64))
def test_no_report_leaves_the_range(first: bytes, second: bytes) -> None:
    state = decode(second, decode(first, REST))
    assert len(state.twist) == 6
    assert all(-1 <= v <= 1 for v in state.twist)
    assert 0 <= state.buttons < 2**32


# -- the reader ------------------------------------------------------------------------------------


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ends = socket.socketpair(
        socket.AF_UNIX, socket.SOCK_SEQPACKET
    )  # keeps reports apart, as hidraw does
    yield ends
    for end in ends:
        end.close()


def test_reports_arrive_and_silence_is_rest(pair: tuple[socket.socket, socket.socket]) -> None:
    clock = [10.0]
    with SpaceMouse(pair[0].fileno(), clock=lambda: clock[0]) as mouse:
        assert mouse.read() == REST
        pair[1].send(b"\x03\x01\x00")
        pair[1].send(report(1, *COUNTS))
        assert mouse.wait(2, WAIT_S)
        assert mouse.read() == MouseState(TWIST, 1)
        clock[0] = 10.24
        assert mouse.read().twist == TWIST
        clock[0] = 10.26
        assert mouse.read() == MouseState(
            (0.0,) * 6, 1
        )  # a held button says nothing until it is let go


def test_a_receiver_that_is_pulled_out_is_rest(pair: tuple[socket.socket, socket.socket]) -> None:
    lost = queue.Queue()
    with SpaceMouse(pair[0].fileno(), on_lost=lost.put, clock=lambda: 0.0) as mouse:
        pair[1].send(b"\x03\x01\x00")
        pair[1].send(report(1, *COUNTS))
        assert mouse.wait(2, WAIT_S)
        pair[1].close()
        assert "spacemouse is lost" in lost.get(timeout=WAIT_S)
        assert mouse.read() == REST


def test_finding_it(tmp_path: Path) -> None:
    for name, ids in {
        "hidraw0": "0003:0000046D:0000C077",
        "hidraw1": "broken",
        "hidraw2": "0003:0000256F:0000C635",
    }.items():
        (tmp_path / name / "device").mkdir(parents=True)
        (tmp_path / name / "device" / "uevent").write_text(
            f"DRIVER=hid-generic\nHID_ID={ids}\nHID_NAME=x\n"
        )
    assert find(tmp_path) == Path("/dev/hidraw2")  # hidraw0 is an ordinary Logitech mouse
    with pytest.raises(EnvironmentProblem, match="no SpaceMouse"):
        find(tmp_path / "nothing")
    with pytest.raises(EnvironmentProblem, match="cannot open"):
        SpaceMouse.open(tmp_path / "hidraw9")


def test_opening_a_path(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "hidraw3")
    keep = os.open(tmp_path / "hidraw3", os.O_RDWR)
    mouse = SpaceMouse.open(tmp_path / "hidraw3")
    with mouse:
        os.write(keep, report(1, *COUNTS))
        assert mouse.wait(1, WAIT_S)
        assert mouse.read().twist == TWIST
    os.close(keep)
    os.close(mouse.fd)


# -- the person and the arm ------------------------------------------------------------------------

STEP_S = 0.05


def push(*twist: float, buttons: int = 0) -> MouseState:
    return MouseState((*twist, *(0.0,) * (6 - len(twist))), buttons)


def feel(**changes: float) -> Feel:
    return Feel(
        **{
            "speed": 0.2,
            "turn": 0.5,
            "step_s": STEP_S,
            "max_step": 0.05,
            "max_turn": 0.2,
            "yaw": 0.0,
            **changes,
        }
    )


def test_feel_within_limits() -> None:
    made = Feel.within(LIMITS, 20.0)
    assert (made.speed, made.turn, made.step_s, made.max_step, made.max_turn) == (
        0.2,
        0.5,
        0.05,
        0.05,
        0.2,
    )


def test_a_full_push_by_hand() -> None:
    command = Intervention(feel()).step(push(0, 0, 1.0))
    assert command.engaged
    assert command.edge is Input.INTERVENE
    assert command.translation == pytest.approx((0, 0, 0.2 * 0.05))  # 0.2 m/s for 50 ms
    assert command.rotation == pytest.approx((0, 0, 0))


def test_a_push_counts_from_the_threshold() -> None:
    command = Intervention(feel(threshold=0.2)).step(push(0.6))
    assert command.translation[0] == pytest.approx(0.01 * (0.6 - 0.2) / 0.8)
    barely = Intervention(feel(threshold=0.2)).step(push(0.2 + 1e-9))
    assert barely.engaged
    assert barely.translation[0] < 1e-9  # taking over does not jerk


def test_a_step_is_never_longer_than_allowed() -> None:
    command = Intervention(feel(speed=5.0, turn=9.0)).step(push(1, 1, 1, 1, 1, 1))
    assert math.hypot(*command.translation) == pytest.approx(0.05)
    assert math.hypot(*command.rotation) == pytest.approx(0.2)


def test_behind_the_base_away_is_forward() -> None:
    behind = Intervention(feel(yaw=-math.pi / 2)).step(push(0, 1.0))
    assert behind.translation == pytest.approx((0.01, 0, 0))  # away from the person: +x of the base
    right = Intervention(feel(yaw=-math.pi / 2)).step(push(1.0))
    assert right.translation == pytest.approx((0, -0.01, 0))


def test_a_small_tremble_takes_nothing_over() -> None:
    person = Intervention(feel())
    for _ in range(50):
        assert person.step(push(0.05, -0.05, 0.05)) == InterventionCommand()


def test_letting_go_fades_then_releases_once() -> None:
    person = Intervention(feel(release_s=0.4))
    full = person.step(push(1.0)).translation[0]
    steps = [person.step(REST) for _ in range(12)]
    # idle 0.05, 0.10, ... of 0.4 s: fades over the first 0.2 s, is held until 0.4 s
    assert [round(c.translation[0] / full, 6) for c in steps[:5]] == [0.75, 0.5, 0.25, 0.0, 0.0]
    assert [c.engaged for c in steps] == [True] * 7 + [False] * 5
    assert [c.edge for c in steps] == [None] * 7 + [Input.RELEASE] + [None] * 4
    assert all(c.translation == (0, 0, 0) for c in steps[4:])


def test_a_held_button_keeps_the_arm_still() -> None:
    person = Intervention(feel())
    held = [person.step(push(buttons=1)) for _ in range(100)]
    assert all(c.engaged and c.translation == (0, 0, 0) for c in held)
    assert [c.edge for c in held].count(Input.INTERVENE) == 1


def test_the_gripper_button_acts_once_and_only_for_a_person_who_has_the_arm() -> None:
    person = Intervention(feel())
    assert not person.step(push(buttons=2)).toggle_gripper
    person.step(push(buttons=0))
    toggles = [person.step(push(1.0, buttons=b)).toggle_gripper for b in (0, 2, 2, 0, 2)]
    assert toggles == [False, True, False, False, True]


@given(st.lists(st.tuples(*[st.floats(-1, 1)] * 6, st.integers(0, 3)), min_size=1, max_size=60))
def test_any_pushes(pushes: list[tuple]) -> None:
    person, engaged = Intervention(feel(speed=2.0, turn=9.0)), False
    for *twist, buttons in pushes:
        command = person.step(MouseState(tuple(twist), buttons))
        assert math.hypot(*command.translation) <= 0.05 * (1 + 1e-9)
        assert math.hypot(*command.rotation) <= 0.2 * (1 + 1e-9)
        assert command.engaged or command.translation == command.rotation == (0, 0, 0)
        assert (command.edge is not None) == (
            command.engaged != engaged
        )  # every change is reported, once
        engaged = command.engaged


def test_the_target_one_step_on() -> None:
    pose = Pose(np.array([0.5, 0.0, 0.3]), np.array([1.0, 0.0, 0.0, 0.0]))
    command = InterventionCommand(True, (0.01, 0.0, -0.02), (0.0, 0.0, math.pi / 2))
    target = command.target(pose)
    assert target.position == pytest.approx([0.51, 0.0, 0.28])
    # a quarter turn about the base's z after half a turn about x: (x, y, z, w) = (cos 45, sin 45,
    # 0, 0)
    assert target.quaternion == pytest.approx([math.sqrt(0.5), math.sqrt(0.5), 0, 0])
