"""The real flow on a throw-away project: order, nothing twice, exit codes, signals, tracking."""

from __future__ import annotations

import os
import signal
import socket

import psutil
import pytest

from tests.pipeline.conftest import Project, ask, make_project

pytestmark = pytest.mark.services


def flow_runs(project: Project) -> dict[str, dict]:
    """Prefect's view: flow runs by id."""
    found = ask(project, "POST", "/flow_runs/filter", json={"sort": "START_TIME_DESC"})
    return {run["id"]: run for run in found}


def test_stages_run_in_order_as_children_of_one_mlflow_run(
    served: Project, tmp_path_factory: pytest.TempPathFactory
) -> None:
    served.env["ZPRL_TRACKING"] = "on"
    served.env["MLFLOW_TRACKING_URI"] = f"sqlite:///{served.path}/mlflow.db"
    done = served.zprl("run")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (served.path / "last.txt").read_text() == "lastmiddlefirst"
    assert "first → middle → last" in done.stdout
    assert (
        "[first] step 3 of 3" in done.stdout + done.stderr
    )  # lines of the stage reach the terminal

    from mlflow import MlflowClient

    client = MlflowClient(served.env["MLFLOW_TRACKING_URI"])
    runs = {
        run.info.run_name: run
        for run in client.search_runs([client.get_experiment_by_name("zprl").experiment_id])
    }
    assert set(runs) == {"pipeline", "first", "middle", "last"}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    parent = runs.pop("pipeline")
    for name, run in runs.items():
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.tags["dvc.stage"] == name
        assert len(client.get_metric_history(run.info.run_id, "loss")) == 3
    assert len(parent.data.tags["dvc.lock.last.txt"]) == 32

    again = served.zprl("run")  # DVC says there is nothing to do, before Prefect is even imported
    assert again.returncode == 0
    assert "up to date" in again.stdout
    assert len(served.attempts("first")) == 1

    alone = make_project(tmp_path_factory.mktemp("alone") / "project", {})
    assert alone.dvc("repro").returncode == 0
    assert (alone.path / "dvc.lock").read_text() == (served.path / "dvc.lock").read_text()


def test_bad_data_is_not_tried_again_and_keeps_its_exit_code(served: Project) -> None:
    served.mode("middle", "bad")
    done = served.zprl("run")
    text = done.stdout + done.stderr
    assert done.returncode == 3, text[-3000:]
    assert "episode 3 is broken" in text
    assert "Traceback" not in text
    assert [len(served.attempts(name)) for name in ("first", "middle", "last")] == [1, 1, 0]
    served.mode("middle", "")
    assert served.zprl("run").returncode == 0
    assert [len(served.attempts(name)) for name in ("first", "middle", "last")] == [
        1,
        2,
        1,
    ]  # it continued where it failed


def test_a_crash_is_tried_again(served: Project) -> None:
    served.mode("middle", "crash once")
    done = served.zprl("run")
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(served.attempts("middle")) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_polite_stop_leaves_no_orphan_and_is_resumable(
    number: signal.Signals, request: pytest.FixtureRequest
) -> None:
    """SIGTERM with the server that a run starts where none runs: it is a child like the others."""
    project: Project = request.getfixturevalue("served" if number == signal.SIGINT else "project")
    project.mode("middle", "slow")
    running = project.start("run")
    project.wait_for((project.path / "waiting").exists)
    stage = psutil.Process(project.attempts("middle")[0])
    family = [*psutil.Process(running.pid).children(recursive=True), stage]
    servers = [process for process in family if "pipelines.server_process" in process.cmdline()]
    running.send_signal(number)
    code = running.wait(timeout=120)
    log = (project.path / "log").read_text()
    assert code == 5, log[-3000:]
    _, alive = psutil.wait_procs(family, timeout=15)
    assert alive == []
    assert "stopping at the next resume point" in log
    project.mode("middle", "")
    done = project.zprl("run")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "step 3 of 3" in done.stdout + done.stderr
    assert (
        "[middle] step 1 of 3" not in done.stdout + done.stderr
    )  # it continued, it did not start afresh
    assert len(project.attempts("first")) == 1
    if number == signal.SIGTERM:
        assert len(servers) == 1
        assert (project.path / ".prefect").is_dir()  # nothing is written to the user's home


