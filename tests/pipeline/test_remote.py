"""Data to a user's own remote and back: a folder, and a real S3 API on loopback."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.stage_process import stop_group
from tests.pipeline.conftest import Project, free_port, make_project

ROOT = Path(__file__).parents[2]


def push_and_pull(project: Project, tmp_path: Path) -> None:
    """Version a batch, push it, lose everything local, pull it."""
    batch = project.path / "data/demos/batch.hdf5"
    batch.parent.mkdir(parents=True)
    batch.write_bytes(b"episodes" * 1000)
    for command in (("add", "-q", "data"), ("push", "-q", "data.dvc")):
        done = project.dvc(*command)
        assert done.returncode == 0, done.stderr
    other = make_project(tmp_path / "colleague", project.env)
    for name in ("data.dvc", ".dvc/config"):
        (other.path / name).write_bytes((project.path / name).read_bytes())
    done = other.dvc("pull", "-q", "data.dvc")
    assert done.returncode == 0, done.stderr
    assert (other.path / "data/demos/batch.hdf5").read_bytes() == batch.read_bytes()


def test_a_folder(project: Project, tmp_path: Path) -> None:
    assert project.dvc("remote", "add", "-q", "-d", "team", str(tmp_path / "share")).returncode == 0
    push_and_pull(project, tmp_path)
    assert any((tmp_path / "share").rglob("*"))


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[str]:
    """Address of an S3 API on loopback, with a bucket."""
    port = free_port()
    log = tmp_path / "moto.log"
    with open(log, "w") as sink:
        code = "import signal, sys; from zprl.parent_death import die_with_parent; from moto.server import main; "
        code += "die_with_parent(int(sys.argv[1]), signal.SIGKILL); main(sys.argv[2:])"
        server = subprocess.Popen(
            [sys.executable, "-c", code, str(os.getpid()), "-H", "127.0.0.1", "-p", str(port)],
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        import httpx

        end = time.monotonic() + 60
        while True:
            try:
                httpx.put(f"{url}/bucket", timeout=5).raise_for_status()
                break
            except httpx.HTTPError:
                assert server.poll() is None and time.monotonic() < end, log.read_text()[-2000:]
                time.sleep(0.2)
        yield url
    finally:
        stop_group(server, grace=(5.0, 5.0, 5.0))


@pytest.mark.services
def test_s3(project: Project, s3: str, tmp_path: Path) -> None:
    project.env |= {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    assert project.dvc("remote", "add", "-q", "-d", "team", "s3://bucket/zprl").returncode == 0
    assert project.dvc("remote", "modify", "team", "endpointurl", s3).returncode == 0
    push_and_pull(project, tmp_path)


def test_the_project_s_own_remote_needs_no_network_and_no_absolute_path() -> None:
    config = (ROOT / ".dvc/config").read_text()
    assert "url = ../infra/starter-remote" in config
    assert not [
        line
        for line in config.splitlines()
        if "url" in line and ("://" in line or line.split("=")[1].strip().startswith("/"))
    ]
    assert "analytics = false" in config


@pytest.mark.skipif(os.name == "nt", reason="the shim is a shell script")
def test_the_interpreter_of_the_stages(tmp_path: Path) -> None:
    shim = ROOT / "pipelines/python"
    show = ["-c", "import sys; print(sys.executable)"]
    base = {"PATH": os.environ["PATH"]}
    chosen = tmp_path / "chosen"
    chosen.write_text("#!/bin/sh\necho chosen\n")
    chosen.chmod(0o755)

    def run(env: dict[str, str]) -> str:
        variables = {**base, **env}
        return subprocess.check_output([shim, *show], env=variables, text=True).strip()

    assert run({"ZPRL_PYTHON": str(chosen)}) == "chosen"
    (tmp_path / "venv/bin").mkdir(parents=True)
    (tmp_path / "venv/bin/python").symlink_to(chosen)
    assert run({"VIRTUAL_ENV": str(tmp_path / "venv")}) == "chosen"
    assert run({"VIRTUAL_ENV": str(tmp_path / "gone")}) != "chosen"
