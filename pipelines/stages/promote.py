"""Stages ``promote`` and ``promote_real``: judge a policy for the registry's championship.

It becomes the champion if it earned that.

``python -m pipelines.stages.promote`` judges what left simulation, ``python -m
pipelines.stages.promote real`` what left a session with the robot; the two have a model of their
own in the registry, because they are judged in different worlds.

A refusal is a result, not a failure: the stage writes its reasons to ``artifacts/promotion.json``
and exits 0, so that the report is still made.  ``zprl promote --check`` and ``--strict`` turn a
refusal into exit code 6.

The decision is a function of the artifacts, of ``params.yaml`` and of the registry's champion.
With an empty registry the incumbent is the base policy.  Where the candidate is the champion
already, it is judged again by what it was judged by then; so running the stage again writes the
same bytes.  It holds no version number, no run id and no date.
"""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from pipelines.stages.stage import (
    BASE,
    EVALUATION,
    PROMOTION,
    PROMOTION_REAL,
    SESSION,
    STEERING,
    Stage,
    main,
)
from zprl import durable, provenance
from zprl.config import Promote
from zprl.errors import EnvironmentProblem, ZprlError
from zprl.registry.card import model_card
from zprl.registry.gate import Decision, Facts, decide
from zprl.tracking import SWITCH_VARIABLE, mlflow_tracker


@dataclass(frozen=True)
class Contest:
    """A candidate and its incumbent, with the candidate's parts.

    Attributes:
        candidate: Name of its evaluation.
        incumbent: Name of the evaluation of the policy it replaces, where the registry has no
            champion.
        folders: The bundles that make the candidate, by name.
        section: Section of ``params.yaml`` with the rules.
        output: Where the decision is written.
    """

    candidate: str
    incumbent: str
    folders: dict[str, Path]
    section: str
    output: Path

    @property
    def inputs(self) -> tuple[Path, ...]:
        """Everything the decision is made from."""
        return (*self.folders.values(), EVALUATION / self.incumbent, EVALUATION / self.candidate)


SIMULATION = Contest(
    "finetune_sim",
    "base",
    {"base": BASE, "steering": STEERING / "finetune_sim"},
    "promote",
    PROMOTION,
)
REAL = Contest(
    "real_evaluate_after",
    "real_evaluate_before",
    {"base": SESSION / "start" / "base", "steering": STEERING / "real"},
    "promote_real",
    PROMOTION_REAL,
)


def policy_digest(*folders: Path) -> str:
    """Return one digest of all bundles that make a policy."""
    digests = "".join(durable.digest(folder) for folder in folders)
    return hashlib.sha256(digests.encode()).hexdigest()


def read_facts(policy: str, *folders: Path) -> Facts:
    """Read the facts from the policy's evaluation."""
    return Facts.read(
        durable.read_json(EVALUATION / policy / "evaluation.json"),
        name=policy,
        digest=policy_digest(*folders),
    )


def promote(stage: Stage, contest: Contest = SIMULATION) -> None:
    """Judge, write the decision, and publish an accepted candidate."""
    rules: Promote = getattr(stage.params, contest.section)
    candidate = read_facts(contest.candidate, *contest.folders.values())
    incumbent = read_facts(contest.incumbent, contest.folders["base"])
    if os.environ.get(SWITCH_VARIABLE, "").lower() in {"off", "0", "false"}:
        decision = _write(stage, contest, rules, candidate, incumbent)
        stage.log.info("tracking is off: judged against the base policy, nothing published")
        return

    try:
        client = mlflow_tracker.connect()
        from zprl.registry import publish

        current = publish.champion(client, rules.model_name)
        if current is not None:
            same = current.facts.digest == candidate.digest
            incumbent = current.incumbent if same else replace(current.facts, name=publish.CHAMPION)

        decision = _write(stage, contest, rules, candidate, incumbent)
        if not decision.accept:
            return
        version = _publish(stage, contest, rules, candidate, incumbent, decision)
    except ZprlError:
        raise
    except Exception as error:  # MLflow, its database and its artifact store raise anything
        first = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise EnvironmentProblem(
            f"the model registry cannot be used: {first}", remedy="`zprl doctor`, then run again"
        ) from error

    stage.tracker.tag(**{"zprl.champion_version": version})
    stage.log.info(f"champion of '{rules.model_name}': version {version}")


def _write(
    stage: Stage, contest: Contest, rules: Promote, candidate: Facts, incumbent: Facts
) -> Decision:
    decision = decide(candidate, incumbent, rules)
    value = {
        "accept": decision.accept,
        "reasons": list(decision.reasons),
        "candidate": candidate.as_dict(),
        "incumbent": incumbent.as_dict(),
        "rules": rules.model_dump(mode="json"),
    }
    durable.write_json(contest.output, value)
    stage.tracker.log_file(contest.output)
    stage.tracker.tag(**{"zprl.promotion": "accepted" if decision.accept else "refused"})
    for reason in decision.reasons:
        stage.log.info(f"{'accepted' if decision.accept else 'refused'}: {reason}")
    return decision


def _publish(
    stage: Stage,
    contest: Contest,
    rules: Promote,
    candidate: Facts,
    incumbent: Facts,
    decision: Decision,
) -> str:
    from zprl.registry import publish

    run_id = stage.tracker.run_id
    if run_id is None:
        raise EnvironmentProblem(
            "no tracking run to attach the policy to",
            remedy="`zprl doctor` says what is wrong with MLflow",
        )

    client = mlflow_tracker.connect()
    inputs = {path.as_posix(): durable.digest(path) for path in contest.inputs}
    commit = provenance.git_commit() or "unknown"
    card = model_card(
        rules.model_name,
        candidate=candidate,
        incumbent=incumbent,
        decision=decision,
        provenance={"git commit": commit, **provenance.versions()},
        inputs=inputs,
    )
    return publish.publish(
        client,
        rules.model_name,
        run_id=run_id,
        candidate=candidate,
        incumbent=incumbent,
        folders=contest.folders,
        card=card,
        tags={
            "zprl.git_commit": commit,
            **{f"zprl.input.{path}": digest for path, digest in inputs.items()},
        },
    )


if __name__ == "__main__":
    chosen = REAL if sys.argv[1:] == ["real"] else SIMULATION
    main(
        chosen.section,
        lambda stage: promote(stage, chosen),
        sections=(chosen.section,),
        inputs=chosen.inputs,
    )
