"""Parts of the simulated Franka: physics against numbers by hand, and pure functions.

The wire is compared with franky-sim's; faults and tracker are pure functions.
"""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from zprl.errors import DataError, EnvironmentProblem
from zprl.robot_sim import SimGap
from zprl.robot_sim.control import Inject, Reset, SimControl, SimulatedTracker, address, decode
from zprl.robot_sim.faults import Faults, Freeze, LoseStates, Push
from zprl.robot_sim.franka_scene import CUBE_SPREAD, HOME, FrankaScene, cube_start
from zprl.robot_sim.state_packet import FLAGS, StatePacket

pytest.importorskip("franky_sim", reason="the simulated robot needs franky-sim")

STIFFNESS = np.array([2000.0] * 4 + [800.0] * 3)
DAMPING = np.array([100.0] * 4 + [40.0] * 3)


@pytest.fixture
def world() -> FrankaScene:
    return FrankaScene(SimGap(joint_friction=0.0, payload_error=0.0))


def hold(world: FrankaScene, steps: int) -> None:
    for _ in range(steps):
        world.advance(STIFFNESS * (np.array(HOME) - world.q) - DAMPING * world.dq)


def test_home_is_where_isaacs_episodes_start(world: FrankaScene) -> None:
    # Isaac Lab's rest pose of the same joints, hand-checked: in front of the base, hand pitched by
    # q2 - q4 - q6 = -0.796 rad off vertical.
    assert world.tool == pytest.approx([0.463, 0.0, 0.385], abs=0.005)
    pitch = HOME[1] - HOME[3] - HOME[5]
    assert world.rotation[2, 2] == pytest.approx(-math.cos(pitch), abs=1e-3)


def test_gravity_is_compensated(world: FrankaScene) -> None:
    for _ in range(500):
        world.advance(np.zeros(7))
    assert world.q == pytest.approx(HOME, abs=2e-3)


def test_payload_error_pulls_the_arm_down() -> None:
    # 0.2 kg at the tool: 1.96 N on no spring at all
    world = FrankaScene(SimGap(joint_friction=0.0, payload_error=0.2))
    for _ in range(300):
        world.advance(np.zeros(7))
    assert world.tool[2] < 0.38
    compensated = FrankaScene(SimGap(joint_friction=0.0, payload_error=0.2))
    compensated.set_load(0.2)
    for _ in range(300):
        compensated.advance(np.zeros(7))
    assert compensated.tool[2] == pytest.approx(0.3855, abs=2e-3)


def test_a_push_at_the_tool_is_measured_there(world: FrankaScene) -> None:
    world.external[:] = (3.0, -2.0, 5.0, 0.1, 0.2, -0.3)
    hold(world, 300)
    assert world.wrench == pytest.approx([3.0, -2.0, 5.0, 0.1, 0.2, -0.3], abs=1e-6)
    # a force along z at x = 0.463 m tips the shoulder (axis +y at home) by -x * fz, one along x by
    # z * fx, and the moment adds
    lever = world.tool[2] - 0.333
    assert world.external_torque()[1] == pytest.approx(
        -world.tool[0] * 5.0 + lever * 3.0 + 0.2, abs=1e-3
    )


def test_cube_rests_on_the_table_and_is_lifted_only_near_the_tool() -> None:
    gap = SimGap(table_height=0.01, cube_edge=0.05)
    world = FrankaScene(gap)
    world.place_cube(cube_start(0, 0, gap))
    hold(world, 300)
    assert world.cube[2] == pytest.approx(0.035, abs=5e-4)
    assert not world.lifted
    world.place_cube(np.add(world.tool, (0.0, 0.0, 0.05)))
    assert world.lifted
    world.place_cube(np.add(world.tool, (0.0, 0.0, 0.07)))
    assert not world.lifted


