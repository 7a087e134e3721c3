"""The process in which Isaac Gym Preview 4 runs: one file, Python 3.8, of zprl nothing.  See :mod:`zprl.envs.isaacgym.client`.

It is started with the number of a socket and obeys orders: a header of JSON and raw float32 arrays,
each answered once.  The first order names the task's file (:mod:`zprl.envs.isaacgym.lift_cube` says
what stands in one) and makes the world; what a lab must put right goes back as ``error``, anything
else ends the process.  The other side imports this module too, for the protocol alone.

Joint targets come from damped least squares, dq = J^T (J J^T + damping^2 I)^-1 e (Wampler 1986;
Nakamura and Hanafusa 1986), on Gym's Jacobian tensor, the way that Preview 4's example
``franka_cube_ik_osc.py`` goes; that file's licence is NVIDIA's, and nothing is from it.

Gym computes the poses of links and Jacobians when it simulates, not when joints are set.  So what
an episode starts with is not read back: all start with the arm in the same place, which is measured
once, and boxes where they were put.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import signal
import socket
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Mapping, Sequence

import numpy as np

if TYPE_CHECKING:
    import torch
    from isaacgym import gymapi

LENGTHS = struct.Struct("<II")
"""What a message begins with: bytes of the header, bytes of the arrays."""
MAX_HEADER = 1 << 16
MAX_ARRAYS = 1 << 28
DAMPING = 0.05
SETTLE_STEPS = 50
"""Physics steps after which the arm's place at the start is measured; it hangs on its drives, and
nothing pulls at it."""
SPACING = 1.5
"""Distance between environments [m]."""


class Refused(Exception):
    """Something a lab must put right: message and remedy."""


class BadMessage(Exception):
    """What came is no message of this protocol."""


# -- the protocol ----------------------------------------------------------------------------------


def send(end: socket.socket, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Send a header and float32 arrays."""
    shapes = [[name, list(array.shape)] for name, array in arrays.items()]
    text = json.dumps(dict(header, arrays=shapes)).encode()
    body = b"".join(np.ascontiguousarray(array, "<f4").tobytes() for array in arrays.values())
    if len(text) > MAX_HEADER or len(body) > MAX_ARRAYS:
        raise BadMessage(f"{len(text)} + {len(body)} bytes are more than a message may have")
    end.sendall(LENGTHS.pack(len(text), len(body)) + text + body)


