"""Recording demonstrations: an operator plays episodes in an environment, the kept ones become one robomimic file.

Each round is a fresh simulator in which every environment contributes exactly its first episode:
taking whatever ends first would fill the file with short, that is successful, episodes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from pydantic import Field

from zprl import plugins, seeding, terminal
from zprl.config import Task
from zprl.data.episode import Episode
from zprl.data.writers.robomimic import RobomimicWriter
from zprl.errors import ConfigError, DataError
from zprl.strict_model import StrictModel

if TYPE_CHECKING:
    import torch

MAX_ROUNDS = 50


class RecordSettings(StrictModel):
    """How a batch of demonstrations is recorded; written into its file."""

    task: Task = Task()
    num_envs: int = Field(64, ge=1, description="Episodes played side by side per round.")
    keep_failures: float = Field(
        0.4, ge=0, le=1, description="Share of failed episodes that is kept; all successes are."
    )
    operator: dict[str, Any] = Field(
        {}, description="Settings of the task's scripted operator; empty for its own defaults."
    )


class Operating(Protocol):
    """Whoever operates N environments for one episode each."""

    quality: list[str]

    def act(self, obs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return actions (N, A) for observations (N, d)."""
        ...


class OperatedEnv(Protocol):
    """What recording needs of ``zprl.envs.base.VectorEnv`` (a room above this one), plus the task's scripted operator.

    Where it has a method ``rest(mask)``, environments whose episode is over are left out of steps.
    """

    spec: Any

    def operator(self, seed: int, settings: Mapping[str, Any]) -> Operating:
        """Return an operator for one episode of every environment."""
        ...

    def reset(self, seed: int) -> dict[str, torch.Tensor]:
        """Start every episode."""
        ...

    def step(self, action: torch.Tensor) -> Any:
        """Execute actions (N, A)."""
        ...

    def __enter__(self) -> OperatedEnv:
        """Return itself."""
        ...

    def __exit__(self, *exc: object) -> None:
        """Close."""
        ...


@dataclass
class Recording:
    """What :func:`record` saw.

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
        progress: Called with the number of episodes kept so far; by default a bar, in terminals
            only.

    Raises:
        ConfigError: a number is out of range, or the task has no scripted operator.
        DataError: the operator yields almost nothing that is worth keeping, or the file exists.
    """
    if episodes < 1:
        raise ConfigError(f"episodes is {episodes}", remedy="ask for at least one")
    settings = settings or RecordSettings()
    seen = Recording()
    env_args = {
        "env_name": settings.task.name,
        "env_type": 1,
        "env_kwargs": {"episode_steps": settings.task.episode_steps},
        "recorder": {**settings.model_dump(), "episodes": episodes, "seed": seed},
    }
    with (
        RobomimicWriter(path, env_args, overwrite=overwrite) as writer,
        _bar(episodes, progress) as show,
    ):
        for number in range(MAX_ROUNDS):
            with (make_env or _registered(settings))() as env:
                if not hasattr(env, "operator"):
                    raise ConfigError(
                        f"task {settings.task.name} has no scripted operator",
                        remedy="record its demonstrations by hand",
                    )
                operator = env.operator(
                    seeding.derive(seed, "record-operator", number), settings.operator
                )
                played = _play(env, operator, seeding.derive(seed, "record-env", number))
            luck = seeding.numpy_generator(seed, "record-keep", number).random(len(played))
            for episode, chance in zip(played, luck, strict=True):
                _count(seen.tried, episode.quality)
                if episode.success:
                    _count(seen.succeeded, episode.quality)
                if seen.episodes < episodes and (
                    episode.success or chance < settings.keep_failures
                ):
                    writer.write(episode)
                    _count(seen.kept, episode.quality)
                    seen.episodes += 1
                    seen.frames += episode.length
            show(seen.episodes)
            if seen.episodes == episodes:
                return seen
        raise DataError(
            f"only {seen.episodes} of {episodes} episodes were worth keeping after {MAX_ROUNDS} rounds",
            remedy="give the operator more skill, or raise keep_failures",
        )


def _registered(settings: RecordSettings) -> Callable[[], OperatedEnv]:
    here = settings.task.model_copy(
        update={"workers": 0}
    )  # operators look into the worlds themselves
    return lambda: plugins.load("tasks", here.name)(here, num_envs=settings.num_envs, device="cpu")


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


def _count(table: dict[str, int], key: str) -> None:
    table[key] = table.get(key, 0) + 1


def _play(env: OperatedEnv, operator: Operating, seed: int) -> list[Episode]:
    """The first episode of every environment, in their order."""
    import torch

    obs = env.reset(seed)
    n = env.spec.num_envs
    length = np.zeros(n, dtype=int)
    success = np.zeros(n, dtype=bool)
    frames: list[tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]] = []
    for step in range(1, env.spec.episode_steps + 1):
        action = operator.act(obs)
        result = env.step(action)
        frames.append(
            (
                {k: v.cpu().numpy() for k, v in obs.items()},
                action.cpu().numpy(),
                result.reward.cpu().numpy(),
            )
        )
        ended = (result.terminated | result.truncated).cpu().numpy() & (length == 0)
        length[ended] = step
        success |= ended & result.success.cpu().numpy()
        obs = result.obs
        if length.all():
            break
        if ended.any() and hasattr(
            env, "rest"
        ):  # what comes after the first episode is not recorded
            env.rest(torch.from_numpy(length > 0))
    episodes = []
    for i in range(n):
        dones = np.zeros(length[i], dtype=bool)
        dones[-1] = True
        episodes.append(
            Episode(
                name=f"recorded/{i}",
                obs={
                    key: np.stack([frame[0][key][i] for frame in frames[: length[i]]])
                    for key in frames[0][0]
                },
                actions=np.stack([frame[1][i] for frame in frames[: length[i]]]),
                rewards=np.array([frame[2][i] for frame in frames[: length[i]]], dtype=np.float32),
                dones=dones,
                success=bool(success[i]),
                quality=operator.quality[i],
            )
        )
    return episodes
