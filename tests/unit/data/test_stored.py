"""Arrays that stay in the source: their places, and files that change between two processes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import h5py
import numpy as np
import pytest

from tests.factories import make_episodes
from zprl import durable
from zprl.data.episode import Episode
from zprl.data.findings import Finding
from zprl.data.readers import handover
from zprl.data.readers.handover import SCRATCH, SOURCE, Handed, hand_over
from zprl.data.readers.robomimic import RobomimicReader

NUMBERS = np.arange(600, dtype=np.float32).reshape(200, 3)


@pytest.fixture(params=[0, 1024])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file with and without a block of the user's own before HDF5 begins."""
    place = tmp_path / "f.hdf5"
    with h5py.File(place, "w", userblock_size=request.param) as file:
        file["first"] = np.zeros(7)
        file["plain"] = NUMBERS
        file["turned"] = NUMBERS.astype(">f4")
        file.create_dataset("cut", data=NUMBERS, chunks=(10, 3))
        file.create_dataset("squeezed", data=NUMBERS, compression="gzip")
        file.create_dataset("declared", (5, 3), np.float32)
        file["nothing"] = np.zeros((0, 3), np.float32)
    return place


def test_a_run_of_numbers_is_where_it_says(path: Path) -> None:
    with h5py.File(path) as file, handover.source(path), path.open("rb") as opened:
        found = handover.view(file["plain"])
        assert found is not None
        assert np.array_equal(found, NUMBERS)
        for part, same in (
            (found, NUMBERS),
            (found[:, None], NUMBERS[:, None]),
            (found[50:60], NUMBERS[50:60]),
        ):
            offset = handover.place(part)
            assert offset is not None
            again = handover.read_array(opened.fileno(), "<f4", same.shape, offset)
            assert np.array_equal(again, same)
            assert not again.flags.writeable
        assert handover.place(found[:, 1]) is None
        assert handover.place(found + 0) is None
        with pytest.raises(EOFError):
            handover.read_array(
                opened.fileno(), "<f4", (200, 3), os.fstat(opened.fileno()).st_size - 16
            )


@pytest.mark.parametrize("name", ["cut", "squeezed", "declared", "nothing"])
def test_what_must_be_decoded_is_left_to_the_library(path: Path, name: str) -> None:
    with h5py.File(path) as file, handover.source(path):
        assert handover.view(file[name]) is None


def test_numbers_the_other_way_round_are_turned(path: Path) -> None:
    with h5py.File(path) as file, handover.source(path):
        assert handover.view(file["turned"]) is None
    with h5py.File(path) as file:
        assert handover.view(file["plain"]) is None, "without a source nothing can be looked at"


def _written(path: Path) -> list[Episode]:
    """Episodes as robomimic writes them; rewards of another type, which must be converted."""
    episodes = make_episodes(3)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "made", "env_type": 1, "env_kwargs": {}})
        for number, episode in enumerate(episodes):
            demo = data.create_group(f"demo_{number}")
            demo.attrs["num_samples"] = episode.length
            demo.attrs["success"] = episode.success
            for key, value in episode.obs.items():
                demo[f"obs/{key}"] = value
            demo["actions"], demo["rewards"], demo["dones"] = (
                episode.actions,
                episode.rewards.astype(np.float64),
                episode.dones,
            )
    return episodes


def _handed(path: Path, items: Iterator[Episode | Finding] | None = None) -> tuple[BinaryIO, dict]:
    file = durable.scratch()
    return file, json.loads(
        json.dumps(
            hand_over(RobomimicReader().read_here(path) if items is None else items, file, path)
        )
    )


def test_only_what_is_converted_is_copied(tmp_path: Path) -> None:
    path = tmp_path / "demos.hdf5"
    episodes = _written(path)
    file, answer = _handed(path)
    *_, keys, places = answer["items"][0]
    assert [where for *_, where, _ in places] == [SOURCE] * (len(keys) + 1) + [SCRATCH] * 2
    for found, written in zip(Handed(file, answer).items(path), episodes, strict=True):
        assert isinstance(found, Episode)
        assert list(found.obs) == sorted(written.obs)
        assert all(np.array_equal(found.obs[key], written.obs[key]) for key in written.obs)
        assert np.array_equal(found.actions, written.actions)
        assert np.array_equal(found.rewards, written.rewards)


def test_a_file_that_changes_between_the_two_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "demos.hdf5"
    _written(path)
    for change in (
        lambda: os.utime(path, ns=(1, 1)),
        lambda: path.unlink(),
        lambda: path.write_bytes(b""),
    ):
        _written(path)
        handed = Handed(*_handed(path))
        change()
        (finding,) = handed.items(path)
        assert isinstance(finding, Finding)
        assert finding.code == "D01"


def test_a_file_cut_short_while_it_is_read_is_refused_from_there_on(tmp_path: Path) -> None:
    path = tmp_path / "demos.hdf5"
    _written(path)
    rest = Handed(*_handed(path)).items(path)
    assert isinstance(next(rest), Episode)
    os.truncate(path, 100)
    (finding,) = rest
    assert isinstance(finding, Finding)
    assert finding.code == "D01"
    assert "ends before" in finding.message
