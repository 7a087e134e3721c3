"""The part of ``gymapi`` that one arm and some boxes need."""

import math
import os
import stat
import sys
import time
import xml.etree.ElementTree
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

MODE = os.environ.get("FAKE_ISAACGYM", "").split()
SIM_PHYSX, UP_AXIS_Z, DOMAIN_SIM, DOF_MODE_POS = "physx", "z", "sim", 1

# Craig's convention: a [m], d [m], alpha [rad]; Franka's published numbers.
DH = [
    (0.0, 0.333, 0.0),
    (0.0, 0.0, -math.pi / 2),
    (0.0, 0.316, math.pi / 2),
    (0.0825, 0.0, math.pi / 2),
    (-0.0825, 0.384, -math.pi / 2),
    (0.0, 0.0, math.pi / 2),
    (0.088, 0.0, math.pi / 2),
]
LINKS = [f"panda_link{i}" for i in range(9)] + [
    "panda_hand",
    "panda_leftfinger",
    "panda_rightfinger",
]
JOINTS = [f"panda_joint{i}" for i in range(1, 8)] + ["panda_finger_joint1", "panda_finger_joint2"]
TOOL = 0.1034
GAIN = 0.4  # share of the way to its target that a joint goes in a step
FASTEST = 2.5  # [rad/s]; fingers a tenth of it [m/s]


class _Struct:
    fields: ClassVar = {}

    def __init__(self):
        for name, value in self.fields.items():
            object.__setattr__(self, name, value() if callable(value) else value)

    def __setattr__(self, name, value):
        if name not in self.fields:
            raise AttributeError(f"{type(self).__name__} has no attribute {name}")
        object.__setattr__(self, name, value)


class Vec3:
    def __init__(self, x=0.0, y=0.0, z=0.0):
        self.x, self.y, self.z = x, y, z


class Quat:
    def __init__(self, x=0.0, y=0.0, z=0.0, w=1.0):
        self.x, self.y, self.z, self.w = x, y, z, w


class Transform:
    def __init__(self, p=None, r=None):
        self.p, self.r = p or Vec3(), r or Quat()


class PhysXParams(_Struct):
    names = "use_gpu solver_type num_position_iterations num_velocity_iterations contact_offset rest_offset"
    names += " friction_offset_threshold friction_correlation_distance"
    fields: ClassVar = dict.fromkeys(names.split())


class SimParams(_Struct):
    fields: ClassVar = {
        "dt": 1 / 60,
        "substeps": 2,
        "up_axis": "y",
        "gravity": Vec3,
        "use_gpu_pipeline": False,
        "physx": PhysXParams,
    }


class PlaneParams(_Struct):
    fields: ClassVar = {"normal": Vec3}


class AssetOptions(_Struct):
    fields: ClassVar = {
        "fix_base_link": False,
        "disable_gravity": False,
        "flip_visual_attachments": False,
        "armature": 0.0,
    }
    fields["density"] = 1000.0


class RigidShapeProperties(_Struct):
    fields: ClassVar = {"friction": 1.0}


class Tensor:
    def __init__(self, buffer):
        self.buffer = buffer


class Asset:
    def __init__(self, edges=None):
        self.edges = edges


class Env:
    def __init__(self, number, origin):
        self.number, self.origin, self.actors = number, origin, []


class Sim:
    def __init__(self, params):
        self.params, self.envs, self.actors, self.ready, self.ground, self.time = (
            params,
            [],
            0,
            False,
            False,
            0,
        )
        self.written = {}


