"""Play one episode per environment with a policy and measure it, in rounds where the episodes are too many to play side by side.

Start states come from the round's seed through the environment's own rule; the flow noise of decision i is a (N, T, F)
draw that depends on (round's seed, i) alone.  So episode n meets the same start and the same noise under every policy, whatever
the other episodes do, and policies can be compared in pairs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zprl import seeding
from zprl.envs.chunk import ChunkEnv
from zprl.errors import ConfigError
from zprl.evaluation import metrics
from zprl.evaluation.result import Evaluation

if TYPE_CHECKING:
    import numpy as np

    from zprl import config as configuration
    from zprl.envs.base import Obs, StepResult, VectorEnv
    from zprl.models.policy import PolicySpec

POSITION_KEY = "robot0_eef_pos"
FILM_EPISODES = 24
"""Episodes filmed; a report picks the most telling ones among them."""
FILM_EVERY = 5
"""Environment steps between film frames; an episode's last frame is always kept."""

Act = Callable[["Obs", Tensor], Tensor]


def evaluate(
    act: Act,
    make_env: Callable[[int], VectorEnv],
    *,
    policy: str,
    policy_spec: PolicySpec,
    num_features: int,
    task: configuration.Task,
    config: configuration.Evaluate,
    position_key: str = POSITION_KEY,
    tick: Callable[[int, int], None] = lambda done, episodes: None,
) -> Evaluation:
    """Evaluate a policy; every round has a fresh simulator, which is closed at its end.

    Args:
        act: Chunks (N, C, A) for observations {key: (N, O, d)} and flow noise (N, T, F).
        make_env: Makes the environment with so many environments.
        policy: Name under which the result is kept.
        policy_spec: Shapes of the policy.
        num_features: F, varying action features.
        task: The task that ``make_env`` makes.
        config: Episodes, how many side by side, and seed.
        position_key: Observation key of the end effector's position [m].
        tick: Called after each chunk with the number of ended episodes and of all; may raise to stop.
    """
    at_once = min(config.num_envs or config.episodes, config.episodes)
    watches: list[_Watch] = []
    for number, before in enumerate(range(0, config.episodes, at_once)):
        seed = config.seed if number == 0 else seeding.derive(config.seed, "round", number) % 2**31
        wanted = min(at_once, config.episodes - before)
        with make_env(wanted) as env:
            if env.spec.num_envs != wanted:
                raise ConfigError(f"{env.spec.num_envs} environments for {wanted} episodes", remedy="make one environment per episode")
            progress = functools.partial(_progress, tick, before, config.episodes)
            watches.append(_play(act, env, policy_spec, num_features, seed, position_key, progress))
            spec = env.spec
    shape = policy_spec.policy
    length = [steps for watch in watches for steps in watch.length.tolist()]
    paths = [path for watch in watches for path in watch.paths()]
    commands = [command for watch in watches for command in watch.commands()]
    # Tracks and film are the first round's; the starts are everybody's.
    starts = {f"start/{key}": torch.cat([watch.start[key] for watch in watches]) for key in watches[0].start}
    return Evaluation(
        policy=policy,
        task=task.name,
        seed=config.seed,
        control_hz=spec.control_hz,
        chunk_steps=shape.chunk_steps,
        env_steps=sum(watch.env_steps for watch in watches),
        success=tuple(success for watch in watches for success in watch.success.tolist()),
        length=tuple(length),
        jerk_rms=tuple(metrics.jerk_rms(path, spec.control_hz) for path in paths),
        total_variation=tuple(metrics.total_variation(command) for command in commands),
        chunk_jump=tuple(metrics.chunk_jump(command, shape.chunk_steps) for command in commands),
        film_strips=config.film_episodes,
        bodies=tuple(watches[0].bodies),
        tracks=watches[0].tracks() | starts,
    )


def _progress(tick: Callable[[int, int], None], before: int, episodes: int, ended: int) -> None:
    tick(before + ended, episodes)


