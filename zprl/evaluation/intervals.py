"""Statistics of success rates: their intervals, and the comparison of two policies.

The two policies of a comparison play the same episodes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist


def wilson(successes: int, episodes: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval of a success rate.

    Wilson 1927; Brown, Cai and DasGupta (2001) recommend it.  With p = successes / n and the
    normal quantile z: centre (p + z^2 / 2n) / (1 + z^2 / n), half width
    z / (1 + z^2 / n) * sqrt(p (1 - p) / n + z^2 / 4n^2).  Unlike p +- z * sqrt(p (1 - p) / n) it
    stays within [0, 1] and has a width even where every episode succeeded.

    SciPy's ``binomtest`` gives the same numbers and is not used: the operator's console, which
    serves the e-stop, needs an interval per labelled episode at every refresh (figures in
    ``docs/design/dependencies.md``).

    >>> [round(bound, 4) for bound in wilson(8, 10)]
    [0.4902, 0.9433]
    """
    if episodes < 1 or not 0 <= successes <= episodes:
        raise ValueError(f"{successes} successes of {episodes} episodes")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence} is not between 0 and 1")

    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = successes / episodes
    shrink = 1 + z * z / episodes
    centre = (p + z * z / (2 * episodes)) / shrink
    half = z / shrink * math.sqrt(p * (1 - p) / episodes + (z / (2 * episodes)) ** 2)

    # The ends are exact at 0 and n; rounding must not put the rate itself outside of its interval.
    low = 0.0 if successes == 0 else min(p, centre - half)
    high = 1.0 if successes == episodes else max(p, centre + half)
    return low, high


@dataclass(frozen=True)
class Paired:
    """Two policies on the same episodes.

    Attributes:
        both: Episodes in which both succeeded.
        only_first: Episodes in which only the first did.
        only_second: Episodes in which only the second did.
        neither: Episodes in which neither did.
        p_value: Two-sided exact McNemar test of "both succeed equally often".
    """

    both: int
    only_first: int
    only_second: int
    neither: int
    p_value: float

    @property
    def difference(self) -> float:
        """Success rate of the second minus that of the first."""
        episodes = self.both + self.only_first + self.only_second + self.neither
        return (self.only_second - self.only_first) / episodes


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> Paired:
    """Compare two policies episode by episode (McNemar 1947, the exact binomial form).

    Only episodes in which the two differ count; under the null hypothesis each goes either way with
    probability 1/2, so p is a two-sided binomial test on them.  Without such an episode p is 1.

    Raises:
        ValueError: no episodes, or lists of different length.
    """
    from scipy.stats import binomtest

    if len(first) != len(second) or not first:
        raise ValueError(f"{len(first)} and {len(second)} episodes cannot be paired")

    pairs = [(bool(a), bool(b)) for a, b in zip(first, second, strict=True)]
    only_first = pairs.count((True, False))
    only_second = pairs.count((False, True))
    differ = only_first + only_second
    return Paired(
        both=pairs.count((True, True)),
        only_first=only_first,
        only_second=only_second,
        neither=pairs.count((False, False)),
        p_value=float(binomtest(only_first, differ, 0.5).pvalue) if differ else 1.0,
    )
