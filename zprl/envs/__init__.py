"""Simulated tasks by name.

A fresh simulator is a fresh :func:`make` after ``close``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zprl import plugins
from zprl.errors import ConfigError

if TYPE_CHECKING:
    from zprl.config import Task
    from zprl.envs.base import VectorEnv


def make(task: Task, *, num_envs: int, device: str = "cpu") -> VectorEnv:
    """Make the environment registered under ``task.name`` (entry point group ``zprl.tasks``).

    Args:
        task: The section ``task`` of the parameters.
        num_envs: Environments stepped side by side.
        device: Torch device, also the simulator's where it can run there.

    Raises:
        ConfigError: randomisation is asked for in a world that has none.
    """
    if any(dict(task.randomise).values()) and not task.name.startswith("isaac/"):
        raise ConfigError(
            f"{task.name} has no domain randomisation",
            remedy="set all of task.randomise to 0, or take one of Isaac's worlds",
        )
    env: VectorEnv = plugins.load("tasks", task.name)(task, num_envs=num_envs, device=device)
    return env
