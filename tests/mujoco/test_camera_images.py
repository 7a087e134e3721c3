"""Images among the observations: the contract holds, they show the moment, and a chunk looks only when the policy will."""

from __future__ import annotations

import pytest
import torch

from zprl import envs, seeding
from zprl.config import Task
from zprl.data.ingest import read_all
from zprl.data.readers.robomimic import RobomimicReader
from zprl.data.sources import Source
from zprl.data.store import EpisodeStore, fit_normalizer
from zprl.data.validation import ValidationLimits
from zprl.envs.check import check_env
from zprl.envs.chunk import ChunkEnv
from zprl.envs.record_demos import RecordSettings, record
from zprl.errors import ConfigError

pytestmark = pytest.mark.mujoco
TASKS = {"metaworld/push-wall-v3": "corner2", "robosuite/lift": "agentview", "adroit/door": "fixed"}


def task(name: str, *, steps: int = 12, size: int = 32) -> Task:
    return Task(name=name, episode_steps=steps, cameras=(TASKS[name],), image_size=size)


@pytest.mark.parametrize("name", TASKS)
def test_worlds_with_images_keep_the_contract(name: str) -> None:
    check_env(lambda: envs.make(task(name), num_envs=2))


def test_an_image_shows_its_own_world_at_its_own_moment() -> None:
    about = task("metaworld/push-wall-v3", size=84)
    with envs.make(about, num_envs=2) as two, envs.make(about, num_envs=1) as one:
        both, alone = two.reset(4), one.reset(4)
        assert torch.equal(both["corner2_image"][:1], alone["corner2_image"])
        assert not torch.equal(both["corner2_image"][0], both["corner2_image"][1]), (
            "the puck lies elsewhere"
        )
        move = torch.tensor([[1.0, 1.0, 1.0, -1.0]])
        later = [one.step(move) for _ in range(12)]
        assert not torch.equal(later[5].obs["corner2_image"], alone["corner2_image"]), (
            "the arm has moved"
        )
        end = later[-1]
        assert bool(end.truncated)
        assert not torch.equal(end.obs["corner2_image"], end.final_obs["corner2_image"]), (
            "the next episode looks different"
        )
        assert torch.equal(later[5].obs["corner2_image"], later[5].final_obs["corner2_image"])


def test_a_step_without_a_look_draws_only_ended_episodes() -> None:
    with envs.make(task("metaworld/push-wall-v3"), num_envs=2) as env:
        env.reset(0)
        for step in range(12):
            result = env.step(env.hold(), render=False)
            assert "corner2_image" not in result.obs
            assert ("corner2_image" in result.final_obs) == (step == 11)


def test_a_chunk_sees_what_step_by_step_sees() -> None:
    about = task("metaworld/push-wall-v3", steps=10)
    chunk = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with (
        ChunkEnv(envs.make(about, num_envs=2), 4, 2) as chunks,
        envs.make(about, num_envs=2) as plain,
    ):
        first = chunks.reset(3)
        assert first["corner2_image"].shape == (2, 2, 32, 32, 3)
        plain.reset(3)
        for part in range(3):
            seen = chunks.step(chunk)
            steps = [
                plain.step(chunk[:, i] if part < 2 or i < 2 else plain.hold()) for i in range(4)
            ]
            if part < 2:
                assert torch.equal(
                    seen.obs["corner2_image"],
                    torch.stack([r.obs["corner2_image"] for r in steps[-2:]], 1),
                )
        assert bool(seen.truncated.all()), "ten steps are two chunks and a half"
        assert torch.equal(
            seen.final_obs["corner2_image"][:, -1], steps[1].final_obs["corner2_image"]
        )
        assert torch.equal(seen.obs["corner2_image"][:, -1], steps[-1].obs["corner2_image"])


def test_an_unknown_camera_is_named_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"no camera 'front'.*\n.*corner2"):
        envs.make(Task(name="metaworld/push-wall-v3", cameras=("front",)), num_envs=1)


def test_recorded_images_are_those_of_the_world_and_are_ingested(tmp_path) -> None:
    about = task("metaworld/push-wall-v3", steps=12)
    settings = RecordSettings(task=about, num_envs=2, keep_failures=1.0)
    files = [tmp_path / "a.hdf5", tmp_path / "b.hdf5"]
    for file in files:
        record(file, episodes=2, seed=1, settings=settings, progress=lambda n: None)
    assert files[0].read_bytes() == files[1].read_bytes()
    keys = ("robot0_eef_pos", "robot0_gripper_qpos", "corner2_image")
    good = read_all(
        [Source(files[0], RobomimicReader(obs_keys=keys))], limits=ValidationLimits(min_length=2)
    ).good
    EpisodeStore.write(tmp_path / "store", good, fit_normalizer(good))
    store = EpisodeStore.open(tmp_path / "store")
    assert store.image_sizes == {"corner2_image": (32, 32)}
    assert list(store.obs_dims) == ["robot0_eef_pos", "robot0_gripper_qpos"]
    with envs.make(about, num_envs=2) as env:
        obs = env.reset(seeding.derive(1, "record-env", 0))
        for step in range(12):
            for n in range(2):
                assert torch.equal(
                    store.obs["corner2_image"][int(store.offsets[n]) + step],
                    obs["corner2_image"][n],
                )
            obs = env.step(
                torch.stack([store.actions[int(offset) + step] for offset in store.offsets])
            ).obs
