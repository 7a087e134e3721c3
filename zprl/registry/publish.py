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
DESCRIPTION_LENGTH = 5000
"""Most characters of a version's description."""


@dataclass(frozen=True)
class Champion:
    """The registry's champion: its version, its evaluation and that of the policy it replaced."""

    version: str
    facts: Facts
    incumbent: Facts


def _facts(text: str) -> Facts:
    """Read facts from a version's tag, in which null stands for NaN."""
    stored: dict[str, Any] = durable.parse_json(text, "the facts")
    values: dict[str, Any] = {
        key: float("nan") if item is None else item for key, item in stored.items()
    }
    return Facts(**values)


def champion(client: MlflowClient, name: str) -> Champion | None:
    """Return the current champion, or ``None``.

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
    """Return the newest version with these bytes whose upload was completed."""
    complete = [
        version
        for version in client.search_model_versions(f"name='{name}'")
        if version.tags.get("zprl.digest") == digest and version.tags.get("zprl.complete") == "true"
    ]
    return max(complete, key=lambda version: int(version.version), default=None)


def _upload(client: MlflowClient, run_id: str, folders: Mapping[str, Path], card: str) -> str:
    """Attach folders and card to the run, read the folders back, return the artifacts' address.

    Raises:
        EnvironmentProblem: a folder came back with other bytes.
    """
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
    before = champion(client, name)
    if before is not None and before.facts.digest == candidate.digest:
        return before.version

    version = _complete(client, name, candidate.digest)
    if version is None:
        version = _create(client, name, run_id, folders, card)
    _tag(client, version, {**tags, **_evaluation_tags(candidate, incumbent)})

    # Another promotion may have moved the alias since the gate judged against its champion.
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


def _create(
    client: MlflowClient, name: str, run_id: str, folders: Mapping[str, Path], card: str
) -> ModelVersion:
    """Upload the files and create a version of them, and the registered model where it is new."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    source = _upload(client, run_id, folders, card)
    return client.create_model_version(
        name, source=source, run_id=run_id, description=card[:DESCRIPTION_LENGTH]
    )


def _evaluation_tags(candidate: Facts, incumbent: Facts) -> dict[str, str]:
    return {
        "zprl.digest": candidate.digest,
        "zprl.facts": json.dumps(candidate.as_dict()),
        "zprl.incumbent": json.dumps(incumbent.as_dict()),
    }


def _tag(client: MlflowClient, version: ModelVersion, tags: Mapping[str, Any]) -> None:
    """Write the tags of a version, last the one that says that it is complete."""
    for key, value in {**tags, "zprl.complete": "true"}.items():
        client.set_model_version_tag(version.name, version.version, key, str(value))
