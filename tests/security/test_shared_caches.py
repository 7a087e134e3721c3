"""Other users of the machine and DVC's caches, which are unpickled: nothing that they can swap is ever read."""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest

from zprl import child_processes, doctor

ROW = """insert into Cache(key, raw, store_time, access_time, access_count, size, mode, value)
values(?, 0, 0, 0, 0, 0, 1, 'x')"""
"""A row of a table of DVC's, with a key that is unpickled."""


class Trap:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self._mark),)


def swappable(base: Path) -> list[Path]:
    """Folders below a folder that any user of the machine can replace by one of their own."""
    if not base.stat().st_mode & 0o001:
        return []
    open_to_all = base.stat().st_mode & 0o1002 == 0o002
    inside = [path for path in base.iterdir() if path.is_dir()]
    return [
        *(inside if open_to_all else []),
        *(path for each in inside for path in swappable(each)),
    ]


def swap(found: list[Path], mark: Path) -> None:
    """Replace caches by ones with an entry that runs code."""
    for token in found:
        if not (token / "links/cache.db").exists():
            continue
        copy = token.with_name(".copy")
        shutil.copytree(token, copy)
        with contextlib.closing(sqlite3.connect(copy / "links/cache.db")) as table, table:
            table.execute(ROW, (pickle.dumps(Trap(mark), 4),))
        token.rename(token.with_name(".was"))
        copy.rename(token)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose data DVC has added; the caches of its user lie in a folder that everybody may look into."""
    here = tmp_path / "project"
    (here / "data").mkdir(parents=True)
    (here / "data/a").write_text("a")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    (tmp_path / "caches").mkdir(mode=0o755)
    monkeypatch.delenv(child_processes.DVC_CACHE, raising=False)
    return here


def dvc(here: Path, *arguments: str, **more: str) -> None:
    command = child_processes.python("-m", "dvc", *arguments, "-q")
    subprocess.run(
        command, cwd=here, env=child_processes.environment(**more), check=False, capture_output=True
    )


@pytest.mark.parametrize("shared", [True, False], ids=["the folder that DVC would take", "ours"])
def test_a_child_that_runs_dvc_reads_nothing_that_another_user_can_swap(
    project: Path, tmp_path: Path, shared: bool
) -> None:
    base, more = tmp_path / "caches/zprl/dvc", {}
    if shared:
        base = tmp_path / "var"
        base.mkdir()
        more = {child_processes.DVC_CACHE: str(base)}
    dvc(project, "init", "--no-scm", **more)
    dvc(project, "add", "data", **more)
    assert list(base.glob("repo/*/links/cache.db")), "its caches lie there"

    swap(swappable(base), mark := tmp_path / "mark")
    shutil.rmtree(project / "data")
    dvc(project, "checkout", **more)
    assert mark.exists() == shared
    assert (base.stat().st_mode & 0o777 == 0o700) == (not shared)


def test_a_folder_of_ours_that_has_become_open_is_closed(project: Path, tmp_path: Path) -> None:
    folder = tmp_path / "caches/zprl/dvc"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    assert child_processes.environment()[child_processes.DVC_CACHE] == str(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    assert child_processes.environment(**{child_processes.DVC_CACHE: str(folder)})[
        child_processes.DVC_CACHE
    ] == str(folder)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_the_user_names_is_made_private(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.chmod(0o755)
    monkeypatch.chdir(project)
    monkeypatch.setenv(child_processes.DVC_CACHE, "own/caches")
    assert child_processes.environment()[child_processes.DVC_CACHE] == str(project / "own/caches")
    assert (project / "own/caches").stat().st_mode & 0o777 == 0o700


def test_without_a_home_there_is_a_private_folder(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    assert Path(child_processes.dvc_cache()).stat().st_mode & 0o777 == 0o700


def test_a_folder_of_another_user_is_not_ours(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = child_processes.private_folder("dvc")
    assert ours == tmp_path / "caches/zprl/dvc"
    monkeypatch.setattr(os, "geteuid", lambda: ours.stat().st_uid + 1)
    taken = child_processes.private_folder("dvc")
    assert taken != ours
    assert taken.stat().st_mode & 0o777 == 0o700


def test_the_pipeline_s_own_process_takes_the_private_folder(project: Path, tmp_path: Path) -> None:
    said = "import os; from pipelines import environment; environment.prepare(); print(os.environ['DVC_SITE_CACHE_DIR'])"
    env = {
        key: value
        for key, value in child_processes.environment().items()
        if key != child_processes.DVC_CACHE
    }
    done = subprocess.run(
        child_processes.python("-c", said),
        cwd=project,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(tmp_path / "caches/zprl/dvc")


@pytest.mark.parametrize(
    ("mode", "state"), [(0o700, "ok"), (0o755, "warning"), (0o777, "warning"), (None, "warning")]
)
def test_the_doctor_names_a_folder_that_others_can_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int | None, state: str
) -> None:
    folder = tmp_path / "cache"
    if mode is not None:
        folder.mkdir()
        folder.chmod(mode)
    monkeypatch.delenv(child_processes.DVC_CACHE, raising=False)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text(f"[core]\n    site_cache_dir = {folder}\n")
    found = {check.name: check for check in doctor.check_safety(tmp_path)}
    assert found["dvc cache"].state == state
    assert str(folder) in found["dvc cache"].text


@pytest.mark.parametrize(
    ("name", "given", "kept"),
    [
        ("PYTHONPATH", ":/a::b:/c d:./e:", "/a:/c d"),
        ("PYTHONPATH", ".", None),
        ("PYTHONPATH", "$ORIGIN/a", None),
        ("LD_LIBRARY_PATH", ":/a;;$ORIGIN/b:c/d:/e:", "/a:$ORIGIN/b:/e"),
        ("LD_LIBRARY_PATH", "", None),
    ],
)
def test_a_child_searches_no_part_that_means_its_working_folder(
    name: str, given: str, kept: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, given)
    assert child_processes.environment().get(name) == kept
    assert child_processes.environment(**{name: given}).get(name) == kept


@pytest.mark.parametrize(
    ("path", "warned"),
    [("/a:/b", False), ("/a:", True), ("a:/b", True), (":/b", True), ("", False)],
)
def test_the_doctor_names_a_search_path_that_means_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, warned: bool
) -> None:
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setattr(doctor, "_version", lambda _: None)
    assert [check.name for check in doctor.check_safety(tmp_path)] == ["PYTHONPATH"] * warned
