"""The filter's order and bounds by hand-made cases; the monitor's thresholds."""

import json
import math

import numpy as np
import pytest

from zprl.errors import DataError
from zprl.robot.base import WRENCH, Health, Mode, Pose, RobotError, StopLevel
from zprl.robot.events import Event, Level
from zprl.robot.limits import Limits
from zprl.robot.safety import Monitor, SafetyFilter

DOWN = (1.0, 0.0, 0.0, 0.0)
PERIOD = 0.02
START = (0.4, 0.0, 0.3)
ARM = {
    "workspace": {"low": [0.2, -0.3, 0.0], "high": [0.7, 0.3, 0.6]},
    "cone": {"axis": [0, 0, -1], "angle": 0.5},
    "max_step": 0.05,
    "max_rotation_step": 0.2,
    "translation": {"speed": 0.5, "acceleration": 4.0, "jerk": 80.0},
    "rotation": {"speed": 1.5, "acceleration": 10.0, "jerk": 200.0},
    "tracking_clip": 0.03,
    "tracking_clip_rotation": 0.2,
    "force": 30.0,
    "torque": 5.0,
    "debounce_ticks": 3,
    "measured_speed": 1.0,
    "gripper": {"high": 0.08},
}


def limits(arm=None, **session):
    return Limits.model_validate({"arms": {"": {**ARM, **(arm or {})}}, **session})


def pose(position=START, quaternion=DOWN):
    return Pose(np.array(position, float), np.array(quaternion, float))


def tilted(angle):
    """The tool pointing down, tilted about y."""
    return (math.cos(angle / 2), 0.0, -math.sin(angle / 2), 0.0)


def made(ticks_per_action=1, **arm):
    result = SafetyFilter(limits(arm).arms[""], PERIOD, ticks_per_action)
    result.reset(pose(), 0.04)
    return result


def play(safety, target, ticks, gripper=0.04):
    """An arm that is always where it was sent; everything sent and all kinds reported."""
    sent, kinds = [pose()], set()
    for _ in range(ticks):
        result = safety.apply(target, gripper, sent[-1])
        sent.append(result.pose)
        kinds |= {event.kind for event in result.events}
    return sent, kinds


def test_a_target_inside_is_reached_without_an_event():
    sent, kinds = play(made(), pose((0.43, 0.02, 0.28)), 100)
    assert np.allclose(sent[-1].position, (0.43, 0.02, 0.28), atol=1e-9)
    assert not kinds


def test_it_starts_where_the_arm_is():
    result = made().apply(pose(), 0.04, pose())
    assert np.allclose(result.pose.position, START, atol=1e-12)
    assert np.allclose(np.abs(result.pose.quaternion @ np.array(DOWN)), 1.0)


def test_outside_the_box_becomes_the_nearest_point_of_it():
    sent, kinds = play(made(), pose((0.9, 0.0, 0.3)), 200)
    assert np.allclose(sent[-1].position, (0.7, 0.0, 0.3), atol=2e-5)
    assert {"workspace", "step"} <= kinds
    assert all(p.position[0] <= 0.7 for p in sent)


def test_a_keep_out_is_left_by_its_nearest_face():
    safety = made(keep_out=[{"low": [0.5, -0.1, 0.0], "high": [0.6, 0.1, 0.2]}])
    sent, kinds = play(safety, pose((0.55, 0.0, 0.19)), 300)
    assert "keep_out" in kinds
    assert np.allclose(sent[-1].position, (0.55, 0.0, 0.2), atol=2e-5)


def test_the_way_into_a_keep_out_is_stopped_before_it():
    safety = made(
        keep_out=[{"low": [0.45, -0.3, 0.0], "high": [0.55, 0.3, 0.6]}]
    )  # a wall; the target is behind it
    sent, kinds = play(safety, pose((0.65, 0.0, 0.3)), 300)
    assert all(p.position[0] <= 0.45 + 1e-9 for p in sent)
    assert "boundary" in kinds
    assert safety.resting


def test_a_plane_keeps_its_side():
    safety = made(planes=[{"normal": [0, 0, 1], "offset": 0.1}])
    sent, kinds = play(safety, pose((0.4, 0.0, 0.02)), 300)
    assert math.isclose(sent[-1].position[2], 0.1, abs_tol=2e-5)
    assert all(p.position[2] >= 0.1 for p in sent)
    assert "keep_out" in kinds


def test_the_cone_bounds_the_tilt():
    sent, kinds = play(made(), pose(quaternion=tilted(1.2)), 300)
    z = [_axis(p.quaternion) for p in sent]
    tilts = [math.acos(min(1.0, -v[2])) for v in z]
    assert math.isclose(tilts[-1], 0.5, abs_tol=1e-3)
    assert max(tilts) <= 0.5 + 1e-6
    assert {"cone", "rotation_step"} <= kinds


