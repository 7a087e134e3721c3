"""Stages in an image: the command line, and the protocol with a docker that runs the same stage in a process, without orchestration."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from pipelines import container
from pipelines.stage_process import StageError
from pipelines.stages import stage as stages
from tests.toy_world import toy_policy
from zprl import child_processes, durable
from zprl.errors import EnvironmentProblem, Interrupted
from zprl.models.bundle import save_policy
from zprl.tracking import Tracker
from zprl.tracking.file_tracker import FileRun, TrackedReplay

ROOT = Path(__file__).parents[2]
BLOCKED = """
import sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("prefect", "dvc", "mlflow"):
            raise ImportError(name + " is not in the image")
sys.meta_path.insert(0, Nothing())
"""
DOCKER = """#!{python}
import json, os, sys
arguments = sys.argv[1:]
with open({log!r}, "a") as file:
    file.write(json.dumps(arguments) + "\\n")
if os.path.exists({broken!r}):
    print("docker: Error response from daemon: No such image"); sys.exit(125)
options, env = [], {{"PATH": os.environ["PATH"]}}
assert arguments.pop(0) == "run"
while arguments[0].startswith("-"):
    word = arguments.pop(0)
    value = None if word in ("--rm", "--init", "--interactive") else arguments.pop(0)
    if word == "--env":
        name, equal, text = value.partition("=")
        if equal: env[name] = text
        elif name in os.environ: env[name] = os.environ[name]
    elif word == "--workdir":
        os.chdir(value)
assert arguments.pop(0) == "lab/kit" and arguments.pop(0) == "python"
env["PYTHONPATH"] += os.pathsep + {blocked!r} + os.pathsep + {installed!r}
os.execve({python!r}, [{python!r}, *arguments], env)
"""
TOY = """
import os, sys, time
from pathlib import Path
from pipelines.stages.stage import Stage, main
from zprl import durable, errors

def body(stage: Stage) -> None:
    Path("inside.json").write_text(__import__("json").dumps(sorted(k for k in os.environ)))
    mode = Path("mode").read_text() if Path("mode").exists() else ""
    if mode == "bad":
        raise errors.DataError("episode 3 is broken", remedy="record it again")
    last = stage.run_dir.latest()
    stage.tracker.tag(where="inside")
    for step in range(last.step if last else 0, 4):
        stage.tracker.log(step, loss=step / 2)
        stage.log.info(f"step {step + 1} of 4, {sys.argv[1]}")
        stage.run_dir.save(step + 1, {}, {})
        stage.stop_if_asked()
        while mode == "slow" and step == 1:
            Path("waiting").write_text(str(os.getpid()))
            time.sleep(0.05)
            if stage.stopping:
                stage.stop_if_asked()
    durable.write_text("artifacts/toy/policy.txt", "made")
    stage.tracker.log_file("artifacts/toy/policy.txt", "toy")

