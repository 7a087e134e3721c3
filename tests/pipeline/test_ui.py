"""``zprl ui``: both servers on loopback, found by the next run, gone after Ctrl-C."""

from __future__ import annotations

import json
import signal

import psutil
import pytest

from pipelines import environment, ui
from tests.pipeline.conftest import Project, free_port
from zprl.errors import EnvironmentProblem


@pytest.mark.services
def test_both_open_and_end_together(project: Project) -> None:
    mlflow_port, prefect_port = free_port(), free_port()
    server = project.start("ui", "--mlflow-port", str(mlflow_port), "--prefect-port", str(prefect_port))
    log = project.path / "log"
    project.wait_for(lambda: "Ctrl-C stops both" in log.read_text() or server.poll() is not None)
    assert server.poll() is None, log.read_text()
    assert f"http://127.0.0.1:{mlflow_port}" in log.read_text()
    assert environment.healthy(f"http://127.0.0.1:{mlflow_port}/health")
    api = json.loads((project.path / environment.UI_FILE).read_text())["prefect_api"]
    assert environment.healthy(f"{api}/health")
    family = psutil.Process(server.pid).children(recursive=True)
    listening = {
        c.laddr.ip
        for p in family
        for c in p.net_connections()
        if c.status == psutil.CONN_LISTEN and c.laddr.port in (mlflow_port, prefect_port)
    }
    assert listening == {"127.0.0.1"}
    server.send_signal(signal.SIGINT)
    assert server.wait(timeout=120) == 0
    _, alive = psutil.wait_procs(family, timeout=15)
    assert alive == []
    assert not (project.path / environment.UI_FILE).exists()


def test_a_taken_port_is_named(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(environment, "prepare", lambda: None)
    monkeypatch.setattr(ui, "_port_free", lambda port: port != 5000)
    with pytest.raises(EnvironmentProblem, match="port 5000 for MLflow is taken"):
        ui.serve()


def test_an_absent_ui_is_not_used(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.path)
    assert environment.running_prefect() is None
    environment.UI_FILE.parent.mkdir()
    environment.UI_FILE.write_text('{"prefect_api": "http://127.0.0.1:9/api"}')  # left by a kill
    assert environment.running_prefect() is None
    environment.UI_FILE.write_text("[]")
    assert environment.running_prefect() is None
