"""Recordings in other tools' formats and back: only names differ."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from tests.factories import ENV_ARGS, make_episode, make_episodes
from tests.peers.made import with_images
from zprl import durable
from zprl.data.episode import Episode, is_image
from zprl.data.readers.lerobot import LeRobotReader
from zprl.data.readers.robomimic import RobomimicReader
from zprl.data.writers.convert import convert
from zprl.data.writers.robomimic import RobomimicWriter
from zprl.errors import ConfigError, DataError

AT_20_HZ = {"env_name": "lift", "env_type": 2, "env_kwargs": {"control_freq": 20}}
READERS = {"lerobot": LeRobotReader, "robomimic": RobomimicReader}


def source(path: Path, episodes: list[Episode], env_args: dict = AT_20_HZ) -> Path:
    with RobomimicWriter(path, env_args) as writer:
        for episode in episodes:
            writer.write(episode)
    return path


def varied(length: int = 12) -> list[Episode]:
    """Graded, one failure, rewards on the way, an end that is not at the end."""
    rewards = np.linspace(0, 0.3, length).astype(np.float32)
    dones = np.zeros(length, bool)
    dones[[length - 3, length - 1]] = True
    first, *others = make_episodes(4, length=length)
    return [replace(first, rewards=rewards, dones=dones), *others]


def same(before: Episode, after: Episode, *, videos: bool = False) -> None:
    assert list(after.obs) == list(before.obs)
    for key, value in before.obs.items():
        assert (after.obs[key].dtype, after.obs[key].shape) == (value.dtype, value.shape)
        if videos and is_image(value):
            assert np.abs(after.obs[key].astype(float) - value).mean((1, 2, 3)).max() < 4
        else:
            np.testing.assert_array_equal(after.obs[key], value)
    np.testing.assert_array_equal(after.actions, before.actions)
    np.testing.assert_array_equal(after.rewards, before.rewards)
    np.testing.assert_array_equal(after.dones, before.dones)
    assert (after.success, after.quality, after.rate_hz) == (before.success, before.quality, 20.0)


@pytest.mark.parametrize("to", ["lerobot", "robomimic"])
def test_numbers_come_back(tmp_path: Path, to: str) -> None:
    before = varied()
    path = source(tmp_path / "a.hdf5", before)
    dest = tmp_path / ("b.hdf5" if to == "robomimic" else "b")
    found = convert(path, dest, to=to)
    assert (found.sources, found.episodes, found.frames, found.rate_hz, found.left_out) == (
        1,
        4,
        12 + 13 + 14 + 15,
        20.0,
        (),
    )
    assert set(next(READERS[to]().read(dest)).obs) == set(
        before[0].obs
    )  # HDF5 lists keys by name: their order is not kept
    after = READERS[to](obs_keys=tuple(before[0].obs)).read(dest)
    assert {e.quality for e in before} == {"better", "okay", "worse"}
    assert sum(e.success for e in before) == 3
    for old, new in zip(before, after, strict=True):
        same(old, new)


@pytest.mark.parametrize("way", [("lerobot", "png"), ("lerobot", "video"), ("robomimic", "video")])
def test_images_come_along_unasked(tmp_path: Path, way: tuple[str, str]) -> None:
    to, images = way
    before = [with_images(make_episode(seed, length=12)) for seed in (0, 1)]
    path = source(tmp_path / "a.hdf5", before)
    dest = tmp_path / ("b.hdf5" if to == "robomimic" else "b")
    convert(path, dest, to=to, images=images)
    keys = tuple(before[0].obs)
    for old, new in zip(before, READERS[to](obs_keys=keys).read(dest), strict=True):
        same(old, new, videos=images == "video" and to == "lerobot")


def test_there_and_back_again(tmp_path: Path) -> None:
    before = [with_images(episode) for episode in varied()]
    convert(
        source(tmp_path / "a.hdf5", before),
        tmp_path / "b",
        to="lerobot",
        images="png",
        task="Lift it.",
        robot="franka",
    )
    convert(tmp_path / "b", tmp_path / "c.hdf5", to="robomimic")
    with h5py.File(tmp_path / "c.hdf5") as file:
        said = json.loads(file["data"].attrs["env_args"])
    assert said == {
        "env_name": "Lift it.",
        "env_type": 2,
        "env_kwargs": {"control_freq": 20.0, "robots": "franka"},
    }
    for old, new in zip(
        before,
        RobomimicReader(obs_keys=tuple(before[0].obs)).read(tmp_path / "c.hdf5"),
        strict=True,
    ):
        same(old, new)


def test_keys_are_chosen(tmp_path: Path) -> None:
    path = source(tmp_path / "a.hdf5", [with_images(make_episode(length=12))])
    keys = ("object", "wrist_image")
    convert(path, tmp_path / "b.hdf5", to="robomimic", obs_keys=keys)
    with h5py.File(tmp_path / "b.hdf5") as file:
        assert sorted(file["data/demo_0/obs"]) == ["object", "wrist_image"]


def test_bad_episodes_are_left_out_and_named(tmp_path: Path) -> None:
    good = make_episodes(2, length=12)
    actions = good[1].actions.copy()
    actions[4, 0] = np.nan
    narrow = make_episode(7, length=12)
    source(
        tmp_path / "a" / "one.hdf5",
        [
            good[0],
            replace(good[1], actions=actions),
            replace(narrow, obs={"object": narrow.obs["object"]}),
        ],
    )
    source(
        tmp_path / "a" / "two.hdf5",
        [make_episode(8, length=12)],
        {**AT_20_HZ, "env_kwargs": {"control_freq": 10}},
    )
    (tmp_path / "a" / "zero.hdf5").write_bytes(b"no HDF5")
    found = convert(tmp_path / "a", tmp_path / "b", to="lerobot", reader="robomimic")
    assert (found.episodes, found.frames, found.sources) == (1, 12, 3)
    assert found.left_out == (
        "one/demo_1",
        "one/demo_2",
        "two/demo_0",
        (tmp_path / "a/zero.hdf5").as_posix(),
    )
    codes = {
        finding.episode or finding.file: finding.code
        for finding in found.findings
        if finding.severity == "error"
    }
    assert list(codes.values()) == ["D04", "D05", "D05", "D01"]
    assert "10 frames per second, the first episode has 20" in next(
        f.message for f in found.findings if f.episode == "two/demo_0"
    )


def test_a_rate_nobody_knows(tmp_path: Path) -> None:
    path = source(tmp_path / "a.hdf5", make_episodes(1), ENV_ARGS)
    with pytest.raises(DataError, match="how many frames"):
        convert(path, tmp_path / "b", to="lerobot")
    convert(path, tmp_path / "b", to="lerobot", rate_hz=30)
    assert next(LeRobotReader().read(tmp_path / "b")).rate_hz == 30
    assert convert(path, tmp_path / "c.hdf5", to="robomimic").rate_hz is None


def test_what_is_refused(tmp_path: Path) -> None:
    path = source(tmp_path / "a.hdf5", make_episodes(1))
    with pytest.raises(ConfigError, match="no format 'rlds'"):
        convert(path, tmp_path / "b", to="rlds")
    with pytest.raises(DataError, match="is what is to be read"):
        convert(path, path, to="robomimic", overwrite=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no recordings"):
        convert(tmp_path / "empty", tmp_path / "b", to="lerobot")
    (tmp_path / "bad.hdf5").write_bytes(b"no HDF5")
    with pytest.raises(DataError, match=r"no episode of .* can be converted\n  D01"):
        convert(tmp_path / "bad.hdf5", tmp_path / "b", to="lerobot")
    convert(path, tmp_path / "b", to="lerobot", task="first")
    before = durable.digest(tmp_path / "b")
    with pytest.raises(DataError, match="exists already"):
        convert(path, tmp_path / "b", to="lerobot", task="second")
    assert durable.digest(tmp_path / "b") == before
    convert(path, tmp_path / "b", to="lerobot", task="second", overwrite=True)
    assert pd.read_parquet(tmp_path / "b/meta/tasks.parquet").index.tolist() == ["second"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.hdf5", "b", "bad.hdf5", "empty"]
