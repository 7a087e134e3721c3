"""Promises of the safety filter for any target."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from zprl.robot.base import Pose
from zprl.robot.limits import Limits
from zprl.robot.safety import SafetyFilter

LOW, HIGH = (0.25, -0.30, 0.02), (0.65, 0.30, 0.50)
WALL = ((0.45, -0.05, 0.02), (0.50, 0.30, 0.30))
SPEED, ACCELERATION, JERK = 0.6, 5.0, 90.0
CLIP = 0.05
TILT = 0.6
ARM = {
    "workspace": {"low": LOW, "high": HIGH},
    "cone": {"axis": [0, 0, -1], "angle": TILT},
    "max_step": 0.1,
    "max_rotation_step": 0.4,
    "translation": {"speed": SPEED, "acceleration": ACCELERATION, "jerk": JERK},
    "rotation": {"speed": 2.0, "acceleration": 12.0, "jerk": 300.0},
    "tracking_clip": CLIP,
    "tracking_clip_rotation": 0.4,
    "measured_speed": 1.0,
    "gripper": {"high": 0.08},
}
wild = st.one_of(
    st.floats(), st.floats(-1, 1), st.sampled_from([math.nan, math.inf, 1e308, -1e308, 0.0])
)
quaternions = st.one_of(st.tuples(wild, wild, wild, wild), st.tuples(*[st.floats(-1, 1)] * 4))
near = st.tuples(st.floats(0.1, 0.8), st.floats(-0.5, 0.5), st.floats(-0.2, 0.7))
poses = st.builds(
    lambda p, q: Pose(np.array(p), np.array(q)),
    st.one_of(st.tuples(wild, wild, wild), near, near),
    quaternions,
)
periods = st.sampled_from([0.004, 0.01, 0.02, 0.05])
START = Pose(np.array([0.35, 0.0, 0.4]), np.array([1.0, 0, 0, 0]))


def made(period, ticks_per_action=1, **arm):
    safety = SafetyFilter(
        Limits.model_validate({"arms": {"": {**ARM, **arm}}}).arms[""], period, ticks_per_action
    )
    safety.reset(START, 0.04)
    return safety


def check_inside(pose):
    position, q = pose.position, pose.quaternion
    assert np.isfinite(position).all()
    assert (position >= LOW).all()
    assert (position <= HIGH).all()
    assert abs(np.linalg.norm(q) - 1) < 1e-9
    down = 1 - 2 * (q[0] ** 2 + q[1] ** 2)  # z component of the tool's z axis
    assert math.acos(max(-1.0, min(1.0, -down))) <= TILT + 1e-6


def in_wall(position):
    return all(low + 1e-7 < v < high - 1e-7 for v, low, high in zip(position, *WALL, strict=True))


@settings(max_examples=60, deadline=None)
@given(
    period=periods,
    ticks=st.integers(1, 5),
    requests=st.lists(
        st.tuples(
            st.sampled_from(["apply", "apply", "apply", "hold", "stop"]),
            poses,
            wild,
            poses,
            st.booleans(),
        ),
        max_size=60,
    ),
)
def test_for_any_targets_and_states_what_is_sent_is_finite_and_inside(period, ticks, requests):
    safety = made(period, ticks, keep_out=[{"low": WALL[0], "high": WALL[1]}])
    last = START

    for what, target, gripper, measured, keeps_up in requests:
        at = last if keeps_up else measured
        if what == "apply":
            result = safety.apply(target, gripper, at)
        elif what == "hold":
            result = safety.hold(at)
        else:
            result = safety.stop_step(at)

        check_inside(result.pose)
        assert not in_wall(result.pose.position)
        assert 0 <= result.gripper <= 0.08
        last = result.pose


@settings(max_examples=60, deadline=None)
@given(
    period=periods,
    ticks=st.integers(1, 5),
    hold=st.integers(1, 8),
    targets=st.lists(
        st.tuples(near, st.tuples(*[st.floats(-0.4, 0.4)] * 4), st.booleans()),
        min_size=2,
        max_size=40,
    ),
)
def test_in_free_space_speed_acceleration_and_jerk_are_bounded(period, ticks, hold, targets):
    """Over a whole stream, with jumps of the target, soft stops and brakes at the boundary."""
    safety = made(period, ticks)
    sent = [START]
    for position, turn, stop in targets:
        target = Pose(np.array(position), np.array([1.0, 0, 0, 0]) + np.array(turn))
        for _ in range(hold):
            result = safety.stop_step(sent[-1]) if stop else safety.apply(target, 0.04, sent[-1])
            check_inside(result.pose)
            sent.append(result.pose)

    stream = np.array([sent[0].position] * 3 + [pose.position for pose in sent])
    for order, bound in ((1, SPEED), (2, ACCELERATION), (3, JERK)):
        worst = np.linalg.norm(np.diff(stream, order, axis=0), axis=1).max() / period**order
        assert worst <= bound * 1.002 + 1e-12 / period**order * 100

    turns = np.array([pose.quaternion for pose in sent])
    angles = 2 * np.arccos(np.clip(np.abs((turns[1:] * turns[:-1]).sum(1)), 0, 1))
    assert angles.max() / period <= 2.0 * 1.02 + 1e-7 / period


@settings(max_examples=40, deadline=None)
@given(
    period=periods,
    measured=st.tuples(
        *[st.floats(low + 0.01, high - 0.01) for low, high in zip(LOW, HIGH, strict=True)]
    ),
    targets=st.lists(near, min_size=1, max_size=30),
)
def test_the_distance_from_an_arm_that_is_held_is_bounded(period, measured, targets):
    safety = made(period)
    at = Pose(np.array(measured), START.quaternion)
    safety.reset(at, 0.04)
    for target in targets:
        result = safety.apply(Pose(np.array(target), START.quaternion), 0.04, at)
        assert np.linalg.norm(result.pose.position - at.position) <= CLIP + 1e-9


@settings(max_examples=40, deadline=None)
@given(period=periods, targets=st.lists(near, min_size=1, max_size=20))
def test_after_any_history_a_target_inside_is_reached(period, targets):
    safety = made(period)
    last = START
    for target in targets:
        last = safety.apply(Pose(np.array(target), START.quaternion), 0.04, last).pose
    goal = np.array([0.55, -0.2, 0.2])
    for _ in range(int(6 / period)):
        last = safety.apply(Pose(goal, START.quaternion), 0.04, last).pose
    assert np.allclose(last.position, goal, atol=1e-6)
    assert safety.resting
