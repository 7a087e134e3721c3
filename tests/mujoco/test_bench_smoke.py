"""A part of the smoke suite for real, from recording to the page, tracked in MLflow: a residual; on Ray a generator beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from zprl.bench import results

pytestmark = [pytest.mark.mujoco, pytest.mark.timeout(1500)]


@pytest.mark.parametrize(
    ("methods", "more"),
    [
        (("zprl",), ()),
        pytest.param(("zprl", "reinflow"), ("--ray", "local"), marks=pytest.mark.exhaustive),
    ],
)
def test_the_smoke_suite_runs_through(
    methods: tuple[str, ...], more: tuple[str, ...], tmp_path: Path
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    env = {**os.environ, "MLFLOW_TRACKING_URI": uri, "OMP_NUM_THREADS": "1"}
    chosen = [word for method in methods for word in ("--method", method)]
    command = [
        sys.executable,
        "-m",
        "zprl.cli",
        "bench",
        "smoke",
        "-j",
        "2",
        "--results",
        "out",
        *chosen,
        *more,
    ]
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=1450, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    points = results.read(tmp_path / "out/smoke.csv")
    steps = {}
    for point in points:
        steps.setdefault(point.method, []).append(point.env_steps)
    # 4 environments x 10 chunks x 4 steps x 2 segments; judged at the start, after the first
    # segment and at the end
    assert steps == {name: [0] if name == "base" else [0, 160, 320] for name in ("base", *methods)}
    runs = results.read_runs(tmp_path / "out/smoke.runs.json")
    assert {run.facts.method for run in runs} == set(steps)
    assert all((run.facts.updates > 0) == (run.facts.method != "base") for run in runs), (
        "every method has learnt something"
    )
    assert len({run.policy or run.stood_on for run in runs}) == 1, "all on the same policy"
    page = (tmp_path / "out/smoke.html").read_text()
    assert f"{4 - len(methods)} runs are missing" in page

    from mlflow import MlflowClient

    client = MlflowClient(uri)
    tracked = {
        run.info.run_name: run
        for run in client.search_runs([client.get_experiment_by_name("zprl").experiment_id])
    }
    cell = tracked["metaworld/reach-v3 · zprl · seed 0"]
    assert cell.data.tags["mlflow.parentRunId"] == tracked["bench smoke"].info.run_id
    assert cell.data.tags["method"] == "zprl"
    assert {run.info.status for run in tracked.values()} == {"FINISHED"}
    assert tracked["finetune_sim"].data.tags["mlflow.parentRunId"] in {
        run.info.run_id for run in tracked.values()
    }
