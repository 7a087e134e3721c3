"""Copies are whole or not there; nothing of a stranger's folder leads out of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from zprl import durable
from zprl.data.safe_copy import contents, copy_whole, same, sweep
from zprl.errors import ConfigError, DataError, EnvironmentProblem


class Struck(BaseException):
    """Stands for a kill."""


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    folder = tmp_path / "set"
    (folder / "meta").mkdir(parents=True)
    (folder / "meta/info.json").write_text("{}")
    (folder / "data.bin").write_bytes(os.urandom(10_000))
    (folder / ".cache").mkdir()
    (folder / ".cache/x").write_text("hidden")
    (folder / ".git").write_text("hidden")
    return folder


def test_a_folder_goes_without_what_is_hidden(recording: Path, tmp_path: Path) -> None:
    copy_whole(recording, tmp_path / "to/copy")
    assert sorted(
        p.relative_to(tmp_path / "to").as_posix() for p in (tmp_path / "to").rglob("*")
    ) == [
        "copy",
        "copy/data.bin",
        "copy/meta",
        "copy/meta/info.json",
    ]
    assert same(recording, tmp_path / "to/copy")
    assert (recording / ".cache/x").exists(), "never moved"
    (tmp_path / "to/copy/meta/info.json").write_text("[]")
    assert not same(recording, tmp_path / "to/copy")


def test_nothing_is_overwritten(recording: Path, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("mine")
    with pytest.raises(ConfigError, match="never overwritten"):
        copy_whole(recording, tmp_path / "there")
    assert (tmp_path / "there").read_text() == "mine"
    with pytest.raises(ConfigError, match="lies inside"):
        copy_whole(recording, recording / "meta/copy")


def test_links(recording: Path, tmp_path: Path) -> None:
    (recording / "inner").symlink_to("data.bin")
    copy_whole(recording, tmp_path / "copy")
    assert (tmp_path / "copy/inner").read_bytes() == (recording / "data.bin").read_bytes()
    assert not (tmp_path / "copy/inner").is_symlink()
    (tmp_path / "secret").write_text("key")
    (recording / "outer").symlink_to(tmp_path / "secret")
    with pytest.raises(DataError, match="link out of its folder"):
        copy_whole(recording, tmp_path / "again")
    (recording / "outer").unlink()
    (recording / "folder").symlink_to(tmp_path)
    with pytest.raises(DataError, match="link out of its folder"):
        list(contents(recording))


def test_an_empty_folder_is_no_recording(tmp_path: Path) -> None:
    (tmp_path / "empty/inner").mkdir(parents=True)
    with pytest.raises(DataError, match="holds no files"):
        copy_whole(tmp_path / "empty", tmp_path / "copy")


@pytest.mark.parametrize("strike", [1, 2, 3])
def test_struck_at_every_operation_the_target_is_not_there(
    strike: int, recording: Path, tmp_path: Path, monkeypatch
) -> None:
    seen = 0

    def operation(name: str, path: Path) -> None:
        nonlocal seen
        seen += 1
        if seen == strike:
            raise Struck

    monkeypatch.setattr(durable, "operation", operation)
    with pytest.raises(Struck):
        copy_whole(recording, tmp_path / "to/copy")
    assert list((tmp_path / "to").iterdir()) == []


def test_what_a_kill_left_is_swept(recording: Path, tmp_path: Path) -> None:
    (tmp_path / "to/.copy.77.partial").mkdir(parents=True)
    (tmp_path / "to/.a.hdf5.78.partial").write_text("half")
    sweep(tmp_path / "to")
    assert list((tmp_path / "to").iterdir()) == []


def test_a_full_disk_is_an_environment_problem(
    recording: Path, tmp_path: Path, monkeypatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(EnvironmentProblem, match="no space left"):
        copy_whole(recording, tmp_path / "to/copy")
    assert list((tmp_path / "to").iterdir()) == []
