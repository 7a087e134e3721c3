"""Stage ``evaluate``: both steered policies, judged by the very episodes the base policy was judged by."""

from __future__ import annotations

import torch

from pipelines.evaluate_base import judge, metrics
from pipelines.stage import BASE, METRICS, STEERING, Stage, main
from zprl import durable
from zprl.rl.bundle import load_steered

POLICIES = {
    "latent": ("finetune_sim.json", "sim.json"),
    "action_residual": ("finetune_action_residual.json", "action_residual.json"),
}
"""Policy to the file that says what its training cost and the metrics file to write."""


def evaluate(stage: Stage) -> None:
    """Judge, and write ``metrics/sim.json`` and ``metrics/action_residual.json``."""
    torch.set_num_threads(stage.params.run.threads)
    for name, (cost_file, metrics_file) in POLICIES.items():
        steered = load_steered(STEERING / name, BASE, device=stage.params.run.device)
        found = judge(stage, name, steered.act, steered.policy)
        cost = durable.read_json(METRICS / cost_file)
        value = metrics(stage, found, **{key: cost[key] for key in ("env_steps", "chunk_steps", "wall_s")})
        durable.write_json(METRICS / metrics_file, value)


if __name__ == "__main__":
    main("evaluate", evaluate, sections=("run", "task", "evaluate"), inputs=(BASE, *(STEERING / name for name in POLICIES)))
