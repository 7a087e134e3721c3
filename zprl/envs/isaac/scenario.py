"""The part of one task beside the world that all tasks share (:mod:`zprl.envs.isaac.world`).

A task is a scene, observations, a success predicate, start positions and a scripted operator.  The
world has the robot, its actions made safe, the ends of episodes and everything that the contract
asks for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from zprl.envs.isaac.usd import panda
from zprl.envs.isaac.usd.table import CUBE_EDGE

if TYPE_CHECKING:
    from zprl.envs.isaac.scripted_expert import IsaacExpert


class Scenario:
    """Base of all tasks; one object per world.

    Attributes:
        obs_dims: Own observation keys and widths; they follow the robot's.
        draws: Uniform random numbers that a start position takes.
        start_purpose: Purpose under which they are drawn.
        operator: The scripted operator.
        colliders: Choice among the robot's colliders.
        things: What randomisation gives another mass and friction.
        cubes: What it gives another size.
        edge: Mean edge of the cubes [m], (N,) where environments differ.
    """

    obs_dims: ClassVar[Mapping[str, int]]
    start_draws: ClassVar[int]
    start_purpose: ClassVar[str]
    operator: ClassVar[type[IsaacExpert]]
    colliders: ClassVar[str] = panda.CLEAR
    things: ClassVar[tuple[str, ...]] = ("object",)
    cubes: ClassVar[tuple[str, ...]] = ("object",)
    edge: float | torch.Tensor = CUBE_EDGE

    def configure(self, config: Any) -> None:
        """Change the base configuration into the task's scene.

        It has a robot, a table, the ground and a cube called ``object``.
        """

    def place(self, env: Any, env_ids: Any, ids: torch.Tensor, draws: torch.Tensor) -> None:
        """Put things where the next episode begins.

        The scene was reset to its defaults just before.

        Args:
            env: Isaac Lab's environment.
            env_ids: Environments, as Isaac Lab names them.
            ids: The same as indices (k,) on the CPU.
            draws: Uniform numbers (k, ``start_draws``) in [0, 1) on the CPU, a pure function of
                (seed, environment, episode number).
        """
        raise NotImplementedError

    def observe(self, env: Any, tool: torch.Tensor) -> torch.Tensor:
        """Return all own observation keys side by side (N, sum of widths).

        ``tool`` is the tool's position (N, 3).
        """
        raise NotImplementedError

    def success(self, env: Any, tool: torch.Tensor, quat: torch.Tensor) -> torch.Tensor:
        """Return whether the task is done, (N,) bool.

        ``tool`` (N, 3) and ``quat`` (N, 4) xyzw are the tool's pose.
        """
        raise NotImplementedError

    def poses(self, env: Any) -> dict[str, torch.Tensor]:
        """Return poses (N, 7) of the task's things for images, by name."""
        raise NotImplementedError


def local_pose(env: Any, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a rigid object's position (N, 3) in the environment's frame and quaternion (N, 4)."""
    data = env.scene[name].data
    return data.root_pos_w.torch - env.scene.env_origins, data.root_quat_w.torch


def move(env: Any, name: str, env_ids: Any, offset: torch.Tensor) -> None:
    """Move a thing by ``offset`` (k, 1 to 3) [m] along its first axes, from its default pose."""
    thing = env.scene[name]
    pose = thing.data.default_root_pose.torch[env_ids].clone()
    pose[:, :3] += env.scene.env_origins[env_ids]
    pose[:, : offset.shape[1]] += offset.to(pose.device)
    thing.write_root_pose_to_sim_index(root_pose=pose, env_ids=env_ids)
