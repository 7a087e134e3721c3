"""Layouts: terms, kinds of actions, mistakes.  Expected numbers are calculated by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pydantic import ValidationError

from zprl.errors import ConfigError, DataError
from zprl.robot.base import GRIPPER, POSE, Ranges
from zprl.robot.feature_mapping import ActionLayout, ActionSpec, ObsLayout

RANGES = Ranges(speed=1, acceleration=1, jerk=1, gripper_width=0.08, reach=1)
DOWN = {
    "ee.x": 0.4,
    "ee.y": 0.1,
    "ee.z": 0.3,
    "ee.qx": 1.0,
    "ee.qy": 0.0,
    "ee.qz": 0.0,
    "ee.qw": 0.0,
    GRIPPER: 0.08,
}


def layout(arms, **more):
    return ActionLayout(ActionSpec.model_validate({"arms": arms, **more}), RANGES)


def pose(values, prefix=""):
    return [values[prefix + key] for key in POSE]


def test_terms():
    spec = {
        "a": ["ee.x", "gripper.pos/2", "gripper.pos / 2"],
        "b": ["object.x-ee.x", "ee.y*-10", "ee.z * 1e3"],
    }
    result = ObsLayout(spec).read({**DOWN, "object.x": 0.55})
    np.testing.assert_allclose(result["a"], [0.4, 0.04, 0.04], atol=1e-7)
    np.testing.assert_allclose(result["b"], [0.15, -1.0, 300.0], atol=1e-4)
    assert result["a"].dtype == np.float32


def test_rotations_of_a_pose_that_points_down():
    spec = {"r": ["ee.rotvec"], "six": ["ee.rot6d"], "q": ["object.quat"]}
    features = {
        **DOWN,
        **{f"object.q{axis}": v for axis, v in zip("xyzw", (0, 0, -1, 0), strict=True)},
    }
    result = ObsLayout(spec).read(features)
    np.testing.assert_allclose(result["r"], [math.pi, 0, 0], atol=1e-6)
    np.testing.assert_allclose(result["six"], [1, 0, 0, 0, -1, 0], atol=1e-7)
    np.testing.assert_allclose(result["q"], [0, 0, -1, 0])


def test_widths_and_needs_are_known_without_features():
    result = ObsLayout({"a": ["left.ee.rot6d", "left.ee.x"], "b": ["object.x-left.ee.x"]})
    assert result.widths == {"a": 7, "b": 1}
    assert result.needs == {
        "left.ee.qx",
        "left.ee.qy",
        "left.ee.qz",
        "left.ee.qw",
        "left.ee.x",
        "object.x",
    }


@pytest.mark.parametrize(
    "term",
    [
        "ee.x+ee.y",
        "ee.x*",
        "x",
        "ee.x*ee.y",
        "2*ee.x",
        "ee.x/0",
        "ee.rotvec*2",
        "ee.x-ee.y-ee.z",
        "__import__('os')",
        "",
        "ee.x*1e999",
    ],
)
def test_what_is_no_term_is_refused(term):
    with pytest.raises(ConfigError):
        ObsLayout({"a": [term]})


def test_an_observation_without_terms_is_refused():
    with pytest.raises(ConfigError, match="a has no terms"):
        ObsLayout({"a": []})


def test_missing_and_broken_features_are_all_named():
    result = ObsLayout({"a": ["ee.x", "object.x-ee.x"], "b": ["ee.qx", "joint_9.pos"]})
    with pytest.raises(DataError, match=r"missing: joint_9.pos, object.x; not finite: ee.x"):
        result.read({**DOWN, "ee.x": math.nan})
    with pytest.raises(DataError, match=r"not finite: object\.x"):
        result.read({**DOWN, "object.x": math.inf, "joint_9.pos": 0.0})


def test_the_ten_numbers_of_a_simulated_action():
    ours = layout({"": {"kind": "absolute_6d"}})
    assert ours.width == 10
    result = ours.features(np.array([0.5, -0.1, 0.2, 1, 0, 0, 0, -1, 0, -1], np.float32), DOWN)
    np.testing.assert_allclose(pose(result), [0.5, -0.1, 0.2, 1, 0, 0, 0], atol=1e-7)
    assert result[GRIPPER] == 0.0
    np.testing.assert_allclose(
        ours.encode(result), [0.5, -0.1, 0.2, 1, 0, 0, 0, -1, 0, -1], atol=1e-7
    )


@pytest.mark.parametrize(
    ("kind", "value", "opening"),
    [("binary", 0.0, 0.08), ("binary", -0.01, 0.0), ("linear", 0.0, 0.04), ("linear", 3.0, 0.08)],
)
def test_grippers(kind, value, opening):
    ours = layout({"": {"kind": "absolute_quat", "gripper": kind}})
    action = np.array([0.4, 0, 0.3, 2, 0, 0, 0, value], np.float32)
    assert ours.features(action, DOWN)[GRIPPER] == pytest.approx(opening)
    assert ours.opens(action) == (value >= 0)


def test_a_gripper_that_is_not_in_the_action_stays_as_it_is():
    ours = layout({"": {"kind": "relative_rotvec", "gripper": "none"}})
    assert ours.width == 6
    action = np.zeros(6, np.float32)
    assert ours.features(action, {**DOWN, GRIPPER: 0.031})[GRIPPER] == 0.031
    assert ours.opens(action)


def test_steps_are_relative_to_the_previous_target_in_the_base_frame():
    ours = layout({"": {"kind": "relative_rotvec", "gripper": "none"}})
    result = ours.features(np.array([0.01, -0.02, 0.03, 0, 0, math.pi / 2], np.float32), DOWN)
    # A quarter turn about the base's z after half a turn about x: (cos 45, sin 45, 0, 0).
    np.testing.assert_allclose(
        pose(result), [0.41, 0.08, 0.33, math.sqrt(0.5), math.sqrt(0.5), 0, 0], atol=1e-7
    )
    np.testing.assert_allclose(
        ours.encode(result, DOWN), [0.01, -0.02, 0.03, 0, 0, math.pi / 2], atol=1e-6
    )
    with pytest.raises(DataError, match=r"without the feature 'ee.x'"):
        ours.encode(result)


def test_staying_where_an_action_led_repeats_no_relative_step():
    ours = layout(
        {
            "left.": {"kind": "relative_rotvec", "gripper": "binary"},
            "right.": {"kind": "absolute_rotvec", "gripper": "none"},
        }
    )
    action = np.array([0.01, 0, 0, 0, 0, 0.1, -0.7, 0.4, 0.1, 0.3, 3, 0, 0], np.float32)
    held = ours.held(action)
    np.testing.assert_array_equal(held, [*[0.0] * 6, *action[6:]])
    assert action[0] == np.float32(0.01)  # the action itself stays as it was


def test_two_arms_and_a_flag_lie_side_by_side():
    ours = layout(
        {
            "left.": {"kind": "absolute_quat"},
            "right.": {"kind": "absolute_rotvec", "gripper": "none"},
        },
        done=True,
    )
    assert ours.width == 8 + 6 + 1
    previous = {
        prefix + key: value for prefix in ("left.", "right.") for key, value in DOWN.items()
    }
    action = np.array([0.4, 0, 0.3, 1, 0, 0, 0, -1, 0.5, 0, 0.2, math.pi, 0, 0, 1.0], np.float32)
    result = ours.features(action, previous)
    assert result["left.gripper.pos"] == 0.0 and result["right.gripper.pos"] == 0.08
    np.testing.assert_allclose(pose(result, "right."), [0.5, 0, 0.2, 1, 0, 0, 0], atol=1e-6)
    assert ours.done(action) and not ours.opens(action) and ours.opens(action, "right.")
    np.testing.assert_allclose(ours.encode(result, done=True), action, atol=1e-6)
    action[-1] = 0.5
    assert not ours.done(action)


def test_openings_per_arm():
    spec = ActionSpec.model_validate(
        {"arms": {p: {"kind": "absolute_quat"} for p in ("left.", "right.")}}
    )
    wide = Ranges(speed=1, acceleration=1, jerk=1, gripper_width=0.085, reach=1)
    action = np.array([0.4, 0, 0.3, 1, 0, 0, 0, 1] * 2, np.float32)
    result = ActionLayout(spec, {"left.": wide, "right.": RANGES}).features(action, {})
    assert (result["left.gripper.pos"], result["right.gripper.pos"]) == (0.085, 0.08)


@pytest.mark.parametrize(
    "action",
    [
        np.zeros(7),
        np.zeros(9),
        np.zeros((1, 8)),
        np.full(8, np.nan),
        np.array([0.4, 0, 0.3, 0, 0, 0, 0, 1]),
    ],
    ids=["short", "long", "batched", "nan", "no rotation"],
)
def test_broken_actions_are_refused(action):
    with pytest.raises(DataError):
        layout({"": {"kind": "absolute_quat"}}).features(action, DOWN)


def test_columns_that_are_no_rotation_are_refused():
    for six in ([1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, 0]):
        with pytest.raises(DataError, match="rotation of the arm"):
            layout({"": {"kind": "absolute_6d"}}).features(np.array([0.4, 0, 0.3, *six, 1.0]), DOWN)


def test_the_weighted_mean_of_the_last_three_targets():
    ours = layout({"": {"kind": "absolute_quat"}}, smoothing={"targets": 3, "decay": 0.7})
    target, seen = DOWN, []
    for x in (0.0, 0.1, 0.2, 0.3):
        target = ours.features(np.array([x, 0, 0.3, 1, 0, 0, 0, -1], np.float32), target)
        seen.append(target["ee.x"])
    w = np.array([1, 0.7, 0.49])
    np.testing.assert_allclose(
        seen, [0, 0.1 / 1.7, (0.2 + 0.07) / w.sum(), (0.3 + 0.14 + 0.049) / w.sum()], atol=1e-7
    )
    assert target[GRIPPER] == 0.0  # not smoothed
    elsewhere = {**target, "ee.x": 0.9}  # homing, an intervention
    assert ours.features(np.array([0.5, 0, 0.3, 1, 0, 0, 0, -1], np.float32), elsewhere)[
        "ee.x"
    ] == pytest.approx(0.5)


def test_the_mean_of_two_rotations_lies_between_them():
    ours = layout(
        {"": {"kind": "absolute_rotvec", "gripper": "none"}}, smoothing={"targets": 2, "decay": 1.0}
    )
    target = ours.features(np.array([0, 0, 0, 0, 0, 0.2], np.float32), DOWN)
    target = ours.features(np.array([0, 0, 0, 0, 0, 0.6], np.float32), target)
    assert 2 * math.asin(target["ee.qz"]) == pytest.approx(0.4, abs=1e-6)


def test_the_caller_may_change_the_target_that_it_got():
    ours = layout({"": {"kind": "absolute_quat"}}, smoothing={})
    target = ours.features(np.array([0.1, 0, 0.3, 1, 0, 0, 0, -1], np.float32), DOWN)
    target["ee.x"] = 0.7
    assert ours.features(np.array([0.2, 0, 0.3, 1, 0, 0, 0, -1], np.float32), target)[
        "ee.x"
    ] == pytest.approx(0.2)


def test_smoothing_relative_steps_is_refused():
    with pytest.raises(ValidationError, match="counted several times"):
        ActionSpec.model_validate({"arms": {"": {"kind": "relative_rotvec"}}, "smoothing": {}})
