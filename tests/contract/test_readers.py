"""What every registered reader promises, whatever the file holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.factories import write_demo_file
from tests.isaaclab_files import write_isaaclab_file
from tests.lerobot_files import write_lerobot
from tests.minari_files import write_minari_file
from tests.session_factories import write_session
from zprl import plugins
from zprl.data.episode import QUALITIES, Episode
from zprl.data.findings import CODES, Finding

SEEN = {
    "robot0_eef_pos": np.linspace(0, 1, 21).reshape(7, 3),
    "object": np.linspace(1, 2, 14).reshape(7, 2),
}
WRITERS = {
    "isaaclab": lambda folder: write_isaaclab_file(folder / "good.hdf5", episodes=3),
    "lerobot": lambda folder: write_lerobot(
        folder / "good", names=[*(f"robot0_eef_pos.{i}" for i in range(2)), "object.0"]
    ),
    "robomimic": lambda folder: write_demo_file(folder / "good.hdf5", 3),
    "minari": lambda folder: write_minari_file(folder / "good.hdf5", episodes=3, observations=SEEN),
    "session": lambda folder: write_session(
        folder / "good", labels=("success", "failure", "success")
    ),
}


@pytest.fixture(params=plugins.names("readers"))
def reader_name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_name_matches_entry_point(reader_name: str) -> None:
    assert plugins.load("readers", reader_name).name == reader_name


def test_good_file(reader_name: str, tmp_path: Path) -> None:
    assert reader_name in WRITERS, "add a writer of a small good file for the new reader"
    path = WRITERS[reader_name](tmp_path)
    items = list(plugins.load("readers", reader_name)().read(path))
    assert items
    names = [item.name for item in items]
    assert len(set(names)) == len(names)
    for item in items:
        assert isinstance(item, Episode)
        assert item.name.startswith("good/")
        assert item.quality in QUALITIES
        assert item.dones.dtype == np.bool_
        for array in (*item.obs.values(), item.actions, item.rewards):
            assert array.dtype == np.float32
            assert len(array) == item.length
            assert np.isfinite(array).all()
        assert item.rewards.ndim == item.dones.ndim == 1
        assert all(value.ndim == 2 for value in (*item.obs.values(), item.actions))


def test_keys_come_in_the_order_asked_for(reader_name: str, tmp_path: Path) -> None:
    path = WRITERS[reader_name](tmp_path)
    keys = ("object", "robot0_eef_pos")
    for wanted in (keys, keys[::-1]):
        assert [
            tuple(item.obs)
            for item in plugins.load("readers", reader_name)(obs_keys=wanted).read(path)
        ] == [wanted] * 3


def test_reading_twice_is_the_same(reader_name: str, tmp_path: Path) -> None:
    path = WRITERS[reader_name](tmp_path)
    reader = plugins.load("readers", reader_name)()
    assert [e.content_hash() for e in reader.read(path)] == [
        e.content_hash() for e in reader.read(path)
    ]


@pytest.mark.parametrize(
    "content",
    [None, b"", b"\x89HDF\r\n\x1a\n" + b"\xff" * 2000],
    ids=["missing", "empty", "garbage"],
)
def test_a_bad_file_is_a_finding(reader_name: str, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "bad.hdf5"
    if content is not None:
        path.write_bytes(content)
    (finding,) = plugins.load("readers", reader_name)().read(path)
    assert isinstance(finding, Finding)
    assert finding.code in CODES
    assert finding.severity == "error"
    assert finding.file == path.as_posix()
    assert finding.message
    assert finding.remedy


def test_an_empty_folder_is_a_finding(reader_name: str, tmp_path: Path) -> None:
    reader = plugins.load("readers", reader_name)()
    if reader.suffixes:
        pytest.skip("its sources are files")
    folder = tmp_path / "bad"
    folder.mkdir()
    assert not reader.owns(folder)
    assert reader.facts(folder) == {}
    (finding,) = reader.read(folder)
    assert finding.severity == "error"
    assert finding.file == folder.as_posix()
