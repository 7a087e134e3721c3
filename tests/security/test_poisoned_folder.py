"""No command runs or loads code of the folder that one stands in, and neither does any process that zprl starts."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
import yaml

from pipelines import bench_cell as cells
from pipelines import stage_process
from tests.factories import write_demo_file
from tests.lerobot_files import write_lerobot
from tests.pipeline.conftest import free_port
from tests.poisoned import COMPILER, PREFECT_FILES, ROOT, Folder
from tests.session_factories import write_session
from tests.session_run import Session, make_session
from tests.small_policy import small_policy
from zprl import child_processes, cli, durable, envs, provenance, safe_torch_import
from zprl.bench.suite import Cell
from zprl.config import Task
from zprl.envs.isaacgym import client
from zprl.lineage import local
from zprl.models.bundle import save_policy
from zprl.recordings.store import SessionStore

TASKS = ROOT / "zprl/robot/tasks"
FAKE_GYM = ROOT / "tests/fake_isaacgym"
ZPRL = str(Path(sys.executable).with_name("zprl"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A project with recordings, a session, a robot and a policy, and traps everywhere."""
    found = Folder(tmp_path_factory.mktemp("poisoned"))
    here = found.path
    write_demo_file(here / "recorded.hdf5", 3)
    write_demo_file(here / "more.hdf5", 2, seed=7)
    write_lerobot(here / "lerobot")
    write_session(here / "session")
    save_policy(here / "bundle", small_policy(), {})
    task = yaml.safe_load((TASKS / "lift_cube.yaml").read_text())
    task["arms"][""]["config"]["host"] = "127.0.71.7"
    (here / "robot.yaml").write_text(yaml.safe_dump(task, sort_keys=False))
    shutil.copy(TASKS / "lift_cube.limits.yaml", here)
    shutil.copy(ROOT / "params.yaml", here)
    durable.write_json(here / "artifacts/promotion.json", {"accept": True, "reasons": []})
    for command in (["git", "init", "-q"], child_processes.python("-m", "dvc", "init", "-q")):
        subprocess.run(command, cwd=here, env=found.environment(), check=True)
    found.poison()
    return found


@pytest.fixture
def fresh(tmp_path: Path) -> Folder:
    """A folder of the test's own, without traps yet."""
    return Folder(tmp_path)


# -- every command ---------------------------------------------------------------------------------

COMMANDS = {
    "run": ("", 0),
    "ui": ("--mlflow-port 0", 2),
    "prefect": ("version", 0),
    "bench": ("", 0),
    "promote": ("--check", 0),
    "doctor": ("", 4),
    "lineage": ("bundle", 0),
    "config explain": ("run", 0),
    "config check": ("", 0),
    "config use": ("--preset smoke", 0),
    "env list": ("", 0),
    "env check": ("nothing/there", 2),
    "env assets": ("--help", 0),
    "robot list": ("", 0),
    "robot check": ("robot.yaml", 0),
    "session tasks": ("", 0),
    "session run": ("", 3),
    "session show": ("", 0),
    "session verify": ("", 0),
    "session label": ("1 success", 0),
    "session page": ("", 4),
    "session tighten": ("--yes force=1", 0),
    "session export": ("exported", 0),
    "demos check": ("recorded.hdf5", 0),
    "demos inspect": ("lerobot", 0),
    "demos plot": ("lerobot -o plotted.png", 0),
    "demos play": ("recorded.hdf5 demo_0 -o played.png", 0),
    "demos add": ("more.hdf5", 0),
    "demos convert": ("recorded.hdf5 converted --to lerobot --rate 20", 0),
    "demos record": ("recorded.hdf5", 3),
}
"""Command to arguments, with which it reaches its children where that is quick, and its exit
code."""
SLOW = {
    "run",
    "prefect",
    "doctor",
    "env check",
    "robot check",
    "session run",
    "session export",
    "demos plot",
    "demos add",
    "demos convert",
}
"""What takes more than three seconds on a quiet machine; the others reach every kind of child that
a recording meets."""
WORLDS = {
    "env check": ("isaac/lift-cube --num-envs 1", 0),
    "env assets": ("nowhere", 4),
    "demos record": ("scripted.hdf5 --episodes 1", 0),
}


