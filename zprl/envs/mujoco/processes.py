"""N worlds of one task in several processes, on more than one core.

The numbers are those of :class:`zprl.envs.mujoco.world.MujocoWorlds`, bit for bit.  Each process is
a ``python -m zprl.envs.mujoco.worker``.  Orders and answers are lines of JSON on its pipes; actions
and results lie in memory that all of them map, where each writes the rows of its own worlds.  That
memory has no name, so nothing is left of it, however a process ends; a worker ends with its pipe,
and at once where the kernel signals its parent's end.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import mmap
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, Self

import numpy as np
import torch

from zprl import child_processes, durable, errors
from zprl.envs import worker_process
from zprl.envs.base import Obs, StepResult, TaskSpec, check_action
from zprl.envs.usage_errors import closed_error
from zprl.errors import ConfigError, EnvironmentProblem

if TYPE_CHECKING:
    from zprl.config import Task
    from zprl.envs import worker_process
from zprl.envs.base import VectorEnv

ALIGNMENT = 64
"""Arrays begin at multiples of so many bytes, a line of the processors' caches."""
CLOSE_S = 5.0
"""Longest wait for a worker to end [s]."""


def spread(make: Callable[..., VectorEnv]) -> Callable[..., VectorEnv]:
    """Decorate a benchmark's entry point: ``task.workers`` processes make and step its worlds.

    Where it is 0, this process does.
    """

    @functools.wraps(make)
    def made(task: Task, *, num_envs: int, device: str = "cpu") -> VectorEnv:
        return (SpreadWorlds if task.workers else make)(task, num_envs=num_envs, device=device)

    return made


