"""From an accepted bundle to the registry's champion.

A version is uploaded, read back and compared, tagged as complete, and only then does the alias
move, in one call.  A kill in between leaves the old champion in place, and the next try finds the
complete version and moves the alias.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zprl import durable
from zprl.errors import DataError, EnvironmentProblem
from zprl.registry.gate import Facts

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
PREVIOUS = "previous"
FOLDER = "policy"
"""Folder of the run's artifacts that a version points to."""


@dataclass(frozen=True)
class Champion:
    """The registry's champion: its version and what it was judged by and against."""

    version: str
    facts: Facts
    incumbent: Facts


def _facts(text: str) -> Facts:
    value = durable.parse_json(text, "the facts")
    return Facts(**{key: float("nan") if item is None else item for key, item in value.items()})


def champion(client: MlflowClient, name: str) -> Champion | None:
    """The current champion, or ``None``.

    Raises:
        DataError: the alias points to a version that this package did not write.
    """
    from mlflow.exceptions import MlflowException

    try:
        version = client.get_model_version_by_alias(name, CHAMPION)
    except MlflowException as error:
        if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
            return None
        raise
    try:
        return Champion(
            str(version.version),
            _facts(version.tags["zprl.facts"]),
            _facts(version.tags["zprl.incumbent"]),
        )
    except (AttributeError, DataError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"the champion of '{name}', version {version.version}, has no facts of its evaluation",
            remedy="remove the alias 'champion' in MLflow, or choose another promote.model_name",
        ) from error


def _complete(client: MlflowClient, name: str, digest: str) -> ModelVersion | None:
    versions = client.search_model_versions(f"name='{name}'")
    found = [
        v
        for v in versions
        if v.tags.get("zprl.digest") == digest and v.tags.get("zprl.complete") == "true"
    ]
    return max(found, key=lambda v: int(v.version)) if found else None


def _upload(client: MlflowClient, run_id: str, folders: Mapping[str, Path], card: str) -> str:
    """Attach the folders and the card to the run, read them back, compare; returns the artifact address."""
    for folder, path in folders.items():
        client.log_artifacts(run_id, str(path), f"{FOLDER}/{folder}")
    client.log_text(run_id, card, f"{FOLDER}/CARD.md")
    with tempfile.TemporaryDirectory() as temp:
        for folder, path in folders.items():
            copy = client.download_artifacts(run_id, f"{FOLDER}/{folder}", temp)
            if durable.digest(copy) != durable.digest(path):
                raise EnvironmentProblem(
                    f"{path} came back changed from the artifact store",
                    remedy="check the store, run again",
                )
    return f"{client.get_run(run_id).info.artifact_uri}/{FOLDER}"


def publish(
    client: MlflowClient,
    name: str,
    *,
    run_id: str,
    candidate: Facts,
    incumbent: Facts,
    folders: Mapping[str, Path],
    card: str,
    tags: Mapping[str, Any],
) -> str:
    """Make an accepted candidate the champion; does nothing when it is that already.

    Args:
        client: MLflow client of store and registry.
        name: Registered model.
        run_id: Run that the files are attached to.
        candidate: Facts of the accepted policy.
        incumbent: What it was judged against; must still be the champion where it was one.
        folders: Bundle folders by name (``base``, ``steering``).
        card: The model card.
        tags: Further tags of the version.

    Returns:
        The champion's version number.

    Raises:
        EnvironmentProblem: the champion changed meanwhile, or the store damaged a file.
    """
    from mlflow.exceptions import MlflowException

    before = champion(client, name)
    if before is not None and before.facts.digest == candidate.digest:
        return before.version
    version = _complete(client, name, candidate.digest)
    if version is None:
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = _upload(client, run_id, folders, card)
        version = client.create_model_version(
            name, source=source, run_id=run_id, description=card[:5000]
        )
    own = {
        **tags,
        "zprl.digest": candidate.digest,
        "zprl.facts": json.dumps(candidate.as_dict()),
        "zprl.incumbent": json.dumps(incumbent.as_dict()),
        "zprl.complete": "true",  # last
    }
    for key, value in own.items():
        client.set_model_version_tag(name, version.version, key, str(value))
    now = champion(client, name)
    if (now and now.version) != (before and before.version):
        raise EnvironmentProblem(
            f"the champion of '{name}' changed during the promotion",
            remedy="run the stage promote again",
        )
    if before is not None:
        client.set_registered_model_alias(name, PREVIOUS, before.version)
    client.set_registered_model_alias(name, CHAMPION, version.version)
    return str(version.version)