def leaves(group: typer.core.TyperGroup, *names: str) -> list[str]:
    """Every command of the command line, as one types it."""
    found: list[str] = []
    for name, command in group.commands.items():
        path = (*names, name)
        found += leaves(command, *path) if hasattr(command, "commands") else [" ".join(path)]
    return found


def check(folder: Folder, command: str, arguments: str, code: int) -> None:
    done = folder.run(ZPRL, *command.split(), *arguments.split())
    assert folder.sprung() == []
    assert done.returncode == code, done.stdout + done.stderr


def test_every_command_is_listed() -> None:
    assert sorted(leaves(typer.main.get_command(cli.app))) == sorted(COMMANDS)


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in SLOW])
def test_a_command_runs_nothing_of_the_folder(folder: Folder, command: str) -> None:
    check(folder, command, *COMMANDS[command])


@pytest.mark.exhaustive
@pytest.mark.parametrize("command", sorted(SLOW))
def test_nor_does_a_slow_one(folder: Folder, command: str) -> None:
    check(folder, command, *COMMANDS[command])


@pytest.mark.isaac
@pytest.mark.exhaustive
@pytest.mark.parametrize("command", WORLDS)
def test_nor_does_a_world(folder: Folder, command: str) -> None:
    check(folder, command, *WORLDS[command])


@pytest.mark.services
@pytest.mark.exhaustive
def test_nor_does_the_embedded_server(folder: Folder) -> None:
    check(folder, "prefect", "work-pool ls", 0)


@pytest.mark.services
@pytest.mark.exhaustive
def test_nor_do_the_servers(folder: Folder) -> None:
    ports = ("--mlflow-port", str(free_port()), "--prefect-port", str(free_port()))
    log = folder.path / "ui.log"
    with open(log, "w") as sink:
        server = subprocess.Popen(
            [ZPRL, "ui", *ports],
            cwd=folder.path,
            env=folder.environment(),
            stdout=sink,
            stderr=sink,
        )
    try:
        end = time.monotonic() + 400
        while "Ctrl-C stops both" not in log.read_text():
            assert server.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.2)
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(120) == 0
    assert folder.sprung() == []


# -- every kind of process that zprl starts --------------------------------------------------------


def test_a_stage_of_a_cell_and_of_the_graph(fresh: Folder) -> None:
    """As a suite starts one, and as ``dvc.yaml`` does; a child that a library starts there is safe, too."""
    recorded = write_demo_file(fresh.path / "recorded.hdf5", 4)
    cell = Cell(
        "isaac/lift-cube", "base", 0, fresh.path / "cell", {"run": {"seed": 0}}, demos=recorded
    )
    cells.prepare(cell)
    fresh.poison(cell.folder)
    lines: list[str] = []
    env = {"PYTHONPATH": str(ROOT), "ZPRL_TRACKING": "off", "ZPRL_PYTHON": sys.executable}
    code, _ = stage_process.stream(cells.commands(cell)[0], lines.append, cwd=cell.folder, env=env)
    assert (code, fresh.sprung()) == (0, []), lines

    below = "import subprocess, sys, pipelines.stages.stage; subprocess.run([sys.executable, '-c', 'import ctypes, h5py'], check=True)"
    command, variables = [str(ROOT / "pipelines/python"), "-c", below], fresh.environment(**env)
    done = subprocess.run(
        command, cwd=cell.folder, env=variables, capture_output=True, text=True, check=False
    )
    assert (done.returncode, fresh.sprung()) == (0, []), done.stderr


