"""MLflow behind the tracker: where runs live, how they start, continue and end.

Only ``MlflowClient`` is used, never MLflow's global "active run": a process that joins a run
through ``MLFLOW_RUN_ID`` marks it finished when it exits (measured), and a stage is not the owner
of the pipeline's run.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zprl import durable, local_servers, provenance
from zprl.errors import ConfigError

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from zprl.tracking import Point

SQLITE = "sqlite:///"
DEFAULT_URI = f"{SQLITE}mlflow.db"
ARTIFACT_FOLDER = "mlartifacts"
EXPERIMENT = "zprl"
BATCH = 1000  # MLflow's limit of metrics per call
PARAM_BATCH = 100  # MLflow's limit of params and tags per call
PARENT_TAG = "mlflow.parentRunId"
PARAM_LENGTH = 6000  # MLflow's limit of characters
TAG_LENGTH = 5000
DATASET_DIGEST_LENGTH = 36
SAME_START_S = 2.0
"""Two start times of a process that differ by less are the same."""


def tracking_uri() -> str:
    """Return ``MLFLOW_TRACKING_URI``, or a SQLite file in the working folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


def is_local() -> bool:
    """Return whether the store is no server: then this process decides where artifacts go."""
    return not tracking_uri().startswith(("http://", "https://", "databricks"))


def make_database() -> None:
    """Make the missing file of a local store's database, readable for this user alone."""
    uri = tracking_uri()
    database = uri.removeprefix(SQLITE).partition("?")[0]
    if uri.startswith(SQLITE) and database not in ("", ":memory:"):
        durable.private_file(database)


def connect() -> MlflowClient:
    """Return a client with telemetry off and short time-outs (MLflow's own are minutes long).

    Raises:
        ConfigError: ``MLFLOW_REGISTRY_URI`` would get the login of a tracking server of ours.
    """
    make_database()

    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    if (login := local_servers.login_for(tracking_uri())) is not None:
        _check_registry(os.environ.get("MLFLOW_REGISTRY_URI"))
        os.environ["MLFLOW_TRACKING_TOKEN"] = login

    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)

    from mlflow import MlflowClient

    return MlflowClient(
        tracking_uri=tracking_uri(),
        registry_uri=os.environ.get("MLFLOW_REGISTRY_URI") or tracking_uri(),
    )


def _check_registry(address: str | None) -> None:
    """Refuse a registry elsewhere: MLflow sends it the login of the tracking server.

    Raises:
        ConfigError: it is elsewhere.
    """
    same = local_servers.normalised(tracking_uri())
    if address and local_servers.normalised(address) != same:
        raise ConfigError(
            "MLFLOW_REGISTRY_URI is not the tracking server, whose login MLflow would send there",
            remedy="unset MLFLOW_REGISTRY_URI, or set MLFLOW_TRACKING_URI to that server, too",
        )


def experiment_id(client: MlflowClient) -> str:
    """Return the experiment's id, made when absent.

    A remote server decides itself where its artifacts go.
    """
    from mlflow.exceptions import MlflowException

    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    for _ in range(2):
        if (experiment := client.get_experiment_by_name(name)) is not None:
            return str(experiment.experiment_id)

        location = os.environ.get("ZPRL_ARTIFACT_LOCATION") or (
            durable.private_folder(ARTIFACT_FOLDER).resolve().as_uri() if is_local() else None
        )
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException:  # another process was faster: look again
            continue
    return str(client.create_experiment(name))


# -- who works on a run ----------------------------------------------------------------------------


def _process_started(pid: int) -> float | None:
    """Return the start time of a live process, ``None`` for a dead one.

    It tells a reused process id from the old process.
    """
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def owner_tags() -> dict[str, str]:
    """Return the tags that say which process works on a run."""
    return {
        "zprl.pid": str(os.getpid()),
        "zprl.host": socket.gethostname(),
        "zprl.pid_started": f"{_process_started(os.getpid()):.2f}",
    }


def is_orphan(tags: Mapping[str, str], *, host: str | None = None) -> bool:
    """Return whether a run's process was on this host and is dead.

    Runs of other hosts, or without tags, are left alone.
    """
    try:
        pid = int(tags["zprl.pid"])
        started = float(tags["zprl.pid_started"])
    except (KeyError, ValueError):
        return False
    if tags.get("zprl.host") != (host or socket.gethostname()):
        return False
    alive_since = _process_started(pid)
    return alive_since is None or abs(alive_since - started) > SAME_START_S


def close_dead_runs(client: MlflowClient) -> int:
    """Mark runs of dead processes as KILLED and return their number."""
    closed = 0
    for run in client.search_runs(
        [experiment_id(client)], "attributes.status = 'RUNNING'", max_results=1000
    ):
        if is_orphan(run.data.tags):
            client.set_terminated(run.info.run_id, "KILLED")
            closed += 1
    return closed


# -- a run -----------------------------------------------------------------------------------------


