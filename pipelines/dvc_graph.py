"""Read from DVC what it knows: the stages in order, changes, hashes of what was made.

There is no second copy of the graph anywhere.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from zprl import strict_yaml
from zprl.errors import ConfigError, DataError, EnvironmentProblem

MAX_LOCK = 10**6
"""Longest `dvc.lock`, in bytes: ours has 30 kB."""
REMEDY = "run in the project's root folder; `dvc status` says more"


def _repo() -> Any:
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        return Repo(".")
    except DvcException as error:
        raise ConfigError(f"this folder is not a DVC project: {error}", remedy=REMEDY) from error


def stage_order(target: str | None = None) -> list[str]:
    """Return the names of the stages, each after all it depends on.

    Ties are in the order of ``dvc.yaml``.

    Args:
        target: Only this stage and what it needs.

    Raises:
        ConfigError: no DVC project here, a broken graph, or an unknown ``target``.
    """
    import networkx as nx
    from dvc.exceptions import DvcException

    with _repo() as repo:
        try:
            graph = repo.index.graph
        except DvcException as error:
            raise ConfigError(f"dvc.yaml cannot be used: {error}", remedy=REMEDY) from error

        position = {stage: number for number, stage in enumerate(graph)}
        by_need = nx.lexicographical_topological_sort(graph.reverse(), key=position.__getitem__)
        ordered = [stage for stage in by_need if stage.cmd]
        if target is None:
            return [stage.addressing for stage in ordered]

        wanted = next((stage for stage in ordered if stage.addressing == target), None)
        if wanted is None:
            raise ConfigError(
                f"no stage is named '{target}'",
                remedy="stages: " + ", ".join(s.addressing for s in ordered),
            )
        # DVC's edges point from a stage to what it needs.
        needed = nx.descendants(graph, wanted) | {wanted}
        return [stage.addressing for stage in ordered if stage in needed]


def out_of_date(stages: list[str] | None = None) -> dict[str, Any]:
    """Return what ``dvc status`` says, by stage; empty when there is nothing to do.

    Raises:
        EnvironmentProblem: another run works here.
        DataError: a broken workspace.
    """
    from dvc.exceptions import DvcException
    from dvc.lock import LockError

    with _repo() as repo:
        try:
            return dict(repo.status(targets=stages))
        except LockError as error:
            holder = re.search(r"\(PID \d+\)", str(error))
            known = f" {holder[0]}" if holder else ""
            raise EnvironmentProblem(
                f"another run is working here{known}",
                remedy="wait for it or stop it, then run again",
            ) from error
        except DvcException as error:
            raise DataError(
                f"dvc cannot tell what is up to date: {error}", remedy=REMEDY
            ) from error


def lock_hashes(path: Path | str = "dvc.lock") -> list[dict[str, str]]:
    """Return rows ``stage, output, md5`` of ``dvc.lock``; none when nothing ran yet."""
    path = Path(path)
    if not path.exists():
        return []
    lock = strict_yaml.load(path, limit=MAX_LOCK, remedy=REMEDY)
    stages = lock.get("stages", {}) if isinstance(lock, dict) else None
    if not isinstance(stages, dict):
        return []
    return [
        {"stage": name, "output": str(out["path"]), "md5": str(out.get("md5", ""))}
        for name, stage in stages.items()
        for out in stage.get("outs", [])
    ]
