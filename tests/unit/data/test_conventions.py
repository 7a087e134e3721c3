"""Conversions at the door: rotations, deltas, shifts and rates by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from tests.factories import OBS_KEYS, make_episode, write_demo_file
from zprl import config
from zprl.config import ROTATION_WIDTHS, ActionPart, Conventions, ObservationPart
from zprl.data import rotations
from zprl.data.conventions import convert
from zprl.data.episode import Episode
from zprl.data.findings import Finding
from zprl.data.ingest import read_all
from zprl.data.resample import events, places, resample
from zprl.data.sources import Source, find_sources
from zprl.data.validation import ValidationLimits
from zprl.errors import ConfigError

HALF = np.sqrt(0.5)
FORMS = tuple(ROTATION_WIDTHS)

# A quarter turn about z takes x to y and y to -x.
QUARTER = {
    "quaternion_xyzw": [0, 0, HALF, HALF],
    "quaternion_wxyz": [HALF, 0, 0, HALF],
    "rotation_vector": [0, 0, np.pi / 2],
    "euler_xyz": [0, 0, np.pi / 2],
    "matrix": [0, -1, 0, 1, 0, 0, 0, 0, 1],
    "rotation_6d": [0, 1, 0, -1, 0, 0],
}


def episode(length: int = 4, rate_hz: float | None = None, **obs: np.ndarray) -> Episode:
    """Actions count: frame t has (10 t, 10 t + 1, 10 t + 2)."""
    flags = np.zeros(length, np.float32)
    flags[-1] = 1
    actions = (10 * np.arange(length)[:, None] + np.arange(3)).astype(np.float32)
    obs = {key: np.asarray(value, np.float32) for key, value in obs.items()} or {
        "state": actions.copy()
    }
    return Episode("a/demo_0", obs, actions, flags, flags > 0, True, rate_hz=rate_hz)


def converted(
    conventions: Conventions, keys: tuple[str, ...], given_episode: Episode
) -> Episode | Finding:
    conversion = convert(conventions, keys)
    (item,) = conversion(Source(Path("a.hdf5"), None), given_episode)  # type: ignore[arg-type]
    return item


def good(*args) -> Episode:
    item = converted(*args)
    assert isinstance(item, Episode), str(item)
    return item


# -- rotations -------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", FORMS)
@pytest.mark.parametrize("target", FORMS)
def test_a_quarter_turn_about_z_in_every_form(source: str, target: str) -> None:
    turn = rotations.read(np.array([QUARTER[source]]), source)
    np.testing.assert_allclose(rotations.write(turn, target), [QUARTER[target]], atol=1e-12)


def test_euler_angles_turn_about_fixed_axes() -> None:
    # First a quarter about x (y becomes z), then a quarter about the fixed z: y ends at z, z ends
    # at -y turned to x.
    matrix = rotations.write(
        rotations.read(np.array([[np.pi / 2, 0, np.pi / 2]]), "euler_xyz"), "matrix"
    ).reshape(3, 3)
    np.testing.assert_allclose(matrix @ [0, 1, 0], [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(matrix @ [0, 0, 1], [1, 0, 0], atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.floats(-1, 1), min_size=4, max_size=4), min_size=1, max_size=5),
    st.sampled_from(FORMS),
    st.sampled_from(FORMS),
)
def test_round_trips(numbers: list[list[float]], first: str, second: str) -> None:
    quaternions = np.array(numbers)
    quaternions[np.linalg.norm(quaternions, axis=1) < 0.1] = [0.5, 0.5, 0.5, 0.5]
    start = Rotation.from_quat(quaternions)
    there = rotations.write(start, first)
    assert there.shape == (len(numbers), ROTATION_WIDTHS[first])
    back = rotations.read(rotations.write(rotations.read(there, first), second), second)
    assert (
        start.inv() * back
    ).magnitude().max() < 1e-5  # euler angles lose half the digits near 90 degrees of pitch


def test_signs_are_continuous_and_begin_as_the_robots_do() -> None:
    angles = np.linspace(0.9 * np.pi, 1.1 * np.pi, 5)  # w passes 0: the tool points down
    quaternions = np.stack([np.sin(angles / 2), 0 * angles, 0 * angles, np.cos(angles / 2)], 1)
    flipped = quaternions * [[-1], [1], [-1], [-1], [1]]
    np.testing.assert_allclose(rotations.continuous(flipped), quaternions)


@pytest.mark.parametrize(
    ("form", "values", "message"),
    [
        ("quaternion_xyzw", [0, 0, 0, 1.5], "not a unit quaternion (off by 0.500)"),
        ("quaternion_xyzw", [0, 0, 0, 0], "not a unit quaternion"),
        ("rotation_6d", [1, 0, 0, 1, 0, 0], "6-D"),
        ("rotation_6d", [0, 0, 0, 0, 0, 0], "6-D"),
        ("matrix", [1, 0, 0, 0, 1, 0, 0, 0, -1], "reflection"),
        ("matrix", [1, 0, 0, 0, 1, 0, 0, 0, 2], "rotation matrix"),
    ],
)
def test_what_is_no_rotation_is_refused(form: str, values: list[float], message: str) -> None:
    with pytest.raises(rotations.NotARotationError) as caught:
        rotations.read(np.array([QUARTER[form], values], float), form)
    assert message in str(caught.value)
    assert caught.value.frame == 1


# -- observations and actions ----------------------------------------------------------------------


def test_columns_units_and_orders() -> None:
    state = np.tile([1000.0, 2000.0, 3000.0, HALF, 0, 0, HALF, 0.5], (4, 1))
    images = np.zeros((4, 2, 2, 3), np.uint8)
    wanted = Conventions(
        observations={
            "robot0_eef_quat": ObservationPart(
                key="state", columns=(3, 4, 5, 6), rotation="quaternion_wxyz"
            ),
            "robot0_eef_pos": ObservationPart(key="state", columns=(0, 1, 2), scale=0.001),
            "wrist_image": ObservationPart(key="images.wrist"),
        },
        actions=(ActionPart(columns=(2, 0)), ActionPart(columns=(1,), scale=-1, offset=1)),
    )
    keys = ("robot0_eef_pos", "robot0_eef_quat", "wrist_image", "other")
    conversion = convert(wanted, keys)
    assert conversion.inputs == ("state", "images.wrist", "other")
    source = episode(state=state, other=np.ones((4, 1)))
    source.obs["images.wrist"] = images
    made = good(wanted, keys, source)
    assert tuple(made.obs) == keys
    np.testing.assert_allclose(made.obs["robot0_eef_pos"][0], [1, 2, 3])
    np.testing.assert_allclose(made.obs["robot0_eef_quat"][0], [0, 0, HALF, HALF], rtol=1e-6)
    assert np.shares_memory(made.obs["wrist_image"], images)
    np.testing.assert_array_equal(made.actions[:2], [[2, 0, 0], [12, 10, -10]])
    assert {
        value.dtype
        for value in (made.actions, made.obs["robot0_eef_pos"], made.obs["robot0_eef_quat"])
    } == {np.dtype(np.float32)}


def test_deltas_become_absolute_in_the_base_frame() -> None:
    # The tool is a quarter turn about z; the delta is a quarter turn about the fixed x, recorded as
    # robosuite does: pi in units of 0.5 rad.
    observed = episode(pos=np.full((4, 3), 0.5), quat=np.tile([0, 0, HALF, HALF], (4, 1)))
    actions = np.tile([1.0, 0, -1, np.pi, 0, 0, 1], (4, 1)).astype(np.float32)
    source = Episode(observed.name, observed.obs, actions, observed.rewards, observed.dones, True)
    wanted = Conventions(
        actions=(
            ActionPart(columns=(0, 1, 2), scale=0.05, delta=True, of="pos"),
            ActionPart(
                columns=(3, 4, 5), scale=0.5, rotation="rotation_vector", delta=True, of="quat"
            ),
            ActionPart(columns=(6,)),
        )
    )
    made = good(wanted, ("pos",), source)
    assert tuple(made.obs) == ("pos",)  # quat was read for the deltas only
    assert convert(wanted, ("pos",)).inputs == ("pos", "quat")
    # R = Rx Rz: x goes to y by Rz, then to z by Rx; y goes to -x, which Rx leaves.
    np.testing.assert_allclose(made.actions[2], [0.55, 0.5, 0.45, 0, 0, 1, -1, 0, 0, 1], atol=1e-6)


def test_a_delta_of_an_observation_in_another_form() -> None:
    source = episode(matrix=np.tile(QUARTER["matrix"], (4, 1)))
    wanted = Conventions(
        observations={"six": ObservationPart(key="matrix", rotation="matrix", to="rotation_6d")},
        actions=(
            ActionPart(
                columns=(0, 1, 2), scale=0, rotation="rotation_vector", delta=True, of="six"
            ),
        ),
    )
    np.testing.assert_allclose(
        good(wanted, ("six",), source).actions, np.tile(QUARTER["rotation_6d"], (4, 1)), atol=1e-6
    )


@pytest.mark.parametrize(
    ("late", "seen", "done"),
    [
        (1, [0, 1, 2], [10, 20, 30]),
        (-1, [1, 2, 3], [0, 10, 20]),
        (0, [0, 1, 2, 3], [0, 10, 20, 30]),
    ],
)
def test_shift(late: int, seen: list[int], done: list[int]) -> None:
    made = good(Conventions(action_shift=late), ("frame",), episode(frame=np.arange(4)[:, None]))
    assert made.obs["frame"][:, 0].tolist() == seen
    assert made.actions[:, 0].tolist() == done
    assert made.rewards.tolist() == [0.0] * (len(seen) - 1) + [
        1.0
    ]  # the success stays the last frame's
    assert made.dones.tolist() == [False] * (len(seen) - 1) + [True]


# -- another rate ----------------------------------------------------------------------------------


def test_twice_the_rate_on_a_line_and_on_a_turn() -> None:
    angles = np.array([0, 0.2, 0.4])
    quaternions = np.stack([0 * angles, 0 * angles, np.sin(angles / 2), np.cos(angles / 2)], 1)
    source = episode(
        3,
        10.0,
        pos=[[0.0], [1.0], [3.0]],
        eef_quat=quaternions,
        gripper_command=[[1.0], [1.0], [-1.0]],
    )
    source.obs["image"] = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones(
        (1, 2, 2, 3), np.uint8
    )
    wanted = Conventions(
        actions=(ActionPart(columns=(0, 1)), ActionPart(columns=(2,))), resample_hz=20
    )
    made = good(wanted, tuple(source.obs), source)
    assert made.rate_hz == 20
    assert made.length == 5
    np.testing.assert_allclose(made.obs["pos"][:, 0], [0, 0.5, 1, 2, 3])
    np.testing.assert_allclose(
        2 * np.arcsin(made.obs["eef_quat"][:, 2]), [0, 0.1, 0.2, 0.3, 0.4], atol=1e-6
    )
    np.testing.assert_allclose(made.actions[:, 0], [0, 5, 10, 15, 20])
    assert made.actions[:, 2].tolist() == [
        2,
        12,
        12,
        22,
        22,
    ]  # alone: a gripper, from the nearest frame
    assert made.obs["gripper_command"][:, 0].tolist() == [1, 1, 1, -1, -1]
    assert made.obs["image"][:, 0, 0, 0].tolist() == [0, 1, 1, 2, 2]
    assert made.obs["image"].dtype == np.uint8
    assert made.rewards.tolist() == [0, 0, 0, 0, 1]


def test_half_the_rate_keeps_the_success() -> None:
    wanted = Conventions(actions=(ActionPart(),), resample_hz=5)
    made = good(
        wanted, ("state",), episode(4, 10.0)
    )  # frames 0 and 2 stay; the success of frame 3 is frame 2's
    assert made.obs["state"][:, 0].tolist() == [0, 20]
    assert made.rewards.tolist() == [0, 1]
    assert made.dones.tolist() == [False, True]


def test_places_do_not_lose_a_frame_to_rounding() -> None:
    assert len(places(31, 30.0, 10.0)) == 11
    np.testing.assert_allclose(places(31, 30.0, 10.0), np.arange(0, 31, 3))
    at = places(1, 10.0, 20.0)
    assert at.tolist() == [0]
    assert resample(np.ones((1, 4)), at, "quaternion_xyzw").tolist() == [[1, 1, 1, 1]]
    assert events(np.array([False]), at).tolist() == [False]


# -- refusals --------------------------------------------------------------------------------------

PART = ActionPart()
REFUSED = {
    "missing key": (
        "D22",
        "'no' is missing",
        Conventions(observations={"a": ObservationPart(key="no")}),
        {},
    ),
    "column": (
        "D05",
        "has 3 columns, column 3 is asked for",
        Conventions(actions=(ActionPart(columns=(3,)),)),
        {},
    ),
    "observed column": (
        "D05",
        "state has 3 columns",
        Conventions(observations={"a": ObservationPart(key="state", columns=(7,))}),
        {},
    ),
    "width": (
        "D05",
        "a quaternion (wxyz) has 4 columns",
        Conventions(actions=(ActionPart(rotation="quaternion_wxyz"),)),
        {},
    ),
    "base width": (
        "D05",
        "no delta of it",
        Conventions(actions=(ActionPart(columns=(0,), delta=True, of="state"),)),
        {},
    ),
    "no rate": ("D02", "does not say its rate", Conventions(actions=(PART,), resample_hz=20), {}),
    "lying rate": (
        "D17",
        "says 0.001 Hz",
        Conventions(actions=(PART,), resample_hz=20),
        {"rate_hz": 0.001},
    ),
    "too short": ("D12", "fewer than the shift of 4", Conventions(action_shift=4), {}),
    "no rotation": (
        "D08",
        "not a unit quaternion (off by 1.236)",
        Conventions(actions=(ActionPart(columns=(0, 0, 1, 2), rotation="quaternion_xyzw"),)),
        {},
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused(kind: str) -> None:
    code, message, wanted, more = REFUSED[kind]
    keys = ("a",) if wanted.observations else ("state",)
    item = converted(wanted, keys, episode(**more))
    assert isinstance(item, Finding)
    assert (item.code, item.episode, item.file, item.severity) == (
        code,
        "a/demo_0",
        "a.hdf5",
        "error",
    )
    assert item.remedy
    assert message in item.message, item.message


def test_numbers_that_are_not_finite_are_no_rotation() -> None:
    quaternions = np.tile([0, 0, 0, 1.0], (4, 1))
    quaternions[2, 0] = np.nan
    wanted = Conventions(observations={"q": ObservationPart(key="q", rotation="quaternion_xyzw")})
    item = converted(wanted, ("q",), episode(q=quaternions))
    assert isinstance(item, Finding)
    assert (item.code, item.frame) == ("D04", 2)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"actions": [{"columns": [0, 1], "rotation": "matrix"}]}, "matrix has 9 columns, not 2"),
        ({"actions": [{"columns": [0], "to": "matrix"}]}, "to needs rotation"),
        ({"actions": [{"delta": True}]}, "delta and of belong together"),
        ({"actions": [{"rotation": "quaternion_xyzw", "scale": 2}]}, "cannot be scaled"),
        ({"actions": [{"columns": [-1]}]}, "greater than or equal to 0"),
        ({"actions": [{"scale": float("nan")}]}, "finite"),
        ({"actions": []}, "actions is empty"),
        ({"actions": [{"columns": []}]}, "columns is empty"),
        ({"resample_hz": 20}, "resample_hz needs actions"),
        (
            {"observations": {"robot0_eef_poss": {"key": "state"}}},
            "which neither obs_keys nor a delta names",
        ),
        ({"rotation": "xyzw"}, "unknown key"),
    ],
)
def test_a_bad_section_is_said(section: dict, message: str) -> None:
    with pytest.raises(ConfigError, match="ingest") as caught:
        config.parse({"ingest": {"conventions": section}})
    assert message in str(caught.value)


# -- together --------------------------------------------------------------------------------------


def test_from_file_to_facts(tmp_path: Path) -> None:
    path = write_demo_file(tmp_path / "a.hdf5", 3)
    wanted = config.parse(
        {
            "ingest": {
                "obs_keys": ["robot0_eef_pos", "cube"],
                "conventions": {
                    "observations": {
                        "cube": {"key": "object", "columns": [0, 1, 2], "scale": 1000}
                    },
                    "actions": [
                        {"columns": [0, 1, 2]},
                        {"columns": [3, 4, 5, 6, 7, 8], "rotation": "rotation_6d"},
                        {"columns": [9], "scale": -1},
                    ],
                    "action_shift": 1,
                },
            }
        }
    ).ingest
    conversion = convert(wanted.conventions, wanted.obs_keys)
    assert conversion.inputs == ("robot0_eef_pos", "object")
    result = read_all(
        find_sources(tmp_path, obs_keys=conversion.inputs),
        limits=ValidationLimits(),
        changes=[conversion],
    )
    assert [f.code for f in result.findings if f.severity != "note"] == []
    assert len(result.good) == 3
    before, after = make_episode(0, 40), result.good[0]
    assert tuple(after.obs) == ("robot0_eef_pos", "cube")
    np.testing.assert_allclose(after.obs["cube"], 1000 * before.obs["object"][:-1, :3], rtol=1e-6)
    np.testing.assert_allclose(after.actions[:, :9], before.actions[1:, :9], atol=1e-6)
    np.testing.assert_array_equal(after.actions[:, 9], -before.actions[1:, 9])
    facts = result.facts[path.as_posix()]
    assert facts["format"] == "robomimic"
    assert facts["observation cube"] == "columns 0, 1, 2 of object, times 1000"
    assert facts["actions, part 2"] == "columns 9, times -1"
    assert (
        facts["shift"]
        == "each frame has the action recorded 1 frames later; the last 1 frames are left out"
    )


def test_said_in_words() -> None:
    facts = convert(
        Conventions(
            observations={
                "robot0_eef_quat": ObservationPart(
                    key="state", columns=(3, 4, 5, 6), rotation="quaternion_wxyz"
                )
            },
            actions=(
                ActionPart(rotation="rotation_vector", scale=0.5, delta=True, of="robot0_eef_quat"),
            ),
            resample_hz=20,
        ),
        OBS_KEYS,
    ).facts
    assert facts["observation robot0_eef_quat"] == (
        "columns 3, 4, 5, 6 of state, from quaternion (wxyz) to quaternion (xyzw) "
        "with a continuous sign"
    )
    assert facts["actions, part 0"] == (
        "all columns, times 0.5, from rotation vector to 6-D rotation "
        "(first two columns of the matrix), turned on from robot0_eef_quat "
        "about axes of the base frame: deltas became absolute targets"
    )
    assert facts["resampled"].startswith("to 20 Hz: ")
    assert convert(Conventions(), OBS_KEYS).facts == {}