def test_a_killed_orchestrator_is_noticed_at_the_next_start(served: Project) -> None:
    served.mode("middle", "slow")
    running = served.start("run")
    served.wait_for((served.path / "waiting").exists)
    stage = psutil.Process(served.attempts("middle")[0])
    running.kill()
    running.wait()
    _, alive = psutil.wait_procs([stage], timeout=30)
    assert alive == []  # the kernel told the stage
    dead = next(
        run
        for run in flow_runs(served).values()
        if run["labels"].get("zprl.pid") == str(running.pid)
    )
    assert dead["state_type"] == "RUNNING"  # Prefect does not notice by itself
    served.mode("middle", "")
    assert served.zprl("run").returncode == 0
    assert flow_runs(served)[dead["id"]]["state_type"] == "CRASHED"


def test_one_stage_and_what_it_needs(served: Project) -> None:
    assert served.zprl("run", "--stage", "middle").returncode == 0
    assert (served.path / "middle.txt").exists()
    assert not (served.path / "last.txt").exists()
    assert served.zprl("run", "--stage", "lost").returncode == 2


def leave_a_dead_run(project: Project) -> str:
    """Make a running flow run whose process is dead; return its id."""
    flow = ask(project, "POST", "/flows/", json={"name": "zprl-pipeline"})
    labels = {
        "zprl.pid": "999999999",
        "zprl.host": socket.gethostname(),
        "zprl.pid_started": "1.00",
    }
    run = ask(
        project,
        "POST",
        "/flow_runs/",
        json={"flow_id": flow["id"], "labels": labels, "state": {"type": "RUNNING"}},
    )
    assert flow_runs(project)[run["id"]]["state_type"] == "RUNNING"
    return str(run["id"])


def test_a_dead_run_is_closed_where_everything_is_up_to_date(served: Project) -> None:
    assert served.dvc("repro").returncode == 0
    dead = leave_a_dead_run(served)
    done = served.zprl("run")
    assert "Everything is up to date." in done.stdout
    assert "closed 1 flow run(s)" in done.stderr
    assert flow_runs(served)[dead]["state_type"] == "CRASHED"


def test_a_dead_run_is_closed_when_a_worker_starts(served: Project) -> None:
    pool = f"closing-{os.getpid()}"
    assert served.zprl("prefect", "work-pool", "create", pool, "--type", "process").returncode == 0
    dead = leave_a_dead_run(served)
    done = served.zprl("prefect", "worker", "start", "--pool", pool, "--run-once")
    assert done.returncode == 0, done.stdout + done.stderr
    assert flow_runs(served)[dead]["state_type"] == "CRASHED"


def test_a_dead_run_is_closed_when_the_pages_open(project: Project) -> None:
    opened = project.open_ui()
    server = opened.servers["Prefect"]
    project.env["PREFECT_API_URL"] = f"{server.url}/api"
    project.env["PREFECT_API_AUTH_STRING"] = server.login
    dead = leave_a_dead_run(project)
    opened.process.send_signal(signal.SIGINT)
    assert opened.process.wait(timeout=120) == 0
    assert "stopped, and with it 1 flow run(s)" in (project.path / "log").read_text()

    project.env.clear()
    server = project.open_ui().servers["Prefect"]
    project.env["PREFECT_API_URL"] = f"{server.url}/api"
    project.env["PREFECT_API_AUTH_STRING"] = server.login
    assert flow_runs(project)[dead]["state_type"] == "CRASHED"
