"""The file that names the servers of `zprl ui`: forged, left by a kill, of another user, or of a port that is somebody else's now."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import environment, servers
from tests.stranger import LOGIN, Stranger
from zprl import durable, local_servers
from zprl.local_servers import LocalServer

END_WITH = environment._end_with


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    before = dict(os.environ)
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("PREFECT_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(
        environment, "_end_with", lambda server: True
    )  # the tests are no client that must end
    yield tmp_path
    os.environ.clear()  # the tests after these must not ask our strangers
    os.environ.update(before)


@pytest.fixture
def stranger() -> Iterator[Stranger]:
    stranger = Stranger()
    yield stranger
    stranger.close()


@pytest.fixture
def sleeper() -> Iterator[LocalServer]:
    """A process of ours that listens to nothing."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield LocalServer("", process.pid, local_servers.started(process.pid), LOGIN)
        process.kill()


def forge(server: LocalServer, **changes: object) -> None:
    local_servers.write({"Prefect": server})
    found = json.loads(local_servers.FILE.read_text())
    found["Prefect"].update(changes)
    local_servers.FILE.write_text(json.dumps(found))


def test_a_server_that_the_kernel_confirms_is_used(here: Path, stranger: Stranger) -> None:
    forge(stranger.me)
    environment.prepare()
    assert os.environ["PREFECT_API_URL"] == f"{stranger.url}/api"
    assert os.environ["PREFECT_API_AUTH_STRING"] == LOGIN
    assert local_servers.login_for(stranger.url) == LOGIN
    assert local_servers.login_for("http://127.0.0.1:1") is None


def refused(stranger: Stranger) -> bool:
    """Whether the server is not used, was sent nothing, and its file is gone."""
    environment.prepare()
    assert local_servers.login_for(stranger.url) is None
    assert "PREFECT_API_URL" not in os.environ
    assert os.environ.get("PREFECT_API_AUTH_STRING") != LOGIN
    assert stranger.asked == []
    return not os.path.lexists(local_servers.FILE)


@pytest.mark.parametrize(
    "changes",
    [
        {"pid": 2**22 + 1},
        {"pid": 1},
        {"pid": -1},
        {"pid": "1"},
        {"started": 1.0},
        {"started": None},
        {"url": "http://evil.example:80"},
        {"url": "http://127.0.0.1:80@evil.example"},
        {"url": "http://127.0.0.1:80\n"},
        {"more": 1},
    ],
    ids=str,
)
def test_a_file_that_names_another_process_is_refused(
    here: Path, stranger: Stranger, changes: dict
) -> None:
    forge(stranger.me, **changes)
    assert refused(stranger)


def test_a_port_that_belongs_to_another_process_is_refused(
    here: Path, stranger: Stranger, sleeper: LocalServer
) -> None:
    """The named process lives, as after a kill of its server alone, and somebody else answers at its address."""
    forge(stranger.me, pid=sleeper.pid, started=sleeper.started)
    assert refused(stranger)


def test_a_file_that_others_may_have_written_is_refused(here: Path, stranger: Stranger) -> None:
    for mode in (0o644, 0o620, 0o602, 0o640):
        forge(stranger.me)
        local_servers.FILE.chmod(mode)
        assert refused(stranger)
    forge(stranger.me)
    local_servers.FILE.rename("elsewhere")
    local_servers.FILE.symlink_to(here / "elsewhere")
    assert refused(stranger)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused(here: Path, stranger: Stranger) -> None:
    forge(stranger.me)
    os.chown(local_servers.FILE, 65534, 65534)
    assert refused(stranger)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "[" * 50_000,
        '{"Prefect": {}}',
        '{"Prefect": [1]}',
        '{"Prefect": null}',
        "\udcff",
    ],
)
def test_a_broken_file_is_refused(here: Path, stranger: Stranger, text: str) -> None:
    forge(stranger.me)
    local_servers.FILE.write_bytes(text.encode(errors="surrogateescape"))
    assert refused(stranger)