def _axis(q):
    x, y, z, w = q
    return np.array([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)])


def test_a_step_is_cut_per_action_however_many_ticks_an_action_has():
    """One action demands 0.2 m, and max_step is 0.05 m.

    After the first tick at most 0.05 m, after one more action's ticks 0.10 m.
    """
    for ticks in (1, 5):
        safety = made(ticks_per_action=ticks)
        first = safety.apply(pose((0.6, 0.0, 0.3)), 0.04, pose())
        assert [event.kind for event in first.events] == ["step"]
        assert math.isclose(first.events[0].value, 0.2)
        assert math.isclose(first.events[0].limit, 0.05)
        assert math.isclose(safety._target[0][0], 0.45)
        for _ in range(ticks):
            safety.apply(pose((0.6, 0.0, 0.3)), 0.04, pose())
        assert math.isclose(safety._target[0][0], 0.50)


def test_a_lasting_clip_is_reported_once_and_marked_always():
    safety = made()
    result = [safety.apply(pose((0.69, 0.0, 0.9)), 0.04, pose()) for _ in range(3)]
    assert [sum(e.kind == "workspace" for e in f.events) for f in result] == [1, 0, 0]
    assert all(f.clipped for f in result)


@pytest.mark.parametrize(
    ("position", "quaternion", "gripper"),
    [
        ((math.nan, 0, 0.3), DOWN, 0.04),
        ((math.inf, 0, 0.3), DOWN, 0.04),
        (START, (math.nan, 0, 0, 0), 0.04),
        (START, (0, 0, 0, 0), 0.04),
        (START, (1e300, 1e300, 0, 0), 0.04),
        (START, DOWN, math.nan),
    ],
)
def test_what_is_no_pose_is_refused_and_the_last_good_one_held(position, quaternion, gripper):
    safety = made()
    sent, _ = play(safety, pose((0.42, 0.0, 0.3)), 60)
    result = safety.apply(pose(position, quaternion), gripper, sent[-1])
    (event,) = result.events
    assert (event.kind, event.level, event.level.stop) == (
        "not_finite",
        Level.SOFT_STOP,
        StopLevel.SOFT,
    )
    assert np.allclose(result.pose.position, (0.42, 0.0, 0.3), atol=1e-9)
    assert result.gripper == 0.04


def test_the_force_against_an_obstacle_is_bounded():
    """The arm cannot move: what is sent stays within the clip.

    It goes on from there when the way is free.
    """
    safety, fixed = made(), pose()
    kinds = set()
    for _ in range(200):
        result = safety.apply(pose((0.6, 0.0, 0.3)), 0.04, fixed)
        kinds |= {event.kind for event in result.events}
        assert np.linalg.norm(result.pose.position - START) <= 0.03 + 1e-9
    assert "tracking" in kinds
    free = safety.apply(pose((0.6, 0.0, 0.3)), 0.04, result.pose)  # no speed was stored up
    assert (
        np.linalg.norm(free.pose.position - result.pose.position) <= 2e-4
    )  # from rest: jerk * PERIOD^3 / 6 = 1.1e-4 m


def test_the_torque_against_an_obstacle_is_bounded():
    safety = made()
    for _ in range(100):
        result = safety.apply(pose(quaternion=tilted(0.45)), 0.04, pose())
    angle = 2 * math.acos(min(1.0, abs(float(result.pose.quaternion @ np.array(DOWN)))))
    assert math.isclose(angle, 0.2, abs_tol=1e-3)
    assert result.clipped


def test_an_arm_pushed_out_of_the_workspace_is_reported():
    safety = made()
    result = safety.apply(pose(), 0.04, pose((0.9, 0.0, 0.3)))
    assert max(event.level for event in result.events) == Level.SOFT_STOP
    assert result.pose.position[0] <= 0.7


def test_a_measured_pose_that_is_not_finite_stops():
    result = made().apply(pose(), 0.04, pose((math.nan, 0, 0)))
    assert [(e.kind, e.level) for e in result.events] == [("state_not_finite", Level.SOFT_STOP)]
    assert np.isfinite(result.pose.position).all()


def test_a_soft_stop_comes_to_rest_within_the_limits_and_stays():
    safety = made()
    sent, _ = play(safety, pose((0.65, 0.2, 0.5)), 12)
    assert not safety.resting
    while not safety.resting:
        sent.append(safety.stop_step(sent[-1]).pose)
        assert len(sent) < 60
    there = sent[-1].position
    for _ in range(20):
        sent.append(safety.hold(sent[-1]).pose)
    assert np.allclose(sent[-1].position, there, atol=1e-6)
    _check_bounds([p.position for p in sent], ARM["translation"])


