"""Play one episode per environment with a policy and measure it.

Episodes that are too many to play side by side are played in rounds.

Start states come from ``config.seed`` through the environment's own rule; the flow noise of episode
n at decision i is row n of an (episodes, T, F) draw that depends on (seed, i) alone.  So episode n
meets the same start and the same noise under every policy, whatever the other episodes do, and
policies can be compared in pairs.  In worlds that can number their environments (:class:`Numbered`)
it meets them whatever the size of a round, too; elsewhere every later round starts from a seed of
its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional

from zprl import seeding
from zprl.envs.chunk import ChunkEnv
from zprl.errors import ConfigError
from zprl.evaluation import metrics
from zprl.evaluation.result import Evaluation

if TYPE_CHECKING:
    import numpy as np

    from zprl import config as configuration
    from zprl.envs.base import Obs, StepResult, TaskSpec, VectorEnv
    from zprl.models.policy import PolicySpec

POSITION_KEY = "robot0_eef_pos"
VIDEO_EPISODES = 24
"""Episodes of which frames are recorded; a report picks the most telling ones among them."""
VIDEO_EVERY = 5
"""Environment steps between video frames; an episode's last frame is always kept."""

Act = Callable[["Obs", Tensor], Tensor]


@runtime_checkable
class Numbered(Protocol):
    """A world whose starts belong to the environments' numbers.

    A round can therefore go on where the one before it stopped.
    """

    def count_from(self, first: int) -> None:
        """Number the environments ``first``, ``first + 1``, ... from the next reset on."""
        ...


@runtime_checkable
class Resting(Protocol):
    """A world whose environments can be left out of steps once their episode is over."""

    def rest(self, which: Tensor) -> None:
        """Leave the environments of a mask (N,) as they are until the next reset.

        Results of their steps mean nothing.
        """
        ...


