"""The task and the limits that a session runs under: checked at every start of every process.

The session's header holds the digests of ``task.yaml`` and ``limits.yaml`` as they were when it
began.  ``tightened.json`` is a list of changes to the limits, made while it runs (``zprl session
tighten``); each may only tighten what was in force before it, so no edit of that file loosens
anything beyond the session's own limits.  The supervisor keeps what is in force in memory and
publishes its digests; a driver that has loaded anything else does not move.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from zprl import durable
from zprl.errors import ConfigError, DataError
from zprl.robot.limits import Limits
from zprl.session.store import LIMITS, TASK, check_files, read_header
from zprl.session.task import RealTask

TIGHTENED = "tightened.json"
MAX_CHANGES = 1000


@dataclass(frozen=True)
class Conditions:
    """What is in force.

    Attributes:
        task: The task as the session's file has it.
        limits: The session's limits with all changes applied.
        history: Digests of the limits from the session's own to those in force.
    """

    task: RealTask
    limits: Limits
    history: tuple[str, ...]

    @cached_property
    def digests(self) -> dict[str, str]:
        """SHA-256 of task and limits as they were loaded, whatever the files say by now."""
        text = json.dumps(self.task.model_dump(mode="json"), sort_keys=True, allow_nan=False)
        return {
            "task": hashlib.sha256(text.encode()).hexdigest(),
            "limits": self.limits.digest(),
        }

    def check(self, expected: Mapping[str, str]) -> None:
        """Refuse to go on under anything but what the supervisor has in force.

        Args:
            expected: Its :attr:`digests`.

        Raises:
            DataError: the task or the limits are others.
        """
        different = [name for name, digest in self.digests.items() if digest != expected.get(name)]
        if different:
            raise DataError(
                f"the {' and the '.join(different)} are not those of the running session",
                remedy="restore the session's files; changes that tighten: `zprl session tighten`",
            )


def load(session: Path) -> Conditions:
    """Read what a session runs under.

    Args:
        session: Its folder.

    Raises:
        DataError: a file is not the one that the session began with.
        ConfigError: a change of the limits would loosen them, or is none.
    """
    _, digests = read_header(session)
    check_files(session, digests)

    task, limits = RealTask.load(session / TASK), Limits.load(session / LIMITS)
    history = [limits.digest()]
    for change in changes(session):
        limits = limits.tightened(change)
        history.append(limits.digest())
    return Conditions(task, limits, tuple(history))


def changes(session: Path) -> list[dict[str, Any]]:
    """Return the changes made to the limits since the session began, in order.

    Raises:
        DataError: the file is no list of changes.
    """
    path = session / TIGHTENED
    if not path.exists():
        return []
    content = durable.read_json(path)
    listed = isinstance(content, list) and len(content) <= MAX_CHANGES
    if not listed or not all(isinstance(change, dict) for change in content):
        raise DataError(f"{path} is no list of changes of the limits", remedy="restore it from a copy")
    return content


def tighten(session: Path, change: Mapping[str, Any]) -> Conditions:
    """Tighten a session's limits for the rest of it, also while it runs.

    Args:
        session: Its folder.
        change: Nested as the limits file is, only what changes; a list replaces the whole list.

    Returns:
        What is in force now.

    Raises:
        ConfigError: something is unknown or would be loosened; the limits stay as they were.
    """
    before = load(session)
    if before.limits.tightened(change).digest() == before.limits.digest():
        raise ConfigError("these limits are in force already", remedy="`zprl session limits` lists them")
    durable.write_json(session / TIGHTENED, [*changes(session), dict(change)])
    return load(session)
