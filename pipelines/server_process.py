"""One server of :mod:`pipelines.servers`, behind the guard.

It is started as ``python -m pipelines.server_process PARENT``, with the parent's process id.  Its
settings come as a line of JSON on standard input, so that the login is on no command line.
"""

from __future__ import annotations

import base64
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

from zprl import durable, logs
from zprl.local_servers import HOST
from zprl.parent_death import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp


def prefect(port: int, login: str, *, ui: bool) -> ASGIApp:
    """Return Prefect's API, and its page where ``ui`` is true."""
    origin = f"http://{HOST}:{port}"
    for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING"):  # a server is nobody's client
        os.environ.pop(name, None)
    os.environ.update(
        PREFECT_SERVER_API_AUTH_STRING=login,
        PREFECT_SERVER_CORS_ALLOWED_ORIGINS=origin,
        PREFECT_SERVER_UI_ENABLED=str(ui),
        PREFECT_SERVER_UI_API_URL="/api",
    )
    from prefect.server.api.server import create_app

    from pipelines.guard import ServerGuard

    # Where Prefect's page looks for its login.
    storage = {"prefect-password": base64.b64encode(login.encode()).decode()}
    return ServerGuard(
        create_app(ephemeral=not ui, final=True), port=port, login=login, storage=storage
    )


def mlflow(port: int, login: str, *, store: str, artifacts: str) -> ASGIApp:
    """Return MLflow's API and page, as ``mlflow server`` runs them, without processes for jobs."""
    os.environ.pop("MLFLOW_TRACKING_TOKEN", None)
    os.environ.update(
        MLFLOW_SERVER_ALLOWED_HOSTS=f"{HOST}:{port},localhost:{port}",
        MLFLOW_SERVER_CORS_ALLOWED_ORIGINS=f"http://{HOST}:{port}",
        MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false",  # a quarter of the memory and of the start
        _MLFLOW_SGI_NAME="uvicorn",
        _MLFLOW_IN_JOB_EXECUTOR="false",
    )
    import uvicorn  # noqa: F401 - MLflow protects itself where it sees a server
    from mlflow.server import constants, handlers

    root = "mlflow-artifacts:/"
    os.environ.update(
        {
            constants.BACKEND_STORE_URI_ENV_VAR: store,
            constants.REGISTRY_STORE_URI_ENV_VAR: store,
            constants.ARTIFACT_ROOT_ENV_VAR: root,
            constants.SERVE_ARTIFACTS_ENV_VAR: "true",
            constants.ARTIFACTS_DESTINATION_ENV_VAR: artifacts,
        }
    )
    handlers.initialize_backend_stores(store, store, root)
    from mlflow.server.fastapi_app import app

    from pipelines.guard import ServerGuard

    return ServerGuard(app, port=port, login=login)


APPS: dict[str, Callable[..., ASGIApp]] = {"Prefect": prefect, "MLflow": mlflow}


def main() -> int:
    """Serve until SIGTERM, SIGINT, or the parent's end."""
    # Databases survive a SIGKILL, and it waits for no open page.
    die_with_parent(int(sys.argv[1]), signal.SIGKILL)
    logs.configure()
    settings: dict[str, Any] = durable.parse_json(sys.stdin.readline(), "the settings")
    listener = socket.socket(fileno=settings["fd"])
    app = APPS[settings["name"]](settings["port"], settings["login"], **settings["more"])

    from pipelines.quiet_server import QuietServer

    server = QuietServer(
        app,
        log_level=settings["log_level"],
        lifespan="on",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    server.run(sockets=[listener])
    return 0


if __name__ == "__main__":
    sys.exit(main())
