"""``zprl ui``: MLflow and Prefect on loopback, opened by links that log a browser in."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from pipelines import environment, guard, servers
from pipelines.stage_process import sigterm_like_ctrl_c
from zprl import child_processes, durable, local_servers
from zprl.errors import EnvironmentProblem
from zprl.local_servers import LocalServer
from zprl.terminal import say
from zprl.tracking.mlflow_tracker import ARTIFACT_FOLDER, make_database, tracking_uri

LOG = Path(".cache/ui.log")
LOG_BYTES = 10_000_000
"""The log begins anew at this length."""
STOPPED_S = environment.STAGES_S + environment.TIDY_S + 25.0
"""By then a run that used the server before has stopped, and cannot say so to this one."""
CLIENT_VARIABLES = {
    "MLflow": ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_TOKEN"),
    "Prefect": ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING"),
}
"""Where each server's own clients look for its address and its login."""


@sigterm_like_ctrl_c()
def serve(
    *,
    mlflow_port: int = 5000,
    prefect_port: int = 4200,
    wait_s: float = servers.START_S,
) -> None:
    """Start both servers, print links to them, and end both on Ctrl-C, on SIGTERM or when one dies.

    Raises:
        EnvironmentProblem: a port is taken, a server did not come up, or another ``zprl ui`` is
            open here.
    """
    LOG.parent.mkdir(parents=True, exist_ok=True)
    with _only_one(), open(LOG, "ab") as log, ExitStack() as children:
        log.truncate(0)
        environment.prepare()
        ports = {"MLflow": mlflow_port, "Prefect": prefect_port}
        try:
            _watch(_start(children, log, ports), wait_s)
        except KeyboardInterrupt:
            say()  # the terminal shows ^C
            say(f"stopped{_stopping_runs()}")
        finally:
            environment.UI_FILE.unlink(missing_ok=True)


def show_links() -> None:
    """Print new links to the servers of the ``zprl ui`` that is open here.

    Raises:
        EnvironmentProblem: none is.
    """
    for name, server in _open_here().items():
        say(f"{name:8} {link_to(server)}")


def show_environment() -> None:
    """Print shell commands that give programs the addresses and logins of the `zprl ui` open here.

    Raises:
        EnvironmentProblem: none is.
    """
    for name, server in _open_here().items():
        address, login = CLIENT_VARIABLES[name]
        url = f"{server.url}/api" if name == "Prefect" else server.url
        say(f"export {address}={shlex.quote(url)} {login}={shlex.quote(server.login)}")


def _open_here() -> dict[str, LocalServer]:
    """Return the servers of the ``zprl ui`` that is open in this folder."""
    opened = local_servers.read()
    if not opened:
        text = "`zprl ui` is not open in this folder"
        raise EnvironmentProblem(text, remedy="open it: `zprl ui`")
    return opened


@contextmanager
def _only_one() -> Iterator[None]:
    durable.private_folder(local_servers.LEASE.parent, close=True)
    try:
        lease = durable.lease(local_servers.LEASE)
    except EnvironmentProblem as error:
        raise EnvironmentProblem(
            "`zprl ui` is open in this folder already",
            remedy="`zprl ui --link` prints links to its pages",
        ) from error
    try:
        yield
    finally:
        os.close(lease)


def _start(
    children: ExitStack, log: IO[bytes], ports: Mapping[str, int]
) -> list[servers.ServerProcess]:
    """Start what this folder has no server for; a remote one is only named."""
    uri = tracking_uri()
    api = os.environ.get("PREFECT_API_URL")
    wanted: dict[str, dict[str, Any]] = {}
    if uri.startswith(("http://", "https://")):
        say(f"MLflow   {uri}  (MLFLOW_TRACKING_URI)")
    else:
        make_database()
        wanted["MLflow"] = {"store": uri, "artifacts": str(Path(ARTIFACT_FOLDER).resolve())}

    if api:
        say(f"Prefect  {api.removesuffix('/api')}  (PREFECT_API_URL)")
    else:
        wanted["Prefect"] = {"ui": True}

    started = []
    for name, more in wanted.items():
        child = servers.start(name, port=ports[name], log=log, log_level="warning", **more)
        children.callback(child.stop)
        started.append(child)
    return started


def _watch(children: list[servers.ServerProcess], wait_s: float) -> None:
    """Print a link to each server that comes up, until one of them ends."""
    up: dict[str, LocalServer] = {}
    close_again = float("inf")
    end = time.monotonic() + wait_s

    while True:
        for child in children:
            child.alive()
            if child.name in up or not child.ready():
                continue

            up[child.name] = child.server
            local_servers.write(up)
            if child.name == "Prefect":
                _close_dead_runs()
                close_again = time.monotonic() + STOPPED_S
            say(f"{child.name:8} {link_to(child.server)}")
            if len(up) == len(children):
                say("a link opens its page once; `zprl ui --link` prints new ones")
                say("Ctrl-C stops both")

        if time.monotonic() > close_again:
            close_again = float("inf")
            _close_dead_runs()

        if LOG.stat().st_size > LOG_BYTES:  # the servers append to it
            os.truncate(LOG, 0)

        if time.monotonic() > end and (late := [c.name for c in children if c.name not in up]):
            text = f"{', '.join(late)} did not come up in {wait_s:.0f} s"
            raise EnvironmentProblem(text, remedy=f"see {LOG}")
        time.sleep(0.3)


def _stopping_runs() -> str:
    """Return how many flow runs use the server and so stop with it; nothing where it cannot say."""
    import httpx

    server = local_servers.read().get("Prefect")
    if server is None:
        return ""

    name, _, secret = server.login.partition(":")
    running = {"flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}}
    try:
        answer = httpx.post(
            f"{server.url}/api/flow_runs/count",
            json=running,
            auth=(name, secret),
            timeout=2.0,
            trust_env=False,
        )
        count = int(answer.raise_for_status().json())
    except (httpx.HTTPError, ValueError, TypeError):
        return ""
    return f", and with it {count} flow run(s) that used it" if count else ""


def _close_dead_runs() -> None:
    """Close flow runs that died with the last ``zprl ui``: the next nightly would be cancelled."""
    subprocess.run(
        child_processes.python("-m", "pipelines.close_dead_runs"),
        env=child_processes.environment(),
        check=False,
    )


def link_to(server: LocalServer) -> str:
    """Return a link that logs a browser in, once."""
    answer: Mapping[str, str] = local_servers.request(server, "POST", guard.TICKET)
    return f"{server.url}{guard.LOGIN}#{answer['ticket']}"