def matrix_to_quat(m):
    """(…, 3, 3) to (…, 4) xyzw, by the largest of the four candidates."""
    d = torch.stack((m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]), -1)
    squares = torch.cat((1 + 2 * d - d.sum(-1, keepdim=True), 1 + d.sum(-1, keepdim=True)), -1)
    a, b, c = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    e, f, g = m[..., 0, 1] + m[..., 1, 0], m[..., 0, 2] + m[..., 2, 0], m[..., 1, 2] + m[..., 2, 1]
    rows = torch.stack(
        (
            torch.stack((squares[..., 0], e, f, a), -1),
            torch.stack((e, squares[..., 1], g, b), -1),
            torch.stack((f, g, squares[..., 2], c), -1),
            torch.stack((a, b, c, squares[..., 3]), -1),
        ),
        -2,
    )
    best = squares.argmax(-1)[..., None, None].expand(*squares.shape[:-1], 1, 4)
    return torch.nn.functional.normalize(rows.gather(-2, best)[..., 0, :], dim=-1)


def kinematics(q):
    """Link poses (N, 12, 4, 4) and the Jacobian (N, 11, 6, 9) of all links but the base, for joint positions (N, 9)."""
    n = len(q)
    pose = torch.eye(4).repeat(n, 1, 1)
    poses, joints = [pose], []
    for i, (a, d, alpha) in enumerate(DH):
        ca, sa = math.cos(alpha), math.sin(alpha)
        c, s, zero = torch.cos(q[:, i]), torch.sin(q[:, i]), torch.zeros(n)
        rows = [
            (c, -s, zero, zero + a),
            (s * ca, c * ca, zero - sa, zero - d * sa),
            (s * sa, c * sa, zero + ca, zero + d * ca),
        ]
        pose = pose @ torch.stack(
            [torch.stack(row, -1) for row in (*rows, (zero, zero, zero, zero + 1))], 1
        )
        poses.append(pose)
        joints.append((i + 1, pose[:, :3, 2], pose[:, :3, 3]))
    flange = torch.eye(4)
    flange[2, 3] = 0.107
    poses.append(pose @ flange)
    turn = torch.eye(4)
    turn[0, 0] = turn[1, 1] = turn[0, 1] = math.sqrt(0.5)
    turn[1, 0] = -math.sqrt(0.5)
    hand = poses[-1] @ turn
    poses.append(hand)
    for side, finger in ((1.0, 7), (-1.0, 8)):
        out = torch.eye(4).repeat(n, 1, 1)
        out[:, 2, 3], out[:, 1, 3] = 0.0584, side * q[:, finger]
        poses.append(hand @ out)
    links = torch.stack(poses, 1)
    jacobian = torch.zeros(n, len(LINKS) - 1, 6, 9)
    for i, (first, axis, origin) in enumerate(joints):
        arm = links[:, first:, :3, 3] - origin[:, None]
        axes = axis[:, None].expand_as(arm)
        jacobian[:, first - 1 :, :3, i], jacobian[:, first - 1 :, 3:, i] = (
            torch.cross(axes, arm, dim=2),
            axes,
        )
    jacobian[:, -2, :3, 7], jacobian[:, -1, :3, 8] = hand[:, :3, 1], -hand[:, :3, 1]
    return links, jacobian