def _check_bounds(positions, motion):
    for order, name in enumerate(("speed", "acceleration", "jerk"), start=1):
        worst = (
            np.linalg.norm(np.diff(np.array(positions), order, axis=0), axis=1).max()
            / PERIOD**order
        )
        assert worst <= motion[name] * 1.001, name


def test_after_an_intervention_it_goes_on_from_where_the_arm_is():
    safety = made()
    play(safety, pose((0.6, 0.2, 0.5)), 15)
    moved = pose((0.3, -0.2, 0.1), tilted(0.3))
    safety.reset(moved, 0.02)
    result = safety.hold(moved)
    assert np.allclose(result.pose.position, moved.position, atol=1e-9)
    assert np.allclose(result.pose.quaternion, moved.quaternion, atol=1e-9)
    assert safety.resting


def test_it_does_not_start_far_outside():
    safety = made()
    with pytest.raises(RobotError, match="outside its workspace"):
        safety.reset(pose((0.8, 0.0, 0.3)), 0.04)
    with pytest.raises(RobotError, match="cone"):
        safety.reset(pose(quaternion=tilted(1.0)), 0.04)
    with pytest.raises(RobotError, match="not finite"):
        safety.reset(pose((math.nan, 0.0, 0.3)), 0.04)
    safety.reset(pose((0.71, 0.0, 0.3)), 0.04)  # 1 cm: less than the tracking clip
    assert safety.hold().pose.position[0] <= 0.7


def test_without_a_reset_nothing_is_sent():
    with pytest.raises(RobotError, match="reset"):
        SafetyFilter(limits().arms[""], PERIOD).apply(pose(), 0.04, pose())


def test_the_gripper_is_clipped():
    result = made().apply(pose(), 0.3, pose())
    assert result.gripper == 0.08
    assert [event.kind for event in result.events] == ["gripper"]


# -- events ----------------------------------------------------------------------------------------


def test_an_event_survives_json():
    event = Event("wrench", Level.HARD_STOP, "too much", 31.5, 30.0, 1.25, recoverable=True)
    assert Event.from_dict(json.loads(json.dumps(event.as_dict(), allow_nan=False))) == event
    assert Event("speed", Level.NOTE, "?", math.nan).as_dict()["value"] is None


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"level": "worse"},
        {"value": "1"},
        {"value": math.inf},
        {"kind": 3},
        {"reason": "x" * 501},
        {"stamp": True},
    ],
)
def test_what_is_no_event_is_refused(broken):
    good = Event("wrench", Level.CLIP, "too much").as_dict()
    with pytest.raises(DataError):
        Event.from_dict({**good, **broken} if broken else {})


# -- monitor ---------------------------------------------------------------------------------------


def state(x=0.4, force=(0.0, 0.0, 0.0), torque=(0.0, 0.0, 0.0)):
    names = ("ee.x", "ee.y", "ee.z", "ee.fx", "ee.fy", "ee.fz", "ee.tx", "ee.ty", "ee.tz")
    return dict(zip(names, (x, 0.0, 0.3, *force, *torque), strict=True))


def kinds(events):
    return [event.kind for event in events]


def test_a_wrench_stops_after_so_many_new_states_and_tells_its_peak():
    monitor = Monitor(limits())
    for tick, force in enumerate((31.0, 40.0)):
        assert monitor.check(state(force=(force, 0, 0)), tick * 0.01, tick * 0.01) == []
        assert (
            monitor.check(state(force=(99.0, 0, 0)), tick * 0.01, tick * 0.01) == []
        )  # the same state again counts once
    (event,) = monitor.check(state(force=(0, 31, 0)), 0.02, 0.02)
    assert (event.kind, event.level, event.value, event.limit) == (
        "wrench",
        Level.HARD_STOP,
        40.0,
        30.0,
    )
    assert monitor.check(state(force=(0, 31, 0)), 0.03, 0.03) == []  # reported before
    monitor.restart()
    kinds_of_checks = [
        kinds(monitor.check(state(force=(0, 31, 0)), 0.04 + i / 100, 0.04 + i / 100))
        for i in range(3)
    ]
    assert kinds_of_checks == [[], [], ["wrench"]]


def test_only_an_arm_that_nobody_pushes_is_calm():
    monitor = Monitor(limits())
    assert monitor.calm(state(force=(0, 30, 0)))
    assert not monitor.calm(state(force=(0, 30.1, 0)))
    assert not monitor.calm(state(force=(math.nan, 0, 0)))
    assert monitor.calm(
        {key: value for key, value in state().items() if key not in WRENCH}
    )  # it says nothing of forces


