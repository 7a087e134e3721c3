"""The world that all tasks with the Franka share: Isaac Lab's managers behind :class:`zprl.envs.base.VectorEnv`.

Ours on top of Isaac Lab: success as a termination with reward 1; starts that are a pure function of
(seed, environment, episode number); targets made safe; managers that nobody reads switched off
("lean").  One environment per process at a time; a fresh one after ``close``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import torch

from zprl import seeding
from zprl.envs import rotation
from zprl.envs.base import StepResult, TaskSpec, check_action
from zprl.envs.isaac import launch
from zprl.envs.isaac.cameras import Cameras
from zprl.envs.isaac.config import TOOL_OFFSET, build_config
from zprl.envs.isaac.randomisation import DRAWS, Randomiser, edge
from zprl.envs.isaac.usd import panda
from zprl.errors import EnvironmentProblem

if TYPE_CHECKING:
    from zprl.config import Task
    from zprl.envs.base import Obs
    from zprl.envs.isaac.scenario import Scenario
    from zprl.envs.isaac.scripted_expert import IsaacExpert

CONTROL_HZ = 50.0
ROBOT_DIMS = {
    "robot0_eef_pos": 3,
    "robot0_eef_quat": 4,
    "robot0_gripper_qpos": 2,
    "robot0_gripper_command": 1,
}
ACTION_DIM = 10
WORKSPACE = ((0.25, -0.40, 0.012), (0.75, 0.40, 0.60))
"""Targets are clamped to this box [m]: reachable with the tool down (measured), and the finger tips
stay off the table."""
MAX_REACH = 0.10
"""Targets are pulled in to this distance from the tool's present position [m], so that no policy
can whip the arm."""


class ManagerTerms:
    """What Isaac Lab's managers call back: observation, success and start positions."""

    def __init__(self, scenario: Scenario, randomiser: Randomiser, cameras: Cameras) -> None:
        self.scenario, self.randomiser, self.cameras = scenario, randomiser, cameras
        self.hand = -1
        self.restart(0)

    def restart(self, seed: int) -> None:
        """Count episodes from the first again."""
        self.seed = seed
        self.randomiser.restart(seed)
        self.episode: torch.Tensor | None = None
        self.tables: dict[tuple[str, int], torch.Tensor] = {}

    def tool(self, env: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Tool position (N, 3) in the environment's frame and orientation (N, 4) xyzw."""
        data = env.scene["robot"].data
        if self.hand < 0:
            self.hand = env.scene["robot"].body_names.index("panda_hand")
        quat = data.body_quat_w.torch[:, self.hand]
        offset = quat.new_tensor((0.0, 0.0, TOOL_OFFSET)).expand(len(quat), 3)
        return data.body_pos_w.torch[:, self.hand] + rotation.rotate(
            quat, offset
        ) - env.scene.env_origins, quat

    def observe(self, env: Any) -> torch.Tensor:
        """All observation keys side by side, a new tensor."""
        position, quat = self.tool(env)
        fingers = env.scene["robot"].data.joint_pos.torch[:, -2:]
        # Raw gripper actions are zeroed by a reset, and Isaac Lab reads zero as "open".
        command = torch.where(
            env.action_manager.get_term("gripper_action").raw_actions < 0, -1.0, 1.0
        )
        return torch.cat(
            (position, quat, fingers, command, self.scenario.observe(env, position)), dim=1
        )

    def success(self, env: Any) -> torch.Tensor:
        """(N,) bool."""
        return self.scenario.success(env, *self.tool(env))

    def place(self, env: Any, env_ids: Any) -> None:
        """Put things where the next episode of each given environment begins."""
        if self.episode is None:
            self.episode = torch.zeros(env.num_envs, dtype=torch.long)
        ids = torch.arange(env.num_envs)[
            env_ids.cpu() if isinstance(env_ids, torch.Tensor) else env_ids
        ]
        number = self.episode[ids]
        self.episode[ids] += 1
        self.scenario.place(
            env,
            env_ids,
            ids,
            self._draws(
                self.scenario.start_purpose, self.scenario.start_draws, ids, number, env.num_envs
            ),
        )
        self.randomiser.begin(env, ids, self._draws("randomise", DRAWS, ids, number, env.num_envs))

    def _draws(
        self, purpose: str, width: int, ids: torch.Tensor, number: torch.Tensor, num_envs: int
    ) -> torch.Tensor:
        """Uniform numbers (k, width) for episode ``number`` (k,) of environments ``ids`` (k,)."""
        draws = torch.empty(len(ids), width)
        for episode in number.unique().tolist():
            key = (purpose, episode)
            if key not in self.tables:
                self.tables[key] = torch.rand(
                    num_envs, width, generator=seeding.torch_generator(self.seed, *key)
                )
            rows = number == episode
            draws[rows] = self.tables[key][ids[rows]]
        return draws


class IsaacWorld:
    """N copies of one task.

    Observation keys: ``robot0_eef_pos`` [m], ``robot0_eef_quat`` xyzw, ``robot0_gripper_qpos`` [m]
    of both fingers, ``robot0_gripper_command`` the last command (+1 open, also after a reset), then
    the task's own; frame of the robot's base. Last ``<camera>_image`` of each of ``task.cameras``;
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
        exact = torch.cat(
            [
                torch.full((width,), key == "robot0_gripper_command")
                for key, width in self.obs_dims.items()
            ]
        )
        self._randomiser = Randomiser(task.randomise, task.physics, scenario.things, exact)
        self._terms = ManagerTerms(scenario, self._randomiser, self._cameras)
        self._env: Any = None
        self._home: torch.Tensor | None = None
        self._low, self._high = torch.tensor(WORKSPACE, device=device)
        self._launched = launch.Simulator()
        self._env = self._launched.start(
            lambda: build_config(
                task, num_envs=num_envs, device=device, control_hz=CONTROL_HZ, terms=self._terms
            ),
            device,
            task.assets,
        )
        if task.randomise.cube_size:
            scenario.edge = edge(self._env.scene, scenario.cubes).to(device)

    @torch.no_grad()  # not inference_mode: Isaac Lab's own buffers would become inference tensors and a later reset would fail
    def reset(self, seed: int) -> Obs:
        """Start all episodes; trajectories repeat bit for bit only from a fresh simulator (the engine keeps contact caches)."""
        self._alive()
        self._terms.restart(seed)
        self._cameras.render = True
        obs, _ = self._env.reset()
        position, quat = self._terms.tool(self._env)
        opened = torch.ones_like(position[:, :1])
        self._home = torch.cat((position, rotation.quat_to_6d(quat), opened), dim=1)
        return self._split(self._randomiser.blur(obs["policy"])) | self._cameras.pictures(obs)

    @torch.no_grad()
    def step(self, action: torch.Tensor, *, render: bool = True) -> StepResult:
        """Execute absolute tool targets (N, 10) for 20 ms; see :meth:`zprl.envs.base.VectorEnv.step`."""
        self._alive()
        check_action(self.spec, action)
        arriving = self._randomiser.late(action.detach(), self.hold())
        self._cameras.render = render
        obs, _, terminated, truncated, extras = self._env.step(self._to_isaac(arriving))
        success = self._env.termination_manager.get_term("success").clone()
        truncated = truncated & ~terminated
        over = terminated | truncated
        self._randomiser.ended(over, self._home)
        ended = extras["final_obs"] if bool(over.any()) else None
        first = self._randomiser.blur(obs["policy"])
        final = (
            first
            if ended is None
            else torch.where(over[:, None], self._randomiser.blur(ended["policy"], 1), first)
        )
        seen = self._cameras.pictures(obs) if render else {}
        last = (
            dict(seen)
            if ended is None
            else self._last_seen(self._cameras.pictures(ended), seen, over)
        )
        first, final = self._split(first) | seen, self._split(final) | last
        return StepResult(first, success.float(), terminated.clone(), truncated, success, final)

    def hold(self) -> torch.Tensor:
        """The tool's pose at the start of an episode with the gripper open, (N, 10)."""
        if self._home is None:
            raise EnvironmentProblem(
                "hold() before the first reset()", remedy="call reset(seed) first"
            )
        return self._home.clone()

    @torch.no_grad()
    def scene(self) -> dict[str, torch.Tensor]:
        """Poses (N, 7) of the robot's links that have a shape, by name, and of the task's things."""
        self._alive()
        robot = self._env.scene["robot"]
        origins = self._env.scene.env_origins
        positions, quats = robot.data.body_pos_w.torch, robot.data.body_quat_w.torch
        poses = {}
        for name in (*panda.CAPSULES, *panda.BOXES):
            i = robot.body_names.index(name)
            poses[name] = torch.cat((positions[:, i] - origins, quats[:, i]), dim=1)
        return poses | self._terms.scenario.poses(self._env)

    def operator(self, seed: int, settings: Mapping[str, Any]) -> IsaacExpert:
        """A scripted operator for one episode of every environment; see :mod:`zprl.envs.isaac.scripted_expert`."""
        kind = self._terms.scenario.operator
        return kind(self.spec.num_envs, seed, kind.settings_of(settings))

    def close(self) -> None:
        """Close the simulator; the next one in this process starts afresh."""
        self._env = None
        self._launched.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _alive(self) -> None:
        if self._env is None:
            raise EnvironmentProblem(
                "the environment is closed", remedy="make a new one with zprl.envs.make"
            )

    def _to_isaac(self, action: torch.Tensor) -> torch.Tensor:
        """Our action (N, 10) as Isaac Lab's IK action (N, 8): position, quaternion xyzw, gripper; target made safe."""
        tool, _ = self._terms.tool(self._env)
        target = torch.maximum(torch.minimum(action[:, :3], self._high), self._low)
        move = target - tool
        reach = move.norm(dim=1, keepdim=True)
        target = tool + move * (MAX_REACH / reach.clamp(min=MAX_REACH))
        return torch.cat((target, rotation.quat_from_6d(action[:, 3:9]), action[:, 9:]), dim=1)

    @staticmethod
    def _last_seen(ended: Obs, seen: Obs, over: torch.Tensor) -> Obs:
        """Pictures of ended episodes' ends; elsewhere what is seen now, or black where nobody looked."""
        over = over[:, None, None, None]
        return {
            key: torch.where(over, last, seen[key] if seen else torch.zeros_like(last))
            for key, last in ended.items()
        }

    def _split(self, frame: torch.Tensor) -> Obs:
        parts = frame.split(list(self.obs_dims.values()), dim=1)
        return {key: part.clone() for key, part in zip(self.obs_dims, parts, strict=True)}
