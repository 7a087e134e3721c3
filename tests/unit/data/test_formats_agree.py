"""The same episodes in four formats: equal windows, and policies of equal bytes."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from tests.session_factories import WIDTHS, write_session
from zprl import config, durable
from zprl.config import Pretrain
from zprl.data.episode import Episode
from zprl.data.ingest import read_all
from zprl.data.sources import find_sources
from zprl.data.store import EpisodeStore, fit_normalizer
from zprl.data.validation import ValidationLimits
from zprl.data.windows import ChunkWindows
from zprl.data.writers.lerobot import LeRobotWriter
from zprl.data.writers.robomimic import RobomimicWriter
from zprl.models.bundle import save_policy
from zprl.models.policy import FlowPolicy, PolicySpec
from zprl.offline.state import TrainState
from zprl.offline.training import Hooks, train
from zprl.run_dir import RunDir

KEYS = tuple(WIDTHS)
STEPS = 6


def write_minari(path: Path, episodes: list[Episode]) -> None:
    """As Minari 0.5.4 lays a set out; observations have one frame more than there are actions."""
    path.parent.mkdir(parents=True)
    with h5py.File(path, "w", track_order=True) as file:
        for number, episode in enumerate(episodes):
            node = file.create_group(f"episode_{number}")
            for key, value in episode.obs.items():
                node[f"observations/{key}"] = np.concatenate([value, value[-1:]])
            node["actions"] = episode.actions
            node["rewards"] = episode.rewards.astype(np.float64)
            node["terminations"], node["truncations"] = (
                episode.dones & episode.success,
                episode.dones & (not episode.success),
            )
            node["infos/success"] = np.concatenate([[False], episode.rewards > 0.5])


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, EpisodeStore]:
    """One store per format, each read from its own folder by the reader that ``auto`` picks."""
    root = tmp_path_factory.mktemp("formats")
    write_session(root / "session/monday", labels=("failure", "success", "success"))
    (source,) = find_sources(root / "session", obs_keys=KEYS)
    episodes = [item for item in source.reader.read(source.path) if isinstance(item, Episode)]
    assert len(episodes) == 3
    with RobomimicWriter(
        root / "robomimic/monday.hdf5", {"env_name": "lift", "env_type": 1, "env_kwargs": {}}
    ) as robomimic:
        for episode in episodes:
            robomimic.write(episode)
    with LeRobotWriter(root / "lerobot/monday", rate_hz=50, task="lift", robot="franka") as lerobot:
        for episode in episodes:
            lerobot.write(episode)
    write_minari(root / "minari/monday/data/main_data.hdf5", episodes)
    found = {}
    for name in ("session", "robomimic", "lerobot", "minari"):
        sources = find_sources(root / name, obs_keys=KEYS)
        assert [source.reader.name for source in sources] == [name]
        result = read_all(
            sources, limits=ValidationLimits(jump_m=99, rotation_tolerance=99)
        )  # the numbers are random
        assert not result.errors and len(result.good) == 3, [
            str(finding) for finding in result.errors
        ]
        EpisodeStore.write(root / "stores" / name, result.good, fit_normalizer(result.good))
        found[name] = EpisodeStore.open(root / "stores" / name)
    return found


def windows(store: EpisodeStore) -> ChunkWindows:
    return ChunkWindows(store, KEYS, obs_steps=2, horizon=4)


@pytest.mark.parametrize("name", ["session", "lerobot", "minari"])
def test_windows_are_those_of_robomimic(stores: dict[str, EpisodeStore], name: str) -> None:
    one, other = windows(stores["robomimic"]), windows(stores[name])
    assert len(one) == len(other) == sum(e.length for e in stores[name])
    index = torch.arange(len(one))
    mine, theirs = one.gather(index), other.gather(index)
    torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
    assert durable.digest(stores["robomimic"].path / "frames.safetensors") == durable.digest(
        stores[name].path / "frames.safetensors"
    )
    assert (
        stores["robomimic"].success.tolist() == stores[name].success.tolist() == [False, True, True]
    )


def digest_of_policy(store: EpisodeStore, folder: Path) -> str:
    shape = config.Policy(
        horizon=4,
        chunk_steps=2,
        obs_steps=2,
        embedding_dim=6,
        encoder_hidden=(8,),
        mlp_hidden=(16,),
        time_embedding_dim=8,
    )
    spec = PolicySpec(
        obs_dims=dict(store.obs_dims),
        action_dim=store.action_dim,
        policy=shape,
        vib=config.VibConfig(latent_dim=2, hidden=(8,)),
    )
    torch.manual_seed(0)
    state = TrainState(
        FlowPolicy(spec, store.normalizer),
        Pretrain(steps=STEPS, batch_size=8, checkpoint_every=100, log_every=100),
        seed=0,
    )
    hooks = Hooks(
        stopping=lambda: False, saved=lambda: None, log=lambda *_: None, say=lambda _: None
    )
    with RunDir(folder / "run", "pretrain", {}) as run_dir:
        train(state, windows(store), None, run_dir=run_dir, hooks=hooks)
    save_policy(folder / "bundle", state.policy, {})
    return durable.digest(folder / "bundle")


def test_a_policy_trained_from_each_has_the_same_digest(
    stores: dict[str, EpisodeStore], tmp_path: Path
) -> None:
    digests = {name: digest_of_policy(store, tmp_path / name) for name, store in stores.items()}
    assert len(set(digests.values())) == 1, digests
    (tmp_path / "other").mkdir()
    flipped = stores["robomimic"]
    flipped.actions.neg_()
    assert digest_of_policy(flipped, tmp_path / "other") not in digests.values()
