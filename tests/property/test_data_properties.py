"""Properties over many random inputs: normaliser round trip, window cover, damaged bytes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import h5py
import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.factories import make_store, write_demo_file
from tests.lerobot_files import write_lerobot
from tests.minari_files import write_minari_file
from zprl.data.episode import Episode
from zprl.data.findings import CODES, Finding
from zprl.data.ingest import read_all
from zprl.data.normalizer import Normalizer
from zprl.data.readers import sandbox
from zprl.data.readers.hdf5_guard import RefusedError
from zprl.data.readers.hdf5_reader import Hdf5Reader
from zprl.data.readers.lerobot import LeRobotReader
from zprl.data.readers.minari import MinariReader
from zprl.data.readers.robomimic import RobomimicReader
from zprl.data.sources import Source
from zprl.data.store import EpisodeStore
from zprl.data.validation import ValidationLimits
from zprl.data.windows import ChunkWindows

FRAMES = hnp.arrays(
    np.float32,
    st.tuples(st.integers(2, 12), st.integers(1, 5)),
    elements=st.floats(-1e3, 1e3, width=32, allow_subnormal=False),
)


@given(actions=FRAMES)
@example(actions=np.array([[-510.0], [-514.2745]], np.float32))
@settings(deadline=None, max_examples=100)
def test_normaliser_round_trip(actions: np.ndarray) -> None:
    values = torch.from_numpy(
        np.concatenate([actions, np.linspace(-1, 1, len(actions), dtype=np.float32)[:, None]], 1)
    )
    normalizer = Normalizer.fit({"x": values}, values)
    features = normalizer.normalize_actions(values)
    # Float32 resolves a value to 2^-23 of its size, which may be much of a narrow range far from
    # zero.
    size = values[:, normalizer.action_index].abs().amax(0)
    bound = 1 + 1e-5 + 2**-23 * size / normalizer.action_half_range
    assert (features.abs() <= bound).all()
    back = normalizer.denormalize_actions(features)
    # Float32 rounding of the offset, and up to half the tolerance for dimensions that count as
    # constant.
    torch.testing.assert_close(
        back, values, rtol=1e-5, atol=6e-6 * max(1.0, float(values.abs().max()))
    )
    constant = values.amin(0) == values.amax(0)
    assert torch.equal(back[:, constant], values[:, constant])
    assert (
        normalizer.normalize_obs({"x": values})["x"][:, normalizer.action_index].abs() <= bound
    ).all()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    return make_store(tmp_path_factory.mktemp("store") / "store", 3, length=9)


@given(
    obs_steps=st.integers(1, 4),
    extra=st.integers(0, 8),
    size=st.integers(1, 50),
    step=st.integers(0, 10**6),
    episodes=st.lists(st.integers(0, 2), min_size=1, unique=True),
)
@settings(deadline=None, max_examples=60)
def test_windows(
    store: EpisodeStore, obs_steps: int, extra: int, size: int, step: int, episodes: list[int]
) -> None:
    horizon = obs_steps + extra
    cut = ChunkWindows(store, ("object",), obs_steps=obs_steps, horizon=horizon, episodes=episodes)
    assert len(cut) == sum(int(store.lengths[i]) for i in episodes)
    every = cut.gather(torch.arange(len(cut)))
    current = torch.from_numpy(np.concatenate([store[i].actions for i in episodes]))
    assert torch.equal(every["actions"][:, obs_steps - 1], current), (
        "each frame is the current frame of one window"
    )
    batch = cut.batch(1, step, size)
    assert batch["actions"].shape == (size, horizon, 10)
    assert batch["obs"]["object"].shape == (size, obs_steps, 10)
    assert torch.equal(batch["actions"], cut.batch(1, step, size)["actions"])


class Weighted(EpisodeStore):
    """A store in memory, of which windows need the weights and lengths alone."""

    def __init__(self, weights: list[float], lengths: list[int]) -> None:
        self.lengths = torch.tensor(lengths)
        self.offsets = torch.cumsum(self.lengths, 0) - self.lengths
        self.names = tuple(map(str, range(len(lengths))))
        self.weights = torch.tensor(weights, dtype=torch.float64)
        self.obs, self.actions = {}, torch.arange(float(self.lengths.sum()))[:, None]


@given(
    episodes=st.lists(
        st.tuples(st.floats(0.001, 1000), st.integers(1, 30)), min_size=1, max_size=8
    ),
    seed=st.integers(0, 2**31),
    epoch=st.integers(0, 10**6),
)
@settings(deadline=None, max_examples=150)
def test_weighted_windows_come_in_proportion(
    episodes: list[tuple[float, int]], seed: int, epoch: int
) -> None:
    cut = ChunkWindows(
        Weighted(*map(list, zip(*episodes, strict=True))), (), obs_steps=1, horizon=1
    )
    drawn = cut.epoch(seed, epoch)
    assert len(drawn) == len(cut), "an epoch is as long as without weights"
    weights = torch.repeat_interleave(
        *(torch.tensor(column) for column in zip(*episodes, strict=True))
    ).double()
    expected = weights * len(cut) / weights.sum()
    counts = torch.bincount(drawn, minlength=len(cut)).double()
    # Whole numbers next to the share, of one window and of any run of them: within 1 of what is
    # due.
    assert ((counts - expected).abs() < 1 + 1e-6).all()
    assert (torch.cumsum(counts - expected, 0).abs() < 1 + 1e-6).all()
    assert torch.equal(drawn, cut.epoch(seed, epoch))


def test_weighted_windows_come_in_proportion_over_epochs() -> None:
    """A window of share 1/3 comes in a third of the epochs: 600 of them, six standard errors of slack."""
    cut = ChunkWindows(Weighted([1.0, 5.0], [4, 4]), (), obs_steps=1, horizon=1)
    counts = torch.stack(
        [torch.bincount(cut.epoch(0, epoch), minlength=8) for epoch in range(600)]
    ).double()
    expected = torch.tensor([1 / 3] * 4 + [5 / 3] * 4, dtype=torch.float64)
    torch.testing.assert_close(counts.mean(0), expected, atol=6 * (2 / 9 / 600) ** 0.5, rtol=0)


@pytest.fixture(scope="module", params=["robomimic", "minari"])
def good_file(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Hdf5Reader]:
    path = tmp_path_factory.mktemp("good") / "good.hdf5"
    if request.param == "minari":
        return write_minari_file(path, episodes=2), MinariReader()
    return write_demo_file(path, 2, length=12), RobomimicReader()


@given(
    flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=40),
    cut=st.one_of(st.none(), st.integers(0, 10**6)),
)
@settings(deadline=None, max_examples=150)
def test_damaged_bytes_never_raise(
    good_file: tuple[Path, Hdf5Reader], flips: list[tuple[int, int]], cut: int | None
) -> None:
    good, reader = good_file
    path = good.with_name("damaged.hdf5")
    data = bytearray(good.read_bytes())
    for position, value in flips:
        data[position % len(data)] = value
    path.write_bytes(data if cut is None else data[: cut % len(data)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sandbox, "BASE_S", 5.0)
        result = read_all([Source(path, reader)], limits=ValidationLimits())
    for item in result.findings:
        assert isinstance(item, Finding)
        assert item.code in CODES
    for episode in result.good:
        assert isinstance(episode, Episode)
        assert np.isfinite(episode.actions).all()


LEROBOT_FILES = (
    "data/chunk-000/file-000.parquet",
    "meta/episodes/chunk-000/file-000.parquet",
    "meta/info.json",
    "videos/observation.images.video/chunk-000/file-000.mp4",
)


@pytest.fixture(scope="module", params=LEROBOT_FILES)
def lerobot_file(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, bytes, Path]:
    root = write_lerobot(tmp_path_factory.mktemp("good") / "lift", video="video" in request.param)
    return root, (root / request.param).read_bytes(), root / request.param


@given(
    flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=40),
    cut=st.one_of(st.none(), st.none(), st.integers(0, 10**6)),
)
@settings(deadline=None, max_examples=25)
def test_damage_in_a_lerobot_set_never_raises(
    lerobot_file: tuple[Path, bytes, Path], flips: list[tuple[int, int]], cut: int | None
) -> None:
    root, good, path = lerobot_file
    data = bytearray(good)
    for position, value in flips:
        data[position % len(data)] = value
    path.write_bytes(data if cut is None else data[: cut % len(data)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sandbox, "BASE_S", 5.0)
        keys = ("grip", "images.video") if path.suffix == ".mp4" else None
        result = read_all([Source(root, LeRobotReader(obs_keys=keys))], limits=ValidationLimits())
    assert all(item.code in CODES for item in result.findings)
    assert len(result.good) + len(result.quarantine) > 0
    assert all(np.isfinite(episode.actions).all() for episode in result.good)
    if path.name == "file-000.parquet" and path.parts[-3] == "data":
        assert "lift/episode_2" in {episode.name for episode in result.good}, "its file is whole"


def test_a_file_that_hangs_or_kills_the_library_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child answers late, or dies: either way the parent goes on, and the next file is read by a fresh child."""
    path = write_demo_file(tmp_path / "a.hdf5", 1)
    own = sandbox.Sandbox()

    def owns(limit_s: float = 60.0) -> bool:
        function = "zprl.data.readers.hdf5_reader:owns_in_child"
        return own.call(function, limit_s=limit_s, path=str(path), reader="robomimic")

    try:
        assert owns()
        os.kill(own._child.pid, signal.SIGSTOP)  # as silent as a loop inside C
        with pytest.raises(RefusedError, match=r"does not end within 0\.5 s"):
            owns(limit_s=0.5)
        assert owns()
        own._started().kill()
        own._child.wait()
        assert owns()
    finally:
        own.close()

    def crash(*_: object, **__: object) -> None:
        raise RefusedError("D01", "reading it ends the reader with code -11", sandbox.DAMAGED)

    monkeypatch.setattr(sandbox.PROBE, "call", crash)
    (finding,) = RobomimicReader().read(path)
    assert finding.code == "D01"
    assert "code -11" in finding.message


def test_one_byte_that_makes_hdf5_loop_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HDF5 2.0.0 never returns from this attribute; another version may raise: a finding either way."""
    path = write_demo_file(tmp_path / "a.hdf5", 1)
    with h5py.File(path, "a") as file:
        file["data/demo_0"].attrs["quality"] = (
            "better"  # variable-length text, kept in a global heap
        )
    data = bytearray(path.read_bytes())
    start = data.rindex(b"GCOL")
    assert data[start + 24] == len("better")
    data[start + 24] = 0  # the text's size
    path.write_bytes(data)
    monkeypatch.setattr(sandbox, "BASE_S", 2.0)
    (finding,) = RobomimicReader().read(path)
    assert finding.code == "D01"
    good = write_demo_file(tmp_path / "b.hdf5", 1)
    assert [item.name for item in RobomimicReader().read(good)] == ["b/demo_0"]
