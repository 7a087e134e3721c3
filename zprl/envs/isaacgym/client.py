"""N worlds of Isaac Gym Preview 4, stepped by a process of the lab's Python 3.8.

That process runs :mod:`zprl.envs.isaacgym.worker`.  Preview 4 is a download from NVIDIA for Python
3.8 and older, so the two sides share a socket: headers of JSON, raw float32 arrays, sizes checked
by both before they are believed.  All randomness is on this side; the worker gets the numbers of
each environment's next start with every step.  A worker that does not answer is ended, and one
whose parent ends is ended by the kernel (Linux) or by its closed socket.
"""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from zprl import child_processes, durable, seeding
from zprl.envs import rotation, worker_process
from zprl.envs.base import Obs, StepResult, TaskSpec, check_action
from zprl.envs.isaacgym import lift_cube
from zprl.envs.isaacgym.worker import process, wire
from zprl.envs.usage_errors import closed_error, reset_error
from zprl.errors import ConfigError, DataError, EnvironmentProblem

if TYPE_CHECKING:
    from zprl.config import Task

PYTHON_VARIABLE = "ZPRL_ISAACGYM_PYTHON"
"""Environment variable with the path of the Python 3.8 into which the lab installed Preview 4."""
ASSETS_VARIABLE = "ZPRL_ISAACGYM_ASSETS"
"""Folder of robot descriptions; default: the ``assets`` of the copy that is installed there."""
TASKS_VARIABLE = "ZPRL_ISAACGYM_TASKS"
"""Folder of the lab's own tasks, a file each."""
ANY_PYTHON_VARIABLE = "ZPRL_ISAACGYM_ANY_PYTHON"
"""Set by tests, which have a stand-in for Preview 4 that any Python runs."""
VERSION = (3, 8)
ACTION_DIM = 10
START_S = 900.0
"""Longest wait for a world [s]; Preview 4 compiles a part of itself at its first start."""
STEP_S = 300.0
"""Longest wait for a step [s]."""
CLOSE_S = 5.0
_REMEDY = (
    f"set {PYTHON_VARIABLE} to the Python 3.8 that has Isaac Gym Preview 4, e.g. "
    "~/miniconda3/envs/rlgpu/bin/python"
)


def make(task: Task, *, num_envs: int, device: str = "cpu") -> IsaacGymWorlds:
    """Make the environment; entry point ``isaacgym/*``.

    It is ``lift-cube``, or the name of a file in the folder of ``ZPRL_ISAACGYM_TASKS``.

    Raises:
        ConfigError: images are asked for, or there is no such task.
        EnvironmentProblem: no Python 3.8 with Preview 4 is to be had.
    """
    if task.cameras:
        raise ConfigError(
            f"{task.name} has no cameras",
            remedy="leave task.cameras empty, or take a world of isaac/ or MuJoCo's",
        )
    return IsaacGymWorlds(task, task_file(task.name), num_envs=num_envs, device=device)


def task_file(name: str) -> Path:
    """Return the file that describes a task: the lab's own, or the shipped one.

    Raises:
        ConfigError: there is none of that name.
    """
    own = os.environ.get(TASKS_VARIABLE)
    shipped = Path(lift_cube.__file__)
    files = {path.stem: path for path in (shipped, *sorted(Path(own).glob("*.py") if own else ()))}
    stem = name.partition("/")[2].replace("-", "_")
    if stem not in files:
        known = ", ".join(f"isaacgym/{stem.replace('_', '-')}" for stem in files)
        raise ConfigError(
            f"no task is named '{name}'",
            remedy=f"there are {known}; {TASKS_VARIABLE} names the folder of your own",
        )
    return files[stem].absolute()


def interpreter() -> str:
    """Return the Python that runs the worker.

    Raises:
        EnvironmentProblem: none is named, or it is none of the version that Preview 4 needs.
    """
    path = os.environ.get(PYTHON_VARIABLE)
    if not path:
        raise EnvironmentProblem(
            f"Isaac Gym needs a Python of its own, and {PYTHON_VARIABLE} is not set", remedy=_REMEDY
        )

    program = "import json, sys; print(json.dumps(sys.version_info[:2]))"
    try:
        done = subprocess.run(
            [path, "-I", "-c", program],  # Python 3.8 has no -P
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            env=_variables(path),
        )
        version = tuple(durable.parse_json(done.stdout, "its version"))
    except (DataError, OSError, subprocess.SubprocessError, TypeError, ValueError) as error:
        raise EnvironmentProblem(
            f"{PYTHON_VARIABLE}: {path} does not run as Python ({type(error).__name__})",
            remedy=_REMEDY,
        ) from error

    if version != VERSION and not os.environ.get(ANY_PYTHON_VARIABLE):
        actual = ".".join(map(str, version))
        raise EnvironmentProblem(
            f"{PYTHON_VARIABLE}: {path} is Python {actual}, and Preview 4 needs 3.8", remedy=_REMEDY
        )
    return path