main("toy", body, sections=("run", "task"), world=True)
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder and an installed toy stage, and a docker that knows one image, in which there is neither prefect nor dvc nor mlflow."""
    here = tmp_path / "project"
    for folder in (here, tmp_path / "bin", tmp_path / "blocked", tmp_path / "installed"):
        folder.mkdir()
    (tmp_path / "blocked/sitecustomize.py").write_text(BLOCKED)
    names = {name: tmp_path / name for name in ("broken", "blocked", "installed")}
    names |= {"log": tmp_path / "docker.log", "python": Path(sys.executable)}
    docker = tmp_path / "bin/docker"
    docker.write_text(DOCKER.format(**{key: str(path) for key, path in names.items()}))
    docker.chmod(docker.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "installed/toy.py").write_text(TOY)
    (here / "params.yaml").write_text("run: {seed: 4}\n")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{tmp_path / 'installed'}")
    monkeypatch.setenv("ZPRL_CONTAINER", "lab/kit")
    monkeypatch.setenv("ZPRL_TRACKING", f"file:{tmp_path / 'outside.jsonl'}")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("ACCEPT_EULA", "Y")
    monkeypatch.delenv("ZPRL_CONTAINER_OPTIONS", raising=False)
    monkeypatch.chdir(here)
    return here


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        child_processes.python("-m", *command),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def tracked(project: Path) -> list[dict]:
    file = project.parent / "outside.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def points(project: Path) -> list[tuple[str, float, int]]:
    return [tuple(point[:3]) for record in tracked(project) for point in record.get("points", ())]


def test_the_command_line() -> None:
    found = container.command(
        "lab/kit:6.2",
        ["pipelines.stages.finetune_sim", "finetune_sim"],
        project=Path("/team/project"),
        code=Path("/opt/zprl"),
        record=Path("/team/project/runs/x/tracked.jsonl"),
        user=(1000, 100),
        options="--gpus 'device=1' --network none",
    )
    assert " ".join(found) == (
        "docker run --rm --init --interactive --user 1000:100 --workdir /team/project "
        "--volume /team/project:/team/project --volume /opt/zprl:/opt/zprl:ro "
        "--env HOME=/team/project/.cache/container --env PYTHONPATH=/opt/zprl --env PYTHONSAFEPATH=1 --env PYTHONUNBUFFERED=1 "
        "--env ZPRL_TRACKING=file:/team/project/runs/x/tracked.jsonl "
        "--env ACCEPT_EULA --env PRIVACY_CONSENT --env OMNI_KIT_ACCEPT_EULA --env ISAACSIM_ASSET_ROOT --env OMP_NUM_THREADS "
        "--env ZPRL_LOG "
        "--gpus device=1 --network none lab/kit:6.2 python -P -m pipelines.stage_in_container pipelines.stages.finetune_sim finetune_sim"
    )
    same = container.command(
        "i", ["m"], project=Path("/p"), code=Path("/p"), record=Path("/p/r"), user=(0, 0)
    )
    assert [same[i + 1] for i, word in enumerate(same) if word == "--volume"] == [
        "/p:/p",
        "/p/zprl:/p/zprl:ro",
        "/p/pipelines:/p/pipelines:ro",
    ]
    assert "all" in same


def test_a_stage_runs_inside_and_all_comes_back(project: Path) -> None:
    done = run("toy", "hello")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line for line in done.stdout.splitlines() if "step" in line] == [
        f"[toy] step {n} of 4, hello" for n in range(1, 5)
    ]
    assert (project / "artifacts/toy/policy.txt").read_text() == "made"
    assert points(project) == [("loss", step / 2, step) for step in range(4)]
    assert {"where": "inside"} in [record.get("tags") for record in tracked(project)]
    assert {"path": str(project / "artifacts/toy/policy.txt"), "folder": "toy"} in tracked(project)
    inside = set(json.loads((project / "inside.json").read_text()))
    assert "ACCEPT_EULA" in inside
    assert not inside & {"AWS_SECRET_ACCESS_KEY", "ZPRL_CONTAINER", "MLFLOW_TRACKING_URI"}


@pytest.mark.parametrize("stop", ["asked", "killed"])
def test_it_stops_at_a_resume_point_and_goes_on(project: Path, stop: str) -> None:
    """Asked by SIGTERM, or because the process outside was killed and nobody could tell it."""
    (project / "mode").write_text("slow")
    process = subprocess.Popen(
        child_processes.python("-m", "toy", "hello"), stdout=subprocess.PIPE, text=True
    )
    while not (project / "waiting").exists():
        assert process.poll() is None
        time.sleep(0.05)
    inside = int((project / "waiting").read_text() or 0)
    process.send_signal(signal.SIGTERM if stop == "asked" else signal.SIGKILL)
    assert process.wait(60) == (Interrupted.exit_code if stop == "asked" else -signal.SIGKILL)
    end = time.monotonic() + 60
    while (
        Path(f"/proc/{inside}").exists()
        and Path(f"/proc/{inside}/stat").read_text().split()[2] != "Z"
    ):
        assert time.monotonic() < end, "the stage lives on"
        time.sleep(0.05)
    (project / "mode").unlink()
    done = run("toy", "hello")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line for line in done.stdout.splitlines() if "step" in line] == [
        f"[toy] step {n} of 4, hello" for n in (3, 4)
    ]


def test_the_stages_own_exit_code_comes_back(project: Path) -> None:
    (project / "mode").write_text("bad")
    done = run("toy", "hello")
    assert done.returncode == 3
    assert "DataError: episode 3 is broken" in done.stdout
    assert "stage 'toy' failed with exit code 3" in done.stderr


def test_what_docker_cannot_do_is_the_environments_fault(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project.parent / "broken").touch()
    done = run("toy", "hello")
    assert done.returncode == 4
    assert "No such image" in done.stdout and "Docker cannot run the image 'lab/kit'" in done.stderr
    (project.parent / "bin/docker").unlink()
    monkeypatch.setenv("PATH", str(project.parent / "bin"))
    done = run("toy", "hello")
    assert done.returncode == 4 and "there is no docker" in done.stderr


CODES = [
    (125, EnvironmentProblem),
    (126, EnvironmentProblem),
    (5, Interrupted),
    (3, StageError),
    (137, StageError),
]


@pytest.mark.parametrize(("code", "error"), CODES)
def test_exit_codes(code: int, error: type[Exception]) -> None:
    with pytest.raises(error):
        container.check("toy", "image", code)
    container.check("toy", "image", 0)
    assert (
        StageError("toy", 137).exit_code == 1
    )  # killed, for instance for its memory: the reason is not known


WORLD = """
import dataclasses
from tests.pipeline.test_evaluate_stages import World
def make(task, *, num_envs, device="cpu"):
    return World(num_envs)
