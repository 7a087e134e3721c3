"""Demonstrations recorded from a scripted operator, as one robomimic file.

Each round is a fresh simulator in which every environment contributes exactly its first episode:
taking whatever ends first would fill the file with short, that is successful, episodes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from pydantic import Field

from zprl import plugins, seeding, terminal
from zprl.config import Task
from zprl.data.episode import Episode
from zprl.data.writers.robomimic import RobomimicWriter
from zprl.envs.base import Obs, VectorEnv
from zprl.errors import ConfigError, DataError
from zprl.strict_model import StrictModel

MAX_ROUNDS = 50


class RecordSettings(StrictModel):
    """Settings of one recording of demonstrations, written into its file."""

    task: Task = Task()
    num_envs: int = Field(64, ge=1, description="Episodes played side by side per round.")
    keep_failures: float = Field(
        0.4, ge=0, le=1, description="Share of failed episodes that is kept; all successes are."
    )
    operator: dict[str, Any] = Field(
        {}, description="Settings of the task's scripted operator; empty for its own defaults."
    )


class DemoOperator(Protocol):
    """An operator of N environments for one episode each.

    Attributes:
        quality: Grade of each environment's operator, N names.
    """

    quality: list[str]

    def act(self, obs: Obs) -> torch.Tensor:
        """Return actions (N, A) for observations (N, d)."""
        ...


class OperatedEnv(VectorEnv, Protocol):
    """An environment whose task has a scripted operator.

    Where it has a method ``rest(mask)``, environments whose episode is over are left out of steps.
    """

    def operator(self, seed: int, settings: Mapping[str, Any]) -> DemoOperator:
        """Return an operator for one episode of every environment."""
        ...


@dataclass
class Recording:
    """Counts of one call of :func:`record`.

    Attributes:
        episodes: Episodes in the file.
        frames: Frames in the file.
        tried: Quality to number of episodes played.
        succeeded: Quality to number of episodes that ended in success.
        kept: Quality to number of episodes in the file.
    """

    episodes: int = 0
    frames: int = 0
    tried: dict[str, int] = field(default_factory=dict)
    succeeded: dict[str, int] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)

    def count_tried(self, episode: Episode) -> None:
        """Count an episode that was played."""
        self.tried[episode.quality] = self.tried.get(episode.quality, 0) + 1
        if episode.success:
            self.succeeded[episode.quality] = self.succeeded.get(episode.quality, 0) + 1

    def count_kept(self, episode: Episode) -> None:
        """Count an episode that was written."""
        self.kept[episode.quality] = self.kept.get(episode.quality, 0) + 1
        self.episodes += 1
        self.frames += episode.length


def record(
    path: Path | str,
    *,
    episodes: int,
    seed: int,
    settings: RecordSettings | None = None,
    overwrite: bool = False,
    make_env: Callable[[], OperatedEnv] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Recording:
    """Play until ``episodes`` are kept and write them; the same arguments give the same bytes.

    Args:
        path: The file, ``*.hdf5``.
        episodes: Episodes wanted in the file.
        seed: Seed of start states, operators and the choice of failures.
        settings: Task, operator and what is kept; written into the file.
        overwrite: Replace an existing file.
        make_env: Returns a fresh environment; by default the registered task's.
        progress: Called with the number of episodes kept so far; by default a terminal's bar.

    Raises:
        ConfigError: a number is out of range, or the task has no scripted operator.
        DataError: the operator yields almost nothing that is worth keeping, or the file exists.
    """
    if episodes < 1:
        raise ConfigError(f"episodes is {episodes}", remedy="ask for at least one")

    settings = settings or RecordSettings()
    counts = Recording()
    with (
        RobomimicWriter(path, _env_args(settings, episodes, seed), overwrite=overwrite) as writer,
        _bar(episodes, progress) as show,
    ):
        for number in range(MAX_ROUNDS):
            for episode, worth in _round(make_env or _registered(settings), settings, seed, number):
                counts.count_tried(episode)
                if worth and counts.episodes < episodes:
                    writer.write(episode)
                    counts.count_kept(episode)

            show(counts.episodes)
            if counts.episodes == episodes:
                return counts

        raise DataError(
            f"only {counts.episodes} of {episodes} episodes were worth keeping after "
            f"{MAX_ROUNDS} rounds",
            remedy="give the operator more skill, or raise keep_failures",
        )


def _env_args(settings: RecordSettings, episodes: int, seed: int) -> dict[str, Any]:
    """Return robomimic's description of an environment, with the recorder's settings."""
    return {
        "env_name": settings.task.name,
        "env_type": 1,
        "env_kwargs": {"episode_steps": settings.task.episode_steps},
        "recorder": {**settings.model_dump(), "episodes": episodes, "seed": seed},
    }


def _registered(settings: RecordSettings) -> Callable[[], OperatedEnv]:
    # No worker processes: operators read the worlds themselves.
    here = settings.task.model_copy(update={"workers": 0})
    return lambda: plugins.load("tasks", here.name)(here, num_envs=settings.num_envs, device="cpu")


def _round(
    make_env: Callable[[], OperatedEnv], settings: RecordSettings, seed: int, number: int
) -> list[tuple[Episode, bool]]:
    """Play one round on a fresh simulator; return its episodes and which are worth keeping.

    Raises:
        ConfigError: the task has no scripted operator.
    """
    with make_env() as env:
        if not hasattr(env, "operator"):
            raise ConfigError(
                f"task {settings.task.name} has no scripted operator",
                remedy="record its demonstrations by hand",
            )
        operator_seed = seeding.derive(seed, "record-operator", number)
        operator = env.operator(operator_seed, settings.operator)
        played = _play(env, operator, seeding.derive(seed, "record-env", number))

    chances = seeding.numpy_generator(seed, "record-keep", number).random(len(played))
    return [
        (episode, episode.success or bool(chance < settings.keep_failures))
        for episode, chance in zip(played, chances, strict=True)
    ]


@contextlib.contextmanager
def _bar(total: int, progress: Callable[[int], None] | None) -> Iterator[Callable[[int], None]]:
    if progress is not None:
        yield progress
        return
    from rich.progress import Progress

    console = terminal.console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("recording", total=total)
        yield lambda done: bar.update(task, completed=done)


def _play(env: OperatedEnv, operator: DemoOperator, seed: int) -> list[Episode]:
    """Return the first episode of every environment, in their order."""
    obs = env.reset(seed)
    length = np.zeros(env.spec.num_envs, dtype=int)
    success = np.zeros(env.spec.num_envs, dtype=bool)
    frames: list[_Frame] = []

    for step in range(1, env.spec.episode_steps + 1):
        action = operator.act(obs)
        result = env.step(action)
        observed = {k: v.cpu().numpy() for k, v in obs.items()}
        frames.append(_Frame(observed, action.cpu().numpy(), result.reward.cpu().numpy()))

        ended = (result.terminated | result.truncated).cpu().numpy() & (length == 0)
        length[ended] = step
        success |= ended & result.success.cpu().numpy()
        obs = result.obs
        if length.all():
            break
        # Nothing after an environment's first episode is recorded.
        if ended.any() and hasattr(env, "rest"):
            env.rest(torch.from_numpy(length > 0))

    return [
        _episode(frames[: length[i]], i, success=bool(success[i]), quality=operator.quality[i])
        for i in range(env.spec.num_envs)
    ]


class _Frame(NamedTuple):
    """One step of all environments: observations (N, d), actions (N, A), rewards (N,)."""

    obs: dict[str, np.ndarray]
    action: np.ndarray
    reward: np.ndarray


def _episode(frames: list[_Frame], i: int, *, success: bool, quality: str) -> Episode:
    """Return the episode of environment ``i``, which ``frames`` are as long as."""
    dones = np.zeros(len(frames), dtype=bool)
    dones[-1] = True
    return Episode(
        name=f"recorded/{i}",
        obs={key: np.stack([frame.obs[key][i] for frame in frames]) for key in frames[0].obs},
        actions=np.stack([frame.action[i] for frame in frames]),
        rewards=np.array([frame.reward[i] for frame in frames], dtype=np.float32),
        dones=dones,
        success=success,
        quality=quality,
    )