def flatten(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield ``("section.key", "text")`` for every leaf.

    >>> list(flatten({"run": {"seed": 0, "betas": [0.9, 0.99]}}))
    [('run.seed', '0'), ('run.betas', '[0.9, 0.99]')]
    """
    for name, item in value.items():
        if isinstance(item, Mapping):
            yield from flatten(item, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", item if isinstance(item, str) else json.dumps(item)


class MlflowRun:
    """One run of the experiment; implements :class:`zprl.tracking.Backend`."""

    def __init__(self, client: MlflowClient, run_id: str, *, continued: bool) -> None:
        self.client = client
        self.run_id = run_id
        self.continued = continued

    def last_steps(self) -> dict[str, int]:
        """Return the last stored step per metric; empty for a new run."""
        if not self.continued:
            return {}
        names = self.client.get_run(self.run_id).data.metrics
        return {
            name: max(m.step for m in self.client.get_metric_history(self.run_id, name))
            for name in names
        }

    def send(self, points: list[Point]) -> None:
        """Store metrics in batches."""
        from mlflow.entities import Metric

        for start in range(0, len(points), BATCH):
            metrics = [
                Metric(name, value, time_ms, step)
                for name, value, step, time_ms in points[start : start + BATCH]
            ]
            self.client.log_batch(self.run_id, metrics=metrics)

    def send_params(self, params: Mapping[str, Any]) -> None:
        """Store flattened parameters in batches."""
        from mlflow.entities import Param

        rows = [Param(name, text[:PARAM_LENGTH]) for name, text in flatten(params)]
        for start in range(0, len(rows), PARAM_BATCH):
            self.client.log_batch(self.run_id, params=rows[start : start + PARAM_BATCH])

    def send_inputs(self, inputs: Mapping[str, str]) -> None:
        """Store the inputs' digests as MLflow datasets, shown beside the run."""
        from mlflow.entities import Dataset, DatasetInput

        rows = []
        for path, digest in inputs.items():
            source = json.dumps({"path": path, "sha256": digest})
            rows.append(DatasetInput(Dataset(path, digest[:DATASET_DIGEST_LENGTH], "dvc", source)))
        if rows:
            self.client.log_inputs(self.run_id, datasets=rows)

    def send_path(self, path: Path, folder: str) -> None:
        """Attach a file or a folder's contents."""
        if path.is_dir():
            self.client.log_artifacts(self.run_id, str(path), folder or None)
        else:
            self.client.log_artifact(self.run_id, str(path), folder or None)

    def send_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags in one call."""
        from mlflow.entities import RunTag

        self.client.log_batch(
            self.run_id, tags=[RunTag(name, text[:TAG_LENGTH]) for name, text in tags.items()]
        )

    def end(self, status: str) -> None:
        """Close the run with a status of MLflow."""
        self.client.set_terminated(self.run_id, status)


def _reopen(client: MlflowClient, run_id: str) -> bool:
    """Set a known run to RUNNING again; ``False`` when the store no longer has it."""
    from mlflow.exceptions import MlflowException

    try:
        if client.get_run(run_id).info.lifecycle_stage != "active":
            return False
        client.update_run(run_id, status="RUNNING")
    except MlflowException:
        return False
    return True


def open_run(
    stage: str,
    *,
    known: str | None = None,
    parent: str | None = None,
    params: Mapping[str, Any],
    inputs: Mapping[str, str],
) -> MlflowRun:
    """Start a run, or continue ``known``; runs of dead processes are closed first.

    Args:
        stage: Name of the run.
        known: Id of a run to continue.
        parent: Id of the pipeline's run.
        params: Parameters by section.
        inputs: Digest by path of what the stage reads.
    """
    client = connect()
    close_dead_runs(client)
    tags = _start_tags(stage, parent, inputs)

    if known is not None and _reopen(client, known):
        run = MlflowRun(client, known, continued=True)
        run.send_tags(tags)
        if "zprl.error" in client.get_run(known).data.tags:
            client.delete_tag(known, "zprl.error")
        return run

    info = client.create_run(
        experiment_id(client), start_time=int(time.time() * 1000), run_name=stage
    ).info
    run = MlflowRun(client, info.run_id, continued=False)
    run.send_tags(tags)
    run.send_params(params)
    run.send_inputs(inputs)
    return run


def _start_tags(stage: str, parent: str | None, inputs: Mapping[str, str]) -> dict[str, str]:
    """Return the tags of a run that starts, or that is continued."""
    tags = {
        **owner_tags(),
        **({"dvc.stage": os.environ["DVC_STAGE"]} if "DVC_STAGE" in os.environ else {}),
        "zprl.git_commit": provenance.git_commit() or "unknown",
        "zprl.command": " ".join(Path(a).name for a in sys.argv[:1]) or stage,
        **{f"zprl.input.{path}": digest for path, digest in inputs.items()},
        **{f"zprl.version.{name}": version for name, version in provenance.versions().items()},
    }
    for path in ("data", "artifacts/episodes"):
        if path in inputs:
            tags["zprl.data_digest"] = inputs[path]
    if parent is not None:
        # A continued stage moves below the pipeline run that continues it.
        tags[PARENT_TAG] = parent
    return tags
