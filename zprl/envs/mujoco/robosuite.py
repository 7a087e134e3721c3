"""robosuite's tasks: ``robosuite/lift``, ``can``, ``square`` and ``transport``.

Each also exists with absolute actions, under a name that ends in ``-absolute``; see
:mod:`zprl.envs.mujoco.robosuite_world`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from zprl.envs.mujoco.noisy_expert import NoisyExpertSettings
from zprl.envs.mujoco.processes import spread
from zprl.envs.mujoco.robosuite_expert import SCRIPTS, RobosuiteExpert, SceneState, Script
from zprl.envs.mujoco.robosuite_world import TASKS, RobosuiteWorld
from zprl.envs.mujoco.world import MujocoWorlds
from zprl.errors import ConfigError

if TYPE_CHECKING:
    from zprl.config import Task

ABSOLUTE = "-absolute"


@spread
def make(task: Task, *, num_envs: int, device: str = "cpu") -> MujocoWorlds[RobosuiteWorld]:
    """Make the environment; entry point ``robosuite/*``.

    Raises:
        ConfigError: no such task.
    """
    name = task.name.split("/", 1)[1]
    base = name.removesuffix(ABSOLUTE)
    if base not in TASKS:
        known = ", ".join(f"robosuite/{known}" for known in TASKS)
        raise ConfigError(
            f"robosuite has no task '{name}' here",
            remedy=f"its tasks: {known}, each also with '{ABSOLUTE}'",
        )

    def make_world() -> RobosuiteWorld:
        return RobosuiteWorld(base, absolute=name != base)

    if base in SCRIPTS:
        return RobosuiteWorlds(task, make_world, SCRIPTS[base], num_envs=num_envs, device=device)
    return MujocoWorlds(task, make_world, num_envs=num_envs, device=device)


class RobosuiteWorlds(MujocoWorlds[RobosuiteWorld]):
    """N worlds of a task that has a script, see :mod:`zprl.envs.mujoco.robosuite_expert`."""

    def __init__(
        self,
        task: Task,
        make_world: Callable[[], RobosuiteWorld],
        script: Callable[[SceneState], Script],
        *,
        num_envs: int,
        device: str = "cpu",
    ) -> None:
        super().__init__(task, make_world, num_envs=num_envs, device=device)
        self._script = script

    def operator(self, seed: int, settings: Mapping[str, Any]) -> RobosuiteExpert:
        """Return a scripted operator for one episode of every world."""
        failings = NoisyExpertSettings.model_validate(dict(settings))
        return RobosuiteExpert(self._script, self.worlds, seed, failings)
