"""The MLflow store for real, on SQLite: continue, orphans, parents, artifacts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from zprl.run_dir import RunDir
from zprl.tracking import (
    PARENT_VARIABLE,
    SWITCH_VARIABLE,
    mlflow_tracker,
    open_pipeline_tracker,
    open_tracker,
)

PARAMS = {"run": {"seed": 3, "betas": [0.9, 0.99]}}
INPUTS = {"artifacts/episodes": "ab" * 32}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture(autouse=True)
def project(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One store for the module: making its schema takes seconds."""
    monkeypatch.chdir(store)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}/mlflow.db")
    for name in (PARENT_VARIABLE, SWITCH_VARIABLE, "DVC_STAGE", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)


def stage(store: Path, key: str, *, first: int, last: int, fail: bool = False) -> str:
    with (
        RunDir(store / "runs", "toy", {"key": key}) as run_dir,
        open_tracker("toy", run_dir=run_dir, params=PARAMS, inputs=INPUTS) as t,
    ):
        for step in range(first, last):
            t.log(step, loss=float(step))
        assert t.run_id is not None
        if fail:
            raise ValueError("bug")
        return t.run_id


def test_params_inputs_and_metrics_arrive(store: Path) -> None:
    run_id = stage(store, "arrive", first=0, last=3)
    run = mlflow_tracker.connect().get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"run.seed": "3", "run.betas": "[0.9, 0.99]"}
    assert run.data.tags["zprl.data_digest"] == INPUTS["artifacts/episodes"]
    assert run.inputs.dataset_inputs[0].dataset.name == "artifacts/episodes"
    assert run.info.artifact_uri.startswith((store / "mlartifacts").as_uri())


def test_a_second_attempt_continues_the_run_without_repeating_steps(store: Path) -> None:
    with pytest.raises(ValueError, match="bug"):
        stage(store, "continue", first=0, last=8, fail=True)
    run_id = stage(store, "continue", first=5, last=12)
    client = mlflow_tracker.connect()
    assert [m.step for m in client.get_metric_history(run_id, "loss")] == list(range(12))
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert "zprl.error" not in run.data.tags


def test_stages_are_children_and_follow_the_pipeline_that_continues_them(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        with open_pipeline_tracker("pipeline", params=PARAMS, inputs={}) as parent:
            monkeypatch.setenv(PARENT_VARIABLE, parent.run_id or "")
            child = stage(store, "child", first=0, last=1)
        assert (
            mlflow_tracker.connect().get_run(child).data.tags["mlflow.parentRunId"] == parent.run_id
        )


def test_a_killed_process_s_run_is_closed_at_the_next_start(store: Path) -> None:
    code = (
        "import os, signal\n"
        "from zprl.tracking import open_pipeline_tracker\n"
        "t = open_pipeline_tracker('dead', params={}, inputs={})\n"
        "print(t.run_id, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ)
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    run_id = done.stdout.split()[-1]
    client = mlflow_tracker.connect()
    assert client.get_run(run_id).info.status == "RUNNING"
    with open_pipeline_tracker("alive", params={}, inputs={}) as alive:
        assert client.get_run(run_id).info.status == "KILLED"
        mlflow_tracker.close_dead_runs(client)
        assert client.get_run(alive.run_id).info.status == "RUNNING"


def test_orphans_are_told_from_live_and_foreign_runs() -> None:
    own = mlflow_tracker.owner_tags()
    assert not mlflow_tracker.is_orphan(own)
    assert not mlflow_tracker.is_orphan({**own, "zprl.host": "elsewhere", "zprl.pid": "1"})
    assert not mlflow_tracker.is_orphan({})
    assert mlflow_tracker.is_orphan(
        {**own, "zprl.pid_started": "1.0"}
    )  # the process id was given to another process


def test_a_broken_store_does_not_break_the_stage(
    store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with (
        RunDir(store / "runs", "toy", {"key": "broken"}) as run_dir,
        open_tracker("t", run_dir=run_dir, params={}, inputs={}) as tracker,
    ):
        tracker.log(1, loss=1.0)
    assert tracker.run_id is None
    assert caplog.text.count("tracking failed") == 1


def test_tracking_can_be_switched_off(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH_VARIABLE, "off")
    monkeypatch.setattr(
        mlflow_tracker, "connect", lambda: pytest.fail("connected although switched off")
    )
    assert open_pipeline_tracker("x", params={}, inputs={}).run_id is None
