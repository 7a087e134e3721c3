"""Result of an evaluation, in memory and on disk.

Equal evaluations have equal bytes: no clock, no host, no path.
``artifacts/evaluation/<policy>/`` holds ``evaluation.json`` (summary and per-episode lists) and
``tracks.safetensors``:

=============  ==================================================================================
tensor         content
=============  ==================================================================================
start/<key>    (N, d) first observations, all episodes
position       (K, S + 1, 3) executed end-effector positions [m] of the recorded episodes, NaN
               after the end
target         (K, S, 3) commanded positions [m] of the recorded episodes, NaN after the end
video/episode  (M,) episode of each video frame
video/step     (M,) environment step of each video frame
video/poses    (M, bodies, 7) position [m] and quaternion xyzw; the bodies' names stand in the
               summary
=============  ==================================================================================
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zprl import durable
from zprl.errors import DataError
from zprl.evaluation import metrics
from zprl.evaluation.intervals import wilson

if TYPE_CHECKING:
    from torch import Tensor

SUMMARY, TRACKS = "evaluation.json", "tracks.safetensors"
DIGITS = 9
PER_EPISODE = ("success", "length", "jerk_rms", "total_variation", "chunk_jump")
PLAIN = ("policy", "task", "seed", "control_hz", "chunk_steps", "env_steps", "video_strips")
"""Fields that are written as they are."""


@dataclass(frozen=True)
class Evaluation:
    """One policy, N episodes.

    Attributes:
        policy: Its name: ``embedding``, ``base``, ``latent``, ``action_residual``.
        task: Registered task.
        seed: Seed of start states and flow noise.
        control_hz: Environment steps per second.
        chunk_steps: Steps per decision.
        env_steps: Environment steps simulated, those after an episode's end included.
        success: Per episode.
        length: Environment steps, per episode.
        jerk_rms: [m/s^3] per episode.
        total_variation: [m per step] per episode.
        chunk_jump: [m] per episode.
        video_strips: Number of episodes that a report is to show.
        bodies: Names of the bodies whose poses are recorded.
        tracks: See the module.
    """

    policy: str
    task: str
    seed: int
    control_hz: float
    chunk_steps: int
    env_steps: int
    success: tuple[bool, ...]
    length: tuple[int, ...]
    jerk_rms: tuple[float, ...]
    total_variation: tuple[float, ...]
    chunk_jump: tuple[float, ...]
    video_strips: int = 0
    bodies: tuple[str, ...] = ()
    tracks: dict[str, Tensor] = field(default_factory=dict)

    @property
    def episodes(self) -> int:
        """Number of episodes N."""
        return len(self.success)

    def summary(self) -> dict[str, Any]:
        """Return the numbers of all episodes together.

        They are the success with its 95 % Wilson interval, and means of the others.
        """
        low, high = wilson(sum(self.success), self.episodes)
        numbers = {
            "success_rate": sum(self.success) / self.episodes,
            "ci_low": low,
            "ci_high": high,
            "episode_length": sum(self.length) / self.episodes,
            "jerk_rms": metrics.mean(self.jerk_rms),
            "total_variation": metrics.mean(self.total_variation),
            "chunk_jump": metrics.mean(self.chunk_jump),
        }
        rounded = {k: v if v is None else round(v, DIGITS) for k, v in numbers.items()}
        return {"episodes": self.episodes, **rounded}

    def save(self, path: Path | str) -> None:
        """Replace the folder ``path``."""
        document = {
            **{name: getattr(self, name) for name in PLAIN},
            "bodies": list(self.bodies),
            **self.summary(),
            # Unrounded: a verdict read back must give the very summary it gave when it was reached.
            "per_episode": {
                name: [_known(value) for value in getattr(self, name)] for name in PER_EPISODE
            },
        }

        def fill(folder: Path) -> None:
            durable.write_json(folder / SUMMARY, document)
            durable.write_tensors(folder / TRACKS, self.tracks)

        durable.write_dir(path, fill)

    @classmethod
    def read(cls, path: Path | str) -> Evaluation:
        """Read what :meth:`save` wrote.

        Raises:
            DataError: missing or not an evaluation.
        """
        path = Path(path)
        document = durable.read_json(path / SUMMARY)
        tracks = durable.read_tensors(path / TRACKS)
        try:
            lists: dict[str, Any] = {
                name: tuple(math.nan if v is None else v for v in document["per_episode"][name])
                for name in PER_EPISODE
            }
            plain = {name: document[name] for name in PLAIN}
            evaluation = cls(**plain, **lists, bodies=tuple(document["bodies"]), tracks=tracks)
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path / SUMMARY} is not an evaluation: {error!r}",
                remedy="run its stage again (dvc repro)",
            ) from error

        # A report and a comparison of policies rely on both.
        if "video/poses" in tracks and not {"video/episode", "video/step"} <= tracks.keys():
            raise DataError(
                f"{path / TRACKS} lacks the times of its video frames",
                remedy="run its stage again (dvc repro)",
            )
        lengths = {len(values) for values in lists.values()}
        if len(lengths) != 1 or 0 in lengths:
            raise DataError(
                f"{path / SUMMARY}: lists of different length or empty",
                remedy="run its stage again (dvc repro)",
            )
        return evaluation


def _known(value: float) -> float | None:
    """Return the value as JSON has it: NaN becomes null."""
    return value if math.isfinite(value) else None