def receive(end: socket.socket) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Wait for a message; memory is taken only for what its sizes allow.

    Raises:
        EOFError: the other side is gone.
        BadMessage: what came is none.
        OSError: also ``socket.timeout``.
    """
    header_size, body_size = LENGTHS.unpack(_exactly(end, LENGTHS.size))
    if header_size > MAX_HEADER or body_size > MAX_ARRAYS:
        raise BadMessage(f"a message of {header_size} + {body_size} bytes was announced")
    try:
        header = json.loads(_exactly(end, header_size).decode())
        shapes = [(str(name), tuple(shape)) for name, shape in header.pop("arrays")]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise BadMessage(f"the header cannot be read: {error}") from error
    counts = []
    for name, shape in shapes:
        count = 1
        for size in shape:
            if type(size) is not int or size < 0:
                raise BadMessage(f"array '{name}' has shape {shape}")
            count *= size
        counts.append(count)
    if 4 * sum(counts) != body_size:
        raise BadMessage(f"arrays of {sum(counts)} numbers were announced in {body_size} bytes")
    numbers, start, arrays = np.frombuffer(_exactly(end, body_size), "<f4"), 0, {}
    for (name, shape), count in zip(shapes, counts):
        arrays[name] = numbers[start : start + count].reshape(shape).copy()
        start += count
    return header, arrays


def taken(arrays: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...]) -> np.ndarray:
    """An array that must be there, of a known shape.

    Raises:
        BadMessage: it is not.
    """
    found = arrays.get(name)
    if found is None or found.shape != shape:
        raise BadMessage(
            f"array '{name}' is {None if found is None else found.shape}, expected {shape}"
        )
    return found


def _exactly(end: socket.socket, size: int) -> bytes:
    parts, left = [], size
    while left:
        part = end.recv(min(left, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


# -- geometry --------------------------------------------------------------------------------------


def rotate(quat: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """Rotate ``vector`` (N, 3) by unit quaternions (N, 4) xyzw."""
    import torch

    cross = 2.0 * torch.cross(quat[:, :3], vector, dim=1)
    return vector + quat[:, 3:] * cross + torch.cross(quat[:, :3], cross, dim=1)


def turn_between(wanted: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """Rotation vectors (N, 3) [rad] that take orientations (N, 4) xyzw from ``present`` to ``wanted``, the short way round."""
    import torch

    a, b = wanted[:, :3], present[:, :3]
    axis = wanted[:, 3:] * -b + present[:, 3:] * a - torch.cross(a, b, dim=1)
    w = (wanted * present).sum(1, keepdim=True)
    axis = torch.where(w < 0, -axis, axis)
    sine = axis.norm(dim=1, keepdim=True)
    # Below 1e-6 rad the angle is twice the sine.
    return axis * torch.where(
        sine > 1e-6,
        2.0 * torch.atan2(sine, w.abs()) / sine.clamp(min=1e-6),
        torch.full_like(sine, 2.0),
    )


def least_squares_step(jacobian: torch.Tensor, error: torch.Tensor) -> torch.Tensor:
    """Joint motion (N, J) [rad] towards an error (N, 6) [m, rad], by damped least squares on Jacobians (N, 6, J)."""
    import torch

    transposed = jacobian.transpose(1, 2)
    damped = jacobian @ transposed + DAMPING**2 * torch.eye(6, device=jacobian.device)
    return (transposed @ torch.linalg.solve(damped, error.unsqueeze(-1))).squeeze(-1)


# -- the world -------------------------------------------------------------------------------------


class GymWorld:
    """N copies of a task in Gym.

    Args:
        task: What stands in the task's file, a module.
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

        self.task, self.num_envs, self.episode_steps, self.device = (
            task,
            num_envs,
            episode_steps,
            device,
        )
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
        """Observation keys and widths, in order."""
        fingers = [("robot0_gripper_qpos", len(self.task.FINGERS)), ("robot0_gripper_command", 1)]
        return [
            ("robot0_eef_pos", 3),
            ("robot0_eef_quat", 4),
            *fingers,
            *self.task.OBS_DIMS.items(),
        ]

    def draws(self) -> int:
        """Random numbers in [0, 1) that an episode's start takes."""
        return 2 * len(self.task.BOXES)

    def reset(self, start: torch.Tensor) -> torch.Tensor:
        """Start all episodes from random numbers (N, draws); returns observations (N, D)."""
        self._start(self.age >= 0, start)
        return self._observe()

    def step(self, action: torch.Tensor, start: torch.Tensor) -> dict[str, torch.Tensor]:
        """Execute tool targets (N, 8): position, quaternion xyzw, gripper; start ended episodes again."""
        import torch

        task = self.task
        position = torch.max(torch.min(action[:, :3], self.high), self.low)
        self.command = torch.where(
            action[:, 7:] < 0,
            torch.full_like(self.command, -1.0),
            torch.full_like(self.command, 1.0),
        )
        tool, _ = self._tool()
        move = position - tool
        position = tool + move * (
            task.MAX_REACH / move.norm(dim=1, keepdim=True).clamp(min=task.MAX_REACH)
        )
        for _ in range(task.PHYSICS_STEPS):
            self._drive(position, action[:, 3:7])
            self._simulate()
        self.age += 1
        final, success = self._observe(), task.success(torch.cat(self._tool(), 1), self._boxes())
        truncated = (self.age >= self.episode_steps) & ~success
        done = success | truncated
        self._start(done, start)
        obs = torch.where(done[:, None], self._observe(), final)
        flags = {
            "reward": success,
            "terminated": success,
            "truncated": truncated,
            "success": success,
        }
        return dict(
            {"obs": obs, "final_obs": final}, **{name: flag.float() for name, flag in flags.items()}
        )

    def scene(self) -> torch.Tensor:
        """Poses (N, K, 7) of the links of ``SCENE`` and of the boxes; those of links are the last simulated ones."""
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
        """Ground, and in each environment a robot and the boxes."""
        from isaacgym import gymapi

        task, gym = self.task, self.gym
        ground = gymapi.PlaneParams()
        ground.normal = gymapi.Vec3(0.0, 0.0, 1.0)
        gym.add_ground(self.sim, ground)
        self.robot = self._load_robot(assets)
        boxes = {name: self._box(box) for name, box in task.BOXES.items()}
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
        half = SPACING / 2
        self.actors: list[list[int]] = []
        for number in range(self.num_envs):
            lower, upper = gymapi.Vec3(-half, -half, 0.0), gymapi.Vec3(half, half, SPACING)
            env = gym.create_env(self.sim, lower, upper, int(self.num_envs**0.5) or 1)
            # What is in one group touches, unless filters share a bit: boxes touch all, the robot's
            # links not each other.
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
            self.actors.append(
                [gym.get_actor_index(env, handle, gymapi.DOMAIN_SIM) for handle in handles]
            )

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
        """Tensors that Gym fills; the wrapped ones are kept, for Gym does not keep them."""
        import torch
        from isaacgym import gymtorch

        gym, sim, n = self.gym, self.sim, self.num_envs
        self.roots = gymtorch.wrap_tensor(gym.acquire_actor_root_state_tensor(sim))  # (actors, 13)
        self.dofs = gymtorch.wrap_tensor(gym.acquire_dof_state_tensor(sim)).view(n, -1, 2)
        self.bodies = gymtorch.wrap_tensor(gym.acquire_rigid_body_state_tensor(sim)).view(n, -1, 13)
        self.jacobians = gymtorch.wrap_tensor(
            gym.acquire_jacobian_tensor(sim, "robot")
        )  # (N, links, 6, joints)
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
        # Whether these tensors count from the environment or from the world: the robot stands at
        # its environment's origin.
        self.origins = self.roots[self.arm_actors.long(), :3].clone()

    def _measure_home(self) -> None:
        """Let the arm hang at the start's joint positions, and note its hand and Jacobian there."""
        import torch

        self._start(
            self.age >= 0, torch.full((self.num_envs, self.draws()), 0.5, device=self.device)
        )
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
        """Poses (N, 7) of the hand."""
        import torch

        pose = self.bodies[:, self.hand, :7]
        pose = torch.cat((pose[:, :3] - self.origins, pose[:, 3:]), 1)
        return (
            torch.where(self.fresh[:, None], self.home_hand, pose)
            if bool(self.fresh.any())
            else pose
        )

    def _tool(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Positions (N, 3) and orientations (N, 4) xyzw of the tool."""
        hand = self._hand()
        return hand[:, :3] + rotate(hand[:, 3:], self.offset), hand[:, 3:]

    def _boxes(self) -> dict[str, torch.Tensor]:
        """Poses (N, 7) by name."""
        import torch

        poses = self.roots[self.box_actors.long(), :7]
        return {
            name: torch.cat((poses[:, i, :3] - self.origins, poses[:, i, 3:]), 1)
            for i, name in enumerate(self.task.BOXES)
        }

    def _observe(self) -> torch.Tensor:
        """All observation keys side by side (N, D)."""
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
            spread = (2 * start[which, 2 * i : 2 * i + 2] - 1) * torch.tensor(
                box["spread"], device=self.device
            )
            self.roots[rows, :3] = self.origins[which]
            self.roots[rows, :2] += torch.tensor(box["middle"], device=self.device) + spread
            self.roots[rows, 2] += box["edges"][2] / 2
            self.roots[rows, 3:] = torch.tensor([0.0, 0, 0, 1] + [0.0] * 6, device=self.device)
        # One call for all actors of a kind: of several between two simulated steps only the last
        # counts.  (A reset follows a step's end without simulating, but writes everything.)
        arms, boxes = (
            self.arm_actors[which].contiguous(),
            self.box_actors[which].flatten().contiguous(),
        )
        states, roots = self.dofs.view(-1, 2), self.roots
        self.gym.set_dof_state_tensor_indexed(
            self.sim, gymtorch.unwrap_tensor(states), gymtorch.unwrap_tensor(arms), len(arms)
        )
        self.gym.set_actor_root_state_tensor_indexed(
            self.sim, gymtorch.unwrap_tensor(roots), gymtorch.unwrap_tensor(boxes), len(boxes)
        )
        self.age[which], self.command[which], self.fresh[which] = 0, 1.0, True

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


# -- the process -----------------------------------------------------------------------------------


def make(order: Mapping[str, Any]) -> GymWorld:
    """The world that the first order asks for.

    Raises:
        Refused: with what a lab must put right.
    """
    try:
        import isaacgym  # before torch, as it insists
        from isaacgym import gymapi, gymtorch  # noqa: F401 - compiles itself at the first import
    except ImportError as error:
        raise Refused(
            f"{sys.executable} cannot import Isaac Gym: {error}",
            "install Preview 4 into that Python 3.8 ('pip install -e python' in its folder), with PyTorch",
        ) from error
    assets = Path(
        order["assets"] or Path(isaacgym.__file__).resolve().parents[2] / "assets"
    ).absolute()
    spec = importlib.util.spec_from_file_location("zprl_task", order["file"])
    assert spec is not None and spec.loader is not None
    task = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(task)
    except Exception as error:
        raise Refused(
            f"{order['file']} cannot be run: {error!r}", "it must be Python 3.8"
        ) from error
    lacking = [name for name in NEEDED if not hasattr(task, name)]
    if lacking:
        raise Refused(
            f"{order['file']} has no {lacking[0]}",
            "zprl/envs/isaacgym/lift_cube.py shows what stands in a task's file",
        )
    return GymWorld(task, str(assets), order["num_envs"], order["episode_steps"], order["device"])


NEEDED = [
    "CONTROL_HZ",
    "PHYSICS_STEPS",
    "URDF",
    "FLIP_VISUALS",
    "HAND",
    "TOOL_OFFSET",
    "ARM",
    "FINGERS",
    "FINGERS_CLOSED",
    "SCENE",
]
NEEDED += ["WORKSPACE", "MAX_REACH", "BOXES", "OBS_DIMS", "observe", "success"]
"""What stands in a task's file."""


def serve(end: socket.socket) -> None:
    """Make a world and obey until the other side is gone."""
    order, _ = receive(end)
    try:
        world = make(order)
    except Refused as error:
        send(end, {"error": list(error.args)}, {})
        return
    import torch

    n, draws = world.num_envs, world.draws()
    about = {
        "obs_dims": world.obs_dims(),
        "control_hz": world.task.CONTROL_HZ,
        "draws": draws,
        "scene": [*world.task.SCENE, *world.task.BOXES],
    }
    send(end, about, {"home": _numbers(world.home_tool)})
    while True:
        order, arrays = receive(end)

        def tensor(
            name: str, width: int, arrays: Mapping[str, np.ndarray] = arrays
        ) -> torch.Tensor:
            return torch.from_numpy(taken(arrays, name, (n, width))).to(world.device)

        answer: dict[str, torch.Tensor] = {}
        if order["do"] == "reset":
            answer["obs"] = world.reset(tensor("start", draws))
        elif order["do"] == "step":
            answer.update(world.step(tensor("action", 8), tensor("start", draws)))
        else:
            answer["scene"] = world.scene()
        send(end, {}, {name: _numbers(value) for name, value in answer.items()})


def _numbers(value: Any) -> np.ndarray:
    return value.detach().cpu().numpy()


def main(arguments: Sequence[str]) -> None:
    """Serve on the socket whose number is given."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: there is nothing to save
    here = Path(__file__).resolve().parent
    sys.path[:] = [
        path for path in sys.path if Path(path).resolve() != here
    ]  # its neighbours are no modules of this Python
    with socket.socket(fileno=int(arguments[0])) as end:
        try:
            serve(end)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return  # the parent is gone


if __name__ == "__main__":
    main(sys.argv[1:])