"""


def test_a_real_stage_gives_the_same_bytes_inside(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``evaluate_base`` on a lab's own world, found by its entry point, with prefect, dvc and mlflow out of reach."""
    installed = project.parent / "installed"
    (installed / "lab_world.py").write_text(WORLD)
    (installed / "lab_world-1.dist-info").mkdir()
    (installed / "lab_world-1.dist-info/METADATA").write_text(
        "Metadata-Version: 2.1\nName: lab-world\nVersion: 1\n"
    )
    (installed / "lab_world-1.dist-info/entry_points.txt").write_text(
        "[zprl.tasks]\nlab/reach = lab_world:make\n"
    )
    evaluate = {"episodes": 4, "seed": 11, "video_episodes": 1}
    params = {
        "run": {"seed": 4},
        "task": {"name": "lab/reach", "episode_steps": 24},
        "evaluate": evaluate,
    }
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    save_policy(stages.BASE, toy_policy(), {})
    durable.write_json(stages.METRICS / "pretrain.json", {"wall_s": 12.5})
    digests = []
    for where in ("lab/kit", ""):
        monkeypatch.setenv("ZPRL_CONTAINER", where)
        done = run("pipelines.stages.evaluate_base")
        assert done.returncode == 0, done.stdout + done.stderr
        digests.append(
            (
                durable.digest(stages.EVALUATION),
                durable.read_json(stages.METRICS / "base.json")["success_rate"],
            )
        )
    assert digests[0] == digests[1]
    assert (
        len((project.parent / "docker.log").read_text().splitlines()) == 1
    )  # the second one ran here
    assert stages.EVALUATION.stat().st_uid == os.getuid()


@pytest.mark.parametrize(
    "module",
    ["stages.finetune_sim", "stages.evaluate", "stages.evaluate_base", "stage_in_container"],
)
def test_stages_with_a_world_import_no_orchestration(module: str) -> None:
    program = (
        BLOCKED
        + f"import pipelines.{module}\nassert not {{'prefect', 'dvc', 'mlflow'}} & set(sys.modules)"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", program],
            check=False,
            env=child_processes.environment(PYTHONPATH=str(ROOT)),
        ).returncode
        == 0
    )


class Store:
    """A tracking store that keeps all in memory."""

    run_id = "run"

    def __init__(self) -> None:
        self.points, self.paths, self.tags = [], [], {}

    def last_steps(self):
        return {"loss": 0}  # of an attempt before

    def send(self, points):
        self.points += [point[:3] for point in points]

    def send_path(self, path, folder):
        self.paths.append((path, folder))

    def send_tags(self, tags):
        self.tags |= tags

    def end(self, status):
        self.tags["status"] = status


def test_a_replay_tells_each_thing_once_and_nothing_of_other_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file, store = tmp_path / "tracked.jsonl", Store()
    with Tracker(store) as tracker:
        replay = TrackedReplay(file, tracker)
        assert replay.forward() == 0
        run = FileRun(file)
        run.send([("loss", 0.5, 0, 1), ("loss", 0.25, 1, 2)])
        run.send_path(Path("policy.txt"), "toy")
        run.send_path(Path("/etc/passwd"), "")
        assert replay.forward() == 3
        with open(file, "a") as more:
            more.write('nonsense\n{"points": [[1]]}\n[]\n{"tags": {"a": "b"}}\n{"tags": {"half": ')
        assert replay.forward() == 4
        with open(file, "a") as more:
            more.write('"line"}}\n')
        assert replay.forward() == 1 and replay.forward() == 0
    assert store.points == [("loss", 0.25, 1)]  # step 0 was told before
    assert store.paths == [(tmp_path / "policy.txt", "toy")]
    assert store.tags == {"a": "b", "half": "line", "status": "FINISHED"}
