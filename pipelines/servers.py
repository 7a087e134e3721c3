"""Every MLflow and Prefect server that zprl starts: on loopback, with a login of its own.

None outlives the process that started it.  That process opens the listening socket and hands it
down: nobody else can take the port before the server does, and the socket's owner is the server.
"""

from __future__ import annotations

import atexit
import contextlib
import http.client
import json
import os
import queue
import socket
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pipelines import environment
from pipelines.stage_process import stop_group
from zprl import child_processes, durable, local_servers
from zprl.errors import EnvironmentProblem
from zprl.local_servers import HOST, LocalServer

HEALTH = {"Prefect": "/api/health", "MLflow": "/health"}
MIN_LOGIN = 32
START_S = 180.0
"""A start takes seconds on a quiet machine; 87 s were measured on a loaded one."""


@dataclass(frozen=True)
class ServerProcess:
    """A server that runs as our child."""

    name: str
    process: subprocess.Popen[bytes]
    server: LocalServer

    def alive(self) -> None:
        """Check that it runs.

        Raises:
            EnvironmentProblem: it has ended.
        """
        if (code := self.process.poll()) is not None:
            raise EnvironmentProblem(
                f"{self.name} ended with exit code {code}",
                remedy="its last lines stand above, or in .cache/ui.log",
            )

    def ready(self) -> bool:
        """Return whether it answers.

        Raises:
            EnvironmentProblem: it has ended.
        """
        self.alive()
        connection = http.client.HTTPConnection(HOST, self.server.port, timeout=1.0)
        with (
            contextlib.closing(connection),
            contextlib.suppress(OSError, http.client.HTTPException),
        ):
            connection.request("GET", HEALTH[self.name])
            return connection.getresponse().status == 200
        return False

    def wait_until_ready(self, seconds: float = START_S) -> None:
        """Wait until it answers.

        Raises:
            EnvironmentProblem: it has ended, or takes too long.
        """
        end = time.monotonic() + seconds
        while not self.ready():
            if time.monotonic() > end:
                raise EnvironmentProblem(
                    f"{self.name} did not come up in {seconds:.0f} s",
                    remedy="look at the machine's load, run again",
                )
            time.sleep(0.1)

    def stop(self) -> None:
        """End it and all that it started."""
        stop_group(self.process, grace=(10.0, 5.0, 5.0))


def start(
    name: str,
    *,
    port: int = 0,
    login: str | None = None,
    log: IO[Any] | None = None,
    log_level: str = "error",
    **more: Any,
) -> ServerProcess:
    """Start a server.

    Args:
        name: ``Prefect`` or ``MLflow``.
        port: Where it listens; 0 takes a free port.
        login: Its secret; a new one by default.
        log: Where its lines go; default: where ours go.
        log_level: What it logs.
        more: Arguments of its function in :mod:`pipelines.server_process`.

    Raises:
        EnvironmentProblem: the port is taken.
    """
    try:
        listener = socket.create_server((HOST, port))
    except OSError as error:
        raise EnvironmentProblem(
            f"port {port} for {name} is taken: {error.strerror}",
            remedy=f"stop what uses it, or pass --{name.lower()}-port",
        ) from error

    settings: dict[str, Any] = {"name": name, "log_level": log_level, "more": more}
    settings["login"] = login or local_servers.new_login()
    with listener:
        settings |= {"port": listener.getsockname()[1], "fd": listener.fileno()}
        process = _spawn(
            child_processes.python("-m", "pipelines.server_process", str(os.getpid())),
            **_place(name),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )

    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin:  # `ready` notices one that is dead
        process.stdin.write(json.dumps(settings).encode() + b"\n")
    url = f"http://{HOST}:{settings['port']}"
    started = local_servers.started(process.pid)
    return ServerProcess(name, process, LocalServer(url, process.pid, started, settings["login"]))


def _place(name: str) -> dict[str, Any]:
    """Return working folder and environment of a server.

    Prefect reads settings and modules of the folder that it stands in: it gets one that is empty.
    MLflow's files lie here.
    """
    if name != "Prefect":
        return {"env": child_processes.environment()}
    home = Path(os.environ.get("PREFECT_HOME", local_servers.FILE.parent)).expanduser().absolute()
    durable.private_folder(home, close=True)
    empty = child_processes.private_folder("empty")
    profiles = str(empty / "profiles.toml")
    env = child_processes.environment(PREFECT_HOME=str(home), PREFECT_PROFILES_PATH=profiles)
    return {"cwd": empty, "env": env}


def _spawn(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a child from a thread that lives as long as the child.

    The kernel's signal of a parent's death comes when the thread ends that started the child.
    """
    started: queue.SimpleQueue[subprocess.Popen[bytes] | BaseException] = queue.SimpleQueue()

    def run() -> None:
        try:
            process = subprocess.Popen(command, **options)
        except BaseException as error:  # noqa: BLE001 - the caller handles it
            started.put(error)
            return
        started.put(process)
        process.wait()

    threading.Thread(target=run, name=f"parent of {command[-2]}", daemon=True).start()
    process = started.get()
    if isinstance(process, BaseException):
        raise process
    return process


def embed() -> None:
    """Have Prefect's clients start a server of ours where ``PREFECT_API_URL`` is not set.

    The one that they would start asks for no login, and may outlive them.
    """
    if os.environ.get("PREFECT_API_URL"):
        return
    if environment.follow_profile():
        return
    from prefect.server.api import server as theirs
    from prefect.settings import get_current_settings

    class Embedded(theirs.SubprocessASGIServer):
        def start(self, timeout: int | None = None) -> None:
            if self.running:
                return

            secret = get_current_settings().api.auth_string  # what this process's clients present
            login = secret.get_secret_value() if secret else ""
            if len(login) < MIN_LOGIN:
                raise EnvironmentProblem(
                    "no login for a Prefect server of our own",
                    remedy="unset PREFECT_API_AUTH_STRING, run again",
                )

            child = start("Prefect", login=login, ui=False)
            self.port = child.server.port
            self.server_process = child.process
            self.running = True
            atexit.register(self.stop)

            log = theirs.subprocess_server_logger
            log.info("Starting a Prefect server for this run on %s", self.address)
            try:
                child.wait_until_ready(timeout or START_S)
            except BaseException:
                self.stop()
                raise

    # Prefect has no setting for it.
    theirs.SubprocessASGIServer = Embedded  # type: ignore[misc]


def demand_login(api: str) -> None:
    """Refuse a Prefect server that asks for no login: a stranger who reaches it could move a robot.

    Raises:
        EnvironmentProblem: it answers a stranger, or does not answer at all.
    """
    import httpx

    try:
        answer = httpx.post(f"{api.rstrip('/')}/work_pools/filter", json={}, timeout=30)  # no login
    except httpx.HTTPError as error:
        raise EnvironmentProblem(
            f"the Prefect server {api} does not answer: {error}",
            remedy="start it, or unset PREFECT_API_URL",
        ) from error
    if answer.status_code in (401, 403):
        return
    if answer.is_success:
        raise EnvironmentProblem(
            f"the Prefect server {api} demands no login: anybody who reaches it "
            "could move the robot",
            remedy="set PREFECT_SERVER_API_AUTH_STRING on it, or use the server of `zprl ui`",
        )
    raise EnvironmentProblem(
        f"the Prefect server {api} does not say whether it demands a login: "
        f"status {answer.status_code}",
        remedy="check its address and its log, or use the server of `zprl ui`",
    )
