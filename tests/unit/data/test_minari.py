"""Minari's datasets: what is put right at the door, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.factories import write_demo_file
from tests.minari_files import write_minari_file
from zprl.data.episode import Episode
from zprl.data.findings import Finding
from zprl.data.readers.minari import MinariReader
from zprl.data.readers.robomimic import RobomimicReader

STEPS = 6


def read(path: Path, *keys: str) -> list[Episode | Finding]:
    return list(MinariReader(obs_keys=keys or None).read(path))


def test_the_frame_after_the_last_action_is_left_out_and_success_ends_the_episode(
    tmp_path: Path,
) -> None:
    path = write_minari_file(
        tmp_path / "a.hdf5", observations=np.arange(14.0).reshape(7, 2), success_at=4
    )
    (episode,) = read(path)
    assert episode.obs["observation"].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]], (
        "four steps were taken until the success"
    )
    assert episode.rewards.tolist() == [0, 0, 0, 1]
    assert episode.dones.tolist() == [False, False, False, True]
    assert episode.success
    assert episode.length == 4


def test_a_failure_is_whole(tmp_path: Path) -> None:
    (episode,) = read(write_minari_file(tmp_path / "a.hdf5", success_at=None))
    assert not episode.success
    assert episode.length == STEPS
    assert not episode.rewards.any()
    assert episode.dones.tolist() == [False] * 5 + [True]


@pytest.mark.parametrize(
    ("rewards", "length"),
    [
        ([0, 0, 1, 1, 0, 0], 3),
        ([-1, -1, -1, 0, 0, -1], 4),
        ([-1] * 6, None),
        ([0] * 6, None),
        ([0, 0, 0, 0, 0, 1], 6),
    ],
)
def test_sparse_rewards_say_what_no_info_does(
    tmp_path: Path, rewards: list[float], length: int | None
) -> None:
    """-1 alone is no success; zeros alone are read as the lower value of 0 and 1."""
    (episode,) = read(
        write_minari_file(tmp_path / "a.hdf5", rewards=rewards, success_at="not told")
    )
    assert episode.success == (length is not None)
    assert episode.length == (length or STEPS)


def test_dense_rewards_alone_are_refused(tmp_path: Path) -> None:
    (finding,) = read(
        write_minari_file(tmp_path / "a.hdf5", rewards=[0.1] * 6, success_at="not told")
    )
    assert finding.code == "D02"
    assert "infos/success" in finding.message


def test_nested_observations_and_their_keys(tmp_path: Path) -> None:
    nested = {
        "observation": np.zeros((7, 4)),
        "achieved_goal": {"kettle": np.ones((7, 3)), "light": np.full((7, 1), 2.0)},
    }
    path = write_minari_file(tmp_path / "a.hdf5", observations=nested)
    (episode,) = read(path)
    assert {key: value.shape[1] for key, value in episode.obs.items()} == {
        "achieved_goal.kettle": 3,
        "achieved_goal.light": 1,
        "observation": 4,
    }
    (episode,) = read(path, "achieved_goal.light", "observation")
    assert list(episode.obs) == ["achieved_goal.light", "observation"]
    assert (episode.obs["achieved_goal.light"] == 2).all()
    (finding,) = read(path, "achieved_goal.kettel")
    assert finding.code == "D22"
    assert "did you mean 'achieved_goal.kettle'?" in finding.remedy


def test_images_that_are_arrays_are_read_and_those_that_are_files_refused(tmp_path: Path) -> None:
    images = np.arange(7 * 4 * 4 * 3, dtype=np.uint8).reshape(7, 4, 4, 3)
    path = write_minari_file(
        tmp_path / "a.hdf5",
        observations={"camera": images, "state": np.zeros((7, 2))},
        success_at=None,
    )
    (episode,) = read(path)
    assert list(episode.obs) == ["state"], "images come where they are asked for"
    (episode,) = read(path, "camera", "state")
    assert np.array_equal(episode.obs["camera"], images[:6])
    with h5py.File(path, "a") as file:
        del file["episode_0/observations/camera"]
        file["episode_0/observations"].create_dataset("camera", 7, h5py.vlen_dtype(np.uint8))
    (finding,) = read(path, "camera", "state")
    assert finding.code == "D19"
    assert "jpeg_encoding" in finding.remedy


@pytest.mark.parametrize("where", ["metadata.json", "the file"])
@pytest.mark.parametrize(
    ("environment", "width", "palm"),
    [
        ("AdroitHandDoor-v1", 39, 29),
        ("AdroitHandHammerSparse-v1", 46, 33),
        ("AdroitHandPen-v1", 45, None),
    ],
)
def test_adroit_is_sorted_under_the_world_s_names(
    tmp_path: Path, where: str, environment: str, width: int, palm: int | None
) -> None:
    numbers = np.tile(np.arange(float(width)), (7, 1))
    path = write_minari_file(tmp_path / "a.hdf5", observations=numbers)
    spec = json.dumps({"id": environment})
    if where == "the file":
        with h5py.File(path, "a") as file:
            file.attrs["env_spec"] = spec
    else:
        (tmp_path / "metadata.json").write_text(json.dumps({"env_spec": spec}))
    (episode,) = read(path)
    assert episode.obs["robot0_joint_pos"][0, 0] == 0
    assert sum(value.shape[1] for value in episode.obs.values()) == width, "every number once"
    assert len({n for value in episode.obs.values() for n in value[0].tolist()}) == width
    if palm is None:
        assert list(episode.obs) == ["robot0_joint_pos", "object"]
    else:
        assert episode.obs["robot0_eef_pos"][0].tolist() == [palm, palm + 1, palm + 2]


def test_the_folder_names_the_episodes_in_order(tmp_path: Path) -> None:
    path = tmp_path / "door/human-v2/data/main_data.hdf5"
    path.parent.mkdir(parents=True)
    write_minari_file(path, episodes=11)
    assert [item.name for item in read(path)] == [f"human-v2/episode_{n}" for n in range(11)]


def test_each_format_s_reader_sends_the_other_s_files_to_it(tmp_path: Path) -> None:
    (finding,) = read(write_demo_file(tmp_path / "a.hdf5", 1))
    assert "ingest.reader" in finding.remedy
    (finding,) = RobomimicReader().read(write_minari_file(tmp_path / "b.hdf5"))
    assert "ingest.reader" in finding.remedy


def broken(change):
    def apply(path: Path) -> None:
        with h5py.File(path, "a") as file:
            change(file["episode_1"])

    return apply


def replace(node: h5py.Group, name: str, value) -> None:
    del node[name]
    node[name] = value


DEFECTS = {
    "no actions": ("D02", broken(lambda e: e.__delitem__("actions"))),
    "no rewards": ("D05", broken(lambda e: e.__delitem__("rewards"))),
    "no observations": ("D02", broken(lambda e: e.__delitem__("observations"))),
    "fewer actions": ("D03", broken(lambda e: replace(e, "actions", np.zeros((5, 2))))),
    "no last observation": ("D03", broken(lambda e: replace(e, "observations", np.zeros((6, 2))))),
    "text for numbers": ("D19", broken(lambda e: replace(e, "observations", ["a"] * 7))),
    "flags of another length": (
        "D03",
        broken(lambda e: replace(e["infos"], "success", np.zeros(3, bool))),
    ),
    "a link elsewhere": (
        "D16",
        broken(lambda e: replace(e, "observations", h5py.ExternalLink("/etc/passwd", "/"))),
    ),
    "terabytes": (
        "D17",
        broken(
            lambda e: (
                e.__delitem__("actions"),
                e.create_dataset("actions", (6, 2**38), "f8", chunks=(1, 2**20)),
            )
        ),
    ),
    "too deep": (
        "D05",
        broken(
            lambda e: (
                e.__delitem__("observations"),
                e.create_dataset("observations/a/b/c/d/e", (7, 2), "f4"),
            )
        ),
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_is_a_finding_with_its_episode_and_the_others_are_read(
    tmp_path: Path, defect: str
) -> None:
    path = write_minari_file(tmp_path / "a.hdf5", episodes=3)
    code, change = DEFECTS[defect]
    change(path)
    found = read(path)
    (finding,) = [item for item in found if isinstance(item, Finding)]
    assert finding.code == code, finding
    assert finding.episode == "a/episode_1"
    assert finding.remedy
    assert [item.name for item in found if isinstance(item, Episode)] == [
        "a/episode_0",
        "a/episode_2",
    ]


@pytest.mark.parametrize("text", ["{", "[1]", '{"env_spec": 3}', '{"env_spec": "{"}'])
def test_odd_metadata_does_no_harm(tmp_path: Path, text: str) -> None:
    path = write_minari_file(tmp_path / "a.hdf5")
    (tmp_path / "metadata.json").write_text(text)
    (item,) = read(path)
    assert isinstance(item, Finding if text == "{" else Episode)
