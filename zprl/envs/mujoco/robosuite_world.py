"""One world of robosuite as robomimic uses it: Panda arms in MuJoCo.

Actions are the benchmark's own, seven per arm for its operational-space controller at 20 Hz: a step
of the tool in x, y, z (1 = 5 cm), a rotation vector (1 = 0.5 rad), both in the frame of the arm's
base, and the gripper (-1 open, +1 closed), all in [-1, 1].  Under a name that ends in ``-absolute``
they are poses of the tool in the world, ten per arm, as the paper has them: position [m], rotation
6-D (:mod:`zprl.envs.base`) and the same gripper.

Observations are robomimic's low-dimensional ones: per arm ``robot0_eef_pos`` [m],
``robot0_eef_quat`` (xyzw, of the hand's body, which is a quarter turn about the tool from the frame
that actions mean; robomimic's files have it so) and ``robot0_gripper_qpos`` (2, [m]), then
``object``, robosuite's own ``object-state``.  They are read after the step.  robosuite itself shows
bodies where they were one physics step (2 ms) ago, and in the hand's frame a thing where it was one
control step ago, so that its first frame has zeros there.

Objects whose size robosuite draws when it loads a model (lift's cube, by a millimetre) have the
size of one fixed draw.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import mujoco
import numpy as np
import torch
from scipy.spatial.transform import Rotation

from zprl.envs.mujoco import integration_state
from zprl.envs.rotation import quat_from_6d

# It warns of robots, controllers and private settings that nothing here asks for.
logging.getLogger("robosuite_logs").addFilter(lambda record: record.levelno >= logging.ERROR)
with warnings.catch_warnings():
    warnings.simplefilter("ignore", SyntaxWarning)
    import robosuite
    from robosuite.controllers import load_composite_controller_config

TASKS = {
    "lift": "Lift",
    "can": "PickPlaceCan",
    "square": "NutAssemblySquare",
    "transport": "TwoArmTransport",
}
"""Task name to robosuite's; transport has two arms."""
CONTROL_HZ = 20.0
OPEN, CLOSED = -1.0, 1.0
"""Gripper commands."""
FINGERS = 2
MAX_STEP, MAX_TURN = 0.05, 0.5
"""Motion that 1 of an action asks for [m] and [rad]; robosuite's."""


@contextlib.contextmanager
def _sharing_models() -> Iterator[None]:
    """Let worlds share their models.

    robosuite compiles two for each, in seconds and 100 MB, and writes the same into both at any
    start.
    """
    mujoco.MjModel.from_xml_string = _compiled
    try:
        yield
    finally:
        mujoco.MjModel.from_xml_string = staticmethod(_compile)


_compile = mujoco.MjModel.from_xml_string
_compiled = functools.lru_cache(maxsize=4)(_compile)