@torch.no_grad()
def evaluate(  # noqa: PLR0913 - all by keyword but two
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
        config: Episodes, number of environments side by side, and seed.
        position_key: Observation key of the end effector's position [m].
        tick: Called after each chunk with the number of ended episodes and of all; may raise to
            stop.
    """
    shape = policy_spec.policy
    at_once = min(config.num_envs or config.episodes, config.episodes)

    rounds: list[_Recorder] = []
    for first in range(0, config.episodes, at_once):
        count = min(at_once, config.episodes - first)
        with ChunkEnv(make_env(count), shape.chunk_steps, shape.obs_steps) as env:
            _check(env.env.spec, count, position_key)
            start = env.reset(_start_at(env.env, config.seed, first))
            recorder = _Recorder(env.env, start, position_key, first)
            _play(act, env, start, recorder, config, (shape.horizon, num_features), tick)
        rounds.append(recorder)
    return _evaluation(rounds, policy, task, config, shape.chunk_steps)


def _check(spec: TaskSpec, count: int, position_key: str) -> None:
    """Refuse a world of another size, or without the end effector's position."""
    if spec.num_envs != count:
        raise ConfigError(
            f"{spec.num_envs} environments for {count} episodes",
            remedy="make one environment per episode",
        )
    if position_key not in spec.obs_dims:
        raise ConfigError(
            f"{spec.name} observes no '{position_key}'",
            remedy=f"name one of {', '.join(spec.obs_dims)}",
        )


def _start_at(env: VectorEnv, seed: int, first: int) -> int:
    """Return the seed of the round that begins with episode ``first``.

    It is the same for all rounds where the world numbers its environments.
    """
    if first == 0:
        return seed
    if isinstance(env, Numbered):
        env.count_from(first)
        return seed
    return seeding.derive(seed, "evaluation-round", first) % 2**31


def _play(
    act: Act,
    env: ChunkEnv,
    obs: Obs,
    recorder: _Recorder,
    config: configuration.Evaluate,
    noise_shape: tuple[int, int],
    tick: Callable[[int, int], None],
) -> None:
    """Play a round until all its episodes have ended.

    Args:
        act: See :func:`evaluate`.
        env: The round's environments, after their reset.
        obs: First observations.
        recorder: Takes in every environment step.
        config: Episodes and seed.
        noise_shape: (T, F).
        tick: See :func:`evaluate`.
    """
    spec, first = env.env.spec, recorder.first
    decision, awake = 0, spec.num_envs
    while not bool(recorder.ended.all()):
        if len(recorder.targets) > spec.episode_steps:
            raise ConfigError(
                f"{spec.name} did not end its episodes after {spec.episode_steps} steps",
                remedy="check_env finds it",
            )

        # Drawn for all episodes, so that a row does not depend on the size of the round.
        generator = seeding.torch_generator(config.seed, "evaluation-noise", decision)
        noise = torch.randn(config.episodes, *noise_shape, generator=generator)
        noise = noise[first : first + spec.num_envs].to(spec.device)
        obs = env.step(act(obs, noise), on_step=recorder.step).obs
        decision += 1

        # Environments that rest are not simulated, and not counted.
        recorder.env_steps += awake * env.chunk_steps
        ended = int(recorder.ended.sum())
        if isinstance(env.env, Resting):
            env.env.rest(recorder.ended)
            awake = spec.num_envs - ended
        tick(first + ended, config.episodes)


def _evaluation(
    rounds: list[_Recorder],
    policy: str,
    task: configuration.Task,
    config: configuration.Evaluate,
    chunk_steps: int,
) -> Evaluation:
    """Return the measurements of all rounds together."""
    rate_hz = rounds[0].env.spec.control_hz
    paths = [path for recorder in rounds for path in recorder.paths()]
    commands = [command for recorder in rounds for command in recorder.commands()]
    return Evaluation(
        policy=policy,
        task=task.name,
        seed=config.seed,
        control_hz=rate_hz,
        chunk_steps=chunk_steps,
        env_steps=sum(recorder.env_steps for recorder in rounds),
        success=tuple(torch.cat([recorder.success for recorder in rounds]).tolist()),
        length=tuple(torch.cat([recorder.length for recorder in rounds]).tolist()),
        jerk_rms=tuple(metrics.jerk_rms(path, rate_hz) for path in paths),
        total_variation=tuple(metrics.total_variation(command) for command in commands),
        chunk_jump=tuple(metrics.chunk_jump(command, chunk_steps) for command in commands),
        video_strips=config.video_episodes,
        bodies=tuple(rounds[0].bodies),
        tracks=_joined([recorder.tracks() for recorder in rounds]),
    )


def _joined(rounds: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the tracks of all rounds, one after the other.

    Positions and targets get the length of the longest round's.
    """
    joined = {}
    for key in rounds[0]:
        parts = [tracks[key] for tracks in rounds]
        if key in ("position", "target"):
            longest = max(part.shape[1] for part in parts)
            parts = [
                functional.pad(part, (0, 0, 0, longest - part.shape[1]), value=torch.nan)
                for part in parts
            ]
        joined[key] = torch.cat(parts)
    return joined


class _Recorder:
    """Records the first episode of each environment of a round.

    Positions after a step are read from ``final_obs``, because ``obs`` already belongs to the next
    episode where one ended.

    Args:
        env: The round's environments, after their reset.
        start: First observations {key: (N, O, d)}.
        position_key: Observation key of the end effector's position [m].
        first: Number of the round's first episode.
    """

    def __init__(self, env: VectorEnv, start: Obs, position_key: str, first: int) -> None:
        n = env.spec.num_envs
        self.env = env
        self.position_key = position_key
        self.first = first
        self.env_steps = 0

        self.start = {key: start[key][:, -1].cpu().clone() for key in env.spec.obs_dims}
        self.positions: list[Tensor] = [self.start[position_key]]
        self.targets: list[Tensor] = []
        self.ended = torch.zeros(n, dtype=torch.bool)
        self.success = torch.zeros(n, dtype=torch.bool)
        self.length = torch.zeros(n, dtype=torch.long)

        self.recorded = max(0, min(n, VIDEO_EPISODES - first))
        self.bodies: list[str] = sorted(env.scene())
        self.poses = self._poses()
        self.frames: list[tuple[int, int, Tensor]] = []
        self._record_frames(torch.ones(self.recorded, dtype=torch.bool), 0)

    def step(self, result: StepResult, action: Tensor) -> None:
        """Record one environment step; the ``on_step`` of :meth:`ChunkEnv.step`."""
        self.positions.append(result.final_obs[self.position_key].cpu())
        target = action[:, :3] if result.target is None else result.target
        self.targets.append(target.detach().cpu().clone())

        alive = ~self.ended
        done = (result.terminated | result.truncated).cpu() & alive
        self.length += alive
        self.success |= result.success.cpu() & done
        self.ended |= done

        if self.bodies and bool(alive[: self.recorded].any()):
            number = len(self.targets)
            # The scene has moved on to the next episode where one ended: its last frame is the one
            # before.
            self._record_frames(done[: self.recorded], number - 1)
            self.poses = self._poses()
            if number % VIDEO_EVERY == 0:
                self._record_frames((alive & ~done)[: self.recorded], number)

    def paths(self) -> list[np.ndarray]:
        """Return the executed positions (steps + 1, 3) of each episode [m]."""
        positions = torch.stack(self.positions, 1).numpy()
        return [positions[n, : steps + 1] for n, steps in enumerate(self.length.tolist())]

    def commands(self) -> list[np.ndarray]:
        """Return the commanded positions (steps, 3) of each episode [m]."""
        targets = torch.stack(self.targets, 1).numpy()
        return [targets[n, :steps] for n, steps in enumerate(self.length.tolist())]

    def tracks(self) -> dict[str, Tensor]:
        """Return tensors as :mod:`zprl.evaluation.result` lists them."""
        steps = torch.arange(len(self.positions))
        lengths = self.length[: self.recorded, None]
        position = torch.stack(self.positions, 1)[: self.recorded]
        target = torch.stack(self.targets, 1)[: self.recorded]
        return {
            **{f"start/{key}": value for key, value in self.start.items()},
            "position": position.masked_fill((steps > lengths)[..., None], torch.nan),
            "target": target.masked_fill((steps[:-1] >= lengths)[..., None], torch.nan),
            **(self._video() if self.bodies else {}),
        }

    def _video(self) -> dict[str, Tensor]:
        # The frame before an end may fall on a regular one.
        frames = {(episode, step): poses for episode, step, poses in self.frames}
        ordered = sorted(frames)
        poses = torch.empty(0, len(self.bodies), 7)
        if ordered:
            poses = torch.stack([frames[key] for key in ordered])
        return {
            "video/episode": torch.tensor([self.first + n for n, _ in ordered], dtype=torch.long),
            "video/step": torch.tensor([step for _, step in ordered], dtype=torch.long),
            "video/poses": poses,
        }

    def _poses(self) -> Tensor:
        """Return the present poses (recorded, bodies, 7)."""
        if not self.bodies:
            return torch.empty(0)
        scene = self.env.scene()
        return torch.stack([scene[name][: self.recorded].cpu() for name in self.bodies], 1)

    def _record_frames(self, which: Tensor, step: int) -> None:
        if self.bodies:
            self.frames += [
                (n, step, self.poses[n].clone()) for n in which.nonzero().flatten().tolist()
            ]
