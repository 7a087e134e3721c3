"""Limits: read strictly, hashed, tightened and never loosened."""

import math
import typing
from pathlib import Path

import pytest
import yaml

import zprl.robot
from zprl.errors import ConfigError
from zprl.robot.base import Ranges
from zprl.robot.limits import ArmLimits, Limits, Recoveries, RecoveryBudget, Tighter
from zprl.strict_model import StrictModel

FILE = Path(zprl.robot.__file__).parent / "tasks" / "lift_cube.limits.yaml"
RANGES = Ranges(speed=1.7, acceleration=13.0, jerk=6500.0, gripper_width=0.08, reach=0.855)


TEXT = """
arms:
  "":
    workspace: {low: [0.25, -0.30, 0.012], high: [0.62, 0.30, 0.50]}
    cone: {axis: [0.0, 0.0, -1.0], angle: 0.5}
    max_step: 0.075
    max_rotation_step: 0.15
    translation: {speed: 0.7, acceleration: 6.0, jerk: 120.0}
    rotation: {speed: 2.0, acceleration: 12.0, jerk: 300.0}
    tracking_clip: 0.08
    tracking_clip_rotation: 0.4
    force: 40.0
    torque: 15.0
    measured_speed: 1.2
    gripper: {low: 0.0, high: 0.08}
state_age_s: 0.1
heartbeat_s: {operator: 5.0}
"""


@pytest.fixture
def limits(tmp_path):
    path = tmp_path / "made.yaml"
    path.write_text(TEXT)
    return Limits.load(path)


def arm(**changes):
    return {"arms": {"": changes}}


def test_the_task_file_fits_a_franka():
    Limits.load(FILE).check_against(RANGES)


def test_the_limits_fit_a_franka(limits):
    limits.check_against(RANGES)


def test_an_unknown_key_is_named(tmp_path):
    result = yaml.safe_load(TEXT)
    result["arms"][""]["max_stepp"] = 1.0
    path = tmp_path / "limits.yaml"
    path.write_text(yaml.safe_dump(result))
    with pytest.raises(ConfigError, match="max_stepp"):
        Limits.load(path)


@pytest.mark.parametrize("text", ["", "[1, 2]", "a: [", "\x00", "arms: {}"])
def test_a_broken_file_is_refused(tmp_path, text):
    path = tmp_path / "limits.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError):
        Limits.load(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing\.yaml"):
        Limits.load(tmp_path / "nothing.yaml")


@pytest.mark.parametrize(
    "changes",
    [
        arm(max_step=math.nan),
        arm(max_step=-0.01),
        arm(workspace={"low": [0.7, -0.3, 0.0]}),
        arm(cone={"axis": [0, 0, -2]}),
        arm(planes=[{"normal": [1, 1, 0], "offset": 0}]),
        {"format_version": 2},
        {"nonsense": 1},
    ],
)
def test_impossible_values_are_refused(limits, changes):
    with pytest.raises(ConfigError):
        limits.tightened(changes)


def test_the_digest_follows_the_content_only(limits, tmp_path):
    path = tmp_path / "limits.yaml"
    path.write_text(
        yaml.safe_dump(limits.model_dump(mode="json"), sort_keys=True)
    )  # another order, no comments
    assert Limits.load(path).digest() == limits.digest()
    assert limits.tightened(arm(max_step=0.07)).digest() != limits.digest()
    assert len(limits.digest()) == 64


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"state_age_s": 0.05},
        {"recoveries": {"count": 1, "window_s": 900.0}},
        {"heartbeat_s": {"policy": 1.0}},
        {"heartbeat_s": {"operator": 2.0}},
        arm(max_step=0.05),
        arm(workspace={"low": [0.3, -0.2, 0.02], "high": [0.6, 0.2, 0.4]}),
        arm(keep_out=[{"low": [0.4, 0, 0], "high": [0.5, 0.1, 0.1]}]),
        arm(planes=[{"normal": [0, 0, 1], "offset": 0.02}]),
        arm(cone={"angle": 0.3}),
        arm(translation={"speed": 0.2}),
        arm(gripper={"low": 0.01, "high": 0.07}),
    ],
)
def test_tightening_is_allowed(limits, changes):
    limits.tightened(changes)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"state_age_s": 0.2}, "state_age_s"),
        ({"recoveries": {"count": 4}}, "recoveries.count"),
        ({"recoveries": {"window_s": 60.0}}, "recoveries.window_s"),
        ({"heartbeat_s": {"operator": 6.0}}, "heartbeat_s.operator"),
        ({"altered_chunk_fraction": 0.3}, "altered_chunk_fraction"),
        ({"arms": {"left.": "copy"}}, "another arm"),
        (arm(max_step=0.08), "max_step"),
        (arm(workspace={"low": [0.3, -0.31, 0.02]}), "workspace.low"),
        (arm(workspace={"high": [0.6, 0.3, 0.51]}), "workspace.high"),
        (arm(cone=None), "cone"),
        (arm(cone={"angle": 0.6}), "cone.angle"),
        (arm(cone={"axis": [0, 0, 1]}), "cone.axis"),
        (arm(force=None), "force"),
        (arm(force=41.0), "force"),
        (arm(debounce_ticks=4), "debounce_ticks"),
        (arm(translation={"jerk": 121.0}), "translation.jerk"),
        (arm(gripper={"high": 0.09}), "gripper.high"),
    ],
)
def test_loosening_is_refused_by_name(limits, changes, name):
    if changes.get("arms", {}).get("left.") == "copy":
        changes = {"arms": {"left.": limits.arms[""].model_dump()}}
    with pytest.raises(ConfigError, match=name.replace(".", r"\.")):
        limits.tightened(changes)


