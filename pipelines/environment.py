"""Environment variables that every process of a pipeline run shares.  What the user set wins."""

from __future__ import annotations

import functools
import importlib.util
import json
import logging
import os
import select
import signal
import sys
import threading
import time
from pathlib import Path

from zprl import child_processes, local_servers, terminal
from zprl.errors import Interrupted, ZprlError
from zprl.local_servers import LocalServer

UI_FILE = local_servers.FILE
"""Written by ``zprl ui``: the servers that it started for this project, and their logins."""
LOGIN = "PREFECT_API_AUTH_STRING"
STAGES_S = 90.0
"""Longest that stages take to stop."""
TIDY_S = 5.0
"""Then the tracking store hears of the end, and locks are given back."""

log = logging.getLogger(__name__)


def running_prefect() -> LocalServer | None:
    """Return this project's Prefect server, if ``zprl ui`` has one running."""
    return local_servers.read().get("Prefect")


def prepare() -> None:
    """Set the variables; call it before Prefect or MLflow is imported."""
    defaults = {
        **child_processes.SAFE_PATH,
        "PREFECT_HOME": str(Path(".prefect").resolve()),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",  # else an error in the log when offline
        # It takes 7 s on a quiet machine; 87 s were measured on a loaded one.
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
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
    os.environ[child_processes.DVC_CACHE] = child_processes.dvc_cache()
    os.environ.update(_prefect_logging())
    _find_prefect()


def _prefect_logging() -> dict[str, str]:
    """Return variables that have Prefect log as its package says.

    A folder's own file could name programs to run.  ``PREFECT_LOGGING`` comes before every name
    that ``.env``, ``prefect.toml``, ``pyproject.toml`` and profiles have for it.
    """
    package = importlib.util.find_spec("prefect")
    if package is None or package.origin is None:
        return {}
    file = str(Path(package.origin).with_name("logging") / "logging.yml")
    return {
        "PREFECT_LOGGING": json.dumps({"config_path": file}),
        "PREFECT_LOGGING_SETTINGS_PATH": file,
    }


def _find_prefect() -> None:
    """Set which Prefect server this process and its children use, and with which login."""
    wanted = local_servers.normalised(os.environ.get("PREFECT_API_URL", ""))
    server = running_prefect()
    if server is not None and wanted in ("", f"{server.url}/api") and _end_with(server):
        os.environ["PREFECT_API_URL"] = f"{server.url}/api"
        os.environ[LOGIN] = server.login
    elif not (wanted or os.environ.get(LOGIN)):  # a server of our own (`servers.embed`)
        os.environ[LOGIN] = _own_login()


_own_login = functools.cache(local_servers.new_login)


def follow_profile() -> bool:
    """Use the server, with its login, that a profile or a file of Prefect's names.

    Only Prefect can say, once it is imported; a login of our own is not for that server.

    Returns:
        Whether one is named.
    """
    from prefect.context import refresh_global_settings_context
    from prefect.settings import get_current_settings

    if not (url := get_current_settings().api.url):
        return False

    if os.environ.get(LOGIN) == _own_login():
        del os.environ[LOGIN]
        refresh_global_settings_context()
    os.environ["PREFECT_API_URL"] = url
    if (secret := get_current_settings().api.auth_string) is not None:
        os.environ[LOGIN] = secret.get_secret_value()
    return True


@functools.cache
def _end_with(server: LocalServer) -> bool:
    """End this process with the server it uses: a stranger may take the port, and be obeyed.

    Returns:
        False where the server has just ended.
    """
    if sys.platform != "linux":
        return True
    try:
        process = os.pidfd_open(server.pid)
    except ProcessLookupError:
        return False
    except OSError:  # a kernel that cannot tell
        return True
    if not local_servers.same(server.pid, server.started):  # another process has its number by now
        os.close(process)
        return False
    end = select.poll()
    end.register(process, select.POLLIN)

    def watch() -> None:
        import psutil

        end.poll()
        log.warning("the Prefect server of `zprl ui` has ended: stopping")
        os.kill(os.getpid(), signal.SIGTERM)
        # Stages stop at their next resume point.  Prefect would go on asking for its server.
        psutil.wait_procs(psutil.Process().children(recursive=True), timeout=STAGES_S)
        time.sleep(TIDY_S)
        os._exit(Interrupted.exit_code)

    threading.Thread(target=watch, name="end with the server", daemon=True).start()
    return True


class _OneSentence(logging.Filter):
    """Filter that takes the traceback off expected failures and makes all lines plain."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], ZprlError):
            record.exc_info = None
        try:
            text = record.getMessage()
        except Exception:  # noqa: BLE001 - raised here, it would end the caller
            text = (
                record.msg
                if isinstance(record.msg, str)
                else f"an object of {type(record.msg).__name__}"
            )
        record.msg = terminal.block(text)
        record.args = ()
        return True


def say_failures_in_one_sentence() -> None:
    """Have Prefect log expected failures without a traceback."""
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logger = logging.getLogger(name)
        if not any(isinstance(known, _OneSentence) for known in logger.filters):
            logger.addFilter(_OneSentence())
