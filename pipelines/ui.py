"""``zprl ui``: MLflow and Prefect on loopback, as children that end together."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from pipelines import environment
from pipelines.processes import sigterm_like_ctrl_c, stop_group
from zprl import children, durable
from zprl.errors import EnvironmentProblem
from zprl.tracking.mlflow_tracker import ARTIFACT_FOLDER, make_private, tracking_uri

HOST = "127.0.0.1"


def _port_free(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _commands(mlflow_port: int, prefect_port: int) -> dict[str, tuple[list[str], str, str]]:
    """Command, health address and page of each server; a remote one is only named."""
    wanted: dict[str, tuple[list[str], str, str]] = {}
    uri = tracking_uri()
    if not uri.startswith(("http://", "https://")):
        command = children.python("-m", "mlflow", "server", "--host", HOST, "--port", str(mlflow_port), "--workers", "1")
        command += ["--uvicorn-opts", f"--app-dir={os.devnull}"]  # it would be the working folder, first on the server's path
        command += ["--backend-store-uri", uri, "--artifacts-destination", ARTIFACT_FOLDER]
        wanted["MLflow"] = (command, f"http://{HOST}:{mlflow_port}/health", f"http://{HOST}:{mlflow_port}")
    if not os.environ.get("PREFECT_API_URL"):
        command = children.python("-m", "prefect", "server", "start", "--host", HOST, "--port", str(prefect_port))
        wanted["Prefect"] = (command, f"http://{HOST}:{prefect_port}/api/health", f"http://{HOST}:{prefect_port}")
    return wanted


@sigterm_like_ctrl_c()
def serve(*, mlflow_port: int = 5000, prefect_port: int = 4200, wait_s: float = 180.0) -> None:
    """Start both servers, print where they are, and end both on Ctrl-C, on SIGTERM or when one of them dies.

    Raises:
        EnvironmentProblem: a port is taken, or a server did not come up.
    """
    environment.prepare()
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # 7.6 s instead of 28 s to start, a quarter of the memory
    wanted = _commands(mlflow_port, prefect_port)
    for name, port in (("MLflow", mlflow_port), ("Prefect", prefect_port)):
        if name in wanted and not _port_free(port):
            raise EnvironmentProblem(f"port {port} for {name} is taken", remedy=f"stop what uses it, or pass --{name.lower()}-port")
    if "MLflow" not in wanted:
        print(f"MLflow   {tracking_uri()}  (MLFLOW_TRACKING_URI)", flush=True)
    if "Prefect" not in wanted:
        print(f"Prefect  {os.environ['PREFECT_API_URL'].removesuffix('/api')}  (PREFECT_API_URL)", flush=True)
    log = Path(".cache/ui.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    home = Path(os.environ["PREFECT_HOME"]).expanduser().absolute()
    durable.private_folder(home)
    if "MLflow" in wanted:
        make_private()
    servers: dict[str, subprocess.Popen[bytes]] = {}
    try:
        with open(log, "wb") as sink:
            for name, (command, _, _) in wanted.items():
                # Prefect's migrations put the working folder first on its path; MLflow's files lie here.
                cwd, env = home if name == "Prefect" else None, children.environment(PREFECT_HOME=str(home))
                options = {"stdout": sink, "stderr": subprocess.STDOUT, "start_new_session": True}
                servers[name] = subprocess.Popen(command, **options, cwd=cwd, env=env)
        waiting, end = dict(wanted), time.monotonic() + wait_s
        while True:
            for name, child in servers.items():
                if child.poll() is not None:
                    raise EnvironmentProblem(f"{name} ended with exit code {child.returncode}", remedy=f"its last words are in {log}")
            for name in [n for n, (_, health, _) in waiting.items() if environment.healthy(health)]:
                page = waiting.pop(name)[2]
                print(f"{name:8} {page}", flush=True)
                if name == "Prefect":
                    durable.write_json(environment.UI_FILE, {"prefect_api": f"{page}/api"})
                if not waiting:
                    print("Ctrl-C stops both", flush=True)
            if waiting and time.monotonic() > end:
                raise EnvironmentProblem(f"{', '.join(waiting)} did not come up in {wait_s:.0f} s", remedy=f"see {log}")
            time.sleep(0.3)
    except KeyboardInterrupt:
        print("\nstopped", flush=True)
    finally:
        environment.UI_FILE.unlink(missing_ok=True)
        for child in servers.values():
            stop_group(child, grace=(15.0, 10.0, 5.0))