class Gym:
    """One simulation at a time."""

    # -- making --

    def create_sim(self, compute_device=0, graphics_device=0, type="flex", params=None):
        assert type == SIM_PHYSX and params.up_axis == UP_AXIS_Z and params.gravity.z < 0
        if "nosim" in MODE:
            return None
        return Sim(params)

    def add_ground(self, sim, params):
        assert params.normal.z == 1.0
        sim.ground = True

    def load_asset(self, sim, rootpath, filename, options=None):
        xml.etree.ElementTree.parse(Path(rootpath) / filename)
        assert options.fix_base_link
        return Asset()

    def create_box(self, sim, width, height, depth, options=None):
        return Asset((width, height, depth))

    def get_asset_dof_dict(self, arg0):
        return {name: i for i, name in enumerate(JOINTS)}

    def get_asset_rigid_body_dict(self, arg0):
        return {name: i for i, name in enumerate(LINKS)}

    def get_asset_dof_properties(self, arg0):
        return np.zeros(len(JOINTS), [("driveMode", "i4"), ("stiffness", "f4"), ("damping", "f4")])

    def create_env(self, arg0, arg1, arg2, arg3):
        number = len(arg0.envs)
        size = arg2.x - arg1.x
        env = Env(number, torch.tensor([size * (number % arg3), size * (number // arg3), 0.0]))
        arg0.envs.append(env)
        return env

    def create_actor(self, env, asset, pose, name=None, group=-1, filter=-1, segmentationId=0):
        env.actors.append([name, asset, pose, None])
        return len(env.actors) - 1

    def set_actor_dof_properties(self, arg0, arg1, arg2):
        assert (arg2["driveMode"] == DOF_MODE_POS).all() and (arg2["stiffness"] > 0).all()
        return True

    def get_actor_rigid_shape_properties(self, arg0, arg1):
        return [RigidShapeProperties()]

    def set_actor_rigid_shape_properties(self, arg0, arg1, arg2):
        return True

    def get_actor_index(self, arg0, arg1, arg2):
        assert arg2 == DOMAIN_SIM
        return (
            arg0.number * len(arg0.actors) + arg1
        )  # environments are made alike, and actors are asked for when all are there

    def prepare_sim(self, arg0):
        sim, n = arg0, len(arg0.envs)
        assert sim.ground and all(env.actors[0][0] == "robot" for env in sim.envs)
        sim.ready, sim.per_env = True, len(sim.envs[0].actors)
        sim.edges = torch.tensor([asset.edges for _, asset, _, _ in sim.envs[0].actors[1:]])
        sim.origins = torch.stack([env.origin for env in sim.envs])
        if "local" in MODE:
            sim.origins = torch.zeros(n, 3)
        sim.q, sim.targets = torch.zeros(n, 9), torch.zeros(n, 9)
        sim.root = torch.zeros(n, sim.per_env, 13)
        sim.root[:, :, 6] = 1.0
        for env in sim.envs:
            for i, (_, _, pose, _) in enumerate(env.actors):
                sim.root[env.number, i, :3] = torch.tensor([pose.p.x, pose.p.y, pose.p.z])
        sim.held = torch.zeros(n, sim.per_env - 1, dtype=torch.bool)
        sim.offset = torch.zeros(n, sim.per_env - 1, 3)
        sim.links, sim.jacobian = kinematics(sim.q)
        bodies = len(LINKS) + sim.per_env - 1
        shapes = {
            "root": (n * sim.per_env, 13),
            "dof": (n * 9, 2),
            "body": (n * bodies, 13),
            "jacobian": (n, len(LINKS) - 1, 6, 9),
        }
        sim.buffers = {
            name: Tensor(torch.full(shape, float("nan"))) for name, shape in shapes.items()
        }
        return True

    # -- tensors --

    def acquire_actor_root_state_tensor(self, arg0):
        return arg0.buffers["root"]

    def acquire_dof_state_tensor(self, arg0):
        return arg0.buffers["dof"]

    def acquire_rigid_body_state_tensor(self, arg0):
        return arg0.buffers["body"]

    def acquire_jacobian_tensor(self, arg0, arg1):
        assert arg1 == "robot"
        return arg0.buffers["jacobian"]

    def refresh_actor_root_state_tensor(self, arg0):
        states = arg0.root.clone()
        states[:, :, :3] += arg0.origins[:, None]
        arg0.buffers["root"].buffer.copy_(states.view(-1, 13))
        return True

    def refresh_dof_state_tensor(self, arg0):
        arg0.buffers["dof"].buffer.copy_(
            torch.stack((arg0.q, torch.zeros_like(arg0.q)), -1).view(-1, 2)
        )
        return True

    def refresh_rigid_body_state_tensor(self, arg0):
        states = torch.zeros(len(arg0.q), len(LINKS) + arg0.per_env - 1, 13)
        states[:, : len(LINKS), :3] = arg0.links[:, :, :3, 3] + arg0.origins[:, None]
        states[:, : len(LINKS), 3:7] = matrix_to_quat(arg0.links[:, :, :3, :3])
        states[:, len(LINKS) :] = arg0.root[:, 1:]
        arg0.buffers["body"].buffer.copy_(states.view(-1, 13))
        return True

    def refresh_jacobian_tensors(self, arg0):
        arg0.buffers["jacobian"].buffer.copy_(arg0.jacobian)
        return True

    def set_dof_position_target_tensor(self, arg0, arg1):
        assert arg1.buffer.numel() == arg0.q.numel() and bool(arg1.buffer.isfinite().all())
        arg0.targets = arg1.buffer.clone().view(-1, 9)
        return True

    def set_dof_state_tensor_indexed(self, arg0, arg1, arg2, arg3):
        envs = self._once(arg0, "dof", arg2, arg3) // arg0.per_env
        arg0.q[envs] = arg1.buffer.view(-1, 9, 2)[envs, :, 0]
        return True

    def set_actor_root_state_tensor_indexed(self, arg0, arg1, arg2, arg3):
        rows = self._once(arg0, "root", arg2, arg3)
        states = arg1.buffer.view(-1, 13)[rows].clone()
        envs = rows // arg0.per_env
        states[:, :3] -= arg0.origins[envs]
        arg0.root.view(-1, 13)[rows] = states
        arg0.held[envs, rows % arg0.per_env - 1] = False
        return True

    def _once(self, sim, what, indices, count):
        assert indices.buffer.dtype == torch.int32 and len(indices.buffer) == count
        rows = set(indices.buffer.tolist())
        assert rows >= sim.written.get(what, set()), (
            f"{what} states were written twice between two steps: only the last would count"
        )
        sim.written[what] = rows
        return indices.buffer.long()

    # -- time --

    def simulate(self, arg0):
        sim = arg0
        assert sim.ready
        sim.time += 1
        if sim.time > 60:  # past what is simulated before the first reset
            self._misbehave()
        limit = torch.tensor([FASTEST] * 7 + [FASTEST / 10] * 2) * sim.params.dt
        wanted = GAIN * (sim.targets - sim.q)
        before = sim.q.clone()
        sim.q = sim.q + torch.max(torch.min(wanted, limit), -limit)
        sim.links, _ = kinematics(sim.q)
        tool = self._tool(sim)
        for i in range(sim.per_env - 1):
            half = sim.edges[i, 0] / 2
            inside = (sim.root[:, 1 + i, :3] - tool).abs().amax(1) < 0.02
            blocked = inside & (sim.targets[:, 7] < half)
            fingers = sim.q[:, 7:]
            sim.q[:, 7:] = torch.where(
                blocked[:, None] & (fingers < half),
                torch.min(before[:, 7:], half.expand_as(fingers)),
                fingers,
            )
            grips = blocked & (sim.q[:, 7:] <= half + 1e-4).all(1)
            sim.offset[grips & ~sim.held[:, i], i] = (sim.root[:, 1 + i, :3] - tool)[
                grips & ~sim.held[:, i]
            ]
            sim.held[:, i] = grips
            sim.root[:, 1 + i, :3] = torch.where(
                grips[:, None], tool + sim.offset[:, i], sim.root[:, 1 + i, :3]
            )
            sim.root[~grips, 1 + i, 2] = sim.edges[i, 2] / 2  # falls in no time
        sim.links, sim.jacobian = kinematics(sim.q)
        sim.written.clear()

    def fetch_results(self, arg0, arg1):
        assert arg1

    def _tool(self, sim):
        hand = sim.links[:, LINKS.index("panda_hand")]
        return hand[:, :3, 3] + TOOL * hand[:, :3, 2]

    def _misbehave(self):
        if "hang" in MODE:
            time.sleep(600)
        if "die" in MODE:
            print("PxGpuDynamicsMemoryConfig: out of memory", file=sys.stderr, flush=True)
            os.kill(os.getpid(), 9)
        if "nonsense" in MODE:
            for number in range(3, 64):  # the socket, whatever its number is
                try:
                    if stat.S_ISSOCK(os.fstat(number).st_mode):
                        os.write(number, b"\xff" * 8)
                except OSError:
                    continue


def acquire_gym():
    return Gym()
