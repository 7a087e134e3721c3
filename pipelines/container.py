"""Run stages that step a world in an image, where the simulator is apart from the pipeline.

Isaac Sim's Kit does not share an environment with Prefect, DVC and MLflow.

``ZPRL_CONTAINER=image`` has every stage that steps a world run there, by ``docker run``, called by
DVC and Prefect like any other.  The project's folder is mounted under its own path, so outputs land
where DVC looks for them, and so is the code, read-only: what DVC calls the code is what runs.
Lines stream through; what the stage tracks comes back as a file and goes on to MLflow from here.
Ctrl-C and SIGTERM reach the stage, which stops at its next resume point; so does the end of this
process, however it ends, through the stage's standard input.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from pipelines.stage_process import StageError, stream
from zprl import child_processes, durable, logs, terminal
from zprl.errors import ConfigError, EnvironmentProblem, Interrupted
from zprl.run_dir import RunDir
from zprl.tracking import SWITCH_VARIABLE, Tracker, file_tracker

VARIABLE = "ZPRL_CONTAINER"
"""Environment variable with the name of the image; see infra/docker."""
OPTIONS_VARIABLE = "ZPRL_CONTAINER_OPTIONS"
"""Options of ``docker run`` for this machine, as one would type them; default: all GPUs."""
DEFAULT_OPTIONS = "--gpus all"
HANDED_IN = (
    "ACCEPT_EULA",
    "PRIVACY_CONSENT",
    "OMNI_KIT_ACCEPT_EULA",
    "ISAACSIM_ASSET_ROOT",
    "OMP_NUM_THREADS",
    logs.LEVEL_VARIABLE,
)
"""Variables that go in where they are set; no other does.  Accepting NVIDIA's licence is the user's
to do."""
HOME = Path(".cache/container")
"""Home folder in there, below the project: Kit's caches of shaders survive the container."""
STAGE_COMMAND = ("python", "-P", "-m", "pipelines.stage_in_container")
DAEMON_FAILED, CANNOT_START = 125, (126, 127)
CODE = Path(__file__).resolve().parents[1]


class RunningStage(Protocol):
    """The parts of a stage that its run in an image needs.

    Attributes:
        name: Name in ``dvc.yaml``.
        run_dir: Folder that survives an interruption.
        tracker: Receiver of what the stage tracks.
        stopping: True once the stage was asked to stop.
    """

    name: str
    run_dir: RunDir
    tracker: Tracker
    stopping: bool


def image() -> str | None:
    """Return the image in which stages with a world shall run; ``None``: they run here."""
    return os.environ.get(VARIABLE) or None


def command(
    name: str,
    stage: Sequence[str],
    *,
    project: Path,
    code: Path,
    record: Path,
    user: tuple[int, int],
    options: str = DEFAULT_OPTIONS,
) -> list[str]:
    """Return the command line that runs a stage in an image.

    Args:
        name: The image.
        stage: Module and arguments, as after ``python -m``.
        project: The project's folder, an absolute path.
        code: The folder that holds the packages ``pipelines`` and ``zprl``.
        record: File below the project that receives what the stage tracks.
        user: User and group that own what is written.
        options: Further options.
    """
    variables = {
        "HOME": str(project / HOME),
        "PYTHONPATH": str(code),
        **child_processes.SAFE_PATH,
        "PYTHONUNBUFFERED": "1",
        SWITCH_VARIABLE: f"{file_tracker.PREFIX}{record}",
    }
    read_only = [code] if code != project else [code / own for own in ("zprl", "pipelines")]
    mounts = [f"{project}:{project}", *(f"{path}:{path}:ro" for path in read_only)]

    words = ["docker", "run", "--rm", "--init", "--interactive"]
    words += ["--user", f"{user[0]}:{user[1]}", "--workdir", str(project)]
    words += [word for mount in mounts for word in ("--volume", mount)]
    words += [word for key, value in variables.items() for word in ("--env", f"{key}={value}")]
    words += [word for key in HANDED_IN for word in ("--env", key)]
    return [*words, *shlex.split(options), name, *STAGE_COMMAND, *stage]


def instead(name: str) -> Callable[[RunningStage], None]:
    """Return a body for a stage that runs the stage's module, with its arguments, in an image.

    It passes on the lines and what the stage tracks.
    """

    def run(stage: RunningStage) -> None:
        spec = sys.modules["__main__"].__spec__
        if spec is None:
            raise ConfigError(
                f"{stage.name} was not started as a module", remedy="start it with `python -m`"
            )
        if shutil.which("docker") is None:
            raise EnvironmentProblem(
                f"{VARIABLE} is set, and there is no docker",
                remedy=f"install Docker, or unset {VARIABLE}",
            )

        project = Path.cwd()
        record = stage.run_dir.path.absolute() / "tracked.jsonl"
        durable.write_text(record, "")
        (project / HOME).mkdir(parents=True, exist_ok=True)
        line = command(
            name,
            [spec.name, *sys.argv[1:]],
            project=project,
            code=CODE,
            record=record,
            user=(os.getuid(), os.getgid()),
            options=os.environ.get(OPTIONS_VARIABLE, DEFAULT_OPTIONS),
        )

        replay = file_tracker.TrackedReplay(record, stage.tracker)

        def forward(text: str) -> None:
            terminal.say(text)
            replay.forward()

        # Our end closes with this process, however it ends, and the stage notices.
        input_end, our_end = os.pipe()
        try:
            code, _ = stream(line, forward, stdin=input_end, stopping=lambda: stage.stopping)
        finally:
            os.close(input_end)
            os.close(our_end)
            replay.forward()
        check(stage.name, name, code)

    return run


def check(stage: str, name: str, code: int) -> None:
    """Turn the exit code of ``docker run`` into the contract's.

    Raises:
        EnvironmentProblem: Docker did not get so far as to run the stage.
        Interrupted: it stopped at a resume point.
        StageError: it failed, with its own code.
    """
    if code == DAEMON_FAILED:
        raise EnvironmentProblem(
            f"Docker cannot run the image '{name}'",
            remedy="read its lines above: is the image built, is the GPU there?",
        )
    if code in CANNOT_START:
        raise EnvironmentProblem(
            f"the image '{name}' has no Python that runs", remedy="build it anew from infra/docker"
        )
    if code == Interrupted.exit_code:
        raise Interrupted(f"{stage} stopped on request")
    if code:
        raise StageError(stage, code)
