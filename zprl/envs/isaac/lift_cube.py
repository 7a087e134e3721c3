"""A Franka lifts a cube: Isaac Lab's own task, stepped by OvPhysX, behind :class:`zprl.envs.base.VectorEnv`.

Ours on top of ``IsaacContrib-Lift-Cube-Franka-IK-Abs``: success (cube above 0.15 m and within 0.06 m of the tool) as a
termination with reward 1; start positions of the cube that are a pure function of (seed, environment, episode number); managers
that nobody reads switched off ("lean").  One environment per process at a time; a fresh one after ``close``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch

from zprl import seeding
from zprl.envs import rotation
from zprl.envs.base import StepResult, TaskSpec, check_action
from zprl.envs.isaac import assets, launch
from zprl.errors import ConfigError, EnvironmentProblem

if TYPE_CHECKING:
    from zprl.config import Task
    from zprl.envs.base import Obs
    from zprl.envs.isaac.operator import Operator

ISAAC_TASK = "IsaacContrib-Lift-Cube-Franka-IK-Abs"
CONTROL_HZ = 50.0
OBS_DIMS = {"robot0_eef_pos": 3, "robot0_eef_quat": 4, "robot0_gripper_qpos": 2, "robot0_gripper_command": 1, "object": 10}
ACTION_DIM = 10
TOOL_OFFSET = 0.1034
"""Tool centre point in front of the hand's frame [m], as the stock ``ee_frame`` has it.  The stock IK uses 0.107: here both agree."""
SUCCESS_HEIGHT = 0.15
SUCCESS_DISTANCE = 0.06
CUBE_SPREAD = (0.1, 0.25)
"""The cube starts at (0.5, 0) plus or minus this in x and y [m] (Isaac Lab's lift task)."""
ENV_SPACING = 1.5
"""Distance between environments [m]; the stock task has 2.5.  Contacts lose precision far from the world's origin: with 200
environments 2.5 m apart a policy that never failed within 12 m of the origin failed in a tenth of the episodes, nearly all beyond it."""
WORKSPACE = ((0.25, -0.40, 0.012), (0.75, 0.40, 0.60))
"""Targets are clamped to this box [m]: reachable with the tool down (measured), and the finger tips stay off the table."""
MAX_REACH = 0.10
"""Targets are pulled in to this distance from the tool's present position [m], so that no policy can whip the arm."""


def make(task: Task, *, num_envs: int, device: str = "cpu") -> LiftCube:
    """Make the environment; entry point ``isaac/lift-cube``.

    Raises:
        ConfigError: pictures are asked for.
    """
    if task.cameras:
        raise ConfigError(f"{task.name} has no cameras", remedy="leave task.cameras empty, or take one of MuJoCo's worlds")
    return LiftCube(task, num_envs=num_envs, device=device)


