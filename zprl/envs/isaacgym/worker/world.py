"""The world in Gym: N copies of a task.

Gym computes the poses of links and Jacobians when it simulates, not when joints are set.  So what
an episode starts with is not read back: all start with the arm in the same place, which is measured
once, and boxes where they were put.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Mapping

from .kinematics import least_squares_step, rotate, turn_between

if TYPE_CHECKING:
    import torch
    from isaacgym import gymapi

SETTLE_STEPS = 50
"""Physics steps after which the arm's place at the start is measured; it hangs on its drives, and
nothing pulls at it."""
SPACING = 1.5
"""Distance between environments [m]."""


class Refused(Exception):
    """A problem that a lab must put right: message and remedy."""


class GymWorld:
    """N copies of a task in Gym.

    Args:
        task: The task's file, a module.
        assets: Folder of robot descriptions.
        num_envs: N.
        episode_steps: Control steps after which an episode is truncated.
        device: ``cpu`` or ``cuda:0``.

    Raises:
        Refused: the description of the robot is not there, or does not fit the task's file.
    """

    def __init__(
        self, task: Any, assets: str, num_envs: int, episode_steps: int, device: str
    ) -> None:
        import torch
        from isaacgym import gymapi

        self.task = task
        self.num_envs = num_envs
        self.episode_steps = episode_steps
        self.device = device

        self.gym = gymapi.acquire_gym()
        # -1: no graphics, so that no display is needed.
        self.sim = self.gym.create_sim(
            int(device.partition(":")[2] or 0), -1, gymapi.SIM_PHYSX, self._params(device != "cpu")
        )
        if self.sim is None:
            raise Refused(
                f"Isaac Gym could not start on '{device}'",
                "check the driver, or set run.device to cpu",
            )

        self._build(assets)
        self.gym.prepare_sim(self.sim)
        self._acquire()

        names = self.gym.get_asset_dof_dict(self.robot)
        drives = dict(task.ARM, **task.FINGERS)
        self.joints = torch.tensor([names[name] for name in task.ARM], device=device)
        self.fingers = torch.tensor([names[name] for name in task.FINGERS], device=device)
        self.home_joints = torch.zeros(len(names), device=device)
        for name, (position, _, _) in drives.items():
            self.home_joints[names[name]] = position
        self.opened = self.home_joints[self.fingers]

        self.low, self.high = torch.tensor(task.WORKSPACE, device=device)
        self.offset = torch.tensor(task.TOOL_OFFSET, device=device).expand(num_envs, 3)

        self.age = torch.zeros(num_envs, dtype=torch.long, device=device)
        self.command = torch.ones(num_envs, 1, device=device)
        self.fresh = self.age >= 0
        """(N,) bool: set to a start, and not simulated since."""
        self.home_positions = self.home_joints.expand(num_envs, -1)
        self._measure_home()

    def obs_dims(self) -> list[tuple[str, int]]:
        """Return observation keys and widths, in order."""
        return [
            ("robot0_eef_pos", 3),
            ("robot0_eef_quat", 4),
            ("robot0_gripper_qpos", len(self.task.FINGERS)),
            ("robot0_gripper_command", 1),
            *self.task.OBS_DIMS.items(),
        ]

    def draws(self) -> int:
        """Return the number of random numbers in [0, 1) that an episode's start takes."""
        return 2 * len(self.task.BOXES)

    def reset(self, start: torch.Tensor) -> torch.Tensor:
        """Start all episodes from random numbers (N, draws); return observations (N, D)."""
        self._start(self.age >= 0, start)
        return self._observe()

    def step(self, action: torch.Tensor, start: torch.Tensor) -> dict[str, torch.Tensor]:
        """Execute tool targets (N, 8), and start ended episodes again.

        Args:
            action: Position, quaternion xyzw, gripper.
            start: Random numbers (N, draws) of each environment's next start.

        Returns:
            The arrays of a step's answer: observations (N, D) and flags (N,), as float.
        """
        import torch

        task = self.task
        opened = torch.ones_like(self.command)
        self.command = torch.where(action[:, 7:] < 0, -opened, opened)

        # The target is made safe: inside the workspace, and near the tool.
        position = torch.max(torch.min(action[:, :3], self.high), self.low)
        tool, _ = self._tool()
        move = position - tool
        reach = move.norm(dim=1, keepdim=True)
        position = tool + move * (task.MAX_REACH / reach.clamp(min=task.MAX_REACH))
        for _ in range(task.PHYSICS_STEPS):
            self._drive(position, action[:, 3:7])
            self._simulate()
        self.age += 1

        final = self._observe()
        success = task.success(torch.cat(self._tool(), 1), self._boxes())
        truncated = (self.age >= self.episode_steps) & ~success
        done = success | truncated
        self._start(done, start)
        return {
            "obs": torch.where(done[:, None], self._observe(), final),
            "final_obs": final,
            "reward": success.float(),
            "terminated": success.float(),
            "truncated": truncated.float(),
            "success": success.float(),
        }

    def scene(self) -> torch.Tensor:
        """Return poses (N, K, 7) of the links of ``SCENE`` and of the boxes.

        Those of links are the last simulated ones.
        """
        import torch

        poses = self.bodies[:, self.shown, :7].clone()
        poses[:, :, :3] -= self.origins[:, None]
        return torch.cat((poses, torch.stack(list(self._boxes().values()), 1)), 1)

    # -- making it --

    def _params(self, gpu: bool) -> gymapi.SimParams:
        from isaacgym import gymapi

        params = gymapi.SimParams()
        params.dt = 1.0 / (self.task.CONTROL_HZ * self.task.PHYSICS_STEPS)
        params.substeps = 1
        params.up_axis = gymapi.UP_AXIS_Z
        params.gravity = gymapi.Vec3(0.0, 0.0, -9.81)

        params.use_gpu_pipeline = gpu
        params.physx.use_gpu = gpu
        params.physx.solver_type = 1
        params.physx.num_position_iterations = 12
        params.physx.num_velocity_iterations = 1
        params.physx.contact_offset = 0.005
        params.physx.rest_offset = 0.0
        params.physx.friction_offset_threshold = 0.01
        params.physx.friction_correlation_distance = 0.0005
        return params

    def _build(self, assets: str) -> None:
        """Make the ground, and in each environment a robot and the boxes."""
        from isaacgym import gymapi

        task, gym = self.task, self.gym
        ground = gymapi.PlaneParams()
        ground.normal = gymapi.Vec3(0.0, 0.0, 1.0)
        gym.add_ground(self.sim, ground)

        self.robot = self._load_robot(assets)
        boxes = {name: self._box(box) for name, box in task.BOXES.items()}
        properties = self._drive_properties()
        self.actors = [
            self._build_environment(number, boxes, properties) for number in range(self.num_envs)
        ]

    def _drive_properties(self) -> Any:
        """Return the properties of the robot's drives, once its description fits the task."""
        from isaacgym import gymapi

        task, gym = self.task, self.gym
        names, drives = gym.get_asset_dof_dict(self.robot), dict(task.ARM, **task.FINGERS)
        lacking = sorted(set(drives) - set(names)) + sorted(
            {task.HAND, *task.SCENE} - set(gym.get_asset_rigid_body_dict(self.robot))
        )
        if lacking:
            raise Refused(
                f"{task.URDF} has no '{lacking[0]}'",
                "ARM, FINGERS, HAND and SCENE take the names of the robot's description",
            )
        properties = gym.get_asset_dof_properties(self.robot)
        for name, (_, stiffness, damping) in drives.items():
            properties["driveMode"][names[name]] = int(gymapi.DOF_MODE_POS)
            properties["stiffness"][names[name]] = stiffness
            properties["damping"][names[name]] = damping
        return properties

    def _build_environment(
        self, number: int, boxes: Mapping[str, gymapi.Asset], properties: Any
    ) -> list[int]:
        """Make one environment; return the indices of its robot and of its boxes."""
        from isaacgym import gymapi

        task, gym, half = self.task, self.gym, SPACING / 2
        lower, upper = gymapi.Vec3(-half, -half, 0.0), gymapi.Vec3(half, half, SPACING)
        env = gym.create_env(self.sim, lower, upper, int(self.num_envs**0.5) or 1)

        # Actors of one group touch each other, unless filters share a bit: boxes touch all, the
        # robot's links not each other.
        arm = gym.create_actor(env, self.robot, gymapi.Transform(), "robot", number, 1)
        gym.set_actor_dof_properties(env, arm, properties)
        handles = [arm]
        for name, box in boxes.items():
            (x, y), (_, _, depth) = task.BOXES[name]["middle"], task.BOXES[name]["edges"]
            pose = gymapi.Transform(p=gymapi.Vec3(x, y, depth / 2))
            handle = gym.create_actor(env, box, pose, name, number, 0)
            shapes = gym.get_actor_rigid_shape_properties(env, handle)
            for shape in shapes:
                shape.friction = task.BOXES[name]["friction"]
            gym.set_actor_rigid_shape_properties(env, handle, shapes)
            handles.append(handle)

        return [gym.get_actor_index(env, handle, gymapi.DOMAIN_SIM) for handle in handles]

    def _load_robot(self, assets: str) -> gymapi.Asset:
        from isaacgym import gymapi

        path = Path(assets, self.task.URDF)
        if not path.is_file():
            raise Refused(
                f"there is no {path}",
                "set ZPRL_ISAACGYM_ASSETS to the folder 'assets' of Isaac Gym Preview 4",
            )

        options = gymapi.AssetOptions()
        options.fix_base_link = True
        options.disable_gravity = True
        options.flip_visual_attachments = self.task.FLIP_VISUALS
        options.armature = 0.01
        return self.gym.load_asset(self.sim, assets, self.task.URDF, options)

    def _box(self, box: Mapping[str, Any]) -> gymapi.Asset:
        from isaacgym import gymapi

        options = gymapi.AssetOptions()
        options.density = box["density"]
        width, height, depth = box["edges"]
        return self.gym.create_box(self.sim, width, height, depth, options)

    def _acquire(self) -> None:
        """Acquire the tensors that Gym fills, and keep them wrapped, for Gym does not keep them."""
        import torch
        from isaacgym import gymtorch

        gym, sim, n = self.gym, self.sim, self.num_envs
        self.roots = gymtorch.wrap_tensor(gym.acquire_actor_root_state_tensor(sim))  # (actors, 13)
        self.dofs = gymtorch.wrap_tensor(gym.acquire_dof_state_tensor(sim)).view(n, -1, 2)
        self.bodies = gymtorch.wrap_tensor(gym.acquire_rigid_body_state_tensor(sim)).view(n, -1, 13)
        # (N, links, 6, joints)
        self.jacobians = gymtorch.wrap_tensor(gym.acquire_jacobian_tensor(sim, "robot"))
        self._refresh()

        links = gym.get_asset_rigid_body_dict(self.robot)
        if self.jacobians.shape[1] != len(links) - 1:  # a fixed base has no row
            raise Refused(
                f"{self.task.URDF}: the Jacobian has {self.jacobians.shape[1]} links",
                "its base must be fixed to the world",
            )

        self.hand = links[self.task.HAND]  # the robot is the first actor of each environment
        self.shown = [links[name] for name in self.task.SCENE]
        actors = torch.tensor(self.actors, dtype=torch.int32, device=self.device)
        self.arm_actors, self.box_actors = actors[:, 0].contiguous(), actors[:, 1:].contiguous()
        # These tensors may count from the environment or from the world: the robot stands at its
        # environment's origin.
        self.origins = self.roots[self.arm_actors.long(), :3].clone()

    def _measure_home(self) -> None:
        """Let the arm hang at the start's joint positions, and note its hand and Jacobian there."""
        import torch

        middle = torch.full((self.num_envs, self.draws()), 0.5, device=self.device)
        self._start(self.age >= 0, middle)
        for _ in range(SETTLE_STEPS):
            self._target(self.home_joints.expand(self.num_envs, -1))
            self._simulate()

        self.fresh[:] = False
        self.home_hand = self._hand()
        self.home_jacobian = self.jacobians[:, self.hand - 1][:, :, self.joints].clone()
        self.home_positions = self.dofs[:, :, 0].clone()
        self.home_tool = torch.cat(self._tool(), 1)

    # -- reading it --

    def _hand(self) -> torch.Tensor:
        """Return poses (N, 7) of the hand."""
        import torch

        pose = self.bodies[:, self.hand, :7]
        pose = torch.cat((pose[:, :3] - self.origins, pose[:, 3:]), 1)
        if not bool(self.fresh.any()):
            return pose
        return torch.where(self.fresh[:, None], self.home_hand, pose)

    def _tool(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return positions (N, 3) and orientations (N, 4) xyzw of the tool."""
        hand = self._hand()
        return hand[:, :3] + rotate(hand[:, 3:], self.offset), hand[:, 3:]

    def _boxes(self) -> dict[str, torch.Tensor]:
        """Return poses (N, 7) of the boxes by name."""
        import torch

        poses = self.roots[self.box_actors.long(), :7]
        return {
            name: torch.cat((poses[:, i, :3] - self.origins, poses[:, i, 3:]), 1)
            for i, name in enumerate(self.task.BOXES)
        }

    def _observe(self) -> torch.Tensor:
        """Return all observation keys side by side (N, D)."""
        import torch

        position, quat = self._tool()
        fingers = self.dofs[:, self.fingers, 0]
        extra = self.task.observe(torch.cat((position, quat), 1), self._boxes())
        return torch.cat(
            (position, quat, fingers, self.command, *(extra[key] for key in self.task.OBS_DIMS)), 1
        )

    # -- moving it --

    def _start(self, which: torch.Tensor, start: torch.Tensor) -> None:
        """Begin the next episode of a mask (N,), from random numbers (N, draws)."""
        import torch
        from isaacgym import gymtorch

        if not bool(which.any()):
            return

        self.dofs[which, :, 0] = self.home_positions[which]
        self.dofs[which, :, 1] = 0.0
        for i, box in enumerate(self.task.BOXES.values()):
            rows = self.box_actors[which, i].long()
            half = torch.tensor(box["spread"], device=self.device)
            spread = (2 * start[which, 2 * i : 2 * i + 2] - 1) * half
            self.roots[rows, :3] = self.origins[which]
            self.roots[rows, :2] += torch.tensor(box["middle"], device=self.device) + spread
            self.roots[rows, 2] += box["edges"][2] / 2
            self.roots[rows, 3:] = torch.tensor([0.0, 0, 0, 1] + [0.0] * 6, device=self.device)

        # One call for all actors of a kind: of several between two simulated steps only the last
        # counts.  (A reset follows a step's end without simulating, but writes everything.)
        arms = self.arm_actors[which].contiguous()
        boxes = self.box_actors[which].flatten().contiguous()
        states, roots = self.dofs.view(-1, 2), self.roots
        self.gym.set_dof_state_tensor_indexed(
            self.sim, gymtorch.unwrap_tensor(states), gymtorch.unwrap_tensor(arms), len(arms)
        )
        self.gym.set_actor_root_state_tensor_indexed(
            self.sim, gymtorch.unwrap_tensor(roots), gymtorch.unwrap_tensor(boxes), len(boxes)
        )

        self.age[which] = 0
        self.command[which] = 1.0
        self.fresh[which] = True

    def _drive(self, position: torch.Tensor, quat: torch.Tensor) -> None:
        """Give the joints the targets that bring the tool nearer to a pose (N, 3), (N, 4)."""
        import torch

        hand = self._hand()
        wanted = position - rotate(quat, self.offset)
        error = torch.cat((wanted - hand[:, :3], turn_between(quat, hand[:, 3:])), 1)
        jacobian = self.jacobians[:, self.hand - 1][:, :, self.joints]
        if bool(self.fresh.any()):
            jacobian = torch.where(self.fresh[:, None, None], self.home_jacobian, jacobian)

        targets = self.dofs[:, :, 0].clone()
        targets[:, self.joints] += least_squares_step(jacobian, error)
        closed = torch.full_like(self.opened, self.task.FINGERS_CLOSED)
        targets[:, self.fingers] = torch.where(self.command < 0, closed, self.opened)
        self._target(targets)

    def _target(self, targets: torch.Tensor) -> None:
        from isaacgym import gymtorch

        self.targets = targets.contiguous()  # kept until the next: Gym reads it when it simulates
        self.gym.set_dof_position_target_tensor(self.sim, gymtorch.unwrap_tensor(self.targets))

    def _simulate(self) -> None:
        self.gym.simulate(self.sim)
        self.gym.fetch_results(self.sim, True)
        self._refresh()
        self.fresh[:] = False

    def _refresh(self) -> None:
        self.gym.refresh_actor_root_state_tensor(self.sim)
        self.gym.refresh_dof_state_tensor(self.sim)
        self.gym.refresh_rigid_body_state_tensor(self.sim)
        self.gym.refresh_jacobian_tensors(self.sim)
