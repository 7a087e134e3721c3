"""``zprl lineage`` asks no place that a bundle or a store of somebody else names."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.poisoned import Folder
from tests.small_policy import small_policy
from zprl import child_processes, durable, local_servers
from zprl.errors import ConfigError, EnvironmentProblem
from zprl.lineage import local
from zprl.lineage.records import RunRecord
from zprl.models.bundle import save_policy
from zprl.tracking import SWITCH_VARIABLE, lineage, mlflow_tracker

ZEROS = "0" * 64
ZPRL = str(Path(sys.executable).with_name("zprl"))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a file, an outside with another, and things that never end."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("secret")
    here = tmp_path / "project"
    here.mkdir()
    monkeypatch.chdir(here)
    (here / "inside").mkdir()
    (here / "inside/file").write_text("file")
    (here / "inside/link").symlink_to("file")
    (here / "linked").symlink_to(tmp_path / "outside")
    (here / "holds").mkdir()
    (here / "holds/secret").symlink_to(tmp_path / "outside/secret")
    (here / "kernel").symlink_to("/proc/kmsg")
    (here / "loop").symlink_to("loop")
    os.mkfifo(here / "pipe")
    (here / "pipes").mkdir()
    os.mkfifo(here / "pipes/pipe")
    with open(here / "huge", "wb") as file:
        file.truncate(2**42)
    return here


STRANGE = (
    "../outside/secret",
    "linked/secret",
    "linked",
    "holds",
    "kernel",
    "loop",
    "pipe",
    "pipes",
    "huge",
    "/proc/kmsg",
    "/dev/zero",
    "inside/../../outside/secret",
    ".",
    "",
    "a\0b",
    "/etc",
    "x" * 5000,
)


@pytest.mark.parametrize("path", STRANGE, ids=lambda path: path[:20] or "empty")
def test_nothing_strange_is_read(project: Path, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[object] = []
    monkeypatch.setattr(durable, "digest", lambda path: read.append(path) or ZEROS)
    assert local.Bytes().state(path, ZEROS) == "not looked at"
    assert read == []


def test_what_is_the_project_s_own_is_read(project: Path) -> None:
    own = durable.digest("inside/file")
    looks = local.Bytes()
    assert looks.state("inside/file", own) == looks.state("inside/link", own) == "same bytes"
    assert looks.state("inside", ZEROS) == "other bytes"
    assert looks.state("inside/none", ZEROS) == "not here"


def test_one_file_under_many_names_is_not_read_without_end(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "MAX_READ", 4 * local.FILE_COST)
    looks = local.Bytes()
    states = [looks.state("inside" + "/." * number + "/file", ZEROS) for number in range(6)]
    assert states == ["other bytes"] * 3 + ["not looked at"] * 3


def test_a_file_of_the_kernel_has_no_bytes(project: Path) -> None:
    (project / "inside/kernel").symlink_to("/proc/kmsg")
    durable.digest(project / "inside")


def test_a_bundle_that_names_such_paths_is_told(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    elsewhere = ("/proc/kmsg", "/etc/passwd", "/root")
    save_policy(
        folder.path / "bundle",
        small_policy(),
        {"inputs": dict.fromkeys(elsewhere, ZEROS) | {elsewhere[0]: "1" * 64}},
    )
    done = folder.run("timeout", "60", ZPRL, "lineage", "--local", "--json", "bundle")
    assert done.returncode == 0, done.stderr
    (bundle,) = json.loads(done.stdout)["below"]
    assert {each["here"] for each in bundle["below"] if "here" in each} == {"not looked at"}


# -- where a store says that artifacts lie ---------------------------------------------------------


@pytest.fixture
def sink() -> Iterator[tuple[str, list[str]]]:
    """A stranger's server, and what it was sent."""
    sent: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            sent.append(f"{self.path}\n{self.headers}")
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}", sent
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def downloaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one run of ingest; MLflow takes seconds to make it."""
    file = tmp_path_factory.mktemp("downloaded") / "mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{file}")
        patch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
        client = mlflow_tracker.connect()
        client.create_run(
            client.create_experiment(mlflow_tracker.EXPERIMENT, artifact_location="file:///none"),
            run_name="ingest",
        )
    return file


@pytest.fixture
def store(
    downloaded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], RunRecord]:
    """Say where the artifacts of its run lie, and return the run as lineage has it."""
    monkeypatch.chdir(tmp_path)
    for name in (SWITCH_VARIABLE, "MLFLOW_EXPERIMENT_NAME", "ZPRL_ARTIFACT_LOCATION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{downloaded}")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "sesame")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    def place(address: str) -> RunRecord:
        with contextlib.closing(sqlite3.connect(downloaded)) as database:
            database.execute("update runs set artifact_uri = ?", (address,))
            database.commit()
        found = lineage.records()
        (run,) = (each for each in found.runs if each.stage == "ingest")
        run.params["episodes"] = (
            str(len(origins.episodes)) if (origins := found.origins(run)) else "none"
        )
        return run

    return place


def write_origins(folder: Path) -> None:
    durable.write_json(
        folder / "data_report/sources.json", {"format_version": 1, "sources": {}, "episodes": []}
    )


@pytest.mark.parametrize(
    "address",
    [
        "http://HOST/api/2.0/mlflow-artifacts/artifacts/x",
        "mlflow-artifacts://HOST/x",
        "mlflow-artifacts:/../elsewhere",
        "file:elsewhere",
        "elsewhere",
        "mlartifacts/../elsewhere",
        "mlartifacts/%2e%2e/elsewhere",
        "file://HOST/mlartifacts",
        "mlartifacts/linked",
        "ftp://HOST/x",
    ],
)
def test_no_other_place_is_asked(
    store: Callable[[str], RunRecord], sink: tuple[str, list[str]], tmp_path: Path, address: str
) -> None:
    host, sent = sink
    write_origins(tmp_path / "elsewhere")
    (tmp_path / "mlartifacts").mkdir()
    (tmp_path / "mlartifacts/linked").symlink_to(tmp_path / "elsewhere")
    run = store(address.replace("HOST", host))
    assert sent == []
    assert run.params["episodes"] == "none"
    assert "not looked at" in run.note


@pytest.mark.parametrize(
    "address",
    ["mlartifacts/1", "mlflow-artifacts:/1", "FOLDER/mlartifacts/1", "file://FOLDER/mlartifacts/1"],
)
def test_the_project_s_own_folder_is_read(
    store: Callable[[str], RunRecord], tmp_path: Path, address: str
) -> None:
    write_origins(tmp_path / "mlartifacts/1")
    run = store(address.replace("FOLDER", str(tmp_path)))
    assert (run.params["episodes"], run.note) == ("0", "")


def test_a_place_that_the_user_named_gets_no_login(
    store: Callable[[str], RunRecord], sink: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    host, sent = sink
    place = f"http://{host}/api/2.0/mlflow-artifacts/artifacts"
    monkeypatch.setenv("ZPRL_ARTIFACT_LOCATION", place)
    with contextlib.suppress(EnvironmentProblem):
        store(f"{place}/1")
    assert sent and not any("sesame" in each or "Authorization" in each for each in sent)
    assert os.environ["MLFLOW_TRACKING_TOKEN"] == "sesame"


def test_a_small_repository_costs_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of zeros of any size is a few kilobytes of a repository."""

    def git(*arguments: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", *who, *arguments], check=True, capture_output=True)

    monkeypatch.chdir(tmp_path)
    git("init")
    with open("data.dvc", "wb") as file:
        file.truncate(200 * 2**20)
    git("add", "data.dvc")
    git("commit", "-m", "zeros")
    commit = child_processes.git("rev-parse", "HEAD").strip()

    tracemalloc.start()
    try:
        assert local.data_md5(commit) is None
        assert child_processes.git("cat-file", "blob", f"{commit}:./data.dvc") is None
        assert tracemalloc.get_traced_memory()[1] < 3 * child_processes.MOST_PRINTED
    finally:
        tracemalloc.stop()

    Path("data.dvc").write_text("outs:\n- md5: abc\n")
    git("commit", "-am", "small")
    commit = child_processes.git("rev-parse", "HEAD").strip()
    assert local.data_md5(commit) == "abc"


@pytest.mark.parametrize("registry", ["http://127.0.0.1:9", "sqlite:///other.db"])
def test_our_login_goes_to_no_registry_elsewhere(
    monkeypatch: pytest.MonkeyPatch, registry: str
) -> None:
    ours = "http://127.0.0.1:15151"
    monkeypatch.setattr(local_servers, "login_for", lambda url: "sesame")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", ours)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", registry)
    with pytest.raises(ConfigError, match="MLFLOW_REGISTRY_URI"):
        mlflow_tracker.connect()
    assert os.environ["MLFLOW_TRACKING_TOKEN"] == ""
    for same in ("", ours, "http://localhost:15151/"):
        monkeypatch.setenv("MLFLOW_REGISTRY_URI", same)
        mlflow_tracker.connect()
        assert os.environ["MLFLOW_TRACKING_TOKEN"] == "sesame"


def test_a_server_s_login_goes_to_no_other_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example:8443/")
    assert (
        lineage._followed("https://mlflow.example:8443/api/x")
        and lineage._followed("mlflow-artifacts:/1")
        and lineage._followed("s3://b/1")
    )
    for address in (
        "http://mlflow.example:8443/x",
        "https://mlflow.example/x",
        "https://a@mlflow.example:8443@evil/",
        "mlflow-artifacts://evil/1",
    ):
        assert not lineage._followed(address)
