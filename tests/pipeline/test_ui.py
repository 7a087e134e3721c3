"""``zprl ui``: both servers on loopback, found by the next run, gone after Ctrl-C."""

from __future__ import annotations

import signal
import socket
import sys

import httpx
import psutil
import pytest

from pipelines import environment, ui
from tests.pipeline.conftest import Project
from zprl import local_servers
from zprl.errors import EnvironmentProblem
from zprl.local_servers import LocalServer


@pytest.mark.services
def test_both_open_and_end_together(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = project.open_ui()
    monkeypatch.chdir(project.path)
    assert environment.running_prefect() == opened.servers["Prefect"]
    assert set(opened.links) == {"MLflow", "Prefect"}
    for name, path in (("MLflow", "/health"), ("Prefect", "/api/health")):
        assert httpx.get(opened.servers[name].url + path, timeout=60).status_code == 200
    family = psutil.Process(opened.process.pid).children(recursive=True)
    assert len(family) == 2  # one process a server: none of them has children that could be left
    listening = {
        c.laddr.ip for p in family for c in p.net_connections() if c.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}

    script = f'eval "$({sys.executable} -m zprl.cli ui --env)" && {sys.executable} -m mlflow '
    found = project.run("bash", "-c", f"{script} experiments search")
    assert found.returncode == 0, found.stderr
    assert "Default" in found.stdout

    other = project.zprl("ui")
    assert other.returncode == 4
    assert "is open in this folder already" in other.stderr

    opened.process.send_signal(signal.SIGINT)
    assert opened.process.wait(timeout=120) == 0
    _, alive = psutil.wait_procs(family, timeout=15)
    assert alive == []
    assert not (project.path / environment.UI_FILE).exists()
    assert project.zprl("ui", "--link").returncode == 4


def test_the_environment_of_clients(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = {
        "MLflow": LocalServer("http://127.0.0.1:5000", 1, 1.0, "zprl:m; $(x)"),
        "Prefect": LocalServer("http://127.0.0.1:4200", 2, 1.0, "zprl:p"),
    }
    monkeypatch.setattr(local_servers, "read", lambda: opened)
    ui.show_environment()
    assert capsys.readouterr().out.splitlines() == [
        "export MLFLOW_TRACKING_URI=http://127.0.0.1:5000 MLFLOW_TRACKING_TOKEN='zprl:m; $(x)'",
        "export PREFECT_API_URL=http://127.0.0.1:4200/api PREFECT_API_AUTH_STRING=zprl:p",
    ]


def test_a_taken_port_is_named(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(environment, "prepare", lambda: None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EnvironmentProblem, match=f"port {port} for MLflow is taken"):
            ui.serve(mlflow_port=port)
    assert not local_servers.FILE.exists()


def test_an_absent_ui_is_not_used(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.path)
    assert environment.running_prefect() is None
    environment.UI_FILE.parent.mkdir(mode=0o700)
    for text in (
        '{"prefect_api": "http://127.0.0.1:9/api"}',
        "[]",
        "",
    ):  # left by a kill, or by a bug
        environment.UI_FILE.write_text(text)
        assert environment.running_prefect() is None