def test_two_states_over_the_threshold_are_a_bump():
    monitor = Monitor(limits())
    forces = (31, 31, 0, 31, 31, 0)
    assert not any(
        monitor.check(state(force=(f, 0, 0)), i * 0.01, i * 0.01) for i, f in enumerate(forces)
    )


def test_a_torque_stops():
    monitor = Monitor(limits())
    events = [
        e for i in range(3) for e in monitor.check(state(torque=(0, 0, -6)), i * 0.01, i * 0.01)
    ]
    assert kinds(events) == ["wrench"]
    assert "torque" in events[0].reason


def test_an_arm_that_feels_nothing_is_reported_once():
    monitor = Monitor(limits())
    blind = {k: v for k, v in state().items() if k in ("ee.x", "ee.y", "ee.z")}
    events = [e for i in range(3) for e in monitor.check(blind, i * 0.01, i * 0.01)]
    assert [(e.kind, e.level) for e in events] == [("no_wrench", Level.NOTE)]


def test_measured_speed():
    """0.9 m/s is below the limit of 1.0, 1.1 m/s above; measured over at least 20 ms."""
    for speed, expected in ((0.9, []), (1.1, ["speed"])):
        monitor = Monitor(limits())
        events = [
            e
            for i in range(4)
            for e in monitor.check(state(x=0.4 + speed * i * 0.02), i * 0.02, i * 0.02)
        ]
        assert kinds(events) == expected
    noisy = Monitor(limits())  # 2 mm of noise at 1 kHz is no speed
    assert not [
        e
        for i in range(100)
        for e in noisy.check(state(x=0.4 + 0.002 * (i % 2)), i * 0.001, i * 0.001)
    ]


def test_staleness_is_the_hosts_time_since_the_stamp_moved():
    monitor = Monitor(limits(state_age_s=0.05))
    assert monitor.check(state(), 5.0, 100.0) == []
    assert monitor.check(state(), 5.0, 100.05) == []
    (event,) = monitor.check(state(), 5.0, 100.06)
    assert (event.kind, event.level) == ("state_stale", Level.SOFT_STOP)
    assert math.isclose(event.value, 0.06, rel_tol=1e-6)
    assert monitor.check(state(), 5.0, 100.2) == []
    assert monitor.check(state(), 5.1, 100.3) == []
    assert kinds(monitor.check(state(), 5.1, 100.4)) == ["state_stale"]


def test_a_state_that_is_not_finite_stops():
    assert kinds(Monitor(limits()).check(state(x=math.nan), 0.0, 0.0)) == ["state_not_finite"]


def test_health():
    monitor = Monitor(limits())
    assert monitor.check(state(), 0.0, 0.0, Health(Mode.MOVING)) == []
    (reflex,) = monitor.check(state(), 0.01, 0.01, Health(Mode.REFLEX, ("cartesian_reflex",)))
    assert reflex.recoverable
    assert "cartesian_reflex" in reflex.reason
    monitor.restart()
    (user,) = monitor.check(state(), 0.02, 0.02, Health(Mode.USER_STOPPED))
    assert not user.recoverable


def test_the_estop_stays_until_it_is_released():
    monitor = Monitor(limits())
    monitor.press_estop("pedal")
    monitor.restart()
    for i in range(3):
        (event,) = monitor.check(state(), i * 0.01, i * 0.01)
        assert event.level is Level.HARD_STOP
    assert not monitor.may_recover(0.0)
    monitor.release_estop()
    assert monitor.check(state(), 0.05, 0.05) == []


def test_heartbeats():
    monitor = Monitor(limits(heartbeat_s={"operator": 5.0, "camera": 0.2}))
    monitor.beat("camera/wrist", 0.0)
    monitor.beat("policy", 0.0)  # nobody watches it
    assert monitor.check(state(), 0.01, 0.2) == []
    (event,) = monitor.check(state(), 0.02, 0.21)
    assert event.kind == "heartbeat"
    assert "camera/wrist" in event.reason
    monitor.forget("camera/wrist")
    assert monitor.check(state(), 0.03, 0.22) == []


def test_late_chunks_hold_then_stop():
    monitor = Monitor(limits(command_age_s=0.5))
    assert monitor.late(0.0) is None
    assert monitor.late(0.5).level is Level.HOLD
    assert monitor.late(0.51).level is Level.SOFT_STOP


def test_recoveries_are_bounded():
    monitor = Monitor(limits(recoveries={"count": 1, "window_s": 10.0}))
    assert monitor.may_recover(0.0)
    monitor.recovered(0.0)
    assert not monitor.may_recover(9.0)
    assert monitor.may_recover(10.0)
