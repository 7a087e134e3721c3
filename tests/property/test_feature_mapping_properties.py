"""Layouts: what is written can be read back, and rotations stay rotations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zprl.envs import rotation as batched
from zprl.robot import rotation
from zprl.robot.base import GRIPPER, POSE, Ranges
from zprl.robot.feature_mapping import MAX_NUMBER, REACHES, ActionLayout, ActionSpec, ObsLayout

RANGES = Ranges(speed=1, acceleration=1, jerk=1, gripper_width=0.08, reach=1)
coordinate = st.floats(-1, 1)


@st.composite
def quaternions(draw):
    values = draw(
        st.lists(st.floats(-1, 1), min_size=4, max_size=4).filter(lambda v: math.hypot(*v) > 1e-2)
    )
    return rotation.unit(values)


@st.composite
def targets(draw, prefixes=("",)):
    result = {}
    for prefix in prefixes:
        pose = [draw(coordinate) for _ in range(3)] + list(draw(quaternions()))
        result |= {prefix + key: v for key, v in zip(POSE, pose, strict=True)} | {
            prefix + GRIPPER: draw(st.sampled_from([0.0, 0.08]))
        }
    return result


def angle(a, b):
    turn = rotation.shorter(rotation.product(a, rotation.inverse(b)))
    return 2 * math.atan2(math.hypot(*turn[:3]), turn[3])


def check_same(result, wanted, prefix=""):
    for key in (*POSE[:3], GRIPPER):
        assert result[prefix + key] == pytest.approx(wanted[prefix + key], abs=2e-6)
    a, b = ([values[prefix + key] for key in POSE[3:]] for values in (result, wanted))
    assert math.hypot(*a) == pytest.approx(1, abs=1e-9)
    assert angle(a, b) < 2e-6  # float32 in the action


@given(quaternions())
def test_the_6d_rotation_is_orthonormal_and_that_of_the_simulation(q):
    columns = rotation.to_6d(q)
    a, b = np.array(columns[:3]), np.array(columns[3:])
    np.testing.assert_allclose([a @ a, b @ b, a @ b], [1, 1, 0], atol=1e-12)
    np.testing.assert_allclose(
        columns, batched.quat_to_6d(torch.tensor(q, dtype=torch.float64)).numpy(), atol=1e-12
    )
    assert angle(rotation.from_6d(columns), q) < 1e-7


@given(st.lists(st.floats(-2, 2), min_size=6, max_size=6))
def test_any_six_numbers_become_the_rotation_that_the_simulation_makes_of_them(columns):
    a, b = np.array(columns[:3]), np.array(columns[3:])
    if (
        np.linalg.norm(np.cross(a, b)) < 1e-3 * max(1, np.linalg.norm(a) * np.linalg.norm(b))
        or min(np.linalg.norm(a), np.linalg.norm(b)) < 1e-2
    ):
        return
    theirs = batched.quat_from_6d(torch.tensor(columns, dtype=torch.float64)).tolist()
    assert angle(rotation.from_6d(columns), theirs) < 1e-6


@given(quaternions(), quaternions(), st.floats(0, 1))
def test_slerp_goes_along_the_shorter_arc_at_an_even_pace(a, b, share):
    between = rotation.slerp(a, b, share)
    assert math.hypot(*between) == pytest.approx(1)
    assert angle(between, a) == pytest.approx(share * angle(a, b), abs=1e-6)


@given(quaternions())
def test_a_rotation_vector_of_any_length_reads_back_as_the_same_rotation(q):
    for chosen in (q, rotation.shorter(q), rotation.steady(q)):
        assert angle(rotation.from_rotvec(rotation.to_rotvec(chosen)), q) < 1e-6


@given(st.floats(0, 1.0), st.floats(0, 2 * math.pi), st.floats(-3.0, 3.0))
def test_rotation_vectors_do_not_jump_where_the_tool_points_down(tilt, azimuth, yaw):
    down = (1.0, 0.0, 0.0, 0.0)
    turned = rotation.product(rotation.from_rotvec((0, 0, yaw)), down)
    pose = rotation.product(
        rotation.from_rotvec((tilt * math.cos(azimuth), tilt * math.sin(azimuth), 0)), turned
    )
    nudge = rotation.from_rotvec((1e-4, -1e-4, 1e-4))
    before, after = (
        np.array(rotation.to_rotvec(rotation.steady(q)))
        for q in (pose, rotation.product(nudge, pose))
    )
    assert np.linalg.norm(after - before) < 2e-3


@pytest.mark.parametrize(
    "kind", ["absolute_6d", "absolute_quat", "absolute_rotvec", "relative_rotvec"]
)
@pytest.mark.parametrize("gripper", ["binary", "linear"])
@given(data=st.data())
def test_a_target_survives_the_action(kind, gripper, data):
    prefixes = ("left.", "right.")
    spec = ActionSpec.model_validate(
        {"arms": {p: {"kind": kind, "gripper": gripper} for p in prefixes}, "done": True}
    )
    layout = ActionLayout(spec, RANGES)
    target, previous = data.draw(targets(prefixes)), data.draw(targets(prefixes))
    action = layout.encode(target, previous, done=True)
    assert action.shape == (layout.width,) and action.dtype == np.float32 and layout.done(action)
    result = layout.features(action, previous)
    for prefix in prefixes:
        check_same(result, target, prefix)
        assert layout.opens(action, prefix) == (target[prefix + GRIPPER] > 0.04)


@given(targets(), st.integers(1, 6))
def test_smoothing_a_target_that_stands_still_changes_nothing(target, times):
    spec = ActionSpec.model_validate(
        {"arms": {"": {"kind": "absolute_quat"}}, "smoothing": {"targets": 3, "decay": 0.7}}
    )
    layout = ActionLayout(spec, RANGES)
    result = target
    for _ in range(times):
        result = layout.features(layout.encode(target), result)
    check_same(result, target)


@given(targets())
def test_the_observation_of_a_pose_is_the_pose(target):
    layout = ObsLayout(
        {"pose": ["ee.x", "ee.y", "ee.z", "ee.quat"], "turn": ["ee.rotvec"], "six": ["ee.rot6d"]}
    )
    obs = layout.read(target)
    assert {key: value.shape for key, value in obs.items()} == {
        "pose": (7,),
        "turn": (3,),
        "six": (6,),
    }
    quat = [target[key] for key in POSE[3:]]
    for result in (
        rotation.unit(obs["pose"][3:]),
        rotation.from_rotvec(obs["turn"]),
        rotation.from_6d(obs["six"]),
    ):
        assert angle(result, quat) < 2e-6


KINDS = ("absolute_6d", "absolute_quat", "absolute_rotvec", "relative_rotvec")
anything = st.one_of(
    st.floats(-2, 2), st.floats(), st.sampled_from([3e38, -1e308, math.inf, math.nan, 10.0, 101.0])
)


@given(st.sampled_from(KINDS), st.integers(0, 12), st.data())
def test_a_chunk_is_played_when_all_of_it_is_within_reach_and_else_names_what_is_not(
    kind, rows, data
):
    layout = ActionLayout(ActionSpec(arms={"": {"kind": kind}}), RANGES)
    numbers = st.lists(anything, min_size=rows * layout.width, max_size=rows * layout.width)
    chunk = np.array(data.draw(numbers)).reshape(rows, layout.width)
    far = np.abs(chunk[:, :3]) > REACHES * RANGES.reach
    good = (
        0 < rows <= 8
        and np.isfinite(chunk).all()
        and not far.any()
        and (np.abs(chunk[:, 3:]) <= MAX_NUMBER).all()
    )
    assert (layout.defect(chunk, 8) == "") == good


@given(
    st.lists(st.sampled_from([0, 1, 3, 4, 10]), max_size=4),
    st.sampled_from([np.float32, np.float64, np.uint8, np.int64, bool]),
)
def test_a_chunk_of_any_shape_and_type_gets_an_answer(shape, dtype):
    layout = ActionLayout(ActionSpec(arms={"": {"kind": "absolute_6d"}}), RANGES)
    fits = len(shape) == 2 and 0 < shape[0] <= 3 and shape[1] == layout.width
    assert (layout.defect(np.zeros(shape, dtype), 3) == "") == fits


@given(targets())
def test_where_an_arm_can_be_is_never_broken(target):
    layout = ActionLayout(ActionSpec(arms={"": {"kind": "absolute_6d"}}), RANGES)
    assert layout.defect(layout.encode(target)[None], 1) == ""