def test_gripper_opens_at_its_speed_and_holds_with_its_force(world: FrankaScene) -> None:
    hold(world, 200)
    world.set_opening(0.08, 0.04, 40.0)
    start = world.opening
    hold(world, 500)
    assert world.opening - start == pytest.approx(0.02, abs=0.002)  # 0.04 m/s for half a second
    hold(world, 800)
    assert world.opening == pytest.approx(0.08, abs=1e-3)


def test_equal_worlds_stay_equal_bit_for_bit() -> None:
    worlds = FrankaScene(SimGap()), FrankaScene(SimGap())
    for world in worlds:
        world.place_cube(cube_start(5, 1, world.gap))
        hold(world, 200)
    assert worlds[0].data.qpos.tobytes() == worlds[1].data.qpos.tobytes()


@given(seed=st.integers(0, 2**62), number=st.integers(0, 10**6))
def test_cube_starts_are_pure_and_in_the_box(seed: int, number: int) -> None:
    start = cube_start(seed, number, SimGap())
    assert start.tolist() == cube_start(seed, number, SimGap()).tolist()
    assert abs(start[0] - 0.5) <= CUBE_SPREAD[0]
    assert abs(start[1]) <= CUBE_SPREAD[1]
    assert start[2] == 0.022


def test_cube_starts_fill_the_box() -> None:
    starts = np.array([cube_start(0, n, SimGap()) for n in range(200)])
    assert np.ptp(starts[:, :2], axis=0) == pytest.approx([0.2, 0.5], rel=0.05)


def test_packet_is_the_one_franky_sim_packs() -> None:
    """Every field with numbers of its own, in both layouts."""
    from franky_sim.franka_robot_protocol import (
        RobotMode,
        StateControllerMode,
        StateMotionGeneratorMode,
    )
    from franky_sim.franka_robot_state import FrankaRobotState

    packet, values = StatePacket(), {}
    packet.floats[:] = np.arange(len(packet.floats))
    for name, value in vars(packet).items():
        if isinstance(value, np.ndarray) and name != "floats":
            values[name] = float(value[0]) if value.shape == (1,) else tuple(value.tolist())
    flags = bytearray(len(FLAGS))
    flags[FLAGS.index("power_limit_violation")] = 1
    packet.errors, packet.robot_mode, packet.motion_generator_mode, packet.controller_mode = (
        bytes(flags),
        4,
        5,
        2,
    )
    packet.success_rate = 0.5
    theirs = FrankaRobotState(
        **values,
        errors=tuple(map(bool, flags)),
        robot_mode=RobotMode.kReflex,
        motion_generator_mode=StateMotionGeneratorMode.kNone,
        controller_mode=StateControllerMode.kExternalController,
        control_command_success_rate=0.5,
    )
    assert packet.pack() == theirs.pack_state()


def test_push_ramps_stays_and_ends() -> None:
    faults = Faults()
    faults.switch(Push(force=(0.0, 0.0, -20.0), ramp=0.5, seconds=1.0), now=10.0)
    for now, force in ((10.0, 0.0), (10.25, -10.0), (10.5, -20.0), (11.5, -20.0), (11.6, 0.0)):
        wrench = faults.wrench(now)
        assert wrench is not None
        assert wrench[2] == pytest.approx(force)
    assert faults.wrench(11.7) is None


def test_lost_states_are_a_function_of_seed_and_step() -> None:
    one, two = Faults(1), Faults(1)
    for faults in (one, two):
        faults.switch(LoseStates(share=0.3, seconds=2.0), now=0.0)
    lost = [one.loses(step, 0.001 * step) for step in range(2000)]
    assert lost == [two.loses(step, 0.001 * step) for step in range(2000)]
    assert 520 < sum(lost) < 680  # 600 +- 4 standard deviations of 20
    assert not one.loses(2000, 2.0)