@torch.no_grad()
def _play(
    act: Act, vector_env: VectorEnv, policy_spec: PolicySpec, num_features: int, seed: int, position_key: str, tick: Callable[[int], None]
) -> _Watch:
    """Play the first episode of every environment."""
    shape, spec = policy_spec.policy, vector_env.spec
    env = ChunkEnv(vector_env, shape.chunk_steps, shape.obs_steps)
    if position_key not in spec.obs_dims:
        raise ConfigError(f"{spec.name} observes no '{position_key}'", remedy=f"name one of {', '.join(spec.obs_dims)}")
    obs = env.reset(seed)
    watch = _Watch(vector_env, {key: obs[key][:, -1] for key in spec.obs_dims}, position_key)
    chunk_index = 0
    while not bool(watch.ended.all()):
        if len(watch.targets) > spec.episode_steps:
            raise ConfigError(f"{spec.name} did not end its episodes after {spec.episode_steps} steps", remedy="check_env finds it")
        generator = seeding.torch_generator(seed, "evaluation-noise", chunk_index)
        noise = torch.randn(spec.num_envs, shape.horizon, num_features, generator=generator).to(spec.device)
        result = env.step(act(obs, noise), on_step=watch.step)
        obs, chunk_index = result.obs, chunk_index + 1
        watch.env_steps += result.env_steps
        tick(int(watch.ended.sum()))
    return watch


class _Watch:
    """Sees every environment step and remembers each environment's first episode.

    Positions after a step are read from ``final_obs``, because ``obs`` already belongs to the next episode where one ended.
    """

    def __init__(self, env: VectorEnv, start: Obs, position_key: str) -> None:
        n = env.spec.num_envs
        self.env, self.position_key = env, position_key
        self.start = {key: value.cpu().clone() for key, value in start.items()}
        self.positions: list[Tensor] = [self.start[position_key]]
        self.targets: list[Tensor] = []
        self.ended = torch.zeros(n, dtype=torch.bool)
        self.success = torch.zeros(n, dtype=torch.bool)
        self.length = torch.zeros(n, dtype=torch.long)
        self.filmed = min(n, FILM_EPISODES)
        self.bodies: list[str] = sorted(env.scene())
        self.poses = self._poses()
        self.frames: list[tuple[int, int, Tensor]] = []
        self.env_steps = 0
        self._film(torch.ones(self.filmed, dtype=torch.bool), 0)

    def step(self, result: StepResult, action: Tensor) -> None:
        """Take in one environment step; the ``on_step`` of :meth:`ChunkEnv.step`."""
        self.positions.append(result.final_obs[self.position_key].cpu())
        target = action[:, :3] if result.target is None else result.target
        self.targets.append(target.detach().cpu().clone())
        alive = ~self.ended
        done = (result.terminated | result.truncated).cpu() & alive
        self.length += alive
        self.success |= result.success.cpu() & done
        self.ended |= done
        if self.bodies and bool(alive[: self.filmed].any()):
            number = len(self.targets)
            # The scene has moved on to the next episode where one ended: its last picture is the one before.
            self._film(done[: self.filmed], number - 1)
            self.poses = self._poses()
            if number % FILM_EVERY == 0:
                self._film((alive & ~done)[: self.filmed], number)

    def paths(self) -> list[np.ndarray]:
        """Executed positions (steps + 1, 3) of each episode [m]."""
        positions = torch.stack(self.positions, 1).numpy()
        return [positions[n, : steps + 1] for n, steps in enumerate(self.length.tolist())]

    def commands(self) -> list[np.ndarray]:
        """Commanded positions (steps, 3) of each episode [m]."""
        targets = torch.stack(self.targets, 1).numpy()
        return [targets[n, :steps] for n, steps in enumerate(self.length.tolist())]

    def tracks(self) -> dict[str, Tensor]:
        """Tensors as :mod:`zprl.evaluation.result` lists them, the starts apart."""
        steps = torch.arange(len(self.positions))
        lengths = self.length[: self.filmed, None]
        position = torch.stack(self.positions, 1)[: self.filmed]
        target = torch.stack(self.targets, 1)[: self.filmed]
        found = {"position": position.masked_fill((steps > lengths)[..., None], torch.nan)}
        found["target"] = target.masked_fill((steps[:-1] >= lengths)[..., None], torch.nan)
        if self.bodies:
            # The frame before an end may fall on a regular one.
            frames = {(episode, step): poses for episode, step, poses in self.frames}
            ordered = sorted(frames)
            found["film/episode"] = torch.tensor([episode for episode, _ in ordered])
            found["film/step"] = torch.tensor([step for _, step in ordered])
            found["film/poses"] = torch.stack([frames[key] for key in ordered])
        return found

    def _poses(self) -> Tensor:
        """(filmed, bodies, 7) of now."""
        scene = self.env.scene()
        return torch.stack([scene[name][: self.filmed].cpu() for name in self.bodies], 1) if self.bodies else torch.empty(0)

    def _film(self, which: Tensor, step: int) -> None:
        if self.bodies:
            self.frames += [(n, step, self.poses[n].clone()) for n in which.nonzero().flatten().tolist()]
