"""The gate: a pure function of measurements, without files, servers or clocks.

A candidate is promoted only when it is better beyond its interval: the lower end of its 95 % Wilson
interval lies above the incumbent's success rate (ours).  More successes can therefore never turn an
acceptance into a refusal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from zprl.config import Promote
from zprl.errors import DataError

NUMBERS = ("success_rate", "ci_low", "ci_high", "jerk_rms")


@dataclass(frozen=True)
class Facts:
    """Measurements of one policy by one evaluation.

    Attributes:
        name: ``finetune_sim``, ``base`` or, for the registry's, ``champion``.
        digest: SHA-256 of the bundles that make the policy.
        task: Registered task it was judged in.
        seed: Seed of the evaluation episodes.
        episodes: How many there were.
        success_rate: Share of successes, in [0, 1]; NaN when missing.
        ci_low: Lower end of the 95 % Wilson interval.
        ci_high: Upper end.
        jerk_rms: Root mean square of the end-effector's jerk [m/s^3].
    """

    name: str
    digest: str
    task: str
    seed: int
    episodes: int
    success_rate: float
    ci_low: float
    ci_high: float
    jerk_rms: float

    @classmethod
    def read(cls, value: Mapping[str, Any], *, name: str, digest: str) -> Facts:
        """Read the facts from the value of an ``evaluation.json``.

        Missing numbers become NaN, which the gate refuses.

        Raises:
            DataError: a value that should be a number is not one.
        """
        try:
            numbers = {
                key: float("nan") if value.get(key) is None else float(value[key])
                for key in NUMBERS
            }
            return cls(
                name,
                digest,
                str(value.get("task", "")),
                int(value.get("seed", -1)),
                int(value.get("episodes", 0)),
                **numbers,
            )
        except (TypeError, ValueError) as error:
            raise DataError(
                f"the evaluation of '{name}' is not usable: {error}",
                remedy="run the stage evaluate again",
            ) from error

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON value; NaN, which JSON lacks, becomes null."""
        return {
            key: None if isinstance(v, float) and not math.isfinite(v) else v
            for key, v in asdict(self).items()
        }


@dataclass(frozen=True)
class Decision:
    """The gate's answer with all its reasons, not only the first."""

    accept: bool
    reasons: tuple[str, ...]


def _unusable(facts: Facts) -> list[str]:
    """Return the reason why the facts cannot be judged, or nothing."""
    bad = [key for key in NUMBERS if not math.isfinite(getattr(facts, key))]
    if bad:
        return [f"{facts.name}: {', '.join(bad)} missing or not a number"]
    if not 0 <= facts.ci_low <= facts.success_rate <= facts.ci_high <= 1:
        return [
            f"{facts.name}: success {facts.success_rate} does not lie in its interval "
            f"[{facts.ci_low}, {facts.ci_high}]"
        ]
    return [f"{facts.name}: negative jerk"] if facts.jerk_rms < 0 else []


def _not_comparable(candidate: Facts, incumbent: Facts, rules: Promote) -> list[str]:
    """Return the reasons why the two evaluations cannot be compared."""
    against = []
    if candidate.task != incumbent.task or not candidate.task:
        against.append(
            f"different tasks: candidate '{candidate.task}', {incumbent.name} '{incumbent.task}'"
        )
    if candidate.seed != incumbent.seed:
        against.append(
            f"different evaluation seeds: candidate {candidate.seed}, "
            f"{incumbent.name} {incumbent.seed}"
        )
    against += [
        f"{facts.name}: {facts.episodes} episodes are fewer than {rules.min_episodes}"
        for facts in (candidate, incumbent)
        if facts.episodes < rules.min_episodes
    ]
    return against


def decide(candidate: Facts, incumbent: Facts, rules: Promote) -> Decision:
    """Judge a candidate against the incumbent.

    The incumbent is the registry's champion, or the base policy where there is none.

    >>> base = Facts("base", "b", "t", 1, 200, 0.6, 0.53, 0.67, 1.0)
    >>> candidate = Facts("finetune_sim", "l", "t", 1, 200, 0.97, 0.93, 0.99, 1.1)
    >>> decide(candidate, base, Promote()).accept
    True
    """
    against = [reason for facts in (candidate, incumbent) for reason in _unusable(facts)]
    against += _not_comparable(candidate, incumbent, rules)

    # Negated comparisons, so that NaN refuses.
    comparison = (
        f"candidate {candidate.success_rate:.3f} [{candidate.ci_low:.3f}, {candidate.ci_high:.3f}]"
        f", {incumbent.name} {incumbent.success_rate:.3f}"
    )
    if not candidate.ci_low > incumbent.success_rate:
        against.append(f"not better beyond its interval: {comparison}")
    if not candidate.jerk_rms <= rules.max_jerk_ratio * incumbent.jerk_rms:
        limit = f"{rules.max_jerk_ratio} x {incumbent.jerk_rms:.3g} of {incumbent.name}"
        against.append(f"not smooth enough: jerk {candidate.jerk_rms:.3g} m/s^3, limit {limit}")

    if against:
        return Decision(accept=False, reasons=tuple(against))
    return Decision(accept=True, reasons=(f"better beyond its interval: {comparison}",))
