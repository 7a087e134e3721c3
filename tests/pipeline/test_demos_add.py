"""``zprl demos add`` in a throw-away git and DVC project, killed at each step, and asked for the same twice."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.factories import ENV_ARGS, make_episode, write_demo_file
from tests.minari_files import write_minari_file
from tests.pipeline.conftest import Project
from zprl.data.writers.robomimic import RobomimicWriter

KILLED = """
import os, signal, sys
from zprl import cli, durable
import pipelines.add_demos as adding

at = sys.argv.pop(1)

def strike(name):
    if name == at:
        os.kill(os.getpid(), signal.SIGKILL)

durable.operation = lambda name, path: strike(f"{name} {path.name}")
real = adding.version

def version(data):
    strike("version")
    real(data)
    strike("versioned")

adding.version = version
cli.main()
"""


def files(project: Project) -> list[str]:
    """All below data/, hidden ones too."""
    data = project.path / "data"
    return sorted(path.relative_to(data).as_posix() for path in data.rglob("*") if path.is_file())


def versioned(project: Project) -> int:
    """Files that data.dvc stands for."""
    (out,) = yaml.safe_load((project.path / "data.dvc").read_text())["outs"]
    return int(out["nfiles"])


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Where recordings come from."""
    return tmp_path / "outside"


@pytest.fixture
def project(project: Project) -> Project:
    (project.path / "params.yaml").write_text("ingest: {reader: auto}\n")
    return project