def test_the_worker_of_isaac_gym(fresh: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Python 3.8 knows no safe path."""
    fresh.poison()
    for name, value in fresh.environment(PYTHONPATH=str(FAKE_GYM), OMP_NUM_THREADS="1").items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    monkeypatch.setenv(client.PYTHON_VARIABLE, sys.executable)
    monkeypatch.setenv(client.ANY_PYTHON_VARIABLE, "1")
    monkeypatch.setenv(client.ASSETS_VARIABLE, str(FAKE_GYM / "assets"))
    monkeypatch.chdir(fresh.path)
    with envs.make(Task(name="isaacgym/lift-cube", episode_steps=10), num_envs=1) as env:
        env.reset(0)
    assert fresh.sprung() == []


@pytest.mark.exhaustive
@pytest.mark.realtime
def test_a_session_on_the_simulated_robot(fresh: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """All processes of a session, its cameras' and the robot's included, until an episode is committed."""
    session = Session(make_session(fresh.path / "session", "127.0.71.8", steps=40))
    fresh.poison()
    monkeypatch.chdir(fresh.path)
    try:
        session.start()
        end = time.monotonic() + 300
        while not list(SessionStore.open(session.folder).episodes()):
            assert (
                session.process is not None
                and session.process.poll() is None
                and time.monotonic() < end
            ), session.log()
            time.sleep(0.2)
    finally:
        session.end()
    assert fresh.sprung() == []


# -- git -------------------------------------------------------------------------------------------


def test_a_repository_runs_nothing(fresh: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Git runs what a repository's own configuration names, and fetches a missing object with the program that it names."""

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["git", *arguments]
        return subprocess.run(command, cwd=fresh.path, capture_output=True, text=True, check=False)

    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(fresh.path.parent))
    (fresh.path / "data.dvc").write_text("outs: [{md5: abc}]\n")
    git("init", "-q")
    git("add", ".")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "first")
    commit = git("rev-parse", "HEAD").stdout.strip()
    for key, program in (
        ("core.fsmonitor", "monitor"),
        ("core.sshCommand", "fetcher"),
        ("core.pager", "pager"),
    ):
        git("config", key, str(fresh.program(program)))
    for key, value in (
        ("core.hooksPath", "hooks"),
        ("core.repositoryformatversion", "1"),
        ("extensions.partialClone", "origin"),
        ("remote.origin.url", "ssh://nobody.invalid/x"),
        ("remote.origin.promisor", "true"),
    ):
        git("config", key, value)
    (fresh.path / "hooks").mkdir()
    shutil.copy(fresh.program("hook"), fresh.path / "hooks/post-index-change")
    monkeypatch.chdir(fresh.path)

    assert provenance.git_commit() == commit
    assert local.data_md5(commit) == "abc"
    blob = git("-c", "core.fsmonitor=false", "rev-parse", "HEAD:data.dvc").stdout.strip()
    (fresh.path / ".git/objects" / blob[:2] / blob[2:]).unlink()
    assert local.data_md5(commit) is None
    assert fresh.sprung() == []

    git("describe", "--always", "--dirty")
    git("show", f"{commit}:./data.dvc")
    assert {"monitor", "fetcher"} <= set(fresh.sprung()), "what git does by itself"


@pytest.fixture
def hostile(fresh: Folder, monkeypatch: pytest.MonkeyPatch) -> Folder:
    """A repository with filters of every kind, a textconv, a submodule with a filter of its own, and ``data.dvc`` as a gitlink."""
    here, sub = fresh.path, fresh.path / "sub"
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(here.parent))
    monkeypatch.chdir(here)
    for place in (sub, here):
        durable.write_text(place / "a.txt", "one\n")
        durable.write_text(
            place / ".gitattributes", "*.txt filter=evil=x diff=evil\n*.bin filter=other\n"
        )
        durable.write_text(place / "b.bin", "one\n")
        git_in(place, "init", "-q")
        git_in(place, "add", ".")
        git_in(place, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "first")
    gitlink = git_in(
        here, "rev-parse", "HEAD"
    )  # a commit that git has, and so shows with its changes
    git_in(here, "update-index", "--add", "--cacheinfo", f"160000,{gitlink},data.dvc")
    git_in(here, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "second")

    for place, name in ((sub, "submodule"), (here, "filter")):
        for key in ("filter.evil=x.clean", "filter.evil=x.smudge"):
            git_in(place, "config", key, str(fresh.program(name)))
        git_in(place, "config", "filter.evil=x.required", "true")
    (here / ".git/more").write_text(f'[filter "other"]\nprocess = {fresh.program("process")}\n')
    git_in(here, "config", "include.path", "more")
    git_in(here, "config", "diff.evil.textconv", str(fresh.program("textconv")))
    for place in (sub, here):  # as long and with another date: git has to compare the contents
        for name in ("a.txt", "b.bin"):
            (place / name).write_text("one\n")
            os.utime(place / name, (1, 1))
    return fresh


