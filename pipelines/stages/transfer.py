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
from zprl.config import Engine
from zprl.evaluation.intervals import mcnemar
from zprl.rl.steering_bundle import load_steered

POLICY = "latent"
_OTHER: dict[Engine, Engine] = {"ovphysx": "newton", "newton": "ovphysx"}


def transfer(stage: Stage) -> None:
    """Judge on both engines and write ``metrics/transfer.json``.

    It holds both rates, the drop, and the p-value of McNemar's test of equal success.
    """
    params = stage.params
    torch.set_num_threads(params.run.threads)
    if not params.task.name.startswith("isaac/"):
        stage.say(f"{params.task.name} has one engine: nothing to compare")
        _write({"policy": POLICY, "engines": []})
        return

    home = params.task.physics
    if home not in _OTHER:
        stage.say(f"{home} shares a process with no other engine: nothing to compare")
        _write({"policy": POLICY, "engines": []})
        return

    other = _OTHER[home]
    steered = load_steered(STEERING / POLICY, BASE, device=params.run.device)
    update = {"episodes": params.transfer.episodes, "video_episodes": 0}
    config = params.evaluate.model_copy(update=update)
    evaluations = {}
    for engine in (home, other):
        task = params.task.model_copy(update={"physics": engine})
        evaluations[engine] = judge(
            stage, engine, steered.act, steered, config=config, task=task, within=TRANSFER
        )

    # The starts are paired, and so is the test.
    pair = mcnemar(evaluations[home].success, evaluations[other].success)
    rates: dict[str, Any] = {
        engine: {key: each.summary()[key] for key in ("success_rate", "ci_low", "ci_high")}
        for engine, each in evaluations.items()
    }
    drop = {"episodes": config.episodes, "drop": -pair.difference, "p_value": pair.p_value}
    _write({"policy": POLICY, "engines": [home, other], **rates, **drop})
    stage.tracker.log(0, drop=-pair.difference)
    stage.say(
        f"from {home} to {other} the policy loses {-100 * pair.difference:.1f} points "
        f"over {config.episodes} episodes"
    )


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
