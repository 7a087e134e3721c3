"""The task and the limits that a session runs under: checked at every start of every process.

The session's header holds the digests of ``task.yaml`` and ``limits.yaml`` as they were when it
began.  ``tightened.json`` is a list of changes to the limits, made while it runs (``zprl session
tighten``); each may only tighten what was in force before it, so no edit of that file loosens
anything beyond the session's own limits.  The supervisor keeps what is in force in memory and
publishes its digests; a driver that has loaded anything else does not move.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from zprl import durable
from zprl.errors import ConfigError, DataError
from zprl.recordings.store import LIMITS, TASK, check_files, read_header
from zprl.robot.limits import Limits
from zprl.robot.task import RealTask

TIGHTENED = "tightened.json"
MAX_CHANGES = 1000


@dataclass(frozen=True)
class Conditions:
    """The task and the limits that are in force.

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

    def check_tighter(self, new: Conditions) -> None:
        """Refuse conditions that are not these with further changes.

        Raises:
            DataError: a change has gone or is another one now.
        """
        if new.history[: len(self.history)] != self.history or new.task != self.task:
            raise DataError(
                f"{TIGHTENED} has lost changes that are in force: the limits would be loosened",
                remedy="restore it from a copy",
            )

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

    task, own = RealTask.load(session / TASK), Limits.load(session / LIMITS)
    history = applied(own, changes(session))
    return Conditions(task, history[-1], tuple(limits.digest() for limits in history))


def applied(limits: Limits, made: Sequence[Mapping[str, Any]]) -> list[Limits]:
    """Return the limits and what became of them with each change.

    Raises:
        ConfigError: a change would loosen what is in force before it, or is none.
    """
    history = [limits]
    for change in made:
        history.append(history[-1].tightened(change))
    return history


def changes(session: Path) -> list[dict[str, Any]]:
    """Return the changes made to the limits since the session began, in order.

    Raises:
        DataError: the file is no list of changes.
    """
    path = session / TIGHTENED
    if not path.exists():
        return []
    content: list[dict[str, Any]] = durable.read_json(path)
    listed = isinstance(content, list) and len(content) <= MAX_CHANGES
    if not listed or not all(isinstance(change, dict) for change in content):
        raise DataError(
            f"{path} is no list of changes of the limits", remedy="restore it from a copy"
        )
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
    with _locked(session):
        return _tighten(session, change)


def _tighten(session: Path, change: Mapping[str, Any]) -> Conditions:
    before = load(session)
    if before.limits.tightened(change).digest() == before.limits.digest():
        raise ConfigError("these limits are in force already", remedy="give tighter ones")
    before.task.check_home(before.limits.tightened(change))
    durable.write_json(session / TIGHTENED, [*changes(session), dict(change)])
    return load(session)


@contextmanager
def _locked(session: Path) -> Iterator[None]:
    """Let one process at a time change the limits; the file that is locked never changes."""
    with (session / LIMITS).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def change_of(limits: Limits, assignments: Sequence[str], arm: str | None = None) -> dict[str, Any]:
    """Build a change of limits from a person's words.

    Args:
        limits: Those in force.
        assignments: ``name=value`` each; points nest, values are JSON.  A name of an arm's section
            (``translation.speed``) is about ``arm``, any other (``recoveries.count``) about all.
        arm: Prefix of the arm; may be left out where there is one.

    Raises:
        ConfigError: an assignment cannot be read, or it is not clear which arm is meant.
    """
    change: dict[str, Any] = {}
    for assignment in assignments:
        name, _, text = assignment.partition("=")
        try:
            value = durable.parse_json(text, "its value")
        except DataError as error:
            raise ConfigError(
                f"'{assignment}' is no limit with its value",
                remedy="write e.g. translation.speed=0.2 or workspace.high=[0.6,0.2,0.5]",
            ) from error

        section = change
        *path, last = _path(limits, name.split("."), arm)
        for part in path:
            section = section.setdefault(part, {})
            if not isinstance(section, dict):
                raise ConfigError(f"'{name}' is given twice", remedy="name each limit once")
        section[last] = value
    return change


def _path(limits: Limits, parts: list[str], arm: str | None) -> list[str]:
    """Return where a limit stands in the file."""
    if parts[0] in Limits.model_fields:
        return parts
    if arm is None and len(limits.arms) > 1:
        raise ConfigError(
            "it is not clear which arm is meant",
            remedy=f"give --arm, one of {', '.join(map(repr, limits.arms))}",
        )
    return ["arms", next(iter(limits.arms)) if arm is None else arm, *parts]
