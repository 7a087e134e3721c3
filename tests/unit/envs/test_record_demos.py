from __future__ import annotations

import json
from pathlib import Path

import h5py
import pytest
import torch

from tests.unit.envs.toy import Toy
from zprl.envs.record_demos import RecordSettings, record
from zprl.errors import ConfigError, DataError


class Riser:
    """The first environment rises to success at once, the second late, the third never."""

    quality = ["better", "okay", "worse"]  # noqa: RUF012

    def __init__(self, seed: int) -> None:
        self.seed, self.step = seed, 0

    def act(self, obs: dict[str, torch.Tensor]) -> torch.Tensor:
        action = torch.cat((obs["robot0_eef_pos"], torch.ones(3, 1)), 1)
        action[0, 2] = 1.0
        action[1, 2] = 1.0 if self.step >= 5 else 0.0
        self.step += 1
        return action


class World(Toy):
    def __init__(self) -> None:
        super().__init__(num_envs=3, episode_steps=20)

    def operator(self, seed: int, settings: dict) -> Riser:
        assert settings == {"mood": "calm"}
        return Riser(seed)


SETTINGS = RecordSettings(num_envs=3, keep_failures=0.0, operator={"mood": "calm"})


def _record(path: Path, episodes: int = 4, seed: int = 0, **changes):
    settings = SETTINGS.model_copy(update=changes)
    return record(
        path,
        episodes=episodes,
        seed=seed,
        settings=settings,
        make_env=World,
        progress=lambda done: None,
    )


def test_only_first_episodes_are_kept_and_failures_are_counted(tmp_path: Path):
    seen = _record(tmp_path / "a.hdf5")
    assert seen.tried == {"better": 2, "okay": 2, "worse": 2}
    assert seen.succeeded == seen.kept == {"better": 2, "okay": 2}
    with h5py.File(tmp_path / "a.hdf5") as file:
        demos = [file[f"data/demo_{i}"] for i in range(4)]
        # at 0.05 m per step it takes 10 steps (the start is below 0.002 m) to rise from 0 to over
        # 0.5; the late one holds 5 before
        lengths = [demo.attrs["num_samples"] for demo in demos]
        assert lengths[0] in (10, 11)
        assert lengths[1] in (15, 16)
        for demo, length in zip(demos, lengths, strict=True):
            assert demo["actions"].shape == (length, 4)
            assert demo["rewards"][:].tolist() == [0.0] * (length - 1) + [1.0]
            assert demo["dones"][:].tolist() == [0] * (length - 1) + [1]
            assert demo["obs/age"][:].flatten().tolist() == list(
                range(length)
            )  # the frame before each action
        args = json.loads(file["data"].attrs["env_args"])
    assert args["env_name"] == "isaac/lift-cube"
    assert args["recorder"]["seed"] == 0
    assert args["recorder"]["keep_failures"] == 0.0


def test_kept_failures_are_full_length(tmp_path: Path):
    seen = _record(tmp_path / "a.hdf5", episodes=3, keep_failures=1.0)
    assert seen.kept == {"better": 1, "okay": 1, "worse": 1}
    with h5py.File(tmp_path / "a.hdf5") as file:
        demo = file["data/demo_2"]
        assert not demo.attrs["success"]
        assert demo.attrs["num_samples"] == 20
        assert demo["rewards"][:].sum() == 0


def test_same_seed_same_bytes_other_seed_other_bytes(tmp_path: Path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        _record(tmp_path / f"{name}.hdf5", seed=seed)
    a, b, c = ((tmp_path / f"{name}.hdf5").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_existing_recordings_are_never_lost(tmp_path: Path):
    path = tmp_path / "a.hdf5"
    path.write_bytes(b"a morning's work")
    with pytest.raises(DataError, match="exists already"):
        _record(path)
    assert path.read_bytes() == b"a morning's work"


def test_hopeless_operator_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("zprl.envs.record_demos.MAX_ROUNDS", 2)
    with pytest.raises(DataError, match="only 4 of 9"):
        _record(tmp_path / "a.hdf5", episodes=9)
    assert list(tmp_path.iterdir()) == []


def test_task_without_operator_and_zero_episodes_are_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="no scripted operator"):
        record(tmp_path / "a.hdf5", episodes=1, seed=0, make_env=Toy)
    with pytest.raises(ConfigError, match="episodes is 0"):
        record(tmp_path / "a.hdf5", episodes=0, seed=0, make_env=Toy)
