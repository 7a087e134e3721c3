"""Domain randomisation of the worlds with the Franka.

Every episode is played on a slightly different robot and with slightly different things.

All of it is off by default, and then nothing is written.  An episode's physics is a pure function
of (seed, environment, episode number), noise of (seed, step), the size of cubes of the environment
alone: physics is parsed once, before the first episode.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from zprl import seeding
from zprl.envs.isaac import physics
from zprl.errors import ConfigError

if TYPE_CHECKING:
    from zprl.config import Engine, Randomise

DRAWS = 5
"""Uniform random numbers per episode: mass, friction, stiffness, damping, latency."""
SIZES = 5
"""Sizes of a cube, evenly spaced; equally many environments have each (of two cubes all pairs,
where there are enough)."""


def resize_cubes(config: Any, names: tuple[str, ...], randomise: Randomise) -> None:
    """Give Isaac Lab's configuration cubes of :data:`SIZES` sizes.

    Raises:
        ConfigError: the task has no cube.
    """
    if not randomise.cube_size:
        return

    if not names:
        raise ConfigError(
            "this task has no cube that task.randomise.cube_size could change", remedy="set it to 0"
        )

    from isaaclab.sim import MultiAssetSpawnerCfg

    factors = torch.linspace(1 - randomise.cube_size, 1 + randomise.cube_size, SIZES).tolist()
    for name in names:
        thing = getattr(config.scene, name)
        scaled = [
            thing.spawn.replace(scale=tuple(factor * axis for axis in thing.spawn.scale))
            for factor in factors
        ]
        thing.spawn = MultiAssetSpawnerCfg(assets_cfg=scaled, random_choice=False)


class Randomiser:
    """Randomisation of one world: other physics in each episode, latency and noise.

    Args:
        randomise: Sizes of the changes.
        engine: Physics engine of the world.
        things: Names of things that get another mass and friction.
        exact: (sum of observation widths,) bool: numbers without noise.
    """

    def __init__(
        self, randomise: Randomise, engine: Engine, things: tuple[str, ...], exact: torch.Tensor
    ) -> None:
        self.randomise = randomise
        self.engine = engine
        self.things = things
        self._sigma = torch.where(exact, 0.0, randomise.observation_noise)
        self._own: dict[str, torch.Tensor] = {}
        self.restart(0)

    def restart(self, seed: int) -> None:
        """Begin again from the first episode."""
        self.seed = seed
        self.step = 0
        self.delay: torch.Tensor | None = None
        self._sent: torch.Tensor | None = None

    def begin(self, env: Any, ids: torch.Tensor, draws: torch.Tensor) -> None:
        """Change environments ``ids`` (k,) for the episodes that begin.

        ``draws`` (k, :data:`DRAWS`) are uniform numbers; both are on the CPU.
        """
        r = self.randomise
        mass, friction, stiffness, damping = (
            1 + (2 * draws[:, i : i + 1] - 1) * share
            for i, share in enumerate((r.mass, r.friction, r.gains, r.gains))
        )

        for name in self.things:
            if r.mass:
                self._scale_mass(env.scene[name], name, ids, mass)
            if r.friction:
                self._scale_friction(env, name, ids, friction)
        if r.gains:
            self._scale_gains(env.scene["robot"], ids, stiffness, damping)
        if r.latency_steps:
            if self.delay is None:
                self.delay = torch.zeros(env.num_envs, dtype=torch.long, device=env.device)
            steps = (draws[:, 4] * (r.latency_steps + 1)).long()
            self.delay[ids.to(env.device)] = steps.to(env.device)

    def _scale_mass(self, thing: Any, name: str, ids: torch.Tensor, factor: torch.Tensor) -> None:
        """Give a thing the mass of the same shape and another density: inertia goes with mass."""
        masses = self._first(name + " mass", thing.data.body_mass)
        inertias = self._first(name + " inertia", thing.data.body_inertia)
        rows, factor = ids.to(masses.device, torch.int32), factor.to(masses.device)
        thing.set_masses_index(masses=masses[rows] * factor, env_ids=rows)
        thing.set_inertias_index(inertias=inertias[rows] * factor[..., None], env_ids=rows)

    def _scale_friction(self, env: Any, name: str, ids: torch.Tensor, factor: torch.Tensor) -> None:
        thing, key = env.scene[name], name + " friction"
        if key not in self._own:
            self._own[key] = physics.friction(env, thing, self.engine)
        physics.set_friction(env, thing, self.engine, self._own[key], ids, factor)

    def _scale_gains(
        self, robot: Any, ids: torch.Tensor, stiffness: torch.Tensor, damping: torch.Tensor
    ) -> None:
        """Scale the gains of the arm's drives by factors (k, 1)."""
        arm = torch.as_tensor(robot.find_joints("panda_joint.*")[0], dtype=torch.int32).cpu()
        for key, factor in (("stiffness", stiffness), ("damping", damping)):
            own = self._first(key, getattr(robot.data, f"joint_{key}"))
            rows, joints = ids.to(own.device, torch.int32), arm.to(own.device)
            write = getattr(robot, f"write_joint_{key}_to_sim_index")
            values = own[rows][:, joints] * factor.to(own.device)
            write(**{key: values}, joint_ids=joints, env_ids=rows)

    def late(self, action: torch.Tensor, still: torch.Tensor) -> torch.Tensor:
        """Return the action (N, A) that arrives now when ``action`` (N, A) is sent now.

        Before an episode's first action arrives it is ``still`` (N, A).
        """
        if self.delay is None:
            return action

        if self._sent is None:
            self._sent = still.expand(self.randomise.latency_steps + 1, *still.shape).clone()
        self._sent = torch.cat((action[None], self._sent[:-1]))
        return self._sent[self.delay, torch.arange(len(action), device=action.device)]

    def ended(self, done: torch.Tensor, still: torch.Tensor) -> None:
        """Forget actions of the episodes that are over, ``done`` (N,) bool."""
        self.step += 1
        if self._sent is not None:
            self._sent = torch.where(done[None, :, None], still[None], self._sent)

    def blur(self, frame: torch.Tensor, number: int = 0) -> torch.Tensor:
        """Return a frame (N, D) with noise; ``number`` distinguishes the frames of one step."""
        if not self.randomise.observation_noise:
            return frame
        draw = seeding.torch_generator(self.seed, "observation-noise", self.step, number)
        return frame + (torch.randn(frame.shape, generator=draw) * self._sigma).to(frame.device)

    def _first(self, key: str, present: Any) -> torch.Tensor:
        """Return a value as it was before anything was changed."""
        if key not in self._own:
            self._own[key] = present.torch.clone()
        return self._own[key]


def edge(scene: Any, cubes: tuple[str, ...]) -> torch.Tensor:
    """Return the mean edge of each environment's cubes (N,) [m].

    It follows from mass and inertia: ``I = m a^2 / 6``.
    """
    data = [scene[name].data for name in cubes]
    return torch.stack(
        [
            (6 * cube.body_inertia.torch[:, 0, 0] / cube.body_mass.torch[:, 0]).sqrt()
            for cube in data
        ]
    ).mean(0)
