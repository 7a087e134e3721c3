"""Episodes that stand out by their length, path or jerk: worth a look, no defect by itself.

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
from scipy.stats import median_abs_deviation

from zprl.data.episode import Episode

LIMIT = 3.5
ENOUGH = 8
"""Least number of episodes of which a median is used (ours)."""
NORMAL_MAD = 0.6745
"""Median absolute deviation of the standard normal distribution, as rounded by the authors."""
MEAN_AD_SCALE = 1.253314
"""Standard deviation over mean absolute deviation, of a normal distribution."""
JERK_FRAMES = 3
"""Frames that a third difference spans, less one."""

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
        numbers = f"{self.value:.4g} {unit}, median {self.median:.4g} {unit}"
        return f"{self.episode}: {self.what} {numbers} (score {self.score:+.1f})"

    def as_json(self) -> dict[str, Any]:
        """Return a JSON object of all fields."""
        return asdict(self)


def motion(episode: Episode) -> dict[str, float]:
    """Return an episode's length, and path and jerk of its end effector where it has one.

    Of several arms it is the sum of the paths and the mean of the jerks; units are :data:`UNITS`.
    """
    numbers = {"length": float(episode.length)}
    tracks = [
        value.astype(np.float64)
        for key, value in episode.obs.items()
        if key.endswith("eef_pos") and value.shape[1:] == (3,)
    ]
    if not tracks:
        return numbers

    numbers["path"] = float(
        sum(np.linalg.norm(np.diff(track, axis=0), axis=1).sum() for track in tracks)
    )
    if episode.length > JERK_FRAMES:
        third_differences = [
            np.linalg.norm(np.diff(track, n=3, axis=0), axis=1).mean() for track in tracks
        ]
        jerk = float(np.mean(third_differences)) * (episode.rate_hz or 1.0) ** 3
        numbers["jerk" if episode.rate_hz else "jerk per frame"] = jerk
    return numbers


def scores(values: Sequence[float]) -> np.ndarray:
    """Return the modified z-score of each value; all 0 where they do not differ.

    >>> scores([1, 2, 3, 4, 100]).round(2).tolist()
    [-1.35, -0.67, 0.0, 0.67, 65.43]
    """
    away = np.asarray(values, np.float64) - np.median(values)
    spread = median_abs_deviation(values) / NORMAL_MAD
    if spread == 0:
        spread = MEAN_AD_SCALE * np.abs(away).mean()
    return away / spread if spread > 0 else np.zeros_like(away)


def find_outliers(motions: Mapping[str, Mapping[str, float]]) -> list[Outlier]:
    """Return what stands out, the farthest first.

    Args:
        motions: An episode's name to its numbers of :func:`motion`.
    """
    outliers = []
    for what in UNITS:
        names = [name for name, numbers in motions.items() if what in numbers]
        if len(names) < ENOUGH:
            continue

        values = [motions[name][what] for name in names]
        median = float(np.median(values))
        for name, value, score in zip(names, values, scores(values), strict=True):
            if abs(score) > LIMIT:
                outliers.append(Outlier(name, what, value, median, float(score)))
    return sorted(outliers, key=lambda outlier: -abs(outlier.score))
