"""Configure logging: the one place that decides which lines of a process are shown, and how.

Every module logs with ``logging.getLogger(__name__)``, and every entry point calls
:func:`configure`.  Lines are text alone, without date and level: DVC passes them on as they are,
and Prefect's run logger adds both.  ``ZPRL_LOG=debug`` shows more, and names levels and modules.
What a command answers is no log: it is printed by :mod:`zprl.terminal`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import MutableMapping
from typing import Any

from zprl import terminal
from zprl.errors import ConfigError

LEVEL_VARIABLE = "ZPRL_LOG"
"""Environment variable with the lowest level that is shown; children inherit it."""
LEVELS = ("debug", "info", "warning", "error")
PACKAGES = ("zprl", "pipelines", "__main__")
"""Packages whose loggers are ours, and the module that ``python -m`` runs."""
PLAIN, DETAILED = "%(message)s", "%(levelname)s %(name)s: %(message)s"


class LineHandler(logging.Handler):
    """Handler that prints each record as one plain line at once.

    Warnings and errors go to standard error, everything else to standard output.
    """

    def emit(self, record: logging.LogRecord) -> None:
        try:
            terminal.say(self.format(record), err=record.levelno >= logging.WARNING)
        except Exception:  # noqa: BLE001 - a line that cannot be written ends no training
            self.handleError(record)


class StageLogger(logging.LoggerAdapter[logging.Logger]):
    """Logger whose lines begin with the stage's name in brackets, such as ``[pretrain]``.

    Args:
        name: The stage's name.
        logger: Logger of the module.
    """

    def __init__(self, name: str, logger: logging.Logger) -> None:
        super().__init__(logger)
        self._lead = f"[{name}] "

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        return f"{self._lead}{msg}", kwargs


def configure() -> None:
    """Have the loggers of our packages print from the level that ``ZPRL_LOG`` names.

    May be called again: the last call counts.

    Raises:
        ConfigError: it names no level.
    """
    name = os.environ.get(LEVEL_VARIABLE, "").lower() or "info"
    if name not in LEVELS:
        raise ConfigError(
            f"{LEVEL_VARIABLE} is '{name}', which is no level", remedy=f"use {', '.join(LEVELS)}"
        )

    handler = LineHandler()
    handler.setFormatter(logging.Formatter(DETAILED if name == "debug" else PLAIN))
    for package in PACKAGES:
        logger = logging.getLogger(package)
        logger.setLevel(name.upper())
        logger.handlers[:] = [handler]
        logger.propagate = False  # Prefect's handler of the root would print warnings again
