"""The model card: what a policy is, how good it is, where it comes from.  Markdown, from facts only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zprl.registry.gate import Decision, Facts


def _row(facts: Facts) -> str:
    interval = f"{facts.ci_low:.3f} to {facts.ci_high:.3f}"
    return f"| {facts.name} | {facts.success_rate:.3f} | {interval} | {facts.episodes} | {facts.jerk_rms:.4g} | `{facts.digest[:12]}` |"


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
        incumbent: What it was judged against.
        decision: What the gate said.
        provenance: Commit and versions.
        inputs: SHA-256 by path of what the policy was made and judged from.
    """
    lines = [
        f"# {name}",
        "",
        f"A frozen flow-matching policy, steered by a small learnt residual of its bottleneck latent (ZPRL). Task: `{candidate.task}`.",
        "",
        "## How good it is",
        "",
        f"Evaluation seed {candidate.seed}; 95 % Wilson intervals; jerk of the end effector in m/s^3.",
        "",
        "| policy | success | interval | episodes | jerk (RMS) | digest |",
        "|---|---|---|---|---|---|",
        _row(candidate),
        _row(incumbent),
        "",
        f"Gate: **{'accepted' if decision.accept else 'refused'}**",
        "",
        *[f"- {reason}" for reason in decision.reasons],
        "",
        "## Where it comes from",
        "",
        *[f"- `{path}`: `{digest}`" for path, digest in sorted(inputs.items())],
        *[f"- {key}: `{value}`" for key, value in sorted(provenance.items())],
        "",
        "## Limits",
        "",
        "Judged in simulation, in this one task and its distribution of start states; nothing is promised beyond, nor on a real robot.",
        "The folders `base` and `steering` hold safetensors and JSON: opening them runs no code.",
        "",
    ]
    return "\n".join(lines)
