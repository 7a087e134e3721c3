"""The episode store: the same in and out, the same bytes, and damage is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.factories import OBS_KEYS, make_episodes, make_store
from zprl import durable
from zprl.data.store import EpisodeStore, fit_normalizer
from zprl.errors import DataError


def test_round_trip(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", 3)
    episodes = make_episodes(3)
    assert len(store) == 3
    assert list(store.obs) == list(OBS_KEYS), "the order of keys is part of a policy"
    assert store.lengths.tolist() == [40, 41, 42]
    assert store.offsets.tolist() == [0, 40, 81]
    assert store.actions.shape == (123, 10)
    for before, after in zip(episodes, store, strict=True):
        assert (after.name, after.success, after.quality) == (
            before.name,
            before.success,
            before.quality,
        )
        assert after.content_hash() == before.content_hash()
        np.testing.assert_array_equal(after.rewards, before.rewards)
        np.testing.assert_array_equal(after.dones, before.dones)
    assert store[-1].name == episodes[-1].name
    with pytest.raises(IndexError):
        store[3]


def test_normalizer_comes_back(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", 3)
    features = store.normalizer.normalize_actions(store.actions)
    assert features.shape == (123, 8)  # two entries of the rotation never change
    assert features.amin(0).allclose(-features.new_ones(8))
    assert features.amax(0).allclose(features.new_ones(8))


def test_equal_episodes_equal_bytes(tmp_path: Path) -> None:
    make_store(tmp_path / "a")
    make_store(tmp_path / "b")
    assert durable.digest(tmp_path / "a") == durable.digest(tmp_path / "b")
    make_store(tmp_path / "c", seed=1)
    assert durable.digest(tmp_path / "a") != durable.digest(tmp_path / "c")


def test_nothing_to_store(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no episodes"):
        EpisodeStore.write(tmp_path / "store", [], fit_normalizer(make_episodes(1)))


def test_missing_store_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        EpisodeStore.open(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "change",
    [
        {"format_version": 99},
        {"lengths": [40, 41]},
        {"lengths": [40, 41, 43]},
        {"offsets": [0, 41, 81]},
        {"action_dim": 9},
        {"obs_dims": [["object", 9]]},
        {"names": None},
    ],
    ids=lambda change: next(iter(change)),
)
def test_damaged_index_is_refused(tmp_path: Path, change: dict) -> None:
    make_store(tmp_path / "store", 3)
    index = tmp_path / "store" / "index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), **change}))
    with pytest.raises(DataError):
        EpisodeStore.open(tmp_path / "store")
