"""The Prefect flow: one task per DVC stage, in DVC's own order.

Who owns what: DVC decides what is up to date, Prefect when and where things run and who is
notified, MLflow what happened. ``dvc repro`` alone gives the same results; Prefect caches nothing
here, because its caches do not see files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipelines import environment

environment.prepare()  # before Prefect reads its settings

from prefect import flow, task  # noqa: E402
from prefect.artifacts import create_markdown_artifact, create_table_artifact  # noqa: E402
from prefect.cache_policies import NO_CACHE  # noqa: E402
from prefect.client.orchestration import get_client  # noqa: E402
from prefect.logging import get_run_logger  # noqa: E402
from prefect.runtime import flow_run  # noqa: E402

from pipelines import close_dead_runs, dvc_graph, servers, summary  # noqa: E402
from pipelines.stage_process import StageError, StageResult, run_stage, stream  # noqa: E402
from zprl import child_processes, config, errors, logs  # noqa: E402
from zprl.tracking import PARENT_VARIABLE, Tracker, open_pipeline_tracker  # noqa: E402

SESSION_STAGE = "finetune_real"
"""The stage that needs a session with the robot."""
PERMANENT = (2, 3, 4, 5, 6)
"""Exit codes that another try would only repeat, or that somebody asked for."""

logs.configure()
servers.embed()


def _worth_retrying(_task: Any, _run: Any, state: Any) -> bool:
    """Return whether a second try can help: after a crash it can, with bad data it cannot."""
    error = state.result(raise_on_failure=False)
    return not (isinstance(error, errors.ZprlError) and error.exit_code in PERMANENT)


@task(
    task_run_name="{stage}",
    retries=1,
    retry_delay_seconds=5,
    retry_condition_fn=_worth_retrying,
    cache_policy=NO_CACHE,
)
def run_one(stage: str) -> StageResult:
    """Bring one stage up to date and stream its lines."""
    return run_stage(stage, get_run_logger().info)


@task(task_run_name="robot_session", retries=0, cache_policy=NO_CACHE)
def live_session() -> None:
    """Run a session with the robot, unless there is one that fits; hand it to DVC."""
    code, _ = stream(child_processes.python("-m", "pipelines.robot_session"), get_run_logger().info)
    if code == errors.Interrupted.exit_code:
        raise errors.Interrupted("the session stopped on request")
    if code:
        raise StageError("robot_session", code)


@contextmanager
def _parent_run() -> Iterator[Tracker]:
    """Open the MLflow run that the stages' runs are children of."""
    data = summary.data_digest()
    inputs = {"data": data} if data else {}
    try:
        params = config.load().model_dump(mode="json")
    except errors.ConfigError:
        # The stages say it better, and a project may bring stages without our parameters.
        params = {}

    with open_pipeline_tracker("pipeline", params=params, inputs=inputs) as tracker:
        before = os.environ.get(PARENT_VARIABLE)
        if tracker.run_id is not None:
            os.environ[PARENT_VARIABLE] = tracker.run_id
        try:
            yield tracker
        finally:
            if before is None:
                os.environ.pop(PARENT_VARIABLE, None)
            else:
                os.environ[PARENT_VARIABLE] = before


def _reconcile() -> None:
    """Close flow runs that died, once this one is known as ours."""
    run_id = flow_run.get_id()
    if run_id is None:
        return
    from uuid import UUID

    with get_client(sync_client=True) as client:
        close_dead_runs.claim(client, UUID(run_id))
        if closed := close_dead_runs.close_dead_flow_runs(client, but=UUID(run_id)):
            get_run_logger().info("closed %d flow run(s) of killed processes", closed)


def _publish(parent: Tracker, results: list[StageResult]) -> None:
    """Publish tables and links in Prefect, hashes, metrics and report in MLflow."""
    hashes = dvc_graph.lock_hashes()
    rows = summary.success_rows()

    for output in hashes:
        parent.tag(**{f"dvc.lock.{output['output']}": output["md5"]})
    for row in rows:
        shown = [name for name in ("success_rate", "ci_low", "ci_high") if name in row]
        parent.log(0, **{f"{row['policy']}_{name}": row[name] for name in shown})
    for path in ("dvc.lock", "params.yaml", "artifacts/promotion.json", "artifacts/report"):
        if Path(path).exists():
            parent.log_file(path, "report" if path.endswith("report") else "")
    if parent.run_id is not None:
        parent.tag(**{"prefect.flow_run": flow_run.get_id()})

    if rows:
        create_table_artifact(
            key="success", table=rows, description="Success per policy, 95 % Wilson intervals"
        )
    if hashes:
        create_table_artifact(
            key="lineage", table=hashes, description="What dvc.lock records of this run"
        )
    create_markdown_artifact(
        key="pipeline",
        markdown=summary.markdown(results, rows, parent.run_id),
        description="Stages, results, links",
    )


def _session() -> None:
    """Run a session with the robot, unless there is one that fits."""
    from pipelines import robot_session

    if robot_session.standing(config.load()) is robot_session.Standing.DONE:
        return
    _demand_login()
    live_session()


def _demand_login() -> None:
    """Refuse to move a robot for a server that takes orders from strangers."""
    with get_client(sync_client=True) as client:
        servers.demand_login(str(client.api_url))


@flow(name="zprl-robot-session", validate_parameters=True, retries=0)
def session(target: str = "promote_real") -> list[StageResult]:
    """Run a session with the robot and make its policy, on the workstation beside it.

    On hardware the session waits on the operator's page, or for the pedal, until a person there
    confirms that the cell is clear.  Nothing in Prefect confirms it.

    Args:
        target: The stage to go on to.

    Raises:
        EnvironmentProblem: the Prefect server demands no login.
        ZprlError: as :func:`pipeline`.
    """
    _demand_login()
    return pipeline(target)


@flow(name="zprl-pipeline", flow_run_name="{target}", validate_parameters=True, retries=0)
def pipeline(target: str = "all") -> list[StageResult]:
    """Bring the project up to date.

    Args:
        target: A stage of ``dvc.yaml`` (it and what it needs), or ``all``.

    Returns:
        One result per stage, in the order they ran.

    Raises:
        ZprlError: with the exit code of the stage that failed.
    """
    environment.say_failures_in_one_sentence()
    _reconcile()
    log = get_run_logger()
    stages = dvc_graph.stage_order(None if target == "all" else target)
    log.info("stages: %s", " → ".join(stages))

    results: list[StageResult] = []
    with _parent_run() as parent:
        for stage in stages:
            if stage == SESSION_STAGE:
                _session()
            result = run_one(stage)
            outcome = "up to date" if result.skipped else f"done in {result.seconds:.0f} s"
            log.info("%s: %s", stage, outcome)
            results.append(result)
        _publish(parent, results)
    return results


__all__ = ["StageError", "pipeline"]
