"""Recording demonstrations: an operator plays episodes in an environment, the kept ones become one robomimic file.

Each round is a fresh simulator in which every environment contributes exactly its first episode: taking whatever ends first
would fill the file with short, that is successful, episodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from zprl import seeding
from zprl.data.episode import Episode
from zprl.data.robomimic_writer import RobomimicWriter
from zprl.errors import ConfigError, DataError

if TYPE_CHECKING:
    import torch

    from zprl.envs.base import VectorEnv

MAX_ROUNDS = 50


class Operating(Protocol):
    """Whoever operates N environments for one episode each."""

    quality: list[str]

    def act(self, obs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return actions (N, A) for observations (N, d)."""
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
    make_env: Callable[[], VectorEnv],
    make_operator: Callable[[int], Operating],
    *,
    episodes: int,
    seed: int,
    keep_failures: float,
    env_args: Mapping[str, Any],
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Recording:
    """Play until ``episodes`` are kept and write them; the same arguments give the same bytes.

    Args:
        path: The file, ``*.hdf5``.
        make_env: Returns a fresh environment.
        make_operator: Returns an operator for one round, given the round's seed.
        episodes: Episodes wanted in the file.
        seed: Seed of start states, operators and the choice of failures.
        keep_failures: Share of failed episodes that is kept; all successes are.
        env_args: Robomimic's description of the environment and of how the demonstrations came about.
        overwrite: Replace an existing file.
        progress: Called with the number of episodes kept so far.

    Raises:
        ConfigError: a number is out of range.
        DataError: the operator yields almost nothing that is worth keeping.
    """
    if episodes < 1 or not 0 <= keep_failures <= 1:
        raise ConfigError(f"episodes ({episodes}) must be positive and keep_failures ({keep_failures}) within 0 to 1")
    seen = Recording()
    with RobomimicWriter(path, env_args, overwrite=overwrite) as writer:
        for number in range(MAX_ROUNDS):
            with make_env() as env:
                played = _play(
                    env, make_operator(seeding.derive(seed, "record-operator", number)), seeding.derive(seed, "record-env", number)
                )
            chance = seeding.numpy_generator(seed, "record-keep", number).random(len(played))
            for episode, luck in zip(played, chance, strict=True):
                _count(seen.tried, episode.quality)
                if episode.success:
                    _count(seen.succeeded, episode.quality)
                if seen.episodes < episodes and (episode.success or luck < keep_failures):
                    writer.write(episode)
                    _count(seen.kept, episode.quality)
                    seen.episodes += 1
                    seen.frames += episode.length
            if progress is not None:
                progress(seen.episodes)
            if seen.episodes == episodes:
                return seen
        raise DataError(
            f"only {seen.episodes} of {episodes} episodes were worth keeping after {MAX_ROUNDS} rounds",
            remedy="give the operator more skill, or raise keep_failures",
        )


def _count(table: dict[str, int], key: str) -> None:
    table[key] = table.get(key, 0) + 1


def _play(env: VectorEnv, operator: Operating, seed: int) -> list[Episode]:
    """The first episode of every environment, in their order."""
    obs = env.reset(seed)
    n = env.spec.num_envs
    length = np.zeros(n, dtype=int)
    success = np.zeros(n, dtype=bool)
    frames: list[tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]] = []
    for step in range(1, env.spec.episode_steps + 1):
        action = operator.act(obs)
        result = env.step(action)
        frames.append(({k: v.cpu().numpy() for k, v in obs.items()}, action.cpu().numpy(), result.reward.cpu().numpy()))
        ended = (result.terminated | result.truncated).cpu().numpy() & (length == 0)
        length[ended] = step
        success |= ended & result.success.cpu().numpy()
        obs = result.obs
        if length.all():
            break
    episodes = []
    for i in range(n):
        dones = np.zeros(length[i], dtype=bool)
        dones[-1] = True
        episodes.append(
            Episode(
                name=f"recorded/{i}",
                obs={key: np.stack([frame[0][key][i] for frame in frames[: length[i]]]) for key in frames[0][0]},
                actions=np.stack([frame[1][i] for frame in frames[: length[i]]]),
                rewards=np.array([frame[2][i] for frame in frames[: length[i]]], dtype=np.float32),
                dones=dones,
                success=bool(success[i]),
                quality=operator.quality[i],
            )
        )
    return episodes
