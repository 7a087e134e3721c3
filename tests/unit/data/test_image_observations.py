"""Episodes with images: the same bytes back, mapped instead of read; a policy that learns."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.factories import OBS_KEYS, make_episode, make_store, read_json
from tests.small_policy import small_config, small_policy
from zprl import durable
from zprl.config import Pretrain, VibConfig
from zprl.data.episode import Episode, is_image
from zprl.data.store import EpisodeStore, fit_normalizer
from zprl.data.windows import ChunkWindows
from zprl.errors import DataError, Interrupted
from zprl.models.image_encoder import ImageSpec, embedding_dim
from zprl.models.policy import FlowPolicy, PolicySpec
from zprl.offline.losses import Draws, offline_losses
from zprl.offline.state import TrainState
from zprl.offline.statistics import latent_stats
from zprl.offline.training import Hooks, train
from zprl.run_dir import RunDir


def with_images(seed, length=12, *, size=(8, 10), keys=("wrist", "front")):
    episode = make_episode(seed, length)
    rng = np.random.default_rng(seed)
    images = {key: rng.integers(0, 256, (length, *size, 3), dtype=np.uint8) for key in keys}
    return Episode(**{**vars(episode), "obs": images | episode.obs})


@pytest.fixture
def episodes():
    return [with_images(i, 12 + i) for i in range(3)]


@pytest.fixture
def store(tmp_path, episodes):
    EpisodeStore.write(tmp_path / "store", episodes, fit_normalizer(episodes))
    return EpisodeStore.open(tmp_path / "store")


def test_round_trip(store, episodes):
    assert list(store.obs) == [*OBS_KEYS, "wrist", "front"]
    assert list(store.obs_dims) == list(OBS_KEYS)
    assert store.image_sizes == {"wrist": (8, 10), "front": (8, 10)}
    assert list(store.normalizer.obs_dims) == list(OBS_KEYS), "images have no statistics"
    for before, after in zip(episodes, store, strict=True):
        assert after.content_hash() == before.content_hash()
        for key in ("wrist", "front"):
            assert is_image(after.obs[key])
            np.testing.assert_array_equal(after.obs[key], before.obs[key])


def test_same_episodes_same_bytes(tmp_path, store, episodes):
    EpisodeStore.write(tmp_path / "again", episodes, fit_normalizer(episodes))
    assert durable.digest(tmp_path / "again") == durable.digest(store.path)


def test_images_are_mapped_and_the_file_is_never_changed(store):
    before = durable.digest(store.path)
    store.obs["front"][:] = 0
    assert durable.digest(store.path) == before
    with open("/proc/self/maps") as maps:
        assert any(str(store.path / "images/1.npy") in line for line in maps)


def test_a_hash_tells_images_apart(episodes):
    changed = {**episodes[0].obs, "front": episodes[0].obs["front"].copy()}
    changed["front"][3, 2, 1, 0] ^= 1
    assert (
        Episode(**{**vars(episodes[0]), "obs": changed}).content_hash()
        != episodes[0].content_hash()
    )


def test_windows_give_images_as_they_are_with_held_first_frames(store, episodes):
    windows = ChunkWindows(store, ("front", "object"), obs_steps=2, horizon=4)
    found = windows.gather(
        torch.tensor([0, 5, 12])
    )  # first and sixth frame of the first episode, first of the second
    assert found["obs"]["front"].shape == (3, 2, 8, 10, 3)
    assert found["obs"]["front"].dtype == torch.uint8
    first, second = episodes[0].obs["front"], episodes[1].obs["front"]
    expected = np.stack([[first[0], first[0]], [first[4], first[5]], [second[0], second[0]]])
    np.testing.assert_array_equal(found["obs"]["front"].numpy(), expected)


def test_damage_is_named(tmp_path, store, episodes):
    (store.path / "images/1.npy").unlink()
    with pytest.raises(DataError, match=r"1\.npy does not exist"):
        EpisodeStore.open(store.path)
    np.save(store.path / "images/1.npy", np.zeros((5, 8, 10, 3), np.uint8))
    with pytest.raises(DataError, match="do not fit together"):
        EpisodeStore.open(store.path)
    np.save(store.path / "images/1.npy", np.zeros((39, 8, 10, 3), np.float32))
    with pytest.raises(DataError, match="no images"):
        EpisodeStore.open(store.path)
    (store.path / "images/1.npy").write_bytes(b"\x93NUMPY\x01\x00")
    with pytest.raises(DataError, match="damaged"):
        EpisodeStore.open(store.path)
    for nothing in (b"", b"no images"):
        (store.path / "images/1.npy").write_bytes(nothing)
        with pytest.raises(DataError, match="damaged"):
            EpisodeStore.open(store.path)
    np.save(store.path / "images/1.npy", np.array([{"a": 1}] * 39, dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="damaged"):
        EpisodeStore.open(store.path)
    other = [episodes[0], with_images(1, size=(8, 12))]
    with pytest.raises(DataError, match=r"\(8, 12, 3\) among others"):
        EpisodeStore.write(tmp_path / "mixed", other, fit_normalizer(other))


def test_stores_of_states_are_what_they_were(tmp_path):
    store = make_store(tmp_path / "s", 2)
    assert sorted(p.name for p in store.path.iterdir()) == [
        "frames.safetensors",
        "index.json",
        "normalizer.safetensors",
    ]
    keys = {
        "format_version",
        "names",
        "quality",
        "success",
        "lengths",
        "offsets",
        "obs_dims",
        "action_dim",
    }
    assert set(read_json(store.path / "index.json")) == keys
    assert store.image_sizes == {}


def test_stores_of_states_are_the_same_to_the_byte(tmp_path):
    """Both digests come from the code before there were images, on numbers that none rounds."""
    made = []
    for n in range(3):
        length = 4 + n
        ramp = np.arange(length * 5, dtype=np.float32).reshape(length, 5) / 8 + n
        obs = {"position": ramp[:, :3].copy(), "tool_quat": ramp[:, 1:].copy()}
        made.append(
            Episode(
                f"made/demo_{n}",
                obs,
                ramp,
                ramp[:, 0].copy(),
                np.arange(length) == length - 1,
                n != 1,
                "okay",
            )
        )
    EpisodeStore.write(tmp_path / "store", made, fit_normalizer(made))
    assert (
        durable.digest(tmp_path / "store")
        == "5c6a441b0c20ef6182da785fb2d9c1e2f160b52cbbcdc6fb9fb2789944d72ba2"
    )
    assert (
        made[0].content_hash() == "73967795c1bb306468911dba5f3b975f9e6db64b4f189a2922b5010ef7187c5e"
    )


# -- a policy learns from images -----------------------------------------------------------------

SIDE, SQUARE = 32, 6


def square_episode(seed, length=32):
    """A red square on noisy grey; the action is its place, in [-1, 1]; the state says nothing."""
    rng = np.random.default_rng(seed)
    room = SIDE - SQUARE
    places = rng.integers(0, room + 1, (length, 2))
    images = rng.integers(80, 120, (length, SIDE, SIDE, 3), dtype=np.uint8)
    for image, (top, left) in zip(images, places, strict=True):
        image[top : top + SQUARE, left : left + SQUARE] = (230, 40, 40)
    nothing = np.zeros(length, np.float32)
    obs = {"camera": images, "nothing": nothing[:, None]}
    return Episode(
        f"made/demo_{seed}",
        obs,
        (2 * places / room - 1).astype(np.float32),
        nothing,
        nothing.astype(bool),
        True,
    )


def square_policy(store):
    cameras = (
        ImageSpec(
            key="camera",
            size=(SIDE, SIDE),
            crop=(30, 30),
            features=32,
            channels=(16, 32),
            spatial_blocks=4,
        ),
    )
    sizes = {
        "horizon": 1,
        "chunk_steps": 1,
        "embedding_dim": embedding_dim(store.obs_dims, cameras, 1),
        "mlp_hidden": (64, 64),
    }
    spec = PolicySpec(
        obs_dims=store.obs_dims,
        action_dim=2,
        policy=small_config(**sizes),
        vib=VibConfig(latent_dim=4, hidden=(64,)),
        images=cameras,
    )
    return FlowPolicy(spec, copy.deepcopy(store.normalizer), seed=0)


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    path = tmp_path_factory.mktemp("squares") / "store"
    episodes = [square_episode(i) for i in range(24)]
    EpisodeStore.write(path, episodes, fit_normalizer(episodes))
    return EpisodeStore.open(path)


def learn(squares, root, steps, stop_at=None):
    windows, held_out = (
        ChunkWindows(squares, tuple(squares.obs), obs_steps=1, horizon=1, episodes=numbers)
        for numbers in (range(22), range(22, 24))
    )
    config = Pretrain(
        steps=steps,
        batch_size=64,
        learning_rate=2e-3,
        warmup_steps=20,
        checkpoint_every=10_000,
        log_every=max(1, steps // 30),
    )
    state = TrainState(square_policy(squares), config, seed=0)
    rows = []

    def saved():
        if state.step == stop_at:
            raise Interrupted("stopped")

    hooks = Hooks(
        stopping=lambda: state.step == stop_at,
        saved=saved,
        log=lambda _, row: rows.append(row),
        say=lambda _: None,
    )
    with RunDir(root, "pretrain", {}) as run_dir:
        train(state, windows, held_out, run_dir=run_dir, hooks=hooks)
    return state, held_out, rows


def test_offline_training_learns_from_images(squares, tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        untrained = error(square_policy(squares), squares)
        state, held_out, rows = learn(squares, tmp_path / "run", 300)
        policy = state.policy.freeze()
        learnt, blind = error(policy, squares), error(policy, squares, blind=True)
    finally:
        torch.set_num_threads(threads)
    assert rows[-1]["base_loss"] < rows[0]["base_loss"] / 5
    assert learnt < untrained / 5, "squares it has not seen are found"
    assert learnt < blind / 3, "by looking"
    assert latent_stats(policy, held_out, seed=0)["windows"] == 64


@torch.no_grad()
def error(policy, store, *, blind=False):
    """RMS distance of action and square on the last two episodes; ``blind``: images are black."""
    last = slice(int(store.offsets[-2]), None)
    obs = {key: value[last].unsqueeze(1) for key, value in store.obs.items()}
    if blind:
        obs["camera"] = torch.zeros_like(obs["camera"])
    noise = policy.draw_noise(64, torch.Generator().manual_seed(1))
    return (
        (policy.act(obs, noise, bottleneck=False)[:, 0] - store.actions[last])
        .square()
        .mean()
        .sqrt()
        .item()
    )


def test_training_on_images_gives_the_same_bits_again(squares, tmp_path):
    first, second = (
        learn(squares, tmp_path / name, 4)[0].policy.state_dict() for name in ("a", "b")
    )
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(
        not torch.equal(a, b)
        for a, b in zip(first.values(), square_policy(squares).state_dict().values(), strict=True)
    )


def test_stopping_and_going_on_gives_the_same_bits(squares, tmp_path):
    whole = learn(squares, tmp_path / "whole", 4)[0]
    with pytest.raises(Interrupted):
        learn(squares, tmp_path / "parts", 4, stop_at=2)
    rest = learn(squares, tmp_path / "parts", 4)[0]
    assert rest.step == 4
    again = rest.policy.state_dict()
    assert all(torch.equal(again[key], value) for key, value in whole.policy.state_dict().items())


def test_training_crops_at_random_as_a_function_of_the_step(squares):
    policy = square_policy(squares)
    batch = ChunkWindows(squares, policy.spec.obs_keys, obs_steps=1, horizon=1).batch(0, 0, 16)

    def loss(draws):
        return offline_losses(policy, batch["obs"], batch["actions"], draws).base.item()

    drawn = loss(Draws.at(policy, 16, 0, 5))
    assert loss(Draws.at(policy, 16, 0, 5)) == drawn
    assert loss(replace(Draws.at(policy, 16, 0, 5), augment=None)) != drawn, "the middle instead"
    assert Draws.at(small_policy(), 16, 0, 5).augment is None
