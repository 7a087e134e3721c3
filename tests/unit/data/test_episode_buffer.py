"""Episodes on disk: equal when read back, no name left; files equal those of the libraries."""

from __future__ import annotations

import errno
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from tests.factories import make_episode, make_episodes, write_demo_file
from zprl import durable
from zprl.data.array_writer import ArrayWriter, write_npy, write_safetensors
from zprl.data.episode import Episode
from zprl.data.episode_buffer import BufferSubset, EpisodeBuffer
from zprl.data.ingest import choose, read_all
from zprl.data.normalizer import Normalizer
from zprl.data.sources import find_sources
from zprl.data.store import EpisodeStore, fit_normalizer
from zprl.data.validation import ValidationLimits
from zprl.errors import EnvironmentProblem


def with_images(seed: int, length: int = 7) -> Episode:
    episode = make_episode(seed, length)
    images = np.random.default_rng(seed).integers(0, 256, (length, 5, 3, 3), dtype=np.uint8)
    return Episode(**{**vars(episode), "obs": {"front": images, **episode.obs}, "rate_hz": 15.0})


def same(one: Episode, two: Episode) -> bool:
    facts = ("name", "success", "quality", "rate_hz")
    arrays = [(*e.obs.values(), e.actions, e.rewards, e.dones) for e in (one, two)]
    return (
        [getattr(one, name) for name in facts] == [getattr(two, name) for name in facts]
        and list(one.obs) == list(two.obs)
        and all(
            a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
            for a, b in zip(*arrays, strict=True)
        )
    )


# -- the spool -------------------------------------------------------------------------------------


def test_what_went_in_comes_out_also_between_appends(tmp_path: Path) -> None:
    episodes = [with_images(0), make_episode(1, 12), with_images(2, 9)]
    spool = EpisodeBuffer(tmp_path)
    for number, episode in enumerate(episodes):
        spool.append(episode)
        assert len(spool) == number + 1
        assert all(same(a, b) for a, b in zip(spool, episodes, strict=False))
    assert same(spool[-1], episodes[2])
    assert [e.name for e in spool[1:]] == ["made/demo_1", "made/demo_2"]
    with pytest.raises(IndexError):
        spool[3]
    with pytest.raises(ValueError, match="read-only"):
        spool[0].actions[0, 0] = 1.0


def test_it_leaves_no_name(tmp_path: Path) -> None:
    spool = EpisodeBuffer(tmp_path)
    spool.append(make_episode())
    assert same(spool[0], make_episode())
    assert list(tmp_path.iterdir()) == [], "whatever ends the process, nothing is left to clean up"


def test_an_episode_outlives_its_spool_and_an_empty_one_is_one() -> None:
    spool = EpisodeBuffer()
    empty = np.zeros((0, 2), np.float32)
    spool.append(Episode("a", {"x": empty}, empty, empty[:, 0], empty[:, 0] > 0, success=False))
    assert spool[0].actions.shape == (0, 2)
    spool.append(make_episode(3))
    kept = spool[1]
    del spool
    assert same(kept, make_episode(3))


