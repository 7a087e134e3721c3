"""The process of some worlds, ``python -m zprl.envs.mujoco.worker``.

Its standard input names the worlds to make, their number altogether, and then one order a line; see
:mod:`zprl.envs.mujoco.processes`.  Each line of JSON is answered by one on the standard output,
with an ``error`` if there is one; an exception that is no :class:`zprl.errors.ZprlError` ends the
process.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TextIO

from zprl.parent_death import die_with_parent

if TYPE_CHECKING:
    import numpy as np

    from zprl.envs.base import Obs
    from zprl.envs.mujoco.world import MujocoWorlds
    from zprl.errors import ZprlError


def main() -> None:
    """Carry out orders until the pipe ends."""
    die_with_parent(number=signal.SIGKILL)  # there is nothing to save
    orders = map(json.loads, iter(sys.stdin.readline, ""))
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a benchmark prints must not stand among the answers

    try:
        _serve(orders, answers)
    except (StopIteration, BrokenPipeError):
        return  # the parent is gone


def _serve(orders: Iterator[Mapping[str, Any]], answers: TextIO) -> None:
    from zprl import plugins
    from zprl.config import Task
    from zprl.envs.mujoco.processes import arrays
    from zprl.errors import ZprlError

    def answer(value: Mapping[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")

    about = next(orders)
    task = Task.model_validate(about["task"])
    first, count = about["first"], about["num_envs"]
    try:
        worlds: MujocoWorlds[Any] = plugins.load("tasks", task.name)(task, num_envs=count)
    except ZprlError as error:
        answer(_failure(error))
        return

    with worlds:
        worlds.count_from(first)
        answer({"spec": dataclasses.asdict(worlds.spec)})
        whole = dataclasses.replace(worlds.spec, num_envs=next(orders)["num_envs"])
        mine = {
            name: array[first : first + count]
            for name, array in arrays(whole, about["memory"]).items()
        }
        answer({})

        for order in orders:
            try:
                _obey(worlds, order, mine, first)
            except ZprlError as error:
                answer(_failure(error))
            else:
                answer({})


def _failure(error: ZprlError) -> dict[str, Any]:
    return {"error": [type(error).__name__, error.message, error.remedy]}


def _obey(
    worlds: MujocoWorlds[Any], order: Mapping[str, Any], mine: Mapping[str, np.ndarray], first: int
) -> None:
    """Carry out an order and write its results into the rows ``mine``."""
    import torch

    if order["do"] == "reset":
        _write(mine, "obs", worlds.reset(order["seed"]))
    elif order["do"] == "count_from":
        worlds.count_from(order["first"] + first)
    elif order["do"] == "rest":
        worlds.rest(torch.tensor(order["which"][first : first + worlds.spec.num_envs]))
    elif order["do"] == "hold":
        mine["hold"][:] = worlds.hold().numpy()
    else:
        result = worlds.step(torch.from_numpy(mine["action"].copy()), render=order["render"])
        for name in ("reward", "terminated", "truncated", "success", "target"):
            mine[name][:] = getattr(result, name).numpy()
        _write(mine, "obs", result.obs)
        _write(mine, "final_obs", result.final_obs)


def _write(mine: Mapping[str, np.ndarray], when: str, frame: Obs) -> None:
    """Write observations; images that were not rendered are black.

    Those of other processes may have been rendered.
    """
    for name, array in mine.items():
        kind, _, key = name.partition("/")
        if kind == when:
            array[:] = frame[key].numpy() if key in frame else 0


if __name__ == "__main__":
    main()
