"""Records of lineage from MLflow: runs with the digests of what they read and made, registered versions, sources of ingest.  Reads only."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zprl.data.origins import SOURCES, Origins
from zprl.errors import EnvironmentProblem, ZprlError
from zprl.lineage import local
from zprl.lineage.records import HERE, Records, Run, Version
from zprl.tracking import SWITCH_VARIABLE
from zprl.tracking.mlflow_tracker import EXPERIMENT, SQLITE, connect, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

INPUT, OUTPUT = "zprl.input.", "zprl.output."
NOTES = ("zprl.promotion", "zprl.error")
PAGE = 1000
CREDENTIALS = re.compile(r"/{1,2}[^/@\s]*@")
"""Of an address; some error messages leave out its scheme."""


def missing() -> str | None:
    """Why there is no tracking store, or ``None`` where there is one.  A store in a file is not made by looking for it."""
    if os.environ.get(SWITCH_VARIABLE, "").lower() in {"off", "0", "false"}:
        return f"tracking is off: {SWITCH_VARIABLE}"
    uri = tracking_uri()
    if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).is_file():
        return f"there is no tracking store at {uri}"
    return None


def records(more: tuple[Path, ...] = ()) -> Records:
    """Everything the store knows, and what lies here besides.

    Args:
        more: Bundles that lie somewhere else.

    Raises:
        EnvironmentProblem: the store does not answer.
    """
    try:
        client = connect()
        runs, versions = tuple(_runs(client)), tuple(_versions(client))
    except Exception as error:  # MLflow and its database raise anything
        raise _away(error) from error
    known: dict[str, Origins | None] = {}

    def origins(run: Run) -> Origins | None:
        if run.status == HERE:
            return local.origins(run)
        if run.id not in known:
            known[run.id] = _origins(client, run.id)
        return known[run.id]

    return Records(f"MLflow at {_shown(tracking_uri())}", runs + tuple(local.runs(more)), versions, origins)


def _runs(client: MlflowClient) -> Iterator[Run]:
    experiment = client.get_experiment_by_name(os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT)
    token = None
    while experiment is not None:
        page = client.search_runs([experiment.experiment_id], max_results=PAGE, page_token=token)
        yield from map(_run, page)
        token = page.token
        if not token:
            return


def _run(run: Any) -> Run:
    tags: dict[str, str] = run.data.tags
    started = datetime.fromtimestamp(run.info.start_time / 1000, UTC).isoformat(timespec="seconds") if run.info.start_time else ""
    commit = tags.get("zprl.git_commit", "")
    return Run(
        run.info.run_id,
        run.info.run_name or "",
        run.info.status,
        started=started,
        commit="" if commit == "unknown" else commit,
        inputs=_digests(tags, INPUT),
        outputs=_digests(tags, OUTPUT),
        params=dict(run.data.params),
        note="; ".join(tags[name] for name in NOTES if name in tags),
    )


def _digests(tags: dict[str, str], prefix: str) -> dict[str, str]:
    return {name.removeprefix(prefix): value for name, value in sorted(tags.items()) if name.startswith(prefix)}


def _versions(client: MlflowClient) -> Iterator[Version]:
    aliases: dict[tuple[str, str], list[str]] = {}
    token = None
    while True:
        page = client.search_registered_models(max_results=100, page_token=token)
        for model in page:
            for alias, number in model.aliases.items():
                aliases.setdefault((model.name, str(number)), []).append(alias)
        token = page.token
        if not token:
            break
    while True:
        found = client.search_model_versions(max_results=PAGE, page_token=token or None)
        for version in found:
            number = str(version.version)
            names = tuple(sorted(aliases.get((version.name, number), [])))
            yield Version(version.name, number, names, version.run_id or "", _digests(version.tags, INPUT))
        token = found.token
        if not token:
            return


def _origins(client: MlflowClient, run_id: str) -> Origins | None:
    """What a run of ingest attached; ``None`` where it attached none (it failed, or is older than this)."""
    folder = "data_report"
    try:
        if not any(file.path == f"{folder}/{SOURCES}" for file in client.list_artifacts(run_id, folder)):
            return None
        with tempfile.TemporaryDirectory() as temp:
            return Origins.read(Path(client.download_artifacts(run_id, f"{folder}/{SOURCES}", temp)))
    except ZprlError:
        raise
    except Exception as error:
        raise _away(error) from error


def _away(error: Exception) -> EnvironmentProblem:
    first = _shown(f"{type(error).__name__}: {error}".splitlines()[0])[:200]
    return EnvironmentProblem(
        f"the tracking store at {_shown(tracking_uri())} cannot be read: {first}",
        remedy="`zprl doctor` says what is wrong; --local asks only what lies here",
    )


def _shown(text: str) -> str:
    """Without a password that an address in it may hold."""
    return CREDENTIALS.sub("//", text)
