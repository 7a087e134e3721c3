"""Environment variables that every process of a pipeline run shares.  What the user set wins."""

from __future__ import annotations

import logging
import os
import urllib.error
import urllib.request
from pathlib import Path

from zprl import children, durable, terminal
from zprl.errors import DataError, ZprlError

UI_FILE = Path(".prefect/ui.json")
"""Written by ``zprl ui``: the address of the Prefect server it started for this project."""


def healthy(url: str, *, timeout_s: float = 1.0) -> bool:
    """Whether a server answers ``url`` with 200."""
    if not url.startswith(("http://", "https://")):
        return False
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:  # noqa: S310 - scheme checked above
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError, ValueError):
        return False


def running_prefect() -> str | None:
    """API address of this project's Prefect server, if ``zprl ui`` has one running."""
    try:
        url = str(durable.read_json(UI_FILE)["prefect_api"])
    except (DataError, KeyError, TypeError):
        return None
    return url if healthy(f"{url}/health") else None


def prepare() -> None:
    """Set the variables; call it before Prefect or MLflow is imported."""
    defaults = {
        **children.SAFE_PATH,
        "PREFECT_HOME": str(Path(".prefect").resolve()),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",  # else an error in the log when offline
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",  # 7 s on a quiet machine, 87 s seen on a loaded one
        "PREFECT_CLI_PROMPT": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DVC_NO_ANALYTICS": "1",
        "DO_NOT_TRACK": "1",
        "MPLBACKEND": "Agg",
        "OMP_NUM_THREADS": "1",
        "ZPRL_CACHE": str(Path(".cache").resolve()),
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    if not os.environ.get("PREFECT_API_URL") and (url := running_prefect()) is not None:
        os.environ["PREFECT_API_URL"] = url


class _OneSentence(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], ZprlError):
            record.exc_info = None
        record.msg, record.args = terminal.block(record.getMessage()), ()
        return True


def say_failures_in_one_sentence() -> None:
    """Have Prefect log expected failures without a traceback."""
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logger = logging.getLogger(name)
        if not any(isinstance(known, _OneSentence) for known in logger.filters):
            logger.addFilter(_OneSentence())