def git_in(place: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=place, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def test_filters_textconv_and_submodules_run_nothing(hostile: Folder) -> None:
    commit = git_in(hostile.path, "rev-parse", "HEAD")
    assert provenance.git_commit() == commit
    assert local.data_md5(commit) is None
    assert child_processes.git(*child_processes.GIT_STATUS) == ""
    assert hostile.sprung() == []

    (hostile.path / "a.txt").write_text("two\n")
    assert provenance.git_commit() == f"{commit}-dirty"
    assert hostile.sprung() == []


def test_what_git_runs_by_itself_there(hostile: Folder) -> None:
    """A test of the traps."""
    commit = git_in(hostile.path, "rev-parse", "HEAD")
    git_in(hostile.path, "show", f"{commit}:./data.dvc")
    git_in(hostile.path, "status")
    git_in(
        hostile.path, "-c", "filter.other.process=", "status"
    )  # such a program without an answer ends git
    assert hostile.sprung() == ["filter", "process", "submodule", "textconv"]


@pytest.mark.skipif(sys.platform != "linux", reason="folders of threads are Linux's")
def test_no_other_thread_stands_elsewhere_while_the_guard_loads(tmp_path: Path) -> None:
    """A path without a beginning that another thread opens meanwhile is meant for its own folder."""
    said = """
import ctypes, os
from zprl import safe_torch_import
folders = []
def load(library):
    folders.append((os.readlink("/proc/thread-self/cwd"), os.readlink(f"/proc/{os.getpid()}/cwd")))
ctypes.CDLL = load
safe_torch_import.LIBRARY = "torch/__init__.py"
safe_torch_import._load()
print(folders, os.getcwd())
"""
    done = subprocess.run(
        child_processes.python("-c", said), cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"[('/', '{tmp_path}')] {tmp_path}"


# -- the traps themselves --------------------------------------------------------------------------


@pytest.mark.parametrize("name", PREFECT_FILES)
def test_prefect_alone_runs_what_a_file_of_the_folder_names(fresh: Folder, name: str) -> None:
    fresh.poison_prefect(fresh.path, [name])
    code = "import os; {}; import prefect.main"
    alone = code.format("os.environ.setdefault('PREFECT_HOME', '.prefect')")
    guarded = code.format("from pipelines import environment; environment.prepare()")
    fresh.run(sys.executable, "-P", "-c", guarded)
    assert fresh.sprung() == []
    done = fresh.run(sys.executable, "-P", "-c", alone)
    assert fresh.sprung() == [name.replace("/", "-")], done.stderr


def test_a_child_without_the_safe_path_is_caught(fresh: Folder) -> None:
    fresh.poison()
    fresh.run(sys.executable, "-m", "zprl.data.readers.sandbox", "0")
    assert fresh.sprung()


@pytest.mark.skipif(COMPILER is None, reason="needs a C compiler")
def test_torch_alone_loads_a_library_of_the_folder(fresh: Folder) -> None:
    """A test of the trap, and of whether the guard is still needed."""
    fresh.poison()
    fresh.run(sys.executable, "-P", "-c", "import zprl, torch")
    assert fresh.sprung() == []
    fresh.run(sys.executable, "-P", "-c", "import torch")
    assert fresh.sprung() == ["libcuda.so.1"], (
        f"torch loads it no longer: {safe_torch_import.__name__} can go"
    )