def _variables(python: str) -> dict[str, str]:
    """Return the worker's environment variables.

    Preview 4 is linked against the library of its Python, which conda keeps beside it.
    """
    left_out = {"PYTHONHOME", "VIRTUAL_ENV", *child_processes.SAFE_PATH}  # it knows no safe path
    variables = {
        key: value for key, value in child_processes.environment().items() if key not in left_out
    }
    library = str(Path(python).resolve().parent.parent / "lib")
    folders = filter(None, (library, variables.get("LD_LIBRARY_PATH")))
    variables["LD_LIBRARY_PATH"] = os.pathsep.join(folders)
    return variables


def _first_order(task: Task, file: Path, num_envs: int, device: str) -> dict[str, Any]:
    """Return the order that makes the worlds."""
    assets = os.environ.get(ASSETS_VARIABLE)
    return {
        "file": str(file),
        "assets": str(Path(assets).absolute()) if assets else "",
        "num_envs": num_envs,
        "episode_steps": task.episode_steps,
        "device": device,
    }


class IsaacGymWorlds:
    """N worlds of one task.

    The robot's observations are those of ``isaac/lift-cube``; the task's file adds its own.

    Args:
        task: The section ``task`` of the parameters.
        file: Describes the task; see :mod:`zprl.envs.isaacgym.lift_cube`.
        num_envs: N.
        device: Device of the tensors, and of Gym's pipeline.

    Raises:
        EnvironmentProblem: something is missing there, or the worker ended; also of any other
            method.
    """

    def __init__(self, task: Task, file: Path, *, num_envs: int, device: str = "cpu") -> None:
        self._worker: _Worker | None = _Worker(interpreter(), task.name)
        self._seed = 0
        self._started = False
        self._tables: dict[int, torch.Tensor] = {}
        self._episode = torch.zeros(num_envs, dtype=torch.long)
        try:
            about, arrays = self._worker.ask(
                _first_order(task, file, num_envs, device), {}, START_S
            )
            try:
                dims = {str(key): int(width) for key, width in about["obs_dims"]}
                self._draws = int(about["draws"])
                self._scene = [str(name) for name in about["scene"]]
                hz = float(about["control_hz"])
            except (KeyError, TypeError, ValueError) as error:
                raise self._worker.bad_answer(error) from error

            self.spec = TaskSpec(
                task.name, num_envs, dims, ACTION_DIM, hz, task.episode_steps, device
            )
            home = self._tensor(arrays, "home", num_envs, 7)
        except BaseException:
            self.close()
            raise

        opened = torch.ones_like(home[:, :1])
        self._home = torch.cat((home[:, :3], rotation.quat_to_6d(home[:, 3:]), opened), 1)

    def reset(self, seed: int) -> Obs:
        """Start every episode anew."""
        self._seed = seed
        self._started = True
        self._episode[:] = 0
        self._tables = {}
        return self._split(self._ask("reset", {"start": self._starts()}), "obs")

    @torch.no_grad()
    def step(self, action: torch.Tensor) -> StepResult:
        """Execute absolute tool targets (N, 10) for one control step."""
        check_action(self.spec, action)
        if not self._started:
            raise reset_error()

        pose = torch.cat((action[:, :3], rotation.quat_from_6d(action[:, 3:9]), action[:, 9:]), 1)
        # A step's starts are those of the episodes after the running ones.
        self._episode += 1
        answer = self._ask("step", {"action": pose.detach().cpu().numpy(), "start": self._starts()})
        flags = {
            name: self._tensor(answer, name, self.spec.num_envs) > 0
            for name in ("terminated", "truncated", "success")
        }
        self._episode -= (~(flags["terminated"] | flags["truncated"])).cpu().long()
        return StepResult(
            obs=self._split(answer, "obs"),
            final_obs=self._split(answer, "final_obs"),
            reward=self._tensor(answer, "reward", self.spec.num_envs),
            **flags,
        )

    def hold(self) -> torch.Tensor:
        """Return the tool's pose at the start of an episode with the gripper open, (N, 10)."""
        return self._home.clone()

    def scene(self) -> dict[str, torch.Tensor]:
        """Return poses (N, 7) of the links that the task's file names, and of its boxes."""
        answer = self._ask("scene", {})
        poses = self._tensor(answer, "scene", self.spec.num_envs, len(self._scene), 7)
        return {name: poses[:, i].clone() for i, name in enumerate(self._scene)}

    def close(self) -> None:
        """End the process; calling it twice is harmless."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _ask(self, do: str, arrays: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        if self._worker is None:
            raise closed_error()
        try:
            return self._worker.ask({"do": do}, arrays, STEP_S)[1]
        except BaseException:  # orders and answers no longer fit together
            self.close()
            raise

    def _starts(self) -> np.ndarray:
        """Return random numbers (N, draws) of each environment's episode.

        They are a pure function of (seed, environment, episode).
        """
        n = len(self._episode)
        starts = np.empty((n, self._draws), np.float32)
        numbers = sorted(set(self._episode.tolist()))
        self._tables = {  # those of finished episodes are not asked for again
            number: table for number, table in self._tables.items() if number >= numbers[0]
        }

        for number in numbers:
            if number not in self._tables:
                generator = seeding.torch_generator(self._seed, "isaacgym-start", number)
                self._tables[number] = torch.rand(n, self._draws, generator=generator)
            rows = self._episode == number
            starts[rows.numpy()] = self._tables[number][rows].numpy()
        return starts

    def _tensor(self, arrays: Mapping[str, np.ndarray], name: str, *shape: int) -> torch.Tensor:
        assert self._worker is not None
        try:
            return torch.from_numpy(wire.taken(arrays, name, shape)).to(self.spec.device)
        except wire.BadMessage as error:
            raise self._worker.bad_answer(error) from error

    def _split(self, arrays: Mapping[str, np.ndarray], when: str) -> Obs:
        widths = list(self.spec.obs_dims.values())
        frame = self._tensor(arrays, when, self.spec.num_envs, sum(widths))
        parts = torch.split(frame, widths, 1)
        return {key: part.clone() for key, part in zip(self.spec.obs_dims, parts, strict=True)}


class _Worker:
    """The process and this end of its socket."""

    def __init__(self, python: str, name: str) -> None:
        self._name = name
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process lives
        self._end, theirs = socket.socketpair()
        with theirs:
            module = Path(process.__file__).absolute()
            self._process = subprocess.Popen(
                [
                    str(Path(python).absolute()),
                    "-m",
                    f"{module.parent.name}.{module.stem}",
                    str(theirs.fileno()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                pass_fds=(theirs.fileno(),),
                env=_variables(python),
                # Python 3.8 knows no safe path: it looks for modules in its working folder first.
                cwd=module.parents[1],
                # A Ctrl-C is for the parent, which may want to come to a resume point first.
                start_new_session=True,
            )

    def ask(
        self, order: Mapping[str, Any], arrays: Mapping[str, np.ndarray], seconds: float
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Give an order and wait for its answer.

        Raises:
            EnvironmentProblem: the worker refuses, ended, or does not answer in time.
        """
        self._end.settimeout(seconds)
        try:
            wire.send(self._end, order, arrays)
            header, answer = wire.receive(self._end)
        except TimeoutError as error:
            last = worker_process.last_line(self._output)
            raise EnvironmentProblem(
                f"{self._name}: Isaac Gym did not answer for {seconds:.0f} s{last}",
                remedy="take fewer environments",
            ) from error
        except (EOFError, ConnectionError) as error:
            fate = worker_process.fate(self._process, self._output, CLOSE_S)
            raise EnvironmentProblem(
                f"{self._name}: the process of Isaac Gym ended{fate}",
                remedy="if memory ran out, take fewer environments",
            ) from error
        except wire.BadMessage as error:
            raise self.bad_answer(error) from error

        if "error" in header:
            try:
                message, remedy = map(str, header["error"])
            except (TypeError, ValueError) as error:
                raise self.bad_answer(error) from error
            raise EnvironmentProblem(f"{self._name}: {message}", remedy=remedy)
        return header, answer

    def bad_answer(self, error: Exception) -> EnvironmentProblem:
        """Return the error of an answer that cannot be one."""
        return EnvironmentProblem(
            f"{self._name}: the process of Isaac Gym sent what it should not: {error}",
            remedy="report it as a bug",
        )

    def end(self) -> None:
        """Close the socket and wait for the end; kill the process where it does not end."""
        self._end.close()
        worker_process.end(self._process, CLOSE_S)
        self._output.close()