class RobosuiteWorld:
    """One robosuite task; see :class:`zprl.envs.mujoco.world.MujocoWorld`."""

    control_hz = CONTROL_HZ
    hidden_groups = (0,)
    """robosuite's collision shapes."""

    def __init__(self, name: str, *, absolute: bool = False) -> None:
        arms = 2 if name == "transport" else 1
        control = load_composite_controller_config(controller="BASIC", robot="Panda")
        if absolute:
            control["body_parts"]["right"] |= {"input_type": "absolute", "input_ref_frame": "world"}

        with _sharing_models():
            self.env: Any = robosuite.make(
                TASKS[name],
                robots=["Panda"] * arms,
                controller_configs=control,
                control_freq=CONTROL_HZ,
                has_renderer=False,
                has_offscreen_renderer=False,
                use_camera_obs=False,
                ignore_done=True,  # MujocoWorlds ends the episodes
                hard_reset=False,  # a new model for every episode would take seconds
                seed=0,
            )
        self._absolute = absolute
        self.action_dim = arms * (10 if absolute else 7)
        self._read_sensors(arms)
        self._seed = 0
        self.obs_dims: Mapping[str, int] = {key: len(value) for key, value in self.reset(0).items()}

    def _read_sensors(self, arms: int) -> None:
        """Read robosuite's sensors directly, after the step, instead of through its observables."""
        seen = {
            name: each
            for name, each in self.env._observables.items()
            if each.is_active() or name == "world_pose_in_gripper"
        }

        # Readings relative to the hand are computed from the others, which must be there first.
        self._sensors = {
            name: seen[name]._sensor for name in sorted(seen, key=lambda name: "_to_" in name)
        }

        self._layout = {
            f"robot{arm}_{key}": [f"robot{arm}_{key}"]
            for arm in range(arms)
            for key in ("eef_pos", "eef_quat", "gripper_qpos")
        }
        self._layout["object"] = [
            name for name, each in seen.items() if each.modality == "object" and each.is_active()
        ]

        self.env._update_observables = lambda force=False: None
        self.env._get_observations = lambda force_update=False: {}

    def reset(self, seed: int) -> dict[str, np.ndarray]:
        """Draw the arms' and the objects' start from ``seed``, of which 32 bits count."""
        self._seed = seed % 2**32
        # The objects' samplers hold this very generator, so its state is what is set.
        self.env.rng.bit_generator.state = np.random.default_rng(self._seed).bit_generator.state
        self.env.reset()
        self._wake()
        return self._frame()

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], bool]:
        """Execute one action (A,) for 50 ms; return the frame and the benchmark's own success."""
        self.env.step(self._native(np.asarray(action, np.float64)) if self._absolute else action)
        # Bodies are where they were before the last physics step.  Only they are moved on: the
        # solver's warm start stays as it is.
        mujoco.mj_kinematics(self._model, self._data)
        return self._frame(), bool(self.env._check_success())

    def hold(self) -> np.ndarray:
        """Return no step, or the pose of now, (A,); grippers open."""
        if not self._absolute:
            return np.tile([0.0] * 6 + [OPEN], len(self.env.robots))
        return np.concatenate(
            [
                np.concatenate((pos, turn[:, 0], turn[:, 1], [OPEN]))
                for pos, turn in map(self.tool, self._arms())
            ]
        )

    def as_action(self, step: np.ndarray) -> np.ndarray:
        """Return this world's action for a step (7,) of its only arm.

        It is the same, or the pose that robosuite's controller would make of it.
        """
        if not self._absolute:
            return step

        position, turned = self.tool()
        turned = Rotation.from_rotvec(MAX_TURN * step[3:6]).as_matrix() @ turned
        return np.concatenate(
            (position + MAX_STEP * step[:3], turned[:, 0], turned[:, 1], step[6:])
        )

    def target(self) -> np.ndarray:
        """Return the goal (3,) of the first arm's controller for the tool [m]."""
        arm = self._arm(0)
        goal: np.ndarray = arm.goal_pos.copy()
        return goal if self._absolute else arm.origin_pos + arm.origin_ori @ goal

    def state(self) -> np.ndarray:
        """Return the episode's seed, the progress of each gripper's command, and the physics.

        The physics are MuJoCo's integration state.
        """
        # One zero stands for all fingers at a start.
        grippers = [
            np.broadcast_to(gripper.current_action, FINGERS) for gripper in self._grippers()
        ]
        physics = integration_state.read(*self.physics())
        return np.concatenate(([self._seed], *grippers, physics))

    def restore(self, state: np.ndarray) -> None:
        """Go back to :meth:`state`.

        What an episode's start decides, such as the posture that controllers prefer, follows from
        its seed again.
        """
        self.reset(int(state[0]))
        grippers = self._grippers()
        *commands, physics = np.split(state[1:], FINGERS * np.arange(1, len(grippers) + 1))
        for gripper, command in zip(grippers, commands, strict=True):
            gripper.current_action = command.copy()
        integration_state.write(*self.physics(), physics)

    def close(self) -> None:
        """Free the simulator."""
        self.env.close()

    def tool(self, arm: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return position (3,) [m] and rotation (3, 3) of the tool in the world.

        Its z axis points out of the hand, and the fingers move along x.
        """
        site = self.env.robots[arm].eef_site_id["right"]
        return self._data.site_xpos[site].copy(), self._data.site_xmat[site].reshape(3, 3).copy()

    def body(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return position (3,) [m] and rotation (3, 3) of a body in the world."""
        body = self._data.body(name)
        return body.xpos.copy(), body.xmat.reshape(3, 3).copy()

    def physics(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        """Return MuJoCo's model and data, to render them."""
        return self._model, self._data

    @property
    def _model(self) -> mujoco.MjModel:
        return self.env.sim.model._model

    @property
    def _data(self) -> mujoco.MjData:
        return self.env.sim.data._data

    def _arms(self) -> range:
        return range(len(self.env.robots))

    def _arm(self, arm: int) -> Any:
        return self.env.robots[arm].part_controllers["right"]

    def _grippers(self) -> list[Any]:
        return [robot.gripper["right"] for robot in self.env.robots]

    def _wake(self) -> None:
        """Have controllers read the arm anew at the next step.

        They would use what they read while the start was still being set up.
        """
        for robot in self.env.robots:
            for controller in robot.part_controllers.values():
                controller.new_update = True

    def _native(self, action: np.ndarray) -> np.ndarray:
        """Return absolute actions (10 per arm) as position, rotation vector and gripper (7)."""
        each = action.reshape(-1, 10)
        turn = Rotation.from_quat(quat_from_6d(torch.from_numpy(each[:, 3:9])).numpy()).as_rotvec()
        return np.concatenate((each[:, :3], turn, each[:, 9:]), 1).ravel()

    def _frame(self) -> dict[str, np.ndarray]:
        seen: dict[str, np.ndarray] = {}
        for name, sensor in self._sensors.items():
            seen[name] = np.asarray(sensor(seen), np.float64)
        return {
            key: np.concatenate([seen[name].reshape(-1) for name in names])
            for key, names in self._layout.items()
        }
