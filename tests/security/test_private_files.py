"""State is nobody else's to read; results, which people share, stay as they are."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.session_factories import create
from zprl import durable
from zprl.run_dir import RunDir
from zprl.tracking import SWITCH_VARIABLE, mlflow_tracker, open_pipeline_tracker


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_resume_state(tmp_path: Path) -> None:
    with RunDir(tmp_path / "runs", "pretrain", {"seed": 0}) as run:
        assert {mode(path) for path in (tmp_path / "runs", run.path.parent, run.path)} == {0o700}


def test_a_session(tmp_path: Path) -> None:
    with create(tmp_path / "session"):
        assert mode(tmp_path / "session") == 0o700


def test_the_tracking_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (SWITCH_VARIABLE, "ZPRL_ARTIFACT_LOCATION"):
        monkeypatch.delenv(name, raising=False)
    # MLflow keeps the store of a process by its address: a relative one would be another test's.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    (tmp_path / "note.txt").write_text("a")
    with open_pipeline_tracker("made", params={}, inputs={}) as tracker:
        tracker.log_file("note.txt")
        assert tracker.run_id is not None
    databases = list(tmp_path.glob("mlflow.db*"))
    assert databases
    assert {mode(path) for path in databases} == {0o600}
    assert mode(tmp_path / mlflow_tracker.ARTIFACT_FOLDER) == 0o700
    assert list((tmp_path / mlflow_tracker.ARTIFACT_FOLDER).rglob("note.txt"))


def test_what_is_there_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir(mode=0o755)
    (tmp_path / "file").write_text("kept")
    durable.private_file(tmp_path / "file")
    assert mode(durable.private_folder(tmp_path / "shared/new")) == 0o700
    assert (mode(tmp_path / "shared"), mode(tmp_path / "file")) == (0o755, 0o644)
    assert (tmp_path / "file").read_text() == "kept"


def test_a_folder_of_secrets_is_closed_even_if_it_is_there(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    assert mode(durable.private_folder(tmp_path / "open", close=True)) == 0o700
    assert mode(durable.private_folder(tmp_path / "new/inner", close=True)) == 0o700
    assert mode(tmp_path / "new") == 0o700


def test_results_are_shared(tmp_path: Path) -> None:
    durable.write_dir(
        tmp_path / "artifacts/base", lambda folder: durable.write_text(folder / "bundle.json", "{}")
    )
    assert (mode(tmp_path / "artifacts/base"), mode(tmp_path / "artifacts/base/bundle.json")) == (
        0o755,
        0o644,
    )
