"""The writer: robomimic's layout, all or nothing, never over an existing file."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import pytest

from tests.factories import ENV_ARGS, make_episode, make_episodes, write_demo_file
from zprl import durable
from zprl.data.episode import Episode
from zprl.data.readers.robomimic import RobomimicReader
from zprl.data.writers.robomimic import RobomimicWriter
from zprl.errors import DataError, EnvironmentProblem


def test_layout(tmp_path: Path) -> None:
    with h5py.File(write_demo_file(tmp_path / "a.hdf5", 4)) as file:
        data = file["data"]
        assert sorted(data) == ["demo_0", "demo_1", "demo_2", "demo_3"]
        assert data.attrs["total"] == 40 + 41 + 42 + 43
        assert json.loads(data.attrs["env_args"]) == ENV_ARGS
        assert data["demo_3"].attrs["num_samples"] == 43
        assert not data["demo_3"].attrs["success"]
        assert data["demo_0/obs/object"].shape == (40, 10)
        assert file["mask/better"][()].tolist() == [b"demo_0", b"demo_3"]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = write_demo_file(tmp_path / "a.hdf5", 12, length=20)
    back = list(RobomimicReader().read(path))
    assert [type(item) for item in back] == [Episode] * 12
    for before, after in zip(make_episodes(12, length=20), back, strict=True):
        assert after.content_hash() == before.content_hash()
        assert (after.success, after.quality) == (before.success, before.quality)
    assert [item.name for item in back[-2:]] == ["a/demo_10", "a/demo_11"]


def test_long_episodes_are_packed(tmp_path: Path) -> None:
    with RobomimicWriter(tmp_path / "a.hdf5", ENV_ARGS) as writer:
        writer.write(make_episode(length=3000))
    with h5py.File(tmp_path / "a.hdf5") as file:
        assert file["data/demo_0/actions"].compression == "gzip"
    (episode,) = RobomimicReader().read(tmp_path / "a.hdf5")
    assert episode.content_hash() == make_episode(length=3000).content_hash()


def test_same_episodes_same_bytes(tmp_path: Path) -> None:
    one, two = (write_demo_file(tmp_path / name / "a.hdf5") for name in ("x", "y"))
    assert one.read_bytes() == two.read_bytes()


def test_exception_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with RobomimicWriter(tmp_path / "a.hdf5", ENV_ARGS) as writer:
            writer.write(make_episode())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_kept(tmp_path: Path) -> None:
    path = write_demo_file(tmp_path / "a.hdf5")
    before = path.read_bytes()
    with pytest.raises(DataError, match="exists already"):
        write_demo_file(path, 2)
    assert path.read_bytes() == before
    with RobomimicWriter(path, ENV_ARGS, overwrite=True) as writer:
        writer.write(make_episode())
    assert len(list(RobomimicReader().read(path))) == 1


def test_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_demo_file(tmp_path / "a.hdf5")
    before = path.read_bytes()

    def strike(name: str, _: Path) -> None:
        if name == "rename":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable, "operation", strike)
    with (
        pytest.raises(EnvironmentProblem, match="cannot write"),
        RobomimicWriter(path, ENV_ARGS, overwrite=True) as writer,
    ):
        writer.write(make_episode())
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.hdf5"]


def test_unknown_quality(tmp_path: Path) -> None:
    with (
        pytest.raises(DataError, match="quality 'great'"),
        RobomimicWriter(tmp_path / "a.hdf5", ENV_ARGS) as writer,
    ):
        writer.write(make_episode(quality="great"))
