"""Tasks, readers and spaces by name, through entry points.

A user's own is one file and one line.

A registered name that ends in ``*`` stands for all names that begin so: a benchmark with many tasks
is one line, too.
"""

from __future__ import annotations

import fnmatch
import functools
from importlib.metadata import EntryPoints, entry_points
from typing import Any

from zprl.errors import ConfigError, EnvironmentProblem
from zprl.suggestions import did_you_mean


# A look at all that is installed takes 30 ms, and files are asked for their reader one by one.
@functools.cache
def _registered(group: str) -> EntryPoints:
    return entry_points(group=f"zprl.{group}")


def names(group: str) -> list[str]:
    """Return the registered names of a group (``tasks``, ``readers``, ``spaces``)."""
    return sorted(point.name for point in _registered(group))


def load(group: str, name: str) -> Any:
    """Import the object registered under ``name``.

    Raises:
        ConfigError: no such name; the nearest one is named.
        EnvironmentProblem: its package lacks a dependency.
    """
    for point in _registered(group):
        if fnmatch.fnmatchcase(name, point.name):
            try:
                return point.load()
            except ModuleNotFoundError as error:
                extra = point.extras[0] if point.extras else name.split("/")[0]
                raise EnvironmentProblem(
                    f"{group[:-1]} '{name}' needs the module '{error.name}'",
                    remedy=f"install the extra that has it, e.g. zprl[{extra}]",
                ) from error
    hint = did_you_mean(name, names(group), lead="; ")
    raise ConfigError(
        f"no {group[:-1]} is named '{name}'{hint}",
        remedy=f"registered: {', '.join(names(group)) or 'none'}",
    )
