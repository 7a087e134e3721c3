"""Meta-World's v3 tasks (a Sawyer arm in MuJoCo): every one of them, as ``metaworld/<task>-v3``.

Actions are the benchmark's own: a step of the tool in x, y, z (1 = 1 cm) and the gripper's effort
(+1 **closes**), all in [-1, 1].  Observations are the benchmark's 39 numbers under the names of
robomimic: ``robot0_eef_pos`` [m], ``robot0_gripper_qpos`` (1 = open), ``object`` (two objects'
positions and quaternions, zeros where there is none) and ``goal`` [m]; the previous frame in the 39
is left out, for ``policy.obs_steps`` asks for frames.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS, ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE

from zprl.envs.mujoco import integration_state
from zprl.envs.mujoco.noisy_expert import NoisyExpert, NoisyExpertSettings
from zprl.envs.mujoco.processes import spread
from zprl.envs.mujoco.world import MujocoWorlds
from zprl.errors import ConfigError
from zprl.suggestions import did_you_mean

if TYPE_CHECKING:
    from zprl.config import Task

OBS_DIMS = {"robot0_eef_pos": 3, "robot0_gripper_qpos": 1, "object": 14, "goal": 3}
LAYOUT = {
    "robot0_eef_pos": slice(0, 3),
    "robot0_gripper_qpos": slice(3, 4),
    "object": slice(4, 18),
    "goal": slice(36, 39),
}
"""Place of each key in Meta-World's 39 numbers."""
FRAME = 18
"""Number of values in the present frame, and in the previous one behind it."""
ACTION_DIM = 4
CONTROL_HZ = 80.0
"""Five physics steps of 2.5 ms (Meta-World's ``frame_skip``)."""
OPEN = -1.0
"""Gripper effort that opens."""


@spread
def make(task: Task, *, num_envs: int, device: str = "cpu") -> MetaWorlds:
    """Make the environment; entry point ``metaworld/*``.

    Raises:
        ConfigError: no such task; the nearest one is named.
    """
    name = task.name.split("/", 1)[1]
    if name not in ALL_V3_ENVIRONMENTS:
        hint = did_you_mean(name, ALL_V3_ENVIRONMENTS, lead="; ", prefix="metaworld/")
        raise ConfigError(
            f"Meta-World has no task '{name}'{hint}",
            remedy=f"its tasks: {', '.join(sorted(ALL_V3_ENVIRONMENTS))}",
        )
    return MetaWorlds(task, name, num_envs=num_envs, device=device)


class MetaWorld:
    """One Meta-World task; see :class:`zprl.envs.mujoco.world.MujocoWorld`."""

    obs_dims: Mapping[str, int] = OBS_DIMS
    action_dim = ACTION_DIM
    control_hz = CONTROL_HZ

    def __init__(self, name: str, episode_steps: int) -> None:
        # The plain classes hide the goal, and go on clipping it to zero when that is switched off.
        self._env: Any = ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE[f"{name}-goal-observable"](seed=0)
        # Meta-World's own switches: start and goal are drawn from the generator that seed() sets.
        self._env._freeze_rand_vec = False
        self._env.seeded_rand_vec = True
        # MujocoWorlds ends the episodes; here one more step would raise.
        self._env.max_path_length = max(episode_steps, self._env.max_path_length)
        self._seed = 0
        self.raw = np.zeros(39)
        """Meta-World's own observation (39,) of now, as its experts read it."""

    def reset(self, seed: int) -> dict[str, np.ndarray]:
        """Draw start and goal from ``seed``, of which 32 bits count."""
        self._seed = seed % 2**32
        self._env.seed(self._seed)
        self.raw, _ = self._env.reset()
        return self._frame()

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], bool]:
        """Execute (4,) for 12.5 ms; return the frame and the benchmark's own success."""
        # The tool's step is clipped by Meta-World itself, the gripper's effort only by its
        # actuator.
        self.raw, _, _, _, info = self._env.step(np.clip(action, -1.0, 1.0))
        return self._frame(), bool(info["success"])

    def hold(self) -> np.ndarray:
        """Return no step, gripper open, (4,)."""
        return np.array([0.0, 0.0, 0.0, OPEN])

    def target(self) -> np.ndarray:
        """Return the commanded position (3,) of the mocap body, which the tool is welded to [m]."""
        position: np.ndarray = self._env.data.mocap_pos[0].copy()
        return position

    def state(self) -> np.ndarray:
        """Return the episode's seed, its age, two frames and MuJoCo's integration state."""
        env = self._env
        physics = integration_state.read(*self.physics())
        return np.concatenate(
            ([self._seed, env.curr_path_length], self.raw, env._prev_obs, physics)
        )

    def restore(self, state: np.ndarray) -> None:
        """Go back to :meth:`state`; what an episode's start decides follows from its seed."""
        seed, age, raw, previous, physics = np.split(state, np.cumsum([1, 1, 39, FRAME]))
        self.reset(int(seed[0]))
        integration_state.write(*self.physics(), physics)
        self._env.curr_path_length = int(age[0])
        self._env._prev_obs = previous.copy()
        self.raw = raw.copy()

    def physics(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        """Return MuJoCo's model and data, to render them."""
        return self._env.model, self._env.data

    def close(self) -> None:
        """Free the simulator."""
        self._env.close()

    def _frame(self) -> dict[str, np.ndarray]:
        return {key: self.raw[part] for key, part in LAYOUT.items()}


class MetaWorlds(MujocoWorlds[MetaWorld]):
    """N worlds of a Meta-World task, with the expert that ships for it as the scripted operator."""

    def __init__(self, task: Task, name: str, *, num_envs: int, device: str = "cpu") -> None:
        super().__init__(
            task, lambda: MetaWorld(name, task.episode_steps), num_envs=num_envs, device=device
        )
        self._name = name

    def operator(self, seed: int, settings: Mapping[str, Any]) -> NoisyExpert:
        """Return a scripted operator for one episode of every world.

        See :mod:`zprl.envs.mujoco.noisy_expert`.
        """
        from metaworld.policies import ENV_POLICY_MAP

        expert = ENV_POLICY_MAP[self._name]()

        def advise(aim: np.ndarray) -> np.ndarray:
            seen = [
                np.concatenate([world.raw[:3] + off, world.raw[3:]])
                for world, off in zip(self.worlds, aim, strict=True)
            ]
            # It warns that it asks for more than can be done, which is clipped here.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return np.stack([expert.get_action(raw) for raw in seen])

        return NoisyExpert(
            advise,
            self.spec.num_envs,
            seed,
            NoisyExpertSettings.model_validate(dict(settings)),
            still=self.worlds[0].hold()[:3],
        )
