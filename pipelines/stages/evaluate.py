"""Stage ``evaluate``: steered policies, judged by the very episodes the base policy was judged by.

``python -m pipelines.stages.evaluate`` judges both; names behind it choose.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

import torch

from pipelines.stages.evaluate_base import judge, metrics
from pipelines.stages.stage import BASE, METRICS, STEERING, Stage, main
from zprl import durable
from zprl.rl.steering_bundle import load_steered

POLICIES = {
    "finetune_sim": ("finetune_sim.json", "sim.json"),
    "action_residual": ("finetune_action_residual.json", "action_residual.json"),
}
"""Policy to the file with the cost of its training, and to the metrics file to write."""


def evaluate(stage: Stage, names: Iterable[str] = POLICIES) -> None:
    """Judge the named policies and write the metrics file of each."""
    torch.set_num_threads(stage.params.run.threads)
    for name in names:
        cost_file, metrics_file = POLICIES[name]
        steered = load_steered(STEERING / name, BASE, device=stage.params.run.device)
        evaluation = judge(stage, name, steered.act, steered)

        cost = durable.read_json(METRICS / cost_file)
        value = metrics(
            stage,
            evaluation,
            env_steps=cost["env_steps"],
            decisions=cost["chunk_steps"],
            wall_s=cost["wall_s"],
        )
        durable.write_json(METRICS / metrics_file, value)


if __name__ == "__main__":
    chosen = [name for name in POLICIES if name in sys.argv[1:]] or list(POLICIES)
    inputs = (BASE, *(STEERING / name for name in chosen))
    main(
        "evaluate",
        lambda stage: evaluate(stage, chosen),
        sections=("run", "task", "evaluate"),
        inputs=inputs,
        world=True,
    )
