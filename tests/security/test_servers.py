"""Strangers at the servers that zprl starts, and at those that it is told to use."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from pipelines import guard, prefect_cli, servers
from pipelines import ui as ui_module
from tests.pipeline.conftest import Opened, Project, make_project
from tests.stranger import Stranger
from zprl import local_servers
from zprl.errors import EnvironmentProblem


def test_a_server_that_answers_strangers_moves_no_robot() -> None:
    stranger = Stranger()
    with pytest.raises(EnvironmentProblem, match="demands no login"):
        servers.demand_login(f"{stranger.url}/api")
    stranger.close()
    assert stranger.asked == [("/api/work_pools/filter", None)]
    with pytest.raises(EnvironmentProblem, match="does not answer"):
        servers.demand_login("http://127.0.0.1:1/api")


@pytest.mark.parametrize("status", [500, 404, 307])
def test_an_answer_that_tells_nothing_about_a_login_is_told_as_such(status: int) -> None:
    with (
        contextlib.closing(Stranger(status)) as stranger,
        pytest.raises(EnvironmentProblem, match=f"status {status}") as refused,
    ):
        servers.demand_login(f"{stranger.url}/api")
    assert "demands no login" not in str(refused.value)


@pytest.mark.parametrize(
    ("command", "about"),
    [
        ("work-pool create robot --type process", True),
        ("work-pool create --type process robot", True),
        ("--no-prompt work-pool create robot", True),
        ("worker start --pool robot", True),
        ("worker start --pool=robot", True),
        ("worker start -p robot", True),
        ("worker start --pool zprl", False),
        ("work-pool create zprl", False),
        ("deploy --all", True),
        ("--no-prompt deploy --all", True),
        ("deploy --name nightly", False),
        ("deploy --name robot-session", True),
        ("deploy pipelines/flows.py:session -n mine --pool robot", True),
    ],
)
def test_commands_about_the_robot_s_pool(command: str, about: bool) -> None:
    assert prefect_cli.about_the_robot(command.split()) is about


@pytest.fixture(scope="module")
def module_project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    project = make_project(tmp_path_factory.mktemp("servers") / "project", {})
    yield project
    project.clean()


@pytest.fixture
def lone(tmp_path: Path) -> Iterator[Project]:
    """A project where no ``zprl ui`` is open."""
    project = make_project(tmp_path / "project", {})
    yield project
    project.clean()


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a Prefect server as Prefect itself starts it: it has no login."""
    home = tmp_path_factory.mktemp("open")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    env = {
        **clean,
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_UI_ENABLED": "0",
    }
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        "--factory",
        "prefect.server.api.server:create_app",
        "--port",
        str(port),
    ]
    process = subprocess.Popen(
        command, env=env, cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}/api"
    try:
        for _ in range(1800):
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{url}/health").status_code == 200:
                    break
            assert process.poll() is None
            threading.Event().wait(0.1)
        yield url
    finally:
        process.kill()
        process.wait()


@pytest.mark.services
def test_no_pool_no_worker_and_no_flow_of_the_robot_on_an_open_server(
    module_project: Project, open_server: str
) -> None:
    project = Project(module_project.path, {"PREFECT_API_URL": open_server})
    for command in (
        "work-pool create robot --type process",
        "worker start --pool robot --run-once",
    ):
        done = project.zprl("prefect", *command.split())
        assert done.returncode == 4, done.stdout + done.stderr
        assert "demands no login" in done.stderr
    assert httpx.post(f"{open_server}/work_pools/filter", json={}).json() == []
    done = project.zprl("prefect", "work-pool", "create", "zprl", "--type", "process")
    assert done.returncode == 0, done.stderr
    code = "from pipelines.flows import session\nfrom zprl.errors import EnvironmentProblem\ntry:\n    session('first')\n"
    code += "except EnvironmentProblem as error:\n    raise SystemExit(f'refused: {error}')"
    done = project.run(sys.executable, "-c", code)
    assert "refused: the Prefect server" in done.stderr, done.stderr[-3000:]
    assert project.attempts("first") == []


# -- what `zprl ui` starts -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ui(module_project: Project) -> Opened:
    return module_project.open_ui()


def basic(login: str) -> str:
    return "Basic " + base64.b64encode(login.encode()).decode()


def attack(url: str) -> None:
    """What a page on another site, and another user of this machine, sent to run code."""
    port = int(url.rsplit(":", 1)[1])
    evil = {"Origin": "http://evil.example"}
    asks = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    preflight = httpx.options(f"{url}/api/deployments/", headers={**evil, **asks}, timeout=60)
    assert preflight.status_code == 403
    assert "access-control-allow-origin" not in preflight.headers
    pool = {"name": "zprl", "type": "process"}
    for headers, status in (
        ({}, 401),
        (evil, 403),
        ({"Authorization": basic("zprl:guess")}, 401),
        ({"Host": "evil.example"}, 421),
    ):
        assert (
            httpx.post(f"{url}/api/work_pools/", json=pool, headers=headers, timeout=60).status_code
            == status
        )
    for path in (
        "/api/health/../work_pools/filter",
        "/api//work_pools/filter",
        "/api/admin/version",
        "/api/flows/count",
    ):
        assert httpx.get(url + path, timeout=60).status_code in (401, 404, 405)
    for headers in (
        {"Host": "evil.example"},
        {"Host": f"127.0.0.1:{port}", "Origin": "http://evil.example"},
    ):
        assert handshake(port, headers) == 403