def test_a_keep_out_stays(limits):
    box = {"low": [0.4, 0, 0], "high": [0.5, 0.1, 0.1]}
    one = limits.tightened(arm(keep_out=[box]))
    one.tightened(arm(keep_out=[{"low": [0, 0, 0], "high": [1, 1, 0.1]}, box]))
    for gone in ([], [{**box, "high": [0.45, 0.1, 0.1]}]):
        with pytest.raises(ConfigError, match="keep_out"):
            one.tightened(arm(keep_out=gone))


def test_watching_the_force_may_begin_and_not_end(limits):
    data = limits.model_dump()
    data["arms"][""]["force"] = data["arms"][""]["cone"] = None
    loose = Limits.model_validate(data)
    tight = loose.tightened(arm(force=10.0, cone={"axis": [0, 0, -1], "angle": 1.0}))
    with pytest.raises(ConfigError, match="force"):
        tight.tightened(arm(force=None))


def test_heartbeats_stay_watched(limits):
    fewer = limits.model_copy(update={"heartbeat_s": {}})
    from zprl.robot.limits import _loosened

    assert list(_loosened(limits, fewer)) == ["heartbeat_s.operator"]


def test_every_field_says_what_is_tighter():
    """A new field without a rule would be compared as fixed: harmless, and surely not meant."""
    seen, queue = set(), [Limits]
    while queue:
        model = queue.pop()
        seen.add(model)
        for name, field in model.model_fields.items():
            inner = {field.annotation, *typing.get_args(field.annotation)}
            sections = [t for t in inner if isinstance(t, type) and issubclass(t, StrictModel)]
            queue += [s for s in sections if s not in seen]
            assert (
                sections
                or any(isinstance(m, Tighter) for m in field.metadata)
                or name == "heartbeat_s"
            ), f"{model.__name__}.{name}"
    assert ArmLimits in seen


@pytest.mark.parametrize(
    ("ranges", "name"),
    [
        ({"speed": 0.5}, "speed"),
        ({"acceleration": 5.0}, "acceleration"),
        ({"jerk": 100.0}, "jerk"),
        ({"gripper_width": 0.07}, "gripper"),
        ({"reach": 0.84}, "workspace"),  # sqrt(0.62^2 + 0.30^2 + 0.50^2) = 0.851
    ],
)
def test_limits_beyond_the_machine_are_refused(limits, ranges, name):
    with pytest.raises(ConfigError, match=name):
        limits.check_against(Ranges(**{**RANGES.__dict__, **ranges}))


def test_an_arm_without_limits_is_named(limits):
    with pytest.raises(ConfigError, match=r"left\."):
        limits.check_against(RANGES, "left.")


