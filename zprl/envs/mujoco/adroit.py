"""Adroit's tasks (a Shadow hand on an arm), as gymnasium-robotics has them.

They are ``adroit/door``, ``adroit/hammer``, ``adroit/pen`` and ``adroit/relocate``.

Actions are the benchmark's own: the goal of each actuated joint, in [-1, 1] over its actuator's
range; there are 28, 26, 24 and 30.  There is no commanded position of the tool, so the position
that a step reports as commanded is the real one of the palm.

Observations are the benchmark's numbers, sorted under the names of robomimic: ``robot0_eef_pos``
(the palm [m]; the benchmark's pen and relocate do not show it, here they do), ``robot0_joint_pos``
[rad, m] (door's without the arm's lift, as the benchmark has it) and ``object``, the rest in the
benchmark's order.

An episode ends with the first step that the benchmark calls a success.  The pen may pass its goal
on the way, so its success here is the benchmark's at one step, and not that of a pen that is held
there.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np

from zprl.data.benchmark_layouts import adroit
from zprl.envs.mujoco import integration_state
from zprl.envs.mujoco.processes import spread
from zprl.envs.mujoco.world import MujocoWorlds
from zprl.errors import ConfigError
from zprl.suggestions import did_you_mean

if TYPE_CHECKING:
    from zprl.config import Task

# It prints a notice that dense rewards have changed; none is used here.
with contextlib.redirect_stderr(io.StringIO()):
    from gymnasium_robotics.envs.adroit_hand.adroit_door import AdroitHandDoorEnv
    from gymnasium_robotics.envs.adroit_hand.adroit_hammer import AdroitHandHammerEnv
    from gymnasium_robotics.envs.adroit_hand.adroit_pen import AdroitHandPenEnv
    from gymnasium_robotics.envs.adroit_hand.adroit_relocate import AdroitHandRelocateEnv

TASKS = {
    "door": AdroitHandDoorEnv,
    "hammer": AdroitHandHammerEnv,
    "pen": AdroitHandPenEnv,
    "relocate": AdroitHandRelocateEnv,
}
CONTROL_HZ = 100.0
"""Five physics steps of 2 ms."""


@spread
def make(task: Task, *, num_envs: int, device: str = "cpu") -> MujocoWorlds[AdroitWorld]:
    """Make the environment; entry point ``adroit/*``.

    Raises:
        ConfigError: no such task; the nearest one is named.
    """
    name = task.name.split("/", 1)[1]
    if name not in TASKS:
        hint = did_you_mean(name, TASKS, lead="; ", prefix="adroit/")
        raise ConfigError(
            f"Adroit has no task '{name}'{hint}", remedy=f"its tasks: {', '.join(TASKS)}"
        )
    return MujocoWorlds(task, lambda: AdroitWorld(name), num_envs=num_envs, device=device)


class AdroitWorld:
    """One Adroit task; see :class:`zprl.envs.mujoco.world.MujocoWorld`."""

    control_hz = CONTROL_HZ

    def __init__(self, name: str) -> None:
        self._env: Any = TASKS[name](reward_type="sparse")
        model = self._env.model
        self.action_dim = int(model.nu)

        driven = model.actuator_trnid[:, 0]
        self._position = model.jnt_qposadr[driven]
        self._force = model.jnt_dofadr[driven]
        self._parts = adroit(name, self._env.observation_space.shape[0])
        self._site = model.site("S_grasp").id
        self._seed = 0
        self.obs_dims: Mapping[str, int] = {key: len(value) for key, value in self.reset(0).items()}

    def reset(self, seed: int) -> dict[str, np.ndarray]:
        """Draw the episode's goal from ``seed``, of which 32 bits count; the hand starts alike."""
        self._seed = seed % 2**32
        raw, _ = self._env.reset(seed=self._seed)
        return self._frame(raw)

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], bool]:
        """Execute (A,) for 10 ms; return the frame and the benchmark's own success."""
        raw, _, _, _, info = self._env.step(np.asarray(action, np.float64))
        return self._frame(raw), bool(info["success"])

    def hold(self) -> np.ndarray:
        """Return the command (A,) that carries the hand's weight where it is.

        The actuators are springs, which give way under it.  An actuator exerts
        ``gain * command + bias0 + bias1 * position`` (MuJoCo's affine actuators); this is solved
        for the command.
        """
        env, model, data = self._env, self._env.model, self._env.data
        mujoco.mj_fwdPosition(model, data)
        mujoco.mj_fwdVelocity(model, data)
        weight = (data.qfrc_bias - data.qfrc_passive)[self._force]
        gain, bias = model.actuator_gainprm, model.actuator_biasprm
        command = (weight - bias[:, 0] - bias[:, 1] * data.qpos[self._position]) / gain[:, 0]
        action: np.ndarray = np.clip((command - env.act_mean) / env.act_rng, -1.0, 1.0)
        return action

    def target(self) -> np.ndarray:
        """Return the palm's position (3,) [m], since joints are commanded and no palm is."""
        position: np.ndarray = self._env.data.site_xpos[self._site].copy()
        return position

    def state(self) -> np.ndarray:
        """Return the episode's seed and MuJoCo's integration state."""
        return np.concatenate(([self._seed], integration_state.read(*self.physics())))

    def restore(self, state: np.ndarray) -> None:
        """Go back to :meth:`state`.

        The places of door, board and goals follow from the episode's seed again.
        """
        self.reset(int(state[0]))
        integration_state.write(*self.physics(), state[1:])

    def physics(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        """Return MuJoCo's model and data, to render them."""
        return self._env.model, self._env.data

    def close(self) -> None:
        """Free the simulator."""
        self._env.close()

    def _frame(self, raw: np.ndarray) -> dict[str, np.ndarray]:
        parts = {key: raw[where] for key, where in self._parts.items()}
        parts["robot0_eef_pos"] = self.target()
        return {key: parts[key] for key in ("robot0_eef_pos", "robot0_joint_pos", "object")}
