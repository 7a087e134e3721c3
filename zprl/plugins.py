"""Tasks, readers and spaces by name, through entry points: a user's own is one file and one line.

A registered name that ends in ``*`` stands for all names that begin so: a benchmark with many tasks
is one line, too.
"""

from __future__ import annotations

import difflib
import fnmatch
import functools
from importlib.metadata import EntryPoints, entry_points
from typing import Any

from zprl.errors import ConfigError, EnvironmentProblem


@functools.cache  # a look at all that is installed takes 30 ms, and files are asked for their reader one by one
def _registered(group: str) -> EntryPoints:
    return entry_points(group=f"zprl.{group}")


def names(group: str) -> list[str]:
    """Registered names of a group (``tasks``, ``readers``, ``spaces``)."""
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
    near = difflib.get_close_matches(name, names(group), n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    raise ConfigError(
        f"no {group[:-1]} is named '{name}'{hint}",
        remedy=f"registered: {', '.join(names(group)) or 'none'}",
    )