def test_recoveries_are_counted_in_a_sliding_window():
    budget = RecoveryBudget(Recoveries(count=2, window_s=10.0))
    budget.spend(0.0)
    assert budget.may_recover(1.0)
    budget.spend(6.0)
    assert not budget.may_recover(9.9)
    assert budget.may_recover(10.0)  # the one at 0 has left the window
    budget.spend(10.0)
    assert not budget.may_recover(15.9)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"heartbeat_s": {}}, "operator"),
        ({"heartbeat_s": {"camera": 1.0}}, "operator"),
        ({"heartbeat_s": {"operater": 5.0}}, "heartbeat_s"),
        ({"heartbeat_s": {"operator": 3600.0}}, "heartbeat_s.operator"),
        ({"recoveries": {"count": 10**9}}, "recoveries.count"),
        ({"recoveries": {"count": 3, "window_s": 0.001}}, "recoveries"),
        ({"state_age_s": 1e9}, "state_age_s"),
        ({"sensor_age_s": 1e9}, "sensor_age_s"),
        ({"command_age_s": 1e9}, "command_age_s"),
        (arm(force=1e9), "force"),
        (arm(torque=1e9), "torque"),
        (arm(debounce_ticks=1000), "debounce_ticks"),
        (arm(max_step=50.0), "max_step"),
        (arm(max_rotation_step=7.0), "max_rotation_step"),
        (arm(tracking_clip=5.0), "tracking_clip"),
        (arm(measured_speed=1e9), "measured_speed"),
        (arm(rotation={"speed": 1e9, "acceleration": 12.0, "jerk": 300.0}), "rotation.speed"),
    ],
)
def test_a_limit_that_limits_nothing_is_refused_by_name(tmp_path, changes, name):
    result = yaml.safe_load(TEXT)
    result["arms"][""] |= changes.get("arms", {}).get("", {})
    result |= {key: value for key, value in changes.items() if key != "arms"}
    (tmp_path / "limits.yaml").write_text(yaml.safe_dump(result))
    with pytest.raises(ConfigError, match=name.replace(".", r"\.")):
        Limits.load(tmp_path / "limits.yaml")


def test_the_operator_who_can_stop_the_arm_is_watched_where_the_file_says_nothing(tmp_path):
    path = tmp_path / "limits.yaml"
    path.write_text(TEXT.replace("heartbeat_s: {operator: 5.0}\n", ""))
    assert Limits.load(path).heartbeat_s == {"operator": 5.0}


@pytest.mark.parametrize("key", ["force: 40.0", "max_step: 0.075"])
def test_a_limit_given_twice_is_refused_with_its_line(tmp_path, key):
    path = tmp_path / "limits.yaml"
    path.write_text(TEXT.replace(f"    {key}\n", f"    {key}\n    {key.split(':')[0]}: 0.5\n"))
    line = next(
        n for n, text in enumerate(path.read_text().splitlines(), 1) if text.endswith(": 0.5")
    )
    with pytest.raises(ConfigError, match=rf"line {line} .*'{key.split(':')[0]}' is given twice"):
        Limits.load(path)


DIGESTS = {
    "flip_egg": "0ab27e9b87e0a09691c9a6d5a904209534a796d590c48e359f3a25e8c8634530",
    "insert_bills": "7ad7d2a81968a34857b95d6c73159e9e0cfafac04c80f222412bf180766029fd",
    "lift_cube": "bc8e61ddef506d6f7b3a53ee4075a25d914eb9094f578f25bad622454e4b8fff",
    "open_box": "15cd4f37c013ebb193eaa9e2bc8d4bd4a0a2edac7fd02fd0387305d44a06fa71",
    "place_orange": "b0355ee5b572eab54f4b638dd776b1d134828a44843631d636b40b73ca870d0e",
}


@pytest.mark.parametrize("name", DIGESTS)
def test_the_limits_that_ship_keep_the_digests_that_sessions_have_stored(name):
    assert Limits.load(FILE.with_name(f"{name}.limits.yaml")).digest() == DIGESTS[name]


@pytest.mark.parametrize(
    ("prefix", "named"),
    [("", "arms.translation.speed"), ("left.", "arms.left.translation.speed")],
)
def test_a_limit_s_name_has_one_dot_between_its_parts(limits, prefix, named):
    value = limits.model_dump()
    value["arms"] = {prefix: next(iter(value["arms"].values()))}
    found = Limits.model_validate(value)
    change = {"arms": {prefix: {"translation": {"speed": 1e9}}}}
    with pytest.raises(ConfigError, match=rf"^(changed limits: )?{named}\b"):
        found.tightened(change)
    change["arms"][prefix]["translation"]["speed"] = "fast"
    with pytest.raises(ConfigError, match=rf"^changed limits: {named}:"):
        found.tightened(change)
