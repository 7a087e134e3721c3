"""Throw-away git and DVC projects with small real stages, and one Prefect server for all tests here."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipelines import servers
from zprl.local_servers import FILE, LocalServer

ROOT = Path(__file__).parents[2]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that starts the tests in the background makes all of their children deaf to Ctrl-C,
    # which some tests send.
    signal.signal(signal.SIGINT, signal.default_int_handler)

STAGE = """
import os, sys, time
from pathlib import Path
from pipelines.stages.stage import Stage, main
from zprl import durable, errors

name, out, inputs = sys.argv[1], Path(sys.argv[2]), [Path(p) for p in sys.argv[3:]]

def body(stage: Stage) -> None:
    with open(f"ran-{name}", "a") as file:
        file.write(f"{os.getpid()}\\n")
    mode = Path(f"mode-{name}").read_text() if Path(f"mode-{name}").exists() else ""
    if mode == "bad":
        raise errors.DataError("episode 3 is broken", remedy="record it again")
    if mode == "crash once" and len(Path(f"ran-{name}").read_text().split()) == 1:
        os.kill(os.getpid(), 9)
    last = stage.run_dir.latest()
    for step in range(last.step if last else 0, 3):
        stage.tracker.log(step, loss=float(step))
        stage.run_dir.save(step + 1, {}, {})
        stage.stop_if_asked()
        stage.log.info(f"step {step + 1} of 3")
        while step == 1 and not stage.stopping and Path(f"mode-{name}").exists() and Path(f"mode-{name}").read_text() == "slow":
            Path("waiting").touch()
            time.sleep(0.05)
        if stage.stopping:
            stage.stop_if_asked()
    durable.write_text(out, name + "".join(p.read_text() for p in inputs))

main(name, body, sections=("run",), inputs=inputs)
"""


def pids(project: Project, name: str) -> list[int]:
    """Process ids of all attempts of a stage."""
    file = project.path / f"ran-{name}"
    return [int(line) for line in file.read_text().split()] if file.exists() else []


@dataclass
class Project:
    """A folder under git and DVC.  ``last`` needs ``middle`` needs ``first``, written in the opposite order."""

    path: Path
    env: dict[str, str] = field(default_factory=dict)
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def environment(self) -> dict[str, str]:
        own = {
            "PYTHONPATH": str(ROOT),
            "ZPRL_TRACKING": "off",
            "OMP_NUM_THREADS": "1",
            "GIT_CEILING_DIRECTORIES": str(self.path.parent),
        }
        clean = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith(("MLFLOW_", "ZPRL_", "PREFECT_"))
        }
        return {**clean, **own, **self.env}

    def run(self, *command: str, timeout: float = 500) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.path,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def dvc(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "dvc", *arguments)

    def zprl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "zprl.cli", *arguments)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "zprl.cli", *arguments]
        with open(self.path / "log", "a") as log:
            process = subprocess.Popen(
                command,
                cwd=self.path,
                env=self.environment(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def open_ui(self) -> Opened:
        """Start ``zprl ui`` on free ports and wait until both servers are up."""
        ports = {"MLflow": free_port(), "Prefect": free_port()}
        log = self.path / "log"
        before = log.stat().st_size if log.exists() else 0
        process = self.start(
            "ui",
            *(
                word
                for name, port in ports.items()
                for word in (f"--{name.lower()}-port", str(port))
            ),
        )
        self.wait_for(
            lambda: "Ctrl-C stops both" in log.read_text()[before:] or process.poll() is not None
        )
        text = log.read_text()[before:]
        assert process.poll() is None, text
        named = json.loads((self.path / FILE).read_text())
        return Opened(
            process,
            {name: LocalServer(**facts) for name, facts in named.items()},
            dict(re.findall(r"(\w+) +(http\S+#\S+)", text)),
        )

    def clean(self) -> None:
        """End what a failed test left; the stages below notice by themselves."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
                process.wait()

    def mode(self, stage: str, mode: str) -> None:
        (self.path / f"mode-{stage}").write_text(mode)

    def attempts(self, stage: str) -> list[int]:
        return pids(self, stage)

    def wait_for(self, condition, *, timeout: float = 400) -> None:
        """Wait for a condition that must come; the limit is only there to fail instead of hanging."""
        end = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < end, (
                (self.path / "log").read_text()[-3000:]
                if (self.path / "log").exists()
                else "timeout"
            )
            time.sleep(0.1)


@dataclass
class Opened:
    """A running ``zprl ui``: its process, its servers and the links that it printed, by server."""

    process: subprocess.Popen[bytes]
    servers: dict[str, LocalServer]
    links: dict[str, str]


def make_project(path: Path, env: dict[str, str]) -> Project:
    project = Project(path, env)
    path.mkdir(parents=True, exist_ok=True)
    python = shlex.quote(sys.executable)
    (path / "toy.py").write_text(STAGE)
    (path / "params.yaml").write_text("run:\n  seed: 0\n")
    (path / "dvc.yaml").write_text(
        f"""stages:
  last:
    cmd: exec {python} toy.py last last.txt middle.txt
    deps: [middle.txt]
    outs: [last.txt]
  middle:
    cmd: exec {python} toy.py middle middle.txt first.txt
    deps: [first.txt]
    outs: [middle.txt]
  first:
    cmd: exec {python} toy.py first first.txt
    deps: [toy.py]
    params: [run]
    outs: [first.txt]
"""
    )
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        done = project.run(*command)
        assert done.returncode == 0, done.stderr
    return project


def ask(project: Project, method: str, path: str, **arguments: Any) -> Any:
    """Call the Prefect API; its SQLite database answers 503 while busy, which Prefect's own client tries again too."""
    url, login = project.env["PREFECT_API_URL"] + path, project.env["PREFECT_API_AUTH_STRING"]
    for _ in range(20):
        answer = httpx.request(method, url, auth=tuple(login.split(":")), timeout=60, **arguments)
        if answer.status_code != 503:
            break
        time.sleep(1)
    return answer.raise_for_status().json() if answer.content else None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment of a running Prefect server; started once, because a start takes ten seconds."""
    home = tmp_path_factory.mktemp("prefect")
    with open(home / "server.log", "w") as log, pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("PREFECT_")]:
            patch.delenv(name)
        patch.setenv("PREFECT_HOME", str(home))
        patch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
        server = servers.start("Prefect", log=log, ui=True)
    try:
        server.wait_until_ready()
        yield {
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": f"{server.server.url}/api",
            "PREFECT_API_AUTH_STRING": server.server.login,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        }
    finally:
        server.stop()


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh project to copy: making one takes seconds."""
    return make_project(tmp_path_factory.mktemp("template") / "project", {}).path


@pytest.fixture
def project(tmp_path: Path, template: Path) -> Iterator[Project]:
    """A fresh project; the embedded Prefect server would serve it."""
    project = Project(Path(shutil.copytree(template, tmp_path / "project")))
    yield project
    project.clean()


@pytest.fixture
def served(project: Project, prefect_server: dict[str, str]) -> Project:
    """A fresh project beside the running Prefect server."""
    project.env.update(prefect_server)
    return project
