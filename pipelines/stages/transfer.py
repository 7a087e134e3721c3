"""Stage ``transfer``: the steered policy on physics it was not trained on (sim-to-sim).

The starts are the same on both engines.  The loss between two engines that claim to simulate the
same world is the cheapest estimate of the loss on the way to the robot.  Only Isaac's worlds have
two engines, those that need no Kit; elsewhere the stage logs that and passes.
"""

from __future__ import annotations

from typing import Any

import torch

from pipelines.stages.evaluate_base import judge
from pipelines.stages.stage import BASE, METRICS, STEERING, TRANSFER, Stage, main
from zprl import durable
from zprl.config import Engine, Task
from zprl.evaluation.intervals import mcnemar
from zprl.rl.steering_bundle import load_steered

POLICY = "finetune_sim"
_OTHER: dict[Engine, Engine] = {"ovphysx": "newton", "newton": "ovphysx"}


def transfer(stage: Stage) -> None:
    """Judge on both engines and write ``metrics/transfer.json``.

    It holds both rates, the success lost on the other engine (``drop``, in [-1, 1]), and the
    p-value of McNemar's test of equal success.
    """
    params = stage.params
    torch.set_num_threads(params.run.threads)
    if (reason := _single_engine(params.task)) is not None:
        stage.log.info(f"{reason}: nothing to compare")
        _write({"policy": POLICY, "engines": []})
        return

    trained_on = params.task.physics
    other = _OTHER[trained_on]
    steered = load_steered(STEERING / POLICY, BASE, device=params.run.device)
    update = {"episodes": params.transfer.episodes, "video_episodes": 0}
    config = params.evaluate.model_copy(update=update)
    evaluations = {}
    for engine in (trained_on, other):
        task = params.task.model_copy(update={"physics": engine})
        evaluations[engine] = judge(
            stage, engine, steered.act, steered, config=config, task=task, within=TRANSFER
        )

    # Both engines play the same starts, so the test is a paired one.
    pair = mcnemar(evaluations[trained_on].success, evaluations[other].success)
    success_loss = -pair.difference
    rates: dict[str, Any] = {
        engine: {key: each.summary()[key] for key in ("success_rate", "ci_low", "ci_high")}
        for engine, each in evaluations.items()
    }
    _write(
        {
            "policy": POLICY,
            "engines": [trained_on, other],
            **rates,
            "episodes": config.episodes,
            "drop": success_loss,
            "p_value": pair.p_value,
        }
    )
    stage.tracker.log(0, drop=success_loss)
    stage.log.info(
        f"from {trained_on} to {other} the policy loses {100 * success_loss:.1f} points "
        f"over {config.episodes} episodes"
    )


def _single_engine(task: Task) -> str | None:
    """Return the reason why a world has no second engine; ``None`` where it has one."""
    if not task.name.startswith("isaac/"):
        return f"{task.name} has one engine"
    if task.physics not in _OTHER:
        return f"{task.physics} shares a process with no other engine"
    return None


def _write(metrics: dict[str, Any]) -> None:
    """Write the same numbers for ``dvc metrics`` and, for the report, beside the evaluations."""
    TRANSFER.mkdir(parents=True, exist_ok=True)
    durable.write_json(TRANSFER / "drop.json", metrics)
    durable.write_json(METRICS / "transfer.json", metrics)


if __name__ == "__main__":
    main(
        "transfer",
        transfer,
        sections=("run", "task", "evaluate", "transfer"),
        inputs=(BASE, STEERING / POLICY),
        world=True,
    )