@given(noise=st.floats(0.0, 0.02), seed=st.integers(0, 1000))
@settings(max_examples=20)
def test_tracker_keeps_rate_and_age(noise: float, seed: int) -> None:
    gap = SimGap(
        tracker_rate=50.0,
        tracker_latency=0.03,
        tracker_noise=noise,
        tracker_turn_noise=0.0,
        tracker_offset=(0.01, 0.0, 0.0),
    )
    pose = np.array([0.5, 0.1, 0.02, 0.0, 0.0, 0.6, 0.8])
    tracker, got = SimulatedTracker(gap, seed), []
    for step in range(0, 1000, 10):
        now = 0.001 * step
        for message in tracker.update(now, pose):
            assert 0.03 <= now - message["stamp"] + 1e-9 < 0.0401
            got.append(message)
    assert [message["seq"] for message in got] == list(range(len(got)))
    assert len(got) in (48, 49)  # one every 20 ms for a second, the last still under way
    poses = np.array([message["pose"] for message in got])
    assert np.allclose(poses[:, 3:], pose[3:])
    assert np.allclose(
        poses[:, :3].mean(0),
        np.add(pose[:3], (0.01, 0.0, 0.0)),
        atol=5 * noise / math.sqrt(len(got)) + 1e-12,
    )


def test_tracker_turns_by_its_noise() -> None:
    gap = SimGap(tracker_rate=100.0, tracker_latency=0.0, tracker_turn_noise=0.02)
    pose = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])
    tracker = SimulatedTracker(gap, 0)
    turns = np.array(
        [2 * np.array(m["pose"][3:6]) for i in range(1000) for m in tracker.update(0.01 * i, pose)]
    )
    assert turns.std(0) == pytest.approx([0.02] * 3, rel=0.1)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'{"kind": "quit"}',
        b'{"kind": "reset", "seed": -1}',
        b'{"kind": "state", "more": 1}',
        b'{"kind": "place", "position": [0, 0, NaN]}',
        b'{"kind": "inject", "fault": {"fault": "reflex", "flag": "bad_mood"}}',
        b'{"kind": "inject", "fault": {"fault": "freeze", "seconds": 1e9}}',
        b'{"kind": "state"' + b" " * 70000 + b"}",
    ],
)
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(DataError):
        decode(data)


def test_requests_are_read_as_they_were_written() -> None:
    for request in (
        Reset(seed=3, number=4),
        Inject(fault=Freeze(seconds=1.0)),
        Inject(fault=Push(force=(1.0, 2.0, 3.0))),
    ):
        assert decode(request.model_dump_json().encode()) == request


def test_gap_refuses_nonsense() -> None:
    for values in (
        {"cube_mass": -1.0},
        {"cube_edge": 0.5},
        {"tracker_noise": math.nan},
        {"gravity": 0},
    ):
        with pytest.raises(ValidationError):
            SimGap(**values)


def test_long_folders_are_named(tmp_path) -> None:
    with pytest.raises(EnvironmentProblem, match="too long"):
        address(tmp_path / ("x" * 120), "control")


def test_an_absent_robot_is_reported_in_time(tmp_path) -> None:
    with (
        SimControl(tmp_path, timeout=0.05) as control,
        pytest.raises(EnvironmentProblem, match="does not answer"),
    ):
        control.state()


def test_wire_drops_a_client_that_breaks_the_framing() -> None:
    import socket

    from zprl.robot_sim.libfranka_wire import Channel

    channel = Channel("127.0.9.7", 1337, 10, wide=True)
    try:
        for junk in (struct.pack("<III", 1, 1, 5), struct.pack("<III", 1, 1, 2**31)):
            with socket.create_connection(("127.0.9.7", 1337), timeout=2) as client:
                client.settimeout(2)
                client.sendall(junk)
                while (data := _poll(channel, client)) is None:
                    pass
                assert data == b""  # closed
    finally:
        channel.close()


def _poll(channel, client) -> bytes | None:
    assert list(channel.messages()) == []
    client.settimeout(0.01)
    try:
        return client.recv(10)
    except TimeoutError:
        return None
