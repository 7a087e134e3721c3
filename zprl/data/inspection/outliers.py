"""Episodes that stand out among the others by their length, path or jerk: worth a look, and no defect by itself.

The rule is that of Iglewicz and Hoaglin, "How to Detect and Handle Outliers" (1993): the modified
z-score 0.6745 (x - median) / MAD, with MAD the median of the absolute deviations from the median,
is beyond 3.5.  Where more than half of the numbers are equal, MAD is 0, and the mean absolute
deviation takes its place: (x - median) / (1.2533 MeanAD).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from zprl.data.episode import Episode

LIMIT = 3.5
ENOUGH = 8
"""Episodes without which a median says too little (ours)."""

UNITS = {"length": "frames", "path": "m", "jerk": "m/s³", "jerk per frame": "m/frame³"}


@dataclass(frozen=True)
class Outlier:
    """One number of one episode that stands out.

    Attributes:
        episode: Its name.
        what: ``length`` (frames), ``path`` (of the end effector, m) or ``jerk`` (mean magnitude,
            m/s³; per frame³ where no rate is known).
        value: The episode's.
        median: That of all episodes.
        score: Modified z-score.
    """

    episode: str
    what: str
    value: float
    median: float
    score: float

    def __str__(self) -> str:
        unit = UNITS[self.what]
        return f"{self.episode}: {self.what} {self.value:.4g} {unit}, median {self.median:.4g} {unit} (score {self.score:+.1f})"

    def as_json(self) -> dict[str, Any]:
        """JSON object of all fields."""
        return asdict(self)


def motion(episode: Episode) -> dict[str, float]:
    """Length, and path and jerk of the end effector where the episode has one; of several arms the sum and the mean."""
    found = {"length": float(episode.length)}
    tracks = [
        value.astype(np.float64)
        for key, value in episode.obs.items()
        if key.endswith("eef_pos") and value.shape[1:] == (3,)
    ]
    if tracks:
        found["path"] = float(
            sum(np.linalg.norm(np.diff(track, axis=0), axis=1).sum() for track in tracks)
        )
    if tracks and episode.length > 3:
        third = float(
            np.mean(
                [np.linalg.norm(np.diff(track, n=3, axis=0), axis=1).mean() for track in tracks]
            )
        )
        found["jerk" if episode.rate_hz else "jerk per frame"] = (
            third * (episode.rate_hz or 1.0) ** 3
        )
    return found


def scores(values: Sequence[float]) -> np.ndarray:
    """Modified z-score of each value; all 0 where they do not differ.

    >>> scores([1, 2, 3, 4, 100]).round(2).tolist()
    [-1.35, -0.67, 0.0, 0.67, 65.43]
    """
    away = np.asarray(values, np.float64) - np.median(values)
    spread = np.median(np.abs(away)) / 0.6745
    if spread == 0:
        spread = 1.253314 * np.abs(away).mean()
    return away / spread if spread > 0 else np.zeros_like(away)


def find_outliers(motions: Mapping[str, Mapping[str, float]]) -> list[Outlier]:
    """What stands out, the farthest first; ``motions`` maps an episode's name to what :func:`motion` says."""
    found = []
    for what in UNITS:
        names = [name for name, values in motions.items() if what in values]
        if len(names) < ENOUGH:
            continue
        values = [motions[name][what] for name in names]
        median = float(np.median(values))
        for name, value, score in zip(names, values, scores(values), strict=True):
            if abs(score) > LIMIT:
                found.append(Outlier(name, what, value, median, float(score)))
    return sorted(found, key=lambda outlier: -abs(outlier.score))
