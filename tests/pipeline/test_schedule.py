"""A schedule fires: with a wrong SQLAlchemy everything looks healthy and nothing ever runs, so only this proves it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipelines.stage_process import stop_group
from tests.pipeline.conftest import Project, ask

pytestmark = pytest.mark.services
ROOT = Path(__file__).parents[2]


def test_the_nightly_deployment_fires_and_runs_one_at_a_time(served: Project) -> None:
    wanted = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    nightly = wanted["deployments"][0]
    assert nightly["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}
    nightly["schedules"][0]["cron"] = (
        "* * * * *"  # each minute instead of each night; all else as it is
    )
    for deployment in wanted["deployments"]:
        file, flow = deployment["entrypoint"].split(":")
        assert (ROOT / file).exists()
        deployment["entrypoint"] = f"flow.py:{flow}"
    (served.path / "flow.py").write_text("from pipelines.flows import pipeline, session\n")
    (served.path / "prefect.yaml").write_text(yaml.safe_dump(wanted))
    served.mode("middle", "slow")

    prefect = (sys.executable, "-m", "zprl.cli", "prefect", "--no-prompt")
    pools = [
        ("work-pool", "create", each["work_pool"]["name"], "--type", "process")
        for each in wanted["deployments"]
    ]
    for command in (*pools, ("deploy", "--all")):
        done = served.run(*prefect, *command)
        assert done.returncode == 0, done.stdout + done.stderr
    deployment = ask(served, "GET", "/deployments/name/zprl-pipeline/nightly")

    def runs() -> dict[str, dict]:
        query = {"flow_runs": {"deployment_id": {"any_": [deployment["id"]]}}}
        return {run["id"]: run for run in ask(served, "POST", "/flow_runs/filter", json=query)}

    with open(served.path / "log", "w") as log:
        worker = subprocess.Popen(
            [*prefect, "worker", "start", "--pool", "zprl"],
            cwd=served.path,
            env=served.environment(),
            stdout=log,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    try:
        served.wait_for(
            (served.path / "waiting").exists, timeout=400
        )  # the schedule fired, a stage is at work
        fired = [run for run in runs().values() if run["state_type"] == "RUNNING"]
        assert len(fired) == 1
        assert fired[0]["auto_scheduled"]

        second = ask(served, "POST", f"/deployments/{deployment['id']}/create_flow_run", json={})
        served.wait_for(lambda: runs()[second["id"]]["state_type"] == "CANCELLED")
        assert "concurrency limit" in runs()[second["id"]]["state"]["message"]

        ask(served, "PATCH", f"/deployments/{deployment['id']}", json={"paused": True})
        served.mode("middle", "")
        served.wait_for(lambda: runs()[fired[0]["id"]]["state_type"] == "COMPLETED")
        assert (served.path / "last.txt").read_text() == "lastmiddlefirst"
    finally:
        stop_group(worker, grace=(20.0, 10.0, 5.0))
        ask(served, "DELETE", f"/deployments/{deployment['id']}")
