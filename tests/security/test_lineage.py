"""``zprl lineage`` asks no place that a bundle or a store of somebody else names."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.poisoned import Folder
from tests.small_policy import small_policy
from zprl import durable
from zprl.lineage import local
from zprl.models.bundle import save_policy

ZEROS = "0" * 64


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a file, an outside with another, and things that never end."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("secret")
    here = tmp_path / "project"
    here.mkdir()
    monkeypatch.chdir(here)
    (here / "inside").mkdir()
    (here / "inside/file").write_text("file")
    (here / "inside/link").symlink_to("file")
    (here / "linked").symlink_to(tmp_path / "outside")
    (here / "holds").mkdir()
    (here / "holds/secret").symlink_to(tmp_path / "outside/secret")
    (here / "kernel").symlink_to("/proc/kmsg")
    (here / "loop").symlink_to("loop")
    os.mkfifo(here / "pipe")
    (here / "pipes").mkdir()
    os.mkfifo(here / "pipes/pipe")
    with open(here / "huge", "wb") as file:
        file.truncate(2**42)
    return here


STRANGE = ("../outside/secret", "linked/secret", "linked", "holds", "kernel", "loop", "pipe", "pipes", "huge", "/proc/kmsg", "/dev/zero",
           "inside/../../outside/secret", ".", "", "a\0b", "/etc", "x" * 5000)  # fmt: skip


@pytest.mark.parametrize("path", STRANGE, ids=lambda path: path[:20] or "empty")
def test_nothing_strange_is_read(project: Path, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[object] = []
    monkeypatch.setattr(durable, "digest", lambda path: read.append(path) or ZEROS)
    assert local.Bytes().state(path, ZEROS) == "not looked at"
    assert read == []


def test_what_is_the_project_s_own_is_read(project: Path) -> None:
    own = durable.digest("inside/file")
    looks = local.Bytes()
    assert looks.state("inside/file", own) == looks.state("inside/link", own) == "same bytes"
    assert looks.state("inside", ZEROS) == "other bytes"
    assert looks.state("inside/none", ZEROS) == "not here"


def test_one_file_under_many_names_is_not_read_without_end(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "MAX_READ", 4 * local.FILE_COST)
    looks = local.Bytes()
    states = [looks.state("inside" + "/." * number + "/file", ZEROS) for number in range(6)]
    assert states == ["other bytes"] * 3 + ["not looked at"] * 3


def test_a_file_of_the_kernel_has_no_bytes(project: Path) -> None:
    (project / "inside/kernel").symlink_to("/proc/kmsg")
    durable.digest(project / "inside")


def test_a_bundle_that_names_such_paths_is_told(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    save_policy(folder.path / "bundle", small_policy(), {"inputs": {"/proc/kmsg": "1" * 64, "/etc/passwd": "2" * 64, "/root": ZEROS}})
    done = folder.run("timeout", "60", "zprl", "lineage", "--local", "--json", "bundle")
    assert done.returncode == 0, done.stderr
    (bundle,) = json.loads(done.stdout)["below"]
    assert {each["name"]: each["here"] for each in bundle["below"]} == dict.fromkeys(
        ("/proc/kmsg", "/etc/passwd", "/root"), "not looked at"
    )
