"""Windows by hand on two tiny episodes whose frame numbers are their values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from zprl.data.episode import Episode
from zprl.data.store import EpisodeStore, fit_normalizer
from zprl.data.windows import ChunkWindows
from zprl.errors import DataError


@pytest.fixture
def store(tmp_path: Path) -> EpisodeStore:
    """Episode 0 holds 0..2, episode 1 holds 10..14; the action is the observation plus 100."""
    episodes = []
    for number, values in enumerate((np.arange(3.0), np.arange(10.0, 15.0))):
        column = values[:, None].astype(np.float32)
        zeros = np.zeros(len(values), np.float32)
        episodes.append(
            Episode(
                f"e/demo_{number}",
                {"x": column},
                column + 100,
                zeros,
                zeros.astype(bool),
                success=True,
            )
        )
    EpisodeStore.write(tmp_path / "store", episodes, fit_normalizer(episodes))
    return EpisodeStore.open(tmp_path / "store")


def windows(
    store: EpisodeStore, obs_steps: int, horizon: int, episodes: list[int] | None = None
) -> list[tuple[list, list]]:
    cut = ChunkWindows(store, ("x",), obs_steps=obs_steps, horizon=horizon, episodes=episodes)
    every = cut.gather(torch.arange(len(cut)))
    return [
        (x.flatten().tolist(), a.flatten().tolist())
        for x, a in zip(every["obs"]["x"], every["actions"], strict=True)
    ]


def test_one_observation(store: EpisodeStore) -> None:
    assert windows(store, 1, 3, [0]) == [
        ([0], [100, 101, 102]),
        ([1], [101, 102, 102]),
        ([2], [102, 102, 102]),
    ]


def test_two_observations_pad_the_front_and_actions_start_with_the_oldest(
    store: EpisodeStore,
) -> None:
    assert windows(store, 2, 3, [0]) == [
        ([0, 0], [100, 100, 101]),
        ([0, 1], [100, 101, 102]),
        ([1, 2], [101, 102, 102]),
    ]


def test_horizon_beyond_an_episode_never_reaches_the_next(store: EpisodeStore) -> None:
    every = windows(store, 4, 9)
    assert len(every) == 8
    for obs, actions in every:
        assert len({value >= 10 for value in obs} | {value >= 110 for value in actions}) == 1


def test_chosen_episodes_only(store: EpisodeStore) -> None:
    assert [obs for obs, _ in windows(store, 1, 1, [1])] == [[10], [11], [12], [13], [14]]


def test_batches_walk_through_every_window_once_per_epoch(store: EpisodeStore) -> None:
    cut = ChunkWindows(store, ("x",), obs_steps=1, horizon=2)
    seen = torch.cat(
        [cut.batch(0, step, 3)["obs"]["x"].flatten() for step in range(8)]
    )  # 24 draws are three epochs of 8
    for epoch in seen.reshape(3, 8):
        assert sorted(epoch.tolist()) == [0, 1, 2, 10, 11, 12, 13, 14]
    assert not torch.equal(seen[:8], seen[8:16])


def test_batch_is_a_pure_function_of_seed_and_step(store: EpisodeStore) -> None:
    one, two = (ChunkWindows(store, ("x",), obs_steps=1, horizon=2) for _ in range(2))
    for step in range(5):
        one.batch(0, step, 20)  # a batch larger than an epoch, and a history that must not matter
    assert torch.equal(one.batch(7, 3, 20)["actions"], two.batch(7, 3, 20)["actions"])
    assert not torch.equal(one.batch(8, 3, 20)["actions"], two.batch(7, 3, 20)["actions"])


def test_unknown_key_and_no_episodes(store: EpisodeStore) -> None:
    with pytest.raises(DataError, match="no observation 'y'"):
        ChunkWindows(store, ("y",), obs_steps=1, horizon=2)
    with pytest.raises(DataError, match="no episodes"):
        ChunkWindows(store, ("x",), obs_steps=1, horizon=2, episodes=[])


def weighted(tmp_path: Path, weights: dict[str, float] | None) -> ChunkWindows:
    """Three episodes of 4 frames: better, okay, worse."""
    episodes = []
    for number, quality in enumerate(("better", "okay", "worse")):
        column = np.arange(4.0, dtype=np.float32)[:, None] + 10 * number
        zeros = np.zeros(4, np.float32)
        episodes.append(
            Episode(
                f"e/demo_{number}",
                {"x": column},
                column,
                zeros,
                zeros.astype(bool),
                success=True,
                quality=quality,
            )
        )
    EpisodeStore.write(tmp_path / "store", episodes, fit_normalizer(episodes), weights=weights)
    return ChunkWindows(EpisodeStore.open(tmp_path / "store"), ("x",), obs_steps=1, horizon=1)


def test_weights_by_hand(tmp_path: Path) -> None:
    """Weights 4, 1 and 1 over 12 windows are shares of 2, 1/2 and 1/2: 8, 2 and 2 draws."""
    cut = weighted(tmp_path, {"better": 4.0})
    for epoch in range(20):
        drawn = cut.epoch(0, epoch)
        counts = torch.bincount(drawn, minlength=12)
        assert len(drawn) == 12
        assert counts[:4].tolist() == [2, 2, 2, 2]
        assert counts[4:8].sum() == counts[8:].sum() == 2
        assert counts.max() <= 2
    assert not torch.equal(cut.epoch(0, 0), cut.epoch(0, 1))
    assert not torch.equal(cut.epoch(0, 0), cut.epoch(1, 0))
    one = torch.cat(
        [cut.batch(5, step, 7)["actions"].flatten() for step in range(12)]
    )  # seven epochs in odd batches
    again = torch.cat([weighted(tmp_path, {"better": 4.0}).batch(5, 0, 84)["actions"].flatten()])
    assert torch.equal(one, again)


def test_equal_weights_draw_as_without(tmp_path: Path) -> None:
    plain = weighted(tmp_path, None)
    same = weighted(tmp_path, {"better": 3.0, "okay": 3.0, "worse": 3.0})
    for step in range(5):
        assert torch.equal(plain.batch(1, step, 5)["actions"], same.batch(1, step, 5)["actions"])
    assert sorted(plain.epoch(3, 2).tolist()) == list(range(12))
