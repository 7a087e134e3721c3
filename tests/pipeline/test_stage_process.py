"""One stage as a child: its own exit code, no orphan, patience with DVC's lock."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from pipelines import stage_process
from pipelines.stage_process import StageError, run_stage
from tests.pipeline.conftest import Project


@pytest.fixture
def here(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(project.path)
    monkeypatch.setenv("ZPRL_TRACKING", "off")
    return project


def test_lines_stream_and_the_second_time_is_skipped(here: Project) -> None:
    lines: list[str] = []
    assert not run_stage("first", lines.append).skipped
    assert "[first] step 3 of 3" in lines
    assert run_stage("first", lines.append).skipped
    assert len(here.attempts("first")) == 1


def test_the_stage_s_own_exit_code_comes_through(here: Project) -> None:
    here.mode("first", "bad")
    lines: list[str] = []
    with pytest.raises(StageError) as caught:
        run_stage("first", lines.append)
    assert caught.value.exit_code == 3
    assert any("episode 3 is broken" in line for line in lines)
    assert not any("Traceback" in line for line in lines)


def test_a_killed_stage_is_a_bug_that_may_be_tried_again(here: Project) -> None:
    here.mode("first", "crash once")
    with pytest.raises(StageError) as caught:
        run_stage("first", lambda _: None)
    assert caught.value.exit_code == 1
    assert not run_stage("first", lambda _: None).skipped


def test_a_busy_workspace_is_waited_for(here: Project) -> None:
    here.mode("first", "slow")
    other = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "first"],
        cwd=here.path,
        env=here.environment(),
        start_new_session=True,
    )
    try:
        here.wait_for((here.path / "waiting").exists)
        lines: list[str] = []

        def say(line: str) -> None:
            lines.append(line)
            if "trying again" in line:  # by now we have seen the lock: let the other finish
                here.mode("first", "")
                other.wait(300)

        assert run_stage("first", say, poll_s=0.1).skipped  # the other one did the work
        assert any("trying again" in line for line in lines)
    finally:
        stage_process.stop_group(other, grace=(0.0, 0.0, 5.0))


def test_a_stage_that_is_a_script_finds_what_lies_beside_it(
    here: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under ``dvc repro`` alone: the safe path is for what zprl starts itself."""
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    (here.path / "beside.py").touch()
    (here.path / "toy.py").write_text("import beside\n" + (here.path / "toy.py").read_text())
    assert not run_stage("first", print).skipped


def test_stopping_a_group_leaves_nobody(tmp_path: Path) -> None:
    code = "import os, signal, sys, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nos.write(1, b'%d\\n' % os.fork())\ntime.sleep(60)\n"
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert child.stdout is not None
    grandchild = max(int(child.stdout.readline()), int(child.stdout.readline()))
    stage_process.stop_group(child, grace=(0.2, 5.0, 5.0))
    assert child.returncode is not None
    assert (
        not psutil.pid_exists(grandchild)
        or psutil.Process(grandchild).status() == psutil.STATUS_ZOMBIE
    )


def test_a_stage_does_not_outlive_a_killed_parent(here: Project) -> None:
    here.mode("first", "slow")
    code = "from pipelines.stage_process import run_stage\nrun_stage('first', print)\n"
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=here.path,
        env=here.environment(),
        stdout=subprocess.DEVNULL,
    )
    here.wait_for((here.path / "waiting").exists)
    stage = psutil.Process(here.attempts("first")[0])
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs([stage], timeout=30)
    assert not alive
