"""Lineage records from MLflow: runs with their digests, registered versions, sources of ingest.

This module only reads.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from zprl.data.episode_sources import SOURCES, EpisodeSources
from zprl.errors import EnvironmentProblem, ZprlError
from zprl.lineage import local
from zprl.lineage.records import HERE, Records, RunRecord, VersionRecord
from zprl.lineage.walk import INGEST
from zprl.tracking import SWITCH_VARIABLE
from zprl.tracking.mlflow_tracker import (
    ARTIFACT_FOLDER,
    EXPERIMENT,
    SQLITE,
    connect,
    is_local,
    tracking_uri,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

INPUT, OUTPUT = "zprl.input.", "zprl.output."
NOTES = ("zprl.promotion", "zprl.error")
PAGE = 1000
MODELS_PAGE = 100
REPORT = "data_report"
SERVED = "mlflow-artifacts"
ELSEWHERE = "its artifacts lie outside the project's own folder: not looked at"
LOGIN = ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
CREDENTIALS = re.compile(r"/{1,2}[^/@\s]*@")
"""Of an address; some error messages leave out its scheme."""


def missing() -> str | None:
    """Return the reason why there is no tracking store, or ``None`` where there is one.

    The check does not create the file of a missing store.
    """
    if os.environ.get(SWITCH_VARIABLE, "").lower() in {"off", "0", "false"}:
        return f"tracking is off: {SWITCH_VARIABLE}"
    uri = tracking_uri()
    if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).is_file():
        return f"there is no tracking store at {uri}"
    return None


def records(more: tuple[Path, ...] = ()) -> Records:
    """Return the store's records and those of the project's folder.

    Args:
        more: Bundles that lie somewhere else.

    Raises:
        EnvironmentProblem: the store does not answer.
    """
    try:
        client = connect()
        tracked = tuple(_runs(client))
        versions = tuple(_versions(client))
    except Exception as error:  # MLflow and its database raise anything
        raise _away(error) from error
    places = {run.info.run_id: str(run.info.artifact_uri or "") for run in tracked}
    known: dict[str, EpisodeSources | None] = {}

    def origins(run: RunRecord) -> EpisodeSources | None:
        if run.status == HERE:
            return local.origins(run)
        if run.id not in known:
            known[run.id] = _origins(client, run.id, places[run.id])
        return known[run.id]

    return Records(
        f"MLflow at {_shown(tracking_uri())}",
        (*map(_run, tracked), *local.runs(more)),
        versions,
        origins,
    )


def _runs(client: MlflowClient) -> Iterator[Any]:
    """Yield the experiment's runs, as MLflow has them."""
    experiment = client.get_experiment_by_name(
        os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    )
    token = None
    while experiment is not None:
        page = client.search_runs([experiment.experiment_id], max_results=PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _run(run: Any) -> RunRecord:
    """Translate a run of MLflow."""
    tags: dict[str, str] = run.data.tags
    started = (
        datetime.fromtimestamp(run.info.start_time / 1000, UTC).isoformat(timespec="seconds")
        if run.info.start_time
        else ""
    )
    commit = tags.get("zprl.git_commit", "")
    notes = [tags[name] for name in NOTES if name in tags]
    if run.info.run_name == INGEST and not _readable(str(run.info.artifact_uri or "")):
        notes.append(ELSEWHERE)

    return RunRecord(
        run.info.run_id,
        run.info.run_name or "",
        run.info.status,
        started=started,
        commit="" if commit == "unknown" else commit,
        inputs=_digests(tags, INPUT),
        outputs=_digests(tags, OUTPUT),
        params=dict(run.data.params),
        note="; ".join(notes),
    )


def _digests(tags: dict[str, str], prefix: str) -> dict[str, str]:
    return {
        name.removeprefix(prefix): value
        for name, value in sorted(tags.items())
        if name.startswith(prefix)
    }


def _versions(client: MlflowClient) -> Iterator[VersionRecord]:
    aliases = _aliases(client)
    token = None
    while True:
        page = client.search_model_versions(max_results=PAGE, page_token=token)
        for version in page:
            number = str(version.version)
            names = tuple(sorted(aliases.get((version.name, number), [])))
            yield VersionRecord(
                version.name, number, names, version.run_id or "", _digests(version.tags, INPUT)
            )
        token = page.token or None
        if not token:
            return


def _aliases(client: MlflowClient) -> dict[tuple[str, str], list[str]]:
    """Return aliases by name and version number; a search for versions does not give them."""
    aliases: dict[tuple[str, str], list[str]] = {}
    token = None
    while True:
        page = client.search_registered_models(max_results=MODELS_PAGE, page_token=token)
        for model in page:
            for alias, number in model.aliases.items():
                aliases.setdefault((model.name, str(number)), []).append(alias)
        token = page.token
        if not token:
            return aliases


# -- where artifacts lie ---------------------------------------------------------------------------


def _own_file(address: str) -> Path | None:
    """Return the list of sources below the project's own folder of artifacts.

    ``None`` where the address is any other place.

    A store in a file may come from anybody, and so may the addresses in it.
    """
    parts = urlsplit(address)
    path = Path(unquote(parts.path))
    if parts.netloc or parts.scheme not in ("", "file", SERVED):
        return None

    if parts.scheme == SERVED:  # `zprl ui` serves this folder under that name
        path = Path(ARTIFACT_FOLDER, *path.parts[1:])
    location = urlsplit(os.environ.get("ZPRL_ARTIFACT_LOCATION", ""))
    folders = [ARTIFACT_FOLDER]
    if location.path and location.scheme in ("", "file"):
        folders.append(unquote(location.path))

    file = (path / REPORT / SOURCES).resolve()
    return file if any(file.is_relative_to(Path(folder).resolve()) for folder in folders) else None


def _followed(address: str) -> bool:
    """Return whether MLflow may be asked for artifacts at an address."""
    parts = urlsplit(address)
    if is_local():
        location = os.environ.get("ZPRL_ARTIFACT_LOCATION", "")
        named = (
            bool(location)
            and urlsplit(location).scheme not in ("", "file")
            and address.startswith(location.rstrip("/") + "/")
        )
        return named and ".." not in unquote(address)
    if parts.scheme not in ("http", "https", SERVED) or (
        parts.scheme == SERVED and not parts.netloc
    ):
        return True
    server = urlsplit(tracking_uri())
    return parts.netloc == server.netloc and parts.scheme in (server.scheme, SERVED)


def _readable(address: str) -> bool:
    """Return whether the artifacts at an address may be read at all."""
    try:
        return _followed(address) or (is_local() and _own_file(address) is not None)
    except (OSError, RuntimeError, ValueError):  # no address, a loop of links
        return False


def _origins(client: MlflowClient, run_id: str, address: str) -> EpisodeSources | None:
    """Return the list of sources that a run of ingest attached.

    ``None`` where it attached none (it failed, or is older) or where it may not be read.
    """
    if not _readable(address):
        return None
    if not _followed(address):
        file = _own_file(address)
        return EpisodeSources.read(file) if file is not None and file.is_file() else None

    attached = f"{REPORT}/{SOURCES}"
    try:
        with _no_login() if is_local() else nullcontext(), tempfile.TemporaryDirectory() as temp:
            if all(file.path != attached for file in client.list_artifacts(run_id, REPORT)):
                return None
            return EpisodeSources.read(Path(client.download_artifacts(run_id, attached, temp)))
    except ZprlError:
        raise
    except Exception as error:
        raise _away(error) from error


@contextmanager
def _no_login() -> Iterator[None]:
    """Keep the login of a tracking server from any other server that is asked."""
    kept = {name: os.environ.pop(name) for name in LOGIN if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def _away(error: Exception) -> EnvironmentProblem:
    """Return the error of a store that does not answer."""
    first = _shown(f"{type(error).__name__}: {error}".splitlines()[0])[:200]
    return EnvironmentProblem(
        f"the tracking store at {_shown(tracking_uri())} cannot be read: {first}",
        remedy="`zprl doctor` says what is wrong; --local asks only what lies here",
    )


def _shown(text: str) -> str:
    """Return the text without a password that an address in it may hold."""
    return CREDENTIALS.sub("//", text)
