"""Numbers of the page, compared and made readable."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zprl import durable
from zprl.errors import DataError
from zprl.evaluation.intervals import Paired, mcnemar
from zprl.evaluation.result import Evaluation
from zprl.report.inputs import CANDIDATE, POLICIES, REFERENCE

SIGNIFICANT = 0.05
"""Differences with a smaller p are coloured."""
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
LONGEST_LIST = 6
"""Longer lists are statistics, not provenance; the bundle has them."""


def compare(first: Evaluation, second: Evaluation) -> Paired:
    """Pair two evaluations episode by episode.

    Raises:
        DataError: they are not about the same episodes.
    """
    if (first.task, first.seed, first.episodes) != (second.task, second.seed, second.episodes):
        raise DataError(
            f"'{first.policy}' and '{second.policy}' were not judged by the same episodes, "
            "so they cannot be compared in pairs",
            remedy="run evaluate_base and evaluate again",
        )
    return mcnemar(first.success, second.success)


def policy_row(name: str, evaluation: Evaluation, pair: Paired | None) -> dict[str, Any]:
    """Return a line of the table of policies: texts, and the interval in percent for its bar."""
    numbers = evaluation.summary()
    label, meaning = POLICIES[name]
    return {
        "name": name,
        "label": label,
        "meaning": meaning,
        "rate": percent(numbers["success_rate"]),
        "interval": interval(numbers["ci_low"], numbers["ci_high"]),
        "bar": {
            key: round(100 * numbers[source], 2)
            for key, source in (("at", "success_rate"), ("low", "ci_low"), ("high", "ci_high"))
        },
        "count": f"{sum(evaluation.success)} of {evaluation.episodes}",
        "length": number(numbers["episode_length"], 0),
        "seconds": number(numbers["episode_length"] / evaluation.control_hz, 1),
        "jerk": number(numbers["jerk_rms"], 0),
        "variation": number(numbers["total_variation"], 2, scale=1000),
        "jump": number(numbers["chunk_jump"], 2, scale=1000),
        **_comparison(pair),
    }


def _comparison(pair: Paired | None) -> dict[str, str | None]:
    """Return the cells of the comparison with the base policy."""
    if pair is None:
        return {"difference": None, "p_value": None, "tone": "", "discordant": None}
    tone = ""
    if pair.p_value < SIGNIFICANT:
        tone = "better" if pair.difference > 0 else "worse"
    return {
        "difference": f"{100 * pair.difference:+.1f}".replace("-", "\N{MINUS SIGN}"),
        "p_value": p_text(pair.p_value),
        "tone": tone,
        "discordant": f"{pair.only_second} won, {pair.only_first} lost",
    }


def transfer(document: Mapping[str, Any]) -> str | None:
    """Return a sentence about the steered policy's loss on the other physics engine.

    ``None`` where the world has but one.
    """
    if not document["engines"]:
        return None

    home, other = document["engines"]
    rates = {
        name: f"{percent(each['success_rate'])} ({interval(each['ci_low'], each['ci_high'])})"
        for name in (home, other)
        for each in [document[name]]
    }
    return (
        f"On the physics it was trained on ({home}) the steered policy succeeds in {rates[home]}, "
        f"on {other} in {rates[other]}: from the same {document['episodes']} starts it loses "
        f"{100 * document['drop']:.1f} points (exact McNemar test: {p_text(document['p_value'])})."
    )


def headline(evaluations: Mapping[str, Evaluation]) -> dict[str, Any]:
    """Return base success, steered success, and one sentence about the difference.

    Raises:
        DataError: one of the two is missing, or they do not belong together.
    """
    missing = [name for name in (REFERENCE, CANDIDATE) if name not in evaluations]
    if missing:
        raise DataError(
            f"there is no evaluation of {' and '.join(missing)}",
            remedy="run evaluate_base and evaluate (dvc repro)",
        )

    base, steered = evaluations[REFERENCE], evaluations[CANDIDATE]
    pair = compare(base, steered)
    sides = [
        {
            "name": name,
            "label": POLICIES[name][0],
            "rate": percent(numbers["success_rate"]),
            "interval": interval(numbers["ci_low"], numbers["ci_high"]),
        }
        for name, numbers in ((REFERENCE, base.summary()), (CANDIDATE, steered.summary()))
    ]
    sentence = (
        f"On the same {base.episodes} episodes the steered policy succeeds in "
        f"{count(pair.only_second)} where the base fails, and fails in "
        f"{count(pair.only_first)} where the base succeeds"
    )
    return {
        "sides": sides,
        "sentence": f"{sentence} (exact McNemar test: {p_text(pair.p_value)}).",
        "task": base.task,
        "seed": base.seed,
        "control_hz": f"{base.control_hz:g}",
    }


def provenance(path: Path) -> dict[str, Any]:
    """Return a bundle's digest and the facts it carries, as texts.

    Raises:
        DataError: the bundle or its document is missing or broken.
    """
    document = durable.read_json(path / "bundle.json")
    if not isinstance(document, dict) or not isinstance(document.get("provenance"), dict):
        raise DataError(
            f"{path / 'bundle.json'} carries no provenance",
            remedy="make the bundle again (dvc repro)",
        )
    facts = {key: document[key] for key in ("space", "base_digest") if key in document}
    return {"digest": durable.digest(path), "facts": flat({**facts, **document["provenance"]})}


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested facts as ``a.b`` to text, in their order; long lists are left to the file.

    >>> flat({"seed": 1, "versions": {"torch": "2.11"}, "stds": [0.1] * 64})
    {'seed': '1', 'versions.torch': '2.11'}
    """
    texts: dict[str, str] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            texts |= flat(item, f"{prefix}{key}.")
        elif not (isinstance(item, list) and len(item) > LONGEST_LIST):
            texts[f"{prefix}{key}"] = f"{item:.6g}" if isinstance(item, float) else str(item)
    return texts


def percent(value: float | None) -> str:
    """Return a share as percent, one decimal."""
    return "\N{EN DASH}" if value is None else f"{100 * value:.1f}\N{NARROW NO-BREAK SPACE}%"


def interval(low: float, high: float) -> str:
    """Return a 95 % interval in percent."""
    return f"{100 * low:.1f} to {100 * high:.1f}\N{NARROW NO-BREAK SPACE}%"


def number(value: float | None, digits: int, *, scale: float = 1.0) -> str:
    """Return a number with so many decimals, or a dash."""
    if value is None or not math.isfinite(value):
        return "\N{EN DASH}"
    return f"{scale * value:.{digits}f}"


def count(value: int) -> str:
    """Return a number of episodes, in words where it is none."""
    return "none" if value == 0 else str(value)


def p_text(p: float) -> str:
    """Return a p value in its usual notation.

    >>> p_text(0.034), p_text(2.4e-9)
    ('p = 0.034', 'p = 2 × 10⁻⁹')
    """
    if p >= 0.001 or p <= 0:
        return f"p = {p:.3f}"
    digit, exponent = f"{p:.0e}".split("e")
    return f"p = {digit} \N{MULTIPLICATION SIGN} 10{str(int(exponent)).translate(SUPERSCRIPTS)}"
