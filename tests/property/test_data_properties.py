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
from tests.minari_files import write_minari_file
from zprl.data.episode import Episode
from zprl.data.findings import CODES, Finding
from zprl.data.ingest import read_all
from zprl.data.normalizer import Normalizer
from zprl.data.readers import probe
from zprl.data.readers.hdf5_reader import Hdf5Reader
from zprl.data.readers.minari import MinariReader
from zprl.data.readers.robomimic import RobomimicReader
from zprl.data.sources import Source
from zprl.data.store import EpisodeStore
from zprl.data.validate import Limits
from zprl.data.windows import ChunkWindows

FRAMES = hnp.arrays(
    np.float32, st.tuples(st.integers(2, 12), st.integers(1, 5)), elements=st.floats(-1e3, 1e3, width=32, allow_subnormal=False)
)


@given(actions=FRAMES)
@example(actions=np.array([[-510.0], [-514.2745]], np.float32))
@settings(deadline=None, max_examples=100)
def test_normaliser_round_trip(actions: np.ndarray) -> None:
    values = torch.from_numpy(np.concatenate([actions, np.linspace(-1, 1, len(actions), dtype=np.float32)[:, None]], 1))
    normalizer = Normalizer.fit({"x": values}, values)
    features = normalizer.normalize_actions(values)
    # Float32 resolves a value to 2^-23 of its size, which may be much of a narrow range far from zero.
    size = values[:, normalizer.action_index].abs().amax(0)
    bound = 1 + 1e-5 + 2**-23 * size / normalizer.action_half_range
    assert (features.abs() <= bound).all()
    back = normalizer.denormalize_actions(features)
    # Float32 rounding of the offset, and up to half the tolerance for dimensions that count as constant.
    torch.testing.assert_close(back, values, rtol=1e-5, atol=6e-6 * max(1.0, float(values.abs().max())))
    constant = values.amin(0) == values.amax(0)
    assert torch.equal(back[:, constant], values[:, constant])
    assert (normalizer.normalize_obs({"x": values})["x"][:, normalizer.action_index].abs() <= bound).all()


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
def test_windows(store: EpisodeStore, obs_steps: int, extra: int, size: int, step: int, episodes: list[int]) -> None:
    horizon = obs_steps + extra
    cut = ChunkWindows(store, ("object",), obs_steps=obs_steps, horizon=horizon, episodes=episodes)
    assert len(cut) == sum(int(store.lengths[i]) for i in episodes)
    every = cut.gather(torch.arange(len(cut)))
    current = torch.from_numpy(np.concatenate([store[i].actions for i in episodes]))
    assert torch.equal(every["actions"][:, obs_steps - 1], current), "each frame is the current frame of one window"
    batch = cut.batch(1, step, size)
    assert batch["actions"].shape == (size, horizon, 10)
    assert batch["obs"]["object"].shape == (size, obs_steps, 10)
    assert torch.equal(batch["actions"], cut.batch(1, step, size)["actions"])


@pytest.fixture(scope="module", params=["robomimic", "minari"])
def good_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Hdf5Reader]:
    path = tmp_path_factory.mktemp("good") / "good.hdf5"
    if request.param == "minari":
        return write_minari_file(path, episodes=2), MinariReader()
    return write_demo_file(path, 2, length=12), RobomimicReader()


@given(
    flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=40),
    cut=st.one_of(st.none(), st.integers(0, 10**6)),
)
@settings(deadline=None, max_examples=150)
def test_damaged_bytes_never_raise(good_file: tuple[Path, Hdf5Reader], flips: list[tuple[int, int]], cut: int | None) -> None:
    good, reader = good_file
    path = good.with_name("damaged.hdf5")
    data = bytearray(good.read_bytes())
    for position, value in flips:
        data[position % len(data)] = value
    path.write_bytes(data if cut is None else data[: cut % len(data)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, "BASE_S", 5.0)
        result = read_all([Source(path, reader)], limits=Limits())
    for item in result.findings:
        assert isinstance(item, Finding)
        assert item.code in CODES
    for episode in result.good:
        assert isinstance(episode, Episode)
        assert np.isfinite(episode.actions).all()


def test_a_file_that_hangs_or_kills_the_library_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child answers late, or dies: either way the parent goes on, and the next file is read by a fresh child."""
    path = write_demo_file(tmp_path / "a.hdf5", 1)
    own = probe.Probe()
    try:
        assert own.damage(path, None, "robomimic") is None
        os.kill(own._child.pid, signal.SIGSTOP)  # as silent as a loop inside C
        assert own.damage(path, None, "robomimic", limit_s=0.5) == "reading it does not end within 0.5 s"
        assert own.damage(path, None, "robomimic") is None
        own._started().kill()
        own._child.wait()
        assert own.damage(path, None, "robomimic") is None
    finally:
        own.close()
    monkeypatch.setattr(probe.PROBE, "damage", lambda *_: "reading it ends the reader with code -11")
    (finding,) = RobomimicReader().read(path)
    assert finding.code == "D01"
    assert "code -11" in finding.message


def test_one_byte_that_makes_hdf5_loop_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HDF5 2.0.0 never returns from this attribute; another version may raise: a finding either way."""
    path = write_demo_file(tmp_path / "a.hdf5", 1)
    with h5py.File(path, "a") as file:
        file["data/demo_0"].attrs["quality"] = "better"  # variable-length text, kept in a global heap
    data = bytearray(path.read_bytes())
    start = data.rindex(b"GCOL")
    assert data[start + 24] == len("better")
    data[start + 24] = 0  # the text's size
    path.write_bytes(data)
    monkeypatch.setattr(probe, "BASE_S", 2.0)
    (finding,) = RobomimicReader().read(path)
    assert finding.code == "D01"
    good = write_demo_file(tmp_path / "b.hdf5", 1)
    assert [item.name for item in RobomimicReader().read(good)] == ["b/demo_0"]