def test_the_file_is_private_at_every_moment(
    here: Path, stranger: Stranger, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []

    def look(name: str, path: Path) -> None:
        modes.extend(file.stat().st_mode & 0o777 for file in path.parent.iterdir())

    monkeypatch.setattr(local_servers.durable, "operation", look)
    here.joinpath(".prefect").mkdir(mode=0o755)
    local_servers.write({"Prefect": stranger.me})
    assert set(modes) == {0o600}
    assert local_servers.FILE.parent.stat().st_mode & 0o777 == 0o700
    assert local_servers.FILE.stat().st_mode & 0o777 == 0o600


def test_the_file_of_a_ui_that_is_starting_is_left_alone(here: Path, stranger: Stranger) -> None:
    forge(stranger.me, pid=1)
    lease = local_servers.durable.lease(local_servers.LEASE)
    try:
        assert not refused(stranger)
    finally:
        os.close(lease)


def test_a_login_goes_nowhere_but_to_its_server(
    here: Path, stranger: Stranger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A team's server that the user named keeps the user's login, and a proxy of the environment sees none of ours."""
    forge(stranger.me)
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect.lab:4200/api")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "team:secret")
    environment.prepare()
    assert os.environ["PREFECT_API_AUTH_STRING"] == "team:secret"
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert local_servers.request(stranger.me, "POST", "/zprl/ticket") == []
    assert stranger.asked == [("/zprl/ticket", f"Bearer {LOGIN}")]


def test_every_start_has_a_login_of_its_own() -> None:
    logins = {local_servers.new_login() for _ in range(100)}
    assert len(logins) == 100
    assert min(map(len, logins)) >= servers.MIN_LOGIN


def test_a_server_that_ends_before_it_can_be_watched_is_not_used(
    here: Path, sleeper: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = LocalServer("http://127.0.0.1:4999", 2**22 + 1, 1.0, LOGIN)
    reused = LocalServer("http://127.0.0.1:4998", sleeper.pid, sleeper.started - 100, LOGIN)
    monkeypatch.setattr(environment, "_end_with", END_WITH)
    for server in (gone, reused):
        monkeypatch.setattr(environment, "running_prefect", lambda server=server: server)
        environment.prepare()
        assert "PREFECT_API_URL" not in os.environ
        assert os.environ["PREFECT_API_AUTH_STRING"] != LOGIN


def test_a_login_that_the_user_has_set_for_a_profile_stays(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "team:secret")
    environment.prepare()
    assert os.environ["PREFECT_API_AUTH_STRING"] == "team:secret"


@pytest.mark.parametrize(
    "login", ["", 'PREFECT_API_AUTH_STRING = "team:secret"\n'], ids=["none", "its own"]
)
def test_the_server_of_a_profile_gets_no_login_of_ours(here: Path, login: str) -> None:
    (here / ".prefect").mkdir()
    (here / ".prefect/profiles.toml").write_text(
        f'active = "lab"\n[profiles.lab]\nPREFECT_API_URL = "http://prefect.lab:4200/api"\n{login}'
    )
    said = """
import os
from pipelines import environment, servers
environment.prepare()
servers.embed()
import prefect
from prefect.settings import get_current_settings
secret = get_current_settings().api.auth_string
print(get_current_settings().api.url, secret and secret.get_secret_value(), os.environ.get("PREFECT_API_AUTH_STRING"))
"""
    done = subprocess.run(
        [sys.executable, "-c", said], capture_output=True, text=True, check=True, timeout=180
    )
    theirs = "team:secret" if login else "None"
    assert done.stdout.split() == ["http://prefect.lab:4200/api", theirs, theirs]


def test_a_log_line_that_does_not_fit_its_arguments_harms_nobody(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Broken:
        def __str__(self) -> str:
            raise ValueError("no text")

    environment.say_failures_in_one_sentence()
    log = logging.getLogger("prefect.flow_runs")
    log.warning("%d of %d", "none")
    log.warning(Broken())
    log.warning("%s", Broken())


def test_who_looks_for_a_stale_file_does_not_keep_the_ui_from_starting(here: Path) -> None:
    local_servers.LEASE.parent.mkdir()
    looking = durable.lease(local_servers.LEASE)
    threading.Timer(0.1, os.close, [looking]).start()
    os.close(durable.lease(local_servers.LEASE))