def layout(spec: TaskSpec) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Return shape and type of every array that workers share, in their order in the memory.

    The first axis counts environments.
    """
    n, real, flag = spec.num_envs, np.dtype(np.float32), np.dtype(np.bool_)
    result: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {
        "action": ((n, spec.action_dim), real),
        "hold": ((n, spec.action_dim), real),
    }
    result |= {"target": ((n, 3), real), "reward": ((n,), real)}
    result |= dict.fromkeys(("terminated", "truncated", "success"), ((n,), flag))
    for when in ("obs", "final_obs"):
        result |= {f"{when}/{key}": ((n, width), real) for key, width in spec.obs_dims.items()}
        result |= {
            f"{when}/{key}": ((n, *size, 3), np.dtype(np.uint8))
            for key, size in spec.image_sizes.items()
        }
    return result


def memory_size(spec: TaskSpec) -> int:
    """Return the number of bytes that workers share."""
    return sum(_padded(shape, dtype) for shape, dtype in layout(spec).values())


def arrays(spec: TaskSpec, memory: int) -> dict[str, np.ndarray]:
    """Return the arrays of :func:`layout` in the memory behind a file descriptor.

    The descriptor may be closed afterwards.
    """
    mapped = mmap.mmap(memory, memory_size(spec))
    shared = {}
    offset = 0
    for name, (shape, dtype) in layout(spec).items():
        shared[name] = np.frombuffer(mapped, dtype, math.prod(shape), offset).reshape(shape)
        offset += _padded(shape, dtype)
    return shared


def _padded(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    return -(-math.prod(shape) * dtype.itemsize // ALIGNMENT) * ALIGNMENT


def _unnamed_memory() -> int:
    """Return the descriptor of an empty file without a name, in memory on Linux."""
    if sys.platform == "linux":
        return os.memfd_create("zprl-worlds")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class SpreadWorlds:
    """N worlds of one task, spread over ``task.workers`` processes in the order of their numbers.

    See :class:`zprl.envs.base.VectorEnv`.

    Args:
        task: The section ``task`` of the parameters.
        num_envs: N.
        device: Device of the tensors; the simulators run on the CPU.

    Raises:
        ZprlError: a process cannot make its worlds.
        EnvironmentProblem: a worker ended; also of any other method.
    """

    def __init__(self, task: Task, *, num_envs: int, device: str = "cpu") -> None:
        self._arrays: dict[str, np.ndarray] = {}
        self._workers: list[_Worker] = []
        alone = task.model_copy(update={"workers": 0}).model_dump(mode="json")
        memory = _unnamed_memory()

        try:
            for rows in np.array_split(np.arange(num_envs), min(task.workers, num_envs)):
                order = {"task": alone, "first": int(rows[0]), "num_envs": len(rows)}
                self._workers.append(_Worker(order | {"memory": memory}, memory))

            # Every worker has the same spec, but for the number of its worlds.
            about = self._answers()[0]["spec"]
            sizes = {key: (height, width) for key, (height, width) in about["image_sizes"].items()}
            self.spec = TaskSpec(
                **(about | {"num_envs": num_envs, "device": device, "image_sizes": sizes})
            )

            os.ftruncate(memory, memory_size(self.spec))
            self._arrays = arrays(self.spec, memory)
            self._ask({"num_envs": num_envs})
        except BaseException:
            self.close()
            raise
        finally:
            os.close(memory)

    def reset(self, seed: int) -> Obs:
        """Start every episode anew."""
        self._ask({"do": "reset", "seed": seed})
        return self._frame("obs")

    def count_from(self, first: int) -> None:
        """Number the worlds ``first``, ``first + 1``, ... from the next reset on."""
        self._ask({"do": "count_from", "first": first})

    def rest(self, which: torch.Tensor) -> None:
        """Leave the worlds of a mask (N,) as they are until the next reset.

        See :meth:`zprl.envs.mujoco.world.MujocoWorlds.rest`.
        """
        self._ask({"do": "rest", "which": which.tolist()})

    def step(self, action: torch.Tensor, *, render: bool = True) -> StepResult:
        """Execute one action (N, A) in every world; see :meth:`zprl.envs.base.VectorEnv.step`."""
        self._alive()
        check_action(self.spec, action)
        self._arrays["action"][:] = action.detach().cpu().numpy()
        self._ask({"do": "step", "render": render})

        ended = bool((self._arrays["terminated"] | self._arrays["truncated"]).any())
        names = ("reward", "terminated", "truncated", "success", "target")
        return StepResult(
            obs=self._frame("obs", images=render),
            final_obs=self._frame("final_obs", images=render or ended),
            **{name: self._tensor(name) for name in names},
        )

    def hold(self) -> torch.Tensor:
        """Return the action (N, A) that leaves every robot where it is."""
        self._ask({"do": "hold"})
        return self._tensor("hold")

    def scene(self) -> dict[str, torch.Tensor]:
        """Return nothing; see :meth:`zprl.envs.mujoco.world.MujocoWorlds.scene`."""
        return {}

    def operator(self, seed: int, settings: Mapping[str, Any]) -> NoReturn:
        """Refuse: scripted operators read the worlds themselves.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            f"{self.spec.name}: no scripted operator reaches worlds in other processes",
            remedy="set task.workers to 0",
        )

    def close(self) -> None:
        """End every process; calling it twice is harmless."""
        workers, self._workers = self._workers, []
        self._arrays = {}
        for worker in workers:
            worker.close_input()
        for worker in workers:
            worker.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _alive(self) -> None:
        if not self._workers:
            raise closed_error()

    def _ask(self, order: Mapping[str, Any]) -> None:
        """Have every worker carry out an order, and wait for all."""
        self._alive()
        try:
            for worker in self._workers:
                worker.send(order)
            self._answers()
        except errors.ZprlError:
            raise
        except BaseException:  # orders and answers no longer fit together
            self.close()
            raise

    def _answers(self) -> list[dict[str, Any]]:
        """Return every worker's answer; the first error of any is raised after all answered."""
        try:
            answers = [worker.receive() for worker in self._workers]
        except EnvironmentProblem:  # one is dead
            self.close()
            raise

        for answer in answers:
            if "error" in answer:
                kind, message, remedy = answer["error"]
                raise getattr(errors, kind, errors.ZprlError)(message, remedy=remedy)
        return answers

    def _frame(self, when: str, *, images: bool = True) -> Obs:
        keys = [*self.spec.obs_dims, *(self.spec.image_sizes if images else ())]
        return {key: self._tensor(f"{when}/{key}") for key in keys}

    def _tensor(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self._arrays[name].copy()).to(self.spec.device)


class _Worker:
    """One process, from this side.

    Args:
        order: The worlds that it makes, and the memory.
        memory: File descriptor that it inherits.
    """

    def __init__(self, order: Mapping[str, Any], memory: int) -> None:
        first, count = order["first"], order["num_envs"]
        self._name = f"the process of worlds {first} to {first + count - 1}"
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process lives
        self._process = subprocess.Popen(
            child_processes.python("-m", "zprl.envs.mujoco.worker"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._output,
            pass_fds=(memory,),
            env=child_processes.environment(OMP_NUM_THREADS="1"),  # the processes are the threads
            # A Ctrl-C is for the parent, which may want to come to a resume point first.
            start_new_session=True,
        )
        self.send(order)

    def send(self, order: Mapping[str, Any]) -> None:
        """Send an order; one to a dead worker is noticed when its answer is received."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        """Wait for the answer.

        Raises:
            EnvironmentProblem: it is dead.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            fate = worker_process.fate(self._process, self._output, CLOSE_S)
            raise EnvironmentProblem(
                f"{self._name} ended{fate}",
                remedy="if memory ran out (SIGKILL), take fewer environments or task.workers",
            )
        return dict(durable.parse_json(line, f"the answer of {self._name}", allow_nan=True))

    def close_input(self) -> None:
        """Close its standard input, at which it ends."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def end(self) -> None:
        """Wait for its end; kill it where it does not end."""
        assert self._process.stdout is not None
        worker_process.end(self._process, CLOSE_S)
        self._process.stdout.close()
        self._output.close()