def test_from_a_recording_to_the_commit(project: Project, outside: Path) -> None:
    monday = write_demo_file(outside / "monday.hdf5", 4)
    dry = project.zprl("demos", "add", str(monday), "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "4 episodes would come to data/demos/monday.hdf5" in dry.stdout
    assert not (project.path / "data").exists()

    done = project.zprl("demos", "add", str(monday))
    assert done.returncode == 0, done.stderr
    assert monday.exists(), "copied, never moved"
    assert files(project) == ["demos/monday.hdf5"]
    assert versioned(project) == 1
    assert (
        "| `data/demos/monday.hdf5` | robomimic | 4 | 166 |"
        in (project.path / "DATASET.md").read_text()
    )
    command = re.search(r"git add .*&& git commit -m '[^']*'", done.stdout)
    assert command, done.stdout
    assert (
        project.run(
            "sh", "-c", f"git config user.name t; git config user.email t@t; {command[0]}"
        ).returncode
        == 0
    )
    assert (
        project.run("git", "status", "--porcelain", "data.dvc", "DATASET.md", ".gitignore").stdout
        == ""
    )

    # The same recording once more, also under another name: refused with its code, and nothing
    # changes.
    before = (project.path / "data.dvc").read_text()
    for name in ([], ["--name", "tuesday"]):
        again = project.zprl("demos", "add", str(monday), *name)
        assert again.returncode == 3
        assert "D13" in again.stdout
        assert "the same content as monday/demo_0" in again.stdout
    assert files(project) == ["demos/monday.hdf5"]
    assert (project.path / "data.dvc").read_text() == before

    # A second one joins; the card tells of both.
    other = write_demo_file(outside / "more.hdf5", 3, seed=50)
    assert project.zprl("demos", "add", str(other), "--name", "tuesday").returncode == 0
    assert files(project) == ["demos/monday.hdf5", "demos/tuesday.hdf5"]
    assert (
        "7 good episodes, 0 with errors, from 2 sources"
        in (project.path / "DATASET.md").read_text()
    )

    # What is versioned and not here would be dropped by `dvc add`: refused before anything is read.
    (project.path / "data/demos/monday.hdf5").unlink()
    third = write_demo_file(outside / "third.hdf5", 1, seed=90)
    lost = project.zprl("demos", "add", str(third))
    assert lost.returncode == 3
    assert "data/demos/monday.hdf5" in lost.stderr
    assert "dvc pull" in lost.stderr
    assert versioned(project) == 2


@pytest.mark.parametrize(
    "at",
    [
        *(
            pytest.param(at, marks=pytest.mark.exhaustive)
            for at in ("write .a.hdf5", "rename a.hdf5")
        ),
        "rename DATASET.md",
        "version",
    ],
)
def test_killed_and_asked_again(at: str, project: Project, outside: Path) -> None:
    recording = write_demo_file(outside / "a.hdf5", 2)
    (project.path / "killed.py").write_text(KILLED)
    if at.startswith("write .a"):  # its name has the process's number
        (project.path / "killed.py").write_text(
            KILLED.replace("path.name}", "path.name.split('.hdf5')[0]}.hdf5")
        )
    killed = project.run(sys.executable, "killed.py", at, "demos", "add", str(recording))
    assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
    assert not (project.path / "data.dvc").exists()
    assert not any(name.endswith(".hdf5") and name != "demos/a.hdf5" for name in files(project)), (
        "what is half there is no recording"
    )

    again = project.zprl("demos", "add", str(recording))
    assert again.returncode == 0, again.stderr
    assert files(project) == ["demos/a.hdf5"]
    assert versioned(project) == 1
    assert "git add" in again.stdout


def test_what_is_wrong_stays_out(project: Project, outside: Path) -> None:
    outside.mkdir()
    bad = make_episode(1)
    bad.actions[5, 0] = np.nan
    with RobomimicWriter(outside / "bad.hdf5", ENV_ARGS) as writer:
        writer.write(make_episode(0))
        writer.write(bad)
    done = project.zprl("demos", "add", str(outside / "bad.hdf5"))
    assert done.returncode == 3
    assert "D04" in done.stdout
    assert "1 findings keep" in done.stderr
    assert not (project.path / "data").exists()

    # A reader that the pipeline does not use: the recording would be refused at night.
    (project.path / "params.yaml").write_text(
        "ingest: {reader: robomimic, obs_keys: [observation]}\n"
    )
    write_minari_file(outside / "m.hdf5")
    other = project.zprl("demos", "add", str(outside / "m.hdf5"))
    assert other.returncode == 2
    assert "set ingest.reader to auto" in other.stderr

    # An observation that the policy sees is missing.
    write_demo_file(outside / "a.hdf5", 2)
    missing = project.zprl("demos", "add", str(outside / "a.hdf5"))
    assert missing.returncode == 3
    assert "D22" in missing.stdout
    assert not (project.path / "data").exists()


def test_a_data_set_of_minari_comes_with_its_folder(project: Project, outside: Path) -> None:
    (project.path / "params.yaml").write_text(
        "ingest: {reader: auto, obs_keys: [observation]}\npolicy: {horizon: 4, chunk_steps: 4}\n"
    )
    (outside / "door/data").mkdir(parents=True)
    file = write_minari_file(outside / "door/data/main_data.hdf5", episodes=2)
    (outside / "door/data/metadata.json").write_text("{}")
    done = project.zprl("demos", "add", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert files(project) == ["demos/door/data/main_data.hdf5", "demos/door/data/metadata.json"]


def test_one_that_lies_there_already_is_only_versioned(project: Project) -> None:
    write_demo_file(project.path / "data/demos/here.hdf5", 2)
    (project.path / "data/demos/.old.hdf5.1.partial").write_text("left by a broken copy")
    done = project.zprl("demos", "add", "data/demos/here.hdf5")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "in its place already" in done.stdout
    assert files(project) == ["demos/here.hdf5"]
    assert versioned(project) == 1


def test_two_at_a_time(project: Project, outside: Path) -> None:
    import fcntl

    (project.path / ".dvc/tmp").mkdir(exist_ok=True)
    with open(project.path / ".dvc/tmp/zprl-demos-add.lease", "w") as lease:
        fcntl.flock(lease, fcntl.LOCK_EX)
        lease.write(f"{os.getpid()}\n")
        lease.flush()
        done = project.zprl("demos", "add", str(write_demo_file(outside / "a.hdf5", 1)))
    assert done.returncode == 4
    assert f"pid {os.getpid()}" in done.stderr