def test_a_full_disk_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        name = "spool"

        def write(self, _: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(durable, "scratch", lambda _: Full())
    with pytest.raises(EnvironmentProblem, match="no space left"):
        EpisodeBuffer(tmp_path).append(make_episode())


def test_subset() -> None:
    episodes = make_episodes(5)
    some = BufferSubset(episodes, [4, 0, 2])
    assert [e.name for e in some] == ["made/demo_4", "made/demo_0", "made/demo_2"]
    assert [e.name for e in some[1:]] == ["made/demo_0", "made/demo_2"]
    assert some[-1] is episodes[2]
    assert len(some) == 3


# -- files written piece by piece ------------------------------------------------------------------


def test_safetensors_are_the_librarys_to_the_byte(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "obs/b": rng.standard_normal((5, 3), dtype=np.float32),
        'obs/a "quoted" é\n': rng.standard_normal((5, 1), dtype=np.float32),
        "dones": rng.random(5) > 0.5,
        "Z": rng.standard_normal(5, dtype=np.float32),
        "images": rng.integers(0, 256, (5, 2, 2, 3), dtype=np.uint8),
    }
    stacks = {
        name: ArrayWriter(str(value.dtype), value.shape, [value[:2], value[2:]])
        for name, value in arrays.items()
    }
    write_safetensors(tmp_path / "f", stacks)
    assert (tmp_path / "f").read_bytes() == save(
        {name: torch.from_numpy(value) for name, value in arrays.items()}
    )
    durable.write_tensors(
        tmp_path / "g", {name: torch.from_numpy(value) for name, value in arrays.items()}
    )
    assert (tmp_path / "f").read_bytes() == (tmp_path / "g").read_bytes()


def test_npy_is_numpys_to_the_byte(tmp_path: Path) -> None:
    value = np.arange(120, dtype=np.uint8).reshape(5, 2, 4, 3)
    write_npy(tmp_path / "a.npy", ArrayWriter("uint8", value.shape, iter([value[:1], value[1:]])))
    np.save(tmp_path / "b.npy", value)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


@pytest.mark.parametrize(
    "parts", [[np.zeros((2, 3))], [np.zeros((4, 2))], []], ids=["too few", "other width", "none"]
)
def test_parts_that_do_not_make_the_whole_leave_the_old_file(
    tmp_path: Path, parts: list[np.ndarray]
) -> None:
    (tmp_path / "f").write_text("old")
    with pytest.raises(ValueError, match="array of shape"):
        write_safetensors(tmp_path / "f", {"x": ArrayWriter("float32", (4, 3), parts)})
    assert (tmp_path / "f").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


# -- the whole way ---------------------------------------------------------------------------------


def test_ranges_in_passes_are_those_of_all_frames() -> None:
    episodes = [with_images(i, 8 + i) for i in range(5)]
    keys = [key for key in episodes[0].obs if key != "front"]
    whole = Normalizer.fit(
        {key: torch.from_numpy(np.concatenate([e.obs[key] for e in episodes])) for key in keys},
        torch.from_numpy(np.concatenate([e.actions for e in episodes])),
    )
    passes = fit_normalizer(episodes)
    assert list(passes.obs_dims) == keys
    for name, value in whole.state_dict().items():
        assert value.numpy().tobytes() == passes.state_dict()[name].numpy().tobytes(), name


def test_good_episodes_are_on_disk_and_stores_from_there_are_the_same(tmp_path: Path) -> None:
    write_demo_file(tmp_path / "data" / "a.hdf5", 6)
    result = read_all(
        find_sources(tmp_path / "data"), limits=ValidationLimits(), folder=tmp_path / "runs"
    )
    assert not isinstance(result.good, tuple | list)
    used = choose(result.good, exclude_failures=True, max_episodes=4)
    assert [e.name for e in used] == ["a/demo_0", "a/demo_1", "a/demo_2", "a/demo_4"]
    EpisodeStore.write(tmp_path / "lazy", used, fit_normalizer(used))
    eager = [Episode(**vars(e)) for e in used]
    EpisodeStore.write(tmp_path / "eager", eager, fit_normalizer(eager))
    assert durable.digest(tmp_path / "lazy") == durable.digest(tmp_path / "eager")
    assert list((tmp_path / "runs").iterdir()) == []


def test_memory_does_not_grow_with_the_number_of_episodes(tmp_path: Path) -> None:
    """Allocations while 60 episodes of 240 kB go from file to store stay below three of them."""
    write_demo_file(tmp_path / "data" / "a.hdf5", 60, length=1000)
    size = sum(
        value.nbytes
        for value in (*make_episode(0, 1000).obs.values(), make_episode(0, 1000).actions)
    )
    read_all(
        find_sources(write_demo_file(tmp_path / "b.hdf5", 1)), limits=ValidationLimits()
    )  # what is imported once
    tracemalloc.start()
    result = read_all(find_sources(tmp_path / "data"), limits=ValidationLimits(jump_m=10))
    EpisodeStore.write(tmp_path / "store", result.good, fit_normalizer(result.good))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(result.good) == 60
    assert peak < 12 * size, f"{peak} bytes for 60 episodes of {size}"