def handshake(port: int, headers: dict[str, str]) -> int:
    """Status of the answer to a WebSocket's first request."""
    asked = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "x" * 22 + "==",
        "Sec-WebSocket-Version": "13",
        **headers,
    }
    lines = [
        "GET /api/events/out HTTP/1.1",
        *(f"{name}: {value}" for name, value in asked.items()),
        "",
        "",
    ]
    with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        sock.sendall("\r\n".join(lines).encode())
        return int(sock.recv(100).split()[1])


@pytest.mark.services
def test_strangers_at_prefect(ui: Opened) -> None:
    server = ui.servers["Prefect"]
    attack(server.url)
    assert (
        handshake(server.port, {"Host": f"127.0.0.1:{server.port}"}) == 403
    )  # not even a try without Prefect's subprotocol
    asked = httpx.post(
        f"{server.url}/api/work_pools/filter",
        json={},
        headers={"Authorization": basic(server.login)},
        timeout=60,
    )
    assert asked.status_code == 200


@pytest.mark.services
def test_a_websocket_needs_the_login(ui: Opened) -> None:
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    server = ui.servers["Prefect"]
    address = f"ws://127.0.0.1:{server.port}/api/events/out"
    with connect(address, subprotocols=["prefect"]) as wire, pytest.raises(ConnectionClosed):
        wire.send(json.dumps({"type": "auth", "token": "zprl:guess"}))
        wire.recv(timeout=60)
    with connect(address, subprotocols=["prefect"]) as wire:
        wire.send(json.dumps({"type": "auth", "token": server.login}))
        assert json.loads(wire.recv(timeout=60)) == {"type": "auth_success"}


@pytest.mark.services
def test_strangers_fill_no_log(ui: Opened, module_project: Project) -> None:
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    server, log = ui.servers["Prefect"], module_project.path / ".cache/ui.log"
    before, tries = log.stat().st_size, 20
    for _ in range(tries):
        answer = httpx.post(
            f"{server.url}/api/work_pools/filter",
            json={},
            headers={"Authorization": basic("zprl:\u00e4")},
            timeout=60,
        )
        assert answer.status_code == 401
    for message in [json.dumps({"type": "auth", "token": "\u00e4"}), "[]", "{"] * tries:
        with (
            connect(
                f"ws://127.0.0.1:{server.port}/api/events/out", subprotocols=["prefect"]
            ) as wire,
            pytest.raises(ConnectionClosed),
        ):
            wire.send(message)
            wire.recv(timeout=60)
    assert log.stat().st_size - before < 4 * tries * 300
    assert "Traceback" not in log.read_text()

    with open(log, "ab") as sink:
        sink.truncate(ui_module.LOG_BYTES + 1)
    end = time.monotonic() + 60
    while log.stat().st_size > ui_module.LOG_BYTES:
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.services
def test_strangers_at_mlflow(ui: Opened) -> None:
    url = ui.servers["MLflow"].url
    model = {"name": "mine"}
    create = f"{url}/api/2.0/mlflow/registered-models/create"
    for headers, status in (
        ({}, 401),
        ({"Origin": "http://evil.example"}, 403),
        ({"Host": "evil.example"}, 421),
    ):
        assert httpx.post(create, json=model, headers=headers, timeout=60).status_code == status
        assert httpx.get(f"{url}/", headers=headers, timeout=60).status_code == status
        assert (
            httpx.get(
                f"{url}/ajax-api/3.0/mlflow/assistant/config", headers=headers, timeout=60
            ).status_code
            == status
        )
    other = {"Authorization": f"Bearer {ui.servers['Prefect'].login}"}
    assert (
        httpx.post(create, json=model, headers=other, timeout=60).status_code == 401
    )  # each server has its own


@pytest.mark.services
def test_a_client_of_mlflow_finds_its_login(ui: Opened, module_project: Project) -> None:
    code = """
from pathlib import Path
from zprl.tracking.mlflow_tracker import connect
client = connect()
run = client.create_run(client.create_experiment("theirs")).info.run_id
Path("note.txt").write_text("hello")
client.log_metric(run, "loss", 1.0)
client.log_artifact(run, "note.txt")
assert Path(client.download_artifacts(run, "note.txt", ".")).read_text() == "hello"
client.create_registered_model("mine")
"""
    project = Project(module_project.path, {"MLFLOW_TRACKING_URI": ui.servers["MLflow"].url})
    done = project.run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr[-3000:]
    bare = "from mlflow import MlflowClient\nMlflowClient().search_experiments()"
    assert "401" in project.run(sys.executable, "-c", bare).stderr
    assert list((project.path / "mlartifacts").rglob("note.txt"))


