"""The model card: a policy's description, success and provenance, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zprl.registry.gate import Decision, Facts

DESCRIPTION = (
    "A frozen flow-matching policy, "
    "steered by a small learnt residual of its bottleneck latent (ZPRL)."
)
LIMITS = (
    "Judged in simulation, in this one task and its distribution of start states; "
    "nothing is promised beyond, nor on a real robot.",
    "The folders `base` and `steering` hold safetensors and JSON: opening them runs no code.",
)
COLUMNS = (
    "| policy | success | interval | episodes | jerk (RMS) | digest |",
    "|---|---|---|---|---|---|",
)


def _row(facts: Facts) -> str:
    interval = f"{facts.ci_low:.3f} to {facts.ci_high:.3f}"
    return (
        f"| {facts.name} | {facts.success_rate:.3f} | {interval} | {facts.episodes} "
        f"| {facts.jerk_rms:.4g} | `{facts.digest[:12]}` |"
    )


def model_card(
    name: str,
    *,
    candidate: Facts,
    incumbent: Facts,
    decision: Decision,
    provenance: Mapping[str, Any],
    inputs: Mapping[str, str],
) -> str:
    """Write the card of a registered policy.

    Args:
        name: Name in the registry.
        candidate: The policy's own evaluation.
        incumbent: Evaluation of the policy it was judged against.
        decision: The gate's answer.
        provenance: Commit and versions.
        inputs: SHA-256 by path of the files the policy was made and judged from.

    Returns:
        Markdown text.
    """
    lines = [
        f"# {name}",
        "",
        f"{DESCRIPTION} Task: `{candidate.task}`.",
        "",
        *_evaluation_lines(candidate, incumbent, decision),
        "",
        "## Where it comes from",
        "",
        *[f"- `{path}`: `{digest}`" for path, digest in sorted(inputs.items())],
        *[f"- {key}: `{value}`" for key, value in sorted(provenance.items())],
        "",
        "## Limits",
        "",
        *LIMITS,
        "",
    ]
    return "\n".join(lines)


def _evaluation_lines(candidate: Facts, incumbent: Facts, decision: Decision) -> list[str]:
    return [
        "## How good it is",
        "",
        f"Evaluation seed {candidate.seed}; 95 % Wilson intervals; "
        "jerk of the end effector in m/s^3.",
        "",
        *COLUMNS,
        _row(candidate),
        _row(incumbent),
        "",
        f"Gate: **{'accepted' if decision.accept else 'refused'}**",
        "",
        *[f"- {reason}" for reason in decision.reasons],
    ]
