"""The world that all tasks with the Franka share, Isaac Lab behind the project's contract.

Ours on top of Isaac Lab: success as a termination with reward 1; starts that are a pure function of
(seed, environment, episode number); targets made safe; managers that nobody reads switched off
("lean").  One environment per process at a time; a fresh one after ``close``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import torch

from zprl.envs import rotation
from zprl.envs.base import Obs, StepResult, TaskSpec, check_action
from zprl.envs.isaac import launch
from zprl.envs.isaac.cameras import Cameras
from zprl.envs.isaac.config import build_config
from zprl.envs.isaac.franka import ACTION_DIM, CONTROL_HZ, MAX_REACH, ROBOT_DIMS, WORKSPACE
from zprl.envs.isaac.manager_terms import ManagerTerms
from zprl.envs.isaac.randomisation import Randomiser, edge
from zprl.envs.isaac.usd import panda
from zprl.envs.usage_errors import reset_error

if TYPE_CHECKING:
    from zprl.config import Task
    from zprl.envs.isaac.scenario import Scenario
    from zprl.envs.isaac.scripted_expert import IsaacExpert


class IsaacWorld:
    """N copies of one task of Isaac Lab.

    Observation keys: ``robot0_eef_pos`` [m], ``robot0_eef_quat`` xyzw, ``robot0_gripper_qpos`` [m]
    of both fingers, ``robot0_gripper_command`` the last command (+1 open, also after a reset), then
    the task's own; frame of the robot's base.  Last ``<camera>_image`` of each of ``task.cameras``;
    see :mod:`zprl.envs.isaac.cameras`.

    Raises:
        ConfigError: there is no such camera.
        EnvironmentProblem: another one is open in this process, or Isaac Lab cannot start here.
    """

    def __init__(self, task: Task, scenario: Scenario, *, num_envs: int, device: str) -> None:
        self.obs_dims = {**ROBOT_DIMS, **scenario.obs_dims}
        self._cameras = Cameras(task)
        self.spec = TaskSpec(
            task.name,
            num_envs,
            dict(self.obs_dims),
            ACTION_DIM,
            CONTROL_HZ,
            task.episode_steps,
            device,
            self._cameras.sizes,
        )

        # The gripper's command is known exactly; everything else gets the observations' noise.
        exact = torch.cat(
            [
                torch.full((width,), key == "robot0_gripper_command")
                for key, width in self.obs_dims.items()
            ]
        )
        self._randomiser = Randomiser(task.randomise, task.physics, scenario.things, exact)
        self._terms = ManagerTerms(scenario, self._randomiser, self._cameras)
        self._home: torch.Tensor | None = None
        self._low, self._high = torch.tensor(WORKSPACE, device=device)

        self._simulator = launch.Simulator()
        self._simulator.start(
            lambda: build_config(task, num_envs=num_envs, device=device, terms=self._terms),
            device,
            task.assets,
        )
        if task.randomise.cube_size:
            scenario.edge = edge(self._env.scene, scenario.cubes).to(device)

    # Not inference_mode: Isaac Lab's own buffers would become inference tensors, and a later reset
    # would fail.
    @torch.no_grad()
    def reset(self, seed: int) -> Obs:
        """Start all episodes.

        Trajectories repeat bit for bit only from a fresh simulator: the engine keeps contact
        caches.
        """
        env = self._env
        self._terms.restart(seed)
        self._cameras.render = True
        obs, _ = env.reset()

        position, quat = self._terms.tool(env)
        opened = torch.ones_like(position[:, :1])
        self._home = torch.cat((position, rotation.quat_to_6d(quat), opened), dim=1)
        return self._split(self._randomiser.blur(obs["policy"])) | self._cameras.images(obs)

    @torch.no_grad()
    def step(self, action: torch.Tensor, *, render: bool = True) -> StepResult:
        """Execute absolute tool targets (N, 10) for 20 ms.

        See :meth:`zprl.envs.base.VectorEnv.step`.
        """
        env = self._env
        check_action(self.spec, action)
        home = self.hold()
        arriving = self._randomiser.late(action.detach(), home)
        self._cameras.render = render
        obs, _, terminated, truncated, extras = env.step(self._to_isaac(arriving))

        success = env.termination_manager.get_term("success").clone()
        truncated = truncated & ~terminated
        over = terminated | truncated
        self._randomiser.ended(over, home)

        # Noise is drawn for the first frames, then for the last ones of ended episodes.
        first = self._randomiser.blur(obs["policy"])
        shown = self._cameras.images(obs) if render else {}
        final, last_shown = first, dict(shown)
        if bool(over.any()):
            ended = extras["final_obs"]
            last = self._randomiser.blur(ended["policy"], 1)
            final = torch.where(over[:, None], last, first)
            last_shown = self._last_images(self._cameras.images(ended), shown, over)

        return StepResult(
            obs=self._split(first) | shown,
            reward=success.float(),
            terminated=terminated.clone(),
            truncated=truncated,
            success=success,
            final_obs=self._split(final) | last_shown,
        )

    def hold(self) -> torch.Tensor:
        """Return the tool's pose at the start of an episode with the gripper open, (N, 10)."""
        if self._home is None:
            raise reset_error("hold()")
        return self._home.clone()

    @torch.no_grad()
    def scene(self) -> dict[str, torch.Tensor]:
        """Return poses (N, 7) of the robot's links that have a shape and of the task's things."""
        env = self._env
        robot = env.scene["robot"]
        origins = env.scene.env_origins
        positions, quats = robot.data.body_pos_w.torch, robot.data.body_quat_w.torch

        poses = {}
        for name in (*panda.CAPSULES, *panda.BOXES):
            i = robot.body_names.index(name)
            poses[name] = torch.cat((positions[:, i] - origins, quats[:, i]), dim=1)
        return poses | self._terms.scenario.poses(env)

    def operator(self, seed: int, settings: Mapping[str, Any]) -> IsaacExpert:
        """Return a scripted operator for one episode of every environment.

        See :mod:`zprl.envs.isaac.scripted_expert`.
        """
        kind = self._terms.scenario.operator
        return kind(self.spec.num_envs, seed, kind.settings_of(settings))

    def close(self) -> None:
        """Close the simulator; the next one in this process starts afresh."""
        self._simulator.close()

    @property
    def _env(self) -> Any:
        return self._simulator.env

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _to_isaac(self, action: torch.Tensor) -> torch.Tensor:
        """Return Isaac Lab's IK action (N, 8) for ours (N, 10), its target made safe.

        It holds position, quaternion xyzw and gripper.
        """
        tool, _ = self._terms.tool(self._env)
        target = torch.maximum(torch.minimum(action[:, :3], self._high), self._low)
        move = target - tool
        reach = move.norm(dim=1, keepdim=True)
        target = tool + move * (MAX_REACH / reach.clamp(min=MAX_REACH))
        return torch.cat((target, rotation.quat_from_6d(action[:, 3:9]), action[:, 9:]), dim=1)

    @staticmethod
    def _last_images(ended: Obs, shown: Obs, over: torch.Tensor) -> Obs:
        """Return images of ended episodes' ends, and elsewhere those of now.

        They are black where none of now were rendered.
        """
        over = over[:, None, None, None]
        return {
            key: torch.where(over, last, shown[key] if shown else torch.zeros_like(last))
            for key, last in ended.items()
        }

    def _split(self, frame: torch.Tensor) -> Obs:
        parts = torch.split(frame, list(self.obs_dims.values()), dim=1)
        return {key: part.clone() for key, part in zip(self.obs_dims, parts, strict=True)}