@pytest.mark.services
def test_files_and_command_lines_hold_no_login_that_others_can_read(
    ui: Opened, module_project: Project
) -> None:
    assert (module_project.path / ".prefect").stat().st_mode & 0o777 == 0o700
    assert (module_project.path / local_servers.FILE).stat().st_mode & 0o777 == 0o600
    logins = [server.login.removeprefix("zprl:") for server in ui.servers.values()]
    logs = [module_project.path / ".cache/ui.log", module_project.path / "log"]
    for process in psutil.Process(ui.process.pid).children(recursive=True):
        assert not any(login in " ".join(process.cmdline()) for login in logins)
    for text in (log.read_text(errors="replace") for log in logs):
        assert not any(login in text for login in logins)


@pytest.mark.services
def test_a_printed_link_works_once_and_another_is_to_be_had(
    ui: Opened, module_project: Project
) -> None:
    for name, link in ui.links.items():
        url, _, given = link.partition(f"{guard.LOGIN}#")
        assert url == ui.servers[name].url
        for status in (200, 403):
            answer = httpx.post(
                url + guard.LOGIN, json={"ticket": given}, headers={"Origin": url}, timeout=60
            )
            assert answer.status_code == status
    done = module_project.zprl("ui", "--link")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"{guard.LOGIN}#") == 2
    assert not any(link in done.stdout for link in ui.links.values())


@pytest.mark.services
def test_a_kill_of_the_ui_leaves_nothing_listening_and_ends_its_clients(
    ui: Opened, module_project: Project
) -> None:
    """A run that goes on would take orders from whoever takes the port."""
    project = module_project
    project.mode("middle", "slow")
    run = project.start("run")
    project.wait_for((project.path / "waiting").exists)
    family = [
        *psutil.Process(ui.process.pid).children(recursive=True),
        *psutil.Process(run.pid).children(recursive=True),
    ]
    assert not any(
        "pipelines.server_process" in child.cmdline()
        for child in psutil.Process(run.pid).children(recursive=True)
    )

    ui.process.kill()
    ui.process.wait()
    assert run.wait(timeout=200) == 5, (project.path / "log").read_text()[-3000:]
    _, alive = psutil.wait_procs(family, timeout=60)
    assert alive == []
    for server in ui.servers.values():
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port), timeout=5).close()

    assert (project.path / local_servers.FILE).exists()  # nobody was there to remove it
    code = "import os\nfrom pipelines import environment\nenvironment.prepare()\nprint(os.environ.get('PREFECT_API_URL'))"
    assert project.run(sys.executable, "-c", code).stdout.strip() == "None"
    assert not (project.path / local_servers.FILE).exists()
    project.mode("middle", "")


# -- the server of a run ---------------------------------------------------------------------------


@pytest.mark.services
def test_the_server_of_a_run_is_guarded_and_does_not_outlive_it(lone: Project) -> None:
    project = lone
    project.mode("middle", "slow")
    run = project.start("run")
    project.wait_for((project.path / "waiting").exists)
    (server,) = [
        child
        for child in psutil.Process(run.pid).children(recursive=True)
        if "pipelines.server_process" in child.cmdline()
    ]
    (port,) = {c.laddr.port for c in server.net_connections() if c.status == psutil.CONN_LISTEN}
    assert {c.laddr.ip for c in server.net_connections() if c.status == psutil.CONN_LISTEN} == {
        "127.0.0.1"
    }
    attack(f"http://127.0.0.1:{port}")
    assert (project.path / ".prefect").stat().st_mode & 0o777 == 0o700

    family = psutil.Process(run.pid).children(recursive=True)
    run.kill()
    run.wait()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert alive == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5).close()


def test_a_server_ends_with_its_parent_and_not_with_the_thread_that_started_it(
    tmp_path: Path,
) -> None:
    child_code = """
import signal, sys, time
from zprl.parent_death import die_with_parent
die_with_parent(int(sys.argv[1]), signal.SIGKILL)
print(1, flush=True)
time.sleep(600)
"""
    code = f"""
import os, sys, threading, time
from pipelines import servers
made = []
command = [sys.executable, "-c", {child_code!r}, str(os.getpid())]
thread = threading.Thread(target=lambda: made.append(servers._spawn(command)))
thread.start()
thread.join()
time.sleep(3)
print(made[0].pid, made[0].poll(), flush=True)
time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "1\n"
    pid, ended = parent.stdout.readline().split()
    assert ended == "None"
    child = psutil.Process(int(pid))
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs([child], timeout=30)
    assert alive == []


def test_no_server_without_a_login_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect's own start is gone, and ours refuses a login that could be guessed."""
    from prefect.server.api import server as theirs
    from prefect.settings import PREFECT_API_AUTH_STRING, temporary_settings

    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setattr(theirs, "SubprocessASGIServer", theirs.SubprocessASGIServer)
    servers.embed()
    with (
        temporary_settings({PREFECT_API_AUTH_STRING: "short"}),
        pytest.raises(EnvironmentProblem, match="no login"),
    ):
        theirs.SubprocessASGIServer(port=1).start()