class _Terms:
    """What Isaac Lab's managers call back: observation, success and start positions."""

    def __init__(self) -> None:
        self.hand = -1
        self.seed = 0
        self.episode: torch.Tensor | None = None
        self.tables: dict[int, torch.Tensor] = {}

    def tool(self, env: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Tool position (N, 3) in the environment's frame and orientation (N, 4) xyzw."""
        data = env.scene["robot"].data
        if self.hand < 0:
            self.hand = env.scene["robot"].body_names.index("panda_hand")
        quat = data.body_quat_w.torch[:, self.hand]
        offset = quat.new_tensor((0.0, 0.0, TOOL_OFFSET)).expand(len(quat), 3)
        return data.body_pos_w.torch[:, self.hand] + rotation.rotate(quat, offset) - env.scene.env_origins, quat

    def observe(self, env: Any) -> torch.Tensor:
        """All observation keys side by side (N, 20), a new tensor."""
        position, quat = self.tool(env)
        cube = env.scene["object"].data
        cube_position = cube.root_pos_w.torch - env.scene.env_origins
        fingers = env.scene["robot"].data.joint_pos.torch[:, -2:]
        # Raw gripper actions are zeroed by a reset, and Isaac Lab reads zero as "open".
        command = torch.where(env.action_manager.get_term("gripper_action").raw_actions < 0, -1.0, 1.0)
        return torch.cat((position, quat, fingers, command, cube_position, cube.root_quat_w.torch, cube_position - position), dim=1)

    def success(self, env: Any) -> torch.Tensor:
        """(N,) bool: lifted, and held rather than thrown."""
        position, _ = self.tool(env)
        cube = env.scene["object"].data.root_pos_w.torch - env.scene.env_origins
        return (cube[:, 2] > SUCCESS_HEIGHT) & ((cube - position).norm(dim=1) < SUCCESS_DISTANCE)

    def place_cube(self, env: Any, env_ids: Any) -> None:
        """Put the cube of each given environment at the start of its next episode."""
        if self.episode is None:
            self.episode = torch.zeros(env.num_envs, dtype=torch.long)
        ids = torch.arange(env.num_envs)[env_ids.cpu() if isinstance(env_ids, torch.Tensor) else env_ids]
        number = self.episode[ids]
        self.episode[ids] += 1
        offset = torch.empty(len(ids), 2)
        for episode in number.unique().tolist():
            if episode not in self.tables:
                self.tables[episode] = torch.rand(env.num_envs, 2, generator=seeding.torch_generator(self.seed, "cube-start", episode))
            rows = number == episode
            offset[rows] = self.tables[episode][ids[rows]]
        cube = env.scene["object"]
        pose = cube.data.default_root_pose.torch[env_ids].clone()
        pose[:, :3] += env.scene.env_origins[env_ids]
        pose[:, :2] += ((2 * offset - 1) * torch.tensor(CUBE_SPREAD)).to(pose.device)
        cube.write_root_pose_to_sim_index(root_pose=pose, env_ids=env_ids)


def build_config(task: Task, *, num_envs: int, device: str, terms: _Terms | None = None) -> Any:
    """The stock configuration made to run on OvPhysX with our assets; with ``terms`` also lean and with our success.

    Without ``terms`` it is the stock task with all managers, the yardstick of the benchmark.
    """
    from isaaclab.actuators import ImplicitActuatorCfg
    from isaaclab.managers import EventTermCfg, ObservationTermCfg, TerminationTermCfg
    from isaaclab_ov.physics import OvPhysxCfg
    from isaaclab_tasks.utils import parse_env_cfg

    config = parse_env_cfg(ISAAC_TASK, device=device, num_envs=num_envs)
    config.sim.physics = OvPhysxCfg()
    config.scene.env_spacing = ENV_SPACING
    # Half a step less than asked for: Isaac Lab rounds up, and 200 x 0.02 s must not become 201 steps.
    config.episode_length_s = (task.episode_steps - 0.5) / CONTROL_HZ
    config.actions.arm_action.body_offset.pos = [0.0, 0.0, TOOL_OFFSET]
    # The published Panda couples its fingers with a mimic joint; ours drives both.
    config.scene.robot.actuators.pop("panda_finger2_passive", None)
    config.scene.robot.actuators["panda_hand"] = ImplicitActuatorCfg(
        joint_names_expr=["panda_finger_joint.*"], joint_effort_limit=200.0, stiffness=2e3, damping=1e2
    )
    config.commands.object_pose.debug_vis = False  # its markers are an asset that is not authored here
    if terms is None:
        # OvPhysX names the cube's single body differently from Kit's PhysX; the term does not need the name.
        config.events.reset_object_position.params["asset_cfg"].body_names = None
        return config
    config.rewards = config.curriculum = config.commands = None
    config.scene.ee_frame = None
    policy = config.observations.policy
    for name in ("joint_pos", "joint_vel", "object_position", "target_object_position", "actions"):
        setattr(policy, name, None)
    policy.frame = ObservationTermCfg(func=lambda env: terms.observe(env))
    config.terminations.success = TerminationTermCfg(func=lambda env: terms.success(env))
    config.events.reset_object_position = EventTermCfg(func=lambda env, env_ids: terms.place_cube(env, env_ids), mode="reset")
    config.compute_final_obs = True
    return config


class LiftCube:
    """See the module.  Observation keys and widths are :data:`OBS_DIMS`.

    ``robot0_eef_pos`` [m], ``robot0_eef_quat`` xyzw, ``robot0_gripper_qpos`` [m] of both fingers, ``robot0_gripper_command`` the last
    command (+1 open, also after a reset), ``object``: cube position 3, quaternion xyzw 4, cube minus tool 3; frame of the robot's base.
    """

    _open: ClassVar[bool] = False

    def __init__(self, task: Task, *, num_envs: int, device: str) -> None:
        self.spec = TaskSpec(task.name, num_envs, dict(OBS_DIMS), ACTION_DIM, CONTROL_HZ, task.episode_steps, device)
        if LiftCube._open:
            raise EnvironmentProblem("an Isaac environment is open in this process already", remedy="close it first")
        self._terms = _Terms()
        self._env: Any = None
        self._home: torch.Tensor | None = None
        self._low, self._high = torch.tensor(WORKSPACE, device=device)
        self._stack = contextlib.ExitStack()
        try:
            with launch.quiet(), launch.bare_argv():
                launch.prepare()
                from isaaclab.app import launch_simulation
                from isaaclab.envs import ManagerBasedRLEnv

                config = build_config(task, num_envs=num_envs, device=device, terms=self._terms)
                self._stack.enter_context(launch_simulation(config, {"visualizer": None, "device": device}))
                self._env = ManagerBasedRLEnv(cfg=config)
        except BaseException:  # also on Ctrl-C: the launcher holds process-wide state
            self._stack.close()
            raise
        LiftCube._open = True

    @torch.no_grad()  # not inference_mode: Isaac Lab's own buffers would become inference tensors and a later reset would fail
    def reset(self, seed: int) -> Obs:
        """Start all episodes; trajectories repeat bit for bit only from a fresh simulator (the engine keeps contact caches)."""
        self._alive()
        self._terms.seed, self._terms.episode, self._terms.tables = seed, None, {}
        obs, _ = self._env.reset()
        position, quat = self._terms.tool(self._env)
        opened = torch.ones_like(position[:, :1])
        self._home = torch.cat((position, rotation.quat_to_6d(quat), opened), dim=1)
        return self._split(obs["policy"])

    @torch.no_grad()
    def step(self, action: torch.Tensor) -> StepResult:
        """Execute absolute tool targets (N, 10) for 20 ms."""
        self._alive()
        check_action(self.spec, action)
        obs, _, terminated, truncated, extras = self._env.step(self._to_isaac(action.detach()))
        success = self._env.termination_manager.get_term("success").clone()
        truncated = truncated & ~terminated
        first = self._split(obs["policy"])
        final = self._split(extras["final_obs"]["policy"]) if bool((terminated | truncated).any()) else self._split(obs["policy"])
        done = (terminated | truncated)[:, None]
        final = {key: torch.where(done, final[key], first[key]) for key in first}
        return StepResult(first, success.float(), terminated.clone(), truncated, success, final)

    def hold(self) -> torch.Tensor:
        """The tool's pose at the start of an episode with the gripper open, (N, 10)."""
        if self._home is None:
            raise EnvironmentProblem("hold() before the first reset()", remedy="call reset(seed) first")
        return self._home.clone()

    @torch.no_grad()
    def scene(self) -> dict[str, torch.Tensor]:
        """Poses (N, 7) of every link in ``assets.CAPSULES`` and ``assets.BOXES`` by name, and of ``cube``."""
        self._alive()
        robot, cube = self._env.scene["robot"], self._env.scene["object"].data
        origins = self._env.scene.env_origins
        positions, quats = robot.data.body_pos_w.torch, robot.data.body_quat_w.torch
        poses = {}
        for name in (*assets.CAPSULES, *assets.BOXES):
            i = robot.body_names.index(name)
            poses[name] = torch.cat((positions[:, i] - origins, quats[:, i]), dim=1)
        poses["cube"] = torch.cat((cube.root_pos_w.torch - origins, cube.root_quat_w.torch), dim=1)
        return poses

    def operator(self, seed: int, settings: Mapping[str, Any]) -> Operator:
        """A scripted operator for one episode of every environment; see :mod:`zprl.envs.isaac.operator`."""
        from zprl.envs.isaac.operator import Operator, OperatorSettings

        return Operator(self.spec.num_envs, seed, OperatorSettings.model_validate(dict(settings)))

    def close(self) -> None:
        """Close the simulator; the next one in this process starts afresh."""
        env, self._env = self._env, None
        if env is not None:
            with launch.quiet():
                env.close()
                self._stack.close()
            LiftCube._open = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _alive(self) -> None:
        if self._env is None:
            raise EnvironmentProblem("the environment is closed", remedy="make a new one with zprl.envs.make")

    def _to_isaac(self, action: torch.Tensor) -> torch.Tensor:
        """Our action (N, 10) as Isaac Lab's IK action (N, 8): position, quaternion xyzw, gripper; target made safe."""
        tool, _ = self._terms.tool(self._env)
        target = torch.maximum(torch.minimum(action[:, :3], self._high), self._low)
        move = target - tool
        reach = move.norm(dim=1, keepdim=True)
        target = tool + move * (MAX_REACH / reach.clamp(min=MAX_REACH))
        return torch.cat((target, rotation.quat_from_6d(action[:, 3:9]), action[:, 9:]), dim=1)

    @staticmethod
    def _split(frame: torch.Tensor) -> Obs:
        parts = frame.split(list(OBS_DIMS.values()), dim=1)
        return {key: part.clone() for key, part in zip(OBS_DIMS, parts, strict=True)}
