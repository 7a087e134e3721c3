"""Isaac Lab's recordings."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.factories import write_demo_file
from tests.isaaclab_files import FRAMES, content, write_isaaclab_file, write_with_isaaclab
from zprl.data.episode import Episode
from zprl.data.findings import Finding
from zprl.data.readers.isaaclab import IsaacLabReader
from zprl.data.readers.robomimic import RobomimicReader
from zprl.data.sources import find_sources

STATES = ("datagen_info.subtask_term_signals.grasp_1", "eef_quat", "object", "robot0_eef_pos")


def episodes(path: Path, **options) -> list[Episode]:
    items = list(IsaacLabReader(**options).read(path))
    assert all(isinstance(item, Episode) for item in items), [str(item) for item in items]
    return items


def finding(path: Path, **options) -> Finding:
    (item,) = IsaacLabReader(**options).read(path)
    assert isinstance(item, Finding)
    return item


def check_content(path: Path) -> None:
    first, second = episodes(path)
    made = content(1)
    assert tuple(first.obs) == STATES
    assert (second.name, second.length, second.success, second.rate_hz) == (
        f"{path.stem}/demo_1",
        FRAMES,
        True,
        20.0,
    )
    np.testing.assert_array_equal(second.actions, made["actions"].astype(np.float32))
    np.testing.assert_array_equal(
        second.obs["robot0_eef_pos"], made["obs"]["robot0_eef_pos"].astype(np.float32)
    )
    np.testing.assert_allclose(second.obs["eef_quat"][0], [0.6, 0, 0, 0.8])
    assert second.obs[STATES[0]][:, 0].tolist() == [0.0] * 6 + [1.0] * 6
    assert second.rewards.tolist() == [0.0] * (FRAMES - 1) + [1.0]
    assert second.dones.tolist() == [False] * (FRAMES - 1) + [True]
    (episode, _) = episodes(path, obs_keys=("table_cam", "robot0_eef_pos"))
    assert tuple(episode.obs) == ("table_cam", "robot0_eef_pos")
    np.testing.assert_array_equal(episode.obs["table_cam"], content(0)["obs"]["table_cam"])


def test_nested_observations_and_success(tmp_path: Path) -> None:
    check_content(write_isaaclab_file(tmp_path / "a.hdf5", episodes=2))


def test_what_isaac_labs_own_handler_writes(tmp_path: Path) -> None:
    pytest.importorskip("isaaclab")
    check_content(write_with_isaaclab(tmp_path / "a.hdf5", episodes=2))


def test_auto_tells_it_from_robomimic(tmp_path: Path) -> None:
    write_isaaclab_file(tmp_path / "a.hdf5")
    write_isaaclab_file(tmp_path / "b.hdf5", version=None)
    path = write_demo_file(tmp_path / "c.hdf5", 1)
    with h5py.File(path, "a") as file:
        file["data/demo_0/states"] = np.zeros((40, 9))  # as robomimic has it
    assert [(source.path.name, source.reader.name) for source in find_sources(tmp_path)] == [
        ("a.hdf5", "isaaclab"),
        ("b.hdf5", "isaaclab"),
        ("c.hdf5", "robomimic"),
    ]


def test_facts(tmp_path: Path) -> None:
    facts = IsaacLabReader().facts(write_isaaclab_file(tmp_path / "a.hdf5"))
    assert facts == {
        "format": "Isaac Lab, format version 1",
        "environment": "Isaac-Stack-Cube-Franka-IK-Rel-v0",
        "simulator": "Isaac Lab",
        "rate": "20 Hz",
    }


def test_quaternions_of_old_files_become_xyzw(tmp_path: Path) -> None:
    path = write_isaaclab_file(tmp_path / "a.hdf5", version=None)
    (episode,) = episodes(path)
    np.testing.assert_allclose(
        episode.obs["eef_quat"], np.tile([0, 0, 0.8, 0.6], (FRAMES, 1)), rtol=1e-6
    )
    assert (
        IsaacLabReader().facts(path)["format"]
        == "Isaac Lab before 3.0; quaternions named *quat became xyzw from wxyz"
    )


def test_a_flat_observation_group_is_the_key_policy(tmp_path: Path) -> None:
    path = write_isaaclab_file(tmp_path / "a.hdf5")
    with h5py.File(path, "a") as file:
        del file["data/demo_0/obs"]
        file["data/demo_0/obs"] = np.arange(FRAMES * 4.0).reshape(FRAMES, 4)
    (episode,) = episodes(path)
    assert {key: value.shape for key, value in episode.obs.items()} == {"policy": (FRAMES, 4)}


def test_other_actions(tmp_path: Path) -> None:
    path = write_isaaclab_file(tmp_path / "a.hdf5")
    (episode,) = episodes(path, actions_key="processed_actions")
    np.testing.assert_array_equal(
        episode.actions, content(0)["processed_actions"].astype(np.float32)
    )
    assert (
        IsaacLabReader(actions_key="processed_actions").facts(path)["actions read"]
        == "processed_actions"
    )


def test_a_failure(tmp_path: Path) -> None:
    (episode,) = episodes(write_isaaclab_file(tmp_path / "a.hdf5", success=False))
    assert not episode.success
    assert not episode.rewards.any()


def _deep(file: h5py.File) -> None:
    file["data/demo_0/obs/a/b/c/d/e/f/g"] = np.zeros((FRAMES, 1))


BROKEN = {
    "no obs": ("D02", "obs is missing", lambda file: file.__delitem__("data/demo_0/obs")),
    "no success": (
        "D02",
        "no attribute success",
        lambda file: file["data/demo_0"].attrs.__delitem__("success"),
    ),
    "later format": (
        "D20",
        "format version 2",
        lambda file: file.attrs.__setitem__("format_version", 2),
    ),
    "too deep": ("D05", "deeper than 6", _deep),
    "short": (
        "D03",
        "12 frames, num_samples says 11",
        lambda file: file["data/demo_0"].attrs.__setitem__("num_samples", 11),
    ),
    "external": (
        "D16",
        "external link",
        lambda file: file["data/demo_0/obs"].__setitem__("x", h5py.ExternalLink("o.hdf5", "/x")),
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken(tmp_path: Path, kind: str) -> None:
    code, message, mutate = BROKEN[kind]
    path = write_isaaclab_file(tmp_path / "a.hdf5")
    with h5py.File(path, "a") as file:
        mutate(file)
    found = [item for item in IsaacLabReader().read(path) if isinstance(item, Finding)]
    assert found[0].code == code, [str(item) for item in found]
    assert message in found[0].message


def test_a_missing_key_names_the_nearest(tmp_path: Path) -> None:
    item = finding(write_isaaclab_file(tmp_path / "a.hdf5"), obs_keys=("eef_qat",))
    assert (item.code, item.remedy) == ("D22", "did you mean 'eef_quat'?")


def test_robomimics_reader_still_says_what_is_wrong(tmp_path: Path) -> None:
    (item,) = RobomimicReader(obs_keys=("datagen_info",)).read(
        write_isaaclab_file(tmp_path / "a.hdf5")
    )
    assert isinstance(item, Finding)
    assert item.code == "D05"
